//! The engine on stores in memory and on disk, over a simulated world.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod bench;
mod embedded;
mod jobs;
mod shared;
mod standing;
mod steering;
mod workers;
