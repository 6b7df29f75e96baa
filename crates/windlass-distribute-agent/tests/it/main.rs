//! An agent as controllers, other agents and old programs see it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall end where it stands")]

mod disk;
mod kills;
mod limits;
mod node;
mod old_controller;
mod old_paths;
mod program;
mod serving;
mod source;
mod tls;
mod transfers;
