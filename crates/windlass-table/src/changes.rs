//! What becomes of the rows of a file, by their positions: held in memory, or in a file when a day has more of it than
//! memory shall.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array, UInt64Array};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema};
use arrow_select::filter::filter_record_batch;
use arrow_select::take::take;

use crate::definition::Shape;
use crate::edits::{Change, Edits, in_order};
use crate::error::{Result, TableError, arrow};
use crate::splice::{Batches, Part, Place, Stream};

/// Rows of one batch of a file.
const ROWS: usize = 2048;

/// What becomes of the rows of one file, ascending.
pub(crate) enum Changes<'a> {
    /// In memory.
    Held { left: &'a [(u64, Change)], rows: &'a RecordBatch, place: Place },
    /// In a file.
    Kept(Box<Kept>),
}

impl<'a> Changes<'a> {
    pub(crate) fn held(left: &'a [(u64, Change)], rows: &'a RecordBatch) -> Self {
        Self::Held { left, rows, place: Place::default() }
    }

    /// The position of the next one.
    pub(crate) fn peek(&mut self) -> Result<Option<u64>> {
        match self {
            Self::Held { left, .. } => Ok(left.first().map(|(position, _)| *position)),
            Self::Kept(kept) => kept.peek(),
        }
    }

    /// Takes the one that was seen last. What takes the place of a row is a row of [`Changes::rows`].
    pub(crate) fn take(&mut self) -> Option<Change> {
        match self {
            Self::Held { left, .. } => {
                let ((_, change), rest) = left.split_first()?;
                *left = rest;
                Some(*change)
            }
            Self::Kept(kept) => kept.take(),
        }
    }

    /// Rows that take the place of others.
    pub(crate) fn rows(&mut self) -> (&RecordBatch, &mut Place) {
        match self {
            Self::Held { rows, place, .. } => (rows, place),
            Self::Kept(kept) => (&kept.rows, &mut kept.place),
        }
    }
}

/// Changes in a file, of which one batch is held.
pub(crate) struct Kept {
    path: PathBuf,
    reader: Option<StreamReader<BufReader<File>>>,
    /// Positions, which of the rows just go, and the others.
    positions: UInt64Array,
    goes: BooleanArray,
    rows: RecordBatch,
    place: Place,
    at: usize,
}

impl Kept {
    fn new(path: &Path) -> Self {
        let nothing = RecordBatch::new_empty(Arc::new(Schema::empty()));
        let (positions, goes) = (UInt64Array::from(Vec::<u64>::new()), BooleanArray::from(Vec::<bool>::new()));
        Self { path: path.to_path_buf(), reader: None, positions, goes, rows: nothing, place: Place::default(), at: 0 }
    }

    fn peek(&mut self) -> Result<Option<u64>> {
        while self.at >= self.positions.len() {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                none => none.insert(stream(&self.path)?),
            };
            let Some(rows) = reader.next() else { return Ok(None) };
            let rows = rows.map_err(arrow(reading(&self.path)))?;
            (self.positions, self.goes, self.rows) = apart(&rows)?;
            (self.at, self.place) = (0, Place::default());
        }
        Ok(Some(self.positions.value(self.at)))
    }

    fn take(&mut self) -> Option<Change> {
        let at = self.at;
        self.at += 1;
        (at < self.goes.len()).then(|| if self.goes.value(at) { Change::Remove } else { Change::Replace(at) })
    }
}

fn apart(rows: &RecordBatch) -> Result<(UInt64Array, BooleanArray, RecordBatch)> {
    let found = (rows.columns().first(), rows.columns().get(1));
    let (Some(positions), Some(goes)) = (
        found.0.and_then(|array| array.as_primitive_opt::<UInt64Type>()),
        found.1.and_then(|array| array.as_boolean_opt()),
    ) else {
        return Err(TableError::damaged("what becomes of a day's rows is not what was written"));
    };
    let rest: Vec<usize> = (2..rows.num_columns()).collect();
    Ok((positions.clone(), goes.clone(), rows.project(&rest).map_err(arrow("read what becomes of rows"))?))
}

fn reading(path: &Path) -> String {
    format!("read {}", path.display())
}

fn stream(path: &Path) -> Result<StreamReader<BufReader<File>>> {
    let file = File::open(path).map_err(TableError::disk("open", path))?;
    StreamReader::try_new(BufReader::new(file), None).map_err(arrow(reading(path)))
}

/// What a part of a day's patch comes to, in files.
#[derive(Debug)]
pub(crate) struct Spill {
    /// By file of the day, if anything of it changes.
    changes: Vec<Option<PathBuf>>,
    /// Rows that are new in their place, in the order of the day.
    inserts: Option<PathBuf>,
}

impl Spill {
    /// Writes what a part comes to; the names begin with `name`.
    pub(crate) fn write(edits: &Edits, folder: &Path, name: &str, shape: &Shape) -> Result<Self> {
        let mut fields =
            vec![Field::new("_position", DataType::UInt64, false), Field::new("_goes", DataType::Boolean, false)];
        fields.extend(shape.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)));
        let schema = Arc::new(Schema::new(fields));
        let mut changes = Vec::with_capacity(edits.changes.len());
        for (n, of_file) in edits.changes.iter().enumerate() {
            if of_file.is_empty() {
                changes.push(None);
                continue;
            }
            let path = folder.join(format!("{name}-{n}.changes"));
            let batches = of_file.chunks(ROWS).map(|chunk| {
                let positions: UInt64Array = chunk.iter().map(|(position, _)| *position).collect::<Vec<_>>().into();
                let goes: BooleanArray = chunk.iter().map(|(_, change)| Some(*change == Change::Remove)).collect();
                let rows: UInt32Array = chunk
                    .iter()
                    .map(|(_, change)| match change {
                        Change::Replace(row) => u32::try_from(*row).ok(),
                        Change::Remove => None,
                    })
                    .collect();
                let mut columns: Vec<ArrayRef> = vec![Arc::new(positions), Arc::new(goes)];
                for column in edits.replacements.columns() {
                    columns.push(take(column, &rows, None).map_err(arrow("pick rows"))?);
                }
                RecordBatch::try_new(schema.clone(), columns).map_err(arrow("put changes together"))
            });
            write(&path, &schema, batches)?;
            changes.push(Some(path));
        }
        let count = edits.inserts.num_rows();
        let inserts = (count > 0).then(|| folder.join(format!("{name}.inserts")));
        if let Some(path) = &inserts {
            let batches = (0..count).step_by(ROWS).map(|from| Ok(edits.inserts.slice(from, ROWS.min(count - from))));
            write(path, &shape.schema, batches)?;
        }
        Ok(Self { changes, inserts })
    }
}

pub(crate) fn write(path: &Path, schema: &Schema, batches: impl Iterator<Item = Result<RecordBatch>>) -> Result<()> {
    let file = File::create(path).map_err(TableError::disk("make the file", path))?;
    let writing = || format!("write {}", path.display());
    let mut writer = StreamWriter::try_new(BufWriter::new(file), schema).map_err(arrow(writing()))?;
    for rows in batches {
        writer.write(&rows?).map_err(arrow(writing()))?;
    }
    writer.finish().map_err(arrow(writing()))?;
    let mut file = writer.into_inner().map_err(arrow(writing()))?;
    file.flush().map_err(TableError::disk("write", path))
}

/// What a day's whole patch comes to.
pub(crate) enum Changed {
    /// In memory.
    Held(Edits),
    /// In files, a part after the other; no key is in two of them.
    Kept(Vec<Spill>),
}

impl Changed {
    /// Whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Held(edits) => edits.is_empty(),
            Self::Kept(spills) => spills.is_empty(),
        }
    }

    /// What becomes of the rows of a file.
    pub(crate) fn of_file(&self, n: usize) -> Vec<Changes<'_>> {
        match self {
            Self::Held(edits) => edits.changes.get(n).map_or_else(Vec::new, |changes| match changes.is_empty() {
                true => Vec::new(),
                false => vec![Changes::held(changes, &edits.replacements)],
            }),
            Self::Kept(spills) => {
                let paths = spills.iter().filter_map(|spill| spill.changes.get(n)?.as_deref());
                paths.map(|path| Changes::Kept(Box::new(Kept::new(path)))).collect()
            }
        }
    }

    /// Rows that are new in their place.
    pub(crate) fn inserts(&self) -> Vec<Stream<'_>> {
        match self {
            Self::Held(edits) if edits.inserts.num_rows() == 0 => Vec::new(),
            Self::Held(edits) => vec![Stream::new([Part::of(std::iter::once(Ok(edits.inserts.clone())))])],
            Self::Kept(spills) => spills.iter().filter_map(|spill| spill.inserts.as_deref()).map(inserted).collect(),
        }
    }

    /// All rows that are new or take the place of others.
    pub(crate) fn rows<'a>(&'a self, shape: &'a Shape) -> Result<Vec<Stream<'a>>> {
        match self {
            Self::Held(edits) => {
                let rows = [&edits.replacements, &edits.inserts];
                let rows = arrow_select::concat::concat_batches(&shape.schema, rows).map_err(arrow("gather rows"))?;
                let rows = in_order(&rows, shape)?;
                Ok(vec![Stream::new([Part::of(std::iter::once(Ok(rows)))])])
            }
            Self::Kept(spills) => {
                let mut streams = self.inserts();
                // What takes a row's place stays in its place, so it is sorted as the file is.
                for path in spills.iter().flat_map(|spill| spill.changes.iter().flatten()) {
                    streams.push(Stream::new([Part::new(move || replaced(path, shape), Vec::new(), None)]));
                }
                Ok(streams)
            }
        }
    }
}

fn inserted(path: &Path) -> Stream<'_> {
    let open = move || -> Result<Batches<'_>> {
        Ok(Box::new(stream(path)?.map(move |rows| rows.map_err(arrow(reading(path))))))
    };
    Stream::new([Part::new(open, Vec::new(), None)])
}

/// The rows in a file of changes that take the place of others.
fn replaced<'a>(path: &'a Path, shape: &Shape) -> Result<Batches<'a>> {
    let schema = shape.schema.clone();
    Ok(Box::new(stream(path)?.map(move |rows| {
        let (_, goes, rows) = apart(&rows.map_err(arrow(reading(path)))?)?;
        let stays = BooleanArray::new(!goes.values(), None);
        let rows = filter_record_batch(&rows, &stays).map_err(arrow("pick rows"))?;
        RecordBatch::try_new(schema.clone(), rows.columns().to_vec()).map_err(arrow("pick rows"))
    })))
}
