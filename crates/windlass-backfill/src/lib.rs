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

mod figures;
pub mod ingest;
mod kind;
mod memory;
mod shard;
mod spec;
mod standing;
mod summary;
mod tasks;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use windlass_model::JobId;
use windlass_table::run::Order;

pub use figures::Figures;
pub use kind::BackfillKind;
pub use memory::{Memory, Share};
pub use spec::{Action, BackfillSpec, Keep};

/// What all jobs of this kind in a process share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) figures: Arc<Figures>,
    pub(crate) keepers: standing::Keepers,
    memory: Memory,
    /// Of jobs that say themselves how much they may have.
    own: Mutex<HashMap<JobId, Memory>>,
}

/// Jobs with memory of their own that are remembered at a time.
const OWN: usize = 64;

impl Shared {
    fn new(figures: Arc<Figures>) -> Self {
        let memory = Memory::new(memory::DEFAULT, figures.clone());
        Self { figures, keepers: standing::Keepers::default(), memory, own: Mutex::default() }
    }

    /// The memory that a job's tasks share in this process.
    pub(crate) fn memory(&self, job: JobId, limit: Option<u64>) -> Memory {
        let Some(limit) = limit else { return self.memory.clone() };
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.len() >= OWN && !own.contains_key(&job) {
            own.retain(|_, memory| memory.is_held());
        }
        own.entry(job).or_insert_with(|| Memory::new(limit, self.figures.clone())).clone()
    }
}

/// Memory that planning needs: the largest batch that a log has, as it lies there and in columns, and the rows that are
/// held until they are written to their days.
const PLAN: u64 = 2 * windlass_table::batch::LARGEST as u64 + (32 << 20);
/// Most memory that is set aside for merging a day. A day with more to merge is merged in parts.
const MERGE: u64 = 192 << 20;

/// Memory that planning needs.
pub(crate) fn plan_needs(_: &Order) -> u64 {
    PLAN
}

/// Memory that merging a day gets at best, by the size of its rows to merge. It keeps within what it gets.
pub(crate) fn merge_needs(patch_bytes: u64) -> u64 {
    patch_bytes.saturating_mul(windlass_table::MERGE_PER_BYTE).saturating_add(windlass_table::MERGE_FIXED).min(MERGE)
}

/// Memory that this process has, as far as its system says.
pub(crate) fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}
