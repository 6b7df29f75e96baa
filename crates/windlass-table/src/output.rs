//! Writing data files.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use windlass_clock::Entropy;

use crate::definition::{Definition, Shape};
use crate::delta::Stats;
use crate::error::{Result, TableError, parquet};

/// A data file that was written on this machine and is not in the table yet.
#[derive(Clone, Debug)]
pub struct Written {
    /// Where it is.
    pub file: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// Its statistics.
    pub stats: Stats,
}

/// Writes sorted rows to files of about the size that the table wants.
pub(crate) struct Output<'a> {
    folder: &'a Path,
    definition: &'a Definition,
    shape: &'a Shape,
    entropy: &'a dyn Entropy,
    open: Option<(PathBuf, ArrowWriter<File>)>,
    done: Vec<Written>,
}

impl<'a> Output<'a> {
    pub(crate) fn new(
        folder: &'a Path,
        definition: &'a Definition,
        shape: &'a Shape,
        entropy: &'a dyn Entropy,
    ) -> Self {
        Self { folder, definition, shape, entropy, open: None, done: Vec::new() }
    }

    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let (path, writer) = match &mut self.open {
            Some((path, writer)) => (path, writer),
            None => {
                let path = self.folder.join(format!("{:032x}.parquet", self.entropy.next_u128()));
                let file = File::create(&path).map_err(TableError::disk("make the file", &path))?;
                let writer = ArrowWriter::try_new(file, self.shape.schema.clone(), Some(properties(self.definition)))
                    .map_err(parquet("begin a data file"))?;
                let (path, writer) = self.open.insert((path, writer));
                (path, writer)
            }
        };
        writer.write(rows).map_err(parquet(format!("write {}", path.display())))?;
        let most = u64::from(self.definition.target_file_mb) << 20;
        if writer.bytes_written() as u64 + writer.in_progress_size() as u64 >= most {
            self.close()?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some((path, writer)) = self.open.take() else { return Ok(()) };
        let metadata = writer.close().map_err(parquet(format!("finish {}", path.display())))?;
        let bytes = std::fs::metadata(&path).map_err(TableError::disk("look at", &path))?.len();
        let stats = Stats::of(&metadata, self.shape);
        self.done.push(Written { file: path, bytes, rows: stats.num_records, stats });
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<Vec<Written>> {
        self.close()?;
        Ok(self.done)
    }
}

fn properties(definition: &Definition) -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(definition.row_group_rows as usize))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by("windlass".to_owned())
        .build()
}
