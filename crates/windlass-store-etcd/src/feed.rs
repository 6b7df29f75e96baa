//! What the stream has brought for one watcher and the watcher has not yet taken: bounded.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use windlass_store::{Change, Revision, StoreError};

/// Most changes that wait for a watcher. Beyond it the watch is given up until the watcher has caught up.
const CHANGES: usize = 8192;
/// Most bytes that wait for a watcher.
const BYTES: usize = 16 * 1024 * 1024;
/// Changes after which a watcher is handed no further revisions at once.
const HANDED: usize = 1024;

/// The buffer between the shared stream and one watcher.
#[derive(Debug)]
pub(crate) struct Feed {
    state: Mutex<State>,
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// One item for each revision.
    waiting: VecDeque<Vec<Change>>,
    changes: usize,
    bytes: usize,
    /// Where the watch has to be taken up again once `waiting` is empty.
    stalled: Option<Revision>,
    ended: Option<StoreError>,
}

/// What there is for a watcher.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// These changes.
    Changes(Vec<Change>),
    /// Nothing before the watch is taken up again after this revision.
    Stalled(Revision),
    /// Nothing yet.
    Nothing,
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics while it holds the lock, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the changes of one revision. False when there is no room; the watcher has to take the watch up again
    /// after the revision `done`.
    pub(crate) fn push(&self, changes: Vec<Change>, done: Revision) -> bool {
        let mut state = self.state();
        let bytes: usize = changes.iter().map(size).sum();
        let is_full = state.changes + changes.len() > CHANGES || state.bytes + bytes > BYTES;
        // A single revision is taken in any case: there is no smaller piece.
        let has_room = !is_full || state.waiting.is_empty();
        if has_room {
            state.changes += changes.len();
            state.bytes += bytes;
            state.waiting.push_back(changes);
        } else {
            state.stalled = Some(done);
        }
        drop(state);
        self.changed.notify_waiters();
        has_room
    }

    /// Ends the watch once everything waiting has been taken.
    pub(crate) fn end(&self, why: StoreError) {
        self.state().ended.get_or_insert(why);
        self.changed.notify_waiters();
    }

    /// Takes what is waiting, in whole revisions.
    pub(crate) fn take(&self) -> Result<Next, StoreError> {
        let mut state = self.state();
        let mut taken = Vec::new();
        while taken.len() < HANDED {
            let Some(changes) = state.waiting.pop_front() else { break };
            state.changes -= changes.len();
            state.bytes -= changes.iter().map(size).sum::<usize>();
            taken.extend(changes);
        }
        match (taken.is_empty(), &state.ended, state.stalled) {
            (false, ..) => Ok(Next::Changes(taken)),
            (true, Some(why), _) => Err(why.clone()),
            (true, None, Some(after)) => Ok(Next::Stalled(after)),
            (true, None, None) => Ok(Next::Nothing),
        }
    }

    /// The watch has been taken up again.
    pub(crate) fn goes_on(&self) {
        self.state().stalled = None;
    }
}

fn size(change: &Change) -> usize {
    change.key.len() + change.entry.as_ref().map_or(0, |entry| entry.key.len() + entry.value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(revision: u64, changes: usize) -> Vec<Change> {
        let change = |n: usize| Change { revision: Revision(revision), key: format!("k{n}"), entry: None };
        (0..changes).map(change).collect()
    }

    #[test]
    fn a_full_feed_is_emptied_before_it_goes_on_where_it_stopped() {
        let feed = Feed::new();
        let mut pushed = 0;
        while feed.push(commit(pushed + 1, 100), Revision(pushed)) {
            pushed += 1;
        }
        assert_eq!(pushed, 81, "81 revisions of 100 changes fit into {CHANGES}");
        let mut taken = 0;
        loop {
            match feed.take().unwrap() {
                Next::Changes(changes) => {
                    assert!(changes.len() <= HANDED + 99 && changes.len().is_multiple_of(100));
                    taken += changes.len();
                }
                Next::Stalled(after) => break assert_eq!(after, Revision(81)),
                Next::Nothing => panic!("the feed was stalled"),
            }
        }
        assert_eq!(taken, 8100);
        feed.goes_on();
        assert_eq!(feed.take(), Ok(Next::Nothing));
    }

    #[test]
    fn one_revision_is_taken_whatever_its_size_and_an_end_comes_last() {
        let feed = Feed::new();
        assert!(feed.push(commit(1, CHANGES + 5), Revision(0)));
        feed.end(StoreError::Closed);
        feed.end(StoreError::LeaseGone);
        assert!(matches!(feed.take(), Ok(Next::Changes(changes)) if changes.len() == CHANGES + 5));
        assert_eq!(feed.take(), Err(StoreError::Closed));
    }
}
