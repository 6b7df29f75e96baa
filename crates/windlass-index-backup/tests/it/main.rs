//! Tests over whole backups: real fixtures, round trips, hostile input.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail like the test itself")]

mod fixtures;
mod hostile;
mod memory;
mod round_trip;
