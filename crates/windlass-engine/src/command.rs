//! Commands that people give to jobs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::effect::Leftover;
use windlass_model::job::JobStatus;

/// What people may ask of a job. Tasks are named by id, by `type[resource]`, or by the resource alone where only
/// one task has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum Command {
    /// Let nothing new start, stop what runs at its next safe point.
    Pause {
        /// When to go on without being told.
        #[serde(default)]
        until: Option<Timestamp>,
    },
    /// Go on.
    Resume,
    /// Move the end of the pause, or the moment at which an ended job undoes itself, to later.
    Extend {
        /// By how many milliseconds.
        by_ms: u64,
    },
    /// Give up.
    Cancel {
        /// Whether to undo what was done.
        #[serde(default)]
        undo: bool,
    },
    /// Undo what an ended job did. Also: try again after some of it could not be undone, and turn a confirm whose
    /// clearing failed into an undo of everything.
    Undo,
    /// Make the outcome of an ended job permanent, after undoing what it does not need. Also: try again after that
    /// failed.
    Confirm,
    /// Leave what could not be undone as it is.
    IgnoreLeftovers,
    /// Run tasks of an ended job again. What had succeeded runs again only when it is asked for.
    Retry {
        /// Those that did not succeed. `false` without `from`: all.
        #[serde(default = "yes")]
        failed_only: bool,
        /// This task and everything downstream of it, whatever had become of them.
        #[serde(default)]
        from: Option<String>,
        /// What tasks that run again shall run with instead of their input.
        #[serde(default)]
        inputs: BTreeMap<String, Value>,
    },
    /// Say yes to the question of a task that waits for it.
    Approve {
        /// The task.
        task: String,
        /// Who says yes.
        by: String,
        /// What they have to say about it.
        #[serde(default)]
        note: Option<String>,
    },
    /// Let a standing job look now at what there is to do.
    Wake,
    /// Remove every record of the job. Nothing outside is touched.
    Delete {
        /// Even when it is not finished: it loses its hold on shared resources, and what it has made stays behind.
        #[serde(default)]
        force: bool,
    },
}

fn yes() -> bool {
    true
}

impl Command {
    /// Runs again what had not succeeded.
    #[must_use]
    pub fn retry() -> Self {
        Self::Retry { failed_only: true, from: None, inputs: BTreeMap::new() }
    }

    /// The name as people give it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pause { .. } => "pause",
            Self::Resume => "resume",
            Self::Extend { .. } => "extend",
            Self::Cancel { .. } => "cancel",
            Self::Undo => "undo",
            Self::Confirm => "confirm",
            Self::IgnoreLeftovers => "ignore-leftovers",
            Self::Retry { .. } => "retry",
            Self::Approve { .. } => "approve",
            Self::Wake => "wake",
            Self::Delete { .. } => "delete",
        }
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandReply {
    /// It is stored; the job is now so.
    Done(Box<JobStatus>),
    /// It does not fit the job as it is; nothing changed.
    Refused(String),
    /// The job is gone. What it has left outside is nobody's any more.
    Deleted {
        /// As it was last.
        status: Box<JobStatus>,
        /// What it has left outside.
        leftovers: Vec<Leftover>,
    },
}

impl CommandReply {
    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_their_stored_form_and_say_little_to_mean_the_usual() {
        assert_eq!(serde_json::from_str::<Command>(r#"{"command": "retry"}"#).unwrap(), Command::retry());
        assert_eq!(
            serde_json::from_str::<Command>(r#"{"command": "cancel"}"#).unwrap(),
            Command::Cancel { undo: false }
        );
        for command in [Command::Extend { by_ms: 5 }, Command::Delete { force: true }, Command::Confirm] {
            let text = serde_json::to_string(&command).unwrap();
            assert!(text.contains(&command.name().replace('-', "_")), "{text}");
            assert_eq!(serde_json::from_str::<Command>(&text).unwrap(), command);
        }
        let refused = CommandReply::refused("no");
        let text = serde_json::to_string(&refused).unwrap();
        assert_eq!(serde_json::from_str::<CommandReply>(&text).unwrap(), refused);
    }
}
