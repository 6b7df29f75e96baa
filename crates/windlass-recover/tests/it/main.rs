//! Recoveries between two simulated sites.

mod drill;
mod faults;
mod matrix;
mod migration;
mod plans;
mod rig;
mod scale;
