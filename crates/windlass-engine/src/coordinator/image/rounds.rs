//! What a job that reconciles has besides: its rounds, the order in which its tasks ended, and what is kept of them.

use std::collections::{HashMap, HashSet, VecDeque};

use windlass_model::TaskId;
use windlass_model::task::{Outcome, Output, TaskState};
use windlass_store::{budget, keys};

use super::{Batch, Counts, JobImage, Task, done, work};
use crate::reconcile::{Ended, InFlight, Reconcile, RoundRecord};
use crate::records::encode;

/// Operations of a batch that pruning leaves to everything else.
const ROOM: usize = 24;
/// Ended tasks that are looked at in one go.
const LOOKED_AT: usize = 256;
/// Log entries that go in one go; so many more than are to be kept are there at most.
const LOG_CHUNK: u64 = 24;

/// The rounds of a job that reconciles.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// As stored.
    pub(crate) record: RoundRecord,
    /// Ended tasks whose records are there, oldest first.
    ended: VecDeque<TaskId>,
    /// Ended tasks of which no round of this coordinator knows, oldest first.
    unseen: VecDeque<TaskId>,
    /// How many of those had ended when the coordinator took up the job.
    again: usize,
}

impl Rounds {
    pub(crate) fn new(record: RoundRecord) -> Self {
        Self { record, ..Self::default() }
    }

    /// Ended tasks that the next round is to be told of.
    pub(crate) fn unseen(&self) -> usize {
        self.unseen.len()
    }

    fn put(&mut self, id: TaskId) {
        self.ended.push_back(id);
        self.unseen.push_back(id);
    }

    fn take_back(&mut self, id: TaskId) {
        self.ended.retain(|other| *other != id);
        if let Some(at) = self.unseen.iter().position(|other| *other == id) {
            self.unseen.remove(at);
            self.again -= usize::from(at < self.again);
        }
    }
}

impl JobImage {
    /// Lines up the tasks that had ended when the job was loaded.
    pub(crate) fn line_up_ended(&mut self) {
        let Some(rounds) = &mut self.rounds else { return };
        let ended = self.tasks.values().filter(|task| task.status.outcome().is_some());
        let mut ended: Vec<_> = ended.map(|task| (task.status.since, task.spec.id)).collect();
        ended.sort_unstable();
        rounds.ended = ended.iter().map(|(_, id)| *id).collect();
        rounds.unseen.clone_from(&rounds.ended);
        rounds.again = rounds.unseen.len();
    }

    /// A task has ended, or waits again.
    pub(super) fn note_end(&mut self, id: TaskId, ended: bool) {
        if let Some(rounds) = &mut self.rounds {
            if ended { rounds.put(id) } else { rounds.take_back(id) }
        }
    }

    /// Puts the record of the rounds into the batch.
    pub(crate) fn put_rounds(&mut self, batch: &mut Batch) {
        if let Some(rounds) = &self.rounds {
            batch.put(keys::round(self.id()), encode(&rounds.record));
        }
    }

    /// All tasks that the job ever had.
    pub(crate) fn all_counts(&self) -> Counts {
        self.rounds.as_ref().map_or(self.counts, |rounds| self.counts.plus(&rounds.record.pruned))
    }

    /// What a round is told: the tasks that have not ended, and those that have since the last one.
    pub(crate) fn told(&self) -> (Vec<InFlight>, Vec<Ended>) {
        let Some(rounds) = &self.rounds else { return Default::default() };
        let open = self.tasks.values().filter(|task| task.status.outcome().is_none() && task.spec.undoes.is_none());
        let mut in_flight: Vec<InFlight> = open
            .map(|task| InFlight {
                task: task.spec.clone(),
                worker: task.status.claim().map(|claim| claim.worker),
                since: task.status.since,
                failures: task.status.failures,
                last_failure: task.status.attempts.last().and_then(|attempt| attempt.failure.clone()),
                progress: task.progress,
            })
            .collect();
        // The order of a hash map must not reach the kind: simulated runs replay.
        in_flight.sort_unstable_by_key(|one| one.task.id);
        let ended = rounds.unseen.iter().enumerate().filter_map(|(n, id)| {
            let task = self.tasks.get(id).filter(|task| task.spec.undoes.is_none())?;
            Some(Ended {
                task: task.spec.clone(),
                outcome: task.status.outcome()?.clone(),
                at: task.status.since,
                effects: task.effects.values().cloned().collect(),
                again: n < rounds.again,
            })
        });
        (in_flight, ended.collect())
    }

    /// A round was told of the first `count` ended tasks, and has succeeded.
    pub(crate) fn seen_by_round(&mut self, count: usize) {
        if let Some(rounds) = &mut self.rounds {
            rounds.unseen.drain(..count.min(rounds.unseen.len()));
            rounds.again = rounds.again.saturating_sub(count);
        }
    }

    /// The tasks that stand for their type and resource, by those: they have not ended, or have after the first `told`
    /// of those that no round knows of.
    pub(crate) fn standing_for(&self, told: usize) -> HashMap<(&str, &str), TaskId> {
        let Some(rounds) = &self.rounds else { return HashMap::new() };
        let open = self.tasks.values().filter(|task| task.status.outcome().is_none());
        let ended = rounds.unseen.iter().skip(told).filter_map(|id| self.tasks.get(id));
        let planned = ended.chain(open).filter(|task| task.spec.undoes.is_none());
        planned.map(|task| ((task.spec.task_type.as_str(), task.spec.resource.as_str()), task.spec.id)).collect()
    }

    /// Puts the removal of what is kept no longer into the batch, as far as there is room. Returns whether something
    /// is left to remove. `alone`: nothing of the job runs elsewhere.
    pub(crate) fn prune(&mut self, batch: &mut Batch, settings: &Reconcile, alone: bool) -> bool {
        if !self.to_tell.is_empty() {
            return false;
        }
        let Some(mut rounds) = self.rounds.take() else { return false };
        let (mut changed, mut more) = (false, false);
        let many = |rounds: &Rounds| rounds.ended.len() - rounds.unseen.len() > settings.keep_ended;
        let unseen: HashSet<TaskId> =
            if many(&rounds) { rounds.unseen.iter().copied().collect() } else { HashSet::new() };
        for _ in 0..LOOKED_AT {
            if !many(&rounds) {
                break;
            }
            let Some(id) = rounds.ended.pop_front() else { break };
            if unseen.contains(&id) || !self.may_go(id, alone) {
                // Looked at again when newer ones go.
                rounds.ended.push_back(id);
                continue;
            }
            if !self.prune_task(batch, id) {
                rounds.ended.push_front(id);
                more = true;
                break;
            }
            changed = true;
            if let Some(task) = self.forget(id) {
                *rounds.record.pruned.slot(&task.status.state) += 1;
            }
        }
        let first = rounds.record.log_from.max(1);
        let kept = self.head.next_log.saturating_sub(first);
        if kept >= settings.keep_log.saturating_add(LOG_CHUNK) {
            if batch.room() > ROOM + usize::try_from(LOG_CHUNK).unwrap_or(usize::MAX) {
                (first..first + LOG_CHUNK).for_each(|n| batch.delete(keys::log(self.id(), n)));
                rounds.record.log_from = first + LOG_CHUNK;
                changed = true;
                more |= kept >= settings.keep_log.saturating_add(2 * LOG_CHUNK);
            } else {
                more = true;
            }
        }
        self.rounds = Some(rounds);
        if changed {
            batch.label("prune");
            self.put_rounds(batch);
        }
        more
    }

    /// Whether nothing needs the records of an ended task any more.
    fn may_go(&self, id: TaskId, alone: bool) -> bool {
        let Some(task) = self.tasks.get(&id) else { return true };
        let large = |output: &Output| matches!(output, Output::Stored { .. });
        let keeps_large = matches!(&task.status.state, TaskState::Done { outcome: Outcome::Succeeded { output } } if large(output))
            || task.status.input.as_ref().is_some_and(large)
            || task.checkpoint.as_ref().is_some_and(|checkpoint| large(&checkpoint.value));
        // Somebody elsewhere may be about to store the same value under the same name.
        let free = alone || !keeps_large;
        let undone = || self.tasks.values().any(|other| other.spec.undoes == Some(id));
        free && task.dependants.is_empty()
            && task.status.slots.is_empty()
            && !self.adders.contains_key(&id)
            && !self.to_end.iter().any(|(other, _)| *other == id)
            && self.held_by(id).is_none()
            && (task.spec.shared.is_none() || !undone())
    }

    /// Puts the removal of an ended task's records into the batch: a long ledger first, by itself. Returns whether all
    /// of it is in the batch.
    fn prune_task(&mut self, batch: &mut Batch, id: TaskId) -> bool {
        let job = self.id();
        let values = self.values_of(id);
        let Some(task) = self.tasks.get_mut(&id) else { return true };
        let others = 4 + values.len();
        while task.effects.len() + others + ROOM > batch.room() {
            if others + ROOM >= batch.room() {
                return false;
            }
            let Some((n, _)) = task.effects.pop_last() else { return false };
            batch.delete(keys::effect(job, id, n));
        }
        task.effects.keys().for_each(|n| batch.delete(keys::effect(job, id, *n)));
        if task.checkpoint.is_some() {
            batch.delete(keys::checkpoint(job, id));
        }
        // Together: a task without a status would be one that waits.
        batch.delete(keys::task(job, id));
        batch.delete(keys::status(job, id));
        batch.delete(keys::progress(job, id));
        values.into_iter().for_each(|key| batch.delete(key));
        true
    }

    /// Keys of the large values that only this task refers to.
    fn values_of(&self, id: TaskId) -> Vec<String> {
        fn referred(task: &Task) -> impl Iterator<Item = &Output> {
            let output = match &task.status.state {
                TaskState::Done { outcome: Outcome::Succeeded { output } } => Some(output),
                _ => None,
            };
            let checkpoint = task.checkpoint.as_ref().map(|checkpoint| &checkpoint.value);
            output.into_iter().chain(task.status.input.as_ref()).chain(checkpoint)
        }
        let stored = |output: &Output| match output {
            Output::Stored { digest, size } => Some((*digest, *size)),
            Output::Inline(_) => None,
        };
        let Some(task) = self.tasks.get(&id) else { return Vec::new() };
        let mut own: Vec<_> = referred(task).filter_map(stored).collect();
        if own.is_empty() {
            return Vec::new();
        }
        own.sort_unstable();
        own.dedup();
        let others: HashSet<_> = self
            .tasks
            .values()
            .filter(|other| other.spec.id != id)
            .flat_map(referred)
            .chain(&self.record.large_spec)
            .filter_map(stored)
            .collect();
        let job = self.id();
        own.retain(|value| !others.contains(value));
        own.into_iter()
            .flat_map(|(digest, size)| {
                let chunks = usize::try_from(size).unwrap_or(usize::MAX).div_ceil(budget::VALUE_BYTES);
                (0..chunks).map(move |n| keys::value_chunk(job, digest, n))
            })
            .collect()
    }

    /// Drops an ended task on which nothing depends.
    fn forget(&mut self, id: TaskId) -> Option<Task> {
        let task = self.tasks.remove(&id)?;
        *self.counts.slot(&task.status.state) -= 1;
        if task.spec.undoes.is_none() {
            self.total_work = self.total_work.minus(&work(&task.spec));
            self.done_work = self.done_work.minus(&done(&task.spec));
        }
        for edge in &task.spec.dependencies {
            if let Some(other) = self.tasks.get_mut(&edge.task) {
                other.dependants.retain(|dependant| *dependant != id);
            }
        }
        if let Some(adder) = self.brought_by.remove(&id)
            && let Some(count) = self.adders.get_mut(&adder)
        {
            *count -= 1;
            if *count == 0 {
                self.adders.remove(&adder);
            }
        }
        Some(task)
    }
}
