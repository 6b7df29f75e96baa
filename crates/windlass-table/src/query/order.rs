//! Rows in an order of one's own: as many as memory may hold, the others in files that are merged in the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use arrow_array::{ArrayRef, RecordBatch, UInt32Array};
use arrow_ipc::reader::StreamReader;
use arrow_row::{OwnedRow, RowConverter, Rows, SortField};
use arrow_schema::{SchemaRef, SortOptions};
use arrow_select::concat::concat_batches;
use arrow_select::interleave::interleave_record_batch;
use arrow_select::take::take_record_batch;

use crate::changes::write;
use crate::error::{Result, TableError, arrow};

/// Rows that are handed on, or read from a file, at a time.
const ROWS: usize = 4096;
/// Files that are merged at a time.
const FILES: usize = 32;

/// By which column, and whether the largest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct By {
    pub(crate) column: usize,
    pub(crate) descending: bool,
}

/// Sorts rows.
pub(crate) struct Sorter {
    schema: SchemaRef,
    by: Vec<By>,
    converter: RowConverter,
    /// Rows that are wanted at most.
    limit: usize,
    /// Bytes that may be held.
    memory: usize,
    folder: PathBuf,
    held: Vec<RecordBatch>,
    held_bytes: usize,
    /// Files of sorted rows, in the order in which their rows came.
    files: Vec<PathBuf>,
    made: usize,
}

impl Sorter {
    pub(crate) fn new(schema: SchemaRef, by: Vec<By>, limit: usize, memory: usize, folder: &Path) -> Result<Self> {
        let fields = by.iter().map(|by| {
            // A null is less than every value, as in the table's own order.
            let options = SortOptions { descending: by.descending, nulls_first: !by.descending };
            SortField::new_with_options(schema.field(by.column).data_type().clone(), options)
        });
        let converter = RowConverter::new(fields.collect()).map_err(arrow("prepare for sorting"))?;
        let folder = folder.to_path_buf();
        Ok(Self {
            schema,
            by,
            converter,
            limit,
            memory,
            folder,
            held: Vec::new(),
            held_bytes: 0,
            files: Vec::new(),
            made: 0,
        })
    }

    pub(crate) fn push(&mut self, rows: RecordBatch) -> Result<()> {
        // A part of a larger batch would hold all of it.
        self.held_bytes += rows.get_array_memory_size();
        self.held.push(rows);
        // Sorting takes as much again.
        if self.held_bytes < self.memory / 2 {
            return Ok(());
        }
        let sorted = self.sorted()?;
        if sorted.get_array_memory_size() < self.memory / 8 {
            // Most of it was beyond what is wanted.
            self.held_bytes = sorted.get_array_memory_size();
            self.held.push(sorted);
            return Ok(());
        }
        let path = self.file(&sorted)?;
        self.files.push(path);
        if self.files.len() >= FILES {
            let merged = std::mem::take(&mut self.files);
            let path = self.folder.join(format!("sorted-{}", self.made));
            self.made += 1;
            let mut merge = Merge::open(&merged, self)?;
            write(&path, &self.schema, std::iter::from_fn(|| merge.next_batch().transpose()))?;
            drop(merge);
            for file in merged {
                std::fs::remove_file(&file).map_err(TableError::disk("remove", file))?;
            }
            self.files.push(path);
        }
        Ok(())
    }

    fn encode(&self, rows: &RecordBatch) -> Result<Rows> {
        let columns: Vec<ArrayRef> = self.by.iter().map(|by| rows.column(by.column).clone()).collect();
        self.converter.convert_columns(&columns).map_err(arrow("sort rows"))
    }

    /// What is held, sorted, as far as it is wanted. Rows that are alike stay in the order in which they came.
    fn sorted(&mut self) -> Result<RecordBatch> {
        self.held_bytes = 0;
        let held = std::mem::take(&mut self.held);
        let rows = concat_batches(&self.schema, &held).map_err(arrow("gather rows"))?;
        drop(held);
        let encoded = self.encode(&rows)?;
        let mut order: Vec<u32> = (0..u32::try_from(rows.num_rows()).unwrap_or(u32::MAX)).collect();
        order.sort_by(|a, b| encoded.row(*a as usize).cmp(&encoded.row(*b as usize)));
        order.truncate(self.limit);
        take_record_batch(&rows, &UInt32Array::from(order)).map_err(arrow("sort rows"))
    }

    fn file(&mut self, sorted: &RecordBatch) -> Result<PathBuf> {
        let path = self.folder.join(format!("sorted-{}", self.made));
        self.made += 1;
        let count = sorted.num_rows();
        let parts = (0..count).step_by(ROWS).map(|from| Ok(sorted.slice(from, ROWS.min(count - from))));
        write(&path, &self.schema, parts)?;
        Ok(path)
    }

    /// Hands on all rows that are wanted, in their order.
    pub(crate) fn finish(mut self, mut sink: impl FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
        let sorted = self.sorted()?;
        if self.files.is_empty() {
            return if sorted.num_rows() > 0 { sink(&sorted) } else { Ok(()) };
        }
        let path = self.file(&sorted)?;
        drop(sorted);
        self.files.push(path);
        let mut merge = Merge::open(&self.files, &self)?;
        while let Some(rows) = merge.next_batch()? {
            sink(&rows)?;
        }
        Ok(())
    }
}

/// A file of sorted rows, of which one batch is held.
struct Run {
    reader: StreamReader<BufReader<File>>,
    path: PathBuf,
    rows: RecordBatch,
    encoded: Option<Rows>,
    at: usize,
}

/// Files of sorted rows as one.
struct Merge<'a> {
    sorter: &'a Sorter,
    runs: Vec<Run>,
    /// The next row of each file that has one.
    next: BinaryHeap<Reverse<(OwnedRow, usize)>>,
    left: usize,
}

impl<'a> Merge<'a> {
    fn open(files: &[PathBuf], sorter: &'a Sorter) -> Result<Self> {
        let mut runs = Vec::with_capacity(files.len());
        for path in files {
            let file = File::open(path).map_err(TableError::disk("open", path))?;
            let reader = StreamReader::try_new(BufReader::new(file), None).map_err(arrow("read sorted rows"))?;
            let rows = RecordBatch::new_empty(sorter.schema.clone());
            runs.push(Run { reader, path: path.clone(), rows, encoded: None, at: 0 });
        }
        let mut merge = Self { sorter, runs, next: BinaryHeap::new(), left: sorter.limit };
        for n in 0..merge.runs.len() {
            merge.advance(n)?;
        }
        Ok(merge)
    }

    /// Puts the next row of a file among those that may come next, if there is one in the batch that is held or the next.
    fn advance(&mut self, n: usize) -> Result<()> {
        let Some(run) = self.runs.get_mut(n) else { return Ok(()) };
        while run.at >= run.rows.num_rows() {
            let Some(rows) = run.reader.next() else { return Ok(()) };
            run.rows = rows.map_err(arrow(format!("read {}", run.path.display())))?;
            run.encoded = Some(self.sorter.encode(&run.rows)?);
            run.at = 0;
        }
        if let Some(encoded) = &run.encoded {
            self.next.push(Reverse((encoded.row(run.at).owned(), n)));
        }
        Ok(())
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        let mut picked: Vec<(usize, usize)> = Vec::new();
        let most = ROWS.min(self.left);
        let batches: Vec<RecordBatch> = self.runs.iter().map(|run| run.rows.clone()).collect();
        while picked.len() < most {
            let Some(Reverse((_, n))) = self.next.pop() else { break };
            picked.push((n, self.runs[n].at));
            self.runs[n].at += 1;
            let ended = self.runs[n].at >= self.runs[n].rows.num_rows();
            self.advance(n)?;
            if ended {
                // What was picked refers to the batch before.
                break;
            }
        }
        if picked.is_empty() {
            return Ok(None);
        }
        self.left -= picked.len();
        let batches: Vec<&RecordBatch> = batches.iter().collect();
        interleave_record_batch(&batches, &picked).map(Some).map_err(arrow("merge sorted rows"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::Int64Type;
    use arrow_array::{Int64Array, StringArray};

    use super::*;

    fn sorted(memory: usize, limit: usize, descending: bool) -> (Vec<i64>, usize) {
        let batch = |from: i64| {
            let ids: Int64Array = (from..from + 100).map(|n| n * 7919 % 10_007).collect();
            let words: StringArray = (from..from + 100).map(|n| Some(format!("word {n}"))).collect();
            RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("word", Arc::new(words))]).unwrap()
        };
        let folder = tempfile::tempdir().unwrap();
        let by = vec![By { column: 0, descending }];
        let mut sorter = Sorter::new(batch(0).schema(), by, limit, memory, folder.path()).unwrap();
        let mut files = 0;
        for from in (0..10_000).step_by(100) {
            sorter.push(batch(from)).unwrap();
            files = files.max(sorter.files.len());
        }
        let mut found = Vec::new();
        sorter
            .finish(|rows| {
                let ids = rows.column(0).as_primitive::<Int64Type>().values();
                let words = rows.column(1).as_string::<i32>();
                // Whole rows stay together.
                for (id, word) in ids.iter().zip(words) {
                    let n: i64 = word.unwrap().strip_prefix("word ").unwrap().parse().unwrap();
                    assert_eq!(n * 7919 % 10_007, *id);
                }
                found.extend(ids);
                Ok(())
            })
            .unwrap();
        (found, files)
    }

    #[test]
    fn rows_come_in_order_whether_they_fit_in_memory_or_not() {
        let mut wanted: Vec<i64> = (0..10_000).map(|n| n * 7919 % 10_007).collect();
        wanted.sort_unstable();
        for memory in [1 << 30, 100_000, 20_000] {
            let (found, files) = sorted(memory, usize::MAX, false);
            assert_eq!(found, wanted, "{memory}");
            assert_eq!(files > 1, memory < 1 << 20, "{memory}: {files} files");
        }
        wanted.reverse();
        let (found, _) = sorted(100_000, 15, true);
        assert_eq!(found, wanted[..15]);
    }

    #[test]
    fn a_few_rows_of_many_need_no_files() {
        assert_eq!(sorted(40_000, 5, false), (vec![0, 1, 2, 3, 4], 0));
    }
}
