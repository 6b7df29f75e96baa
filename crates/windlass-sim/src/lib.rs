//! Simulated time, network, stores that fail, and stand-ins of remote systems, for tests and the demo.
//!
//! * [`world`] is a small outside world and a kind of job that changes it.
//! * [`hostile`] is a store that is slow, away, or silent about what it did.
//! * [`simulation`] runs real engines against both, from a seed, and checks the invariants after each step.
//! * [`matrix`] repeats a run once for every point at which it can be killed.

#[cfg(feature = "etcd")]
pub mod etcd;
pub mod hostile;
pub mod invariants;
pub mod keeper;
pub mod matrix;
#[cfg(feature = "s3")]
pub mod s3;
pub mod sharing;
pub mod simulation;
pub mod standing;
#[cfg(feature = "vald")]
pub mod vald;
pub mod world;
