//! The rebalance kind: evens out, drains and recovers the agents of a vector index cluster.
//!
//! A vector database of the Vald kind keeps vectors in memory on many agents. New ones are spread over them, and
//! nothing moves them afterwards. This kind reads the agents' id lists out of their index backups in object storage,
//! works out what has to go where, and moves it through the agents' API without ever losing a vector.
//!
//! ```text
//!   configure ─▶ scan (one per agent) ─▶ calculate ─▶ move (one per chunk) ─▶ sweep, retire ─▶ finish
//!   who, how many    download, unpack,     the plan      copy, verify, commit,    drained agents,  counts,
//!   whether at all   decode, sort                        check, remove, audit     old backups      report
//! ```
//!
//! * [`spec`] is what people write, [`kind`] what the engine sees.
//! * [`configure`], [`scan`], [`plan_task`], [`sweep`], [`retire`], [`finish`] are the tasks before and after the
//!   moves; each adds the next ones in the transaction that completes it.
//! * [`calculate`] is the planner: pure, streaming, deterministic. It knows no agent and no file.
//! * [`moves`] carries out one chunk, with [`journal`] for vectors under way.
//! * [`agent`] and [`discover`] talk to agents; [`backups`] to object storage.
//!
//! **Invariants.** Tasks up to the plan change nothing outside. Memory is bounded by the spec, whatever a backup
//! holds. A plan made with incomplete knowledge is refused. The report's numbers add up.

pub mod agent;
pub mod backups;
pub mod calculate;
pub mod configure;
mod copies;
pub mod discover;
pub mod finish;
mod history;
pub mod journal;
pub mod kind;
pub mod moves;
mod patience;
pub mod plan_task;
mod report;
pub mod retire;
pub mod scan;
pub mod spec;
pub mod sweep;

pub use kind::RebalanceKind;
pub use spec::RebalanceSpec;
