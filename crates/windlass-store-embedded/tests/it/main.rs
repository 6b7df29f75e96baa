//! The embedded store keeps the contract, on a real disk, across processes and crashes.

mod contract;
mod crash;
mod files;
