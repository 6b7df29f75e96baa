//! The store keeps the contract on real etcd servers, through everything that happens to them.

mod access;
mod cluster;
mod contract;
mod pool;
mod quota;
mod recorded;
mod relay;
mod watching;
mod writer;
