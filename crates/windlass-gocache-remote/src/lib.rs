//! The remote of the Go build cache.

mod id;
mod local;

pub use id::{ActionId, Entry, OutputId};
pub use local::{Incoming, LocalOutputs};
