//! Changes that rest on records which other jobs change too: shared resources, places in pools.
//!
//! Such a change is a transaction of its own. It compares the coordinator's claim, as every other, and the records
//! it rests on; the task's own record and the other record change together or not at all. When somebody else was
//! faster nothing has happened, in memory neither, and it is decided anew.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use windlass_model::TaskId;
use windlass_model::effect::Effect;
use windlass_model::log::Level;
use windlass_model::plan::TaskSpec;
use windlass_model::task::{TaskEvent, TaskStatus};
use windlass_store::{Committed, Compare, StoreError, Txn, budget, keys};

use super::Coordinator;
use super::image::{Batch, Blocked, Place, ROUND};
use super::looked::Looked;
use crate::EngineError;
use crate::records::{AddedBy, Hold, TaskRecord, encode};

/// Tasks that are tried in one round.
const TRIED: usize = 64;
/// Changes that go into one transaction at most.
pub(super) const TOGETHER: usize = 16;
/// Operations and bytes of records of others that one transaction takes: below the store's limits by what else goes with
/// them.
const OPS: usize = 72;
const BYTES: usize = 96 * 1024;
/// Operations and bytes of a batch that go into such a transaction: together within the store's limits.
const WITH_BATCH: usize = budget::OPS - 4;
const BATCH_BYTES: usize = 64 * 1024;

/// What becomes durable together, if what it compares still holds.
#[derive(Debug, Default)]
pub(super) struct Guarded {
    pub(super) label: &'static str,
    pub(super) compares: Vec<Compare>,
    /// Records of others; `None` deletes.
    pub(super) puts: Vec<(String, Option<Bytes>)>,
    /// Moves of the job's tasks, in order.
    pub(super) moves: Vec<(TaskId, TaskEvent)>,
    /// Ledger entries, each of the task that it names.
    pub(super) effects: Vec<Effect>,
    /// Shared resources that the job holds from now on, or no more.
    pub(super) holds: Vec<(String, Option<TaskId>)>,
    /// Tasks that become part of the plan.
    pub(super) adds: Vec<TaskSpec>,
    pub(super) logs: Vec<(Level, &'static str, TaskId, String)>,
}

impl Guarded {
    fn ops(&self) -> usize {
        self.puts.len() + self.moves.len() + self.effects.len() + self.holds.len() + self.adds.len() + self.logs.len()
    }

    fn bytes(&self) -> usize {
        self.puts.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum()
    }

    /// Takes in another change of the same sort, or gives it back when there is no room for it.
    pub(super) fn join(&mut self, other: Self) -> Result<(), Box<Self>> {
        let first = self.moves.is_empty() && self.puts.is_empty();
        let fits = self.label == other.label
            && self.ops() + other.ops() <= OPS
            && self.bytes() + other.bytes() <= BYTES
            && self.compares.len() + other.compares.len() <= OPS
            && !other.puts.iter().any(|(key, _)| self.touches(key));
        if first {
            *self = other;
            return Ok(());
        }
        if !fits {
            return Err(Box::new(other));
        }
        self.compares.extend(other.compares);
        self.puts.extend(other.puts);
        self.moves.extend(other.moves);
        self.effects.extend(other.effects);
        self.holds.extend(other.holds);
        self.adds.extend(other.adds);
        self.logs.extend(other.logs);
        Ok(())
    }

    /// The records of others that it writes.
    fn written(&self) -> impl Iterator<Item = &String> {
        self.puts.iter().map(|(key, _)| key)
    }

    fn touches(&self, key: &str) -> bool {
        self.puts.iter().any(|(other, _)| other == key)
    }
}

/// Changes that start tasks, to be committed together.
#[derive(Default)]
struct Group {
    change: Guarded,
    starts: Vec<TaskId>,
    /// Slots that they take.
    slots: BTreeSet<String>,
}

/// What is to be done with a task that needs more than a place.
pub(super) enum Decision {
    /// It has to wait.
    Blocked(Blocked),
    /// It is over without running.
    Ends(Guarded),
    /// It runs.
    Starts(Guarded),
}

/// Counts places by their pools.
pub(super) fn count_pools<'a>(counts: &mut BTreeMap<String, usize>, places: impl Iterator<Item = (&'a str, u32)>) {
    for (pool, _) in places {
        *counts.entry(pool.to_owned()).or_default() += 1;
    }
}

impl Coordinator {
    /// Claims what needs more than a place and ranks before everything that needs only that. Returns whether anything
    /// changed.
    pub(super) async fn claim_guarded_first(&mut self) -> Result<bool, EngineError> {
        self.try_again_what_waited();
        match self.image.rank_of_ready() {
            Some(rank) if self.image.has_guarded_above(rank) => self.claim_guarded_above(Some(rank)).await,
            _ => Ok(false),
        }
    }

    /// Claims what needs more than a place and can have it. Returns whether anything changed.
    pub(super) async fn claim_guarded(&mut self) -> Result<bool, EngineError> {
        self.claim_guarded_above(None).await
    }

    async fn claim_guarded_above(&mut self, rank: Option<i32>) -> Result<bool, EngineError> {
        if self.shutting_down || self.deleted || self.submitting.is_some() {
            return Ok(false);
        }
        self.try_again_what_waited();
        let mut changed = false;
        self.wants_worker = false;
        // Those that are not looked at yet go on asking.
        let asked_before = std::mem::take(&mut self.guarded_wants_place) && rank.is_some();
        let mut group = Group::default();
        let mut looked = Looked { with_batch: true, ..Looked::default() };
        // Pools that had no place in this round, and the sizes of those that had one.
        let (mut full, mut open) = (BTreeSet::new(), BTreeMap::new());
        let mut candidates = self.image.guarded_candidates(TRIED);
        candidates.retain(|id| rank.is_none_or(|rank| self.image.tasks[id].spec.rank > rank));
        for (at, id) in candidates.iter().copied().enumerate() {
            if let Some(pool) = self.image.needs_pools_only(id).iter().find(|one| full.contains(&one.pool)) {
                let on = Blocked::Pool(pool.pool.clone());
                self.image.block(id, on);
                continue;
            }
            if self.has_no_place() {
                self.guarded_wants_place = true;
                break;
            }
            // What a change of the group is about to write is not in the store yet.
            if self.resource_of(id).is_some_and(|key| group.change.touches(&keys::shared(key))) {
                changed |= self.commit_group(&mut group, &mut looked).await?;
            }
            if !self.image.is_guarded(id) {
                continue;
            }
            self.look_ahead(&mut looked, &candidates[at..]).await?;
            match self.decide(id, &group.slots, &mut looked).await? {
                Decision::Blocked(on) => {
                    if let Blocked::Pool(pool) = &on {
                        full.insert(pool.clone());
                    }
                    self.image.block(id, on);
                }
                Decision::Ends(change) => {
                    self.commit_group(&mut group, &mut looked).await?;
                    let written: Vec<String> = change.written().cloned().collect();
                    self.commit_guarded(change).await?;
                    looked.changed(written.iter());
                    changed = true;
                }
                Decision::Starts(change) => {
                    let spec = self.image.tasks[&id].spec.clone();
                    let job = self.image.record.clone();
                    let place = self.attempts.place(&spec, &job, &self.remote.wants.grants);
                    self.guarded_wants_place |= place == Place::None;
                    self.wants_type |= place == Place::NoneOfType;
                    self.wants_worker |= place == Place::Foreign;
                    if place != Place::Taken {
                        // Who coordinates the job moves shared records and slots; who runs the task may be another.
                        if self.may_offer_guarded(&spec) {
                            self.commit_group(&mut group, &mut looked).await?;
                            // A slot that the group has just taken is not free any more.
                            if let Decision::Starts(change) = self.decide(id, &BTreeSet::new(), &mut looked).await? {
                                let written: Vec<String> = change.written().cloned().collect();
                                self.offer_guarded(id, change).await?;
                                looked.changed(written.iter());
                            }
                            changed = true;
                        } else if place == Place::None {
                            break;
                        }
                        continue;
                    }
                    changed = true;
                    open.extend(spec.pools.iter().map(|one| (one.pool.clone(), one.size)));
                    let slots: Vec<String> =
                        change.written().filter(|key| key.starts_with(keys::SLOTS)).cloned().collect();
                    if let Err(change) = group.change.join(change) {
                        self.commit_group(&mut group, &mut looked).await?;
                        group.change = *change;
                    }
                    group.slots.extend(slots);
                    group.starts.push(id);
                    if group.starts.len() >= self.together {
                        self.commit_group(&mut group, &mut looked).await?;
                    }
                }
            }
        }
        changed |= self.commit_group(&mut group, &mut looked).await?;
        // There may be places for more of those that wait.
        self.image.unblock(TRIED, |on| match on {
            Blocked::Pool(pool) => {
                open.get(pool).is_some_and(|size| looked.has_room(pool, *size)) && !full.contains(pool)
            }
            Blocked::Shared(_) => false,
        });
        if rank.is_some() {
            // The others are looked at in the same turn of the loop.
            self.guarded_wants_place |= asked_before;
            return Ok(changed);
        }
        self.keep_queues();
        self.listen_only_where_blocked();
        self.want_places();
        Ok(changed)
    }

    /// Lets tasks be tried again: all when something changed that they wait for, else as many as the job's own tasks have
    /// just made room for.
    fn try_again_what_waited(&mut self) {
        let in_batch = self.batch.places_given_back();
        count_pools(&mut self.given_back, in_batch);
        let given_back = std::mem::take(&mut self.given_back);
        let rung = self.woken.count();
        if rung != self.woken_seen {
            self.woken_seen = rung;
            self.image.unblock(TRIED, |_| true);
        } else if let Some(most) = given_back.values().max() {
            self.image.unblock(*most, |on| matches!(on, Blocked::Pool(pool) if given_back.contains_key(pool)));
        }
    }

    /// Whether nothing more can run, neither here nor elsewhere: nothing needs to be looked at then.
    fn has_no_place(&self) -> bool {
        !self.shared.arbiter.has_place(self.asker()) && !self.shared.roster.has_others(self.session.worker)
    }

    /// Commits what has been gathered, and starts the tasks of it. Returns whether there was anything.
    async fn commit_group(&mut self, group: &mut Group, looked: &mut Looked) -> Result<bool, EngineError> {
        let Group { change, starts, .. } = std::mem::take(group);
        if starts.is_empty() {
            return Ok(false);
        }
        let written: Vec<String> = change.written().cloned().collect();
        if self.commit_guarded(change).await? {
            self.together = TOGETHER;
            looked.changed(written.iter());
            for id in starts {
                self.start(id).await?;
            }
            return Ok(true);
        }
        // One of the records has changed meanwhile: decided anew, one by one, until something succeeds.
        self.together = 1;
        looked.forget();
        for id in starts {
            self.reuse.remove(&id);
            self.attempts.give_back(id);
        }
        Ok(true)
    }

    /// Ends tasks that hold a shared resource, together with that. Returns whether anything changed.
    pub(super) async fn end_holding(&mut self) -> Result<bool, EngineError> {
        let ending = std::mem::take(&mut self.image.to_end);
        let changed = !ending.is_empty();
        for (id, event) in ending {
            while let Some(change) = self.let_go(id, &event).await? {
                if self.commit_guarded(change).await? {
                    break;
                }
            }
        }
        Ok(changed)
    }

    /// Commits a change, and with it what was decided before. `false`: somebody else was faster, and of the change nothing
    /// has happened.
    pub(super) async fn commit_guarded(&mut self, change: Guarded) -> Result<bool, EngineError> {
        if !self.goes_with_batch(&change) {
            self.flush(false).await?;
        }
        let (job, now) = (self.image.id(), self.now());
        let head = self.image.head;
        let mut batch = self.batch.clone();
        for (id, status) in self.moved(&change, &mut batch)? {
            batch.put(keys::status(job, id), encode(&status));
        }
        for effect in &change.effects {
            batch.put(keys::effect(job, effect.task, effect.n), encode(effect));
        }
        for (key, task) in &change.holds {
            match task {
                Some(task) => batch.put(keys::hold(job, key), encode(&Hold { key: key.clone(), task: *task })),
                None => batch.delete(keys::hold(job, key)),
            }
        }
        for spec in &change.adds {
            let record = TaskRecord { spec: spec.clone(), added_by: AddedBy::Generation(self.image.status.generation) };
            batch.put(keys::task(job, spec.id), encode(&record));
        }
        for (level, code, id, text) in &change.logs {
            self.image.log(&mut batch, now, *level, code, Some(*id), |_| text.clone());
        }
        // A place that the job gives back and takes in one go is never free in between.
        for (key, value) in &change.puts {
            match value {
                Some(value) => batch.put(key.clone(), value.clone()),
                None => batch.delete(key.clone()),
            }
        }
        self.image.head.batch += 1;
        batch.put(keys::head(job), encode(&self.image.head));
        let mut given_back = BTreeMap::new();
        count_pools(&mut given_back, batch.places_given_back());
        let handed_on = |compare: &&Compare| matches!(compare, Compare::Absent(key) if self.batch.deletes(key));
        let mut txn = Txn::new().when(Compare::Created(keys::claim(job), self.claim));
        txn.compares.extend(change.compares.iter().filter(|compare| !handed_on(compare)).cloned());
        txn.ops.extend(batch.into_ops());
        if !self.commit_if_unchanged(txn, change.label).await? {
            self.image.head = head;
            self.flush(false).await?;
            return Ok(false);
        }
        let before = std::mem::take(&mut self.batch);
        for (pool, count) in given_back {
            *self.given_back.entry(pool).or_default() += count;
        }
        self.image.insert(change.adds.into_iter().map(|spec| (spec, TaskStatus::new(now))).collect());
        // It is durable; the image follows. What it would write has been written.
        let mut written = Batch::default();
        for effect in change.effects {
            if let Some(task) = self.image.tasks.get_mut(&effect.task) {
                task.effects.insert(effect.n, effect);
            }
        }
        for (key, task) in change.holds {
            match task {
                Some(task) => self.image.holds.insert(key, task),
                None => self.image.holds.remove(&key),
            }
        }
        for (id, event) in change.moves {
            self.image.unready(id);
            self.image.move_task(&mut written, id, event, now)?;
        }
        self.follow_up(before.starts).await?;
        Ok(true)
    }

    /// Whether what was decided before and this change fit into one transaction.
    fn goes_with_batch(&self, change: &Guarded) -> bool {
        let slots = |id: &TaskId| self.image.tasks.get(id).map_or(0, |task| task.status.slots.len());
        let given_back: usize = change.moves.iter().map(|(id, _)| slots(id)).sum();
        // A round is told by its batch; a name that is taken has to be told from a record that changed.
        self.batch.is_empty()
            || (self.submitting.is_none()
                && self.batch.absent.is_empty()
                && self.batch.label != ROUND
                && self.batch.bytes() <= BATCH_BYTES
                && self.batch.len() + change.ops() + given_back <= WITH_BATCH)
    }

    /// The statuses that the moves come to, and the slots that they set free.
    fn moved(&self, change: &Guarded, batch: &mut Batch) -> Result<BTreeMap<TaskId, TaskStatus>, EngineError> {
        let now = self.now();
        let mut statuses: BTreeMap<TaskId, TaskStatus> = BTreeMap::new();
        for (id, event) in &change.moves {
            let before = match statuses.remove(id) {
                Some(status) => status,
                None => self.image.tasks.get(id).map_or_else(|| TaskStatus::new(now), |task| task.status.clone()),
            };
            let held = before.slots.clone();
            let status = before.apply(event.clone(), now).map_err(|error| EngineError::bug(error.to_string()))?;
            if status.slots.is_empty() {
                held.into_iter().for_each(|slot| batch.delete(slot));
            }
            statuses.insert(*id, status);
        }
        Ok(statuses)
    }

    /// Commits through a store that is away for a while, and through commits that were not confirmed.
    async fn commit_if_unchanged(&self, txn: Txn, label: &'static str) -> Result<bool, EngineError> {
        let mut wait = Duration::from_millis(50);
        let mut open = false;
        loop {
            match self.shared.commit(txn.clone(), label).await {
                Ok(Committed::At(_)) => return Ok(true),
                Ok(Committed::Conflict(found)) => {
                    // An earlier, unconfirmed commit of the very same may be what is in the way.
                    if open && self.is_applied().await? {
                        return Ok(true);
                    }
                    let ours = found.first().and_then(Option::as_ref).is_some_and(|entry| entry.created == self.claim);
                    return if ours { Ok(false) } else { Err(EngineError::ClaimLost) };
                }
                Err(EngineError::Store(StoreError::Unavailable(_))) => {}
                Err(EngineError::Store(StoreError::Unknown(_))) => {
                    open = true;
                    if self.is_applied().await? {
                        return Ok(true);
                    }
                }
                Err(error) => return Err(error),
            }
            if self.session.over.is_cancelled() {
                return Err(EngineError::ClaimLost);
            }
            self.shared.clock.sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(5));
        }
    }

    /// Reads, through a store that is away for a while: what runs must not be stopped because of it.
    pub(super) async fn patiently<T, F>(&self, read: impl Fn() -> F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        loop {
            match read().await {
                Err(EngineError::Store(StoreError::Unavailable(_) | StoreError::Unknown(_)))
                    if !self.session.over.is_cancelled() =>
                {
                    self.shared.clock.sleep(Duration::from_millis(200)).await;
                }
                other => return other,
            }
        }
    }
}
