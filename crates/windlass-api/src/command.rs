//! Commands to jobs.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::JobId;

use crate::job::{JobResult, JobState};

/// What is asked of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "command", deny_unknown_fields)]
pub enum CommandRequest {
    /// Let nothing new start, stop what runs at its next safe point.
    Pause {
        /// Go on by itself after this time: `30m`.
        #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
        for_: Option<String>,
        /// Go on by itself at this moment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// Go on.
    Resume,
    /// Give up.
    Cancel {
        /// Whether to undo what was done.
        #[serde(default)]
        undo: bool,
    },
    /// Undo what an ended job did.
    Undo,
    /// Make the outcome of an ended job permanent.
    Confirm,
    /// Leave what could not be undone as it is.
    IgnoreLeftovers,
    /// Run tasks of an ended job again.
    Retry {
        /// Only those that failed, not those that were not tried because of them.
        #[serde(default)]
        failed_only: bool,
        /// This task and everything after it, however it ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// Other literal inputs, by task name or id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inputs: Option<Value>,
    },
    /// Answer the question of a task that waits for a person.
    Approve {
        /// The task, by name or id.
        task: String,
    },
    /// Give a job more time before it is undone or given up by itself.
    Extend {
        /// Length of time from now: `2h`.
        by: String,
    },
    /// Remove a job that is over, with everything that is stored about it.
    Delete {
        /// Also when effects of it are left outside.
        #[serde(default)]
        force: bool,
    },
}

impl CommandRequest {
    /// The name as sent and shown.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pause { .. } => "pause",
            Self::Resume => "resume",
            Self::Cancel { .. } => "cancel",
            Self::Undo => "undo",
            Self::Confirm => "confirm",
            Self::IgnoreLeftovers => "ignore_leftovers",
            Self::Retry { .. } => "retry",
            Self::Approve { .. } => "approve",
            Self::Extend { .. } => "extend",
            Self::Delete { .. } => "delete",
        }
    }
}

/// The answer to a command that was carried out: it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CommandAnswer {
    /// The job.
    #[schemars(with = "String")]
    pub job: JobId,
    /// The command.
    pub command: String,
    /// Where the job now is; absent when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<JobState>,
    /// The verdict, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// When a pause ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_at: Option<Timestamp>,
}
