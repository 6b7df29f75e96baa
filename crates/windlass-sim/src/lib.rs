//! Simulated time, network, stores that fail, and stand-ins of remote systems, for tests and the demo.

#[cfg(feature = "s3")]
pub mod s3;
#[cfg(feature = "vald")]
pub mod vald;
