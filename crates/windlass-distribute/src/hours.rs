//! Hours of the day, on all or some days of the week.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const DAY: i64 = 86_400;

/// A time of the day, to the minute: `01:30`. `24:00` is the end of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    /// Reads `HH:MM`.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (hours, minutes) = text.split_once(':')?;
        let number = |text: &str| {
            let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok()).flatten()
        };
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        (hours < 24 && minutes < 60 || (hours, minutes) == (24, 0)).then_some(Self(60 * hours + minutes))
    }

    fn seconds(self) -> i64 {
        60 * i64::from(self.0)
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl Serialize for TimeOfDay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TimeOfDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::read(&text).ok_or_else(|| {
            serde::de::Error::custom(format!("{text:?} is no time of day: write it as HH:MM, for example 01:30"))
        })
    }
}

impl JsonSchema for TimeOfDay {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TimeOfDay".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$" })
    }
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "seven days that everybody knows")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// Days as 1970 began: on a Thursday.
const SINCE_1970: [Day; 7] = [Day::Thu, Day::Fri, Day::Sat, Day::Sun, Day::Mon, Day::Tue, Day::Wed];

/// From one time of the day to another, by the clock that names the event logs (`tz_offset`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hours {
    /// When it begins.
    pub from: TimeOfDay,
    /// When it is over; not later than `from`: on the next day.
    pub to: TimeOfDay,
    /// The days on which it begins; all days if none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Day>,
}

impl Hours {
    /// Whether a moment lies in it; `local` is in seconds since 1970 by the clock that counts.
    #[must_use]
    pub fn cover(&self, local: i64) -> bool {
        let (from, to) = (self.from.seconds(), self.to.seconds());
        let (day, second) = (local.div_euclid(DAY), local.rem_euclid(DAY));
        let begins = |day: i64| {
            let of_week = SINCE_1970[usize::try_from(day.rem_euclid(7)).unwrap_or(0)];
            self.days.is_empty() || self.days.contains(&of_week)
        };
        if from < to {
            return begins(day) && (from..to).contains(&second);
        }
        (second >= from && begins(day)) || (second < to && begins(day - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(from: &str, to: &str, days: &[Day]) -> Hours {
        Hours { from: TimeOfDay::read(from).unwrap(), to: TimeOfDay::read(to).unwrap(), days: days.to_vec() }
    }

    /// Days and hours since Thursday, the 1st of January 1970.
    fn at(day: i64, hour: i64) -> i64 {
        day * DAY + hour * 3600
    }

    #[test]
    fn a_time_of_day_is_read_to_the_minute_and_comes_back() {
        for good in ["00:00", "01:30", "23:59", "24:00"] {
            assert_eq!(TimeOfDay::read(good).unwrap().to_string(), good);
        }
        for bad in ["", "1:30", "24:01", "25:00", "12:60", "+1:00", "noon", "12:00:00"] {
            assert_eq!(TimeOfDay::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn hours_count_on_their_days_and_across_midnight() {
        let night = hours("22:00", "06:00", &[]);
        assert_eq!(
            [21, 22, 23, 24, 29, 30].map(|hour| night.cover(at(3, hour))),
            [false, true, true, true, true, false]
        );
        let sunday_night = hours("22:00", "06:00", &[Day::Sun]);
        assert!(sunday_night.cover(at(3, 23)) && sunday_night.cover(at(4, 5)), "until Monday morning");
        assert!(!sunday_night.cover(at(3, 5)) && !sunday_night.cover(at(4, 23)));
        let noon = hours("12:00", "13:00", &[Day::Thu]);
        assert!(noon.cover(at(7, 12)) && !noon.cover(at(7, 13)) && !noon.cover(at(8, 12)));
        let whole = hours("00:00", "24:00", &[Day::Fri]);
        assert!(whole.cover(at(1, 0)) && whole.cover(at(2, 0) - 1) && !whole.cover(at(2, 0)));
        let always = hours("05:00", "05:00", &[]);
        assert!((0..24).all(|hour| always.cover(at(-3, hour))), "as long as a day");
    }
}
