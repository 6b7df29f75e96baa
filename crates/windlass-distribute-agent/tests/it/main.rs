//! An agent as controllers, other agents and old programs see it.

mod disk;
mod kills;
mod node;
mod old_controller;
mod old_paths;
mod program;
mod serving;
mod source;
mod transfers;
