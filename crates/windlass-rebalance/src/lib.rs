//! The rebalance kind: evens out, drains and recovers the agents of a vector index cluster.

pub mod calculate;
