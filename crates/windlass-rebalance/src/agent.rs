//! Talks to the agents of a cluster, each directly: one client per agent, bounded, patient, and told apart by what
//! their release can do.
//!
//! [`AgentClient`] is the connection and what has been learnt about the agent; [`AgentClient::within`] binds it to
//! an attempt of a task, and the methods of [`AgentCalls`] are the requests. They repeat what may pass by itself
//! with growing waits, so that a caller sees definite answers only.

mod answer;
mod attempt;
mod calls;
mod client;

pub use answer::{CallError, classify};
pub use attempt::Attempt;
pub(crate) use calls::Cause;
pub use calls::{AgentCalls, CommitAnswer, InsertAnswer, RemoveAnswer, StoredVector, UpdateAnswer};
pub(crate) use client::endpoint;
pub use client::{AgentClient, ClientSettings, ConnectError, FAILURES_IN_A_ROW};
