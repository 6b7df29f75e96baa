//! The log of a job: numbered, without gaps, written in the transaction of the change that it describes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::TaskId;

/// How much a person should care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A state change or a result.
    Info,
    /// Unexpected, but the job goes on.
    Warn,
    /// A person must look.
    Error,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Number within the job, from 1, no gap, no repeat. Also the sequence number of the event stream.
    pub n: u64,
    /// When it was written, UTC.
    pub at: Timestamp,
    /// How much a person should care.
    pub level: Level,
    /// Stable, for programs: `task.done`, `job.paused`.
    pub code: String,
    /// The task it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// For people.
    pub message: String,
    /// For programs.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub fields: serde_json::Map<String, serde_json::Value>,
}
