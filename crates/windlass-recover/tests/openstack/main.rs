//! Recoveries between two sites of real OpenStack services.
//!
//! `WINDLASS_OPENSTACK` names the folder of a lab that is up; `cargo xtask test --openstack` sees to it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests say where they break, and print what they measured"
)]

mod group;
mod lab;
mod recovery;
