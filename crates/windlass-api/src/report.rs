//! What a job did, with receipts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::JobId;

use crate::job::{JobResult, JobState};
use crate::log::LogEntry;
use crate::problem::Failure;
use crate::task::Leftover;
use crate::work::Counts;

/// A task that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unsuccessful {
    /// Type and resource.
    pub task: String,
    /// `failed`, `ignored` or `cancelled`.
    pub outcome: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// For ignored tasks: what failed before them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<String>,
}

/// Effects of one action, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EffectCounts {
    /// Written down, but not known to have happened.
    pub intended: u64,
    /// Done.
    pub made: u64,
    /// Undone.
    pub gone: u64,
    /// Left to others, or made permanent.
    #[serde(default)]
    pub kept: u64,
}

/// What a job did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The job.
    #[schemars(with = "String")]
    pub job: JobId,
    /// Its kind.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// Where it is.
    pub state: JobState,
    /// The verdict, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// Why it failed as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// When it was submitted.
    pub created: Timestamp,
    /// When tasks could first run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When the last task ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Milliseconds it has worked.
    pub elapsed_ms: u64,
    /// Its tasks by state.
    pub tasks: Counts,
    /// Attempts that failed or were broken off, over all tasks.
    pub repeated_attempts: u64,
    /// The effect ledger, counted by action.
    pub effects: BTreeMap<String, EffectCounts>,
    /// Tasks that did not succeed.
    pub unsuccessful: Vec<Unsuccessful>,
    /// What it has left outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<Leftover>,
    /// Warnings and errors of the log.
    pub warnings: Vec<LogEntry>,
    /// The kind's own part.
    pub summary: Value,
}
