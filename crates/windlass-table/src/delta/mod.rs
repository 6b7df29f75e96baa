//! The table's own log in the format of Delta Lake: which files are the table, and how far each job has come.
//!
//! Written here rather than taken from a crate: of the protocol a table of ours needs one reader and writer version, a
//! listing, one conditional write and a small Parquet file now and then, while `delta_kernel` brings 43 crates, an
//! engine interface of its own beside our object storage, and binds the version of Arrow. [`TableLog`] is the whole
//! surface, so that either it or another format can take this place.

mod action;
mod checkpoint;
mod commit;
pub(crate) mod log;
mod stats;
pub(crate) mod vector;

pub use action::{Action, Add, CommitInfo, DeletionVector, Metadata, Protocol, Remove, Txn};
pub use commit::{Base, Outcome, commit_run};
pub use log::{DeltaLog, Snapshot, TableLog};
pub use stats::Stats;
pub use vector::Deleted;

pub(crate) use log::DEFINITION;
pub(crate) use stats::group_bounds;
