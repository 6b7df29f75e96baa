//! The kind `distribute`: a standing job that keeps the right files on the right servers.
//!
//! What belongs where is decided by `windlass-distribute`; here is everything around it that touches the outside.
//!
//! * `spec` is what people write, `feeds` and `pace` are parts of it; [`import`] makes it of the old controller's file.
//! * `keeper` looks after nodes and inputs between rounds, `inputs` reads the latter when `changes` rings, `agent` makes
//!   the calls.
//! * `state` is what is known, `memory` what is kept of it on disk, `plan` makes orders of it, `round` tasks of those.
//! * `copy`, `delete` and `legacy` are the tasks. Each asks once more, right before it acts, whether what it was decided
//!   on is still so.
//! * `board` answers old agents and people at the `door`, `pages` is what people see, `status` what the job's page draws.

mod agent;
pub mod ask;
mod board;
mod changes;
mod client;
mod copy;
mod delete;
mod door;
mod feeds;
mod holder;
pub mod import;
mod inputs;
mod keeper;
mod kind;
mod legacy;
mod memory;
pub mod metrics;
mod order;
mod pace;
mod pages;
mod plan;
mod round;
mod spec;
mod state;
mod status;
mod tally;

pub use door::ListenTls;
pub use feeds::{Inputs, OriginFolders};
pub use kind::DistributeKind;
pub use pace::Bandwidth;
pub use spec::{DistributeSpec, Node, Profile, SecretFrom, Serves, Tls, Watch, Wire};

/// The task that has a node fetch a file.
const COPY: &str = "distribute.copy";
/// The task that has an old agent fetch a file.
const COPY_LEGACY: &str = "distribute.copy_legacy";
/// The task that deletes a file on a node.
const DELETE: &str = "distribute.delete";
