//! One value of one row.

use std::cmp::Ordering;

use serde_json::Value;

use crate::column::ColumnType;

/// A value. Integers, dates and timestamps are all `Int`.
#[derive(Clone, Debug)]
pub enum Cell {
    /// No value.
    Null,
    /// `bool`
    Bool(bool),
    /// Integers; days of a date; microseconds of a timestamp.
    Int(i64),
    /// `float32`
    Float32(f32),
    /// `float64`
    Float64(f64),
    /// `decimal`, without its point.
    Decimal(i128),
    /// `string`
    Text(Box<str>),
    /// `binary`
    Bytes(Box<[u8]>),
    /// A list.
    List(Box<[Cell]>),
}

impl PartialEq for Cell {
    /// Whether they are the same value to the bit.
    fn eq(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Equal
    }
}

impl Cell {
    /// Whether it is null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The total order of values of one type: nulls first, strings by their bytes, floats by IEEE 754's total order.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Null, Self::Null) => Ordering::Equal,
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Float32(a), Self::Float32(b)) => a.total_cmp(b),
            (Self::Float64(a), Self::Float64(b)) => a.total_cmp(b),
            (Self::Decimal(a), Self::Decimal(b)) => a.cmp(b),
            (Self::Text(a), Self::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Self::Bytes(a), Self::Bytes(b)) => a.cmp(b),
            (Self::List(a), Self::List(b)) => {
                let unequal = a.iter().zip(b).map(|(a, b)| a.order(b)).find(|order| order.is_ne());
                unequal.unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Int(_) => 2,
            Self::Float32(_) => 3,
            Self::Float64(_) => 4,
            Self::Decimal(_) => 5,
            Self::Text(_) => 6,
            Self::Bytes(_) => 7,
            Self::List(_) => 8,
        }
    }

    /// `self + other`. A sum that its type cannot hold is the nearest that it can: a row that is in the log already
    /// must not make a run fail.
    #[must_use]
    pub fn plus(&self, other: &Self, column: &ColumnType) -> Self {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => {
                let (least, most) = column.integer_range().unwrap_or((i64::MIN, i64::MAX));
                Self::Int(a.saturating_add(*b).clamp(least, most))
            }
            (Self::Float32(a), Self::Float32(b)) => Self::Float32(a + b),
            (Self::Float64(a), Self::Float64(b)) => Self::Float64(a + b),
            (Self::Decimal(a), Self::Decimal(b)) => {
                let most = match column {
                    ColumnType::Decimal(precision, _) => 10_i128.pow(u32::from(*precision).min(38)) - 1,
                    _ => i128::MAX,
                };
                Self::Decimal(a.saturating_add(*b).clamp(-most, most))
            }
            _ => other.clone(),
        }
    }

    /// Reads a JSON value as one of `column`'s type. Timestamps are whole or fractional seconds since 1970, or text as
    /// `2025-11-08T00:00:00Z`; dates are text as `2025-11-08`; binary is text in hexadecimal digits.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub fn from_json(value: &Value, column: &ColumnType) -> Result<Self, String> {
        let wrong = || format!("{} is no {column}", shorten(value));
        Ok(match (column, value) {
            (_, Value::Null) => Self::Null,
            (ColumnType::Bool, Value::Bool(value)) => Self::Bool(*value),
            (ColumnType::Int8 | ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64, Value::Number(number)) => {
                let number = number.as_i64().ok_or_else(wrong)?;
                let (least, most) = column.integer_range().unwrap_or((i64::MIN, i64::MAX));
                if number < least || number > most {
                    return Err(wrong());
                }
                Self::Int(number)
            }
            (ColumnType::Float32, Value::Number(number)) => Self::Float32(number.as_f64().ok_or_else(wrong)? as f32),
            (ColumnType::Float64, Value::Number(number)) => Self::Float64(number.as_f64().ok_or_else(wrong)?),
            (ColumnType::Decimal(precision, scale), Value::Number(number)) => {
                Self::Decimal(decimal(&number.to_string(), *precision, *scale).ok_or_else(wrong)?)
            }
            (ColumnType::Decimal(precision, scale), Value::String(text)) => {
                Self::Decimal(decimal(text, *precision, *scale).ok_or_else(wrong)?)
            }
            (ColumnType::String, Value::String(text)) => Self::Text(text.as_str().into()),
            (ColumnType::Binary, Value::String(text)) => Self::Bytes(unhex(text).ok_or_else(wrong)?),
            (ColumnType::Date, Value::String(text)) => {
                let date: jiff::civil::Date = text.parse().map_err(|_| wrong())?;
                Self::Int(crate::day::of_date(date).0.into())
            }
            (ColumnType::Timestamp, Value::Number(number)) => Self::Int(match number.as_i64() {
                Some(seconds) => seconds.checked_mul(1_000_000).ok_or_else(wrong)?,
                None => {
                    let micros = number.as_f64().ok_or_else(wrong)? * 1e6;
                    if micros.abs() > 9e18 {
                        return Err(wrong());
                    }
                    micros.round() as i64
                }
            }),
            (ColumnType::Timestamp, Value::String(text)) => {
                let at: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
                Self::Int(at.as_microsecond())
            }
            (ColumnType::List(inner), Value::Array(values)) => {
                Self::List(values.iter().map(|value| Self::from_json(value, inner)).collect::<Result<_, _>>()?)
            }
            _ => return Err(wrong()),
        })
    }

    /// The value as JSON: what `scan` prints, and what [`Cell::from_json`] reads again.
    #[must_use]
    pub fn to_json(&self, column: &ColumnType) -> Value {
        match (self, column) {
            (Self::Null, _) => Value::Null,
            (Self::Bool(value), _) => (*value).into(),
            (Self::Int(value), ColumnType::Timestamp) => match jiff::Timestamp::from_microsecond(*value) {
                Ok(at) => at.to_string().into(),
                Err(_) => (*value).into(),
            },
            (Self::Int(value), ColumnType::Date) => match i32::try_from(*value) {
                Ok(day) => crate::day::Day(day).to_string().into(),
                Err(_) => (*value).into(),
            },
            (Self::Int(value), _) => (*value).into(),
            (Self::Float32(value), _) => {
                serde_json::Number::from_f64(f64::from(*value)).map_or(Value::Null, Value::from)
            }
            (Self::Float64(value), _) => serde_json::Number::from_f64(*value).map_or(Value::Null, Value::from),
            (Self::Decimal(value), ColumnType::Decimal(_, scale)) => pointed(*value, *scale).into(),
            (Self::Decimal(value), _) => value.to_string().into(),
            (Self::Text(text), _) => (&**text).into(),
            (Self::Bytes(bytes), _) => hex(bytes).into(),
            (Self::List(cells), ColumnType::List(inner)) => {
                cells.iter().map(|cell| cell.to_json(inner)).collect::<Vec<_>>().into()
            }
            (Self::List(_), _) => Value::Null,
        }
    }
}

fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The digits of a decimal number in `text`, moved to `scale`. Digits that would be lost are refused.
fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let (whole, behind) = digits.split_once('.').unwrap_or((digits, ""));
    let behind = behind.trim_end_matches('0');
    let scale = usize::from(scale.unsigned_abs());
    if behind.len() > scale
        || (whole.is_empty() && behind.is_empty())
        || !digits.chars().all(|c| c.is_ascii_digit() || c == '.')
    {
        return None;
    }
    let all = format!("{whole}{behind:0<scale$}");
    let number: i128 = all
        .trim_start_matches('0')
        .parse()
        .or_else(|_| if all.bytes().all(|b| b == b'0') { Ok(0) } else { Err(()) })
        .ok()?;
    (number < 10_i128.pow(u32::from(precision))).then_some(sign * number)
}

fn pointed(value: i128, scale: i8) -> String {
    let scale = usize::from(scale.unsigned_abs());
    if scale == 0 {
        return value.to_string();
    }
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, behind) = digits.split_at(digits.len() - scale);
    format!("{}{whole}.{behind}", if value < 0 { "-" } else { "" })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Box<[u8]>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_come_back_from_json_as_they_went() {
        let cases = [
            ("int8", json!(-128)),
            ("decimal(10,2)", json!("-12345678.05")),
            ("binary", json!("00ff")),
            ("date", json!("2025-11-08")),
            ("timestamp", json!("2025-11-08T01:02:03.000004Z")),
            ("list<int16>", json!([1, null, -3])),
            ("float64", json!(0.5)),
        ];
        for (column, value) in cases {
            let column: ColumnType = column.parse().unwrap();
            assert_eq!(Cell::from_json(&value, &column).unwrap().to_json(&column), value, "{column}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cases = [
            ("int8", json!(128)),
            ("int32", json!(1.5)),
            ("decimal(4,2)", json!("1.234")),
            ("decimal(4,2)", json!("100")),
            ("decimal(4,2)", json!("")),
            ("bool", json!("true")),
            ("string", json!(1)),
            ("binary", json!("0g")),
            ("date", json!("2025-13-01")),
            ("list<int8>", json!([1, "a"])),
        ];
        for (column, value) in cases {
            let column: ColumnType = column.parse().unwrap();
            assert!(Cell::from_json(&value, &column).is_err(), "{column} {value}");
        }
    }

    #[test]
    fn sums_stay_within_their_type() {
        let column = ColumnType::Int8;
        assert_eq!(Cell::Int(100).plus(&Cell::Int(100), &column), Cell::Int(127));
        assert_eq!(Cell::Int(-100).plus(&Cell::Int(-100), &column), Cell::Int(-128));
        assert_eq!(Cell::Decimal(90).plus(&Cell::Decimal(20), &ColumnType::Decimal(2, 0)), Cell::Decimal(99));
    }

    #[test]
    fn equality_is_to_the_bit() {
        assert_ne!(Cell::Float64(0.0), Cell::Float64(-0.0));
        assert_eq!(Cell::Float64(f64::NAN), Cell::Float64(f64::NAN));
        assert_ne!(Cell::Null, Cell::Int(0));
    }
}
