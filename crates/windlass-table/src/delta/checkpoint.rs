//! A checkpoint: the table at one version in one Parquet file, so that nobody has to read all entries.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Int32Array, Int64Array, ListArray, MapArray, RecordBatch, StringArray, StructArray,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value};
use windlass_blob::BlobStore;

use crate::delta::action::Action;
use crate::delta::log::{Snapshot, checkpoint_key};
use crate::error::{Result, TableError, arrow, parquet};

/// Most bytes of a checkpoint.
const LARGEST: u64 = 1 << 30;
/// Files that left the table are remembered for so long, in milliseconds.
const REMEMBERED: i64 = 7 * 86_400_000;

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn object(fields: Vec<Field>) -> DataType {
    DataType::Struct(Fields::from(fields))
}

fn strings() -> DataType {
    DataType::List(Arc::new(field("element", DataType::Utf8)))
}

fn map() -> DataType {
    let entry = object(vec![Field::new("key", DataType::Utf8, false), field("value", DataType::Utf8)]);
    DataType::Map(Arc::new(Field::new("key_value", entry, false)), false)
}

fn schema() -> Schema {
    let text = |name: &str| field(name, DataType::Utf8);
    let long = |name: &str| field(name, DataType::Int64);
    let int = |name: &str| field(name, DataType::Int32);
    let flag = |name: &str| field(name, DataType::Boolean);
    let vector = object(vec![
        text("storageType"),
        text("pathOrInlineDv"),
        int("offset"),
        int("sizeInBytes"),
        long("cardinality"),
    ]);
    Schema::new(vec![
        field("txn", object(vec![text("appId"), long("version"), long("lastUpdated")])),
        field(
            "add",
            object(vec![
                text("path"),
                field("partitionValues", map()),
                long("size"),
                long("modificationTime"),
                flag("dataChange"),
                text("stats"),
                field("deletionVector", vector.clone()),
            ]),
        ),
        field(
            "remove",
            object(vec![
                text("path"),
                long("deletionTimestamp"),
                flag("dataChange"),
                flag("extendedFileMetadata"),
                field("partitionValues", map()),
                long("size"),
                field("deletionVector", vector),
            ]),
        ),
        field(
            "metaData",
            object(vec![
                text("id"),
                text("name"),
                text("description"),
                field("format", object(vec![text("provider"), field("options", map())])),
                text("schemaString"),
                field("partitionColumns", strings()),
                field("configuration", map()),
                long("createdTime"),
            ]),
        ),
        field(
            "protocol",
            object(vec![
                int("minReaderVersion"),
                int("minWriterVersion"),
                field("readerFeatures", strings()),
                field("writerFeatures", strings()),
            ]),
        ),
    ])
}

/// The bytes of a checkpoint, and how many actions it has.
pub(crate) fn write(snapshot: &Snapshot, now_ms: i64) -> Result<(Vec<u8>, usize)> {
    let mut actions: Vec<Action> = Vec::new();
    actions.extend(snapshot.protocol.clone().map(Action::Protocol));
    actions.extend(snapshot.metadata.clone().map(|metadata| Action::MetaData(Box::new(metadata))));
    actions.extend(snapshot.txns.values().cloned().map(Action::Txn));
    actions.extend(snapshot.files.values().cloned().map(|mut add| {
        add.data_change = false;
        Action::Add(Box::new(add))
    }));
    let remembered = |at: Option<i64>| at.is_some_and(|at| at > now_ms - REMEMBERED);
    actions.extend(snapshot.removed.values().filter(|remove| remembered(remove.deletion_timestamp)).cloned().map(
        |mut remove| {
            remove.data_change = false;
            Action::Remove(Box::new(remove))
        },
    ));
    let rows: Vec<Value> = actions.iter().filter_map(|action| serde_json::to_value(action).ok()).collect();
    let schema = Arc::new(schema());
    let columns = schema.fields().iter().map(|field| {
        let values: Vec<Option<&Value>> = rows.iter().map(|row| row.get(field.name())).collect();
        build(&values, field.data_type())
    });
    let columns: Result<Vec<ArrayRef>> = columns.collect();
    let batch = RecordBatch::try_new(schema.clone(), columns?).map_err(arrow("put a checkpoint together"))?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut bytes = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, schema, Some(properties)).map_err(parquet("write a checkpoint"))?;
    writer.write(&batch).map_err(parquet("write a checkpoint"))?;
    writer.close().map_err(parquet("write a checkpoint"))?;
    Ok((bytes, actions.len()))
}

/// The table at a version that has a checkpoint.
pub(crate) async fn read(store: &BlobStore, version: i64) -> Result<Snapshot> {
    let key = checkpoint_key(version);
    let (bytes, _) = store.get_bytes(&key, LARGEST).await?;
    let name = store.url().of_key(&key);
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(parquet(format!("read the checkpoint {name}")))?;
    let mut snapshot = Snapshot { version, ..Snapshot::none() };
    for batch in reader {
        let batch = batch.map_err(arrow(format!("read the checkpoint {name}")))?;
        let mut actions = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let mut action = Map::new();
            for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                let known = ["protocol", "metaData", "add", "remove", "txn"].contains(&field.name().as_str());
                if known && !column.is_null(row) {
                    action.insert(field.name().clone(), extract(column, row));
                }
            }
            if action.is_empty() {
                continue;
            }
            let action = serde_json::from_value(Value::Object(action))
                .map_err(|error| TableError::damaged(format!("the checkpoint {name}: {error}")))?;
            actions.push(action);
        }
        snapshot.apply(&actions);
    }
    Ok(snapshot)
}

/// Values of one type as an array.
fn build(values: &[Option<&Value>], data_type: &DataType) -> Result<ArrayRef> {
    let there: Vec<Option<&Value>> = values.iter().map(|value| value.filter(|value| !value.is_null())).collect();
    let nulls = || NullBuffer::from(there.iter().map(Option::is_some).collect::<Vec<bool>>());
    let wrong = || TableError::invalid(format!("a checkpoint cannot hold {data_type}"));
    Ok(match data_type {
        DataType::Utf8 => Arc::new(there.iter().map(|value| value.and_then(Value::as_str)).collect::<StringArray>()),
        DataType::Int64 => Arc::new(there.iter().map(|value| value.and_then(Value::as_i64)).collect::<Int64Array>()),
        DataType::Int32 => {
            let number = |value: &Value| value.as_i64().and_then(|value| i32::try_from(value).ok());
            Arc::new(there.iter().map(|value| value.and_then(number)).collect::<Int32Array>())
        }
        DataType::Boolean => {
            Arc::new(there.iter().map(|value| value.and_then(Value::as_bool)).collect::<BooleanArray>())
        }
        DataType::List(inner) => {
            let lists: Vec<&[Value]> =
                there.iter().map(|value| value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice)).collect();
            let offsets = OffsetBuffer::from_lengths(lists.iter().map(|list| list.len()));
            let flat: Vec<Option<&Value>> = lists.iter().flat_map(|list| list.iter().map(Some)).collect();
            let values = build(&flat, inner.data_type())?;
            Arc::new(ListArray::try_new(inner.clone(), offsets, values, Some(nulls())).map_err(arrow("build a list"))?)
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else { return Err(wrong()) };
            let empty = Map::new();
            let maps: Vec<&Map<String, Value>> =
                there.iter().map(|value| value.and_then(Value::as_object).unwrap_or(&empty)).collect();
            let offsets = OffsetBuffer::from_lengths(maps.iter().map(|map| map.len()));
            let keys: StringArray = maps.iter().flat_map(|map| map.keys().map(|key| Some(key.as_str()))).collect();
            let values: StringArray = maps.iter().flat_map(|map| map.values().map(Value::as_str)).collect();
            let pairs = StructArray::try_new(fields.clone(), vec![Arc::new(keys), Arc::new(values)], None)
                .map_err(arrow("build a map"))?;
            let map = MapArray::try_new(entries.clone(), offsets, pairs, Some(nulls()), false);
            Arc::new(map.map_err(arrow("build a map"))?)
        }
        DataType::Struct(fields) => {
            let columns: Result<Vec<ArrayRef>> = fields
                .iter()
                .map(|field| {
                    let inner: Vec<Option<&Value>> =
                        there.iter().map(|value| value.and_then(|value| value.get(field.name()))).collect();
                    build(&inner, field.data_type())
                })
                .collect();
            let array = StructArray::try_new(fields.clone(), columns?, Some(nulls()));
            Arc::new(array.map_err(arrow("build a checkpoint"))?)
        }
        _ => return Err(wrong()),
    })
}

/// A value of an array. Types that no action has are null.
fn extract(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::List(_) => {
            let list = array.as_list::<i32>().value(row);
            (0..list.len()).map(|at| extract(&list, at)).collect::<Vec<_>>().into()
        }
        DataType::Map(..) => {
            let pairs = array.as_map().value(row);
            let (keys, values) = (pairs.column(0), pairs.column(1));
            let pair = |at| Some((extract(keys, at).as_str()?.to_owned(), extract(values, at)));
            Value::Object((0..pairs.len()).filter_map(pair).collect())
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let member = |(field, column): (&Arc<Field>, &ArrayRef)| {
                let value = extract(column, row);
                (!value.is_null()).then(|| (field.name().clone(), value))
            };
            Value::Object(fields.iter().zip(columns).filter_map(member).collect())
        }
        _ => Value::Null,
    }
}
