//! A thread that sorts one batch and writes it while its owner fills the next.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use super::batch::Batch;
use super::run::Run;
use crate::error::BackupError;
use crate::input::Watch;

type Done = Result<(Run, Batch), BackupError>;

/// Takes one batch at a time. Dropping it waits for the batch at hand, so that nothing is written to a folder that
/// its owner is about to remove; that is at most one run of a few MiB.
pub(super) struct Worker {
    batches: Option<SyncSender<(Batch, PathBuf)>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
    busy: bool,
}

impl Worker {
    pub(super) fn start(watch: Arc<Watch>) -> io::Result<Self> {
        let (batches, to_sort) = sync_channel::<(Batch, PathBuf)>(1);
        let (send_done, done) = sync_channel(1);
        let thread = Builder::new().name("windlass-sort".to_owned()).spawn(move || {
            for (mut batch, path) in to_sort {
                let written = batch.write(path, &watch).map(|run| (run, batch));
                if send_done.send(written).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { batches: Some(batches), done, thread: Some(thread), busy: false })
    }

    /// Waits for the batch that was given last: its run, and the batch, empty again.
    pub(super) fn take(&mut self) -> Result<Option<(Run, Batch)>, BackupError> {
        if !std::mem::take(&mut self.busy) {
            return Ok(None);
        }
        match self.done.recv() {
            Ok(done) => done.map(Some),
            Err(_) => self.pass_on_panic(),
        }
    }

    /// Hands over a batch; [`Worker::take`] has to have been called since the one before.
    pub(super) fn give(&mut self, batch: Batch, path: PathBuf) {
        debug_assert!(!self.busy, "one batch at a time");
        if let Some(batches) = &self.batches
            && batches.send((batch, path)).is_err()
        {
            self.pass_on_panic();
        }
        self.busy = true;
    }

    /// The thread ends before its owner only if it panicked.
    fn pass_on_panic(&mut self) -> ! {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            _ => unreachable!("the sorting thread ended although nobody told it to"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported, or there is one under way here.
            let _ = thread.join();
        }
    }
}
