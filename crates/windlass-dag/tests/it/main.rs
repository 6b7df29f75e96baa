//! The dag kind, from a spec to what is there in the end.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests say where they break, and print their tables")]

mod matrix;
mod peer;
mod rig;
mod runs;
mod specs;
