//! When a log is to be merged: what is known of it, and what follows from that. No input or output but for
//! [`Mark::of`].

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// First and longest pause after a run that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(900);

/// How long the log is, as far as its files say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The newest segment; 0: there is none.
    segment: u64,
    /// Its bytes.
    length: u64,
    /// Bytes of the segments before it.
    before: u64,
}

impl Mark {
    /// Looks at a log's files. What is known saves listing the folder when nothing changed.
    pub(crate) fn of(folder: &Path, known: Option<Self>) -> std::io::Result<Self> {
        let path = |segment: u64| folder.join(format!("{segment:016x}.seg"));
        if let Some(known) = known.filter(|known| known.segment > 0)
            && let Ok(metadata) = std::fs::metadata(path(known.segment))
            && !path(known.segment + 1).exists()
        {
            return Ok(Self { length: metadata.len(), ..known });
        }
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            entries => entries?,
        };
        let (mut mark, mut all) = (Self::default(), 0);
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".seg")) else { continue };
            let Ok(id) = u64::from_str_radix(id, 16) else { continue };
            // Deleted since by a run that trims.
            let Ok(metadata) = entry.metadata() else { continue };
            all += metadata.len();
            if id > mark.segment {
                (mark.segment, mark.length) = (id, metadata.len());
            }
        }
        mark.before = all - mark.length;
        Ok(mark)
    }

    /// Bytes that came since `earlier`; nothing is known when segments went meanwhile.
    fn since(self, earlier: Self) -> Option<u64> {
        (self.before + self.length).checked_sub(earlier.before + earlier.length)
    }
}

/// What reading a log found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Bytes behind the checkpoint.
    pub(crate) bytes: u64,
    /// When the first of them came.
    pub(crate) oldest: Option<Timestamp>,
    /// Whether there is anything but live rows among them.
    pub(crate) urgent: bool,
}

/// When a run is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// So many bytes wait.
    pub(crate) soft_bytes: u64,
    /// A late row has waited so long.
    pub(crate) max_age: Duration,
    /// Live rows have moved the log on for so long.
    pub(crate) checkpoint_every: Duration,
    /// So often what is old enough is archived.
    pub(crate) archive_every: Option<Duration>,
}

/// Why a run is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Much waits.
    Size,
    /// Something has waited long.
    Age,
    /// The log has moved on, with live rows only.
    Checkpoint,
    /// Something may be old enough for the archive.
    Archive,
}

/// A run that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) why: Why,
    pub(crate) archive: bool,
    /// For how long it has been.
    pub(crate) overdue_ms: i64,
}

/// What is known of a log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    mark: Option<Mark>,
    /// What was found when it was read, and how long it was then.
    found: Option<(Found, Mark, Timestamp)>,
    /// When more came than was there when it was read.
    grew: Option<Timestamp>,
    /// When anything came last, as far as is known.
    changed: Option<Timestamp>,
    /// Up to when everything that happened is archived.
    archived_to: Option<Timestamp>,
    archive_begun: Option<Timestamp>,
    /// When live rows began to move the log on.
    quiet_since: Option<Timestamp>,
    failures: u32,
    not_before: Option<Timestamp>,
    trouble: Option<String>,
}

fn passed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

impl Watched {
    pub(crate) fn mark(&self) -> Option<Mark> {
        self.mark
    }

    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// The clock was set, and is so much further than it would be otherwise.
    pub(crate) fn clock_was_set(&mut self, by: SignedDuration) {
        let shift = |at: &mut Timestamp| *at = at.saturating_add(by).unwrap_or(*at);
        if let Some((found, _, at)) = &mut self.found {
            found.oldest.iter_mut().for_each(shift);
            shift(at);
        }
        let moments =
            [&mut self.grew, &mut self.changed, &mut self.archive_begun, &mut self.quiet_since, &mut self.not_before];
        moments.into_iter().flatten().for_each(shift);
    }

    /// Whether everything that came is merged, and known to be.
    pub(crate) fn is_settled(&self) -> bool {
        let empty = self.mark.is_some_and(|mark| mark.segment == 0);
        let merged = self.found.is_some_and(|(found, then, _)| found.bytes == 0 && self.mark == Some(then));
        self.trouble.is_none() && (empty || merged)
    }

    /// Takes in how long the log is now.
    pub(crate) fn see(&mut self, mark: Mark, now: Timestamp) {
        if self.mark == Some(mark) {
            return;
        }
        self.mark = Some(mark);
        self.changed = Some(now);
        match &self.found {
            // Segments went, and what is left is not known.
            Some((_, then, _)) if mark.since(*then).is_none() => self.found = None,
            Some(_) => self.grew = self.grew.or(Some(now)),
            None => {}
        }
    }

    /// Bytes that wait, as far as is known.
    pub(crate) fn pending(&self) -> u64 {
        match (&self.found, self.mark) {
            (Some((found, then, _)), Some(mark)) => found.bytes + mark.since(*then).unwrap_or(0),
            _ => 0,
        }
    }

    /// Since when something waits, as far as is known.
    fn oldest(&self) -> Option<Timestamp> {
        self.found.and_then(|(found, ..)| found.oldest).or(self.grew)
    }

    /// For how many seconds something has waited.
    pub(crate) fn age(&self, now: Timestamp) -> Option<i64> {
        self.oldest().map(|oldest| now.as_second() - oldest.as_second())
    }

    fn rests(&self, now: Timestamp) -> bool {
        self.not_before.is_some_and(|not_before| now < not_before)
    }

    /// Whether it has to be read before it is known what to do.
    pub(crate) fn wants_look(&self, rules: &Rules, now: Timestamp) -> bool {
        let Some(mark) = self.mark else { return false };
        if mark.segment == 0 || self.rests(now) {
            return false;
        }
        let Some((_, then, at)) = &self.found else { return true };
        // It grew, is old enough to be merged for its age, and was not read since.
        let old = self.oldest().is_some_and(|oldest| passed(oldest, now) >= rules.max_age);
        *then != mark && old && passed(*at, now) >= rules.max_age.min(rules.checkpoint_every)
    }

    /// Takes in what reading it found.
    pub(crate) fn found(&mut self, found: Found, now: Timestamp) {
        let Some(mark) = self.mark else { return };
        // What came by a clock that was ahead has waited since it was seen.
        let found = Found { oldest: found.oldest.map(|oldest| oldest.min(now)), ..found };
        self.found = Some((found, mark, now));
        self.grew = None;
        (self.trouble, self.failures, self.not_before) = (None, 0, None);
        self.quiet_since = match found.bytes > 0 && !found.urgent {
            true => self.quiet_since.or(found.oldest).or(Some(now)),
            false => None,
        };
    }

    /// Whether a run is due.
    pub(crate) fn due(&self, rules: &Rules, now: Timestamp) -> Option<Due> {
        if self.rests(now) {
            return None;
        }
        let (found, ..) = self.found?;
        let late = |since: Timestamp, span: Duration| {
            let passed = passed(since, now);
            (passed >= span).then(|| i64::try_from((passed - span).as_millis()).unwrap_or(i64::MAX))
        };
        let archive = rules.archive_every.filter(|_| self.may_archive()).and_then(|every| match self.archive_begun {
            Some(begun) => late(begun, every),
            None => Some(0),
        });
        let pending = self.pending();
        let (why, overdue) = if pending >= rules.soft_bytes {
            // How much too much it is counts like time.
            let part = pending as f64 / rules.soft_bytes.max(1) as f64;
            (Why::Size, rules.max_age.mul_f64(part.min(1000.0)).as_millis().try_into().unwrap_or(i64::MAX))
        } else if let Some(overdue) =
            self.oldest().filter(|_| found.urgent).and_then(|oldest| late(oldest, rules.max_age))
        {
            (Why::Age, overdue)
        } else if let Some(overdue) = archive {
            (Why::Archive, overdue)
        } else if let Some(overdue) = self.quiet_since.and_then(|since| late(since, rules.checkpoint_every)) {
            (Why::Checkpoint, overdue)
        } else {
            return None;
        };
        Some(Due { why, archive: archive.is_some(), overdue_ms: overdue })
    }

    /// Whether there may be rows that are not archived: not when all that came is older than the cutoff.
    fn may_archive(&self) -> bool {
        let Some(changed) = self.changed.filter(|_| self.mark.is_some_and(|mark| mark.segment > 0)) else {
            return false;
        };
        self.archived_to.is_none_or(|to| to <= changed)
    }

    /// A run is about to begin.
    pub(crate) fn begin(&mut self, now: Timestamp) {
        self.archive_begun = Some(now);
    }

    /// A run has succeeded, and has perhaps archived.
    pub(crate) fn succeeded(&mut self, archived_to: Option<Timestamp>) {
        (self.found, self.grew, self.quiet_since) = (None, None, None);
        (self.trouble, self.failures, self.not_before) = (None, 0, None);
        self.archived_to = archived_to.or(self.archived_to);
    }

    /// A run or a look has failed.
    pub(crate) fn failed(&mut self, why: String, now: Timestamp) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures += 1;
        self.trouble = Some(why);
        self.found = None;
        self.not_before = Some(now.saturating_add(pause).unwrap_or(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn rules() -> Rules {
        Rules { soft_bytes: 1000, max_age: 5 * MINUTE, checkpoint_every: 60 * MINUTE, archive_every: None }
    }

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_763_000_000 + minutes * 60).unwrap()
    }

    fn mark(length: u64) -> Mark {
        Mark { segment: 1, length, before: 0 }
    }

    fn found(bytes: u64, oldest: i64, urgent: bool) -> Found {
        Found { bytes, oldest: (bytes > 0).then(|| at(oldest)), urgent }
    }

    #[test]
    fn an_idle_log_is_read_once_and_never_due() {
        let mut log = Watched::default();
        log.see(mark(44), at(0));
        assert!(log.wants_look(&rules(), at(0)));
        log.found(found(0, 0, false), at(0));
        for minute in 0..10_000 {
            log.see(mark(44), at(minute));
            assert!(!log.wants_look(&rules(), at(minute)) && log.due(&rules(), at(minute)).is_none(), "{minute}");
        }
        let mut none = Watched::default();
        none.see(Mark::default(), at(0));
        assert!(!none.wants_look(&rules(), at(0)));
    }

    #[test]
    fn much_that_waits_is_due_without_reading_it() {
        let mut log = Watched::default();
        log.see(mark(44), at(0));
        log.found(found(0, 0, false), at(0));
        log.see(mark(900), at(1));
        assert!(log.due(&rules(), at(1)).is_none() && !log.wants_look(&rules(), at(1)));
        log.see(mark(1100), at(2));
        assert_eq!(log.due(&rules(), at(2)).unwrap().why, Why::Size);
        assert!(!log.wants_look(&rules(), at(2)));
    }

    #[test]
    fn late_rows_are_due_by_their_age_and_live_ones_by_the_checkpoint() {
        let mut log = Watched::default();
        log.see(mark(44), at(0));
        log.found(found(0, 0, false), at(0));
        log.see(mark(100), at(10));
        assert!(!log.wants_look(&rules(), at(14)));
        assert!(log.wants_look(&rules(), at(15)), "what came at ten is five minutes old");
        let mut live = log.clone();
        log.found(found(56, 10, true), at(15));
        assert_eq!(log.due(&rules(), at(15)).unwrap().why, Why::Age);
        live.found(found(56, 10, false), at(15));
        assert!(live.due(&rules(), at(69)).is_none());
        assert_eq!(live.due(&rules(), at(70)).unwrap().why, Why::Checkpoint);
        live.succeeded(None);
        assert!(live.wants_look(&rules(), at(70)) && live.due(&rules(), at(70)).is_none());
    }

    #[test]
    fn archiving_goes_on_until_all_that_came_is_old_enough() {
        let rules = Rules { archive_every: Some(10 * MINUTE), ..rules() };
        let mut log = Watched::default();
        log.see(mark(100), at(0));
        log.found(found(0, 0, false), at(0));
        for (minute, archived_to) in [(0, -60), (10, -50), (60, 0), (70, 10)] {
            let due = log.due(&rules, at(minute)).unwrap();
            assert!(due.archive && due.why == Why::Archive, "{minute}");
            log.begin(at(minute));
            log.succeeded(Some(at(archived_to)));
            log.found(found(0, 0, false), at(minute));
            assert!(log.due(&rules, at(minute + 9)).is_none(), "{minute}");
        }
        assert!(log.due(&rules, at(10_000)).is_none(), "everything is archived");
        log.see(mark(120), at(10_001));
        assert!(log.due(&rules, at(10_001)).unwrap().archive);
    }

    #[test]
    fn what_fails_is_tried_again_more_and_more_slowly() {
        let mut log = Watched::default();
        log.see(mark(100), at(0));
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert!(log.wants_look(&rules(), now));
            log.failed("the disk is full".to_owned(), now);
            let from = now;
            while log.rests(now) {
                now += Duration::from_secs(5);
            }
            pauses.push(passed(from, now).as_secs());
        }
        assert_eq!(pauses, [15, 30, 60, 120, 240, 480, 900, 900, 900]);
        assert_eq!(log.trouble(), Some("the disk is full"));
        log.found(found(0, 0, false), now);
        assert_eq!(log.trouble(), None);
    }

    #[test]
    fn a_clock_that_is_set_makes_nothing_wait_longer_or_shorter() {
        let day = SignedDuration::from_hours(24);
        for (by, minutes) in [(day, 24 * 60), (-day, -24 * 60)] {
            let mut log = Watched::default();
            log.see(mark(100), at(0));
            log.found(found(56, 0, true), at(0));
            log.clock_was_set(by);
            assert!(log.due(&rules(), at(minutes + 4)).is_none(), "{by}");
            assert_eq!(log.due(&rules(), at(minutes + 5)).unwrap().why, Why::Age, "{by}");
            let mut failed = Watched::default();
            failed.see(mark(100), at(0));
            failed.failed("the disk is full".to_owned(), at(0));
            failed.clock_was_set(by);
            assert!(failed.rests(at(minutes)) && !failed.rests(at(minutes + 1)), "{by}");
        }
        // Rows that came before the clock was set back carry its former time.
        let mut log = Watched::default();
        log.see(mark(100), at(0));
        log.found(found(56, 24 * 60, true), at(0));
        assert_eq!(log.due(&rules(), at(5)).unwrap().why, Why::Age);
    }

    #[test]
    fn the_newest_files_say_how_long_a_log_is() {
        let folder = tempfile::tempdir().unwrap();
        let mark = |known| Mark::of(folder.path(), known).unwrap();
        let write = |id: u64, bytes: usize| {
            std::fs::write(folder.path().join(format!("{id:016x}.seg")), vec![0; bytes]).unwrap();
        };
        assert_eq!(mark(None), Mark::default());
        write(9, 100);
        let first = mark(Some(Mark::default()));
        assert_eq!(first, Mark { segment: 9, length: 100, before: 0 });
        write(9, 150);
        assert_eq!(mark(Some(first)).since(first), Some(50));
        write(10, 30);
        let second = mark(Some(first));
        assert_eq!(second, Mark { segment: 10, length: 30, before: 150 });
        assert_eq!(second.since(first), Some(80));
        std::fs::remove_file(folder.path().join(format!("{:016x}.seg", 9))).unwrap();
        write(11, 10);
        assert_eq!(mark(Some(second)).since(second), None);
    }
}
