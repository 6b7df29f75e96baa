//! Tables of events in day partitions, and the late rows that belong into them.
//!
//! A *table* ([`Table`]) is Parquet files in one partition a day, and the log of versions that says which files count, in
//! the format of Delta Lake ([`delta`]). Rows arrive in batches ([`Batch`]) and are durable in the ingest log of a shard
//! ([`log`]) before anybody is answered. A *run* ([`run`]) merges what lies behind the table's checkpoint into the days
//! it belongs to, in one commit that carries the next checkpoint: nothing else records progress, so that whatever dies,
//! no row is lost and none counts twice.
//!
//! At each version, with the checkpoint `c` and the cutoff `C` that it carries, the table is what comes of all rows of
//! the log up to `c` that happened before `C`. Rows behind `c` wait to be merged, rows at or after `C` to be archived.
//!
//! * [`check`] and [`fold`] are the rules, as pure functions: what becomes of a row, and what it makes of the row before.
//! * [`merge`] brings a day's files and its rows together. It reads the keys first, then what they hit, and writes
//!   only when something changes. It holds the rows to merge, or as many of them as memory shall, and one batch of each
//!   file.
//! * [`compact`], [`retain`] and [`vacuum`] keep a table small; [`pins`] hold what readers need for longer.
//! * [`scan`] reads a table, with what still waits in the logs; [`query`] some of its columns and rows, in any order.

#![deny(missing_docs)]

pub mod batch;
pub mod canonical;
pub mod cell;
mod changes;
pub mod check;
mod clean;
pub mod column;
pub mod compact;
mod crowd;
pub mod day;
pub mod definition;
pub mod delta;
mod dropped;
mod edits;
pub mod error;
pub mod expire;
pub mod fold;
pub mod home;
pub mod import;
mod keys;
pub mod late;
pub mod log;
pub mod merge;
mod outcome;
mod output;
mod parts;
mod past;
pub mod patch;
pub mod pins;
pub mod plan;
mod probe;
pub mod query;
pub mod retain;
pub mod rows;
pub mod run;
pub mod scan;
pub mod source;
mod splice;
pub mod vacuum;

pub use batch::{Batch, Mode, Sender};
pub use day::Day;
pub use definition::{Definition, Layout, Uniqueness};
pub use error::{Result, TableError};
pub use home::{Creation, Table};
pub use output::Written;
pub use parts::{FIXED as MERGE_FIXED, PER_BYTE as MERGE_PER_BYTE};
pub use probe::BaseFile;
