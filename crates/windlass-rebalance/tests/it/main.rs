//! The kind as a whole, on a real engine, against a stand-in cluster and real object storage.

#![allow(
    missing_docs,
    clippy::needless_pass_by_value,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests read better so, and what they share is test code too"
)]

mod backups;
mod faults;
mod jobs;
mod matrix;
mod rig;
mod stages;
