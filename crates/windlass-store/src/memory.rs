//! A store in memory: for tests, simulated runs and the demo.
//!
//! [`MemoryStore`] keeps the whole contract but durability. It starts no threads, takes time only from the
//! clock it is given and iterates only over ordered maps, so that equal inputs give equal histories.
//!
//! Leases end lazily: every call first ends those that have run out, and a waiting watcher wakes for the next
//! one. Nobody can therefore see a key whose lease is over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use windlass_clock::SharedClock;

use crate::changes::ChangeLog;
use crate::leases::LeaseTable;
use crate::{
    Change, Committed, Compare, Entry, LeaseId, Op, Page, Revision, Scan, Store, StoreError, Txn, Watch, budget,
};

/// A store whose data lives as long as its last clone.
///
/// Clones share the data: a simulated crash drops whatever used one clone and starts again on another.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    clock: SharedClock,
    state: Mutex<State>,
    log: ChangeLog,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    revision: Revision,
    leases: LeaseTable,
    bound: BTreeMap<LeaseId, BTreeSet<String>>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        f.debug_struct("MemoryStore")
            .field("revision", &state.revision)
            .field("entries", &state.entries.len())
            .finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// An empty store whose leases run by `clock`.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        let state = State { leases: LeaseTable::starting_at(1), ..State::default() };
        let log = ChangeLog::after(Revision::default());
        Self { shared: Arc::new(Shared { clock, state: Mutex::new(state), log }) }
    }

    /// Forgets the history, so that watchers from an earlier revision have to list afresh.
    pub fn compact(&self) {
        drop(self.shared.now());
        self.shared.log.forget();
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.now().entries.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock is held can only be a broken invariant of this module; the simulated run
        // that caused it fails by that panic, its other tasks need not fail with a second one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state after all leases have ended that have run out by now.
    fn now(&self) -> MutexGuard<'_, State> {
        let mut state = self.state();
        let due = state.leases.take_due(self.clock.monotonic());
        if !due.is_empty() {
            // Published before the lock is given up: revisions reach the log in order.
            self.log.publish(due.into_iter().filter_map(|(id, _)| state.delete_bound(id)));
        }
        state
    }
}

impl State {
    fn under<'a>(&'a self, prefix: &str) -> impl Iterator<Item = &'a Entry> {
        let prefix = prefix.to_owned();
        self.entries
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
            .map(|(_, entry)| entry)
            .take_while(move |entry| entry.key.starts_with(&prefix))
    }

    /// The entry that decides about `compare`, and whether it holds.
    fn judge(&self, compare: &Compare) -> (Option<&Entry>, bool) {
        let entry = match compare {
            Compare::NoneUnder(prefix) => self.under(prefix).next(),
            Compare::Absent(key) | Compare::Version(key, _) | Compare::Created(key, _) => self.entries.get(key),
        };
        let holds = match compare {
            Compare::Absent(_) | Compare::NoneUnder(_) => entry.is_none(),
            Compare::Version(_, version) => entry.is_some_and(|entry| entry.version == *version),
            Compare::Created(_, created) => entry.is_some_and(|entry| entry.created == *created),
        };
        (entry, holds)
    }

    fn unbind(&mut self, entry: &Entry) {
        if let Some(lease) = entry.lease
            && let Some(keys) = self.bound.get_mut(&lease)
        {
            keys.remove(&entry.key);
            if keys.is_empty() {
                self.bound.remove(&lease);
            }
        }
    }

    /// Deletes the keys of a lease as one change; `None` when it has no keys.
    fn delete_bound(&mut self, lease: LeaseId) -> Option<Vec<Change>> {
        let keys = self.bound.remove(&lease)?;
        let revision = Revision(self.revision.0 + 1);
        self.revision = revision;
        let deleted = keys.into_iter().map(|key| {
            self.entries.remove(&key);
            Change { revision, key, entry: None }
        });
        Some(deleted.collect())
    }

    /// Makes the changes of a transaction whose conditions hold.
    fn apply(&mut self, ops: Vec<Op>) -> Vec<Change> {
        let revision = Revision(self.revision.0 + 1);
        let mut changes = Vec::with_capacity(ops.len());
        for op in ops {
            let (key, entry) = match op {
                Op::Put { key, value, lease } => {
                    let before = self.entries.get(&key).cloned();
                    let created = before.as_ref().map_or(revision, |entry| entry.created);
                    if let Some(before) = before {
                        self.unbind(&before);
                    }
                    if let Some(lease) = lease {
                        self.bound.entry(lease).or_default().insert(key.clone());
                    }
                    let entry = Entry { key: key.clone(), value, version: revision, created, lease };
                    self.entries.insert(key.clone(), entry.clone());
                    (key, Some(entry))
                }
                Op::Delete(key) => {
                    let Some(before) = self.entries.remove(&key) else { continue };
                    self.unbind(&before);
                    (key, None)
                }
            };
            changes.push(Change { revision, key, entry });
        }
        if !changes.is_empty() {
            self.revision = revision;
        }
        changes
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        budget::check(&txn)?;
        let mut state = self.shared.now();
        if !txn.compares.iter().all(|compare| state.judge(compare).1) {
            let present = txn.compares.iter().map(|compare| state.judge(compare).0.cloned());
            return Ok(Committed::Conflict(present.collect()));
        }
        let now = self.shared.clock.monotonic();
        let gone = |op: &Op| matches!(op, Op::Put { lease: Some(lease), .. } if !state.leases.is_live(*lease, now));
        if txn.ops.iter().any(gone) {
            return Err(StoreError::LeaseGone);
        }
        let changes = state.apply(txn.ops);
        if !changes.is_empty() {
            self.shared.log.publish([changes]);
        }
        Ok(Committed::At(state.revision))
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.shared.now().entries.get(key).cloned())
    }

    async fn scan(&self, prefix: &str) -> Result<Box<dyn Scan>, StoreError> {
        let state = self.shared.now();
        Ok(Box::new(Snapshot { revision: state.revision, left: state.under(prefix).cloned().collect() }))
    }

    async fn last_before(&self, prefix: &str, before: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        let state = self.shared.now();
        let fits = |entry: &&Entry| before.is_none_or(|before| entry.key.as_str() < before);
        let found: Vec<&Entry> = state.under(prefix).take_while(fits).collect();
        Ok(found.into_iter().rev().take(limit.max(1)).cloned().collect())
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        drop(self.shared.now());
        // Compacted is found out now rather than at the first change.
        self.shared.log.read(prefix, &mut after.clone())?;
        Ok(Box::new(Follower { shared: Arc::clone(&self.shared), prefix: prefix.to_owned(), cursor: after }))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.now().revision)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let mut state = self.shared.now();
        let id = state.leases.grant(ttl, self.shared.clock.monotonic());
        drop(state);
        // Waiting watchers have to look at the clock again: this lease may be the next to end.
        self.shared.log.publish([]);
        Ok(id)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let kept = self.shared.now().leases.keep_alive(lease, self.shared.clock.monotonic());
        if kept { Ok(()) } else { Err(StoreError::LeaseGone) }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut state = self.shared.now();
        if state.leases.end(lease).is_some() {
            self.shared.log.publish(state.delete_bound(lease));
        }
        Ok(())
    }
}

/// The entries of a prefix as they were at one revision.
struct Snapshot {
    revision: Revision,
    left: VecDeque<Entry>,
}

#[async_trait]
impl Scan for Snapshot {
    fn revision(&self) -> Revision {
        self.revision
    }

    async fn next_page(&mut self, limit: usize) -> Result<Page, StoreError> {
        let count = limit.max(1).min(self.left.len());
        Ok(self.left.drain(..count).collect())
    }
}

struct Follower {
    shared: Arc<Shared>,
    prefix: String,
    cursor: Revision,
}

#[async_trait]
impl Watch for Follower {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        let shared = &self.shared;
        loop {
            let mut published = std::pin::pin!(shared.log.published());
            published.as_mut().enable();
            let next_expiry = shared.now().leases.next_expiry();
            let found = shared.log.read(&self.prefix, &mut self.cursor)?;
            if !found.is_empty() {
                return Ok(found);
            }
            match next_expiry {
                None => published.await,
                Some(expires) => {
                    let wait = shared.clock.sleep(expires.saturating_sub(shared.clock.monotonic()));
                    // Biased: a random choice would make simulated runs differ.
                    tokio::select! { biased; () = published => {}, () = wait => {} }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clones_share_the_data_as_a_restart_after_a_crash_does() {
        let store = MemoryStore::new(windlass_clock::SystemClock::real());
        let lease = store.grant(Duration::from_secs(60)).await.unwrap();
        store.commit(Txn::new().put("a", "1").put_leased("b", "2", lease)).await.unwrap();
        let after_crash = store.clone();
        drop(store);
        assert_eq!(after_crash.len(), 2);
        after_crash.revoke(lease).await.unwrap();
        assert_eq!(after_crash.len(), 1);
        assert!(after_crash.shared.state().bound.is_empty());
        assert!(!after_crash.is_empty());
    }

    #[tokio::test]
    async fn a_key_that_is_bound_anew_does_not_vanish_with_its_first_lease() {
        let store = MemoryStore::new(windlass_clock::SystemClock::real());
        let (first, second) = (store.grant(Duration::from_secs(60)).await, store.grant(Duration::from_secs(60)).await);
        let (first, second) = (first.unwrap(), second.unwrap());
        store.commit(Txn::new().put_leased("a", "1", first)).await.unwrap();
        store.commit(Txn::new().put_leased("a", "2", second)).await.unwrap();
        store.revoke(first).await.unwrap();
        assert_eq!(store.get("a").await.unwrap().unwrap().lease, Some(second));
    }
}
