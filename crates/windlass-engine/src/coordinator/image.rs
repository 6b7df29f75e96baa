//! A job in memory: exactly what the store holds of it, plus indexes that are derived from that.
//!
//! Everything here is synchronous. [`JobImage`] changes only through methods that put the change into a
//! [`Batch`] at the same time; the coordinator commits the batch and only then lets anybody see or act on it.
//! When a commit fails for good the image is thrown away and loaded afresh.

mod again;
mod batch;
mod counts;
mod elsewhere;
mod guard;
mod ledger;
mod ready;
mod rounds;
mod undo;
mod work;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};
use windlass_model::effect::Effect;
use windlass_model::job::{JobEvent, JobResult, JobState, JobStatus};
use windlass_model::log::{Level, LogEntry};
use windlass_model::plan::{Need, TaskSpec};
use windlass_model::progress::Progress;
use windlass_model::task::{Outcome, TaskEvent, TaskState, TaskStatus};
use windlass_model::{Epoch, Failure, JobId, TaskId};
use windlass_store::keys;

pub(crate) use self::batch::{Batch, ROUND};
pub use self::counts::Counts;
use self::guard::Blockade;
pub(crate) use self::guard::{Blocked, Holds};
pub(crate) use self::ledger::{Checkpoint, intend};
use self::ready::Ready;
pub(crate) use self::ready::{Demand, Place};
pub(crate) use self::rounds::Rounds;
use self::work::{done, work};
use crate::EngineError;
use crate::records::{AddedBy, Head, JobRecord, TaskRecord, encode};

/// A task in memory.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) spec: Arc<TaskSpec>,
    pub(crate) status: TaskStatus,
    /// Dependencies that have not ended.
    open: u32,
    dependants: Vec<TaskId>,
    /// Its number in the ready set; 0 when it is not there.
    ready_no: u64,
    pub(crate) effects: BTreeMap<u32, Effect>,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) progress: Progress,
}

impl Task {
    /// Whether it asks a person who has not answered yet.
    pub(crate) fn awaits_approval(&self) -> bool {
        self.spec.needs_approval.is_some() && self.status.approval.is_none()
    }

    fn has_to_be_delayed(&self) -> bool {
        self.spec.delay_ms.is_some() && self.status.delayed_until.is_none()
    }
}

/// A job in memory.
#[derive(Debug)]
pub(crate) struct JobImage {
    pub(crate) record: Arc<JobRecord>,
    pub(crate) status: JobStatus,
    pub(crate) head: Head,
    pub(crate) tasks: HashMap<TaskId, Task>,
    /// Claimable tasks.
    ready: BTreeSet<Ready>,
    /// Claimable tasks that this process cannot run, by what they demand.
    foreign: BTreeMap<Demand, BTreeSet<Ready>>,
    /// Waiting tasks that are offered to other workers, and may be claimed there at any moment.
    pub(crate) offered: BTreeSet<TaskId>,
    ready_counter: u64,
    /// Tasks that wait for a moment.
    backoff: BTreeSet<(Timestamp, TaskId)>,
    pub(crate) running: BTreeSet<TaskId>,
    /// Ended tasks whose dependants have not been told yet.
    to_tell: VecDeque<TaskId>,
    /// Waiting tasks to cancel, while cancelling.
    to_cancel: Vec<TaskId>,
    /// Tasks whose dependencies have ended and whose delay has not begun.
    to_delay: Vec<TaskId>,
    /// Claimable tasks that need more than a place, in the same order.
    guarded: BTreeSet<(Reverse<i32>, u64, TaskId)>,
    /// Claimable tasks that wait for a record of the store.
    blocked: Blockade,
    /// Shared resources that the job holds, and the task of each that stands for that.
    pub(crate) holds: Holds,
    /// Tasks that hold a shared resource and are about to end badly.
    pub(crate) to_end: Vec<(TaskId, TaskEvent)>,
    /// Tasks whose success has brought others, and how many of those are there.
    adders: HashMap<TaskId, usize>,
    /// The same, the other way round.
    brought_by: HashMap<TaskId, TaskId>,
    /// Of a job that reconciles.
    pub(crate) rounds: Option<Rounds>,
    /// Drafts of such a job that a crash has left behind.
    pub(crate) stale_drafts: Vec<TaskId>,
    pub(crate) counts: Counts,
    /// Work of ended tasks, and of all tasks.
    done_work: Progress,
    total_work: Progress,
}

impl JobImage {
    /// A job without tasks.
    pub(crate) fn new(record: JobRecord, status: JobStatus, head: Head) -> Self {
        Self {
            record: Arc::new(record),
            status,
            head,
            tasks: HashMap::new(),
            ready: BTreeSet::new(),
            foreign: BTreeMap::new(),
            offered: BTreeSet::new(),
            ready_counter: 0,
            backoff: BTreeSet::new(),
            running: BTreeSet::new(),
            to_tell: VecDeque::new(),
            to_cancel: Vec::new(),
            to_delay: Vec::new(),
            guarded: BTreeSet::new(),
            blocked: Blockade::default(),
            holds: Holds::default(),
            to_end: Vec::new(),
            adders: HashMap::new(),
            brought_by: HashMap::new(),
            rounds: None,
            stale_drafts: Vec::new(),
            counts: Counts::default(),
            done_work: Progress::default(),
            total_work: Progress { total_items: Some(0), total_bytes: Some(0), ..Progress::default() },
        }
    }

    pub(crate) fn id(&self) -> JobId {
        self.record.id
    }

    /// Adds tasks with their statuses and derives the indexes. For loading, and for tasks that a batch makes
    /// part of the plan.
    pub(crate) fn insert(&mut self, tasks: Vec<(TaskSpec, TaskStatus)>) {
        let new: Vec<TaskId> = tasks.iter().map(|(spec, _)| spec.id).collect();
        for (spec, status) in tasks {
            *self.counts.slot(&status.state) += 1;
            if spec.undoes.is_none() {
                self.total_work = self.total_work.plus(&work(&spec));
                if status.outcome().is_some() {
                    self.done_work = self.done_work.plus(&done(&spec));
                }
            }
            let task = Task {
                spec: Arc::new(spec),
                status,
                open: 0,
                dependants: Vec::new(),
                ready_no: 0,
                effects: BTreeMap::new(),
                checkpoint: None,
                progress: Progress::default(),
            };
            self.tasks.insert(task.spec.id, task);
        }
        for id in &new {
            let dependencies = self.tasks[id].spec.dependencies.clone();
            let mut open = 0;
            for dependency in dependencies {
                if let Some(other) = self.tasks.get_mut(&dependency.task) {
                    other.dependants.push(*id);
                    open += u32::from(other.status.outcome().is_none());
                }
            }
            if let Some(task) = self.tasks.get_mut(id) {
                task.open = open;
            }
        }
        for id in new {
            self.index(id);
        }
        // Loaded in the middle of a cancel, or added by a task that ended after it.
        self.cancel_waiting();
    }

    /// While cancelling, lines up every waiting task to be cancelled.
    fn cancel_waiting(&mut self) {
        if self.status.state != JobState::Cancelling {
            return;
        }
        // What cleans up after a task is not cancelled with it; what is offered is cancelled once it is known that nobody
        // has claimed it.
        let waiting = self
            .tasks
            .values()
            .filter(|task| matches!(task.status.state, TaskState::Waiting { .. }) && task.spec.undoes.is_none());
        self.to_cancel = waiting.map(|task| task.spec.id).filter(|id| !self.offered.contains(id)).collect();
        // The order of a hash map must not reach the store: simulated runs replay.
        self.to_cancel.sort_unstable();
    }

    /// Puts a task into the index of its state. Ended tasks tell their dependants again: harmless, and it
    /// finishes what a crash interrupted.
    fn index(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else { return };
        match &task.status.state {
            TaskState::Waiting { .. } if task.open == 0 && task.has_to_be_delayed() && !self.record.preview => {
                self.to_delay.push(id);
            }
            // A person's answer puts it here again.
            TaskState::Waiting { .. } if task.awaits_approval() => {}
            TaskState::Waiting { not_before } if task.open == 0 => match not_before {
                Some(at) => {
                    self.backoff.insert((*at, id));
                }
                None => self.make_ready(id),
            },
            TaskState::Waiting { .. } => {}
            TaskState::Running { .. } => {
                self.running.insert(id);
            }
            TaskState::Done { outcome } => {
                if !outcome.is_success() && !task.dependants.is_empty() {
                    self.to_tell.push_back(id);
                }
            }
        }
    }

    /// Moves a task through its state machine, into the batch and the indexes.
    pub(crate) fn move_task(
        &mut self,
        batch: &mut Batch,
        id: TaskId,
        event: TaskEvent,
        at: Timestamp,
    ) -> Result<(), EngineError> {
        let job = self.id();
        let task = self.tasks.get_mut(&id).ok_or_else(|| EngineError::bug(format!("task {id} is not in the job")))?;
        let was_ended = task.status.outcome().is_some();
        *self.counts.slot(&task.status.state) -= 1;
        if let TaskState::Waiting { not_before: Some(moment) } = task.status.state {
            self.backoff.remove(&(moment, id));
        }
        let status = task.status.clone().apply(event, at).map_err(|error| EngineError::bug(error.to_string()))?;
        let before = std::mem::replace(&mut task.status, status);
        if task.status.slots.is_empty() {
            // In the transaction that ends the holder.
            before.slots.into_iter().for_each(|slot| batch.delete(slot));
        }
        *self.counts.slot(&task.status.state) += 1;
        self.running.remove(&id);
        batch.put(keys::status(job, id), encode(&task.status));
        let (ended, spec) = (task.status.outcome().is_some(), task.spec.clone());
        if ended {
            task.progress = Progress::default();
        }
        if spec.undoes.is_none() && ended != was_ended {
            if ended {
                self.done_work = self.done_work.plus(&done(&spec));
            } else {
                self.recount_work();
            }
        }
        if ended != was_ended {
            self.note_end(id, ended);
        }
        if ended && !was_ended {
            self.to_tell.push_back(id);
        } else {
            self.index(id);
            // Given back, or left by a worker that died, in the middle of a cancel.
            if !ended
                && self.status.state == JobState::Cancelling
                && !self.running.contains(&id)
                && spec.undoes.is_none()
            {
                self.to_cancel.push(id);
            }
        }
        Ok(())
    }

    /// Tells dependants of ended tasks, and cancels what shall be cancelled, as far as the batch has room.
    /// Returns whether something is left to do.
    pub(crate) fn propagate(&mut self, batch: &mut Batch, at: Timestamp) -> Result<bool, EngineError> {
        while let Some(id) = self.to_tell.pop_front() {
            let task = &self.tasks[&id];
            let failed_roots = match task.status.outcome() {
                Some(Outcome::Succeeded { .. }) | None => None,
                Some(Outcome::Ignored { roots }) => Some(roots.clone()),
                Some(Outcome::Failed { .. } | Outcome::Cancelled) => Some(vec![id]),
            };
            let dependants = task.dependants.clone();
            let mut told = 0;
            for dependant in &dependants {
                if batch.is_full() {
                    break;
                }
                self.tell(batch, id, *dependant, failed_roots.as_deref(), at)?;
                told += 1;
            }
            if told < dependants.len() {
                // Telling twice is harmless: what has ended or become ready is passed over.
                self.to_tell.push_front(id);
                return Ok(true);
            }
        }
        while let Some(id) = self.to_cancel.last().copied() {
            if batch.is_full() {
                return Ok(true);
            }
            self.to_cancel.pop();
            if matches!(self.tasks[&id].status.state, TaskState::Waiting { .. }) && !self.offered.contains(&id) {
                self.unready(id);
                self.end_badly(batch, id, TaskEvent::Cancelled, at)?;
            }
        }
        while let Some(id) = self.to_delay.last().copied() {
            if batch.is_full() {
                return Ok(true);
            }
            self.to_delay.pop();
            self.delay(batch, id, at)?;
        }
        Ok(!self.to_tell.is_empty())
    }

    /// Writes down the moment until which a task waits, once.
    fn delay(&mut self, batch: &mut Batch, id: TaskId, at: Timestamp) -> Result<(), EngineError> {
        let task = &self.tasks[&id];
        if !matches!(task.status.state, TaskState::Waiting { .. }) || task.open > 0 || !task.has_to_be_delayed() {
            return Ok(());
        }
        let ms = i64::try_from(task.spec.delay_ms.unwrap_or(0)).unwrap_or(i64::MAX);
        let until = Timestamp::from_millisecond(at.as_millisecond().saturating_add(ms)).unwrap_or(Timestamp::MAX);
        self.log(batch, at, Level::Info, "task.delayed", Some(id), |name| format!("{name} waits until {until}"));
        self.move_task(batch, id, TaskEvent::Delayed(until), at)
    }

    fn tell(
        &mut self,
        batch: &mut Batch,
        ended: TaskId,
        dependant: TaskId,
        failed_roots: Option<&[TaskId]>,
        at: Timestamp,
    ) -> Result<(), EngineError> {
        let task = &self.tasks[&dependant];
        if !matches!(task.status.state, TaskState::Waiting { .. }) {
            return Ok(());
        }
        let requires = task.spec.dependencies.iter().any(|edge| edge.task == ended && edge.need == Need::Requires);
        if let (Some(roots), true) = (failed_roots, requires) {
            self.unready(dependant);
            let roots = roots.to_vec();
            let named: Vec<String> = roots.iter().map(|root| self.name(*root)).collect();
            self.log(batch, at, Level::Info, "task.ignored", Some(dependant), |name| {
                format!("{name} is not tried: {} did not succeed", named.join(", "))
            });
            return self.move_task(batch, dependant, TaskEvent::Ignored(roots), at);
        }
        let open = task
            .spec
            .dependencies
            .iter()
            .filter(|edge| self.tasks.get(&edge.task).is_some_and(|other| other.status.outcome().is_none()))
            .count();
        let was_open = task.open;
        if let Some(task) = self.tasks.get_mut(&dependant) {
            task.open = u32::try_from(open).unwrap_or(u32::MAX);
        }
        if open == 0 && was_open > 0 {
            self.index(dependant);
        }
        Ok(())
    }

    /// Moves the job through its state machine, into the batch.
    pub(crate) fn move_job(&mut self, batch: &mut Batch, event: JobEvent, at: Timestamp) -> Result<(), EngineError> {
        let label = event.name();
        let moved = match &event {
            JobEvent::UndoAt(moment) => Some(format!("the job is undone by itself at {moment}")),
            JobEvent::Extend { until } => Some(format!("the job stays as it is until {until}")),
            _ => None,
        };
        let failure = match &event {
            JobEvent::PlanFailed(failure) | JobEvent::DeadlinePassed(failure) => Some(failure.to_string()),
            _ => None,
        };
        let before = self.status.state;
        self.status = self.status.clone().apply(event, at).map_err(EngineError::Command)?;
        batch.label(label);
        batch.put(keys::state(self.id()), encode(&self.status));
        let state = self.status.state;
        let result = self.status.result.map_or(String::new(), |result| format!(": {}", result.as_str()));
        let text = match (&failure, state) {
            (Some(failure), _) => failure.clone(),
            (None, _) if moved.is_some() => moved.clone().unwrap_or_default(),
            (None, JobState::Completed) => format!("the job is completed{result}"),
            (None, _) => format!("the job is {} (was {})", state.as_str(), before.as_str()),
        };
        let level = if failure.is_some() { Level::Error } else { Level::Info };
        let code = if moved.is_some() { label } else { state.as_str() };
        self.log(batch, at, level, &format!("job.{code}"), None, |_| text.clone());
        self.cancel_waiting();
        Ok(())
    }

    /// The verdict, once every task has ended; `None` while one has not.
    pub(crate) fn verdict(&self) -> Option<JobResult> {
        if self.counts.waiting + self.counts.running > 0 {
            return None;
        }
        let counts = &self.counts;
        Some(if self.status.state == JobState::Cancelling {
            JobResult::Cancelled
        } else if counts.failed + counts.ignored + counts.cancelled == 0 {
            if self.head.warnings > 0 { JobResult::SucceededWithWarnings } else { JobResult::Succeeded }
        } else if self.tasks.values().any(|task| !task.effects.is_empty()) {
            JobResult::Partial
        } else {
            JobResult::Failed
        })
    }

    /// Writes a log entry. `text` is given the name of the task.
    pub(crate) fn log(
        &mut self,
        batch: &mut Batch,
        at: Timestamp,
        level: Level,
        code: &str,
        task: Option<TaskId>,
        text: impl FnOnce(&str) -> String,
    ) {
        let name = task.map(|id| self.name(id)).unwrap_or_default();
        self.log_entry(batch, at, level, code, task, text(&name), Map::new());
    }

    /// Writes a log entry with fields.
    #[expect(clippy::too_many_arguments, reason = "the members of an entry, in their order")]
    pub(crate) fn log_entry(
        &mut self,
        batch: &mut Batch,
        at: Timestamp,
        level: Level,
        code: &str,
        task: Option<TaskId>,
        message: String,
        fields: Map<String, Value>,
    ) {
        let n = self.head.next_log.max(1);
        self.head.next_log = n + 1;
        if level >= Level::Warn {
            self.head.warnings += 1;
        }
        let entry = LogEntry { n, at, level, code: code.to_owned(), task, message, fields };
        batch.put(keys::log(self.id(), n), encode(&entry));
    }

    /// The name that people read.
    pub(crate) fn name(&self, id: TaskId) -> String {
        self.tasks.get(&id).map_or_else(|| id.to_string(), |task| task.spec.name())
    }

    /// Whether `epoch` is the running attempt of the task.
    pub(crate) fn holds(&self, id: TaskId, epoch: Epoch) -> bool {
        self.tasks.get(&id).and_then(|task| task.status.claim()).is_some_and(|claim| claim.epoch == epoch)
    }

    /// Writes tasks that the batch makes part of the plan. For a few; many are staged before.
    pub(crate) fn add(
        &mut self,
        batch: &mut Batch,
        specs: Vec<TaskSpec>,
        added_by: AddedBy,
        staged: bool,
        at: Timestamp,
    ) {
        if let AddedBy::Task(task, _) = added_by {
            specs.iter().for_each(|spec| self.note_brought(task, spec.id));
        }
        if !staged {
            for spec in &specs {
                let record = TaskRecord { spec: spec.clone(), added_by };
                batch.put(keys::task(self.id(), spec.id), encode(&record));
            }
        }
        self.insert(specs.into_iter().map(|spec| (spec, TaskStatus::new(at))).collect());
    }

    /// Applies what a takeover finds: attempts whose worker is gone.
    pub(crate) fn bury(
        &mut self,
        batch: &mut Batch,
        id: TaskId,
        poison_after: u32,
        at: Timestamp,
    ) -> Result<(), EngineError> {
        let task = &self.tasks[&id];
        let Some(claim) = task.status.claim().copied() else { return Ok(()) };
        let progressed = task.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.epoch == claim.epoch)
            || task.effects.values().any(|effect| effect.epoch == claim.epoch);
        self.move_task(batch, id, TaskEvent::OwnerDied { progressed }, at)?;
        let deaths = self.tasks[&id].status.deaths;
        if deaths >= poison_after {
            self.unready(id);
            let name = self.name(id);
            let failure = Failure::permanent(
                "poisoned",
                format!("{name} was given up: {deaths} workers died while they ran it, without getting anywhere"),
            )
            .hint("look at the worker's own log and memory, then `windlass retry` the job");
            self.log(batch, at, Level::Error, "task.poisoned", Some(id), |_| failure.to_string());
            self.end_badly(batch, id, TaskEvent::Poisoned(Box::new(failure)), at)?;
        }
        Ok(())
    }
}
