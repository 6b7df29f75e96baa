//! Which tasks could run, in which order, and when those that wait for a moment are among them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;
use windlass_model::plan::TaskSpec;
use windlass_model::task::TaskEvent;
use windlass_model::{TaskId, WorkerId};

use super::{Batch, JobImage, Task};
use crate::EngineError;

/// What a worker must have to run a task: code for its type, and labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Demand(String, BTreeMap<String, String>);

impl Demand {
    pub(crate) fn of(spec: &TaskSpec) -> Self {
        Self(spec.task_type.clone(), spec.needs.clone())
    }
}

/// A place in the order of ready tasks: rank, then the order in which they became so.
pub(super) type Ready = (Reverse<i32>, u64, TaskId);

/// Whether there is a place for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Yes, and it is taken now.
    Taken,
    /// Not for this type; maybe for another.
    NoneOfType,
    /// Not in this process: it has no code for the task, or not the labels.
    Foreign,
    /// Not at all.
    None,
}

impl JobImage {
    pub(super) fn make_ready(&mut self, id: TaskId) {
        self.ready_counter += 1;
        let guarded = self.needs_more_than_a_place(id);
        if let Some(task) = self.tasks.get_mut(&id)
            && task.ready_no == 0
        {
            task.ready_no = self.ready_counter;
            let set = if guarded { &mut self.guarded } else { &mut self.ready };
            set.insert((Reverse(task.spec.rank), task.ready_no, id));
        }
    }

    /// Takes a task out of the ready set, if it is there.
    pub(crate) fn unready(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.get_mut(&id) {
            let entry = (Reverse(task.spec.rank), std::mem::take(&mut task.ready_no), id);
            if !self.ready.remove(&entry) && !self.guarded.remove(&entry) && !self.foreign.is_empty() {
                let demand = Demand::of(&task.spec);
                if let Some(entries) = self.foreign.get_mut(&demand) {
                    entries.remove(&entry);
                    if entries.is_empty() {
                        self.foreign.remove(&demand);
                    }
                }
            }
            self.blocked.remove(id);
        }
    }

    /// Moves tasks whose waiting time is over to the ready ones. Returns the next such moment.
    pub(crate) fn wake(&mut self, now: Timestamp) -> Option<Timestamp> {
        while let Some((at, id)) = self.backoff.first().copied() {
            if at > now {
                return Some(at);
            }
            self.backoff.pop_first();
            self.make_ready(id);
        }
        None
    }

    /// The next moment for which a task waits.
    pub(crate) fn wake_moment(&self) -> Option<Timestamp> {
        self.backoff.first().map(|(at, _)| *at)
    }

    /// Derives the indexes of waiting tasks anew, after tasks that had ended wait again.
    pub(crate) fn rebuild(&mut self) {
        self.ready.clear();
        self.guarded.clear();
        self.blocked.clear();
        self.foreign.clear();
        self.backoff.clear();
        self.to_tell.clear();
        self.to_delay.clear();
        let mut ids: Vec<TaskId> = self.tasks.keys().copied().collect();
        ids.sort_unstable();
        for id in &ids {
            let edges = &self.tasks[id].spec.dependencies;
            let open = edges
                .iter()
                .filter(|edge| self.tasks.get(&edge.task).is_some_and(|other| other.status.outcome().is_none()));
            let open = u32::try_from(open.count()).unwrap_or(u32::MAX);
            if let Some(task) = self.tasks.get_mut(id) {
                task.open = open;
                task.ready_no = 0;
            }
        }
        for id in ids {
            self.index(id);
        }
    }

    /// Claims ready tasks while `place` finds one and the batch has room.
    pub(crate) fn claim_ready(
        &mut self,
        batch: &mut Batch,
        worker: WorkerId,
        at: Timestamp,
        mut place: impl FnMut(&TaskSpec) -> Place,
    ) -> Result<(), EngineError> {
        if !self.status.state.may_claim() {
            return Ok(());
        }
        let mut passed_over = 0;
        let candidates: Vec<_> = self.ready.iter().copied().take(512).collect();
        for entry in candidates {
            if batch.is_full() || passed_over >= 256 {
                break;
            }
            let id = entry.2;
            match place(&self.tasks[&id].spec) {
                Place::Taken => {
                    self.unready(id);
                    self.move_task(batch, id, TaskEvent::Claimed(worker), at)?;
                    batch.starts.push(id);
                    batch.label("claim");
                }
                Place::NoneOfType => passed_over += 1,
                Place::Foreign => {
                    self.ready.remove(&entry);
                    self.foreign.entry(Demand::of(&self.tasks[&id].spec)).or_default().insert(entry);
                }
                Place::None => break,
            }
        }
        Ok(())
    }

    /// The tasks that could be claimed.
    pub(crate) fn ready_tasks(&self) -> impl Iterator<Item = &Task> {
        self.ready.iter().map(|entry| &self.tasks[&entry.2])
    }
}
