//! Integration tests against memory, a local folder and a real S3 server with a fault-injecting proxy in front.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod conformance;
mod faults;
mod place;
mod reading;
mod transfers;
