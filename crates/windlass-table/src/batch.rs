//! Rows as they arrive: some columns of a table, how they are meant, and when they came.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, FixedSizeBinaryArray, RecordBatch, RecordBatchOptions};
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};

use crate::definition::{Definition, RESERVED};
use crate::error::{Result, TableError, arrow};
use crate::rows::convert;

/// The column of bits that say which cells of a row were sent. Absent: all.
const SENT: &str = "_sent";
/// The column that says which rows delete their key. Absent: none.
const DELETE: &str = "_delete";
/// Where the frame keeps what belongs to the batch as a whole.
const META: &str = "windlass";
/// Most bytes of one batch in the log.
pub const LARGEST: usize = 64 << 20;

/// What a cell does to the one that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A value replaces; a null is ignored.
    #[default]
    OverwriteNotNull,
    /// A value or a null replaces.
    ForceOverwrite,
    /// A value is added; a null is ignored.
    Add,
    /// The smaller one stays; a null is ignored.
    Min,
    /// The larger one stays; a null is ignored.
    Max,
}

/// Who sent a batch, and as which of theirs: a number that came before is not taken in again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// The client's name for itself.
    pub client: String,
    /// Counts the client's batches upwards.
    pub sequence: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Meta {
    arrival: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    modes: BTreeMap<String, Mode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sender: Option<Sender>,
    /// The largest event time of the rows that may stay live, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    newest: Option<i64>,
}

/// A batch that fits its table.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The columns that were sent, under the table's names and types, and what says how rows are meant.
    rows: RecordBatch,
    meta: Meta,
}

impl Batch {
    /// Checks rows against the table: known columns of fitting types, modes that make sense. `sent` says for each row,
    /// in the order of the columns, which cells it brought; `deletes` which rows delete.
    ///
    /// # Errors
    ///
    /// What does not fit; nothing of the batch counts then.
    pub fn new(
        definition: &Definition,
        rows: &RecordBatch,
        modes: BTreeMap<String, Mode>,
        arrival: i64,
        sent: Option<&[Vec<bool>]>,
        deletes: Option<Vec<bool>>,
    ) -> Result<Self> {
        for (name, mode) in &modes {
            let column = definition.column(name)?;
            let fixed = definition.primary_key.contains(name) || *name == definition.event_time;
            if *mode != Mode::OverwriteNotNull && fixed {
                return Err(TableError::invalid(format!(
                    "{name} is part of the key or the event time: it has no update mode"
                )));
            }
            if matches!(mode, Mode::Add | Mode::Min | Mode::Max) && !column.column_type.is_numeric() {
                return Err(TableError::invalid(format!(
                    "{name} is of type {}: add, min and max are for numbers",
                    column.column_type
                )));
            }
        }
        let mut fields = Vec::with_capacity(rows.num_columns() + 2);
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(rows.num_columns() + 2);
        for (field, array) in rows.schema_ref().fields().iter().zip(rows.columns()) {
            if field.name().starts_with(RESERVED) {
                return Err(TableError::invalid(format!("{} is no column of a table", field.name())));
            }
            let column = definition.column(field.name())?;
            if fields.iter().any(|known: &Field| known.name() == &column.name) {
                return Err(TableError::invalid(format!("the column {} is there twice", column.name)));
            }
            let wanted = Field::new(&column.name, column.column_type.arrow(), true);
            columns.push(convert(array, &wanted)?);
            fields.push(wanted);
        }
        if let Some(sent) = sent
            && sent.iter().any(|row| row.iter().any(|sent| !sent))
        {
            let width = fields.len().div_ceil(8);
            let bits = sent.iter().map(|row| {
                let mut bits = vec![0_u8; width];
                row.iter().enumerate().filter(|(_, sent)| **sent).for_each(|(at, _)| bits[at / 8] |= 1 << (at % 8));
                bits
            });
            let array = FixedSizeBinaryArray::try_from_iter(bits).map_err(arrow("note which cells were sent"))?;
            fields.push(Field::new(SENT, array.data_type().clone(), false));
            columns.push(Arc::new(array));
        }
        if let Some(deletes) = deletes
            && deletes.contains(&true)
        {
            fields.push(Field::new(DELETE, DataType::Boolean, false));
            columns.push(Arc::new(BooleanArray::from(deletes)));
        }
        let count = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &count)
            .map_err(arrow("put the batch together"))?;
        let mut batch = Self { rows, meta: Meta { arrival, modes, sender: None, newest: None } };
        batch.meta.newest = batch.newest_event(definition);
        Ok(batch)
    }

    /// The same, known by its sender.
    #[must_use]
    pub fn from_sender(mut self, sender: Sender) -> Self {
        self.meta.sender = Some(sender);
        self
    }

    /// Who sent it.
    #[must_use]
    pub fn sender(&self) -> Option<&Sender> {
        self.meta.sender.as_ref()
    }

    /// When it came, in microseconds since 1970.
    #[must_use]
    pub fn arrival(&self) -> i64 {
        self.meta.arrival
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

    /// The largest event time that a row of it has which is not from the future.
    #[must_use]
    pub fn newest(&self) -> Option<i64> {
        self.meta.newest
    }

    fn newest_event(&self, definition: &Definition) -> Option<i64> {
        let most = self.meta.arrival.saturating_add(micros(definition.max_future_seconds));
        let times = self.column(&definition.event_time)?;
        let times = times.as_primitive_opt::<arrow_array::types::TimestampMicrosecondType>()?;
        times.iter().flatten().filter(|at| *at <= most).max()
    }

    /// The column of this name, if it was sent at all.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&ArrayRef> {
        self.rows.column_by_name(name)
    }

    /// How the column is meant.
    #[must_use]
    pub fn mode(&self, name: &str) -> Mode {
        self.meta.modes.get(name).copied().unwrap_or_default()
    }

    /// Whether `row` deletes its key.
    #[must_use]
    pub fn deletes(&self, row: usize) -> bool {
        self.rows.column_by_name(DELETE).and_then(|array| array.as_boolean_opt()).is_some_and(|array| array.value(row))
    }

    /// Which cells were sent; `None`: all of the columns that are there.
    #[must_use]
    pub fn sent(&self) -> Option<Sent<'_>> {
        let bits = self.rows.column_by_name(SENT)?.as_fixed_size_binary_opt()?;
        Some(Sent { bits, rows: &self.rows })
    }

    /// The bytes that go into the log.
    ///
    /// # Errors
    ///
    /// That the batch is too large.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let meta = serde_json::to_string(&self.meta)
            .map_err(|error| TableError::invalid(format!("the batch cannot be described: {error}")))?;
        let schema = Schema::new_with_metadata(
            self.rows.schema_ref().fields().clone(),
            std::collections::HashMap::from([(META.to_owned(), meta)]),
        );
        let rows = self.rows.clone().with_schema(Arc::new(schema)).map_err(arrow("describe the batch"))?;
        let bytes = write_stream(&rows)?;
        if bytes.len() > LARGEST {
            return Err(TableError::TooLarge(format!(
                "a batch of {} bytes is more than the {LARGEST} that the log takes at once",
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    /// What [`Batch::encode`] wrote.
    ///
    /// # Errors
    ///
    /// That it is something else.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let rows = read_stream(bytes)?;
        let meta = rows.schema_ref().metadata().get(META);
        let meta = meta.and_then(|text| serde_json::from_str(text).ok());
        let meta = meta.ok_or_else(|| TableError::damaged("a batch of the log does not say how it is meant"))?;
        Ok(Self { rows, meta })
    }
}

/// Which cells of a batch were sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    bits: &'a FixedSizeBinaryArray,
    rows: &'a RecordBatch,
}

impl Sent<'_> {
    /// The place of a column's bit.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<usize> {
        self.rows.schema_ref().index_of(name).ok()
    }

    /// The bit at `place` of `row`.
    #[must_use]
    pub fn has(&self, row: usize, place: usize) -> bool {
        self.bits.value(row).get(place / 8).is_some_and(|bits| bits >> (place % 8) & 1 == 1)
    }
}

/// Seconds as microseconds.
pub(crate) fn micros(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000)
}

/// A batch as one stream of Arrow's own format.
pub(crate) fn write_stream(rows: &RecordBatch) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, rows.schema_ref()).map_err(arrow("encode a batch"))?;
    writer.write(rows).and_then(|()| writer.finish()).map_err(arrow("encode a batch"))?;
    drop(writer);
    Ok(bytes)
}

/// What [`write_stream`] wrote.
pub(crate) fn read_stream(bytes: &[u8]) -> Result<RecordBatch> {
    let reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(arrow("decode a batch"))?;
    let mut reader = reader;
    match reader.next() {
        Some(batch) => batch.map_err(arrow("decode a batch")),
        None => Err(TableError::damaged("a batch without rows")),
    }
}
