//! Tasks that need more than a place: a shared resource, or a place in a pool. They are claimed one by one, each in
//! a transaction that compares what it relies on.

use jiff::Timestamp;
use windlass_model::TaskId;
use windlass_model::job::JobState;
use windlass_model::plan::TaskSpec;
use windlass_model::task::{SharedUse, TaskEvent, TaskState};

use super::{Batch, JobImage};
use crate::EngineError;

/// What a claimable task waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// A shared resource, by its key.
    Shared(String),
    /// A place in a pool.
    Pool(String),
}

impl JobImage {
    /// The key of the shared resource that a task stands for.
    pub(crate) fn held_by(&self, task: TaskId) -> Option<&String> {
        self.holds.iter().find(|(_, holder)| **holder == task).map(|(key, _)| key)
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

    /// Lets a task wait until somebody rings.
    pub(crate) fn block(&mut self, id: TaskId, on: Blocked) {
        self.unready(id);
        self.blocked.insert(id, on);
    }

    /// Lets every task be tried again.
    pub(crate) fn unblock_all(&mut self) {
        for id in std::mem::take(&mut self.blocked).into_keys() {
            if matches!(self.tasks[&id].status.state, TaskState::Waiting { .. }) {
                self.make_ready(id);
            }
        }
    }

    /// What tasks wait for.
    pub(crate) fn blocked(&self) -> impl Iterator<Item = &Blocked> {
        self.blocked.values()
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
