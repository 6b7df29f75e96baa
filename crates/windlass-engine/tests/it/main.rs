//! The engine on stores in memory, on disk and in an etcd, over a simulated world.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod bench;
mod embedded;
mod format;
mod jobs;
mod reconcile;
mod shared;
mod standing;
mod steering;
mod stores;
mod workers;
