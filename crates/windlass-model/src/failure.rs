//! What failures look like: a class that code branches on, and text that a person can act on at three in the
//! morning.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a failure says about repeating the attempt. The engine branches on this and on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// Nothing can have happened outside; the same call may succeed later (connection refused, 429, 503).
    Transient,
    /// A change may or may not have happened outside (time-out or broken connection on a mutating call). The
    /// next attempt starts in recover mode and looks before it repeats.
    UnknownOutcome,
    /// Something else holds the target for now (409 "in use"). Repeated until the deadline.
    Conflict,
    /// Repeating cannot help (400, 403, bad data). The task fails at once.
    Permanent,
    /// The attempt stopped because it was told to (cancel, pause, shutdown). Not a failure of the task.
    Interrupted,
    /// Going on needs a person: the job pauses with this reason and can be resumed.
    NeedsAttention,
}

impl ErrorClass {
    /// The name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::UnknownOutcome => "unknown_outcome",
            Self::Conflict => "conflict",
            Self::Permanent => "permanent",
            Self::Interrupted => "interrupted",
            Self::NeedsAttention => "needs_attention",
        }
    }
}

/// The detail that says that a failure cancels the job.
const CANCELS: &str = "cancels_the_job";

/// A failure of a task, a plan or a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable, for programs: `snake_case`, `kvsdb_missing`.
    pub code: String,
    /// What repeating may bring.
    pub class: ErrorClass,
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// The causes below `message`, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// How long the other side asked us to stay away, in milliseconds. Wins over our own backoff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Details for programs: stage, object key, byte offset.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub details: serde_json::Map<String, serde_json::Value>,
}

impl Failure {
    /// A failure with a code, a class and a message.
    #[must_use]
    pub fn new(code: impl Into<String>, class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            class,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            retry_after_ms: None,
            details: serde_json::Map::new(),
        }
    }

    /// A failure that repeating cannot mend.
    #[must_use]
    pub fn permanent(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(code, ErrorClass::Permanent, message)
    }

    /// A failure that may pass by itself and changed nothing.
    #[must_use]
    pub fn transient(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(code, ErrorClass::Transient, message)
    }

    /// The attempt was told to stop.
    #[must_use]
    pub fn interrupted() -> Self {
        Self::new("interrupted", ErrorClass::Interrupted, "stopped on request")
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says that what the whole job was for is gone: when the task has failed, the job is cancelled with this reason.
    #[must_use]
    pub fn cancelling_the_job(self) -> Self {
        self.detail(CANCELS, true)
    }

    /// Whether the job is cancelled when the task has failed for good.
    #[must_use]
    pub fn cancels_the_job(&self) -> bool {
        self.details.get(CANCELS) == Some(&serde_json::Value::Bool(true))
    }

    /// Adds the chain of causes below `error`, not `error` itself.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let text = error.to_string();
            // Some libraries repeat the cause's text in their own.
            if self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            cause = error.source();
        }
        self
    }

    /// Adds a detail for programs.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
