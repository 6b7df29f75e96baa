//! What several jobs hold together, names that only one may hold, and pools with places.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::{JobId, TaskId};

/// Who holds a resource, or waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedHolder {
    /// The job.
    #[schemars(with = "String")]
    pub job: JobId,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// Its kind.
    #[serde(default)]
    pub kind: String,
    /// The task of it; absent: the job as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub task: Option<TaskId>,
    /// For places in pools: which one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Since when, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// A shared resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedResource {
    /// Its key.
    pub key: String,
    /// `exclusive` (a name that one job holds), `shared`, or `pool`.
    pub sort: String,
    /// Where it is: `absent`, `creating`, `ready`, `deleting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Who holds it.
    pub holders: Vec<SharedHolder>,
    /// For shared resources: the job that makes or removes it, or that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<SharedHolder>,
    /// For pools: the jobs that wait for a place, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<SharedHolder>,
    /// For pools: how many may hold it at a time, where a holder or a waiting job says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When it last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Why it could not be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it is, for programs.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

/// All shared resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedList {
    /// By key.
    pub resources: Vec<SharedResource>,
}
