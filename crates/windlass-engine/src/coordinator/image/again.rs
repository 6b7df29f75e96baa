//! Which tasks a retry runs again, and how they become waiting tasks once more.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use windlass_model::TaskId;
use windlass_model::task::{Outcome, Output, TaskEvent, TaskState};
use windlass_store::keys;

use super::{Batch, JobImage};
use crate::EngineError;

impl JobImage {
    /// The task that a person names: by id, by `type[resource]`, or by the resource where only one task has it.
    pub(crate) fn named(&self, given: &str) -> Result<TaskId, String> {
        if let Ok(id) = given.parse()
            && self.tasks.contains_key(&id)
        {
            return Ok(id);
        }
        let planned = || self.tasks.values().filter(|task| task.spec.undoes.is_none());
        if let Some(task) = planned().find(|task| task.spec.name() == given) {
            return Ok(task.spec.id);
        }
        let mut of_resource: Vec<_> = planned().filter(|task| task.spec.resource == given).collect();
        of_resource.sort_unstable_by_key(|task| task.spec.id);
        match of_resource.as_slice() {
            [task] => Ok(task.spec.id),
            [] => Err(format!("the job has no task {given}; `windlass show` lists them")),
            many => {
                let names: Vec<String> = many.iter().take(5).map(|task| task.spec.name()).collect();
                Err(format!("{given} may be {}; give the type too", names.join(" or ")))
            }
        }
    }

    /// Notes that the success of `adder` has brought `task`.
    pub(crate) fn note_brought(&mut self, adder: TaskId, task: TaskId) {
        if self.brought_by.insert(task, adder).is_none() {
            *self.adders.entry(adder).or_default() += 1;
        }
    }

    /// The tasks that a retry runs again: `from` with everything downstream of it, besides those that did not
    /// succeed (`failed_only`), or everything (neither).
    ///
    /// A task that brought others when it succeeded cannot run again: it would bring them a second time beside
    /// the first.
    pub(crate) fn to_run_again(&self, failed_only: bool, from: Option<TaskId>) -> Result<BTreeSet<TaskId>, String> {
        let planned = self.tasks.values().filter(|task| task.spec.undoes.is_none());
        let mut again: BTreeSet<TaskId> = planned
            .filter(|task| match task.status.outcome() {
                Some(outcome) if outcome.is_success() => !failed_only && from.is_none(),
                Some(_) => failed_only || from.is_none(),
                None => false,
            })
            .map(|task| task.spec.id)
            .collect();
        let mut look: Vec<TaskId> = from.into_iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = look.pop() {
            let Some(task) = self.tasks.get(&id).filter(|task| task.spec.undoes.is_none()) else { continue };
            if seen.insert(id) {
                look.extend(&task.dependants);
            }
        }
        again.extend(seen.into_iter().filter(|id| self.tasks[id].status.outcome().is_some()));
        // What could not be cleaned up is in the way of making it again.
        let cleaners = self.tasks.values().filter(|task| {
            task.spec.undoes.is_some_and(|undone| again.contains(&undone) && self.held_by(undone).is_some())
                && task.status.outcome().is_some_and(|outcome| !outcome.is_success())
        });
        let cleaners: Vec<TaskId> = cleaners.map(|task| task.spec.id).collect();
        again.extend(cleaners);
        let brought = again.iter().find(|id| {
            self.adders.contains_key(id) && self.tasks[id].status.outcome().is_some_and(Outcome::is_success)
        });
        match brought {
            Some(id) => Err(format!(
                "{} has brought further tasks and cannot run again; name one of those, or undo the job and submit it anew",
                self.name(*id)
            )),
            None => Ok(again),
        }
    }

    /// Makes an ended task wait again. What it had got done with another input, or in a run that had succeeded,
    /// is no place to go on from.
    pub(crate) fn run_again(
        &mut self,
        batch: &mut Batch,
        id: TaskId,
        input: Option<Output>,
        at: Timestamp,
    ) -> Result<(), EngineError> {
        let job = self.id();
        let task = &self.tasks[&id];
        let TaskState::Done { outcome } = &task.status.state else { return Ok(()) };
        let succeeded = outcome.is_success();
        let afresh = succeeded || input.is_some();
        let event = if succeeded { TaskEvent::Rerun { input } } else { TaskEvent::Reset { input } };
        self.move_task(batch, id, event, at)?;
        if afresh && let Some(task) = self.tasks.get_mut(&id) {
            task.checkpoint = None;
            batch.delete(keys::checkpoint(job, id));
        }
        Ok(())
    }

    /// Resolves the inputs that a retry replaces; all of them must be of tasks that run again.
    pub(crate) fn replaced_inputs(
        &self,
        again: &BTreeSet<TaskId>,
        inputs: BTreeMap<String, serde_json::Value>,
    ) -> Result<BTreeMap<TaskId, serde_json::Value>, String> {
        let mut replaced = BTreeMap::new();
        for (name, input) in inputs {
            let id = self.named(&name)?;
            if !again.contains(&id) {
                return Err(format!(
                    "{} does not run again; give it with `from`, or leave its input out",
                    self.name(id)
                ));
            }
            replaced.insert(id, input);
        }
        Ok(replaced)
    }
}
