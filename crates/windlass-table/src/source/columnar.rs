//! Parquet files and Arrow's own formats: columns that are there were sent, a null is a null.

use std::fs::File;
use std::io::{BufRead, Read, Seek};
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};

use crate::batch::Batch;
use crate::definition::Definition;
use crate::error::{Result, arrow, parquet};
use crate::probe::open;
use crate::source::Meaning;

/// Reads a Parquet file and hands it on batch by batch.
///
/// # Errors
///
/// What is wrong with the file, or with its columns for this table.
pub fn parquet_batches(
    path: &Path,
    definition: &Definition,
    meaning: &Meaning,
    mut sink: impl FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let reading = || format!("read {}", path.display());
    let reader = open(path)?.with_batch_size(meaning.batch_rows).build().map_err(parquet(reading()))?;
    for rows in reader {
        hand_on(&rows.map_err(arrow(reading()))?, definition, meaning, &mut sink)?;
    }
    Ok(())
}

/// Reads an Arrow file, or a stream of Arrow's from something that cannot be sought in, and hands it on batch by batch.
///
/// # Errors
///
/// What is wrong with it, or with its columns for this table.
pub fn arrow_batches(
    from: Source<'_>,
    definition: &Definition,
    meaning: &Meaning,
    mut sink: impl FnMut(Batch) -> Result<()>,
) -> Result<()> {
    match from {
        Source::File(mut file) => {
            let mut magic = [0; 6];
            let is_file = file.read_exact(&mut magic).is_ok() && &magic == b"ARROW1";
            file.rewind().map_err(crate::error::TableError::disk("read", "the Arrow file"))?;
            if !is_file {
                return stream(file, definition, meaning, sink);
            }
            for rows in FileReader::try_new(file, None).map_err(arrow("read the Arrow file"))? {
                hand_on(&rows.map_err(arrow("read the Arrow file"))?, definition, meaning, &mut sink)?;
            }
            Ok(())
        }
        Source::Stream(from) => stream(from, definition, meaning, sink),
    }
}

/// Where Arrow's bytes come from.
pub enum Source<'a> {
    /// A file.
    File(File),
    /// Something that cannot be sought in.
    Stream(&'a mut dyn BufRead),
}

fn stream(
    from: impl Read,
    definition: &Definition,
    meaning: &Meaning,
    mut sink: impl FnMut(Batch) -> Result<()>,
) -> Result<()> {
    for rows in StreamReader::try_new(from, None).map_err(arrow("read the Arrow stream"))? {
        hand_on(&rows.map_err(arrow("read the Arrow stream"))?, definition, meaning, &mut sink)?;
    }
    Ok(())
}

fn hand_on(
    rows: &RecordBatch,
    definition: &Definition,
    meaning: &Meaning,
    sink: &mut impl FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let mut at = 0;
    while at < rows.num_rows() {
        let count = meaning.batch_rows.min(rows.num_rows() - at);
        sink(Batch::new(definition, &rows.slice(at, count), meaning.modes.clone(), meaning.arrival, None, None)?)?;
        at += count;
    }
    Ok(())
}
