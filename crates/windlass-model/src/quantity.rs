//! Durations and byte counts as people write them: `"5m"`, `"48h"`, `"256 MiB"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is no quantity. Says what one looks like.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}; {why}")]
pub struct NotAQuantity {
    text: String,
    what: &'static str,
    why: String,
}

/// Units of time, in milliseconds, the longest first so that printing finds the one that fits.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Other spellings of the units of time.
const TIME_NAMES: [(&str, &str); 14] = [
    ("day", "d"),
    ("days", "d"),
    ("hr", "h"),
    ("hour", "h"),
    ("hours", "h"),
    ("min", "m"),
    ("mins", "m"),
    ("minute", "m"),
    ("minutes", "m"),
    ("sec", "s"),
    ("secs", "s"),
    ("second", "s"),
    ("seconds", "s"),
    ("msec", "ms"),
];

/// Units of bytes, the largest first. Binary ones are what printing uses.
const SIZES: [(&str, u64); 10] = [
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// A length of time, to the millisecond. Written `"90s"`, `"5m"`, `"1h 30m"`, or as a number of seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl Span {
    /// A span of whole seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

/// A number of bytes. Written `"256 MiB"`, `"64MB"`, or as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

impl Size {
    /// The number as a length of memory on this machine.
    #[must_use]
    pub fn in_memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Splits `1h 30m` into numbers and the units behind them.
fn parts(text: &str) -> Option<Vec<(f64, &str)>> {
    let mut rest = text.trim();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        let behind = rest[digits..].trim_start();
        let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        found.push((number, &behind[..letters]));
        rest = behind[letters..].trim_start();
    }
    (!found.is_empty()).then_some(found)
}

impl FromStr for Span {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let error = |why: String| NotAQuantity { text: text.chars().take(60).collect(), what: "a duration", why };
        let form = "write for example \"30s\", \"5m\", \"48h\" or \"1h 30m\"";
        let parts = parts(text).ok_or_else(|| error(form.to_owned()))?;
        let mut milliseconds = 0.0;
        for (number, unit) in parts {
            let lower = unit.to_ascii_lowercase();
            let short = TIME_NAMES.iter().find(|(name, _)| *name == lower).map_or(lower.as_str(), |(_, short)| short);
            let Some((_, factor)) = TIMES.iter().find(|(name, _)| *name == short) else {
                let why = if unit.is_empty() { "a unit is missing".to_owned() } else { format!("{unit:?} is no unit") };
                return Err(error(format!("{why}: use ms, s, m, h or d")));
            };
            milliseconds += number * *factor as f64;
        }
        // A hundred years: longer waits are slips of the keyboard, and dates stay in range.
        if milliseconds > 100.0 * 366.0 * 86_400_000.0 {
            return Err(error("it is longer than 100 years".to_owned()));
        }
        Ok(Self(Duration::from_millis(milliseconds.round() as u64)))
    }
}

impl FromStr for Size {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let error = |why: String| NotAQuantity { text: text.chars().take(60).collect(), what: "a size", why };
        let form = "write for example \"256 MiB\", \"1 TiB\" or a number of bytes";
        let found = parts(text).ok_or_else(|| error(form.to_owned()))?;
        let [(number, unit)] = found[..] else { return Err(error(form.to_owned())) };
        let unit = if unit.is_empty() { "B" } else { unit };
        let Some((_, factor)) = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
            return Err(error(format!("{unit:?} is no unit: use B, KiB, MiB, GiB, TiB, or kB, MB, GB, TB")));
        };
        let bytes = number * *factor as f64;
        if bytes >= u64::MAX as f64 {
            return Err(error("it is more than 16 EiB".to_owned()));
        }
        Ok(Self(bytes.round() as u64))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if milliseconds == 0 {
            return f.write_str("0s");
        }
        let (unit, factor) =
            TIMES.iter().find(|(_, factor)| milliseconds.is_multiple_of(*factor)).unwrap_or(&("ms", 1));
        write!(f, "{}{unit}", milliseconds / factor)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u64)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        let (unit, factor) = SIZES[..6].iter().find(fits).unwrap_or(&("B", 1));
        write!(f, "{} {unit}", self.0 / factor)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct SpanVisitor;

impl Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"5m\", or a number of seconds")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Span, E> {
        format!("{seconds}s").parse().map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Span, E> {
        format!("{seconds}s").parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SpanVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"256 MiB\", or a number of bytes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number"], "format": "span", "minimum": 0 })
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "format": "size", "minimum": 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in
            [("30s", 30.0), ("5m", 300.0), ("48h", 172_800.0), ("1h 30m", 5_400.0), ("2 days", 172_800.0)]
                .into_iter()
                .chain([("1.5s", 1.5), ("250ms", 0.25), ("1 Hour", 3_600.0), ("0s", 0.0)])
        {
            let span: Span = text.parse().unwrap();
            assert!((span.0.as_secs_f64() - seconds).abs() < 1e-9, "{text}");
        }
        for bad in ["", "5", "5 parsecs", "m", "-5m", "1e9s", "5m later", "1000000d"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("256 MiB", 256 << 20), ("1TiB", 1 << 40), ("64 MB", 64_000_000), ("12", 12), ("1.5 kib", 1536)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "MiB", "5 m", "-1", "1 GiB 5 MiB", "99999 PiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        for milliseconds in [0, 1, 999, 1_000, 90_000, 3_600_000, 172_800_000] {
            let span = Span(Duration::from_millis(milliseconds));
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        for bytes in [0, 1, 1023, 1024, 256 << 20, (1 << 40) + 1] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
        assert_eq!(serde_json::from_str::<Span>("90").unwrap(), Span::seconds(90));
        assert_eq!(serde_json::from_str::<Size>("90").unwrap(), Size(90));
    }
}
