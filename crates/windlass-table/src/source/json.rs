//! JSON lines: one object a row. A name that is not there was not sent; `null` is a null. `"_op": "delete"` deletes.

use std::io::BufRead;

use arrow_array::builder::ArrayBuilder as _;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema};
use serde_json::{Map, Value};
use std::sync::Arc;

use crate::batch::Batch;
use crate::cell::Cell;
use crate::definition::Definition;
use crate::error::{Result, TableError, arrow};
use crate::rows::Builder;
use crate::source::Meaning;

/// Longest line.
const LONGEST: usize = 16 << 20;

/// Reads JSON lines and hands them on batch by batch.
///
/// # Errors
///
/// The first line that is none or has a value of a wrong type: its number, and why. Batches before it were handed on.
pub fn json_batches(
    from: &mut dyn BufRead,
    definition: &Definition,
    meaning: &Meaning,
    mut sink: impl FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let mut line = Vec::new();
    let mut rows = Rows::new(definition, meaning.batch_rows);
    for number in 1_u64.. {
        line.clear();
        let most = LONGEST as u64 + 1;
        let read = std::io::Read::take(&mut *from, most).read_until(b'\n', &mut line);
        let read = read.map_err(|error| TableError::invalid(format!("line {number} cannot be read: {error}")))?;
        if read == 0 {
            break;
        }
        if read > LONGEST {
            return Err(TableError::invalid(format!("line {number} has more than {LONGEST} bytes")));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let object: Map<String, Value> = serde_json::from_slice(&line)
            .map_err(|error| TableError::invalid(format!("line {number} is no JSON object: {error}")))?;
        rows.push(&object).map_err(|why| TableError::invalid(format!("line {number}: {why}")))?;
        if rows.count >= meaning.batch_rows {
            sink(rows.batch(definition, meaning)?)?;
            rows = Rows::new(definition, meaning.batch_rows);
        }
    }
    if rows.count > 0 {
        sink(rows.batch(definition, meaning)?)?;
    }
    Ok(())
}

struct Rows<'a> {
    definition: &'a Definition,
    builders: Vec<Builder>,
    /// Which columns any row brought.
    used: Vec<bool>,
    sent: Vec<Vec<bool>>,
    deletes: Vec<bool>,
    count: usize,
}

impl<'a> Rows<'a> {
    fn new(definition: &'a Definition, rows: usize) -> Self {
        Self {
            definition,
            builders: definition
                .columns
                .iter()
                .map(|column| Builder::new(&column.column_type, rows.min(65_536)))
                .collect(),
            used: vec![false; definition.columns.len()],
            sent: Vec::new(),
            deletes: Vec::new(),
            count: 0,
        }
    }

    fn push(&mut self, object: &Map<String, Value>) -> Result<(), String> {
        let mut deletes = false;
        for (name, value) in object {
            if name == "_op" {
                deletes = match value.as_str() {
                    Some("delete") => true,
                    Some("upsert") => false,
                    _ => return Err(format!("_op is {value}, and known are \"upsert\" and \"delete\"")),
                };
            } else if self.definition.position(name).is_none() {
                return Err(format!("the table {} has no column {name:?}", self.definition.name));
            }
        }
        let mut cells = Vec::with_capacity(self.builders.len());
        for column in &self.definition.columns {
            cells.push(match object.get(&column.name) {
                None => None,
                Some(value) => {
                    Some(Cell::from_json(value, &column.column_type).map_err(|why| format!("{}: {why}", column.name))?)
                }
            });
        }
        for (at, cell) in cells.iter().enumerate() {
            self.builders[at].push(cell.as_ref().unwrap_or(&Cell::Null));
            self.used[at] |= cell.is_some();
        }
        self.sent.push(cells.iter().map(Option::is_some).collect());
        self.deletes.push(deletes);
        self.count += 1;
        Ok(())
    }

    fn batch(mut self, definition: &Definition, meaning: &Meaning) -> Result<Batch> {
        let mut fields = Vec::new();
        let mut columns: Vec<ArrayRef> = Vec::new();
        for (at, column) in definition.columns.iter().enumerate() {
            if self.used[at] {
                fields.push(Field::new(&column.name, column.column_type.arrow(), true));
                columns.push(self.builders[at].finish());
            }
        }
        let used = &self.used;
        let only_used =
            |row: Vec<bool>| row.into_iter().zip(used).filter(|(_, used)| **used).map(|(sent, _)| sent).collect();
        let sent: Vec<Vec<bool>> = self.sent.into_iter().map(only_used).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.count));
        let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .map_err(arrow("put lines together"))?;
        Batch::new(definition, &rows, meaning.modes.clone(), meaning.arrival, Some(&sent), Some(self.deletes))
    }
}
