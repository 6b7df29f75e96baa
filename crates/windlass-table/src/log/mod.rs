//! The ingest log of a shard: batches that are durable and not yet in the table.
//!
//! One process writes ([`Writer`]), any may read ([`Reader`]). A reader makes what it has read durable before it
//! counts, so that no number that a run has seen is ever given to another batch.

pub(crate) mod frame;
mod reader;
mod repair;
pub(crate) mod segment;
mod senders;
mod writer;

pub use reader::{Kept, Reader, trim};
pub use repair::{Repaired, repair};
pub use segment::{Identity, Lsn};
pub use writer::{Appended, Limits, Writer};
