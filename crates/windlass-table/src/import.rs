//! Beginning a table with data files that are there already.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use arrow_array::ArrayRef;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_row::{OwnedRow, RowConverter, SortField};

use windlass_blob::{BlobStore, UploadOptions};
use windlass_clock::Entropy;

use crate::day::Day;
use crate::definition::Definition;
use crate::delta::{Add, Stats};
use crate::error::{Result, TableError, arrow};
use crate::home::Table;
use crate::probe::{batches, open};
use crate::run::{blocking, data_key};

/// The data files of a folder, by the day that their folder is named for: `day=2025-11-08/….parquet`.
///
/// # Errors
///
/// A folder that is named otherwise, and whatever the disk says.
pub fn find(folder: &Path) -> Result<Vec<(Day, PathBuf)>> {
    let mut files = Vec::new();
    let list = |folder: &Path| -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(folder).map_err(TableError::disk("list", folder))?;
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(TableError::disk("list", folder))?.path());
        }
        paths.sort();
        Ok(paths)
    };
    for path in list(folder)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(day) = name.strip_prefix("day=") else { continue };
        let day: Day = day.parse()?;
        let parquet = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "parquet");
        files.extend(list(&path)?.into_iter().filter(parquet).map(|path| (day, path)));
    }
    if files.is_empty() {
        return Err(TableError::invalid(format!("{} has no files named day=YYYY-MM-DD/….parquet", folder.display())));
    }
    Ok(files)
}

/// Checks a data file and copies it into the table's place: rows in order, of its day, and no key twice.
///
/// # Errors
///
/// What is wrong with the file.
pub async fn import(
    store: &BlobStore,
    day: Day,
    path: &Path,
    definition: &Definition,
    entropy: &dyn Entropy,
    now_ms: i64,
) -> Result<Add> {
    let (definition, source) = (definition.clone(), path.to_path_buf());
    let stats = blocking(move || check(day, &source, &definition)).await?;
    let key = data_key(day, entropy.next_u128());
    let written = store.upload_file(path, &key, UploadOptions::default()).await?;
    Table::add(day, &key, written.digests.bytes, &stats, now_ms)
}

fn check(day: Day, path: &Path, definition: &Definition) -> Result<Stats> {
    let shape = definition.shape();
    let wrong = |why: String| TableError::invalid(format!("{} cannot be imported: {why}", path.display()));
    let converter = |columns: &[usize]| {
        let fields = columns.iter().map(|at| SortField::new(shape.types[*at].arrow())).collect();
        RowConverter::new(fields).map_err(arrow("prepare for comparing rows"))
    };
    let (order, keys) = (converter(&shape.order)?, converter(&shape.primary_key)?);
    let mut last: Option<OwnedRow> = None;
    let mut seen: BTreeSet<Box<[u8]>> = BTreeSet::new();
    let distinct = shape.primary_key.iter().all(|at| shape.sort.contains(at));
    let mut first = 0_u64;
    for batch in batches(path, &shape)? {
        let batch = batch?;
        let events = batch.column(shape.event_time).as_primitive::<TimestampMicrosecondType>();
        if let Some(row) = events.values().iter().position(|at| Day::of(*at) != day) {
            return Err(wrong(format!("row {} is not of the day {day}", first + row as u64)));
        }
        let pick =
            |columns: &[usize]| -> Vec<ArrayRef> { columns.iter().map(|at| batch.column(*at).clone()).collect() };
        let ordered = order.convert_columns(&pick(&shape.order)).map_err(arrow("compare rows"))?;
        for (n, row) in ordered.iter().enumerate() {
            let before = if n == 0 { last.as_ref().map(OwnedRow::row) } else { Some(ordered.row(n - 1)) };
            if before.is_some_and(|before| before >= row) {
                let columns: Vec<&str> = shape.order.iter().map(|at| shape.schema.field(*at).name().as_str()).collect();
                return Err(wrong(format!("row {} is out of order by {}", first + n as u64, columns.join(", "))));
            }
        }
        if batch.num_rows() > 0 {
            last = Some(ordered.row(batch.num_rows() - 1).owned());
        }
        // Where the sort columns hold the key, the order shows that no key is there twice.
        if !distinct {
            let found = keys.convert_columns(&pick(&shape.primary_key)).map_err(arrow("compare keys"))?;
            for (n, key) in found.iter().enumerate() {
                if !seen.insert(key.as_ref().into()) {
                    return Err(wrong(format!("row {} has a key that an earlier row has too", first + n as u64)));
                }
            }
        }
        first += batch.num_rows() as u64;
    }
    let metadata = open(path)?.metadata().clone();
    Ok(Stats::of(&metadata, &shape))
}
