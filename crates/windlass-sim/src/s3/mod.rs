//! A real S3 server inside the process, and a proxy in front of it that injects faults and records requests.
//!
//! [`S3Server`] speaks the S3 protocol over a plain folder, with signatures checked, on a loopback port of its
//! own. [`FaultProxy`] forwards HTTP/1.1 to it (or to any other plain HTTP server) and does, request by request,
//! what a [`Script`] says: cut, delay, hang, refuse, damage, throttle, or change something under way.
//!
//! Both run on threads of their own, so a test may pause its own tokio time, block, or be no async test at all.

mod body;
mod fault;
mod proxy;
mod server;

pub use fault::{Fault, Script, Seen, Traffic, UnknownFault};
pub use proxy::FaultProxy;
pub use server::{Options, S3Server, serve_until};
