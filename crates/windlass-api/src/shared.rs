//! What several jobs hold together, and names that only one may hold.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::JobId;

/// Who holds a shared resource.
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
}

/// A shared resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedResource {
    /// Its key.
    pub key: String,
    /// `exclusive` (a name that one job holds), `shared`, or `pool`.
    pub sort: String,
    /// Where it is: `creating`, `ready`, `deleting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Who holds it.
    pub holders: Vec<SharedHolder>,
    /// For pools: how many may hold it at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When it last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
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
