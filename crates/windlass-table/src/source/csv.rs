//! CSV: the first line names the columns. An empty field that is not quoted was not sent.

use std::io::BufRead;

use serde_json::{Map, Value};

use crate::batch::Batch;
use crate::column::ColumnType;
use crate::definition::Definition;
use crate::error::{Result, TableError};
use crate::source::{Meaning, json::json_batches};

/// Longest record.
const LONGEST: usize = 16 << 20;

/// Reads CSV and hands it on batch by batch. Lists are not possible in it.
///
/// # Errors
///
/// The first record that is none or has a value of a wrong type: its line, and why.
pub fn csv_batches(
    from: &mut dyn BufRead,
    definition: &Definition,
    meaning: &Meaning,
    sink: impl FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let mut reader = Records { from, line: 0 };
    let header =
        reader.next()?.ok_or_else(|| TableError::invalid("the CSV has no first line that names the columns"))?;
    let mut columns = Vec::new();
    for field in &header {
        let column = definition.column(field.text.trim())?;
        if column.column_type.is_list() {
            return Err(TableError::invalid(format!(
                "{} is a list, which CSV cannot hold; send JSON lines",
                column.name
            )));
        }
        columns.push((column.name.clone(), column.column_type.clone()));
    }
    // The lines go through the one reader of rows: a record is an object of text that its column reads.
    let mut lines = Lines { reader, columns, rest: Vec::new(), at: 0, failed: None };
    let read = json_batches(&mut std::io::BufReader::new(&mut lines), definition, meaning, sink);
    match lines.failed {
        Some(error) => Err(error),
        None => read,
    }
}

struct Field {
    text: String,
    quoted: bool,
}

struct Records<'a> {
    from: &'a mut dyn BufRead,
    line: u64,
}

impl Records<'_> {
    /// The next record; quoted fields may hold line ends.
    fn next(&mut self) -> Result<Option<Vec<Field>>> {
        let mut bytes = Vec::new();
        let first = self.line + 1;
        let wrong = |why: &str| TableError::invalid(format!("line {first} of the CSV: {why}"));
        loop {
            let read = self.from.read_until(b'\n', &mut bytes);
            let read = read.map_err(|error| wrong(&error.to_string()))?;
            if read == 0 {
                if bytes.iter().all(u8::is_ascii_whitespace) {
                    return Ok(None);
                }
                return Err(wrong("a quotation mark is never closed"));
            }
            self.line += 1;
            if bytes.len() > LONGEST {
                return Err(wrong("it is too long"));
            }
            if bytes.iter().filter(|byte| **byte == b'"').count() % 2 == 0 {
                if bytes.iter().all(u8::is_ascii_whitespace) {
                    bytes.clear();
                    continue;
                }
                break;
            }
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| wrong("it is not UTF-8"))?;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        fields(text).ok_or_else(|| wrong("a quotation mark stands where none may be")).map(Some)
    }
}

fn fields(text: &str) -> Option<Vec<Field>> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let field;
        if let Some(mut inner) = rest.strip_prefix('"') {
            let mut value = String::new();
            loop {
                let (part, behind) = inner.split_once('"')?;
                value.push_str(part);
                match behind.strip_prefix('"') {
                    Some(more) => {
                        value.push('"');
                        inner = more;
                    }
                    None => {
                        rest = behind;
                        break;
                    }
                }
            }
            field = Field { text: value, quoted: true };
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return None;
            }
            field = Field { text: rest[..end].to_owned(), quoted: false };
            rest = &rest[end..];
        }
        found.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Some(found),
            None => return None,
        }
    }
}

/// Records as JSON lines.
struct Lines<'a> {
    reader: Records<'a>,
    columns: Vec<(String, ColumnType)>,
    rest: Vec<u8>,
    at: usize,
    failed: Option<TableError>,
}

impl Lines<'_> {
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(fields) = self.reader.next()? else { return Ok(None) };
        let line = self.reader.line;
        if fields.len() != self.columns.len() {
            return Err(TableError::invalid(format!(
                "line {line} of the CSV has {} fields, and the first line names {}",
                fields.len(),
                self.columns.len()
            )));
        }
        let mut object = Map::new();
        for ((name, column), field) in self.columns.iter().zip(fields) {
            if field.text.is_empty() && !field.quoted {
                continue;
            }
            let value = value(&field.text, column).ok_or_else(|| {
                TableError::invalid(format!("line {line} of the CSV: {name}: {:?} is no {column}", field.text))
            })?;
            object.insert(name.clone(), value);
        }
        let mut text = Value::Object(object).to_string().into_bytes();
        text.push(b'\n');
        Ok(Some(text))
    }
}

fn value(text: &str, column: &ColumnType) -> Option<Value> {
    Some(match column {
        ColumnType::Bool => match text {
            "true" | "t" | "1" => true.into(),
            "false" | "f" | "0" => false.into(),
            _ => return None,
        },
        ColumnType::Int8 | ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64 => {
            text.parse::<i64>().ok()?.into()
        }
        ColumnType::Float32 | ColumnType::Float64 => serde_json::Number::from_f64(text.parse().ok()?)?.into(),
        ColumnType::Timestamp => match text.parse::<i64>() {
            Ok(seconds) => seconds.into(),
            Err(_) => text.into(),
        },
        _ => text.into(),
    })
}

impl std::io::Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.rest.len() {
            self.at = 0;
            self.rest = match self.line() {
                Ok(line) => line.unwrap_or_default(),
                Err(error) => {
                    self.failed = Some(error);
                    return Err(std::io::Error::other("the CSV is damaged"));
                }
            };
        }
        let count = buffer.len().min(self.rest.len() - self.at);
        buffer[..count].copy_from_slice(&self.rest[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
