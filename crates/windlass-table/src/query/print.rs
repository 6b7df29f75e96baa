//! Rows as text or as files.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value};

use crate::cell::Cell;
use crate::column::ColumnType;
use crate::error::{Result, TableError};
use crate::home::Table;
use crate::query::{Fitted, Query, query};
use crate::rows::cell;
use crate::run::Around;
use crate::scan::{Selection, version};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Printed {
    /// One JSON object a line.
    Json,
    /// CSV with the names of the columns in its first line. A field without quotes that is empty is a null.
    Csv,
    /// A stream of Arrow.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// Where to.
type Out = Box<dyn Write + Send>;

enum To {
    Json(Out),
    Csv(Out),
    Arrow(Box<StreamWriter<Out>>),
    Parquet(Box<ArrowWriter<Out>>),
}

struct Printer {
    to: To,
    types: Vec<ColumnType>,
    rows: u64,
}

/// Whoever reads has enough, or cannot take it.
fn unwritten(error: std::io::Error) -> TableError {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => TableError::Cancelled,
        _ => TableError::disk("write", "the rows")(error),
    }
}

fn as_io(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        next = error.source();
    }
    None
}

fn failed(error: impl std::error::Error + 'static) -> TableError {
    let kind = as_io(&error).unwrap_or(std::io::ErrorKind::Other);
    unwritten(std::io::Error::new(kind, error.to_string()))
}

impl Printer {
    fn new(how: Printed, schema: &SchemaRef, types: Vec<ColumnType>, mut out: Out) -> Result<Self> {
        let to = match how {
            Printed::Json => To::Json(out),
            Printed::Csv => {
                if let Some(at) = types.iter().position(ColumnType::is_list) {
                    return Err(TableError::invalid(format!(
                        "{} is a list, which CSV cannot hold; choose other columns or another form",
                        schema.field(at).name()
                    )));
                }
                let names: Vec<String> = schema.fields().iter().map(|field| quoted(field.name())).collect();
                writeln!(out, "{}", names.join(",")).map_err(unwritten)?;
                To::Csv(out)
            }
            Printed::Arrow => To::Arrow(Box::new(StreamWriter::try_new(out, schema).map_err(failed)?)),
            Printed::Parquet => {
                let properties =
                    WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
                let writer = ArrowWriter::try_new(out, schema.clone(), Some(properties)).map_err(failed)?;
                To::Parquet(Box::new(writer))
            }
        };
        Ok(Self { to, types, rows: 0 })
    }

    fn push(&mut self, rows: &RecordBatch) -> Result<()> {
        self.rows += rows.num_rows() as u64;
        match &mut self.to {
            To::Json(out) => {
                for row in 0..rows.num_rows() {
                    let mut object = Map::new();
                    for ((field, array), of) in rows.schema_ref().fields().iter().zip(rows.columns()).zip(&self.types) {
                        object.insert(field.name().clone(), cell(array, of, row).to_json(of));
                    }
                    writeln!(out, "{}", Value::Object(object)).map_err(unwritten)?;
                }
                Ok(())
            }
            To::Csv(out) => {
                let mut line = String::new();
                for row in 0..rows.num_rows() {
                    line.clear();
                    for (n, (array, of)) in rows.columns().iter().zip(&self.types).enumerate() {
                        if n > 0 {
                            line.push(',');
                        }
                        line += &field(&cell(array, of, row), of);
                    }
                    writeln!(out, "{line}").map_err(unwritten)?;
                }
                Ok(())
            }
            To::Arrow(writer) => writer.write(rows).map_err(failed),
            To::Parquet(writer) => writer.write(rows).map_err(failed),
        }
    }

    fn finish(self) -> Result<u64> {
        match self.to {
            To::Json(mut out) | To::Csv(mut out) => out.flush().map_err(unwritten)?,
            To::Arrow(writer) => writer.into_inner().map_err(failed)?.flush().map_err(unwritten)?,
            To::Parquet(writer) => writer.into_inner().map_err(failed)?.flush().map_err(unwritten)?,
        }
        Ok(self.rows)
    }
}

/// A field of CSV: text in quotes when it would be taken for something else without them.
fn field(cell: &Cell, of: &ColumnType) -> String {
    match cell.to_json(of) {
        Value::Null => String::new(),
        Value::String(text) => quoted(&text),
        other => other.to_string(),
    }
}

fn quoted(text: &str) -> String {
    let plain = !text.is_empty() && !text.contains([',', '"', '\n', '\r']) && text.trim() == text;
    if plain { text.to_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

/// Writes rows of a table. Returns how many.
///
/// # Errors
///
/// As [`query`], and that `out` takes no more: [`TableError::Cancelled`] when it is a pipe that nobody reads.
pub async fn print(
    table: &Table,
    selection: &Selection,
    wanted: &Query,
    how: Printed,
    around: &Around,
    out: Box<dyn Write + Send>,
) -> Result<u64> {
    let shape = version(table, selection).await?.definition()?.shape();
    let fitted = Fitted::of(wanted, &shape)?;
    let printer = Printer::new(how, &fitted.shown_schema()?, fitted.shown_types(&shape), out)?;
    let printer = Arc::new(Mutex::new(Some(printer)));
    let shared = printer.clone();
    query(table, selection, wanted, around, move |rows| {
        match shared.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(printer) => printer.push(rows),
            None => Err(TableError::Cancelled),
        }
    })
    .await?;
    let printer = printer.lock().unwrap_or_else(PoisonError::into_inner).take();
    printer.map_or(Ok(0), Printer::finish)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_tells_nulls_from_empty_text_and_keeps_every_character() {
        let text = |text: &str| field(&Cell::Text(text.into()), &ColumnType::String);
        assert_eq!(field(&Cell::Null, &ColumnType::String), "");
        assert_eq!(
            [text(""), text("a b"), text("a,b"), text("say \"x\"\n"), text(" a")],
            ["\"\"", "a b", "\"a,b\"", "\"say \"\"x\"\"\n\"", "\" a\""]
        );
        assert_eq!(field(&Cell::Float64(1.5), &ColumnType::Float64), "1.5");
        assert_eq!(field(&Cell::Int(0), &ColumnType::Date), "1970-01-01");
    }
}
