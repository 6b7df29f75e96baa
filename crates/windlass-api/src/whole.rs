//! Jobs as the state store has them: what the command line prints as JSON, whether it reads a store itself or asks a
//! server. Statuses, effects and leftovers have the members of the records themselves, see `docs/format-store.md`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::effect::{Effect, Leftover};
use windlass_model::job::JobStatus;
use windlass_model::log::LogEntry;
use windlass_model::progress::Progress;
use windlass_model::task::TaskStatus;
use windlass_model::{Failure, JobId, TaskId};

use crate::report::EffectCounts;
use crate::work::Counts;

/// The same document in the types of this module, which can be read as well as written.
///
/// # Errors
///
/// A document of another form.
pub fn mirror<T: DeserializeOwned>(document: &impl Serialize) -> serde_json::Result<T> {
    serde_json::from_value(serde_json::to_value(document)?)
}

/// A job in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WholeSummary {
    /// The job.
    #[schemars(with = "String")]
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// When it was submitted.
    pub created: Timestamp,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Where it is.
    #[schemars(with = "Value")]
    pub status: JobStatus,
}

/// A page of jobs, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WholeList {
    /// The jobs.
    pub jobs: Vec<WholeSummary>,
    /// Give it as `cursor` to get the next page; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What was submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WholeRecord {
    /// The job.
    #[schemars(with = "String")]
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// What it shall do.
    #[serde(default)]
    pub spec: Value,
    /// A spec that is too large for the record: where it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_spec: Option<Value>,
    /// For people and filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Larger goes first.
    #[serde(default)]
    pub priority: i32,
    /// Milliseconds from submission after which it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Milliseconds after its completion at which it is undone by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_after_ms: Option<u64>,
    /// When it was submitted.
    pub created: Timestamp,
    /// Whether only tasks that change nothing run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preview: bool,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WholeTask {
    /// The task.
    #[schemars(with = "String")]
    pub id: TaskId,
    /// Type and resource.
    pub name: String,
    /// Where it is, with its last attempts.
    #[schemars(with = "Value")]
    pub status: TaskStatus,
    /// What people call the worker that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// How far it has got.
    #[schemars(with = "crate::Progress")]
    pub progress: Progress,
    /// What it waits for, in words; empty when it does not wait.
    #[serde(default)]
    pub waiting_on: Vec<String>,
    /// What it waits for, for programs: `on` says what sort of reason it is.
    #[serde(default)]
    pub waits: Vec<Value>,
    /// The shared resource that it makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<String>,
    /// Its ledger.
    #[serde(default)]
    #[schemars(with = "Vec<Value>")]
    pub effects: Vec<Effect>,
}

/// A job with all its tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WholeJob {
    /// What was submitted.
    pub record: WholeRecord,
    /// Where it is.
    #[schemars(with = "Value")]
    pub status: JobStatus,
    /// Milliseconds it has worked.
    pub elapsed_ms: u64,
    /// Its tasks by state.
    pub counts: Counts,
    /// Its work.
    #[schemars(with = "crate::Progress")]
    pub work: Progress,
    /// Warnings in its log.
    pub warnings: u64,
    /// What the job as a whole waits for, in words.
    #[serde(default)]
    pub waiting_on: Vec<String>,
    /// What the job as a whole waits for, for programs.
    #[serde(default)]
    pub waits: Vec<Value>,
    /// What it has left outside and what nobody undoes by itself any more.
    #[serde(default)]
    #[schemars(with = "Vec<Value>")]
    pub leftovers: Vec<Leftover>,
    /// What people call the worker that coordinates it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<String>,
    /// Of a standing job that reconciles: its rounds as they are stored, with what the last one said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<Value>,
    /// Its tasks, in an order in which they could run.
    pub tasks: Vec<WholeTask>,
}

/// A task that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WholeUnsuccessful {
    /// Type and resource.
    pub task: String,
    /// `failed`, `ignored` or `cancelled`.
    pub outcome: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::Failure>")]
    pub failure: Option<Failure>,
    /// For ignored tasks: what failed before them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<String>,
}

/// What a job did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WholeReport {
    /// The job.
    #[schemars(with = "String")]
    pub job: JobId,
    /// Its kind.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// Where it is, with the verdict and the times.
    #[schemars(with = "Value")]
    pub status: JobStatus,
    /// When it was submitted.
    pub created: Timestamp,
    /// Milliseconds it has worked.
    pub elapsed_ms: u64,
    /// Its tasks by state.
    pub tasks: Counts,
    /// Attempts that failed or were broken off, over all tasks.
    pub repeated_attempts: u64,
    /// The effect ledger, counted by action.
    pub effects: BTreeMap<String, EffectCounts>,
    /// Tasks that did not succeed.
    pub unsuccessful: Vec<WholeUnsuccessful>,
    /// What it has left outside and what nobody undoes by itself any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Value>")]
    pub leftovers: Vec<Leftover>,
    /// Warnings and errors of the log.
    #[schemars(with = "Vec<crate::LogEntry>")]
    pub warnings: Vec<LogEntry>,
    /// The kind's own part.
    #[serde(default)]
    pub summary: Value,
}
