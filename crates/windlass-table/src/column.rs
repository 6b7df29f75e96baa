//! Types of columns, in the words of people, of Arrow and of Delta Lake.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow_schema::{DataType, Field, TimeUnit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::TableError;

/// The type of a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ColumnType {
    /// `bool`
    Bool,
    /// `int8`
    Int8,
    /// `int16`, and what was `uint8`
    Int16,
    /// `int32`, and what was `uint16`
    Int32,
    /// `int64`, and what was `uint32`
    Int64,
    /// `float32`
    Float32,
    /// `float64`
    Float64,
    /// `decimal(PRECISION,SCALE)`
    Decimal(u8, i8),
    /// `string`
    String,
    /// `binary`
    Binary,
    /// `date`: days since 1970
    Date,
    /// `timestamp`: microseconds since 1970, UTC
    Timestamp,
    /// `list<TYPE>`
    List(Box<ColumnType>),
}

impl ColumnType {
    /// Whether values can be added up.
    #[must_use]
    pub fn is_numeric(&self) -> bool {
        matches!(
            self,
            Self::Int8 | Self::Int16 | Self::Int32 | Self::Int64 | Self::Float32 | Self::Float64 | Self::Decimal(..)
        )
    }

    /// Whether it is a list.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(self, Self::List(_))
    }

    /// The least and the largest integer, for types of integers.
    #[must_use]
    pub(crate) fn integer_range(&self) -> Option<(i64, i64)> {
        Some(match self {
            Self::Int8 => (i8::MIN.into(), i8::MAX.into()),
            Self::Int16 => (i16::MIN.into(), i16::MAX.into()),
            Self::Int32 => (i32::MIN.into(), i32::MAX.into()),
            Self::Int64 => (i64::MIN, i64::MAX),
            _ => return None,
        })
    }

    /// As Arrow has it.
    #[must_use]
    pub fn arrow(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int8 => DataType::Int8,
            Self::Int16 => DataType::Int16,
            Self::Int32 => DataType::Int32,
            Self::Int64 => DataType::Int64,
            Self::Float32 => DataType::Float32,
            Self::Float64 => DataType::Float64,
            Self::Decimal(precision, scale) => DataType::Decimal128(*precision, *scale),
            Self::String => DataType::Utf8,
            Self::Binary => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::List(inner) => DataType::List(Arc::new(Field::new("element", inner.arrow(), true))),
        }
    }

    /// As the schema string of Delta Lake has it.
    #[must_use]
    pub(crate) fn delta(&self) -> Value {
        match self {
            Self::Bool => json!("boolean"),
            Self::Int8 => json!("byte"),
            Self::Int16 => json!("short"),
            Self::Int32 => json!("integer"),
            Self::Int64 => json!("long"),
            Self::Float32 => json!("float"),
            Self::Float64 => json!("double"),
            Self::Decimal(precision, scale) => json!(format!("decimal({precision},{scale})")),
            Self::String => json!("string"),
            Self::Binary => json!("binary"),
            Self::Date => json!("date"),
            Self::Timestamp => json!("timestamp"),
            Self::List(inner) => json!({ "type": "array", "elementType": inner.delta(), "containsNull": true }),
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int8 => f.write_str("int8"),
            Self::Int16 => f.write_str("int16"),
            Self::Int32 => f.write_str("int32"),
            Self::Int64 => f.write_str("int64"),
            Self::Float32 => f.write_str("float32"),
            Self::Float64 => f.write_str("float64"),
            Self::Decimal(precision, scale) => write!(f, "decimal({precision},{scale})"),
            Self::String => f.write_str("string"),
            Self::Binary => f.write_str("binary"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(inner) => write!(f, "list<{inner}>"),
        }
    }
}

impl From<ColumnType> for String {
    fn from(column: ColumnType) -> Self {
        column.to_string()
    }
}

impl TryFrom<String> for ColumnType {
    type Error = TableError;

    fn try_from(text: String) -> Result<Self, TableError> {
        text.parse()
    }
}

impl FromStr for ColumnType {
    type Err = TableError;

    fn from_str(text: &str) -> Result<Self, TableError> {
        let text = text.trim();
        let between = |before: &str, after: char| text.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        if let Some(inner) = between("list<", '>') {
            let inner: Self = inner.parse()?;
            if inner.is_list() {
                return Err(TableError::invalid("lists of lists are not supported"));
            }
            return Ok(Self::List(Box::new(inner)));
        }
        if let Some(inner) = between("decimal(", ')') {
            let parts = inner.split_once(',').and_then(|(precision, scale)| {
                Some((precision.trim().parse::<u8>().ok()?, scale.trim().parse::<i8>().ok()?))
            });
            return match parts {
                Some((precision @ 1..=38, scale)) if scale >= 0 && scale.unsigned_abs() <= precision => {
                    Ok(Self::Decimal(precision, scale))
                }
                _ => Err(TableError::invalid(format!(
                    "{text:?} is no decimal type; write decimal(PRECISION,SCALE) with 1 to 38 digits of which SCALE are behind the point"
                ))),
            };
        }
        Ok(match text {
            "bool" | "boolean" => Self::Bool,
            "int8" => Self::Int8,
            "int16" | "uint8" => Self::Int16,
            "int32" | "uint16" => Self::Int32,
            "int64" | "uint32" => Self::Int64,
            "float32" => Self::Float32,
            "float64" => Self::Float64,
            "string" => Self::String,
            "binary" => Self::Binary,
            "date" => Self::Date,
            "timestamp" | "timestamp_us_utc" => Self::Timestamp,
            _ => {
                return Err(TableError::invalid(format!(
                    "{text:?} is no type of a column; known are bool, int8, int16, int32, int64, float32, float64, decimal(P,S), string, binary, date, timestamp, and list<…> of these"
                )));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_and_written_alike() {
        for text in ["bool", "int8", "int64", "float32", "decimal(10,2)", "string", "binary", "date", "list<int32>"] {
            let read: ColumnType = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
        }
        assert_eq!("uint32".parse::<ColumnType>().unwrap(), ColumnType::Int64);
        for wrong in ["uint64", "list<list<int8>>", "decimal(0,0)", "decimal(5,6)", "decimal(x)", "", "list<"] {
            assert!(wrong.parse::<ColumnType>().is_err(), "{wrong}");
        }
    }
}
