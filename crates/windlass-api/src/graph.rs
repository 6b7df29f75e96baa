//! The plan as a picture: nodes and edges, collapsed where there are too many.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::task::TaskState;
use crate::work::Progress;

/// A task, or a group of tasks of one type in one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GraphNode {
    /// A task id, or `<type>:<state>` for a group.
    pub id: String,
    /// The type of the task, or of all tasks of the group.
    #[serde(rename = "type")]
    pub task_type: String,
    /// What the task is about; absent for groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Where it is, or how it ended.
    pub state: TaskState,
    /// Tasks in it: 1 for a task.
    pub count: u64,
    /// Its work.
    pub progress: Progress,
    /// Longest way from a task that depends on nothing: the layer that it is drawn in.
    pub layer: u32,
    /// When it was first claimed; of a group: the first of its tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended; of a group: the last of its tasks, once all have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
}

/// An edge between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GraphEdge {
    /// The node that comes first.
    pub from: String,
    /// The node that waits.
    pub to: String,
    /// Whether success is required.
    pub required: bool,
    /// Edges between tasks that it stands for.
    pub count: u64,
}

/// The plan of a job as a picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Graph {
    /// The nodes, layer by layer.
    pub nodes: Vec<GraphNode>,
    /// The edges.
    pub edges: Vec<GraphEdge>,
    /// Whether nodes are groups.
    pub collapsed: bool,
    /// Tasks in all.
    pub tasks: u64,
}
