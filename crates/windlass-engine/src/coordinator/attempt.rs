//! The attempts that run in this process: their places, their signals to stop, their signs of life.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_model::effect::Effect;
use windlass_model::plan::TaskSpec;
use windlass_model::policy::Policy;
use windlass_model::reference;
use windlass_model::task::{Outcome, Output};
use windlass_model::{Epoch, ErrorClass, Failure, JobId, TaskId};

use super::image::Place;
use super::{Coordinator, Message, shared};
use crate::EngineError;
use crate::arbiter::{self, Asker, NoPlace};
use crate::bell::Bell;
use crate::context::{TaskContext, UndoInput};
use crate::engine::Shared;
use crate::kind::{Finished, TaskType};
use crate::records::JobRecord;
use crate::values;

struct Running {
    epoch: Epoch,
    cancel: CancellationToken,
    interruptible: bool,
    stall: Duration,
    last_sign: Duration,
    /// The end of the task's deadline, on the monotonic clock.
    ends_by: Option<Duration>,
    /// Why it was asked to stop, when it was for itself.
    stopped: Option<Stopped>,
    abort: tokio::task::AbortHandle,
    /// Held for as long as the attempt runs.
    _place: Option<arbiter::Place>,
}

/// Why an attempt was asked to stop, apart from cancel, pause and shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It showed no sign of life.
    Stalled,
    /// The task's deadline passed.
    Late,
}

impl Stopped {
    /// The failure that an attempt has which was stopped for this.
    pub(crate) fn failure(self) -> Failure {
        match self {
            Self::Stalled => Failure::new(
                "stalled",
                ErrorClass::UnknownOutcome,
                "it showed no sign of life for longer than its stall limit",
            ),
            Self::Late => Failure::permanent("deadline_passed", "it did not end within its deadline"),
        }
    }
}

pub(super) struct Attempts {
    job: JobId,
    shared: Arc<Shared>,
    running: BTreeMap<TaskId, Running>,
    /// Places taken for tasks whose claim is not durable yet.
    taken: BTreeMap<TaskId, arbiter::Place>,
    /// Owns the attempts: when the coordinator is dropped, so are they.
    tasks: JoinSet<()>,
}

impl Attempts {
    pub(super) fn new(shared: &Arc<Shared>, job: JobId) -> Self {
        Self { job, shared: shared.clone(), running: BTreeMap::new(), taken: BTreeMap::new(), tasks: JoinSet::new() }
    }

    fn type_of(&self, name: &str) -> Option<&Arc<dyn TaskType>> {
        self.shared.kinds.task_type(name)
    }

    pub(super) fn policy_of(&self, task_type: &str) -> Policy {
        self.type_of(task_type).map(|task_type| task_type.policy()).unwrap_or_default()
    }

    pub(super) fn changes_nothing(&self, spec: &TaskSpec) -> bool {
        self.type_of(&spec.task_type).is_some_and(|task_type| !task_type.changes_outside())
    }

    /// Gives back a place that was taken for a task which does not start.
    pub(super) fn give_back(&mut self, id: TaskId) {
        // The place frees itself.
        self.taken.remove(&id);
    }

    /// Takes a place for a task, if there is one.
    pub(super) fn place(&mut self, spec: &TaskSpec, job: &JobRecord, grants: &Arc<Bell>) -> Place {
        if job.preview && !self.changes_nothing(spec) {
            return Place::NoneOfType;
        }
        if !self.shared.presence.can_run(spec) {
            return Place::Foreign;
        }
        match self.shared.arbiter.take(Asker::Coordinator(job.id), job.priority, &spec.task_type, grants) {
            Ok(place) => {
                self.taken.insert(spec.id, place);
                Place::Taken
            }
            Err(NoPlace::OfType) => Place::NoneOfType,
            Err(NoPlace::AtAll) => Place::None,
        }
    }

    pub(super) fn seen(&mut self, id: TaskId, now: Duration) {
        if let Some(running) = self.running.get_mut(&id) {
            running.last_sign = now;
        }
    }

    /// Forgets an attempt that has ended; tells why it had been asked to stop, if it was for itself.
    pub(super) fn forget(&mut self, id: TaskId, epoch: Epoch) -> Option<Stopped> {
        // Reaps what has ended, so that the set does not grow.
        while self.tasks.try_join_next().is_some() {}
        if self.running.get(&id).is_none_or(|running| running.epoch != epoch) {
            return None;
        }
        self.shared.attempts.end((self.job, id));
        self.running.remove(&id)?.stopped
    }

    /// Whether nothing runs in this process.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Asks every interruptible attempt to stop at its next safe point.
    pub(super) fn interrupt_all(&mut self) {
        for running in self.running.values().filter(|running| running.interruptible) {
            running.cancel.cancel();
        }
    }

    /// Stops every attempt where it stands. Returns those that were stopped; nobody will report for them.
    pub(super) fn abort_all(&mut self) -> Vec<(TaskId, Epoch)> {
        let stopped: Vec<_> = self.running.iter().map(|(id, running)| (*id, running.epoch)).collect();
        for running in self.running.values() {
            running.abort.abort();
        }
        stopped
    }

    /// Asks attempts to stop that show no sign of life or are over their deadline; aborts them when they do not
    /// within another stall limit. Tells which, why, and whether they were aborted.
    pub(super) fn overdue(&mut self, now: Duration) -> Vec<(TaskId, Epoch, Stopped, bool)> {
        let mut overdue = Vec::new();
        for (id, running) in &mut self.running {
            let late = running.ends_by.is_some_and(|end| now >= end);
            if !late && now.saturating_sub(running.last_sign) < running.stall {
                continue;
            }
            let aborted = running.stopped.is_some();
            if aborted {
                running.abort.abort();
            }
            let why = *running.stopped.get_or_insert(if late { Stopped::Late } else { Stopped::Stalled });
            running.last_sign = now;
            running.ends_by = None;
            running.cancel.cancel();
            overdue.push((*id, running.epoch, why, aborted));
        }
        overdue
    }

    /// The time until the next attempt is overdue.
    pub(super) fn next_overdue(&self, now: Duration) -> Option<Duration> {
        let moment = |running: &Running| {
            let stall = running.last_sign + running.stall;
            running.ends_by.map_or(stall, |end| end.min(stall)).saturating_sub(now).max(Duration::from_millis(1))
        };
        self.running.values().map(moment).min()
    }
}

impl Coordinator {
    /// Starts an attempt whose claim is durable.
    pub(super) async fn start(&mut self, id: TaskId) -> Result<(), EngineError> {
        let place = self.attempts.taken.remove(&id);
        let task = &self.image.tasks[&id];
        let Some(claim) = task.status.claim().copied() else { return Ok(()) };
        let spec = task.spec.clone();
        let policy = self.policy(id);
        let task = &self.image.tasks[&id];
        let undo = match spec.undoes {
            Some(undone) => Some(self.undo_input(undone).await?),
            None => None,
        };
        let checkpoint = match &task.checkpoint {
            Some(checkpoint) => Some(values::fetch(&*self.shared.store, self.image.id(), &checkpoint.value).await?),
            None => None,
        };
        let input = match &task.status.input {
            Some(replaced) => values::fetch(&*self.shared.store, self.image.id(), replaced).await?,
            None => spec.input.clone(),
        };
        let reuse = self.reuse.remove(&id);
        let task = &self.image.tasks[&id];
        let cancel = CancellationToken::new();
        let mut context = TaskContext {
            job: self.image.id(),
            record: self.image.record.clone(),
            generation: self.image.status.generation,
            epoch: claim.epoch,
            term: self.claim.0,
            attempt: task.status.failures,
            recovering: task.status.recover,
            died_before: task.status.last_worker_died(),
            input,
            checkpoint,
            effects: task.effects.values().cloned().collect(),
            undo,
            shared: task.status.shared,
            reuse,
            clock: self.shared.clock.clone(),
            entropy: self.shared.entropy.clone(),
            work_dir: self.shared.work_dir(self.image.id()),
            cancel: cancel.clone(),
            safe_until: self.session.safe_until.clone(),
            messages: self.errand.messages.clone(),
            probe: self.shared.probe.clone(),
            spec: spec.clone(),
        };
        let resolved = self.resolve(&spec, &mut context.input).await?;
        let task_type = self.shared.kinds.task_type(&spec.task_type).cloned();
        let messages = context.messages.clone();
        let epoch = claim.epoch;
        let abort = self.attempts.tasks.spawn(async move {
            let result = match (resolved, task_type) {
                (Err(failure), _) => Err(failure),
                (Ok(()), None) => Err(Failure::permanent(
                    "unknown_task_type",
                    format!("this program has no code for tasks of type {}", spec.task_type),
                )
                .hint("run the job with the version of windlass that planned it")),
                (Ok(()), Some(task_type)) => run(&*task_type, &context).await,
            };
            // Ends unheard only when the coordinator is gone; the next one finds the claim and repeats.
            let _ = messages.send(Message::Ended { task: id, epoch, result }).await;
        });
        let now = self.shared.clock.monotonic();
        let spent = self.image.tasks[&id]
            .status
            .started
            .map_or(0, |started| self.now().as_millisecond().saturating_sub(started.as_millisecond()));
        let left = policy.deadline_ms.map(|limit| limit.saturating_sub(u64::try_from(spent).unwrap_or(0)));
        let running = Running {
            epoch,
            cancel,
            interruptible: policy.interruptible,
            stall: Duration::from_millis(policy.stall_ms.max(1)),
            last_sign: now,
            ends_by: left.map(|left| now + Duration::from_millis(left)),
            stopped: None,
            abort,
            _place: place,
        };
        self.shared.attempts.begin((self.image.id(), id), epoch);
        self.attempts.running.insert(id, running);
        Ok(())
    }

    async fn undo_input(&self, undone: TaskId) -> Result<UndoInput, EngineError> {
        let task = self
            .image
            .tasks
            .get(&undone)
            .ok_or_else(|| EngineError::bug(format!("task {undone} is not in the job")))?;
        let job = self.image.id();
        let effects: Vec<Effect> = task.effects.values().filter(|effect| effect.may_exist()).cloned().collect();
        let output = match task.status.outcome() {
            Some(Outcome::Succeeded { output }) => Some(values::fetch(&*self.shared.store, job, output).await?),
            _ => None,
        };
        let checkpoint = match &task.checkpoint {
            Some(checkpoint) => Some(values::fetch(&*self.shared.store, job, &checkpoint.value).await?),
            None => None,
        };
        Ok(UndoInput { task: task.spec.clone(), effects, output, checkpoint })
    }

    /// Fills the references of a task into its input.
    async fn resolve(&self, spec: &TaskSpec, input: &mut Value) -> Result<Result<(), Failure>, EngineError> {
        for reference in &spec.references {
            let outcome = self.image.tasks.get(&reference.task).and_then(|task| task.status.outcome());
            let Some(Outcome::Succeeded { output }) = outcome else {
                let text = format!("{} has no output to refer to", self.image.name(reference.task));
                return Ok(Err(Failure::permanent("unresolved_reference", text)));
            };
            let fetched;
            let output = match output {
                Output::Inline(value) => value,
                stored @ Output::Stored { .. } => {
                    fetched = values::fetch(&*self.shared.store, self.image.id(), stored).await?;
                    &fetched
                }
            };
            if let Err(error) = reference::resolve(input, reference, output) {
                let text = format!("a reference to {}: {error}", self.image.name(reference.task));
                return Ok(Err(Failure::permanent("unresolved_reference", text)));
            }
        }
        Ok(Ok(()))
    }
}

/// Runs the code of a task type. A panic in it is a failure of the task, not of the engine.
pub(crate) async fn run(task_type: &dyn TaskType, context: &TaskContext) -> Result<Finished, Failure> {
    let work = async {
        match (&context.undo, &context.reuse) {
            (Some(_), _) => task_type.undo(context).await,
            (None, Some(output)) if task_type.still_there(context, output).await? => Ok(Finished::with(output.clone())),
            (None, Some(_)) => Err(shared::gone()),
            (None, None) => task_type.run(context).await,
        }
    };
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "without a message".to_owned());
            Err(Failure::new(
                "task_panicked",
                ErrorClass::Permanent,
                format!("the code of {} broke off: {text}", context.spec.name()),
            )
            .hint("this is a mistake in windlass: please report it with the job's log"))
        }
    }
}
