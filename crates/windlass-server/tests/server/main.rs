//! The server over real connections.

mod access;
mod client;
mod hooks;
mod jobs;
mod kind;
mod pages;
mod schedules;
mod stand;
mod streams;
mod tls;
mod wire;
