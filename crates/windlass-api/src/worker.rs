//! Workers and what they hold.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use windlass_model::{JobId, TaskId, WorkerId};

/// A worker process that is present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerView {
    /// One run of a worker process.
    #[schemars(with = "String")]
    pub id: WorkerId,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// The machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// For placement.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Types of tasks that it runs.
    #[serde(default)]
    pub task_types: Vec<String>,
    /// Tasks that it runs at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<u64>,
    /// Whether it takes up jobs and runs tasks; else it only submits and gives commands.
    #[serde(default = "yes")]
    pub takes_up: bool,
    /// The program's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it holds.
    #[serde(default)]
    pub claims: Vec<ClaimView>,
}

fn yes() -> bool {
    true
}

/// A job that a worker coordinates, or a task that it runs of a job that another one coordinates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClaimView {
    /// The job.
    #[schemars(with = "String")]
    pub job: JobId,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Its kind.
    #[serde(default)]
    pub kind: String,
    /// The task, when it is one of a job that another worker coordinates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub task: Option<TaskId>,
}

/// All workers that are present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerList {
    /// By name.
    pub workers: Vec<WorkerView>,
}
