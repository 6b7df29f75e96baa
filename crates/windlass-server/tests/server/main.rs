//! The server over real connections.

#![allow(clippy::unwrap_used, reason = "tests: a panic is how they fail")]

mod access;
mod client;
mod hooks;
mod jobs;
mod kind;
mod pages;
mod rows;
mod schedules;
mod stand;
mod streams;
mod tls;
mod traces;
mod wire;
