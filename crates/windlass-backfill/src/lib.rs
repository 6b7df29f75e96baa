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

use windlass_blob::{Context, Environment, Settings};
use windlass_clock::{SharedClock, SharedEntropy};
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
    /// Where credentials come from.
    environment: Environment,
    /// How patient stores are.
    settings: Settings,
    memory: Memory,
    /// By job: its part of that, or memory of its own if it says itself how much it may have.
    jobs: Mutex<HashMap<JobId, Memory>>,
}

/// Jobs whose memory is remembered at a time, beside those that hold some.
const JOBS: usize = 64;

impl Shared {
    fn new(figures: Arc<Figures>, environment: Environment, settings: Settings) -> Self {
        let memory = Memory::new(memory::DEFAULT, figures.clone());
        Self { figures, keepers: standing::Keepers::default(), environment, settings, memory, jobs: Mutex::default() }
    }

    /// What stores need around them.
    pub(crate) fn context(&self, clock: SharedClock, entropy: SharedEntropy) -> Context {
        Context::process(clock, entropy).with_environment(self.environment.clone()).with_settings(self.settings)
    }

    /// The memory that a job's tasks share in this process.
    pub(crate) fn memory(&self, job: JobId, limit: Option<u64>) -> Memory {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() >= JOBS && !jobs.contains_key(&job) {
            jobs.retain(|_, memory| memory.is_held());
        }
        let fresh =
            || limit.map_or_else(|| self.memory.with_account(), |limit| Memory::new(limit, self.figures.clone()));
        jobs.entry(job).or_insert_with(fresh).clone()
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
