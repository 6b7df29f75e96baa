//! Kinds of jobs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A kind that the server knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KindInfo {
    /// The name in job files.
    pub name: String,
    /// One line for people.
    pub about: String,
    /// Its task types.
    pub task_types: Vec<String>,
    /// The JSON Schema of its spec; left out in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

/// All kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KindList {
    /// By name.
    pub kinds: Vec<KindInfo>,
}
