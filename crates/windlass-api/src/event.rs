//! The event streams, `text/event-stream`.
//!
//! A job's stream numbers its events as its log: `id` is the number of a log entry, without gap and without repeat,
//! whatever server is asked. In between come `status` events without an id, which say how the job is now and replace
//! each other. The stream of all jobs has ids `<revision>.<n>` of the state store. Both go on after the id in
//! `Last-Event-ID`. A `bye` event says that the server is ending: connect again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use windlass_model::JobId;

use crate::job::JobDetail;
use crate::log::LogEntry;

/// What sort of event it is: the `event` field of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A log entry; every change of a job or task that matters has one.
    Log,
    /// How the job is now. Has no id: only the last one counts.
    Status,
    /// The job was removed.
    Deleted,
    /// What was asked to go on from is no longer known (the state was replaced): read afresh.
    Reset,
    /// The server is ending.
    Bye,
}

impl EventKind {
    /// The name in the stream.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Status => "status",
            Self::Deleted => "deleted",
            Self::Reset => "reset",
            Self::Bye => "bye",
        }
    }
}

/// The data of an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// What sort of event it is.
    pub kind: EventKind,
    /// The job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub job: Option<JobId>,
    /// The entry, for `log`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<LogEntry>,
    /// The job, for `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<JobDetail>>,
}
