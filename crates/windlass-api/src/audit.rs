//! Who changed what.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::JobId;

use crate::role::Role;

/// One change that was asked for, or an access that was denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// Names the entry; sorts by time.
    pub id: String,
    /// When it was asked.
    pub at: Timestamp,
    /// Who; absent when nobody could be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// With what role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// From which address.
    pub from: String,
    /// What: `job.submit`, `job.pause`, `access.denied`.
    pub what: String,
    /// On which job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub job: Option<JobId>,
    /// Names the request in logs.
    pub request_id: String,
    /// `begun` (the process ended before it could say how it went), `done`, `refused` or `failed`.
    pub outcome: String,
    /// The code of the problem, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// More, for programs: the command's parameters. Never a secret.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

/// Entries, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditList {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// Give it as `cursor` to get older ones; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Which entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Only of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// Only on this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Only what begins with this: `job.`, `access.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
    /// At most this many; 100 when left out, 1000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Where the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
