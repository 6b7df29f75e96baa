//! Tasks that need more than a place: a shared resource, or a place in a pool. They are claimed one by one, each in
//! a transaction that compares what it relies on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use windlass_model::TaskId;
use windlass_model::job::JobState;
use windlass_model::plan::{PoolUse, TaskSpec};
use windlass_model::task::{SharedUse, TaskEvent, TaskState};

use super::{Batch, JobImage, Ready};
use crate::EngineError;

/// What a claimable task waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Blocked {
    /// A shared resource, by its key.
    Shared(String),
    /// A place in a pool.
    Pool(String),
}

/// Claimable tasks that wait for a record of the store, by what they wait for: when something of a pool changes only the
/// first of those that wait for it are tried again, however many there are.
#[derive(Debug, Default)]
pub(super) struct Blockade {
    groups: BTreeMap<Blocked, BTreeSet<Ready>>,
    places: HashMap<TaskId, (Blocked, Ready)>,
}

impl Blockade {
    fn insert(&mut self, entry: Ready, on: Blocked) {
        self.remove(entry.2);
        self.groups.entry(on.clone()).or_default().insert(entry);
        self.places.insert(entry.2, (on, entry));
    }

    pub(super) fn remove(&mut self, id: TaskId) {
        let Some((on, entry)) = self.places.remove(&id) else { return };
        if let Some(group) = self.groups.get_mut(&on) {
            group.remove(&entry);
            if group.is_empty() {
                self.groups.remove(&on);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The first that wait for each.
    fn first(&self, most: usize, which: impl Fn(&Blocked) -> bool) -> Vec<Ready> {
        let groups = self.groups.iter().filter(|(on, _)| which(on));
        groups.flat_map(|(_, group)| group.iter().take(most)).copied().collect()
    }
}

/// Shared resources that a job holds, and the task of each that stands for that.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    tasks: BTreeMap<String, TaskId>,
    keys: HashMap<TaskId, String>,
}

impl Holds {
    pub(crate) fn insert(&mut self, key: String, task: TaskId) {
        self.remove(&key);
        self.keys.insert(task, key.clone());
        self.tasks.insert(key, task);
    }

    pub(crate) fn remove(&mut self, key: &str) {
        if let Some(task) = self.tasks.remove(key) {
            self.keys.remove(&task);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// One of them.
    pub(crate) fn first(&self) -> Option<(String, TaskId)> {
        self.tasks.first_key_value().map(|(key, task)| (key.clone(), *task))
    }

    /// The tasks.
    pub(crate) fn values(&self) -> impl Iterator<Item = &TaskId> {
        self.tasks.values()
    }

    /// Both.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &TaskId)> {
        self.tasks.iter()
    }
}

impl JobImage {
    /// The key of the shared resource that a task stands for.
    pub(crate) fn held_by(&self, task: TaskId) -> Option<&String> {
        self.holds.keys.get(&task)
    }

    pub(super) fn needs_more_than_a_place(&self, id: TaskId) -> bool {
        let Some(task) = self.tasks.get(&id) else { return false };
        let shared = match task.spec.undoes {
            Some(undone) => self.held_by(undone).is_some(),
            None => task.spec.shared.is_some() && task.status.shared != Some(SharedUse::Private),
        };
        shared || (!task.spec.pools.is_empty() && !self.record.preview)
    }

    /// Such tasks that may be claimed now, in their order.
    pub(crate) fn guarded_candidates(&self, most: usize) -> Vec<TaskId> {
        if self.record.preview {
            return Vec::new();
        }
        let cleaning = self.status.state == JobState::Cancelling;
        let may = |id: &TaskId| self.status.state.may_claim() || (cleaning && self.tasks[id].spec.undoes.is_some());
        self.guarded.iter().map(|entry| entry.2).filter(may).take(most).collect()
    }

    /// The highest rank of what needs only a place.
    pub(crate) fn rank_of_ready(&self) -> Option<i32> {
        self.ready.first().map(|(Reverse(rank), ..)| *rank)
    }

    /// Whether something that needs more than a place ranks higher.
    pub(crate) fn has_guarded_above(&self, rank: i32) -> bool {
        self.guarded.first().is_some_and(|(Reverse(first), ..)| *first > rank)
    }

    /// Whether a task is one of them.
    pub(crate) fn is_guarded(&self, id: TaskId) -> bool {
        let Some(task) = self.tasks.get(&id) else { return false };
        self.guarded.contains(&(Reverse(task.spec.rank), task.ready_no, id))
    }

    /// The pools that a task needs a place in, when it needs nothing else besides a place.
    pub(crate) fn needs_pools_only(&self, id: TaskId) -> &[PoolUse] {
        let Some(task) = self.tasks.get(&id) else { return &[] };
        let shared = match task.spec.undoes {
            Some(undone) => self.held_by(undone).is_some(),
            None => task.spec.shared.is_some(),
        };
        if shared { &[] } else { &task.spec.pools }
    }

    /// Lets a task wait until somebody rings. It keeps its turn.
    pub(crate) fn block(&mut self, id: TaskId, on: Blocked) {
        let Some(task) = self.tasks.get(&id) else { return };
        let entry = (Reverse(task.spec.rank), task.ready_no, id);
        self.unready(id);
        self.blocked.insert(entry, on);
    }

    /// Lets tasks be tried again, of those that wait for the same the first `most`.
    pub(crate) fn unblock(&mut self, most: usize, which: impl Fn(&Blocked) -> bool) {
        for entry in self.blocked.first(most, which) {
            let id = entry.2;
            self.blocked.remove(id);
            if !matches!(self.tasks[&id].status.state, TaskState::Waiting { .. }) {
                continue;
            }
            if !self.needs_more_than_a_place(id) {
                self.make_ready(id);
            } else if let Some(task) = self.tasks.get_mut(&id)
                && task.ready_no == 0
            {
                task.ready_no = entry.1;
                self.guarded.insert(entry);
            }
        }
    }

    /// What tasks wait for.
    pub(crate) fn blocked(&self) -> impl Iterator<Item = &Blocked> {
        self.blocked.groups.keys()
    }

    /// Ends a task without success. One that holds a shared resource ends only together with that: it is lined up.
    pub(crate) fn end_badly(
        &mut self,
        batch: &mut Batch,
        id: TaskId,
        event: TaskEvent,
        at: Timestamp,
    ) -> Result<(), EngineError> {
        let stands_for = self.tasks.get(&id).and_then(|task| task.spec.undoes).unwrap_or(id);
        if self.held_by(stands_for).is_none() {
            return self.move_task(batch, id, event, at);
        }
        if !self.to_end.iter().any(|(other, _)| *other == id) {
            self.to_end.push((id, event));
        }
        Ok(())
    }

    /// The task that undoes `id`, without its dependencies.
    pub(crate) fn undo_of(&self, id: TaskId, generation: u32) -> TaskSpec {
        let (job, spec) = (self.id(), &self.tasks[&id].spec);
        let mut undo = TaskSpec::new(job, generation, spec.task_type.clone(), spec.resource.clone());
        undo.id = id.undo(job, generation);
        undo.resource = format!("undo {}", spec.resource);
        undo.policy.clone_from(&spec.policy);
        undo.needs.clone_from(&spec.needs);
        undo.size = spec.size;
        undo.undoes = Some(id);
        undo.pools.clone_from(&spec.pools);
        undo
    }
}
