//! One text for one table content, and its digest: what two programs compare that store the same rows differently.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use arrow_array::RecordBatch;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::cell::Cell;
use crate::column::ColumnType;
use crate::day::Day;
use crate::definition::Shape;
use crate::rows::cell;

/// The digest of a day's rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayDigest {
    /// How many rows.
    pub rows: u64,
    /// SHA-256 of their lines, in hexadecimal digits.
    pub sha256: String,
}

/// Takes the digest of a table, day after day.
#[derive(Debug, Default)]
pub struct TableDigest {
    /// By day; days without rows are left out.
    pub days: BTreeMap<Day, DayDigest>,
    total: Sha256,
}

impl TableDigest {
    /// Adds a day; days come in their order.
    pub fn add(&mut self, day: Day, lines: Lines) {
        if lines.rows == 0 {
            return;
        }
        let digest = DayDigest { rows: lines.rows, sha256: hex(&lines.hash.finalize()) };
        self.total.update(format!("day={day} {}\n", digest.sha256));
        self.days.insert(day, digest);
    }

    /// Rows of all days, and the digest of the table.
    #[must_use]
    pub fn finish(self) -> (BTreeMap<Day, DayDigest>, u64, String) {
        let rows = self.days.values().map(|day| day.rows).sum();
        (self.days, rows, hex(&self.total.finalize()))
    }
}

/// The lines of one day, of which only the digest is kept.
#[derive(Debug, Default)]
pub struct Lines {
    rows: u64,
    hash: Sha256,
    line: String,
}

impl Lines {
    /// Adds rows, which come in the order of the day.
    pub fn add(&mut self, batch: &RecordBatch, shape: &Shape) {
        for row in 0..batch.num_rows() {
            self.line.clear();
            for (at, column) in shape.types.iter().enumerate() {
                if at > 0 {
                    self.line.push('|');
                }
                text(&mut self.line, &cell(batch.column(at), column, row), column);
            }
            self.line.push('\n');
            self.hash.update(self.line.as_bytes());
            self.rows += 1;
        }
    }
}

fn text(line: &mut String, cell: &Cell, column: &ColumnType) {
    match (cell, column) {
        (Cell::Null, _) => line.push('~'),
        (Cell::Bool(value), _) => line.push(if *value { 't' } else { 'f' }),
        (Cell::Int(value), _) => {
            let _ = write!(line, "{value}");
        }
        (Cell::Float32(value), _) => {
            let _ = write!(line, "{:08x}", value.to_bits());
        }
        (Cell::Float64(value), _) => {
            let _ = write!(line, "{:016x}", value.to_bits());
        }
        (Cell::Decimal(value), _) => {
            let _ = write!(line, "{value}");
        }
        (Cell::Text(text), _) => {
            for c in text.chars() {
                match c {
                    '%' => line.push_str("%25"),
                    '|' => line.push_str("%7C"),
                    '~' => line.push_str("%7E"),
                    '\n' => line.push_str("%0A"),
                    '\r' => line.push_str("%0D"),
                    c => line.push(c),
                }
            }
        }
        (Cell::Bytes(bytes), _) => line.push_str(&hex(bytes)),
        (Cell::List(cells), ColumnType::List(inner)) => {
            line.push('[');
            for (n, cell) in cells.iter().enumerate() {
                if n > 0 {
                    line.push(',');
                }
                text(line, cell, inner);
            }
            line.push(']');
        }
        (Cell::List(_), _) => {}
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
