//! What waits to be uploaded: bounded, remembered on disk, and given out in order.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::cause::Cause;
use crate::config::QueueLimits;
use crate::id::{ActionId, Entry};
use crate::journal::{Item, Journal};
use crate::outcome::Closed;
use crate::place::{Around, add};

/// Journals of others taken over by one process: the rest is left to the next ones.
const ADOPTED: usize = 64;

#[derive(Default)]
struct State {
    waiting: VecDeque<Item>,
    waiting_bytes: u64,
    under_way: u64,
    under_way_bytes: u64,
    journal: Option<Arc<Journal>>,
    /// Set once the queue is closed: when to stop beginning anything, by the monotonic clock.
    until: Option<Duration>,
}

pub(crate) struct Queue {
    folder: PathBuf,
    limits: QueueLimits,
    around: Arc<Around>,
    state: Mutex<State>,
    pub(crate) wake: Notify,
}

impl Queue {
    pub(crate) fn new(folder: PathBuf, limits: QueueLimits, around: Arc<Around>) -> Self {
        Self { folder, limits, around, state: Mutex::default(), wake: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers an entry on disk and queues it. Blocks for one write to a local file. False when the disk refuses.
    pub(crate) fn offer(&self, action: ActionId, entry: Entry) -> bool {
        let mut state = self.state();
        let journal = match &state.journal {
            Some(journal) => Ok(Arc::clone(journal)),
            None => Journal::begin(&self.folder, &*self.around.entropy, &self.around.steps),
        };
        let item = match journal.and_then(|journal| {
            state.journal = Some(Arc::clone(&journal));
            journal.push(action, entry)
        }) {
            Ok(item) => item,
            Err(error) => {
                drop(state);
                add(&self.around.tally.dropped, 1);
                self.around.warnings.tell(Cause::LocalDisk, "", &format!("the upload queue: {error}"));
                return false;
            }
        };
        state.waiting_bytes += entry.size;
        state.waiting.push_back(item);
        let mut dropped = Vec::new();
        while state.waiting.len() > self.limits.entries || state.waiting_bytes > self.limits.bytes {
            let Some(oldest) = state.waiting.pop_front() else { break };
            state.waiting_bytes -= oldest.entry.size;
            dropped.push(oldest);
        }
        drop(state);
        if !dropped.is_empty() {
            add(&self.around.tally.dropped, dropped.len() as u64);
            self.mark(&dropped);
        }
        self.wake.notify_one();
        true
    }

    /// Takes over what processes that are gone have left. It goes first.
    pub(crate) fn adopt(&self) {
        let items = Journal::adopt(&self.folder, ADOPTED, &self.around.steps);
        let mut state = self.state();
        state.waiting_bytes += items.iter().map(|item| item.entry.size).sum::<u64>();
        for item in items.into_iter().rev() {
            state.waiting.push_front(item);
        }
        self.wake.notify_one();
    }

    /// The next entries, at most `most`.
    pub(crate) fn take(&self, most: usize) -> Vec<Item> {
        let mut state = self.state();
        let count = most.min(state.waiting.len());
        let taken: Vec<Item> = state.waiting.drain(..count).collect();
        let bytes: u64 = taken.iter().map(|item| item.entry.size).sum();
        state.waiting_bytes -= bytes;
        state.under_way += count as u64;
        state.under_way_bytes += bytes;
        taken
    }

    /// Queues entries again that could not be uploaded.
    pub(crate) fn give_back(&self, items: Vec<Item>) {
        let mut state = self.state();
        for item in items.into_iter().rev() {
            state.under_way -= 1;
            state.under_way_bytes -= item.entry.size;
            state.waiting_bytes += item.entry.size;
            state.waiting.push_front(item);
        }
    }

    /// Entries that are published, or that nobody can publish any more.
    pub(crate) fn finished(&self, items: &[Item]) {
        self.mark(items);
        let mut state = self.state();
        state.under_way -= items.len() as u64;
        state.under_way_bytes -= items.iter().map(|item| item.entry.size).sum::<u64>();
        // Under the lock, so that nothing is pushed into a journal that is being removed.
        if state.journal.as_ref().is_some_and(|journal| journal.is_finished())
            && let Some(journal) = state.journal.take()
        {
            self.check(journal.remove());
        }
    }

    fn mark(&self, items: &[Item]) {
        let mut by_journal: HashMap<*const Journal, (Arc<Journal>, Vec<u64>)> = HashMap::new();
        for item in items {
            let entry = by_journal.entry(Arc::as_ptr(&item.journal));
            entry.or_insert_with(|| (Arc::clone(&item.journal), Vec::new())).1.push(item.number);
        }
        for (journal, mut numbers) in by_journal.into_values() {
            numbers.sort_unstable();
            self.check(journal.done(&numbers));
            let own = self.state().journal.as_ref().is_some_and(|own| Arc::ptr_eq(own, &journal));
            if !own && journal.is_finished() {
                self.check(journal.remove());
            }
        }
    }

    /// That a journal could not be changed costs uploads that were made already, later.
    fn check(&self, result: std::io::Result<()>) {
        if let Err(error) = result {
            self.around.warnings.tell(Cause::LocalDisk, "", &format!("the upload queue: {error}"));
        }
    }

    /// Closes the queue: nothing new is begun after `until`.
    pub(crate) fn close(&self, until: Duration) {
        self.state().until = Some(until);
        self.wake.notify_one();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.state().until.is_some()
    }

    /// Whether nothing new may be begun.
    pub(crate) fn is_over(&self) -> bool {
        let until = self.state().until;
        until.is_some_and(|until| self.around.clock.monotonic() >= until)
    }

    pub(crate) fn left(&self) -> Closed {
        let state = self.state();
        Closed {
            left: state.waiting.len() as u64 + state.under_way,
            left_bytes: state.waiting_bytes + state.under_way_bytes,
            held_back: self.around.warnings.held_back(),
        }
    }
}
