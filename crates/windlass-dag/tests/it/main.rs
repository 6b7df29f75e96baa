//! The dag kind, from a spec to what is there in the end.

mod matrix;
mod peer;
mod rig;
mod runs;
mod specs;
