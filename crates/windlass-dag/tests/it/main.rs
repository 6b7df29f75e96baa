//! The dag kind, from a spec to what is there in the end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod matrix;
mod peer;
mod rig;
mod runs;
mod specs;
