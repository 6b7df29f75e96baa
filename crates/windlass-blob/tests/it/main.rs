//! Integration tests against memory, a local folder and a real S3 server with a fault-injecting proxy in front.

mod conformance;
mod faults;
mod place;
mod reading;
mod transfers;
