//! Jobs that never end by themselves: their kind looks again and again at what is and what should be, and says which
//! tasks are missing.
//!
//! A kind whose [`Kind::reconciles`](crate::Kind::reconciles) answers for a spec has
//! [`Kind::reconcile`](crate::Kind::reconcile) called in *rounds*, by the job's coordinator: when it takes the job up,
//! when a task of the job has ended, when somebody wakes it ([`Command::Wake`](crate::Command::Wake), a [`Waker`]), and
//! by a timer. Rounds of one job never overlap. A round changes nothing itself: what it returns becomes part of the
//! job in one batch that compares the coordinator's claim, so a coordinator that was replaced meanwhile adds nothing.
//!
//! A round may be stopped at any await and called again: by a pause, a cancel, a crash. It must come to the same tasks
//! from the same world.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use windlass_clock::{SharedClock, SharedEntropy};
use windlass_model::effect::Effect;
use windlass_model::plan::TaskSpec;
use windlass_model::progress::Progress;
use windlass_model::task::{Outcome, Output};
use windlass_model::{Failure, JobId, TaskId, WorkerId};
use windlass_store::Store;

use crate::bell::Bell;
use crate::coordinator::image::Counts;
use crate::values;

/// How a standing job of a spec is looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconcile {
    /// The longest time between two rounds.
    pub every: Duration,
    /// The shortest time from the beginning of one round to that of the next: signals in between are answered together.
    pub at_most_every: Duration,
    /// The longest that a round may take; then it is stopped and counts as failed.
    pub deadline: Duration,
    /// Ended tasks whose records are kept, the newest. Those that no round was told of are kept in any case.
    pub keep_ended: usize,
    /// Log entries that are kept, the newest.
    pub keep_log: u64,
    /// Tasks of the job that may be waiting or running at a time. What a round adds beyond that is left out, and the next
    /// one is asked for it again.
    pub most_in_flight: usize,
}

impl Reconcile {
    /// A round at least every `every`, at most every 20 ms, of at most a minute; 200 ended tasks and 10 000 log entries
    /// are kept, 20 000 tasks may be in flight.
    #[must_use]
    pub fn every(every: Duration) -> Self {
        Self {
            every,
            at_most_every: Duration::from_millis(20),
            deadline: Duration::from_secs(60),
            keep_ended: 200,
            keep_log: 10_000,
            most_in_flight: 20_000,
        }
    }
}

/// Why a round is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The coordinator has taken up the job, or the job goes on after a pause.
    Start,
    /// Somebody asked for it with [`Command::Wake`](crate::Command::Wake).
    Asked,
    /// A [`Waker`] was used.
    Signal,
    /// Tasks of the job have ended.
    Ended,
    /// It was time.
    Timer,
}

/// Wakes the reconciling of one job from within the process that coordinates it. May be kept and used at any time;
/// wakes are gathered into one round. When the job moves to another coordinator, that one's first round is given
/// another waker, and this one has no effect any more.
#[derive(Clone, Debug)]
pub struct Waker(pub(crate) Arc<Bell>);

impl Waker {
    /// Asks for a round.
    pub fn wake(&self) {
        self.0.ring();
    }
}

/// A task of the job that has not ended.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// The task.
    pub task: Arc<TaskSpec>,
    /// The worker that runs it; `None` while it waits.
    pub worker: Option<WorkerId>,
    /// Since when it runs or waits.
    pub since: Timestamp,
    /// Attempts that failed.
    pub failures: u32,
    /// What the last of those failed with.
    pub last_failure: Option<Box<Failure>>,
    /// How far it has got.
    pub progress: Progress,
}

/// A task of the job that has ended and that no successful round of this coordinator was told of.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The task.
    pub task: Arc<TaskSpec>,
    /// How it ended. [`ReconcileContext::output`] reads the output.
    pub outcome: Outcome,
    /// When.
    pub at: Timestamp,
    /// Its ledger. It is pruned together with the task: whatever must be cleaned up is to be cleaned up by tasks that
    /// this round adds.
    pub effects: Vec<Effect>,
    /// Whether it ended before this coordinator took up the job: an earlier round may have been told of it already.
    pub again: bool,
}

/// What a round may use.
#[derive(Clone, Debug)]
pub struct ReconcileContext {
    pub(crate) job: JobId,
    pub(crate) spec: Arc<crate::records::JobRecord>,
    pub(crate) round: u64,
    pub(crate) term: u64,
    pub(crate) causes: Vec<Cause>,
    pub(crate) in_flight: Vec<InFlight>,
    pub(crate) ended: Vec<Ended>,
    pub(crate) counts: Counts,
    pub(crate) status: Value,
    pub(crate) waker: Waker,
    pub(crate) cancel: CancellationToken,
    pub(crate) clock: SharedClock,
    pub(crate) entropy: SharedEntropy,
    pub(crate) work_dir: std::path::PathBuf,
    pub(crate) store: Arc<dyn Store>,
}

impl ReconcileContext {
    /// The job.
    #[must_use]
    pub fn job(&self) -> JobId {
        self.job
    }

    /// The job's spec, as submitted.
    #[must_use]
    pub fn spec(&self) -> &Value {
        &self.spec.spec
    }

    /// The number of the round, above that of every round whose tasks are in the job.
    #[must_use]
    pub fn round(&self) -> u64 {
        self.round
    }

    /// The term of this coordinator: higher than that of every coordinator of the job before it, so that the outside can
    /// refuse those.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether this round is only to show what it would add: nothing of it runs, on no store that anybody else knows, and
    /// its term means nothing to the outside.
    #[must_use]
    pub fn is_preview(&self) -> bool {
        self.spec.preview
    }

    /// Why it is called; more than one cause where signals were gathered.
    #[must_use]
    pub fn causes(&self) -> &[Cause] {
        &self.causes
    }

    /// The tasks of the job that have not ended.
    #[must_use]
    pub fn in_flight(&self) -> &[InFlight] {
        &self.in_flight
    }

    /// The tasks that have ended since the last successful round; in a coordinator's first round all that are kept.
    #[must_use]
    pub fn ended(&self) -> &[Ended] {
        &self.ended
    }

    /// All tasks that the job ever had, those that are pruned among them.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The status that the last successful round gave; null before the first.
    #[must_use]
    pub fn last_status(&self) -> &Value {
        &self.status
    }

    /// Wakes this job; to be kept by whatever sees in this process that there is something to do.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Fires when the round is stopped: for work on other threads that the round began.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancel
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

    /// The job's folder for files on this machine; not made yet, perhaps. The next coordinator may be elsewhere.
    #[must_use]
    pub fn work_dir(&self) -> &std::path::Path {
        &self.work_dir
    }

    /// A task of this round. One of the same type and resource that has not ended by then takes its place, also in the
    /// dependencies of other tasks of the round.
    #[must_use]
    pub fn task(&self, task_type: impl Into<String>, resource: impl Into<String>) -> TaskSpec {
        let mut task = TaskSpec::new(self.job, 0, task_type, resource);
        task.id = TaskId::in_round(self.job, self.round, &task.task_type, &task.resource);
        task
    }

    /// What an ended task put out; `None` when it did not succeed.
    ///
    /// # Errors
    ///
    /// A large output that cannot be read from the store.
    pub async fn output(&self, ended: &Ended) -> Result<Option<Value>, Failure> {
        let Outcome::Succeeded { output } = &ended.outcome else { return Ok(None) };
        if let Output::Inline(value) = output {
            return Ok(Some(value.clone()));
        }
        values::fetch(&*self.store, self.job, output).await.map(Some).map_err(|error| {
            Failure::transient("output_unreadable", format!("reading what {} put out: {error}", ended.task.name()))
        })
    }
}

/// What a round has come to.
#[derive(Clone, Debug, Default)]
pub struct Reconciled {
    /// Tasks to add, made with [`ReconcileContext::task`].
    pub add: Vec<TaskSpec>,
    /// What people are shown: any JSON up to 64 KiB. `None` leaves the last one.
    pub status: Option<Value>,
    /// One line for people: `12 of 400 files are on their way`. `None` leaves the last one.
    pub summary: Option<String>,
    /// When to be called again, if nothing wakes the job before; never later than [`Reconcile::every`].
    pub next: Option<Duration>,
}

impl Reconciled {
    /// Adds these tasks.
    #[must_use]
    pub fn add(tasks: Vec<TaskSpec>) -> Self {
        Self { add: tasks, ..Self::default() }
    }

    /// Says how things are, in a line and as a document.
    #[must_use]
    pub fn status(mut self, summary: impl Into<String>, status: Value) -> Self {
        (self.summary, self.status) = (Some(summary.into()), Some(status));
        self
    }

    /// Asks to be called again after `wait`, if nothing wakes the job before.
    #[must_use]
    pub fn next(mut self, wait: Duration) -> Self {
        self.next = Some(wait);
        self
    }
}

/// What a job that reconciles knows of its rounds; stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundRecord {
    /// The last round whose tasks are part of the job.
    pub n: u64,
    /// When the last round that is written down succeeded. Rounds that find nothing to do are not written down each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// When the next one is due, if nothing wakes the job before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// Rounds that failed since the last that succeeded.
    #[serde(default)]
    pub failures: u32,
    /// What the last of those failed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Box<Failure>>,
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// What people are shown.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub status: Value,
    /// Tasks that ended and whose records are gone.
    #[serde(default)]
    pub pruned: Counts,
    /// The number of the first log entry that is kept.
    #[serde(default)]
    pub log_from: u64,
    /// Tasks of the last round that were left out because too many were in flight.
    #[serde(default)]
    pub left_out: u64,
}
