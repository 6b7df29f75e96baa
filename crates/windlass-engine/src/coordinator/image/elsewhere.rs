//! Tasks that other workers may run: what is offered to them, and what they did.

use std::collections::BTreeSet;

use jiff::Timestamp;
use windlass_model::effect::Effect;
use windlass_model::job::JobState;
use windlass_model::task::{TaskEvent, TaskState};
use windlass_model::{TaskId, WorkerId};
use windlass_store::keys;

use super::{Batch, Checkpoint, JobImage};
use crate::EngineError;

impl JobImage {
    /// Claimable tasks that this process can run, or has not looked at yet.
    pub(crate) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// Claimable tasks that need more than a place.
    pub(crate) fn guarded_len(&self) -> usize {
        self.guarded.len()
    }

    /// Claimable tasks that this process cannot run.
    pub(crate) fn foreign_len(&self) -> usize {
        self.foreign.values().map(BTreeSet::len).sum()
    }

    /// Claimable tasks in the order in which they are offered: of each demand that cannot be met here the first
    /// `most`, then the first `most` of the others.
    pub(crate) fn offerable(&self, most: usize) -> Vec<TaskId> {
        let foreign = self.foreign.values().flat_map(|entries| entries.iter().take(most));
        foreign.chain(self.ready.iter().take(most)).map(|entry| entry.2).collect()
    }

    /// Puts an offer of a claimable task into the batch.
    pub(crate) fn offer(&mut self, batch: &mut Batch, id: TaskId, offer: bytes::Bytes) {
        self.unready(id);
        self.offered.insert(id);
        batch.put(keys::offer(self.id(), id), offer);
        batch.label("offer");
    }

    /// A claimable task was offered by a transaction of its own.
    pub(crate) fn is_offered(&mut self, id: TaskId) {
        self.unready(id);
        // The end of its last waiting time, which is over, must not make it ready while somebody else may claim it.
        if let Some(TaskState::Waiting { not_before: Some(moment) }) =
            self.tasks.get(&id).map(|task| &task.status.state)
        {
            self.backoff.remove(&(*moment, id));
        }
        self.offered.insert(id);
    }

    /// An offer is withdrawn; unless its task was claimed meanwhile, it is claimable again.
    pub(crate) fn withdrawn(&mut self, id: TaskId) {
        if self.offered.remove(&id) {
            self.index(id);
            if self.status.state == JobState::Cancelling {
                self.to_cancel.push(id);
            }
        }
    }

    /// A worker elsewhere has claimed a task.
    pub(crate) fn claimed_elsewhere(
        &mut self,
        batch: &mut Batch,
        id: TaskId,
        worker: WorkerId,
        at: Timestamp,
    ) -> Result<(), EngineError> {
        self.offered.remove(&id);
        self.unready(id);
        self.move_task(batch, id, TaskEvent::Claimed(worker), at)?;
        batch.label("claim");
        Ok(())
    }

    /// Takes in what an attempt elsewhere wrote itself.
    pub(crate) fn reloaded(&mut self, id: TaskId, effects: Vec<Effect>, checkpoint: Option<Checkpoint>) {
        if let Some(task) = self.tasks.get_mut(&id) {
            task.effects = effects.into_iter().map(|effect| (effect.n, effect)).collect();
            task.checkpoint = checkpoint;
        }
    }
}
