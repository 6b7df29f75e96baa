//! The stored form of the engine's records: JSON with a version, readable with any tool at three in the morning.
//!
//! A record of a newer version is refused, never guessed at. Members that a version does not know are ignored,
//! so that members may be added without a new version; a changed meaning needs one.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::plan::TaskSpec;
use windlass_model::task::Output;
use windlass_model::{Epoch, JobId, TaskId};
use windlass_store::Entry;

use crate::EngineError;

/// The version that this program writes, and the newest that it reads.
pub const VERSION: u8 = 1;

#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u8,
    #[serde(flatten)]
    record: &'a T,
}

#[derive(Deserialize)]
struct VersionOnly {
    #[serde(default)]
    v: u8,
}

/// Encodes a record.
pub fn encode<T: Serialize>(record: &T) -> Bytes {
    let text = serde_json::to_vec(&Versioned { v: VERSION, record });
    // Records hold strings, numbers, lists and maps with text keys: nothing that JSON cannot say.
    Bytes::from(text.expect("every record has a JSON form"))
}

/// Decodes the record of an entry.
///
/// # Errors
///
/// [`EngineError::Record`] names the key and what is wrong.
pub fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T, EngineError> {
    let unusable = |why: String| EngineError::Record { key: entry.key.clone(), why };
    serde_json::from_slice(&entry.value).map_err(|error| match serde_json::from_slice::<VersionOnly>(&entry.value) {
        Ok(VersionOnly { v }) if v > VERSION => {
            unusable(format!("it has version {v}, this program reads up to {VERSION}; use a newer windlass"))
        }
        _ => unusable(error.to_string()),
    })
}

/// What was submitted. Never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The job.
    pub id: JobId,
    /// Which kind runs it.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// What it shall do; the kind knows what it means. Nothing in a stored record whose `large_spec` says where it is.
    #[serde(default)]
    pub spec: Value,
    /// A spec that is too large for the record: where it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub large_spec: Option<Output>,
    /// For people and filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Larger goes first.
    #[serde(default)]
    pub priority: i32,
    /// Milliseconds from submission after which it is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Milliseconds after its completion at which it is undone by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_after_ms: Option<u64>,
    /// When it was submitted.
    pub created: Timestamp,
    /// Whether only tasks that change nothing run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub preview: bool,
}

impl JobRecord {
    /// As it is stored: without a spec that is kept apart.
    pub(crate) fn stored(&self) -> Bytes {
        if self.large_spec.is_none() {
            return encode(self);
        }
        encode(&Self { spec: Value::Null, ..self.clone() })
    }
}

/// What makes a stored task part of the plan. Until then it is a draft that a crash may have left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddedBy {
    /// Activating this generation of the plan.
    Generation(u32),
    /// The success of this task, in the attempt with this epoch.
    Task(TaskId, Epoch),
    /// This round of a job that reconciles.
    Round(u64),
}

/// A task as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The task.
    #[serde(flatten)]
    pub spec: TaskSpec,
    /// What makes it part of the plan.
    pub added_by: AddedBy,
}

/// The index entry of a shared resource that a job holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The resource.
    pub key: String,
    /// The task that stands for it.
    pub task: TaskId,
}

/// Who holds a place in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotHolder {
    /// The job.
    pub job: JobId,
    /// Its task; `None`: the job as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Since when.
    pub since: Timestamp,
}

/// The head of a job's log. Written with every batch of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The number of the next log entry.
    pub next_log: u64,
    /// Counts batches; tells after an unconfirmed commit whether it was applied.
    pub batch: u64,
    /// Warnings in the log so far.
    #[serde(default)]
    pub warnings: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_store::Revision;

    fn entry(value: Bytes) -> Entry {
        Entry { key: "k".into(), value, version: Revision(1), created: Revision(1), lease: None }
    }

    #[test]
    fn records_survive_and_newer_ones_are_refused_by_name() {
        let head = Head { next_log: 3, batch: 2, warnings: 0 };
        assert_eq!(decode::<Head>(&entry(encode(&head))).unwrap(), head);
        let newer = entry(Bytes::from_static(br#"{"v":9,"something":"else"}"#));
        let error = decode::<JobRecord>(&newer).unwrap_err().to_string();
        assert!(error.contains("version 9"), "{error}");
        assert!(decode::<Head>(&entry(Bytes::from_static(b"\xff"))).is_err());
    }
}
