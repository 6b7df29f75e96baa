//! What a running task sees of the engine.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use windlass_clock::{SharedClock, SharedEntropy};
use windlass_model::effect::{Effect, EffectEvent, EffectState};
use windlass_model::log::Level;
use windlass_model::plan::TaskSpec;
use windlass_model::progress::Progress;
use windlass_model::task::SharedUse;
use windlass_model::{Digest, Epoch, Failure, JobId, TaskId};

use crate::coordinator::Message;
use crate::lease::SafeUntil;
use crate::probe::{Moment, Point, SharedProbe};
use crate::records::JobRecord;

/// A change to the outside world that a task is about to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Counts the task's effects from 0; a repeated attempt uses the same numbers for the same changes.
    pub n: u32,
    /// What is done: `insert`, `delete`.
    pub action: String,
    /// What the outside can recognise a repetition by.
    pub key: String,
    /// Where: the system, and the place in it.
    pub target: String,
    /// The parameters; their digest goes into the ledger.
    pub parameters: Value,
}

/// What an undo task works on.
#[derive(Clone, Debug)]
pub struct UndoInput {
    /// The task to undo, as planned.
    pub task: Arc<TaskSpec>,
    /// Its ledger entries, in order of their numbers. Entries that are `gone` are left out.
    pub effects: Vec<Effect>,
    /// Its output, if it succeeded.
    pub output: Option<Value>,
    /// Its last checkpoint, if it wrote one.
    pub checkpoint: Option<Value>,
}

/// What a running task sees of the engine. All calls are cheap to make; those that return durable facts wait
/// for the store's group commit.
pub struct TaskContext {
    pub(crate) job: JobId,
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) record: Arc<JobRecord>,
    pub(crate) generation: u32,
    pub(crate) epoch: Epoch,
    pub(crate) term: u64,
    pub(crate) attempt: u32,
    pub(crate) recovering: bool,
    pub(crate) died_before: bool,
    pub(crate) input: Value,
    pub(crate) checkpoint: Option<Value>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) undo: Option<UndoInput>,
    /// How the task comes by its shared resource.
    pub(crate) shared: Option<SharedUse>,
    /// What the shared resource put out that another job has made.
    pub(crate) reuse: Option<Value>,
    pub(crate) clock: SharedClock,
    pub(crate) entropy: SharedEntropy,
    pub(crate) work_dir: PathBuf,
    pub(crate) cancel: CancellationToken,
    pub(crate) safe_until: SafeUntil,
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) probe: SharedProbe,
}

impl std::fmt::Debug for TaskContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskContext")
            .field("job", &self.job)
            .field("task", &self.spec.name())
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl TaskContext {
    /// The job.
    #[must_use]
    pub fn job(&self) -> JobId {
        self.job
    }

    /// The task as planned.
    #[must_use]
    pub fn spec(&self) -> &TaskSpec {
        &self.spec
    }

    /// The job's spec, as submitted.
    #[must_use]
    pub fn job_spec(&self) -> &Value {
        &self.record.spec
    }

    /// The task's input, with references filled in.
    #[must_use]
    pub fn input(&self) -> &Value {
        &self.input
    }

    /// The fencing epoch of this attempt.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The term of the coordinator that the attempt was begun under: higher than that of every coordinator of the job
    /// before it, so that the outside can refuse those.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Attempts of this task that failed before this one.
    #[must_use]
    pub fn earlier_failures(&self) -> u32 {
        self.attempt
    }

    /// Whether an earlier attempt may have left effects half made: look before repeating.
    #[must_use]
    pub fn recovering(&self) -> bool {
        self.recovering
    }

    /// Whether the attempt before this one ended with the death of its worker: what it gave back never arrived.
    #[must_use]
    pub fn died_before(&self) -> bool {
        self.died_before
    }

    /// What the last attempt that wrote a checkpoint wrote.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<&Value> {
        self.checkpoint.as_ref()
    }

    /// The task's ledger entries as they were when the attempt began.
    #[must_use]
    pub fn effects(&self) -> &[Effect] {
        &self.effects
    }

    /// What there is to undo; `Some` only in [`TaskType::undo`](crate::kind::TaskType::undo).
    #[must_use]
    pub fn undo(&self) -> Option<&UndoInput> {
        self.undo.as_ref()
    }

    /// Whether the task makes a resource for its job alone, because the shared one is defined otherwise: it needs
    /// a name of its own.
    #[must_use]
    pub fn is_private_copy(&self) -> bool {
        self.shared == Some(SharedUse::Private)
    }

    /// Time.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Randomness.
    #[must_use]
    pub fn entropy(&self) -> &SharedEntropy {
        &self.entropy
    }

    /// A folder for this job's files on this machine. It outlives attempts and is removed with the job. May not
    /// exist yet.
    #[must_use]
    pub fn work_dir(&self) -> &PathBuf {
        &self.work_dir
    }

    /// A task to add to the job, to be returned in [`Finished::add`](crate::kind::Finished::add).
    #[must_use]
    pub fn new_task(&self, task_type: impl Into<String>, resource: impl Into<String>) -> TaskSpec {
        TaskSpec::new(self.job, self.generation, task_type, resource)
    }

    /// Fires when the attempt shall stop: cancel, pause, shutdown, lost lease.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// [`Failure::interrupted`] when the attempt shall stop, or when the lease is no longer safe: to be called
    /// before each change to the outside.
    ///
    /// # Errors
    ///
    /// The failure to return from the task.
    pub fn may_go_on(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() || !self.safe_until.is_safe(&*self.clock) {
            return Err(Failure::interrupted());
        }
        Ok(())
    }

    /// Waits, unless the attempt shall stop first.
    ///
    /// # Errors
    ///
    /// [`Failure::interrupted`].
    pub async fn sleep(&self, duration: Duration) -> Result<(), Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::interrupted()),
            () = self.clock.sleep(duration) => Ok(()),
        }
    }

    /// Writes to the ledger that these changes are about to be made. Durable when it returns. Entries that the
    /// ledger has already stay as they are; the answer tells, in order, how far each one had got.
    ///
    /// # Errors
    ///
    /// [`Failure::interrupted`] when the attempt no longer holds its claim.
    pub async fn intend(&self, intents: Vec<Intent>) -> Result<Vec<EffectState>, Failure> {
        self.may_go_on()?;
        let effects = intents
            .into_iter()
            .map(|intent| Effect {
                task: self.spec.id,
                n: intent.n,
                epoch: self.epoch,
                parameters: Digest::of(intent.parameters.to_string().as_bytes()),
                action: intent.action,
                key: intent.key,
                target: intent.target,
                state: EffectState::Intended,
                external_id: None,
                receipt: None,
                at: self.clock.wall(),
            })
            .collect();
        self.ask(|reply| Message::Intend { task: self.spec.id, epoch: self.epoch, effects, reply }).await
    }

    /// Writes to the ledger what became of effect `n` of this task. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`Failure::interrupted`] when the attempt no longer holds its claim.
    pub async fn settle(&self, n: u32, event: EffectEvent) -> Result<(), Failure> {
        self.settle_of(self.spec.id, n, event).await
    }

    /// For undo: writes what became of effect `n` of the task that is being undone.
    ///
    /// # Errors
    ///
    /// [`Failure::interrupted`] when the attempt no longer holds its claim.
    pub async fn settle_undone(&self, n: u32) -> Result<(), Failure> {
        let of = self.undo.as_ref().map_or(self.spec.id, |undo| undo.task.id);
        self.settle_of(of, n, EffectEvent::Gone).await
    }

    async fn settle_of(&self, of: TaskId, n: u32, event: EffectEvent) -> Result<(), Failure> {
        let (task, epoch) = (self.spec.id, self.epoch);
        self.ask(|reply| Message::Settle { task, epoch, of, n, event, reply }).await
    }

    /// Stores how far the task has got. Durable when it returns; call it only once what it covers is durable.
    ///
    /// # Errors
    ///
    /// [`Failure::interrupted`] when the attempt no longer holds its claim.
    pub async fn checkpoint(&self, value: Value) -> Result<(), Failure> {
        let (task, epoch) = (self.spec.id, self.epoch);
        self.ask(|reply| Message::Checkpoint { task, epoch, value, reply }).await
    }

    /// Reports progress. Never waits; what comes faster than it is shown is merged.
    pub fn progress(&self, progress: Progress) {
        // A full queue only delays what is shown; the next report carries the newer number anyway.
        let _ = self.messages.try_send(Message::Progress { task: self.spec.id, epoch: self.epoch, progress });
    }

    /// A handle that reports progress from other tasks and threads.
    #[must_use]
    pub fn progress_handle(&self) -> ProgressHandle {
        ProgressHandle { task: self.spec.id, epoch: self.epoch, messages: self.messages.clone() }
    }

    /// Writes to the job's log.
    pub async fn log(&self, level: Level, code: &str, message: impl Into<String>, fields: Map<String, Value>) {
        let entry = Message::Log { task: self.spec.id, level, code: code.to_owned(), message: message.into(), fields };
        // The coordinator ends only after its attempts; a closed queue means that nobody reads the log any more.
        let _ = self.messages.send(entry).await;
    }

    /// Writes a warning to the job's log. A job with warnings says so in its result.
    pub async fn warn(&self, code: &str, message: impl Into<String>) {
        self.log(Level::Warn, code, message, Map::new()).await;
    }

    /// Makes one call that changes the outside: the crash matrix stops the process before and after it. `label`
    /// names the call in the matrix.
    ///
    /// # Errors
    ///
    /// [`Failure::interrupted`] instead of the call when the attempt shall stop.
    pub async fn outside<F: Future>(&self, label: &str, call: F) -> Result<F::Output, Failure> {
        self.may_go_on()?;
        self.probe.at(Point { moment: Moment::BeforeEffect, label }).await;
        let answer = call.await;
        self.probe.at(Point { moment: Moment::AfterEffect, label }).await;
        Ok(answer)
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<Option<T>>) -> Message) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(message(reply)).await.map_err(|_| Failure::interrupted())?;
        // No answer, or a refusal: the claim is not ours any more.
        answer.await.ok().flatten().ok_or_else(Failure::interrupted)
    }
}

/// Reports progress of one task from anywhere. Never waits.
#[derive(Clone)]
pub struct ProgressHandle {
    task: TaskId,
    epoch: Epoch,
    messages: mpsc::Sender<Message>,
}

impl std::fmt::Debug for ProgressHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProgressHandle").field("task", &self.task).finish_non_exhaustive()
    }
}

impl ProgressHandle {
    /// Reports progress.
    pub fn report(&self, progress: Progress) {
        let _ = self.messages.try_send(Message::Progress { task: self.task, epoch: self.epoch, progress });
    }
}
