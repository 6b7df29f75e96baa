//! The agent of a node: it lists, serves, fetches and deletes the files of one folder for a controller.
//!
//! | module | |
//! |---|---|
//! | [`agent`] | everything put together |
//! | [`config`], [`old_config`] | what it is told, also by the configuration of the old agents |
//! | [`hourly`] | how fast at which hours |
//! | `folder` | the folder: names resolved within it, one version deleted, copies published by a rename |
//! | `serve` | connections and answers, on the new paths and on the old ones |
//! | `metrics` | what is counted |
//! | `credentials` | whom the agent believes, and what it shows |
//! | `transfer` | what is fetched: resumable, hashed, durable |
//! | `old_controller` | asking an old controller for tasks |
//!
//! Nobody ever sees half a file under its public name: a copy grows in `temp.downloaded` and gets its name, once it is
//! whole and on disk, by a rename that replaces nothing. Every order is on disk before it is answered; what was under
//! way when a process ended goes on in the next one from the last good part.

pub mod agent;
pub mod config;
mod credentials;
mod folder;
pub mod hourly;
mod metrics;
pub mod old_config;
mod old_controller;
mod serve;
mod transfer;

pub use agent::{Agent, AgentError, Listening};
pub use config::AgentConfig;
