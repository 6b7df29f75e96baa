//! Finding the rows of a day's files whose keys are in a patch.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_row::{OwnedRow, RowConverter, SortField};
use arrow_schema::{Schema, SchemaRef};
use arrow_select::take::take_record_batch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};

use crate::column::ColumnType;
use crate::definition::Shape;
use crate::delta::{Deleted, group_bounds};
use crate::error::{Result, TableError, arrow, parquet};
use crate::keys::Keys;
use crate::query::Known;
use crate::rows::conform;

/// Rows that are decoded at once.
pub(crate) const BATCH_ROWS: usize = 8192;
/// Bytes of decoded rows that are kept, so that they need not be decoded again when the day is written anew.
const KEPT: usize = 32 << 20;
/// With more keys to a row of the files than one in so many, rows are decoded at once, and not keys first.
const DENSE: u64 = 40;

/// A data file on this machine.
#[derive(Clone, Debug)]
pub struct BaseFile {
    /// Where it is.
    pub path: PathBuf,
    /// Rows of it that do not count.
    pub deleted: Deleted,
}

/// Where a row of a file is whose key is in the patch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit {
    pub(crate) file: u32,
    pub(crate) position: u64,
    batch: u32,
    row: u32,
}

/// The rows that were hit.
#[derive(Debug, Default)]
pub(crate) struct Hits {
    rows: Vec<RecordBatch>,
    /// By key.
    hits: Vec<Option<Hit>>,
    /// All rows of each file, if they are few.
    pub(crate) kept: Option<Vec<Vec<RecordBatch>>>,
}

impl Hits {
    /// The row that has a key: where it is, a batch of the table's columns, and which row of it.
    pub(crate) fn of(&self, key: usize) -> Option<(Hit, &RecordBatch, usize)> {
        let hit = (*self.hits.get(key)?)?;
        Some((hit, self.rows.get(hit.batch as usize)?, hit.row as usize))
    }

    /// Notes rows of a batch. A second row of a key is a fault of whoever wrote the files; it stays as it is.
    fn note(&mut self, file: usize, first: u64, rows: &RecordBatch, found: &[(u32, u32)], whole: bool) -> Result<()> {
        let batch = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        let mut picked = Vec::with_capacity(found.len());
        for (n, (at, key)) in found.iter().enumerate() {
            let hit = &mut self.hits[*key as usize];
            if hit.is_none() {
                let row = u32::try_from(picked.len()).unwrap_or(u32::MAX);
                *hit = Some(Hit {
                    file: u32::try_from(file).unwrap_or(u32::MAX),
                    position: first + u64::from(*at),
                    batch,
                    row,
                });
                picked.push(if whole { *at } else { u32::try_from(n).unwrap_or(u32::MAX) });
            }
        }
        if !picked.is_empty() {
            let picked = UInt32Array::from(picked);
            self.rows.push(take_record_batch(rows, &picked).map_err(arrow("pick rows"))?);
        }
        Ok(())
    }
}

/// Reads the rows of the files whose keys are among `keys`. Row groups that cannot have any are not read. `keep`: the
/// files will be read again as a whole if anything changes.
pub(crate) fn probe(
    files: &[BaseFile],
    keys: &Keys,
    shape: &Shape,
    keep: bool,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Hits> {
    let mut hits = Hits { hits: vec![None; keys.len()], ..Hits::default() };
    let opened: Vec<Opened> = files.iter().map(|file| Opened::new(&file.path)).collect::<Result<_>>()?;
    let total: u64 = opened.iter().map(Opened::rows).sum();
    let dense = (keys.rows() as u64).saturating_mul(DENSE) > total;
    let mut kept = (dense && keep).then(Vec::new);
    let mut kept_bytes = 0;
    for (n, (file, opened)) in files.iter().zip(&opened).enumerate() {
        let groups = opened.groups(keys, shape);
        // What is skipped cannot be kept.
        if groups.len() < opened.metadata.metadata().num_row_groups() {
            kept = None;
        }
        let mut all = Vec::new();
        for (group, start) in groups {
            let found = |columns: &[ArrayRef], first: u64| -> Result<Vec<(u32, u32)>> {
                let mut found = Vec::new();
                keys.hits(columns, &mut found)?;
                found.retain(|(at, _)| !file.deleted.contains(first + u64::from(*at)));
                Ok(found)
            };
            if dense {
                let mut first = start;
                for batch in opened.read(group, None, None)? {
                    go_on()?;
                    let batch = opened.conform(batch, &shape.schema)?;
                    let columns: Vec<ArrayRef> = shape.primary_key.iter().map(|at| batch.column(*at).clone()).collect();
                    hits.note(n, first, &batch, &found(&columns, first)?, true)?;
                    first += batch.num_rows() as u64;
                    if kept.is_some() {
                        kept_bytes += batch.get_array_memory_size();
                        all.push(batch);
                    }
                    if kept_bytes > KEPT {
                        kept = None;
                        all = Vec::new();
                    }
                }
                continue;
            }
            let (mut positions, mut first) = (Vec::new(), start);
            let fields: Vec<_> = shape.primary_key.iter().map(|at| shape.schema.field(*at).clone()).collect();
            let key_schema = Arc::new(Schema::new(fields));
            for batch in opened.read(group, Some(&key_schema), None)? {
                go_on()?;
                let batch = opened.conform(batch, &key_schema)?;
                let here = found(batch.columns(), first)?;
                positions.extend(here.into_iter().map(|(at, key)| (first - start + u64::from(at), key)));
                first += batch.num_rows() as u64;
            }
            if positions.is_empty() {
                continue;
            }
            let mut next = &positions[..];
            for batch in opened.read(group, None, Some(&positions))? {
                go_on()?;
                let batch = opened.conform(batch, &shape.schema)?;
                let (here, rest) = next.split_at(batch.num_rows().min(next.len()));
                next = rest;
                let here: Vec<(u32, u32)> =
                    here.iter().map(|(at, key)| (u32::try_from(*at).unwrap_or(u32::MAX), *key)).collect();
                hits.note(n, start, &batch, &here, false)?;
            }
            if !next.is_empty() {
                return Err(TableError::damaged(format!("{} has fewer rows than it says", file.path.display())));
            }
        }
        if let Some(kept) = &mut kept {
            kept.push(all);
        }
    }
    hits.kept = kept;
    Ok(hits)
}

/// A data file whose metadata is read.
pub(crate) struct Opened {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
}

impl Opened {
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(TableError::disk("open", path))?;
        let metadata =
            ArrowReaderMetadata::load(&file, ArrowReaderOptions::default()).map_err(parquet(reading(path)))?;
        Ok(Self { path: path.to_path_buf(), metadata })
    }

    fn rows(&self) -> u64 {
        u64::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// Row groups that may have one of the keys, each with the position of its first row.
    fn groups(&self, keys: &Keys, shape: &Shape) -> Vec<(usize, u64)> {
        let leaves = self.metadata.metadata().file_metadata().schema_descr();
        let leaf = |at: usize| {
            let name = shape.schema.field(at).name();
            (0..leaves.num_columns()).find(|leaf| leaves.column(*leaf).path().parts() == [name.as_str()])
        };
        let columns: Vec<(usize, usize, usize)> =
            shape.primary_key.iter().enumerate().filter_map(|(n, at)| leaf(*at).map(|leaf| (n, *at, leaf))).collect();
        let mut groups = Vec::new();
        let mut start = 0;
        for (n, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            let may = columns.iter().all(|(key, at, leaf)| {
                // Floats have values that statistics leave out, and old files compare bytes as if they had signs.
                let float = matches!(shape.types[*at], ColumnType::Float32 | ColumnType::Float64);
                let statistics = group.column(*leaf).statistics();
                let statistics = statistics.filter(|statistics| !float && !statistics.is_min_max_deprecated());
                let bounds = statistics.and_then(|statistics| group_bounds(statistics, &shape.types[*at]));
                bounds.is_none_or(|(least, most)| keys.meet(*key, &least, &most))
            });
            if may {
                groups.push((n, start));
            }
            start += u64::try_from(group.num_rows()).unwrap_or(0);
        }
        groups
    }

    /// What the statistics of a group say of a column.
    pub(crate) fn known(&self, group: usize, at: usize, shape: &Shape) -> Known {
        let leaves = self.metadata.metadata().file_metadata().schema_descr();
        let name = shape.schema.field(at).name();
        let of_column = |leaf: &usize| leaves.column(*leaf).path().parts().first() == Some(name);
        let Some(leaf) = (0..leaves.num_columns()).find(of_column) else {
            // The file is older than the column.
            return Known { bounds: None, all_null: Some(true), any_null: Some(true) };
        };
        let group = self.metadata.metadata().row_group(group);
        let Some(statistics) = group.column(leaf).statistics().filter(|_| !shape.types[at].is_list()) else {
            return Known::default();
        };
        // Floats have values that statistics leave out, and old files compare bytes as if they had signs.
        let float = matches!(shape.types[at], ColumnType::Float32 | ColumnType::Float64);
        let bounds =
            (!float && !statistics.is_min_max_deprecated()).then(|| group_bounds(statistics, &shape.types[at]));
        let nulls = statistics.null_count_opt();
        Known {
            bounds: bounds.flatten(),
            all_null: nulls.map(|nulls| i64::try_from(nulls) == Ok(group.num_rows())),
            any_null: nulls.map(|nulls| nulls > 0),
        }
    }

    /// The groups, each with the position of its first row.
    pub(crate) fn all_groups(&self) -> Vec<(usize, u64)> {
        let mut start = 0;
        let groups = self.metadata.metadata().row_groups().iter().enumerate();
        groups
            .map(|(n, group)| {
                let first = start;
                start += u64::try_from(group.num_rows()).unwrap_or(0);
                (n, first)
            })
            .collect()
    }

    /// Rows of a group: some columns, at some positions.
    pub(crate) fn read(
        &self,
        group: usize,
        columns: Option<&SchemaRef>,
        positions: Option<&[(u64, u32)]>,
    ) -> Result<ParquetRecordBatchReader> {
        let file = File::open(&self.path).map_err(TableError::disk("open", &self.path))?;
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_row_groups(vec![group])
            .with_batch_size(BATCH_ROWS);
        if let Some(schema) = columns {
            let wanted: Vec<usize> = (0..builder.schema().fields().len())
                .filter(|at| schema.index_of(builder.schema().field(*at).name()).is_ok())
                .collect();
            let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
            builder = builder.with_projection(mask);
        }
        if let Some(positions) = positions {
            let total = self.metadata.metadata().row_group(group).num_rows();
            let ranges = positions.iter().map(|(position, _)| {
                let at = usize::try_from(*position).unwrap_or(usize::MAX);
                at..at + 1
            });
            let selection = RowSelection::from_consecutive_ranges(ranges, usize::try_from(total).unwrap_or(0));
            builder = builder.with_row_selection(selection);
        }
        builder.build().map_err(parquet(reading(&self.path)))
    }

    /// A row of a group, as it is sorted.
    fn end(
        &self,
        group: Option<usize>,
        at: fn(u64) -> u64,
        schema: &SchemaRef,
        converter: &RowConverter,
    ) -> Result<Option<OwnedRow>> {
        let Some(group) = group else { return Ok(None) };
        let rows = u64::try_from(self.metadata.metadata().row_group(group).num_rows()).unwrap_or(0);
        let Some(batch) = self.read(group, Some(schema), Some(&[(at(rows), 0)]))?.next() else { return Ok(None) };
        let batch = self.conform(batch, schema)?;
        let encoded = converter.convert_columns(batch.columns()).map_err(arrow("sort files"))?;
        Ok((encoded.num_rows() > 0).then(|| encoded.row(0).owned()))
    }

    pub(crate) fn conform(
        &self,
        batch: std::result::Result<RecordBatch, arrow_schema::ArrowError>,
        schema: &SchemaRef,
    ) -> Result<RecordBatch> {
        conform(&batch.map_err(arrow(reading(&self.path)))?, schema)
    }
}

/// Files whose rows follow each other in chains, so that a file need not be open before the one in front of it has ended.
pub(crate) fn chains(files: &[BaseFile], shape: &Shape) -> Result<Vec<Vec<usize>>> {
    if files.len() < 2 {
        return Ok((0..files.len()).map(|n| vec![n]).collect());
    }
    let fields: Vec<_> = shape.order.iter().map(|at| shape.schema.field(*at).clone()).collect();
    let schema = Arc::new(Schema::new(fields));
    let sorted = shape.order.iter().map(|at| SortField::new(shape.types[*at].arrow())).collect();
    let converter = RowConverter::new(sorted).map_err(arrow("prepare for sorting files"))?;
    let mut ends = Vec::with_capacity(files.len());
    for (n, file) in files.iter().enumerate() {
        let opened = Opened::new(&file.path)?;
        let last = opened.metadata.metadata().num_row_groups().checked_sub(1);
        let row = |group: Option<usize>, at: fn(u64) -> u64| opened.end(group, at, &schema, &converter);
        ends.push((row(last.map(|_| 0), |_| 0)?, row(last, |rows| rows.saturating_sub(1))?, n));
    }
    ends.sort_by(|a, b| (&a.0, a.2).cmp(&(&b.0, b.2)));
    let mut chains: Vec<(Option<OwnedRow>, Vec<usize>)> = Vec::new();
    for (first, last, n) in ends {
        match chains.iter_mut().find(|(end, _)| *end <= first) {
            Some((end, chain)) => {
                *end = last.max(end.take());
                chain.push(n);
            }
            None => chains.push((last, vec![n])),
        }
    }
    Ok(chains.into_iter().map(|(_, chain)| chain).collect())
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
