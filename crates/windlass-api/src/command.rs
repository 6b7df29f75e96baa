//! Commands to jobs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::JobId;
use windlass_model::job::JobStatus;

use crate::job::{JobResult, JobState};
use crate::task::Leftover;

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
        /// Those that did not succeed. `false` without `from`: all.
        #[serde(default = "yes")]
        failed_only: bool,
        /// This task, by name or id, and everything after it, whatever had become of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// What tasks that run again shall run with instead of their input, by name or id.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        inputs: BTreeMap<String, Value>,
    },
    /// Answer the question of a task that waits for a person.
    Approve {
        /// The task, by name or id.
        task: String,
        /// What there is to say about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// Move the end of a pause, or the moment at which an ended job undoes itself, to later.
    Extend {
        /// By how much: `2h`.
        by: String,
    },
    /// Look again at what is wanted; for jobs that keep watch over something.
    Wake,
    /// Remove a job that is over, with everything that is stored about it.
    Delete {
        /// Also when it is not over: what it has made stays behind.
        #[serde(default)]
        force: bool,
    },
}

fn yes() -> bool {
    true
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
            Self::Wake => "wake",
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
    /// When the job is undone by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_at: Option<Timestamp>,
    /// For a job that was removed: what it has left outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<Leftover>,
    /// The whole status as it is stored, or was last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Value>")]
    pub status: Option<Box<JobStatus>>,
}
