//! Places in pools: keys that name their holder, never counters.
//!
//! A place is taken in the transaction that claims the task or starts the job, which compares that nobody has it,
//! and given back in the one that ends its holder. Jobs that wait stand in a queue, larger priorities first, then
//! older jobs; whoever stands further back leaves free places to those before it.

use std::collections::BTreeSet;

use futures::future::try_join;
use windlass_model::TaskId;
use windlass_model::plan::PoolUse;
use windlass_store::{Compare, keys};

use super::guarded::Guarded;
use super::image::Blocked;
use super::looked::Looked;
use super::{Coordinator, load};
use crate::EngineError;
use crate::records::{SlotHolder, encode};
use crate::wakers;

impl Coordinator {
    /// A free place in each pool, or the pool that has none for this job.
    pub(super) async fn free_slots(&self, pools: &[PoolUse]) -> Result<Result<Vec<String>, String>, EngineError> {
        self.free_slots_of(pools, &BTreeSet::new(), &mut Looked::default()).await
    }

    /// As [`Self::free_slots`], in a round that has looked at some. `pending` are about to be taken.
    pub(super) async fn free_slots_of(
        &self,
        pools: &[PoolUse],
        pending: &BTreeSet<String>,
        looked: &mut Looked,
    ) -> Result<Result<Vec<String>, String>, EngineError> {
        let job = self.image.id();
        let mut free = Vec::with_capacity(pools.len());
        for PoolUse { pool, size } in pools {
            if !looked.pools.contains_key(pool) {
                // Before looking: whatever changes afterwards rings.
                self.shared.wakers.wait(wakers::pool_topic(pool), job, &self.woken);
                let (mut held, before) = self.patiently(|| self.pool(pool)).await?;
                if looked.with_batch {
                    for (_, n) in self.batch.places_given_back().filter(|(name, _)| name == pool) {
                        held.remove(&n);
                    }
                }
                looked.pools.insert(pool.clone(), (held, before));
            }
            let (mut held, before) = looked.pools.get(pool).cloned().unwrap_or_default();
            held.extend(
                pending
                    .iter()
                    .filter_map(|key| keys::pool_of_slot(key))
                    .filter(|(name, _)| *name == pool)
                    .map(|(_, n)| n),
            );
            let left = usize::try_from(*size).unwrap_or(usize::MAX).saturating_sub(held.len());
            // A pool that was made smaller has places beyond its end; they count until they are given back.
            let n = (0..*size).find(|n| !held.contains(n));
            match n {
                Some(n) if left > before => free.push(keys::pool_slot(pool, n)),
                _ => return Ok(Err(pool.clone())),
            }
        }
        Ok(Ok(free))
    }

    /// The places of a pool that are held, and the number of jobs that wait for one before this one.
    async fn pool(&self, pool: &str) -> Result<(BTreeSet<u32>, usize), EngineError> {
        let mut held = BTreeSet::new();
        let slots = keys::pool_slots(pool);
        let held_places = load::each(&*self.shared.store, &slots, |entry| {
            held.extend(keys::pool_of_slot(&entry.key).filter(|(name, _)| *name == pool).map(|(_, n)| n));
            Ok(())
        });
        let prefix = keys::queue(pool);
        let mine = keys::queued(pool, self.image.record.priority, self.image.id());
        let mut before = 0;
        let waiting = load::each(&*self.shared.store, &prefix, |entry| {
            let is_of_pool = entry.key[prefix.len()..].matches('/').count() == 1;
            before += usize::from(is_of_pool && entry.key < mine);
            Ok(())
        });
        try_join(held_places, waiting).await?;
        Ok((held, before))
    }

    /// Puts places that are free into a change.
    pub(super) fn take_slots(&self, change: &mut Guarded, slots: &[String], task: Option<TaskId>) {
        for slot in slots {
            let holder = SlotHolder { job: self.image.id(), task, since: self.now() };
            change.compares.push(Compare::Absent(slot.clone()));
            change.puts.push((slot.clone(), Some(encode(&holder))));
        }
    }

    /// Stands in the queues of the pools that tasks wait for, and in no others.
    pub(super) fn keep_queues(&mut self) {
        let mut wanted = BTreeSet::new();
        // A job that may not go on keeps nobody waiting.
        if self.image.status.state.may_claim() {
            wanted.extend(self.image.blocked().filter_map(|on| match on {
                Blocked::Pool(pool) => Some(pool.clone()),
                Blocked::Shared(_) => None,
            }));
        }
        self.queue_for(wanted);
    }

    /// Stands in these queues and in no others.
    pub(super) fn queue_for(&mut self, wanted: BTreeSet<String>) {
        let (job, priority) = (self.image.id(), self.image.record.priority);
        for pool in self.queued.symmetric_difference(&wanted) {
            let key = keys::queued(pool, priority, job);
            if wanted.contains(pool) {
                self.batch.put(key, bytes::Bytes::new());
            } else {
                self.batch.delete(key);
            }
        }
        self.queued = wanted;
    }

    /// After a takeover: where the job stood in a queue is not known. Leaving a queue in which it does not stand is
    /// harmless.
    pub(super) fn leave_forgotten_queues(&mut self) {
        let of_tasks = self.image.tasks.values().filter(|task| task.status.outcome().is_none());
        self.queued = of_tasks.flat_map(|task| &task.spec.pools).map(|pool| pool.pool.clone()).collect();
        self.queued.extend(self.job_pools().into_iter().map(|pool| pool.pool));
    }

    /// Pools in which the job as a whole needs a place.
    pub(super) fn job_pools(&self) -> Vec<PoolUse> {
        let record = &self.image.record;
        if record.preview {
            return Vec::new();
        }
        self.shared.kinds.kind(&record.kind).map(|kind| kind.pools(&record.spec)).unwrap_or_default()
    }

    /// Takes the job's own places: together with the move that needs them, or not at all.
    pub(super) async fn take_job_slots(&mut self) -> Result<Option<String>, EngineError> {
        let pools = self.job_pools();
        if pools.is_empty() || !self.image.status.slots.is_empty() {
            return Ok(None);
        }
        let slots = match self.free_slots(&pools).await? {
            Ok(slots) => slots,
            Err(pool) => return Ok(Some(pool)),
        };
        for slot in &slots {
            let holder = SlotHolder { job: self.image.id(), task: None, since: self.now() };
            self.batch.absent.push(slot.clone());
            self.batch.put(slot.clone(), encode(&holder));
        }
        self.image.status.slots = slots;
        Ok(None)
    }

    /// Gives the job's own places back. The state is written with the same batch.
    pub(super) fn give_job_slots_back(&mut self) {
        for slot in std::mem::take(&mut self.image.status.slots) {
            self.batch.delete(slot);
        }
        self.batch.put(keys::state(self.image.id()), encode(&self.image.status));
    }
}
