//! When a standing job is due: at even distances, or by a cron expression in a time zone.
//!
//! Everything here is a function of the schedule and of absolute times; nothing looks at a clock. On a day on which the
//! clocks are put forward, a fixed time in the hour that does not exist is due at the first moment after it; on a day
//! on which they are put back, a fixed time in the hour that comes twice is due the first time only. What is due every
//! few minutes or hours goes by real time through both.

use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Shortest distance between two due times.
const SHORTEST_MS: u64 = 1_000;
/// Longest distance and longest jitter: ten years.
const LONGEST_MS: u64 = 10 * 366 * 86_400_000;
/// Due times later than this were missed. A takeover takes less.
const GRACE_MS: i64 = 60_000;
/// Missed times that are counted one by one; what lies before is passed over.
const COUNTED: usize = 1_000;
/// Most missed runs that are made up for.
pub const MOST_CATCH_UP: u32 = 100;

/// What happens when a run is due while the one before it has not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// The run is left out.
    #[default]
    Skip,
    /// One run waits for the end of the one before it; what is due besides is left out.
    Queue,
    /// The one before it is cancelled, and the run begins when that has ended.
    CancelRunning,
    /// Both run.
    Allow,
}

/// What happens to runs that were due while no process was there to begin them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Misfire {
    /// They are left out.
    Skip,
    /// The last of them is made up for.
    #[default]
    RunOnce,
    /// The last `catch_up` of them are made up for.
    RunAll,
}

/// When a standing job is due. Either `every_ms` or `cron`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Milliseconds between due times, counted from the creation of the standing job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    /// Five fields: minute, hour, day of the month, month, day of the week; a sixth in front of them is the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The time zone of the cron expression, by its IANA name; `None`: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What happens when a run is due while the one before it has not ended.
    #[serde(default)]
    pub overlap: Overlap,
    /// What happens to runs that were due while no process was there.
    #[serde(default)]
    pub misfire: Misfire,
    /// How many missed runs `run-all` makes up for at most.
    #[serde(default = "usual_catch_up")]
    pub catch_up: u32,
    /// Each run begins up to this many milliseconds late, by a fraction of its own that is always the same.
    #[serde(default)]
    pub jitter_ms: u64,
}

fn usual_catch_up() -> u32 {
    10
}

/// A schedule that cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct ScheduleFault {
    /// The field that is wrong.
    pub field: &'static str,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// A schedule that can be kept.
#[derive(Clone, Debug)]
pub struct Timetable {
    rhythm: Rhythm,
    misfire: Misfire,
    catch_up: usize,
    jitter_ms: u64,
}

#[derive(Clone, Debug)]
enum Rhythm {
    Every(i64),
    Cron(Box<Cron>, TimeZone),
}

/// What is due at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Runs to begin now, oldest first.
    pub run: Vec<Timestamp>,
    /// How many were missed and are left out.
    pub left_out: u64,
    /// The next due time after now; `None`: never again.
    pub next: Option<Timestamp>,
}

impl Schedule {
    /// Reads the schedule.
    ///
    /// # Errors
    ///
    /// Every fault.
    pub fn timetable(&self) -> Result<Timetable, Vec<ScheduleFault>> {
        let mut faults = Vec::new();
        let mut fault = |field, why: String| faults.push(ScheduleFault { field, why });
        let zone = match self.time_zone.as_deref() {
            None => Some(TimeZone::UTC),
            Some(name) => TimeZone::get(name).ok(),
        };
        if zone.is_none() {
            let name = self.time_zone.as_deref().unwrap_or_default();
            fault("time_zone", format!("there is no time zone {name:?}; write for example Europe/Berlin or UTC"));
        }
        if self.jitter_ms > LONGEST_MS {
            fault("jitter", "longer than ten years".to_owned());
        }
        if !(1..=MOST_CATCH_UP).contains(&self.catch_up) {
            fault("catch_up", format!("must be from 1 to {MOST_CATCH_UP}, but is {}", self.catch_up));
        }
        let rhythm = match (self.every_ms, &self.cron) {
            (None, None) | (Some(_), Some(_)) => {
                fault("every", "one of `every` (a length of time) and `cron` (an expression) is needed".to_owned());
                None
            }
            (Some(every), None) => {
                if !(SHORTEST_MS..=LONGEST_MS).contains(&every) {
                    fault("every", format!("must be from 1 s to ten years, but is {every} ms"));
                }
                if self.time_zone.is_some() {
                    fault("time_zone", "means something only with `cron`".to_owned());
                }
                i64::try_from(every).ok().filter(|every| *every > 0).map(Rhythm::Every)
            }
            (None, Some(text)) => match parse(text) {
                Ok(cron) => zone.map(|zone| Rhythm::Cron(Box::new(cron), zone)),
                Err(why) => {
                    fault("cron", format!("{text:?} is no cron expression: {why}; write for example \"30 2 * * *\""));
                    None
                }
            },
        };
        match rhythm {
            Some(rhythm) if faults.is_empty() => Ok(Timetable {
                rhythm,
                misfire: self.misfire,
                catch_up: usize::try_from(self.catch_up).unwrap_or(1),
                jitter_ms: self.jitter_ms,
            }),
            _ => Err(faults),
        }
    }
}

fn parse(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    parser.parse(text).map_err(|error| error.to_string())
}

impl Timetable {
    /// The first due time after `after`. `anchor` is the creation of the standing job.
    #[must_use]
    pub fn next(&self, anchor: Timestamp, after: Timestamp) -> Option<Timestamp> {
        match &self.rhythm {
            Rhythm::Every(every) => {
                let passed = after.as_millisecond().saturating_sub(anchor.as_millisecond());
                let steps = passed.div_euclid(*every) + 1;
                let steps = steps.max(1);
                Timestamp::from_millisecond(anchor.as_millisecond().checked_add(steps.checked_mul(*every)?)?).ok()
            }
            Rhythm::Cron(cron, zone) => {
                let found = cron.find_next_occurrence(&after.to_zoned(zone.clone()), false).ok()?;
                Some(found.timestamp()).filter(|found| *found > after)
            }
        }
    }

    /// What is due at `now`, when `next` was the next due time so far.
    #[must_use]
    pub fn due(&self, anchor: Timestamp, next: Timestamp, now: Timestamp) -> Due {
        if next > now {
            return Due { next: Some(next), ..Due::default() };
        }
        let mut missed = std::collections::VecDeque::new();
        let (mut at, mut left_out) = (Some(next), 0);
        let mut counted = 0;
        while let Some(due) = at.filter(|due| *due <= now) {
            missed.push_back(due);
            counted += 1;
            if missed.len() > usize::try_from(MOST_CATCH_UP).unwrap_or(1) + 1 {
                missed.pop_front();
                left_out += 1;
            }
            at = if counted < COUNTED { self.next(anchor, due) } else { self.next(anchor, now) };
        }
        // The last one may be on time; those before it never are.
        let late = |due: &Timestamp| now.as_millisecond().saturating_sub(due.as_millisecond()) > GRACE_MS;
        let on_time: Vec<Timestamp> = missed.iter().filter(|due| !late(due)).copied().collect();
        let mut run: Vec<Timestamp> = missed.iter().filter(|due| late(due)).copied().collect();
        let keep = match self.misfire {
            Misfire::Skip => 0,
            // Being on time makes up for what was missed.
            Misfire::RunOnce => usize::from(on_time.is_empty()),
            Misfire::RunAll => self.catch_up,
        };
        let surplus = run.len().saturating_sub(keep);
        left_out += surplus as u64;
        run.drain(..surplus);
        run.extend(on_time);
        Due { run, left_out, next: at }
    }

    /// How much later than due a run begins: the same for the same run, whoever asks.
    #[must_use]
    pub fn jitter(&self, id: &str, due: Timestamp) -> Duration {
        if self.jitter_ms == 0 {
            return Duration::ZERO;
        }
        let mut hash = Sha256::new();
        hash.update(id);
        hash.update(due.as_millisecond().to_be_bytes());
        let bytes = hash.finalize();
        let mut bits = [0; 8];
        bits.copy_from_slice(&bytes[..8]);
        Duration::from_millis(u64::from_be_bytes(bits) % (self.jitter_ms + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn cron(text: &str, zone: &str) -> Timetable {
        let schedule =
            Schedule { cron: Some(text.into()), time_zone: Some(zone.into()), catch_up: 10, ..Schedule::default() };
        schedule.timetable().unwrap()
    }

    fn every(ms: u64, misfire: Misfire) -> Timetable {
        Schedule { every_ms: Some(ms), misfire, catch_up: 3, ..Schedule::default() }.timetable().unwrap()
    }

    fn follow(table: &Timetable, from: &str, count: usize) -> Vec<String> {
        let mut now = at(from);
        (0..count)
            .map(|_| {
                now = table.next(now, now).unwrap();
                now.to_string()
            })
            .collect()
    }

    #[test]
    fn a_time_that_does_not_exist_is_due_right_after_the_gap_and_one_that_comes_twice_once() {
        let berlin = cron("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            follow(&berlin, "2026-03-27T12:00:00Z", 4),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"]
        );
        assert_eq!(
            follow(&berlin, "2026-10-23T12:00:00Z", 4),
            ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z", "2026-10-27T01:30:00Z"]
        );
        let new_york = cron("30 2 * * *", "America/New_York");
        assert_eq!(follow(&new_york, "2026-03-07T12:00:00Z", 2), ["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"]);
        // Half an hour only.
        let lord_howe = cron("15 2 * * *", "Australia/Lord_Howe");
        assert_eq!(
            follow(&lord_howe, "2026-10-02T15:00:00Z", 3),
            ["2026-10-02T15:45:00Z", "2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"]
        );
    }

    #[test]
    fn what_is_due_every_so_often_goes_by_real_time_through_both() {
        let half_hours = cron("*/30 * * * *", "Europe/Berlin");
        let spring = follow(&half_hours, "2026-03-29T00:00:00Z", 4);
        assert_eq!(
            spring,
            ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:00:00Z"]
        );
        let autumn = follow(&half_hours, "2026-10-24T23:30:00Z", 6);
        assert_eq!(
            autumn,
            [
                "2026-10-25T00:00:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z",
                "2026-10-25T02:30:00Z"
            ]
        );
        let table = every(3_600_000, Misfire::Skip);
        let anchor = at("2026-03-28T23:10:00Z");
        assert_eq!(table.next(anchor, at("2026-03-29T01:10:00Z")), Some(at("2026-03-29T02:10:00Z")));
        assert_eq!(table.next(anchor, at("2026-01-01T00:00:00Z")), Some(at("2026-03-29T00:10:00Z")));
    }

    #[test]
    fn expressions_are_read_in_their_zone() {
        assert_eq!(follow(&cron("0 9 * * MON-FRI", "Asia/Tokyo"), "2026-11-20T12:00:00Z", 1), ["2026-11-23T00:00:00Z"]);
        assert_eq!(
            follow(&cron("0 0 31 * *", "UTC"), "2026-02-01T00:00:00Z", 2),
            ["2026-03-31T00:00:00Z", "2026-05-31T00:00:00Z"]
        );
        assert_eq!(follow(&cron("0 0 29 2 *", "UTC"), "2026-01-01T00:00:00Z", 1), ["2028-02-29T00:00:00Z"]);
        assert_eq!(
            follow(&cron("*/20 * * * * *", "UTC"), "2026-01-01T00:00:00Z", 2),
            ["2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z"]
        );
        assert_eq!(cron("0 0 30 2 *", "UTC").next(at("2026-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z")), None);
    }

    #[test]
    fn faults_are_found_at_once() {
        let faults = |schedule: Schedule| -> Vec<String> {
            schedule.timetable().unwrap_err().iter().map(ToString::to_string).collect()
        };
        let none = faults(Schedule { catch_up: 0, time_zone: Some("Europe/Belrin".into()), ..Schedule::default() });
        assert_eq!(none.len(), 3, "{none:#?}");
        let bad = faults(Schedule { cron: Some("61 * * * *".into()), catch_up: 1, ..Schedule::default() });
        assert!(bad[0].starts_with("cron: \"61 * * * *\" is no cron expression"), "{bad:#?}");
        assert_eq!(faults(Schedule { every_ms: Some(5), catch_up: 1, ..Schedule::default() }).len(), 1);
    }

    #[test]
    fn after_days_without_a_process_the_policy_decides() {
        let anchor = at("2026-11-01T00:00:00Z");
        let (next, now) = (at("2026-11-01T01:00:00Z"), at("2026-11-04T00:30:00Z"));
        let due = |misfire| every(3_600_000, misfire).due(anchor, next, now);
        let after = Some(at("2026-11-04T01:00:00Z"));
        assert_eq!(due(Misfire::Skip), Due { run: vec![], left_out: 72, next: after });
        assert_eq!(due(Misfire::RunOnce), Due { run: vec![at("2026-11-04T00:00:00Z")], left_out: 71, next: after });
        let all = due(Misfire::RunAll);
        assert_eq!((all.run.len(), all.left_out, all.run[2]), (3, 69, at("2026-11-04T00:00:00Z")));
        // One that is on time is no misfire, whatever was missed before it.
        let now = at("2026-11-04T00:00:30Z");
        let due = |misfire| every(3_600_000, misfire).due(anchor, next, now).run;
        assert_eq!(due(Misfire::Skip), [at("2026-11-04T00:00:00Z")]);
        assert_eq!(due(Misfire::RunOnce), [at("2026-11-04T00:00:00Z")]);
        assert_eq!(due(Misfire::RunAll).len(), 4);
        let early = every(3_600_000, Misfire::Skip).due(anchor, next, at("2026-11-01T00:59:59Z"));
        assert_eq!(early, Due { run: vec![], left_out: 0, next: Some(next) });
    }

    #[test]
    fn years_of_missed_seconds_are_passed_over_in_no_time() {
        let table = every(1_000, Misfire::RunAll);
        let anchor = at("2020-01-01T00:00:00Z");
        let due = table.due(anchor, anchor, at("2026-01-01T00:05:00Z"));
        assert_eq!(due.next, Some(at("2026-01-01T00:05:01Z")));
        assert!(due.run.len() <= 3 + 61, "{}", due.run.len());
    }

    #[test]
    fn jitter_is_bounded_and_always_the_same() {
        let table = Schedule { every_ms: Some(60_000), jitter_ms: 5_000, catch_up: 1, ..Schedule::default() }
            .timetable()
            .unwrap();
        let due = at("2026-01-01T00:00:00Z");
        let some: Vec<_> = (0..20).map(|n| table.jitter(&n.to_string(), due)).collect();
        assert!(some.iter().all(|jitter| jitter.as_millis() <= 5_000));
        assert!(some.iter().collect::<std::collections::BTreeSet<_>>().len() > 10);
        assert_eq!(table.jitter("a", due), table.jitter("a", due));
    }
}
