//! All agents under one lock, so that every change is seen whole: by the observer, by the record, by placements.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ids::{Id, Vector};
use super::index::Index;
use super::method::Method;
use super::state::{AgentState, Refusal, Save};
use super::watch::{Change, Violation, Watch};

/// A change that somebody asked an agent for, whether or not it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mutation {
    /// Counts the changes of the whole cluster from 1, including crashes and restarts.
    pub sequence: u64,
    /// The agent.
    pub agent: usize,
    /// What was asked.
    pub method: Method,
    /// The id, or empty where there is none or more than one.
    pub id: Id,
    /// The time in the request, 0 where there is none.
    pub time: i64,
    /// What the agent answered.
    pub outcome: Result<(), Refusal>,
}

/// Which ids a change can touch.
pub(super) enum Touched<'a> {
    One(&'a str),
    Many(Vec<Id>),
    /// Those in the queues.
    Queued,
    /// Any.
    All,
    /// Any; clients themselves are to blame for what happens to these.
    AllForgiving(&'a BTreeSet<Id>),
}

/// One agent and what is around it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) state: AgentState,
    /// Goes up with every crash and stop, so that work begun before cannot end after.
    pub(super) generation: u64,
    pub(super) up: bool,
    /// Ids that clients wrote here and that would not survive a crash.
    fresh: BTreeSet<Id>,
}

/// For each id the agents it is on, in ascending order, each with the time of its copy (Unix nanoseconds).
pub type Placement = BTreeMap<Id, Vec<(usize, i64)>>;

impl Slot {
    pub(super) fn new(name: String, state: AgentState) -> Self {
        Self { name, state, generation: 0, up: true, fresh: BTreeSet::new() }
    }

    /// What has left the queues is durable now.
    fn keep_fresh(&mut self) {
        let state = &self.state;
        self.fresh.retain(|id| state.is_waiting(id));
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) slots: Vec<Slot>,
    pub(super) replica: usize,
    watch: Option<Watch>,
    sequence: u64,
    record: VecDeque<Mutation>,
    record_limit: usize,
}

pub(super) type SharedWorld = Arc<Mutex<World>>;

/// Locks the world. A panic of another test thread in between leaves whole values behind, so poison is no concern.
pub(super) fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(super) fn new(slots: Vec<Slot>, replica: usize, record_limit: usize) -> Self {
        Self { slots, replica, watch: None, sequence: 0, record: VecDeque::new(), record_limit }
    }

    /// The agent's state, if it is up and still the one of `generation`.
    pub(super) fn alive(&self, agent: usize, generation: u64) -> Result<&AgentState, Refusal> {
        let slot = &self.slots[agent];
        if slot.up && slot.generation == generation {
            return Ok(&slot.state);
        }
        Err(Refusal::Unavailable(format!("{} went down", slot.name)))
    }

    /// Changes one agent and lets the observer see what that did to the copies of the ids it can touch.
    pub(super) fn change<T>(
        &mut self,
        agent: usize,
        cause: &str,
        touched: Touched<'_>,
        change: impl FnOnce(&mut AgentState) -> T,
    ) -> T {
        self.sequence += 1;
        if self.watch.is_none() {
            return change(&mut self.slots[agent].state);
        }
        let nobody = BTreeSet::new();
        let (all, forgiven) = match touched {
            Touched::All => (true, &nobody),
            Touched::AllForgiving(ids) => (true, ids),
            _ => (false, &nobody),
        };
        let state = &mut self.slots[agent].state;
        let ids: Vec<Id> = match touched {
            Touched::One(id) => vec![id.into()],
            Touched::Many(ids) => ids,
            Touched::Queued => state.waiting().cloned().collect(),
            Touched::All | Touched::AllForgiving(_) => state.readable().map(|(id, _)| Arc::clone(id)).collect(),
        };
        let mut before: BTreeMap<Id, bool> =
            ids.into_iter().map(|id| (Arc::clone(&id), state.visible(&id).is_some())).collect();
        let result = change(state);
        if all {
            for (id, _) in state.readable() {
                before.entry(Arc::clone(id)).or_insert(false);
            }
        }
        self.observe(agent, cause, &before, forgiven);
        result
    }

    fn observe(&mut self, agent: usize, cause: &str, before: &BTreeMap<Id, bool>, forgiven: &BTreeSet<Id>) {
        let Some(watch) = self.watch.as_mut() else { return };
        for (id, was) in before {
            let is = self.slots[agent].state.visible(id).is_some();
            if is != *was {
                watch.count(id, is);
            }
        }
        for id in forgiven {
            watch.forgive(id);
        }
        let change = Change { sequence: self.sequence, agent, cause };
        for id in before.keys() {
            let newest = self.slots.iter().filter_map(|slot| Some(slot.state.visible(id)?.1)).max();
            watch.judge(change, id, newest);
        }
    }

    /// As [`World::change`], for a request: puts it on record.
    pub(super) fn request<T>(
        &mut self,
        agent: usize,
        (method, id, time): (Method, &str, i64),
        touched: Touched<'_>,
        change: impl FnOnce(&mut AgentState) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let result = self.change(agent, &method.to_string(), touched, change);
        if self.record_limit > 0 {
            if self.record.len() == self.record_limit {
                self.record.pop_front();
            }
            let outcome = result.as_ref().map(|_| ()).map_err(Clone::clone);
            self.record.push_back(Mutation { sequence: self.sequence, agent, method, id: id.into(), time, outcome });
        }
        result
    }

    pub(super) fn record(&self) -> Vec<Mutation> {
        self.record.iter().cloned().collect()
    }

    pub(super) fn begin_save(&mut self, agent: usize) -> Result<Save, Refusal> {
        let slot = &mut self.slots[agent];
        let save = slot.state.begin_save()?;
        if save == Save::Begun && slot.state.options().persistent {
            slot.keep_fresh();
        }
        Ok(save)
    }

    /// `index` is in a backup now.
    pub(super) fn back_up(&mut self, agent: usize, index: Arc<Index>) {
        let slot = &mut self.slots[agent];
        slot.state.back_up(index);
        if !slot.state.options().persistent {
            slot.keep_fresh();
        }
    }

    /// The agent loses what is not durable. It stays down unless `back`.
    pub(super) fn crash(&mut self, agent: usize, back: bool) {
        let fresh = std::mem::take(&mut self.slots[agent].fresh);
        self.change(agent, "crash", Touched::AllForgiving(&fresh), AgentState::crash);
        let slot = &mut self.slots[agent];
        slot.generation += 1;
        slot.up = back;
    }

    // ---- watching ----

    pub(super) fn watch_copies(&mut self, limit_extra: bool) {
        let mut watch = Watch::new(self.replica, limit_extra);
        for slot in &self.slots {
            for (id, _) in slot.state.readable() {
                watch.begin_with(id);
            }
        }
        self.watch = Some(watch);
    }

    pub(super) fn violations(&self) -> (Vec<Violation>, u64) {
        self.watch.as_ref().map_or((Vec::new(), 0), |watch| {
            let (kept, count) = watch.violations();
            (kept.to_vec(), count)
        })
    }

    pub(super) fn resurrected(&self) -> Vec<Id> {
        self.watch.as_ref().map_or(Vec::new(), Watch::resurrected)
    }

    // ---- clients ----

    /// Does what a client asked for as one step: the observer counts, but judges nothing in between.
    fn client(&mut self, id: &Id, step: impl FnOnce(&mut Self) -> Result<(), Refusal>) -> Result<(), Refusal> {
        self.sequence += 1;
        let before: Vec<bool> = self.slots.iter().map(|slot| slot.state.visible(id).is_some()).collect();
        let result = step(self);
        for (slot, was) in self.slots.iter_mut().zip(before) {
            let is = slot.state.visible(id).is_some();
            if let Some(watch) = self.watch.as_mut()
                && is != was
            {
                watch.count(id, is);
            }
            if slot.state.is_waiting(id) {
                slot.fresh.insert(Arc::clone(id));
            }
        }
        result
    }

    fn holders(&self, id: &str) -> Vec<usize> {
        let up = self.slots.iter().enumerate().filter(|(_, slot)| slot.up);
        up.filter(|(_, slot)| slot.state.visible(id).is_some()).map(|(agent, _)| agent).collect()
    }

    /// The agents that are up, the emptiest first.
    pub(super) fn by_load(&self) -> Vec<usize> {
        let mut agents: Vec<usize> = (0..self.slots.len()).filter(|agent| self.slots[*agent].up).collect();
        agents.sort_by_key(|agent| {
            let counts = self.slots[*agent].state.counts();
            u64::from(counts.stored) + u64::from(counts.uncommitted)
        });
        agents
    }

    pub(super) fn client_insert(&mut self, id: &Id, vector: &Vector, time: i64) -> Result<(), Refusal> {
        if !self.holders(id).is_empty() {
            return Err(Refusal::AlreadyExists(format!("vector {} already exists", id.escape_debug())));
        }
        self.client(id, |world| world.insert_on_emptiest(id, vector, time))?;
        self.client_wrote(id, time);
        Ok(())
    }

    fn insert_on_emptiest(&mut self, id: &Id, vector: &Vector, time: i64) -> Result<(), Refusal> {
        for agent in self.by_load().into_iter().take(self.replica) {
            self.slots[agent].state.insert(Arc::clone(id), Arc::clone(vector), time, time, time)?;
        }
        Ok(())
    }

    /// `balanced` removes everywhere and inserts on the emptiest agents, as the gateway does unless told otherwise.
    pub(super) fn client_update(&mut self, id: &Id, vector: &Vector, time: i64, balanced: bool) -> Result<(), Refusal> {
        let holders = self.holders(id);
        if holders.is_empty() {
            return Err(Refusal::NotFound(format!("vector {} not found", id.escape_debug())));
        }
        self.client(id, |world| {
            if balanced {
                for agent in holders {
                    world.slots[agent].state.remove(Arc::clone(id), time, time)?;
                }
                return world.insert_on_emptiest(id, vector, time.saturating_add(1));
            }
            for agent in holders {
                world.slots[agent].state.update(Arc::clone(id), Arc::clone(vector), time, time)?;
            }
            Ok(())
        })?;
        self.client_wrote(id, time.saturating_add(1));
        Ok(())
    }

    fn client_wrote(&mut self, id: &Id, time: i64) {
        if let Some(watch) = self.watch.as_mut() {
            watch.client_wrote(id, time);
        }
    }

    pub(super) fn client_delete(&mut self, id: &Id, time: i64) -> Result<(), Refusal> {
        let result = self.client(id, |world| {
            let up = world.slots.iter_mut().filter(|slot| slot.up);
            let answers: Vec<_> = up.map(|slot| slot.state.remove(Arc::clone(id), time, time)).collect();
            // One agent that had it is enough.
            if answers.iter().any(Result::is_ok) {
                return Ok(());
            }
            answers.into_iter().fold(Ok(()), Result::and)
        });
        if let (Ok(()), Some(watch)) = (&result, self.watch.as_mut()) {
            watch.client_deleted(id);
        }
        result
    }

    // ---- placements ----

    pub(super) fn placement(&self) -> Placement {
        let mut placement = Placement::new();
        for (agent, slot) in self.slots.iter().enumerate() {
            for (id, time) in slot.state.readable() {
                placement.entry(Arc::clone(id)).or_default().push((agent, time));
            }
        }
        placement
    }

    pub(super) fn durable_placement(&self) -> Placement {
        let mut placement = Placement::new();
        for (agent, slot) in self.slots.iter().enumerate() {
            for (id, entry) in slot.state.durable().entries() {
                placement.entry(Arc::clone(id)).or_default().push((agent, entry.time));
            }
        }
        placement
    }
}
