//! What the records that several tasks rest on said when a round looked at them: read side by side, once a round.
//!
//! A record may change after it was looked at. Then the transaction that rests on it does not go through, what was seen is
//! forgotten, and it is decided anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::future::try_join_all;
use windlass_model::TaskId;
use windlass_model::task::SharedUse;
use windlass_store::{Compare, keys};

use super::Coordinator;
use super::image::Blocked;
use crate::EngineError;
use crate::holders::SharedRecord;
use crate::wakers;

/// Tasks whose records are read at a time.
const AHEAD: usize = 8;

/// A shared resource as it was seen, and the condition that it is still so.
pub(super) type Seen = (Option<SharedRecord>, Compare);

/// What a round has seen.
#[derive(Default)]
pub(super) struct Looked {
    /// Shared resources, by their keys.
    pub(super) resources: HashMap<String, Seen>,
    /// The places of each pool that are held, and how many jobs wait for one before this one.
    pub(super) pools: BTreeMap<String, (BTreeSet<u32>, usize)>,
    /// Whether places that the batch gives back count as free: for what is committed with it.
    pub(super) with_batch: bool,
}

impl Looked {
    /// The round itself has changed these records.
    pub(super) fn changed<'a>(&mut self, written: impl Iterator<Item = &'a String>) {
        for key in written {
            if let Some((pool, n)) = keys::pool_of_slot(key) {
                if let Some((held, _)) = self.pools.get_mut(pool) {
                    held.insert(n);
                }
            } else if let Some(resource) = key.strip_prefix(keys::SHARED) {
                self.resources.remove(resource);
            }
        }
    }

    /// Whether a pool of this size had a place left, as far as is known.
    pub(super) fn has_room(&self, pool: &str, size: u32) -> bool {
        let room = |(held, before): &(BTreeSet<u32>, usize)| held.len() + before < usize::try_from(size).unwrap_or(0);
        self.pools.get(pool).is_none_or(room)
    }

    /// Somebody else has changed something.
    pub(super) fn forget(&mut self) {
        self.resources.clear();
        self.pools.clear();
    }
}

impl Coordinator {
    /// The shared resource that a task rests on.
    pub(super) fn resource_of(&self, id: TaskId) -> Option<&String> {
        let task = &self.image.tasks[&id];
        match task.spec.undoes {
            Some(undone) => self.image.held_by(undone),
            None => {
                let shared = task.spec.shared.as_ref().filter(|_| task.status.shared != Some(SharedUse::Private));
                shared.map(|shared| &shared.key)
            }
        }
    }

    /// Reads what the first of these tasks rests on, and with it what the next ones do, unless it was seen before.
    pub(super) async fn look_ahead(&self, looked: &mut Looked, next: &[TaskId]) -> Result<(), EngineError> {
        let unknown = |id: &TaskId| self.resource_of(*id).filter(|key| !looked.resources.contains_key(*key));
        let Some(first) = next.first() else { return Ok(()) };
        if unknown(first).is_none() {
            return Ok(());
        }
        let resources: BTreeSet<String> = next.iter().take(AHEAD).filter_map(unknown).cloned().collect();
        // Before looking: whatever changes afterwards rings.
        resources
            .iter()
            .for_each(|key| self.shared.wakers.wait(wakers::shared_topic(key), self.image.id(), &self.woken));
        let read = resources.into_iter().map(|key| async move {
            let seen = self.shared_record(&key).await?;
            Ok::<_, EngineError>((key, seen))
        });
        looked.resources.extend(try_join_all(read).await?);
        Ok(())
    }

    /// A shared resource as this round has seen it.
    pub(super) async fn resource(&self, looked: &Looked, key: &str) -> Result<Seen, EngineError> {
        match looked.resources.get(key) {
            Some(seen) => Ok(seen.clone()),
            None => self.shared_record(key).await,
        }
    }

    /// Lets the bell ring no more for what no task waits for.
    pub(super) fn listen_only_where_blocked(&self) {
        let topics = self.image.blocked().map(|on| match on {
            Blocked::Shared(key) => wakers::shared_topic(key),
            Blocked::Pool(pool) => wakers::pool_topic(pool),
        });
        let topics: BTreeSet<String> = topics.collect();
        self.shared.wakers.keep(self.image.id(), &topics);
    }
}
