//! The embedded state store of Windlass: one SQLite file, one writer, group commit.
//!
//! # How to use it
//!
//! [`EmbeddedStore::open`] takes hold of a folder and opens or creates the state in it. One process holds a
//! folder at a time; others read it with [`EmbeddedStore::read_only`] or learn from [`holder`] whom to talk
//! to. [`EmbeddedStore::close`] ends in an orderly way, and so does dropping the store.
//!
//! # How it works
//!
//! ```text
//!  callers --commit--> bounded queue --> writer thread --BEGIN, n transactions, COMMIT (fsync)--> state.db-wal
//!     ^                                     |   |                                                    |
//!     +------------- answers ---------------+   +--> change log --> watchers        checkpoint thread --> state.db
//!     +---- get, scan: reading connections, each at its own snapshot of state.db and state.db-wal
//! ```
//!
//! # Consistency
//!
//! A commit that was answered is on the disk (`synchronous=FULL`) and every later read sees it. A process that
//! is killed at any moment loses no answered commit and leaves no half of one.
//!
//! # Leases
//!
//! Leases live in this process. A lease dies with the process that holds the folder, so opening the folder
//! deletes, as one change, all keys bound to leases of earlier holders. Leases that run out are ended by the
//! next call or by a waiting watcher.
//!
//! # Errors that need a restart
//!
//! When a commit, a sync or a checkpoint fails, or the file turns out to be damaged, the store refuses all
//! further calls with [`StoreError::Unusable`]: after a failed sync nobody can tell what is on the disk but
//! somebody who opens the file anew. The callers whose commit it was get [`StoreError::Unknown`]. Nothing is
//! ever wiped or repaired by itself.

mod checkpoint;
mod hold;
mod log_room;
pub mod probe;
mod queue;
mod reader;
mod schema;
mod shared;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use windlass_clock::SharedClock;
use windlass_store::changes::ChangeLog;
use windlass_store::leases::LeaseTable;
use windlass_store::{Change, Committed, Entry, LeaseId, Page, Revision, Scan, Store, StoreError, Txn, Watch, budget};

use crate::checkpoint::Checkpoints;
use crate::hold::Hold;
use crate::reader::Readers;
use crate::shared::Core;
use crate::writer::Work;

pub use crate::hold::{Holder, LOCK_FILE, holder};
pub use crate::schema::DATABASE_FILE;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The clock that leases run by.
    pub clock: SharedClock,
    /// What other processes are told about this one; by default its command line.
    pub command: Option<String>,
    /// Where this process can be talked to, if it serves. [`EmbeddedStore::set_address`] sets it later.
    pub address: Option<String>,
    /// Most bytes of the database file, in steps of 4 KiB; at the limit commits that need more are refused
    /// with [`StoreError::Unavailable`]. `None`: as much as the disk holds.
    pub max_bytes: Option<u64>,
}

impl Options {
    /// The usual options.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, command: None, address: None, max_bytes: None }
    }
}

/// The state store in a folder that this process holds.
pub struct EmbeddedStore {
    core: Arc<Core>,
    /// The writer and the checkpoint thread; they end when the store is dropped.
    threads: Vec<JoinHandle<()>>,
    hold: Mutex<Hold>,
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").field("file", &self.core.file).finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Takes hold of the folder `dir`, which is made if needed (mode 0700), and opens or creates the state in it.
    ///
    /// Blocks for some milliseconds; after an unclean stop for as long as it takes to read the whole database
    /// once, which checks it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] when another process holds the folder, with what to do about it;
    /// [`StoreError::Unusable`] when the folder cannot be written, the file is damaged, belongs to another
    /// program, or was written by a newer one.
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        let Options { clock, command, address, max_bytes } = options;
        let hold = Hold::take(dir, Holder::this_process(format!("{:.0}", clock.wall()), command, address))?;
        let file = dir.join(DATABASE_FILE);
        let mut opened = schema::open_to_write(&file, max_bytes)?;
        let revision = writer::drop_leased(&mut opened.connection, &file, opened.revision)?;
        // No id is ever given out twice, so that nobody can mistake a lease of an earlier holder for one of ours.
        let leases = LeaseTable::starting_at((u64::from(opened.opens) << 32) + 1);
        let readers = Readers::new(file.clone());
        let core = Arc::new(Core::new(file, clock, ChangeLog::after(revision), readers, leases));
        let (checkpoints, checkpointer) = Checkpoints::start(Arc::clone(&core))?;
        let shared = Arc::clone(&core);
        let writer = std::thread::Builder::new()
            .name("state-writer".to_owned())
            .spawn(move || writer::run(&shared, opened.connection, &checkpoints))
            .map_err(|error| StoreError::Unavailable(format!("start the writer thread: {error}")))?;
        Ok(Self { core, threads: vec![writer, checkpointer], hold: Mutex::new(hold) })
    }

    /// Opens the state in `dir` for reading, also while another process holds it.
    ///
    /// Sees what that process has committed. Until somebody holds the folder again, keys bound to leases of a
    /// holder that died are still there.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`] when there is no state in `dir` or it cannot be read.
    pub fn read_only(dir: &Path) -> Result<ReadOnlyStore, StoreError> {
        let file = dir.join(DATABASE_FILE);
        if !file.exists() {
            return Err(StoreError::Unusable(format!("there is no state in {}: no {DATABASE_FILE}", dir.display())));
        }
        drop(schema::open_to_read(&file)?);
        Ok(ReadOnlyStore { dir: dir.to_owned(), readers: Readers::new(file) })
    }

    /// Records where this process can be talked to, for those who find the folder held.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`] when the lock file cannot be written.
    pub fn set_address(&self, address: Option<String>) -> Result<(), StoreError> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner).set_address(address)
    }

    /// Writes a copy of the state, as of one moment, to the file `path`, while the store is in use.
    ///
    /// The file appears under its name only when it is complete and on the disk. To restore, put it into an
    /// empty folder as `state.db`. A dropped call goes on in the background.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] when `path` exists or cannot be written.
    pub async fn backup_to(&self, path: &Path) -> Result<(), StoreError> {
        self.core.ensure_sound()?;
        self.core.readers.copy_to(path.to_owned()).await
    }

    /// Bytes that the database and its log take on the disk; 0 where the file system does not tell.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let file = &self.core.file;
        let sizes = [file.clone(), log_room::path_of(file)].into_iter().filter_map(|file| file.metadata().ok());
        sizes.map(|data| data.len()).sum()
    }

    /// Forgets the change history, so that watchers from an earlier revision have to list afresh.
    pub fn compact(&self) {
        self.core.log.forget();
    }

    /// Finishes queued commits, ends in an orderly way and gives up the folder.
    ///
    /// Dropping the store does the same but blocks the thread for some milliseconds.
    pub async fn close(self) {
        // Nothing to do about a runtime that shuts down: the drop has then happened where it was.
        let _ended = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.core.queue.close();
        self.core.readers.close_idle();
        for thread in self.threads.drain(..) {
            // A thread that panicked has poisoned the store and said so.
            let _ended = thread.join();
        }
        self.core.log.close(StoreError::Closed);
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        budget::check(&txn)?;
        let now = self.core.clock.monotonic();
        self.core.ask(shared::weight(&txn), |answer| Work::Commit { txn, now, answer }).await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.core.end_due_leases().await?;
        self.core.readers.get(key).await
    }

    async fn scan(&self, prefix: &str) -> Result<Box<dyn Scan>, StoreError> {
        self.core.end_due_leases().await?;
        Ok(Box::new(self.core.readers.scan(prefix).await?))
    }

    async fn last_before(&self, prefix: &str, before: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.core.end_due_leases().await?;
        self.core.readers.last_before(prefix, before, limit).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.core.end_due_leases().await?;
        // Compacted is found out now rather than at the first change.
        self.core.log.read(prefix, &mut after.clone())?;
        Ok(Box::new(Follower { core: Arc::clone(&self.core), prefix: prefix.to_owned(), cursor: after }))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.core.end_due_leases().await?;
        self.core.readers.revision().await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.core.ensure_sound()?;
        let id = self.core.leases().grant(ttl, self.core.clock.monotonic());
        // Waiting watchers have to look at the clock again: this lease may be the next to end.
        self.core.log.publish([]);
        Ok(id)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.core.ensure_sound()?;
        let mut leases = self.core.leases();
        if leases.keep_alive(lease, self.core.clock.monotonic()) { Ok(()) } else { Err(StoreError::LeaseGone) }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.core.ask(1, |answer| Work::Revoke { lease, answer }).await
    }
}

struct Follower {
    core: Arc<Core>,
    prefix: String,
    cursor: Revision,
}

#[async_trait]
impl Watch for Follower {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        let core = &self.core;
        loop {
            let mut published = std::pin::pin!(core.log.published());
            published.as_mut().enable();
            let found = core.log.read(&self.prefix, &mut self.cursor)?;
            if !found.is_empty() {
                return Ok(found);
            }
            core.end_due_leases().await?;
            let next_expiry = core.leases().next_expiry();
            match next_expiry {
                None => published.await,
                Some(expires) => {
                    let wait = core.clock.sleep(expires.saturating_sub(core.clock.monotonic()));
                    tokio::select! { biased; () = published => {}, () = wait => {} }
                }
            }
        }
    }
}

/// A state folder that is open for reading only.
#[derive(Clone)]
pub struct ReadOnlyStore {
    dir: PathBuf,
    readers: Readers,
}

impl fmt::Debug for ReadOnlyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlyStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl ReadOnlyStore {
    /// Why the store does not do what only a holder can do.
    fn refuse<T>(&self, what: &str) -> Result<T, StoreError> {
        match holder(&self.dir)? {
            Some(holder) => Err(hold::held(&self.dir, &holder)),
            None => Err(StoreError::Unusable(format!(
                "{} is open for reading only and cannot {what}; open it as its holder",
                self.dir.display()
            ))),
        }
    }
}

#[async_trait]
impl Store for ReadOnlyStore {
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        budget::check(&txn)?;
        self.refuse("commit")
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.readers.get(key).await
    }

    async fn scan(&self, prefix: &str) -> Result<Box<dyn Scan>, StoreError> {
        Ok(Box::new(self.readers.scan(prefix).await?))
    }

    async fn last_before(&self, prefix: &str, before: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.readers.last_before(prefix, before, limit).await
    }

    async fn watch(&self, _prefix: &str, _after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.refuse("follow changes")
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.readers.revision().await
    }

    async fn grant(&self, _ttl: Duration) -> Result<LeaseId, StoreError> {
        self.refuse("grant leases")
    }

    async fn keep_alive(&self, _lease: LeaseId) -> Result<(), StoreError> {
        self.refuse("keep leases")
    }

    async fn revoke(&self, _lease: LeaseId) -> Result<(), StoreError> {
        self.refuse("end leases")
    }
}
