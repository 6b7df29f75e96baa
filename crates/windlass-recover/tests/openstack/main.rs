//! Recoveries between two sites of real OpenStack services.
//!
//! `WINDLASS_OPENSTACK` names the folder of a lab that is up; `cargo xtask test --openstack` sees to it.

#![expect(clippy::unwrap_used, reason = "tests say where they break")]

mod group;
mod image;
mod lab;
mod recovery;
mod rig;
