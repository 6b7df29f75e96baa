//! The remote against memory, and against a real S3 server with a fault-injecting proxy in front.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod crash;
mod faults;
mod folder;
mod garbage;
mod round_trip;
mod seed_names;
mod sharing;
mod world;
