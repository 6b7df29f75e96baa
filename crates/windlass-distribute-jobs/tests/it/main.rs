//! Controllers over nodes that are played in this process, and that can lie.

#![expect(clippy::unwrap_used, reason = "tests say where they break")]

mod faults;
mod image;
mod inputs;
mod kills;
mod matrix;
mod metrics;
mod node;
mod old_agents;
mod pace;
mod patience;
mod real;
mod rig;
mod rounds;
mod tls;
