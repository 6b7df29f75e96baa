//! Jobs: submitting, listing, reading.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::JobId;
use windlass_model::job::JobStatus;

use crate::plan::ExpectedPlan;
use crate::problem::Failure;
use crate::schedule::Schedule;
use crate::work::{Counts, Eta, Progress};

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Being planned, or waiting for a place.
    Pending,
    /// Its tasks run.
    Running,
    /// Told to pause: no task starts any more.
    Pausing,
    /// Nothing of it runs.
    Paused,
    /// Told to cancel.
    Cancelling,
    /// All tasks have ended; it can be undone, retried or confirmed.
    Completed,
    /// Its effects are being undone.
    Undoing,
    /// Some effects could not be undone.
    UndoFailed,
    /// Over for good.
    Finished,
}

impl JobState {
    /// All of them, in the order of a job's life.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Cancelling,
        Self::Completed,
        Self::Undoing,
        Self::UndoFailed,
        Self::Finished,
    ];

    /// The name as sent and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Completed => "completed",
            Self::Undoing => "undoing",
            Self::UndoFailed => "undo_failed",
            Self::Finished => "finished",
        }
    }

    /// Whether something is still to be done for it without anybody asking.
    #[must_use]
    pub const fn is_active(self) -> bool {
        !matches!(self, Self::Completed | Self::UndoFailed | Self::Finished)
    }
}

impl From<windlass_model::job::JobState> for JobState {
    fn from(from: windlass_model::job::JobState) -> Self {
        use windlass_model::job::JobState as From;
        match from {
            From::Pending => Self::Pending,
            From::Running => Self::Running,
            From::Pausing => Self::Pausing,
            From::Paused => Self::Paused,
            From::Cancelling => Self::Cancelling,
            From::Completed => Self::Completed,
            From::Undoing => Self::Undoing,
            From::UndoFailed => Self::UndoFailed,
            From::Finished => Self::Finished,
        }
    }
}

/// The verdict on a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobResult {
    /// Every task succeeded.
    Succeeded,
    /// Every task succeeded, and somebody should read the warnings.
    SucceededWithWarnings,
    /// Some tasks succeeded, some did not.
    Partial,
    /// Nothing of use was done, or the plan failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl JobResult {
    /// The name as sent and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::SucceededWithWarnings => "succeeded_with_warnings",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the job did what it was for.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Succeeded | Self::SucceededWithWarnings)
    }
}

impl From<windlass_model::job::JobResult> for JobResult {
    fn from(from: windlass_model::job::JobResult) -> Self {
        use windlass_model::job::JobResult as From;
        match from {
            From::Succeeded => Self::Succeeded,
            From::SucceededWithWarnings => Self::SucceededWithWarnings,
            From::Partial => Self::Partial,
            From::Failed => Self::Failed,
            From::Cancelled => Self::Cancelled,
        }
    }
}

/// Why a job is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum PausedBy {
    /// A person asked.
    Person,
    /// A task needs a person's attention.
    Attention {
        /// What for.
        failure: Box<Failure>,
    },
}

/// A job to submit: what a job file says, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// Which kind runs it.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// What it shall do; `GET /api/v1/kinds/{kind}` has the schema.
    pub spec: Value,
    /// For people and filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Larger goes first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// Length of time after submission at which it is given up: `6h`, `1h30m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// Length of time after completion at which it is undone by itself, for drills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_after: Option<String>,
    /// When it runs by itself, again and again. The submission then stores a schedule; its first job begins when due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Bounds of this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Take the job only if planning it now gives this plan: its digest, or the whole fingerprint that `plan` gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_plan: Option<ExpectedPlan>,
}

fn is_zero(n: &i32) -> bool {
    *n == 0
}

/// Bounds of one job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Tasks of it that run at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<u32>,
}

/// The answer to a submission: the job, or the schedule, is stored and survives any crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Submitted {
    /// The job; of a submission with `schedule`, the schedule.
    #[schemars(with = "String")]
    pub id: JobId,
    /// Where to read it.
    pub location: String,
    /// Whether it is a schedule, whose jobs begin when they are due.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scheduled: bool,
}

/// A job in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobSummary {
    /// The job.
    #[schemars(with = "String")]
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where it is.
    pub state: JobState,
    /// The verdict, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// When it was submitted.
    pub created: Timestamp,
    /// When tasks could first run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When the last task ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// When the state last changed.
    pub since: Timestamp,
    /// Milliseconds it has worked; pauses do not count.
    pub elapsed_ms: u64,
    /// Whether it is paused because a person has to look at something.
    #[serde(default)]
    pub needs_attention: bool,
    /// Its tasks by state, where this server runs the job and so knows them without looking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// Its work, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Progress>,
}

/// A page of jobs, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobList {
    /// The jobs.
    pub jobs: Vec<JobSummary>,
    /// Give it as `cursor` to get the next page; absent at the end. One request looks at a bounded number of jobs, so a
    /// page may hold few of those that were asked for, or none, while there are more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many of the newest jobs are in which state, before the filter by state. Only on the first page.
    #[serde(default)]
    pub by_state: BTreeMap<JobState, u64>,
    /// Whether there are older jobs that `by_state` does not count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uncounted: bool,
}

/// Which jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobQuery {
    /// Only these states, separated by commas; `active` and `rest` stand for those that are not over and those that
    /// are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only with these labels, `name` or `name=value`, separated by commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Only those whose name, id, kind or labels contain this, in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// At most this many; 50 when left out, 500 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// How long to wait for something to happen before answering.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitFor {
    /// Wait at most this long: `30s`; 60 s at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
    /// Answer as soon as the job's `version` is larger than this. Without it: as soon as the job is at rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobDetail {
    /// The job.
    #[schemars(with = "String")]
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// What it shall do.
    pub spec: Value,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Larger goes first.
    pub priority: i32,
    /// Milliseconds from submission after which it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Where it is.
    pub state: JobState,
    /// The verdict, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// Why it failed as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// When it was submitted.
    pub created: Timestamp,
    /// When tasks could first run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When the last task ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// When the state last changed.
    pub since: Timestamp,
    /// Why it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<PausedBy>,
    /// When the pause ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_at: Option<Timestamp>,
    /// When it is undone by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_at: Option<Timestamp>,
    /// Milliseconds it has worked; pauses do not count.
    pub elapsed_ms: u64,
    /// Counts how often its plan was activated.
    pub generation: u32,
    /// Its tasks by state.
    pub counts: Counts,
    /// Its work: items and bytes.
    pub work: Progress,
    /// Units per second over the last half minute: bytes where they are known, else items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Time left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<Eta>,
    /// Warnings in its log.
    pub warnings: u64,
    /// The number of its last log entry.
    pub last_log: u64,
    /// What the job as a whole waits for, in words.
    #[serde(default)]
    pub waiting_on: Vec<String>,
    /// The commands that fit the job as it is.
    #[serde(default)]
    pub commands: Vec<String>,
    /// Grows with every change of the job.
    pub version: u64,
    /// The whole status as it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub status: Option<Box<JobStatus>>,
}
