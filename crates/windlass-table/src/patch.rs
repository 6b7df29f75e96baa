//! Rows that are to be merged, in one form: every column of the table, and what each cell does.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, FixedSizeBinaryArray, RecordBatch, UInt32Array, new_null_array};
use arrow_buffer::Buffer;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::take::take;

use crate::batch::{Batch, Mode, read_stream, write_stream};
use crate::definition::Shape;
use crate::error::{Result, TableError, arrow};
use crate::log::frame;
use crate::rows::Row;

/// The column of what each cell does, one byte a column, and one for the row.
const OPS: &str = "_ops";

/// What a cell does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Op {
    /// Nothing: it was not sent, or its null is ignored.
    Keep = 0,
    /// It replaces, also when it is null.
    Set = 1,
    /// It is added.
    Add = 2,
    /// The smaller one stays.
    Min = 3,
    /// The larger one stays.
    Max = 4,
}

/// What a row does as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RowOp {
    /// Changes its key's row, or inserts one.
    Upsert = 0,
    /// Removes its key's row.
    Delete = 1,
    /// Is its key's row, whatever there was.
    Put = 2,
}

fn op(byte: u8) -> Op {
    match byte {
        1 => Op::Set,
        2 => Op::Add,
        3 => Op::Min,
        4 => Op::Max,
        _ => Op::Keep,
    }
}

/// Rows to merge, in the order in which they apply.
#[derive(Clone, Debug)]
pub struct Patch {
    rows: RecordBatch,
}

/// The schema of a patch.
fn schema(shape: &Shape) -> SchemaRef {
    let mut fields: Vec<Field> =
        shape.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    fields.push(Field::new(OPS, DataType::FixedSizeBinary(width(shape)), false));
    Arc::new(Schema::new(fields))
}

fn width(shape: &Shape) -> i32 {
    i32::try_from(shape.types.len() + 1).unwrap_or(i32::MAX)
}

impl Patch {
    /// The rows `taken` of a batch.
    ///
    /// # Errors
    ///
    /// A batch that does not fit the table.
    pub fn of_batch(batch: &Batch, shape: &Shape, taken: &[u32]) -> Result<Self> {
        let stride = shape.types.len() + 1;
        let mut ops = vec![Op::Keep as u8; stride * taken.len()];
        let indices = UInt32Array::from(taken.to_vec());
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(stride);
        let sent = batch.sent();
        for (at, field) in shape.schema.fields().iter().enumerate() {
            let Some(array) = batch.column(field.name()) else {
                columns.push(new_null_array(field.data_type(), taken.len()));
                continue;
            };
            let fixed = at == shape.event_time || shape.primary_key.contains(&at);
            let mode = if fixed { Mode::OverwriteNotNull } else { batch.mode(field.name()) };
            let with_value = match mode {
                Mode::OverwriteNotNull | Mode::ForceOverwrite => Op::Set,
                Mode::Add => Op::Add,
                Mode::Min => Op::Min,
                Mode::Max => Op::Max,
            };
            // What may not be null stays as it is.
            let with_null = if mode == Mode::ForceOverwrite && field.is_nullable() { Op::Set } else { Op::Keep };
            let place = sent.as_ref().and_then(|sent| sent.place(field.name()));
            for (n, row) in taken.iter().enumerate() {
                let row = *row as usize;
                if let (Some(sent), Some(place)) = (&sent, place)
                    && !sent.has(row, place)
                {
                    continue;
                }
                ops[n * stride + at] = if array.is_null(row) { with_null } else { with_value } as u8;
            }
            columns.push(take(array, &indices, None).map_err(arrow("pick rows of a batch"))?);
        }
        for (n, row) in taken.iter().enumerate() {
            if batch.deletes(*row as usize) {
                ops[n * stride + stride - 1] = RowOp::Delete as u8;
            }
        }
        Self::put_together(shape, columns, ops)
    }

    /// Rows that replace whatever there is.
    ///
    /// # Errors
    ///
    /// Rows that do not fit the table.
    pub(crate) fn of_rows(rows: &[(RowOp, Row)], shape: &Shape) -> Result<Self> {
        let stride = shape.types.len() + 1;
        let mut ops = vec![Op::Set as u8; stride * rows.len()];
        for (n, (row_op, _)) in rows.iter().enumerate() {
            ops[n * stride + stride - 1] = *row_op as u8;
        }
        let columns = shape.types.iter().enumerate().map(|(at, column)| {
            let cells: Vec<_> = rows.iter().map(|(_, row)| &row[at]).collect();
            crate::rows::array(cells.into_iter(), column)
        });
        Self::put_together(shape, columns.collect(), ops)
    }

    fn put_together(shape: &Shape, mut columns: Vec<ArrayRef>, ops: Vec<u8>) -> Result<Self> {
        let ops = FixedSizeBinaryArray::try_new(width(shape), Buffer::from_vec(ops), None)
            .map_err(arrow("note what the cells do"))?;
        columns.push(Arc::new(ops));
        let rows = RecordBatch::try_new(schema(shape), columns).map_err(arrow("put a patch together"))?;
        Ok(Self { rows })
    }

    /// How many rows it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.get_array_memory_size()
    }

    /// A column of the table.
    pub(crate) fn column(&self, at: usize) -> &ArrayRef {
        self.rows.column(at)
    }

    /// What the cells of a row do, and the row.
    pub(crate) fn ops(&self, row: usize) -> (impl Iterator<Item = Op> + '_, RowOp) {
        let bytes = self.rows.column(self.rows.num_columns() - 1).as_fixed_size_binary().value(row);
        let (last, cells) = bytes.split_last().unwrap_or((&0, &[]));
        let row = match last {
            1 => RowOp::Delete,
            2 => RowOp::Put,
            _ => RowOp::Upsert,
        };
        (cells.iter().map(|byte| op(*byte)), row)
    }

    /// Several as one, in their order.
    ///
    /// # Errors
    ///
    /// That they are of different tables.
    pub(crate) fn concat(patches: &[Self]) -> Result<Self> {
        let schema = patches.first().map(|patch| patch.rows.schema());
        let schema = schema.ok_or_else(|| TableError::invalid("no patches to put together"))?;
        let rows = arrow_select::concat::concat_batches(&schema, patches.iter().map(|patch| &patch.rows));
        Ok(Self { rows: rows.map_err(arrow("put patches together"))? })
    }

    /// Appends it to a file of patches.
    ///
    /// # Errors
    ///
    /// That it cannot be written.
    pub fn write(&self, to: &mut impl Write) -> Result<()> {
        let bytes = frame::encode(0, 0, &write_stream(&self.rows)?);
        to.write_all(&bytes).map_err(TableError::disk("write rows to merge to", "the patch of a day"))
    }

    /// Reads files of patches, in their order.
    ///
    /// # Errors
    ///
    /// As [`Patch::read_all`], and whatever the disk says.
    pub(crate) fn read_files(paths: &[PathBuf], shape: &Shape) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for path in paths {
            let mut file = std::fs::File::open(path).map_err(TableError::disk("open", path))?;
            all.extend(Self::read_all(&mut file, shape)?);
        }
        Ok(all)
    }

    /// Reads a file of patches that were made for this shape, or for one with fewer columns at the end.
    ///
    /// # Errors
    ///
    /// That it is damaged.
    pub fn read_all(from: &mut impl Read, shape: &Shape) -> Result<Vec<Self>> {
        let mut patches = Vec::new();
        Self::read_each(from, shape, |patch| {
            patches.push(patch);
            Ok(())
        })?;
        Ok(patches)
    }

    /// As [`Patch::read_all`], one after the other.
    pub(crate) fn read_each(
        from: &mut impl Read,
        shape: &Shape,
        mut sink: impl FnMut(Self) -> Result<()>,
    ) -> Result<()> {
        let (mut bytes, mut at) = (Vec::new(), 0);
        let mut read = |bytes: &mut Vec<u8>, length: usize| {
            let read = from.by_ref().take(length as u64).read_to_end(bytes);
            read.map_err(TableError::disk("read rows to merge from", "the patch of a day"))
        };
        loop {
            bytes.clear();
            if read(&mut bytes, frame::HEADER)? == 0 {
                break;
            }
            let damaged = |why| TableError::damaged(format!("the patch of a day is damaged at byte {at}: {why}"));
            let length = frame::payload_length(&bytes).map_err(damaged)?;
            read(&mut bytes, length)?;
            let frame = frame::decode(&bytes).map_err(damaged)?;
            let rows = read_stream(frame.payload)?;
            if rows.schema_ref().fields() != schema(shape).fields() {
                return Err(TableError::Changed(
                    "the columns of the table changed since the run was planned".to_owned(),
                ));
            }
            at += frame.length;
            sink(Self { rows })?;
        }
        Ok(())
    }

    /// Some of its rows.
    pub(crate) fn pick(&self, rows: &[u32]) -> Result<Self> {
        let rows = arrow_select::take::take_record_batch(&self.rows, &UInt32Array::from(rows.to_vec()));
        Ok(Self { rows: rows.map_err(arrow("pick rows to merge"))? })
    }
}
