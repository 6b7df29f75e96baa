//! Plans are made for small clusters in memory, applied to them step by step, and looked at.

mod examples;
mod placement;
mod properties;
mod refusals;
mod volume;
