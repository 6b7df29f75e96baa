//! Tasks of a job.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::{JobId, TaskId, WorkerId};

use crate::problem::Failure;
use crate::work::{Counts, Progress};

/// Where a task is, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Not claimed: dependencies, a place or a moment are awaited.
    Waiting,
    /// A worker holds it.
    Running,
    /// It did what it was for.
    Succeeded,
    /// It failed for good.
    Failed,
    /// Not tried, because something that it requires did not succeed.
    Ignored,
    /// Not tried, or given up, because the job was cancelled.
    Cancelled,
}

impl TaskState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Waiting, Self::Running, Self::Succeeded, Self::Failed, Self::Ignored, Self::Cancelled];

    /// The name as sent and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Ignored => "ignored",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<&windlass_model::task::TaskState> for TaskState {
    fn from(from: &windlass_model::task::TaskState) -> Self {
        use windlass_model::task::{Outcome, TaskState as From};
        match from {
            From::Waiting { .. } => Self::Waiting,
            From::Running { .. } => Self::Running,
            From::Done { outcome: Outcome::Succeeded { .. } } => Self::Succeeded,
            From::Done { outcome: Outcome::Failed { .. } } => Self::Failed,
            From::Done { outcome: Outcome::Ignored { .. } } => Self::Ignored,
            From::Done { outcome: Outcome::Cancelled } => Self::Cancelled,
        }
    }
}

/// An edge of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Dependency {
    /// The task that comes first.
    #[schemars(with = "String")]
    pub task: TaskId,
    /// Whether it must have succeeded; else it is enough that it has ended.
    pub required: bool,
}

/// A task in a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskSummary {
    /// The task.
    #[schemars(with = "String")]
    pub id: TaskId,
    /// Which code runs it.
    #[serde(rename = "type")]
    pub task_type: String,
    /// What it is about.
    pub resource: String,
    /// Where it is, or how it ended.
    pub state: TaskState,
    /// What comes first.
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
    /// How far it has got.
    pub progress: Progress,
    /// Claims so far; never goes down.
    pub epoch: u64,
    /// Attempts that failed, in this generation.
    pub failures: u32,
    /// Who runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub worker: Option<WorkerId>,
    /// When it was first claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When the state last changed.
    pub since: Timestamp,
    /// What it waits for, in words; empty when it does not wait.
    #[serde(default)]
    pub waiting_on: Vec<String>,
    /// Why it failed, or why its last attempt did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// For ignored tasks: what failed before them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub because_of: Vec<String>,
    /// Changes to the outside in its ledger.
    pub effects: u64,
    /// The task that this one undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub undoes: Option<TaskId>,
    /// The question that a person has to answer before it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_approval: Option<String>,
    /// Who has answered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// What they had to say about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_note: Option<String>,
    /// The shared resource that it makes or uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<String>,
}

impl TaskSummary {
    /// The name that people read: type and resource.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}[{}]", self.task_type, self.resource)
    }
}

/// Tasks of one type, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TypeSum {
    /// The type.
    #[serde(rename = "type")]
    pub task_type: String,
    /// By state.
    pub counts: Counts,
    /// Their work.
    pub work: Progress,
}

/// A page of tasks, in an order in which they could run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskList {
    /// The tasks.
    pub tasks: Vec<TaskSummary>,
    /// All tasks of the job by type, before filters and paging.
    #[serde(default)]
    pub types: Vec<TypeSum>,
    /// Tasks that match the filters, on all pages together.
    pub matching: u64,
    /// Give it as `cursor` to get the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskQuery {
    /// Only these states, separated by commas; `unsuccessful` stands for failed, ignored and cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only this type.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub task_type: Option<String>,
    /// Only those whose type, resource or id contain this, in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// At most this many; 100 when left out, 1000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One try at a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// The epoch of its claim.
    pub epoch: u64,
    /// Who tried.
    #[schemars(with = "String")]
    pub worker: WorkerId,
    /// When it began.
    pub since: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// What it ended with; absent when it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// How far an effect has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EffectState {
    /// Written before the call: it may or may not exist outside.
    Intended,
    /// The call succeeded.
    Made,
    /// Undone, or found never to have happened.
    Gone,
    /// It exists and is no longer this job's to undo: others hold it, or it was made permanent.
    Kept,
}

impl From<windlass_model::effect::EffectState> for EffectState {
    fn from(from: windlass_model::effect::EffectState) -> Self {
        use windlass_model::effect::EffectState as From;
        match from {
            From::Intended => Self::Intended,
            From::Made => Self::Made,
            From::Gone => Self::Gone,
            From::Kept => Self::Kept,
        }
    }
}

/// Something that a job has left outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Leftover {
    /// The task that made it; empty when it was found outside and is in no ledger.
    pub task: String,
    /// What was done: `insert`, `create`.
    pub action: String,
    /// What the outside can recognise it by.
    pub key: String,
    /// Where: the system, and the place in it.
    pub target: String,
    /// Whether it surely exists (`made`) or only may (`intended`).
    pub state: EffectState,
    /// What the outside calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// The shared resource that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<String>,
    /// A line of shell that removes it, when its task type knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl From<windlass_model::effect::Leftover> for Leftover {
    fn from(from: windlass_model::effect::Leftover) -> Self {
        Self {
            task: from.task,
            action: from.action,
            key: from.key,
            target: from.target,
            state: from.state.into(),
            external_id: from.external_id,
            shared: from.shared,
            command: from.command,
        }
    }
}

/// What a job has left outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftoverList {
    /// One by one.
    pub leftovers: Vec<Leftover>,
    /// A shell script that removes them; may be run again.
    pub script: String,
}

/// A change to the outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Effect {
    /// Counts the effects of the task.
    pub n: u32,
    /// What is done: `insert`, `delete`.
    pub action: String,
    /// Where: the system, and the place in it.
    pub target: String,
    /// What the outside can recognise a repetition by.
    pub key: String,
    /// How far it has got.
    pub state: EffectState,
    /// The epoch of the attempt that wrote the last change.
    pub epoch: u64,
    /// What the outside calls the thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// What undo needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Value>,
    /// When the entry last changed.
    pub at: Timestamp,
}

impl From<windlass_model::effect::Effect> for Effect {
    fn from(from: windlass_model::effect::Effect) -> Self {
        Self {
            n: from.n,
            action: from.action,
            target: from.target,
            key: from.key,
            state: from.state.into(),
            epoch: from.epoch.0,
            external_id: from.external_id,
            receipt: from.receipt,
            at: from.at,
        }
    }
}

/// What a task gave to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The value itself.
    Value(Value),
    /// It is large: its digest and its size as JSON text, in bytes.
    Stored {
        /// SHA-256, hexadecimal.
        digest: String,
        /// Bytes.
        size: u64,
    },
}

/// One task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskDetail {
    /// The job.
    #[schemars(with = "String")]
    pub job: JobId,
    /// What a list says about it.
    #[serde(flatten)]
    pub summary: TaskSummary,
    /// Literal input.
    #[serde(default)]
    pub input: Value,
    /// What is put into the input from outputs of dependencies: pointer in the input, and where it is from.
    #[serde(default)]
    pub references: Vec<TaskReference>,
    /// The last attempts, oldest first.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// The ledger.
    #[serde(default)]
    pub ledger: Vec<Effect>,
    /// How far it has got, as the task itself wrote it down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Value>,
    /// What it gave to others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// Not before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Workers that died holding it, in this generation.
    #[serde(default)]
    pub deaths: u32,
    /// Tasks that wait for this one.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub dependants: Vec<TaskId>,
}

/// A part of a task's input that comes from another task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TaskReference {
    /// JSON pointer into the input.
    pub at: String,
    /// The task that it comes from.
    #[schemars(with = "String")]
    pub task: TaskId,
    /// JSON pointer into that task's output.
    pub pointer: String,
}
