//! Days of UTC.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, date};
use serde::{Deserialize, Serialize};

use crate::error::TableError;

/// Microseconds of a day.
pub const MICROS: i64 = 86_400_000_000;

/// A day of UTC, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Day(pub i32);

impl Day {
    /// The day of a moment in microseconds since 1970. Moments that no calendar has go to the first or last day.
    #[must_use]
    pub fn of(micros: i64) -> Self {
        let day = micros.div_euclid(MICROS);
        Self(i32::try_from(day.clamp(LEAST, MOST)).unwrap_or(0))
    }

    /// Whether a moment has a day that can be named.
    #[must_use]
    pub fn can_name(micros: i64) -> bool {
        (LEAST..=MOST).contains(&micros.div_euclid(MICROS))
    }

    /// Its first moment, in microseconds.
    #[must_use]
    pub fn start(self) -> i64 {
        i64::from(self.0) * MICROS
    }
}

/// 0001-01-01 and 9999-12-31.
const LEAST: i64 = -719_162;
const MOST: i64 = 2_932_896;

/// The day of a date.
pub(crate) fn of_date(given: Date) -> Day {
    let days = given.since((jiff::Unit::Day, date(1970, 1, 1))).map_or(0, |span| span.get_days());
    Day(days)
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = jiff::Span::new().try_days(self.0).map_err(|_| fmt::Error)?;
        let day = date(1970, 1, 1).checked_add(span).map_err(|_| fmt::Error)?;
        write!(f, "{day}")
    }
}

impl FromStr for Day {
    type Err = TableError;

    fn from_str(text: &str) -> Result<Self, TableError> {
        let parsed: Date =
            text.parse().map_err(|_| TableError::invalid(format!("{text:?} is no day; write 2025-11-08")))?;
        Ok(of_date(parsed))
    }
}

impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.to_string()
    }
}

impl TryFrom<String> for Day {
    type Error = TableError;

    fn try_from(text: String) -> Result<Self, TableError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_named_as_calendars_do() {
        for (number, name) in [(0, "1970-01-01"), (20_400, "2025-11-08"), (-1, "1969-12-31"), (19_782, "2024-02-29")] {
            assert_eq!(Day(number).to_string(), name);
            assert_eq!(name.parse::<Day>().unwrap(), Day(number));
        }
        assert_eq!(Day::of(-1), Day(-1));
        assert_eq!(Day::of(MICROS), Day(1));
        assert!("2025-02-30".parse::<Day>().is_err());
        assert!(!Day::can_name(i64::MAX) && !Day::can_name(i64::MIN) && Day::can_name(0));
    }
}
