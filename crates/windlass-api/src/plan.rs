//! What a job would do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::TaskId;

use crate::problem::Failure;
use crate::task::Dependency;
use crate::work::Progress;

/// A task of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedTask {
    /// The task; a real job has tasks of its own.
    #[schemars(with = "String")]
    pub id: TaskId,
    /// Which code runs it.
    #[serde(rename = "type")]
    pub task_type: String,
    /// What it is about.
    pub resource: String,
    /// What comes first.
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
    /// The work in it.
    #[serde(default)]
    pub size: Progress,
    /// For tasks that were run to find out: how they ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// Tasks of one type that would run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedType {
    /// The type.
    #[serde(rename = "type")]
    pub task_type: String,
    /// How many.
    pub tasks: u64,
    /// Their work.
    pub size: Progress,
}

/// What a job would do. Nothing was changed to find out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanPreview {
    /// The kind.
    pub kind: String,
    /// What people would call it.
    pub name: String,
    /// The kind's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The kind's own figures.
    #[serde(default)]
    pub summary: Value,
    /// Why no plan could be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Tasks that change nothing and were run to find out.
    pub looked: Vec<PlannedTask>,
    /// Tasks that would run, in an order in which they could; the first 2000.
    pub would_run: Vec<PlannedTask>,
    /// All that would run, by type.
    pub by_type: Vec<PlannedType>,
    /// What people should know before they say yes.
    pub warnings: Vec<String>,
}
