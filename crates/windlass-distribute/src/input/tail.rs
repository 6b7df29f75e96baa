//! Follows the event logs: one file per local day, only new lines, across midnight, rotation and rewriting.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::{Timestamp, tz::TimeZone};

use super::event_log::{Entry, Watched};
use super::hits::Hits;
use super::lines::{Line, Lines};
use super::malformed::Malformed;

/// Most bytes read of one log at once; the rest follows with the next look.
const MOST_AT_ONCE: u64 = 256 << 20;

/// A log that is followed.
#[derive(Clone, Debug)]
struct Followed {
    day: String,
    inode: u64,
    offset: u64,
    /// Lines up to this time were counted before the file was written anew.
    skip_to: i64,
}

/// What a look at the logs brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Requests that were counted.
    pub hits: u64,
    /// Lines ahead of the clock by more than a minute.
    pub ahead: u64,
    /// Lines that the original dies of.
    pub crash: Option<String>,
    /// What people should know, a line each.
    pub notes: Vec<String>,
}

/// Follows the logs of a folder.
#[derive(Clone, Debug)]
pub struct LogTail {
    folder: PathBuf,
    followed: Vec<Followed>,
    /// Takes a last line without a line end too: the folder does not change any more.
    captured: bool,
    /// Lines that could not be used.
    pub malformed: Malformed,
}

impl LogTail {
    /// Follows the logs of `folder` from their first lines.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), followed: Vec::new(), captured: false, malformed: Malformed::default() }
    }

    /// For a folder that does not change any more.
    #[must_use]
    pub fn captured(folder: &Path) -> Self {
        Self { captured: true, ..Self::new(folder) }
    }

    /// Reads what is new in the logs of the days from `now - window` to `now`. A log that does not exist (yet) has
    /// nothing new.
    ///
    /// # Errors
    /// When a log that exists cannot be read.
    pub fn look(
        &mut self,
        hits: &mut Hits,
        watched: &Watched,
        now: i64,
        window: i64,
        tz_offset: i64,
    ) -> Result<Look, TailError> {
        let days = days(now - window, now, tz_offset);
        self.followed.retain(|followed| days.contains(&followed.day));
        let mut look = Look::default();
        for day in &days {
            let path = self.folder.join(format!("EventLog[{day}].log"));
            let fault = |source| TailError { path: path.clone(), source };
            match File::open(&path) {
                Ok(file) => self.follow(day, file, hits, watched, now, &mut look).map_err(fault)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(fault(error)),
            }
        }
        hits.forget_before(now - 2 * window);
        Ok(look)
    }

    fn follow(
        &mut self,
        day: &str,
        mut file: File,
        hits: &mut Hits,
        watched: &Watched,
        now: i64,
        look: &mut Look,
    ) -> io::Result<()> {
        let meta = file.metadata()?;
        let at = match self.followed.iter().position(|followed| followed.day == day) {
            Some(at) => at,
            None => {
                let fresh = Followed { day: day.to_owned(), inode: meta.ino(), offset: 0, skip_to: i64::MIN };
                self.followed.push(fresh);
                self.followed.len() - 1
            }
        };
        let followed = &mut self.followed[at];
        if followed.inode != meta.ino() || meta.len() < followed.offset {
            let how = if followed.inode == meta.ino() { "was cut" } else { "was replaced" };
            look.notes.push(format!(
                "the event log of {day} {how}: what was counted stays, and only lines newer than that count"
            ));
            followed.inode = meta.ino();
            followed.offset = 0;
            followed.skip_to = hits.newest().unwrap_or(i64::MIN);
        }
        file.seek(SeekFrom::Start(followed.offset))?;
        let mut lines = Lines::new(file.take(MOST_AT_ONCE));
        loop {
            let line = match lines.next_line()? {
                None => break,
                Some(Line::Unended(_)) if !self.captured => break,
                Some(Line::TooLong) => {
                    self.malformed.add(0, b"", "is longer than 1 MiB");
                    continue;
                }
                Some(Line::Whole(line) | Line::Unended(line)) => line,
            };
            match watched.read(line) {
                Entry::Hit(time, _) if time <= followed.skip_to => {}
                Entry::Hit(time, file) => {
                    look.ahead += u64::from(time > now + 60);
                    look.hits += 1;
                    // A request of the far future would be kept for as long.
                    if time <= now + 86_400 || watched.is_legacy() {
                        hits.add(time, file);
                    }
                }
                Entry::Other => {}
                Entry::Malformed(why) => self.malformed.add(0, line, why),
                Entry::Crash => {
                    look.crash.get_or_insert_with(|| crate::name::Shown(line).to_string());
                }
            }
        }
        followed.offset += lines.consumed();
        if look.ahead > 0 && look.ahead * 2 > look.hits {
            look.notes.push(format!(
                "{} of {} new requests in the event log lie in the future: the clock of the load balancer or ours is off",
                look.ahead, look.hits
            ));
        }
        Ok(())
    }
}

/// An event log that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the event log {}: {source}; what was counted before stays", path.display())]
pub struct TailError {
    path: PathBuf,
    source: io::Error,
}

/// The local days from one time to another, as they are written in the names of logs.
fn days(from: i64, to: i64, tz_offset: i64) -> Vec<String> {
    let name = |time: i64| {
        let local = Timestamp::from_second(time.saturating_add(tz_offset)).unwrap_or_default();
        local.to_zoned(TimeZone::UTC).strftime("%Y%m%d").to_string()
    };
    let mut days = Vec::new();
    let mut time = from;
    while time < to && days.len() < 400 {
        days.push(name(time));
        time += 86_400;
    }
    days.push(name(to));
    days.dedup();
    days
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::super::catalogue::Reading;
    use super::*;

    const NOW: i64 = 1_767_193_200;

    fn line(time: i64, file: &str) -> String {
        format!("0x40ffff,1,{time},Server 10.0.0.1 Selected for Client StreamID : x, GLB IP : y's file({file}) Request")
    }

    struct Rig {
        folder: tempfile::TempDir,
        tail: LogTail,
        hits: Hits,
        watched: Watched,
    }

    impl Rig {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let tail = LogTail::new(folder.path());
            let watched = Watched::new(&["10.0.0.1".to_owned()], Reading::Product).unwrap();
            Self { folder, tail, hits: Hits::default(), watched }
        }

        fn log(&self, day: &str) -> PathBuf {
            self.folder.path().join(format!("EventLog[{day}].log"))
        }

        fn append(&self, day: &str, text: &str) {
            let mut file = File::options().append(true).create(true).open(self.log(day)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn look(&mut self, now: i64) -> Look {
            self.tail.look(&mut self.hits, &self.watched, now, 600, 0).unwrap()
        }

        fn count(&self, now: i64, file: &str) -> u32 {
            let rising = self.hits.rising(now, 600, 1);
            rising.iter().find(|(name, _)| name == file.as_bytes()).map_or(0, |(_, hits)| *hits)
        }
    }

    #[test]
    fn only_new_and_only_whole_lines_are_read() {
        let mut rig = Rig::new();
        assert_eq!(rig.look(NOW), Look::default(), "no log yet");
        rig.append("20251231", &format!("{}\n{}", line(NOW - 5, "A"), &line(NOW - 4, "A")[..30]));
        assert_eq!(rig.look(NOW).hits, 1);
        assert_eq!(rig.count(NOW, "A"), 1);
        rig.append("20251231", &format!("{}\n", &line(NOW - 4, "A")[30..]));
        assert_eq!(rig.look(NOW).hits, 1);
        assert_eq!(rig.count(NOW, "A"), 2);
        assert_eq!(rig.look(NOW).hits, 0);
    }

    #[test]
    fn midnight_is_crossed() {
        let mut rig = Rig::new();
        let midnight = 1_767_225_600;
        rig.append("20251231", &format!("{}\n", line(midnight - 1, "A")));
        rig.look(midnight - 1);
        rig.append("20251231", &format!("{}\n", line(midnight - 1, "A")));
        rig.append("20260101", &format!("{}\n", line(midnight, "A")));
        rig.look(midnight + 10);
        assert_eq!(rig.count(midnight + 10, "A"), 3);
        assert_eq!(rig.tail.followed.len(), 2);
        rig.look(midnight + 700);
        assert_eq!(rig.tail.followed.len(), 1, "yesterday's log is out of the window");
    }

    #[test]
    fn a_log_that_is_cut_or_replaced_counts_no_line_twice_and_forgets_none() {
        let mut rig = Rig::new();
        let old: String = (0..10).map(|n| format!("{}\n", line(NOW - 100 + n, "A"))).collect();
        rig.append("20251231", &old);
        rig.look(NOW);
        fs::write(rig.log("20251231"), &old[..old.len() / 2]).unwrap();
        let look = rig.look(NOW);
        assert!(look.notes[0].contains("was cut"), "{look:?}");
        assert_eq!(rig.count(NOW, "A"), 10);
        let fresh = rig.folder.path().join("fresh");
        fs::write(&fresh, format!("{old}{}\n", line(NOW - 1, "A"))).unwrap();
        fs::rename(&fresh, rig.log("20251231")).unwrap();
        let look = rig.look(NOW);
        assert!(look.notes[0].contains("was replaced"), "{look:?}");
        assert_eq!(rig.count(NOW, "A"), 11);
        fs::write(rig.log("20251231"), "").unwrap();
        rig.look(NOW);
        assert_eq!(rig.count(NOW, "A"), 11, "an emptied log takes nothing back");
    }

    #[test]
    fn a_clock_that_is_off_is_told() {
        let mut rig = Rig::new();
        rig.append("20251231", &format!("{}\n", line(NOW + 86_000, "A")));
        let look = rig.look(NOW);
        assert!(look.notes[0].contains("lie in the future"), "{look:?}");
        assert_eq!(rig.count(NOW, "A"), 0);
    }

    #[test]
    fn bad_lines_are_counted_and_do_no_harm() {
        let mut rig = Rig::new();
        rig.append("20251231", &format!(",,,\n0x40ffff\n0x40ffff,1,abc,x\n\n{}\n", line(NOW - 1, "A")));
        assert_eq!(rig.look(NOW).hits, 1);
        assert_eq!(rig.tail.malformed.count, 3);
        assert_eq!(rig.tail.malformed.examples[0].text, ",,,");
    }
}
