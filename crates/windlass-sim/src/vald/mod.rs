//! A stand-in Vald cluster that speaks real gRPC.
//!
//! Agents behave as released ones do, down to the corners of their queues: see [`AgentState`], which is the whole of an
//! agent without its network. Around it are servers on loopback, a discoverer, a gateway, backups, crashes, planted
//! faults, and an observer that notices any moment at which a copy was missing.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use windlass_sim::vald::{Cluster, Fault, Method};
//!
//! let cluster = Cluster::builder().agents(3).replica(2).ids(300).skew(1.0).seed(7).start().await?;
//! cluster.write_backups_to("backups".as_ref())?;
//! cluster.watch_copies(true);
//! // The fifth remove is done, but its answer is lost.
//! cluster.inject(2, Fault::on(Method::Remove).nth(5).after());
//! // … move vectors …
//! assert_eq!(cluster.violations(), []);
//! # Ok(())
//! # }
//! ```
//!
//! # How it is built
//!
//! All agents are behind one lock (`World`). Every change of any agent is one step under it, and the observer and
//! the record are part of the step. What takes time (builds, planted delays, hanging) waits outside.
//!
//! A crash raises the agent's generation. Work that began before carries the old one and is refused, so that no
//! request is done by an agent that was down in between.

mod archive;
mod builder;
mod cluster;
mod connections;
mod faults;
mod gateway;
mod host;
pub mod ids;
mod index;
mod method;
mod node;
mod options;
mod service;
mod state;
mod watch;
mod world;

pub use archive::ArchiveOptions;
pub use builder::{ClusterBuilder, Irregularities, Oddity};
pub use cluster::{Addresses, AgentAddress, Cluster};
pub use faults::{Action, Fault};
pub use host::host;
pub use ids::{Id, IdStyle, Vector};
pub use index::{Entry, Index};
pub use method::Method;
pub use node::Uploader;
pub use options::{AgentOptions, Release, Stored};
pub use state::{AgentState, Build, Comparison, Counts, Refusal, Save};
pub use watch::{Breach, Violation};
pub use windlass_index_backup::Compression;
pub use windlass_index_backup::Layout;
pub use world::{Mutation, Placement};

#[cfg(test)]
mod tests;
