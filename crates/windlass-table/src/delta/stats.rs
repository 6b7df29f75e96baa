//! Statistics of a file, as readers use them to skip it.

use std::collections::BTreeMap;

use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cell::Cell;
use crate::column::ColumnType;
use crate::definition::Shape;

/// Columns that statistics are kept of.
const COLUMNS: usize = 32;

/// Statistics of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Rows in the file, also those that do not count.
    pub num_records: u64,
    /// Nothing in a column is less.
    #[serde(default)]
    pub min_values: BTreeMap<String, Value>,
    /// Nothing in a column is more.
    #[serde(default)]
    pub max_values: BTreeMap<String, Value>,
    /// Nulls in a column.
    #[serde(default)]
    pub null_count: BTreeMap<String, u64>,
    /// Whether the bounds are of rows that count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tight_bounds: Option<bool>,
}

impl Stats {
    /// Those of a file that has just been written.
    #[must_use]
    pub fn of(metadata: &ParquetMetaData, shape: &Shape) -> Self {
        let rows = metadata.file_metadata().num_rows();
        let mut stats = Self { num_records: u64::try_from(rows).unwrap_or(0), ..Self::default() };
        let leaves = metadata.file_metadata().schema_descr();
        let mut chosen: Vec<usize> = shape.primary_key.iter().chain(&shape.sort).copied().collect();
        chosen.push(shape.event_time);
        chosen.extend(0..shape.types.len());
        let mut seen = std::collections::BTreeSet::new();
        chosen.retain(|at| seen.insert(*at));
        for at in chosen.into_iter().take(COLUMNS) {
            let (name, column) = (shape.schema.field(at).name(), &shape.types[at]);
            let leaf = (0..leaves.num_columns()).find(|leaf| leaves.get_column_root_idx(*leaf) == at);
            let Some(leaf) = leaf.filter(|_| !column.is_list()) else { continue };
            let groups: Option<Vec<&Statistics>> =
                metadata.row_groups().iter().map(|group| group.column(leaf).statistics()).collect();
            let Some(groups) = groups else { continue };
            let nulls: Option<u64> = groups.iter().map(|group| group.null_count_opt()).sum();
            if let Some(nulls) = nulls {
                stats.null_count.insert(name.clone(), nulls);
            }
            // A group of nothing but nulls has no bounds, and needs none.
            let bounds: Vec<(Cell, Cell)> = groups.iter().filter_map(|group| group_bounds(group, column)).collect();
            let with_values = groups
                .iter()
                .zip(metadata.row_groups())
                .filter(|(group, of)| group.null_count_opt() != u64::try_from(of.num_rows()).ok());
            if bounds.is_empty() || bounds.len() < with_values.count() {
                continue;
            }
            let least = bounds.iter().map(|(least, _)| least).min_by(|a, b| a.order(b));
            let most = bounds.iter().map(|(_, most)| most).max_by(|a, b| a.order(b));
            if let (Some(least), Some(most)) = (least, most)
                && let (Some(least), Some(most)) = (text(least, column, false), text(most, column, true))
            {
                stats.min_values.insert(name.clone(), least);
                stats.max_values.insert(name.clone(), most);
            }
        }
        stats
    }
}

/// The least and the largest value of a row group, if its statistics say so.
pub(crate) fn group_bounds(statistics: &Statistics, column: &ColumnType) -> Option<(Cell, Cell)> {
    match (statistics, column) {
        (Statistics::Int32(of), ColumnType::Int8 | ColumnType::Int16 | ColumnType::Int32 | ColumnType::Date) => {
            Some((Cell::Int((*of.min_opt()?).into()), Cell::Int((*of.max_opt()?).into())))
        }
        (Statistics::Int64(of), ColumnType::Int64 | ColumnType::Timestamp) => {
            Some((Cell::Int(*of.min_opt()?), Cell::Int(*of.max_opt()?)))
        }
        (Statistics::Float(of), ColumnType::Float32) => {
            Some((Cell::Float32(*of.min_opt()?), Cell::Float32(*of.max_opt()?)))
        }
        (Statistics::Double(of), ColumnType::Float64) => {
            Some((Cell::Float64(*of.min_opt()?), Cell::Float64(*of.max_opt()?)))
        }
        (Statistics::ByteArray(of), ColumnType::String) => {
            let cell = |bytes: &[u8]| Some(Cell::Text(std::str::from_utf8(bytes).ok()?.into()));
            Some((cell(of.min_opt()?.data())?, cell(of.max_opt()?.data())?))
        }
        _ => None,
    }
}

/// A bound as it is written: moments to the millisecond, rounded outwards.
fn text(cell: &Cell, column: &ColumnType, up: bool) -> Option<Value> {
    match (cell, column) {
        (Cell::Int(micros), ColumnType::Timestamp) => {
            let millis = if up { micros.checked_add(999)?.div_euclid(1000) } else { micros.div_euclid(1000) };
            let at = jiff::Timestamp::from_millisecond(millis).ok()?;
            Some(json!(format!("{at:.3}")))
        }
        (Cell::Float32(value), _) if !value.is_finite() => None,
        (Cell::Float64(value), _) if !value.is_finite() => None,
        _ => Some(cell.to_json(column)),
    }
}
