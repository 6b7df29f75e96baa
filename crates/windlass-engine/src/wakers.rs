//! Who waits for which shared resource or pool, so that a change in the store wakes those and nobody else.
//!
//! One engine follows the records of all shared resources, slots and queues; a coordinator that waits for one of
//! them has put its bell here before it looked. Whatever changed before it looked, it has seen; whatever changes
//! after that rings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use windlass_model::JobId;
use windlass_store::{Change, keys};

use crate::EngineError;
use crate::bell::Bell;
use crate::engine::Shared;
use crate::lease::Session;

/// How often everybody who waits looks again, besides being told.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Wakers {
    topics: Mutex<BTreeMap<String, BTreeMap<JobId, Arc<Bell>>>>,
}

impl Wakers {
    fn topics(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, BTreeMap<JobId, Arc<Bell>>>> {
        // Each use is one insert, remove or look-up: a panic left it whole.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings `bell` whenever something about `topic` changes.
    pub(crate) fn wait(&self, topic: String, job: JobId, bell: &Arc<Bell>) {
        self.topics().entry(topic).or_default().insert(job, bell.clone());
    }

    /// The job waits for these and for nothing else.
    pub(crate) fn keep(&self, job: JobId, topics: &BTreeSet<String>) {
        self.topics().retain(|topic, waiting| {
            if !topics.contains(topic) {
                waiting.remove(&job);
            }
            !waiting.is_empty()
        });
    }

    /// The job waits for nothing any more.
    pub(crate) fn forget(&self, job: JobId) {
        self.topics().retain(|_, waiting| {
            waiting.remove(&job);
            !waiting.is_empty()
        });
    }

    fn ring(&self, change: &Change) {
        let Some(topic) = topic_of(&change.key) else { return };
        // A place that was taken makes room for nobody.
        if change.entry.is_some() && change.key.starts_with(keys::SLOTS) {
            return;
        }
        let bells: Vec<Arc<Bell>> =
            self.topics().get(topic).map(|waiting| waiting.values().cloned().collect()).unwrap_or_default();
        for bell in bells {
            bell.ring();
        }
    }

    fn ring_all(&self) {
        let bells: BTreeMap<JobId, Arc<Bell>> =
            self.topics().values().flat_map(|waiting| waiting.iter().map(|(job, bell)| (*job, bell.clone()))).collect();
        for bell in bells.into_values() {
            bell.ring();
        }
    }
}

/// The topic of a pool.
pub(crate) fn pool_topic(pool: &str) -> String {
    keys::pool_slots(pool)
}

/// The topic of a shared resource.
pub(crate) fn shared_topic(key: &str) -> String {
    keys::shared(key)
}

fn topic_of(key: &str) -> Option<&str> {
    if key.starts_with(keys::SHARED) {
        return Some(key);
    }
    let slot = key.rsplit_once('/')?.0;
    // With the slash that ends the name of a pool.
    key.starts_with(keys::SLOTS).then(|| &key[..=slot.len()])
}

/// Follows the store and rings, until the session is over.
pub(crate) async fn follow(shared: &Shared, session: &Session) {
    loop {
        let watch = async {
            let revision = shared.store.revision().await?;
            let mut resources = shared.store.watch(keys::SHARED, revision).await?;
            let mut slots = shared.store.watch(keys::SLOTS, revision).await?;
            let mut queues = shared.store.watch(keys::QUEUES, revision).await?;
            // What changed while nobody followed.
            shared.wakers.ring_all();
            loop {
                let changes = tokio::select! {
                    biased;
                    changes = resources.next() => changes?,
                    changes = slots.next() => changes?,
                    changes = queues.next() => {
                        // Few wait in queues; who stands behind whom is not worth keeping here.
                        if changes?.iter().any(|change| change.entry.is_none()) {
                            shared.wakers.ring_all();
                        }
                        continue;
                    }
                };
                changes.iter().for_each(|change| shared.wakers.ring(change));
            }
            #[expect(unreachable_code, reason = "gives the block its type")]
            Ok::<(), EngineError>(())
        };
        tokio::select! {
            biased;
            () = session.over.cancelled() => return,
            ended = watch => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "following shared resources broke off, looking afresh");
                }
                shared.clock.sleep(Duration::from_millis(200)).await;
            }
            () = shared.clock.sleep(LOOK_AGAIN) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_ring_for_what_they_are_about() {
        assert_eq!(topic_of(&keys::shared("a/net")), Some(shared_topic("a/net").as_str()));
        assert_eq!(topic_of(&keys::pool_slot("copies", 3)), Some(pool_topic("copies").as_str()));
        assert_eq!(topic_of("claim/x"), None);
    }
}
