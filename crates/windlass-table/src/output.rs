//! Writing data files.

use std::fs::File;
use std::path::PathBuf;

use arrow_array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;

use crate::column::ColumnType;
use crate::definition::{Definition, Shape};
use crate::delta::Stats;
use crate::error::{Result, TableError, parquet};
use crate::merge::Means;
use crate::probe::{BaseFile, open};

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
    means: &'a Means<'a>,
    definition: &'a Definition,
    shape: &'a Shape,
    properties: WriterProperties,
    open: Option<(PathBuf, ArrowWriter<File>)>,
    done: Vec<Written>,
}

impl<'a> Output<'a> {
    /// `base`: the files that the rows come from.
    pub(crate) fn new(
        means: &'a Means<'a>,
        definition: &'a Definition,
        shape: &'a Shape,
        base: &[BaseFile],
    ) -> Result<Self> {
        let properties = properties(definition, &plain(base, shape)?);
        Ok(Self { means, definition, shape, properties, open: None, done: Vec::new() })
    }

    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        let (path, writer) = match &mut self.open {
            Some((path, writer)) => (path, writer),
            None => {
                let path = self.means.folder.join(format!("{:032x}.parquet", self.means.entropy.next_u128()));
                let file = File::create(&path).map_err(TableError::disk("make the file", &path))?;
                let writer = ArrowWriter::try_new(file, self.shape.schema.clone(), Some(self.properties.clone()))
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

/// Columns for which a dictionary was of no use in the files that there are: it would cost time, and make files larger.
fn plain(base: &[BaseFile], shape: &Shape) -> Result<Vec<ColumnPath>> {
    let mut found: Vec<Use> = vec![Use::default(); shape.types.len()];
    for file in base {
        let opened = open(&file.path)?;
        for group in opened.metadata().row_groups() {
            for column in group.columns() {
                let [name] = column.column_path().parts() else { continue };
                let Ok(at) = shape.schema.index_of(name) else { continue };
                let Some(width) = width(&shape.types[at]) else { continue };
                let values = u64::try_from(column.num_values()).unwrap_or(0);
                let nulls = column.statistics().and_then(Statistics::null_count_opt).unwrap_or(0);
                let found = &mut found[at];
                found.plain += values.saturating_sub(nulls) * width;
                found.taken += u64::try_from(column.uncompressed_size()).unwrap_or(0);
                found.values += values;
                found.has_dictionary |= column.dictionary_page_offset().is_some();
            }
        }
    }
    let columns = found.into_iter().zip(shape.schema.fields()).filter(|(found, _)| found.is_useless());
    Ok(columns.map(|(_, field)| ColumnPath::from(field.name().as_str())).collect())
}

/// What a dictionary came to.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    values: u64,
    /// Bytes of the values as they are, and as they were written.
    plain: u64,
    taken: u64,
    has_dictionary: bool,
}

impl Use {
    fn is_useless(self) -> bool {
        // Too few say nothing about many.
        self.values >= 4096 && (!self.has_dictionary || self.taken * 20 >= self.plain * 19)
    }
}

/// Bytes of a value, if all have as many.
fn width(column: &ColumnType) -> Option<u64> {
    match column {
        ColumnType::Int8 | ColumnType::Int16 | ColumnType::Int32 | ColumnType::Date | ColumnType::Float32 => Some(4),
        ColumnType::Int64 | ColumnType::Timestamp | ColumnType::Float64 => Some(8),
        _ => None,
    }
}

fn properties(definition: &Definition, plain: &[ColumnPath]) -> WriterProperties {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(definition.row_group_rows as usize))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by("windlass".to_owned());
    plain
        .iter()
        .fold(properties, |properties, column| properties.set_column_dictionary_enabled(column.clone(), false))
        .build()
}
