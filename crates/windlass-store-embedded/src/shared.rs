//! What the handles, the writer thread and the watchers of one open store share.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::oneshot;
use windlass_clock::SharedClock;
use windlass_store::changes::ChangeLog;
use windlass_store::leases::LeaseTable;
use windlass_store::{StoreError, Txn};

use crate::queue::Queue;
use crate::reader::Readers;
use crate::writer::Work;

/// Weight of the requests that may wait for the writer: so many small ones, or 64 MiB of large ones.
const QUEUE_ROOM: usize = 4096;
/// A request weighs one, and one more for each of these bytes.
const BYTES_PER_WEIGHT: usize = 16 * 1024;

/// The shared parts of one open store.
pub(crate) struct Core {
    pub(crate) file: PathBuf,
    pub(crate) clock: SharedClock,
    pub(crate) log: ChangeLog,
    pub(crate) queue: Queue<Work>,
    pub(crate) readers: Readers,
    leases: Mutex<LeaseTable>,
    /// Why the store takes no more calls.
    poisoned: OnceLock<String>,
    /// Lets a test fail the next COMMIT as a dying disk does.
    #[cfg(test)]
    pub(crate) fail_commit: std::sync::atomic::AtomicBool,
}

impl Core {
    pub(crate) fn new(file: PathBuf, clock: SharedClock, log: ChangeLog, readers: Readers, leases: LeaseTable) -> Self {
        Self {
            file,
            clock,
            log,
            readers,
            queue: Queue::new(QUEUE_ROOM),
            leases: Mutex::new(leases),
            poisoned: OnceLock::new(),
            #[cfg(test)]
            fail_commit: std::sync::atomic::AtomicBool::new(false),
        }
    }

    pub(crate) fn leases(&self) -> MutexGuard<'_, LeaseTable> {
        // The table's own calls do not panic, so it is whole.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all work with the store: what it holds in memory may differ from what is on disk.
    pub(crate) fn poison(&self, why: &str) {
        let why = format!("{}: {why}; restart, the store then reads what is really on the disk", self.file.display());
        tracing::error!(%why, "the state store stops");
        let why = self.poisoned.get_or_init(|| why);
        self.log.close(StoreError::Unusable(why.clone()));
    }

    /// Refuses the call when the store is poisoned.
    pub(crate) fn ensure_sound(&self) -> Result<(), StoreError> {
        self.poisoned.get().map_or(Ok(()), |why| Err(StoreError::Unusable(why.clone())))
    }

    /// The failure that a test wants the present COMMIT to report.
    #[cfg(test)]
    pub(crate) fn injected_commit_failure(&self) -> rusqlite::Result<()> {
        if self.fail_commit.load(std::sync::atomic::Ordering::Relaxed) {
            let sync_failed = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
            return Err(rusqlite::Error::SqliteFailure(sync_failed, None));
        }
        Ok(())
    }

    /// Hands work to the writer and waits for its answer.
    pub(crate) async fn ask<T>(
        &self,
        weight: u32,
        work: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Work,
    ) -> Result<T, StoreError> {
        self.ensure_sound()?;
        let (answer, answered) = oneshot::channel();
        if self.queue.push(weight, work(answer)).await.is_err() {
            self.ensure_sound()?;
            return Err(StoreError::Closed);
        }
        answered.await.unwrap_or_else(|_| Err(StoreError::Unknown("the writer thread ended without an answer".into())))
    }

    /// Ends the leases that have run out by now, so that nobody sees a key whose lease is over.
    pub(crate) async fn end_due_leases(&self) -> Result<(), StoreError> {
        self.ensure_sound()?;
        let now = self.clock.monotonic();
        if !self.leases().is_due(now) {
            return Ok(());
        }
        self.ask(1, |answer| Work::EndDue { now, answer }).await
    }
}

/// What a transaction takes of the queue's room.
pub(crate) fn weight(txn: &Txn) -> u32 {
    u32::try_from(1 + txn.bytes() / BYTES_PER_WEIGHT).unwrap_or(u32::MAX)
}
