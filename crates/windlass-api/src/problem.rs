//! What an error looks like: `application/problem+json` (RFC 9457), and failures of tasks and jobs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request was not carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Names the sort of problem as a URI; a relative one, made from `code`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The same for every problem of this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Stable, for programs: `no_such_job`, `invalid_spec`.
    pub code: String,
    /// What was attempted, on what, and why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Names this request in logs and in the audit list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Every fault of what was sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.detail.is_empty() { &self.title } else { &self.detail })?;
        for fault in &self.faults {
            if fault.pointer.is_empty() {
                write!(f, "; {}", fault.message)?;
            } else {
                write!(f, "; {}: {}", fault.pointer, fault.message)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// One fault of what was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// JSON pointer into what was sent: `/spec/cluster/agents/0`. Empty: the whole.
    #[serde(default)]
    pub pointer: String,
    /// What is wrong and what would be right.
    pub message: String,
    /// Line in the text, from 1, when a text was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Column in the text in characters, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
}

impl Fault {
    /// A fault at `pointer`.
    #[must_use]
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), message: message.into(), line: None, column: None }
    }
}

/// What a failure says about repeating the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// Nothing happened outside; the same call may succeed later.
    Transient,
    /// A change may or may not have happened outside.
    UnknownOutcome,
    /// Something else holds the target for now.
    Conflict,
    /// Repeating cannot help.
    Permanent,
    /// The attempt was told to stop.
    Interrupted,
    /// Going on needs a person.
    NeedsAttention,
}

impl From<windlass_model::failure::ErrorClass> for ErrorClass {
    fn from(from: windlass_model::failure::ErrorClass) -> Self {
        use windlass_model::failure::ErrorClass as From;
        match from {
            From::Transient => Self::Transient,
            From::UnknownOutcome => Self::UnknownOutcome,
            From::Conflict => Self::Conflict,
            From::Permanent => Self::Permanent,
            From::Interrupted => Self::Interrupted,
            From::NeedsAttention => Self::NeedsAttention,
        }
    }
}

/// A failure of a task, a plan or a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// Stable, for programs.
    pub code: String,
    /// What repeating may bring.
    pub class: ErrorClass,
    /// What was attempted, on what, and why it failed.
    pub message: String,
    /// The causes below, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Details for programs.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub details: Map<String, Value>,
}

impl From<windlass_model::Failure> for Failure {
    fn from(from: windlass_model::Failure) -> Self {
        Self {
            code: from.code,
            class: from.class.into(),
            message: from.message,
            causes: from.causes,
            hint: from.hint,
            details: from.details,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}
