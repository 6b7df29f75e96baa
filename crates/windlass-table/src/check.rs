//! What becomes of a row: the checks of a run, in their order.

use serde::{Deserialize, Serialize};

use crate::batch::micros;
use crate::day::Day;
use crate::definition::Definition;

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It does not say when it happened.
    RejectedNoEventTime,
    /// It lacks a part of its key.
    RejectedNoKey,
    /// Its moment is in no year that can be written.
    RejectedEventTime,
    /// Its day is no longer kept.
    OutOfRetention,
    /// It has not happened yet.
    FromFuture,
    /// It stays in the log until it is archived.
    Live,
    /// Its day is archived.
    Late,
}

impl Verdict {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RejectedNoEventTime => "rejected_no_event_time",
            Self::RejectedNoKey => "rejected_no_key",
            Self::RejectedEventTime => "rejected_event_time",
            Self::OutOfRetention => "out_of_retention",
            Self::FromFuture => "from_future",
            Self::Live => "live",
            Self::Late => "late",
        }
    }
}

/// The rules that rows are checked by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    retention_days: Option<u32>,
    max_future: i64,
}

impl Rules {
    /// Those of a table.
    #[must_use]
    pub fn of(definition: &Definition) -> Self {
        Self { retention_days: definition.retention_days, max_future: micros(definition.max_future_seconds) }
    }

    /// What becomes of a row that arrived at `arrival`; all moments are microseconds since 1970.
    #[must_use]
    pub fn judge(&self, event: Option<i64>, has_key: bool, arrival: i64, cutoff: i64) -> Verdict {
        let Some(event) = event else { return Verdict::RejectedNoEventTime };
        if !has_key {
            return Verdict::RejectedNoKey;
        }
        if !Day::can_name(event) {
            return Verdict::RejectedEventTime;
        }
        let oldest = self.retention_days.map(|days| i64::from(Day::of(arrival).0) - i64::from(days));
        if oldest.is_some_and(|oldest| i64::from(Day::of(event).0) < oldest) {
            return Verdict::OutOfRetention;
        }
        if event > arrival.saturating_add(self.max_future) {
            return Verdict::FromFuture;
        }
        if event >= cutoff { Verdict::Live } else { Verdict::Late }
    }
}

/// How many rows a run saw, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowCounts {
    /// Rows behind the checkpoint.
    pub rows_in: u64,
    /// Rows whose day was archived.
    pub rows_late: u64,
    /// Rows that stay in the log.
    pub rows_live: u64,
    /// Rows that this run archived.
    pub rows_archived: u64,
    /// Rows whose day is no longer kept.
    pub out_of_retention: u64,
    /// Rows that have not happened yet.
    pub from_future: u64,
    /// Rows that do not say when they happened.
    pub rejected_no_event_time: u64,
    /// Rows that lack a part of their key.
    pub rejected_no_key: u64,
    /// Rows of a moment that cannot be written.
    pub rejected_event_time: u64,
    /// Rows older than what is stored, by the version column.
    pub stale: u64,
}

impl RowCounts {
    /// Counts one row behind the checkpoint.
    pub fn count(&mut self, verdict: Verdict) {
        self.rows_in += 1;
        match verdict {
            Verdict::RejectedNoEventTime => self.rejected_no_event_time += 1,
            Verdict::RejectedNoKey => self.rejected_no_key += 1,
            Verdict::RejectedEventTime => self.rejected_event_time += 1,
            Verdict::OutOfRetention => self.out_of_retention += 1,
            Verdict::FromFuture => self.from_future += 1,
            Verdict::Live => self.rows_live += 1,
            Verdict::Late => self.rows_late += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;

    #[test]
    fn the_checks_come_in_their_order() {
        let rules = Rules { retention_days: Some(11), max_future: 0 };
        let now = 100 * DAY + 5;
        let cutoff = 99 * DAY;
        let cases = [
            (None, false, Verdict::RejectedNoEventTime),
            (Some(0), false, Verdict::RejectedNoKey),
            (Some(89 * DAY - 1), true, Verdict::OutOfRetention),
            (Some(89 * DAY), true, Verdict::Late),
            (Some(cutoff - 1), true, Verdict::Late),
            (Some(cutoff), true, Verdict::Live),
            (Some(now), true, Verdict::Live),
            (Some(now + 1), true, Verdict::FromFuture),
            (Some(i64::MAX), true, Verdict::RejectedEventTime),
            (Some(i64::MIN), true, Verdict::RejectedEventTime),
        ];
        for (event, key, expected) in cases {
            assert_eq!(rules.judge(event, key, now, cutoff), expected, "{event:?}");
        }
        let keep_all = Rules { retention_days: None, max_future: 10 };
        assert_eq!(keep_all.judge(Some(-DAY), true, now, cutoff), Verdict::Late);
        assert_eq!(keep_all.judge(Some(now + 10), true, now, cutoff), Verdict::Live);
    }
}
