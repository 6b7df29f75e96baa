//! Recoveries between two simulated sites.

mod drill;




mod rig;
