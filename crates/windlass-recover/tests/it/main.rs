//! Recoveries between two simulated sites.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests say where they break, and print their tables")]

mod blob;
mod blob_matrix;
mod daily;
mod drill;
mod existing;
mod faults;
mod images;
mod many;
mod matrix;
mod migration;
mod plans;
mod relay;
mod rig;
mod scale;
mod sharing;
mod steps;
mod stop;
mod taken;
mod types;
