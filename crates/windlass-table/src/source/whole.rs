//! Rows that come as one piece and shall count as one batch: all of them or none.

use std::io::Cursor;

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_select::concat::concat_batches;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::batch::{Batch, LARGEST};
use crate::definition::Definition;
use crate::error::{Result, TableError, arrow, parquet};
use crate::source::{Meaning, csv_batches, json_batches};

/// Bytes that rows may take once they are unpacked; a batch of more does not fit into the log anyway.
const UNPACKED: usize = 2 * LARGEST;
/// Rows that are unpacked at a time.
const STEP: usize = 65_536;

/// In which form rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object a line.
    JsonLines,
    /// CSV with the names of the columns in its first line.
    Csv,
    /// A Parquet file.
    Parquet,
    /// A file or a stream of Arrow.
    Arrow,
}

/// Reads rows as one batch; `None`: there are none. [`Meaning::batch_rows`] is the most that may come.
///
/// # Errors
///
/// What is wrong with the rows, and that they are too many for one batch: nothing of them counts then.
pub fn whole_batch(form: Form, bytes: &Bytes, definition: &Definition, meaning: &Meaning) -> Result<Option<Batch>> {
    let mut found: Option<Batch> = None;
    let mut only = |batch: Batch| match found {
        None => {
            found = Some(batch);
            Ok(())
        }
        Some(_) => Err(too_many(meaning.batch_rows)),
    };
    match form {
        Form::JsonLines => json_batches(&mut Cursor::new(bytes), definition, meaning, only)?,
        Form::Csv => csv_batches(&mut Cursor::new(bytes), definition, meaning, only)?,
        Form::Parquet => {
            let reading = || "read the Parquet file that was sent";
            let builder = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).map_err(parquet(reading()));
            let builder = builder.map_err(sent_so)?;
            let rows: i64 = builder.metadata().file_metadata().num_rows();
            if usize::try_from(rows).map_or(true, |rows| rows > meaning.batch_rows) {
                return Err(too_many(meaning.batch_rows));
            }
            // Said by the file itself, so only a first look: what comes out is counted as well.
            let unpacked: i64 =
                builder.metadata().row_groups().iter().map(|group| group.total_byte_size().max(0)).sum();
            if usize::try_from(unpacked).map_or(true, |unpacked| unpacked > UNPACKED) {
                return Err(too_large());
            }
            let reader = builder.with_batch_size(STEP).build().map_err(parquet(reading())).map_err(sent_so)?;
            if let Some(rows) = gather(reader.map(|rows| rows.map_err(arrow(reading())).map_err(sent_so)), meaning)? {
                only(Batch::new(definition, &rows, meaning.modes.clone(), meaning.arrival, None, None)?)?;
            }
        }
        Form::Arrow => {
            let reading = || "read the Arrow data that was sent";
            let rows = if bytes.starts_with(b"ARROW1") {
                let reader = FileReader::try_new(Cursor::new(bytes.clone()), None).map_err(arrow(reading()));
                gather(reader.map_err(sent_so)?.map(|rows| rows.map_err(arrow(reading())).map_err(sent_so)), meaning)?
            } else {
                let reader = StreamReader::try_new(Cursor::new(bytes.clone()), None).map_err(arrow(reading()));
                gather(reader.map_err(sent_so)?.map(|rows| rows.map_err(arrow(reading())).map_err(sent_so)), meaning)?
            };
            if let Some(rows) = rows {
                only(Batch::new(definition, &rows, meaning.modes.clone(), meaning.arrival, None, None)?)?;
            }
        }
    }
    Ok(found)
}

/// Damage of what somebody sends is their mistake and nothing of ours is damaged.
#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
fn sent_so(error: TableError) -> TableError {
    TableError::invalid(error.to_string())
}

fn too_many(rows: usize) -> TableError {
    TableError::TooLarge(format!("more than {rows} rows do not go into one batch"))
}

fn too_large() -> TableError {
    TableError::TooLarge(format!("rows of more than {UNPACKED} bytes do not go into one batch"))
}

fn gather(batches: impl Iterator<Item = Result<RecordBatch>>, meaning: &Meaning) -> Result<Option<RecordBatch>> {
    let (mut all, mut rows, mut bytes) = (Vec::new(), 0, 0);
    for batch in batches {
        let batch = batch?;
        rows += batch.num_rows();
        // What is shared between batches counts each time, which is on the safe side.
        bytes += batch.get_array_memory_size();
        if rows > meaning.batch_rows {
            return Err(too_many(meaning.batch_rows));
        }
        if bytes > UNPACKED && all.len() > 1 {
            return Err(too_large());
        }
        if batch.num_rows() > 0 {
            all.push(batch);
        }
    }
    let Some(first) = all.first() else { return Ok(None) };
    if all.len() == 1 {
        return Ok(all.pop());
    }
    concat_batches(&first.schema(), &all).map(Some).map_err(arrow("put the rows together")).map_err(sent_so)
}
