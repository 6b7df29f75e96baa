//! A job's log.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use windlass_model::{JobId, TaskId};

/// How much a person should care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A state change or a result.
    Info,
    /// Unexpected, but the job goes on.
    Warn,
    /// A person must look.
    Error,
}

impl Level {
    /// The name as sent and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl From<windlass_model::log::Level> for Level {
    fn from(from: windlass_model::log::Level) -> Self {
        match from {
            windlass_model::log::Level::Info => Self::Info,
            windlass_model::log::Level::Warn => Self::Warn,
            windlass_model::log::Level::Error => Self::Error,
        }
    }
}

/// One entry. Numbers within a job have no gap and no repeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogEntry {
    /// Number within the job, from 1; also the id in the job's event stream.
    pub n: u64,
    /// When it was written.
    pub at: Timestamp,
    /// How much a person should care.
    pub level: Level,
    /// Stable, for programs: `task.done`, `job.paused`.
    pub code: String,
    /// The task it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub task: Option<TaskId>,
    /// For people.
    pub message: String,
    /// For programs.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
}

impl From<windlass_model::log::LogEntry> for LogEntry {
    fn from(from: windlass_model::log::LogEntry) -> Self {
        Self {
            n: from.n,
            at: from.at,
            level: from.level.into(),
            code: from.code,
            task: from.task,
            message: from.message,
            fields: from.fields,
        }
    }
}

/// Entries of a log, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogList {
    /// The job.
    #[schemars(with = "String")]
    pub job: JobId,
    /// The entries.
    pub entries: Vec<LogEntry>,
    /// Give it as `after` to go on: the number of the last entry that was looked at.
    pub last: u64,
    /// Whether there are more at the moment.
    pub more: bool,
}

/// Which entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// Only larger numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only the last so many, whatever `after` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// Only this level and above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Only about this task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// At most this many; 500 when left out, 5000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// When there is none: wait at most this long for one; `30s`, 60 s at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
}
