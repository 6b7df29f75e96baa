//! Actions: the lines of a log entry.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One line of a log entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// What a program has to know to read and write the table.
    Protocol(Protocol),
    /// What the table is.
    MetaData(Box<Metadata>),
    /// A file belongs to the table.
    Add(Box<Add>),
    /// A file does not belong to the table any more.
    Remove(Box<Remove>),
    /// How far an application has come.
    Txn(Txn),
    /// Who wrote the entry, and why.
    CommitInfo(CommitInfo),
}

/// What a program has to know to read and write the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Protocol {
    /// To read.
    pub min_reader_version: i32,
    /// To write.
    pub min_writer_version: i32,
    /// To read, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader_features: Option<Vec<String>>,
    /// To write, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_features: Option<Vec<String>>,
}

/// How files are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// `parquet`
    pub provider: String,
    /// None.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// What the table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// The table's id.
    pub id: String,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// How files are stored.
    pub format: Format,
    /// The schema, as JSON text.
    pub schema_string: String,
    /// By which columns it is partitioned.
    pub partition_columns: Vec<String>,
    /// Properties.
    #[serde(default)]
    pub configuration: BTreeMap<String, String>,
    /// When it was made, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_time: Option<i64>,
}

/// Rows of a file that do not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeletionVector {
    /// How it is stored; `u`: in a file of its own.
    pub storage_type: String,
    /// The file's id.
    pub path_or_inline_dv: String,
    /// Where it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i32>,
    /// Its bytes.
    pub size_in_bytes: i32,
    /// The rows that do not count.
    pub cardinality: i64,
}

/// A file belongs to the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Add {
    /// Relative to the table, percent-encoded.
    pub path: String,
    /// The values of the partition columns.
    pub partition_values: BTreeMap<String, Option<String>>,
    /// Bytes.
    pub size: i64,
    /// When it was made, in milliseconds since 1970.
    pub modification_time: i64,
    /// Whether it changes what the table says.
    pub data_change: bool,
    /// Statistics, as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<String>,
    /// Rows of it that do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<DeletionVector>,
}

/// A file does not belong to the table any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remove {
    /// Relative to the table, percent-encoded.
    pub path: String,
    /// When, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<i64>,
    /// Whether it changes what the table says.
    pub data_change: bool,
    /// Whether what follows is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_file_metadata: Option<bool>,
    /// The values of the partition columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_values: Option<BTreeMap<String, Option<String>>>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// Rows of it that did not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_vector: Option<DeletionVector>,
}

/// How far an application has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Txn {
    /// Which application.
    pub app_id: String,
    /// How far.
    pub version: i64,
    /// When, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<i64>,
}

/// Who wrote the entry, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitInfo {
    /// When, in milliseconds since 1970.
    #[serde(default)]
    pub timestamp: i64,
    /// What was done.
    #[serde(default)]
    pub operation: String,
    /// By which program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_info: Option<String>,
    /// Tells this attempt to commit from all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn_id: Option<String>,
    /// The run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Counters.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub operation_metrics: Map<String, Value>,
}

impl Remove {
    /// The key of the file, relative to the table.
    #[must_use]
    pub fn key(&self) -> String {
        decoded(&self.path)
    }
}

impl Add {
    /// What removes it.
    #[must_use]
    pub fn removed(&self, at_ms: i64, data_change: bool) -> Remove {
        Remove {
            path: self.path.clone(),
            deletion_timestamp: Some(at_ms),
            data_change,
            extended_file_metadata: Some(true),
            partition_values: Some(self.partition_values.clone()),
            size: Some(self.size),
            deletion_vector: self.deletion_vector.clone(),
        }
    }

    /// Rows in it, hidden ones too, if its statistics say so.
    #[must_use]
    pub fn rows(&self) -> Option<u64> {
        let stats: Value = serde_json::from_str(self.stats.as_deref()?).ok()?;
        stats["numRecords"].as_u64()
    }

    /// Rows of it that do not count.
    #[must_use]
    pub fn hidden(&self) -> u64 {
        self.deletion_vector.as_ref().map_or(0, |vector| u64::try_from(vector.cardinality).unwrap_or(0))
    }

    /// The same file with other rows that do not count.
    pub(crate) fn hiding(&self, vector: DeletionVector) -> Self {
        let loose = |text: &String| -> Option<String> {
            let mut stats: Map<String, Value> = serde_json::from_str(text).ok()?;
            // What is least and largest may be hidden now.
            stats.insert("tightBounds".to_owned(), false.into());
            serde_json::to_string(&stats).ok()
        };
        Self {
            stats: self.stats.as_ref().and_then(loose),
            deletion_vector: Some(vector),
            data_change: true,
            ..self.clone()
        }
    }

    /// The key of the file, relative to the table.
    #[must_use]
    pub fn key(&self) -> String {
        decoded(&self.path)
    }
}

fn decoded(path: &str) -> String {
    percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned()
}
