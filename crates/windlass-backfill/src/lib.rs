//! The kind `backfill`: late rows into the archived days they belong to.
//!
//! ```text
//! plan ──► merge(day 1) ─┐
//!      ├─► merge(day 2) ─┼─► commit ──► trim ──► plan, if more waits
//!      └─► merge(day n) ─┘
//! ```
//!
//! What the tasks do is [`windlass_table::run`]; this crate gives it to the engine. Only `commit` changes the table, and
//! the commit carries the checkpoint. So every task may run again, anywhere, at any time, and two jobs on one shard do
//! no harm: one commit wins, and the other finds that out and plans anew or is done.

#![deny(missing_docs)]

mod kind;
mod spec;
mod tasks;

pub use kind::BackfillKind;
pub use spec::{Action, BackfillSpec};
