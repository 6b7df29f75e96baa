//! Between Arrow's columns and single rows.

use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int8Builder, Int16Builder, Int32Builder, Int64Builder, ListBuilder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, RecordBatch, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{Field, SchemaRef};

use crate::cell::Cell;
use crate::column::ColumnType;
use crate::error::{Result, TableError, arrow};

/// A row, cell by cell.
pub type Row = Box<[Cell]>;

/// The value in `row` of `array`, which is of `column`'s type.
#[must_use]
pub fn cell(array: &dyn Array, column: &ColumnType, row: usize) -> Cell {
    if array.is_null(row) {
        return Cell::Null;
    }
    match column {
        ColumnType::Bool => Cell::Bool(array.as_boolean().value(row)),
        ColumnType::Int8 => Cell::Int(array.as_primitive::<Int8Type>().value(row).into()),
        ColumnType::Int16 => Cell::Int(array.as_primitive::<Int16Type>().value(row).into()),
        ColumnType::Int32 => Cell::Int(array.as_primitive::<Int32Type>().value(row).into()),
        ColumnType::Int64 => Cell::Int(array.as_primitive::<Int64Type>().value(row)),
        ColumnType::Float32 => Cell::Float32(array.as_primitive::<Float32Type>().value(row)),
        ColumnType::Float64 => Cell::Float64(array.as_primitive::<Float64Type>().value(row)),
        ColumnType::Decimal(..) => Cell::Decimal(array.as_primitive::<Decimal128Type>().value(row)),
        ColumnType::String => Cell::Text(array.as_string::<i32>().value(row).into()),
        ColumnType::Binary => Cell::Bytes(array.as_binary::<i32>().value(row).into()),
        ColumnType::Date => Cell::Int(array.as_primitive::<Date32Type>().value(row).into()),
        ColumnType::Timestamp => Cell::Int(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        ColumnType::List(inner) => {
            let list = array.as_list::<i32>().value(row);
            Cell::List((0..list.len()).map(|at| cell(&list, inner, at)).collect())
        }
    }
}

/// A row of a batch whose columns are those of the table.
#[must_use]
pub fn row(batch: &RecordBatch, types: &[ColumnType], row: usize) -> Row {
    batch.columns().iter().zip(types).map(|(array, column)| cell(array, column, row)).collect()
}

/// An array of cells. A cell of another type than `column` is a mistake and becomes null.
#[must_use]
pub fn array<'a>(cells: impl ExactSizeIterator<Item = &'a Cell>, column: &ColumnType) -> ArrayRef {
    let mut builder = Builder::new(column, cells.len());
    for cell in cells {
        builder.push(cell);
    }
    builder.finish()
}

/// Rows as a batch of the table's columns.
///
/// # Errors
///
/// A null where none may be.
pub fn batch(rows: &[Row], schema: &SchemaRef, types: &[ColumnType]) -> Result<RecordBatch> {
    let columns = types.iter().enumerate().map(|(at, column)| array(rows.iter().map(|row| &row[at]), column)).collect();
    RecordBatch::try_new(schema.clone(), columns).map_err(arrow("put rows together"))
}

/// `found` with the columns of `schema`, in their order: types that mean the same are converted, columns that are missing
/// are null, others are left out.
///
/// # Errors
///
/// A value that the type cannot hold, or a null where none may be.
pub fn conform(found: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if found.schema_ref().fields() == schema.fields() {
        return Ok(found.clone());
    }
    let columns: Result<Vec<ArrayRef>> = schema.fields().iter().map(|field| column(found, field)).collect();
    RecordBatch::try_new_with_options(
        schema.clone(),
        columns?,
        &arrow_array::RecordBatchOptions::new().with_row_count(Some(found.num_rows())),
    )
    .map_err(arrow("read rows"))
}

fn column(found: &RecordBatch, field: &Field) -> Result<ArrayRef> {
    match found.column_by_name(field.name()) {
        Some(array) => convert(array, field),
        None => Ok(new_null_array(field.data_type(), found.num_rows())),
    }
}

/// `array` as the type of `field`.
///
/// # Errors
///
/// A value that the type cannot hold.
pub(crate) fn convert(array: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    if array.data_type() == field.data_type() {
        return Ok(array.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, field.data_type(), &options).map_err(|error| {
        let (name, from, to) = (field.name(), array.data_type(), field.data_type());
        TableError::invalid(format!("column {name} holds {from}, which does not fit {to}: {error}"))
    })
}

/// Builds an array of one type.
pub(crate) enum Builder {
    Bool(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Float32(Float32Builder),
    Float64(Float64Builder),
    Decimal(Decimal128Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    List(Box<ListBuilder<Builder>>),
}

impl Builder {
    pub(crate) fn new(column: &ColumnType, rows: usize) -> Self {
        match column {
            ColumnType::Bool => Self::Bool(BooleanBuilder::with_capacity(rows)),
            ColumnType::Int8 => Self::Int8(Int8Builder::with_capacity(rows)),
            ColumnType::Int16 => Self::Int16(Int16Builder::with_capacity(rows)),
            ColumnType::Int32 => Self::Int32(Int32Builder::with_capacity(rows)),
            ColumnType::Int64 => Self::Int64(Int64Builder::with_capacity(rows)),
            ColumnType::Float32 => Self::Float32(Float32Builder::with_capacity(rows)),
            ColumnType::Float64 => Self::Float64(Float64Builder::with_capacity(rows)),
            ColumnType::Decimal(..) => {
                Self::Decimal(Decimal128Builder::with_capacity(rows).with_data_type(column.arrow()))
            }
            ColumnType::String => Self::Text(StringBuilder::with_capacity(rows, rows * 8)),
            ColumnType::Binary => Self::Bytes(BinaryBuilder::with_capacity(rows, rows * 8)),
            ColumnType::Date => Self::Date(Date32Builder::with_capacity(rows)),
            ColumnType::Timestamp => {
                Self::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(column.arrow()))
            }
            ColumnType::List(inner) => {
                let field = Arc::new(Field::new("element", inner.arrow(), true));
                Self::List(Box::new(ListBuilder::new(Self::new(inner, rows)).with_field(field)))
            }
        }
    }

    pub(crate) fn push(&mut self, cell: &Cell) {
        match (self, cell) {
            (Self::Bool(builder), Cell::Bool(value)) => builder.append_value(*value),
            (Self::Bool(builder), _) => builder.append_null(),
            (Self::Int8(builder), cell) => builder.append_option(integer(cell)),
            (Self::Int16(builder), cell) => builder.append_option(integer(cell)),
            (Self::Int32(builder), cell) => builder.append_option(integer(cell)),
            (Self::Int64(builder), cell) => builder.append_option(integer(cell)),
            (Self::Float32(builder), Cell::Float32(value)) => builder.append_value(*value),
            (Self::Float32(builder), _) => builder.append_null(),
            (Self::Float64(builder), Cell::Float64(value)) => builder.append_value(*value),
            (Self::Float64(builder), _) => builder.append_null(),
            (Self::Decimal(builder), Cell::Decimal(value)) => builder.append_value(*value),
            (Self::Decimal(builder), _) => builder.append_null(),
            (Self::Text(builder), Cell::Text(text)) => builder.append_value(text),
            (Self::Text(builder), _) => builder.append_null(),
            (Self::Bytes(builder), Cell::Bytes(bytes)) => builder.append_value(bytes),
            (Self::Bytes(builder), _) => builder.append_null(),
            (Self::Date(builder), cell) => builder.append_option(integer(cell)),
            (Self::Timestamp(builder), cell) => builder.append_option(integer(cell)),
            (Self::List(builder), Cell::List(cells)) => {
                for cell in cells {
                    builder.values().push(cell);
                }
                builder.append(true);
            }
            (Self::List(builder), _) => builder.append(false),
        }
    }

    fn inner(&mut self) -> &mut dyn ArrayBuilder {
        match self {
            Self::Bool(builder) => builder,
            Self::Int8(builder) => builder,
            Self::Int16(builder) => builder,
            Self::Int32(builder) => builder,
            Self::Int64(builder) => builder,
            Self::Float32(builder) => builder,
            Self::Float64(builder) => builder,
            Self::Decimal(builder) => builder,
            Self::Text(builder) => builder,
            Self::Bytes(builder) => builder,
            Self::Date(builder) => builder,
            Self::Timestamp(builder) => builder,
            Self::List(builder) => &mut **builder,
        }
    }

    fn inner_ref(&self) -> &dyn ArrayBuilder {
        match self {
            Self::Bool(builder) => builder,
            Self::Int8(builder) => builder,
            Self::Int16(builder) => builder,
            Self::Int32(builder) => builder,
            Self::Int64(builder) => builder,
            Self::Float32(builder) => builder,
            Self::Float64(builder) => builder,
            Self::Decimal(builder) => builder,
            Self::Text(builder) => builder,
            Self::Bytes(builder) => builder,
            Self::Date(builder) => builder,
            Self::Timestamp(builder) => builder,
            Self::List(builder) => &**builder,
        }
    }
}

fn integer<T: TryFrom<i64>>(cell: &Cell) -> Option<T> {
    match cell {
        Cell::Int(value) => T::try_from(*value).ok(),
        _ => None,
    }
}

impl ArrayBuilder for Builder {
    fn len(&self) -> usize {
        self.inner_ref().len()
    }

    fn finish(&mut self) -> ArrayRef {
        self.inner().finish()
    }

    fn finish_cloned(&self) -> ArrayRef {
        self.inner_ref().finish_cloned()
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }

    fn into_box_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_survive_arrays_of_every_type() {
        let list = |cells: Vec<Cell>| Cell::List(cells.into());
        let cases = [
            ("bool", vec![Cell::Bool(true), Cell::Null, Cell::Bool(false)]),
            ("int16", vec![Cell::Int(-5), Cell::Null]),
            ("timestamp", vec![Cell::Int(1_762_600_000_000_001)]),
            ("date", vec![Cell::Int(-3)]),
            ("decimal(20,3)", vec![Cell::Decimal(-123_456), Cell::Null]),
            ("float32", vec![Cell::Float32(-0.0), Cell::Float32(f32::NAN)]),
            ("string", vec![Cell::Text("a|b".into()), Cell::Text("".into()), Cell::Null]),
            ("binary", vec![Cell::Bytes([0, 255].into())]),
            ("list<string>", vec![list(vec![Cell::Text("x".into()), Cell::Null]), list(vec![]), Cell::Null]),
        ];
        for (name, cells) in cases {
            let column: ColumnType = name.parse().unwrap();
            let array = array(cells.iter(), &column);
            assert_eq!(array.data_type(), &column.arrow(), "{name}");
            let back: Vec<Cell> = (0..array.len()).map(|row| cell(&array, &column, row)).collect();
            assert_eq!(back, cells, "{name}");
        }
    }
}
