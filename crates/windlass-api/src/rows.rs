//! Rows for tables.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The media types in which rows come: JSON lines, CSV, Parquet, and Arrow's stream and file.
pub const ROW_MEDIA_TYPES: [&str; 6] = [
    "application/x-ndjson",
    "application/jsonl",
    "text/csv",
    "application/vnd.apache.parquet",
    "application/vnd.apache.arrow.stream",
    "application/vnd.apache.arrow.file",
];

/// How rows are meant that are sent to a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowsQuery {
    /// Which of the table's logs takes them. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u32>,
    /// Who sends them. With `sequence`, rows that are sent again after a lost answer count once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The number of this batch, which grows with each batch of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// How columns are meant: `fare=add,tip=max`. Modes are `overwrite_not_null` (the default), `force_overwrite`,
    /// `add`, `min` and `max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modes: Option<String>,
}

/// Rows are durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RowsTaken {
    /// How many there were.
    pub rows: u64,
    /// The number of the batch in the log; of the client's last one, when this one had come before. 0: there were no
    /// rows.
    pub lsn: u64,
    /// Whether the batch had come before, and was not taken in again.
    pub before: bool,
    /// Bytes of rows in this log that wait to be merged.
    pub pending_bytes: u64,
    /// Whether so much waits that a backfill is due.
    pub backfill_due: bool,
}
