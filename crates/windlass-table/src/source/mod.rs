//! Rows from files: JSON lines, CSV, Parquet and Arrow's own formats.

mod columnar;
mod csv;
mod json;
mod whole;

pub use columnar::{Source, arrow_batches, parquet_batches};
pub use csv::csv_batches;
pub use json::json_batches;
pub use whole::{Form, whole_batch};

use std::collections::BTreeMap;

use crate::batch::Mode;

/// How the rows of a file are meant.
#[derive(Clone, Debug, Default)]
pub struct Meaning {
    /// Update modes of columns.
    pub modes: BTreeMap<String, Mode>,
    /// When they arrived, in microseconds since 1970.
    pub arrival: i64,
    /// Most rows of one batch.
    pub batch_rows: usize,
}
