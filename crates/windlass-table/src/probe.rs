//! Finding the rows of a day's files whose keys are in a patch.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use arrow_array::{ArrayRef, RecordBatch};
use arrow_row::{RowConverter, SortField};
use arrow_schema::Schema;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection};

use crate::definition::Shape;
use crate::error::{Result, TableError, arrow, parquet};
use crate::patch::Patch;
use crate::rows::{Row, conform, row};

/// Rows that are decoded at once.
pub(crate) const BATCH_ROWS: usize = 8192;

/// A data file on this machine.
#[derive(Clone, Debug)]
pub struct BaseFile {
    /// Where it is.
    pub path: PathBuf,
    /// Rows of it that do not count, ascending.
    pub deleted: Vec<u64>,
}

/// The keys of patches, each with its rows in the order in which they apply.
pub(crate) struct Keys {
    converter: RowConverter,
    positions: Vec<usize>,
    known: HashMap<Box<[u8]>, u32>,
    /// By key: the patch and the row of it.
    pub(crate) rows: Vec<Vec<(u32, u32)>>,
}

impl Keys {
    pub(crate) fn of(patches: &[Patch], shape: &Shape) -> Result<Self> {
        let fields = shape.primary_key.iter().map(|at| SortField::new(shape.types[*at].arrow())).collect();
        let converter = RowConverter::new(fields).map_err(arrow("prepare for reading keys"))?;
        let mut keys =
            Self { converter, positions: shape.primary_key.clone(), known: HashMap::new(), rows: Vec::new() };
        for (n, patch) in patches.iter().enumerate() {
            let columns: Vec<ArrayRef> = keys.positions.iter().map(|at| patch.column(*at).clone()).collect();
            let encoded = keys.converter.convert_columns(&columns).map_err(arrow("read keys"))?;
            for (at, key) in encoded.iter().enumerate() {
                let id = match keys.known.get(key.as_ref()) {
                    Some(id) => *id,
                    None => {
                        let id = u32::try_from(keys.rows.len())
                            .map_err(|_| TableError::invalid("too many keys in one run"))?;
                        keys.known.insert(key.as_ref().into(), id);
                        keys.rows.push(Vec::new());
                        id
                    }
                };
                keys.rows[id as usize].push((n as u32, at as u32));
            }
        }
        Ok(keys)
    }

    /// The rows of `columns`, which are those of the key, that are among these keys: position and key.
    fn hits(&self, columns: &[ArrayRef], first: u64, found: &mut Vec<(u64, u32)>) -> Result<()> {
        let encoded = self.converter.convert_columns(columns).map_err(arrow("read keys"))?;
        for (at, key) in encoded.iter().enumerate() {
            if let Some(id) = self.known.get(key.as_ref()) {
                found.push((first + at as u64, *id));
            }
        }
        Ok(())
    }
}

/// A row of a file whose key is in the patch.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) key: u32,
    pub(crate) file: usize,
    pub(crate) position: u64,
    pub(crate) row: Row,
}

/// Reads the keys of the files, then the rows that were hit, and nothing else.
pub(crate) fn probe(
    files: &[BaseFile],
    keys: &Keys,
    shape: &Shape,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Vec<Hit>> {
    let mut hits = Vec::new();
    let fields: Vec<_> = shape.primary_key.iter().map(|at| shape.schema.field(*at).clone()).collect();
    let key_schema = std::sync::Arc::new(Schema::new(fields));
    for (n, file) in files.iter().enumerate() {
        let builder = open(&file.path)?;
        let total = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let wanted: Vec<usize> = (0..builder.schema().fields().len())
            .filter(|at| key_schema.index_of(builder.schema().field(*at).name()).is_ok())
            .collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build();
        let mut found = Vec::new();
        let mut first = 0;
        for batch in reader.map_err(parquet(reading(&file.path)))? {
            go_on()?;
            let batch = conform(&batch.map_err(arrow(reading(&file.path)))?, &key_schema)?;
            keys.hits(batch.columns(), first, &mut found)?;
            first += batch.num_rows() as u64;
        }
        found.retain(|(position, _)| file.deleted.binary_search(position).is_err());
        if found.is_empty() {
            continue;
        }
        let ranges = found.iter().map(|(position, _)| {
            let at = usize::try_from(*position).unwrap_or(usize::MAX);
            Range { start: at, end: at + 1 }
        });
        let selection = RowSelection::from_consecutive_ranges(ranges, total);
        let reader = open(&file.path)?.with_row_selection(selection).with_batch_size(BATCH_ROWS).build();
        let mut next = found.iter();
        for batch in reader.map_err(parquet(reading(&file.path)))? {
            go_on()?;
            let batch = conform(&batch.map_err(arrow(reading(&file.path)))?, &shape.schema)?;
            for at in 0..batch.num_rows() {
                let Some((position, key)) = next.next() else { break };
                hits.push(Hit { key: *key, file: n, position: *position, row: row(&batch, &shape.types, at) });
            }
        }
        if next.next().is_some() {
            return Err(TableError::damaged(format!("{} has fewer rows than it says", file.path.display())));
        }
    }
    Ok(hits)
}

fn reading(path: &Path) -> String {
    format!("read {}", path.display())
}

/// A data file, opened.
pub(crate) fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = File::open(path).map_err(TableError::disk("open", path))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(parquet(reading(path)))
}

/// The rows of a file, in batches of the table's columns. Rows that do not count are among them.
pub(crate) fn batches(path: &Path, shape: &Shape) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
    let reader = open(path)?.with_batch_size(BATCH_ROWS).build().map_err(parquet(reading(path)))?;
    let (schema, path) = (shape.schema.clone(), path.to_path_buf());
    Ok(reader.map(move |batch| conform(&batch.map_err(arrow(reading(&path)))?, &schema)))
}
