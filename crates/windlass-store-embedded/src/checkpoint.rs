//! Moves what the write-ahead log has collected into the database file, beside the commits.
//!
//! A checkpoint syncs the database file, which takes as long as several commits. So a thread of its own does
//! it on a connection of its own, in passes that never wait for the writer or for readers.
//!
//! Under steady load such a pass is always overtaken: when it ends, the writer has added pages, the log is
//! never wholly copied, and SQLite, which starts the log over only then, lets it grow without end. Hence the
//! second half: once the log is longer than [`RESTART_PAGES`], the writer itself copies what is left right
//! after a pass, between two batches. That is little, and the next commit starts the log over.
//!
//! An open scan keeps the log from starting over. That is for the callers to mind: scans are short.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use windlass_store::StoreError;

use crate::shared::Core;
use crate::{log_room, schema};

/// Pages (4 KiB) that the log grows by between two passes.
const PASS_PAGES: u32 = 2_000;
/// Pages from which on the log is to be started over: 32 MiB.
const RESTART_PAGES: u32 = 8_000;

/// The writer's side of the checkpoint thread.
pub(crate) struct Checkpoints {
    /// Room for one: a wish while a pass runs asks for one more, not for many.
    wish: Mutex<Option<SyncSender<()>>>,
    /// The log's length at the last wish for a pass.
    wished_at: AtomicU32,
    shared: Arc<Shared>,
}

/// What the writer and the thread tell each other.
#[derive(Default)]
struct Shared {
    /// Length of the log in pages.
    log_pages: AtomicU32,
    /// Pages that the log's file has room for; the largest number when no more room can be made.
    room_pages: AtomicU32,
    pass_wanted: AtomicBool,
    pass_ended: AtomicBool,
}

impl Checkpoints {
    /// Starts the thread.
    pub(crate) fn start(core: Arc<Core>) -> Result<(Self, JoinHandle<()>), StoreError> {
        let connection = schema::open_to_checkpoint(&core.file)?;
        let (wish, wishes) = sync_channel(1);
        let shared = Arc::<Shared>::default();
        let its = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("state-checkpoint".to_owned())
            .spawn(move || run(&core, &connection, &wishes, &its))
            .map_err(|error| StoreError::Unavailable(format!("start the checkpoint thread: {error}")))?;
        Ok((Self { wish: Mutex::new(Some(wish)), wished_at: AtomicU32::new(0), shared }, thread))
    }

    /// Called by the writer between two batches with the length of the log.
    pub(crate) fn after_commit(&self, log_pages: u32, writer: &Connection) -> rusqlite::Result<()> {
        self.shared.log_pages.store(log_pages, Ordering::Relaxed);
        let mut wish = log_room::is_low(log_pages, self.shared.room_pages.load(Ordering::Relaxed));
        let wished_at = self.wished_at.load(Ordering::Relaxed);
        if log_pages < wished_at {
            self.wished_at.store(0, Ordering::Relaxed);
        } else if log_pages - wished_at >= PASS_PAGES {
            self.wished_at.store(log_pages, Ordering::Relaxed);
            self.shared.pass_wanted.store(true, Ordering::Release);
            wish = true;
        }
        if wish {
            let sender = self.wish.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(Err(TrySendError::Disconnected(()))) = sender.as_ref().map(|sender| sender.try_send(())) {
                tracing::warn!("the checkpoint thread has ended");
            }
        }
        if log_pages >= RESTART_PAGES && self.shared.pass_ended.swap(false, Ordering::Acquire) {
            pass(writer)?;
        }
        Ok(())
    }

    /// Lets the thread end after its present pass.
    pub(crate) fn close(&self) {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn run(core: &Core, connection: &Connection, wishes: &Receiver<()>, shared: &Shared) {
    let log = log_room::path_of(&core.file);
    while wishes.recv().is_ok() {
        let (used, room) = (shared.log_pages.load(Ordering::Relaxed), shared.room_pages.load(Ordering::Relaxed));
        if log_room::is_low(used, room) {
            let room = log_room::add(&log, used).unwrap_or_else(|error| {
                tracing::debug!(log = %log.display(), %error, "no room ahead of the log, it grows by itself");
                u32::MAX
            });
            shared.room_pages.store(room, Ordering::Relaxed);
        }
        if !shared.pass_wanted.swap(false, Ordering::Acquire) {
            continue;
        }
        match pass(connection) {
            Ok(()) => shared.pass_ended.store(true, Ordering::Release),
            // The log keeps everything; the next pass may find room.
            Err(error) if schema::may_pass(&error) => {
                tracing::warn!(file = %core.file.display(), %error, "could not checkpoint");
            }
            // A sync that failed may not be tried again: see the writer.
            Err(error) => return core.poison(&format!("checkpoint: {error}")),
        }
    }
}

/// Copies what it can without waiting for anybody.
pub(crate) fn pass(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?.query_row([], |_| Ok(()))
}
