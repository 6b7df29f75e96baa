//! The recent changes of a store that lives in this process, for its watchers.
//!
//! A [`ChangeLog`] is a bounded ring of the last commits. Watchers read it from the revision that they have
//! reached; one that has fallen behind the oldest kept commit is told [`StoreError::Compacted`], never
//! skipped. The store publishes each revision once, in order, before it answers the commit that made it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{Change, Revision, StoreError};

/// Most changes that a log keeps by default: a watcher that is further behind lists afresh.
pub const KEPT_CHANGES: usize = 16_384;
/// Most bytes of keys and values that a log keeps by default.
pub const KEPT_BYTES: usize = 32 * 1024 * 1024;
/// Changes after which [`ChangeLog::read`] ends a batch, at the next full revision.
const BATCH_CHANGES: usize = 1024;

/// A bounded, ordered record of recent commits that any number of watchers follow.
pub struct ChangeLog {
    ring: Mutex<Ring>,
    /// Wakes in the order in which the watchers began to wait, which keeps simulated runs replayable.
    published: Notify,
}

struct Ring {
    /// One item for each revision after `floor`, without gaps.
    commits: VecDeque<Arc<[Change]>>,
    /// Everything after this revision is kept.
    floor: Revision,
    changes: usize,
    bytes: usize,
    kept_changes: usize,
    kept_bytes: usize,
    closed: Option<StoreError>,
}

impl fmt::Debug for ChangeLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.ring();
        f.debug_struct("ChangeLog").field("floor", &ring.floor).field("commits", &ring.commits.len()).finish()
    }
}

impl ChangeLog {
    /// A log that continues after `revision` and keeps [`KEPT_CHANGES`] and [`KEPT_BYTES`].
    #[must_use]
    pub fn after(revision: Revision) -> Self {
        Self::with_limits(revision, KEPT_CHANGES, KEPT_BYTES)
    }

    /// A log that continues after `revision` and keeps the given number of changes and bytes.
    ///
    /// The newest commit is kept in any case, also when it alone exceeds a limit.
    #[must_use]
    pub fn with_limits(revision: Revision, kept_changes: usize, kept_bytes: usize) -> Self {
        let ring = Ring {
            commits: VecDeque::new(),
            floor: revision,
            changes: 0,
            bytes: 0,
            kept_changes,
            kept_bytes,
            closed: None,
        };
        Self { ring: Mutex::new(ring), published: Notify::new() }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing below panics while it holds the lock, so a poisoned ring is still whole.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last published revision.
    #[must_use]
    pub fn head(&self) -> Revision {
        self.ring().head()
    }

    /// Publishes commits that follow each other, and wakes the watchers.
    ///
    /// # Panics
    ///
    /// If a commit is empty or does not follow the one before it: a watcher would see a gap.
    pub fn publish(&self, commits: impl IntoIterator<Item = Vec<Change>>) {
        {
            let mut ring = self.ring();
            for commit in commits {
                ring.push(commit);
            }
            ring.trim();
        }
        self.published.notify_waiters();
    }

    /// Forgets all changes up to now, as a store does that compacts its history.
    pub fn forget(&self) {
        let mut ring = self.ring();
        ring.floor = ring.head();
        ring.commits.clear();
        ring.changes = 0;
        ring.bytes = 0;
    }

    /// Ends all watches with `why`, after they have read what is left.
    pub fn close(&self, why: StoreError) {
        self.ring().closed.get_or_insert(why);
        self.published.notify_waiters();
    }

    /// A future that ends with the next publication. Register it (`enable`) before looking with
    /// [`ChangeLog::read`], or a publication in between is missed.
    pub fn published(&self) -> tokio::sync::futures::Notified<'_> {
        self.published.notified()
    }

    /// The changes under `prefix` after `cursor`, which moves past what was looked at. Empty when there are none yet.
    ///
    /// Ends after a bounded number of changes, always with a whole revision.
    ///
    /// # Errors
    ///
    /// [`StoreError::Compacted`] when the log has moved past `cursor`; what the log was closed with.
    pub fn read(&self, prefix: &str, cursor: &mut Revision) -> Result<Vec<Change>, StoreError> {
        loop {
            let (commits, end) = {
                let ring = self.ring();
                if *cursor < ring.floor {
                    return Err(StoreError::Compacted { asked: *cursor, oldest: ring.floor });
                }
                let (commits, end) = ring.after(*cursor);
                if commits.is_empty() {
                    return ring.closed.clone().map_or_else(|| Ok(Vec::new()), Err);
                }
                (commits, end)
            };
            *cursor = end;
            let found: Vec<Change> = commits
                .iter()
                .flat_map(|commit| commit.iter())
                .filter(|change| change.key.starts_with(prefix))
                .cloned()
                .collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
}

impl Ring {
    fn head(&self) -> Revision {
        Revision(self.floor.0 + self.commits.len() as u64)
    }

    fn push(&mut self, commit: Vec<Change>) {
        let revision = Revision(self.head().0 + 1);
        assert!(
            !commit.is_empty() && commit.iter().all(|change| change.revision == revision),
            "commits are published without gaps, {revision} is next"
        );
        self.changes += commit.len();
        self.bytes += commit.iter().map(size).sum::<usize>();
        self.commits.push_back(commit.into());
    }

    fn trim(&mut self) {
        while self.commits.len() > 1 && (self.changes > self.kept_changes || self.bytes > self.kept_bytes) {
            if let Some(oldest) = self.commits.pop_front() {
                self.floor.0 += 1;
                self.changes -= oldest.len();
                self.bytes -= oldest.iter().map(size).sum::<usize>();
            }
        }
    }

    /// Some commits after `cursor`, and the revision of the last of them.
    fn after(&self, cursor: Revision) -> (Vec<Arc<[Change]>>, Revision) {
        // A cursor ahead of the log belongs to somebody who read a commit that is about to be published.
        let skip = usize::try_from(cursor.0 - self.floor.0).unwrap_or(usize::MAX).min(self.commits.len());
        let mut changes = 0;
        let mut commits = Vec::new();
        for commit in self.commits.range(skip..) {
            changes += commit.len();
            commits.push(Arc::clone(commit));
            if changes >= BATCH_CHANGES {
                break;
            }
        }
        let end = Revision(cursor.0 + commits.len() as u64);
        (commits, end)
    }
}

/// What a change counts in the log's budget.
fn size(change: &Change) -> usize {
    change.key.len() + change.entry.as_ref().map_or(0, |entry| entry.key.len() + entry.value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(revision: u64, keys: &[&str]) -> Vec<Change> {
        keys.iter().map(|key| Change { revision: Revision(revision), key: (*key).to_owned(), entry: None }).collect()
    }

    fn revisions(changes: &[Change]) -> Vec<u64> {
        changes.iter().map(|change| change.revision.0).collect()
    }

    #[test]
    fn a_reader_gets_its_prefix_in_order_and_each_change_once() {
        let log = ChangeLog::after(Revision(4));
        log.publish([commit(5, &["a/1", "b/1"]), commit(6, &["b/2"]), commit(7, &["a/2"])]);
        let mut cursor = Revision(4);
        assert_eq!(revisions(&log.read("a/", &mut cursor).unwrap()), [5, 7]);
        assert_eq!(log.read("a/", &mut cursor), Ok(Vec::new()));
        assert_eq!(cursor, Revision(7));
        assert_eq!(revisions(&log.read("", &mut Revision(5)).unwrap()), [6, 7]);
    }

    #[test]
    fn a_reader_behind_the_oldest_kept_commit_is_told() {
        let log = ChangeLog::with_limits(Revision(0), 3, usize::MAX);
        log.publish((1..=5).map(|n| commit(n, &["k"])));
        assert_eq!(
            log.read("", &mut Revision(1)),
            Err(StoreError::Compacted { asked: Revision(1), oldest: Revision(2) })
        );
        assert_eq!(revisions(&log.read("", &mut Revision(2)).unwrap()), [3, 4, 5]);
        log.forget();
        assert!(log.read("", &mut Revision(4)).is_err());
        assert_eq!(log.read("", &mut Revision(5)), Ok(Vec::new()));
    }

    #[test]
    fn the_newest_commit_is_kept_even_when_it_alone_exceeds_the_limit() {
        let log = ChangeLog::with_limits(Revision(0), 1, 1);
        log.publish([commit(1, &["a", "b", "c"])]);
        assert_eq!(log.read("", &mut Revision(0)).unwrap().len(), 3);
        log.publish([commit(2, &["a", "b", "c"])]);
        assert!(log.read("", &mut Revision(0)).is_err());
    }

    #[test]
    fn a_long_backlog_comes_in_bounded_batches_of_whole_revisions() {
        let log = ChangeLog::after(Revision(0));
        log.publish((1..=2000).map(|n| commit(n, &["a", "b", "c"])));
        let (mut cursor, mut seen) = (Revision(0), Vec::new());
        loop {
            let batch = log.read("", &mut cursor).unwrap();
            if batch.is_empty() {
                break;
            }
            assert!(batch.len() <= BATCH_CHANGES + 2 && batch.len().is_multiple_of(3));
            seen.extend(batch);
        }
        assert_eq!(seen.len(), 6000);
    }

    #[test]
    fn a_reader_ahead_of_the_log_waits_for_what_comes_after_its_place() {
        let log = ChangeLog::after(Revision(0));
        let mut cursor = Revision(2);
        log.publish([commit(1, &["k"])]);
        assert_eq!(log.read("", &mut cursor), Ok(Vec::new()));
        assert_eq!(cursor, Revision(2));
        log.publish([commit(2, &["k"]), commit(3, &["k"])]);
        assert_eq!(revisions(&log.read("", &mut cursor).unwrap()), [3]);
    }

    #[test]
    fn a_closed_log_is_read_to_its_end_first() {
        let log = ChangeLog::after(Revision(0));
        log.publish([commit(1, &["k"])]);
        log.close(StoreError::Closed);
        let mut cursor = Revision(0);
        assert_eq!(log.read("", &mut cursor).unwrap().len(), 1);
        assert_eq!(log.read("", &mut cursor), Err(StoreError::Closed));
    }

    #[test]
    #[should_panic(expected = "without gaps")]
    fn a_gap_is_refused() {
        ChangeLog::after(Revision(0)).publish([commit(2, &["k"])]);
    }
}
