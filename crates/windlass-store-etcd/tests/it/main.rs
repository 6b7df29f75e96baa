//! The store keeps the contract on real etcd servers, through everything that happens to them.

mod contract;
mod pool;
