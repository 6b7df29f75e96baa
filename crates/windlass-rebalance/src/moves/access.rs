//! What the moves need from backups; another part of the crate reads them.

use async_trait::async_trait;
use jiff::Timestamp;
use windlass_engine::context::TaskContext;
use windlass_model::Failure;

use crate::journal::JournalWriter;

use super::input::BackupRef;

/// An id that a backup is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedUpId {
    /// The id.
    pub id: Box<[u8]>,
    /// The version that is wanted, Unix nanoseconds; an older one does not count, one without a time (0) does.
    pub time: i64,
}

/// Whether an agent's backup has what was copied to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupState {
    /// The backup is not newer than the save yet. It is asked for again.
    NotYet,
    /// A newer backup has every id.
    Holds,
    /// A newer backup lacks these, by their position in what was asked for.
    Lacks(Vec<usize>),
}

/// A vector that is to be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedVector {
    /// Object number in the backup.
    pub number: u32,
    /// Place in the chunk, for [`JournalWriter::append`].
    pub place: u32,
    /// The id.
    pub id: Box<[u8]>,
    /// Its time in the backup, Unix nanoseconds; at least 1.
    pub time: i64,
}

/// Access to the backups of a cluster's agents. `A` is the attempt that asks.
#[async_trait]
pub trait BackupAccess<A = TaskContext>: Send + Sync {
    /// Whether the backup of `agent` is newer than `saved_at` and its id map holds `ids`.
    ///
    /// # Errors
    ///
    /// The backup cannot be read, or the attempt shall stop.
    async fn holds(&self, cx: &A, agent: &str, saved_at: Timestamp, ids: &[BackedUpId])
    -> Result<BackupState, Failure>;

    /// Appends the vectors of `wanted` that `backup` has to `into`, in any order, and gives `into` back. What the
    /// backup lacks is left out.
    ///
    /// # Errors
    ///
    /// The backup cannot be read or is not the version that was planned with, or the attempt shall stop.
    async fn restore(
        &self,
        cx: &A,
        backup: &BackupRef,
        wanted: Vec<WantedVector>,
        into: JournalWriter,
    ) -> Result<JournalWriter, Failure>;
}

/// For jobs that need nothing from backups while moving.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoBackups;

#[async_trait]
impl<A: Sync> BackupAccess<A> for NoBackups {
    async fn holds(&self, _: &A, agent: &str, _: Timestamp, _: &[BackedUpId]) -> Result<BackupState, Failure> {
        Err(none(agent))
    }

    async fn restore(
        &self,
        _: &A,
        backup: &BackupRef,
        _: Vec<WantedVector>,
        _: JournalWriter,
    ) -> Result<JournalWriter, Failure> {
        Err(none(&backup.agent))
    }
}

fn none(agent: &str) -> Failure {
    Failure::permanent("no_backups", format!("the backup of {agent} is needed, but the job has no place of backups"))
        .hint("set backups in the job file")
}
