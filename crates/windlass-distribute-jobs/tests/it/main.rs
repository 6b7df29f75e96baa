//! Controllers over nodes that are played in this process, and that can lie.

#![expect(clippy::unwrap_used, reason = "tests say where they break")]

mod faults;
mod kills;
mod matrix;
mod node;
mod old_agents;
mod rig;
mod rounds;
