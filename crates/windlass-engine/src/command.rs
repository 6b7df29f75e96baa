//! Commands that people give to jobs.

use jiff::Timestamp;
use windlass_model::job::JobStatus;

/// What people may ask of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Let nothing new start, stop what runs at its next safe point.
    Pause {
        /// When to go on without being told.
        until: Option<Timestamp>,
    },
    /// Go on.
    Resume,
    /// Give up.
    Cancel {
        /// Whether to undo what was done.
        undo: bool,
    },
    /// Undo what an ended job did.
    Undo,
    /// Make the outcome of an ended job permanent.
    Confirm,
    /// Leave what could not be undone as it is.
    IgnoreLeftovers,
    /// Run the tasks of an ended job again that did not succeed.
    Retry,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandReply {
    /// It is stored; the job is now so.
    Done(Box<JobStatus>),
    /// It does not fit the job as it is; nothing changed.
    Refused(String),
}

impl CommandReply {
    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }
}
