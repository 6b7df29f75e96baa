//! When a file that others write may be read: it is quiet, and did not change while it was read.
//!
//! Sees writes in place, a file renamed over the old one, and delete and create anew, because it looks at the file and
//! not at events. Events only make it look sooner; on mounts that give none, looking is enough.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What tells two states of a file apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    size: u64,
    modified: (i64, i64),
    inode: u64,
    /// Whether the last byte is a line end; so for an empty file.
    ended: bool,
}

impl Sight {
    /// Looks at a file.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let meta = file.metadata()?;
        let mut last = [b'\n'];
        if meta.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            let _ = file.read(&mut last)?;
        }
        let modified = (meta.mtime(), meta.mtime_nsec());
        Ok(Self { size: meta.len(), modified, inode: meta.ino(), ended: last == [b'\n'] })
    }

    fn unchanged(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|meta| {
            meta.len() == self.size && (meta.mtime(), meta.mtime_nsec()) == self.modified && meta.ino() == self.inode
        })
    }
}

/// What a look at the files brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// As they were when they were read last.
    Same,
    /// At least one changed a moment ago; look again after that time.
    Settling(Duration),
    /// Both are quiet and new: read them.
    Ready(Vec<Sight>),
    /// One is not there; what was read before stays.
    Missing(String),
}

/// Files that are read together.
#[derive(Debug)]
pub struct Watched {
    paths: Vec<PathBuf>,
    settle: Duration,
    last: Vec<Sight>,
    since: Duration,
    read: Vec<Sight>,
}

impl Watched {
    /// Watches files that must be quiet for `settle`; five times as long while one ends in the middle of a line.
    #[must_use]
    pub const fn new(paths: Vec<PathBuf>, settle: Duration) -> Self {
        Self { paths, settle, last: Vec::new(), since: Duration::ZERO, read: Vec::new() }
    }

    /// Looks at the files at the monotonic time `now`.
    pub fn look(&mut self, now: Duration) -> Seen {
        let mut sights = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            match Sight::of(path) {
                Ok(sight) => sights.push(sight),
                Err(error) => {
                    self.last.clear();
                    return Seen::Missing(format!(
                        "cannot read {}: {error}; what was read before stays in use",
                        path.display()
                    ));
                }
            }
        }
        if sights == self.read {
            self.last = sights;
            return Seen::Same;
        }
        if sights != self.last {
            self.last = sights;
            self.since = now;
        }
        let ended = self.last.iter().all(|sight| sight.ended);
        let settle = if ended { self.settle } else { self.settle * 5 };
        let due = self.since + settle;
        if now < due { Seen::Settling(due - now) } else { Seen::Ready(self.last.clone()) }
    }

    /// Says that the files were read as `sights` had them. False: they changed meanwhile, and what was read is void.
    #[must_use]
    pub fn was_read(&mut self, sights: Vec<Sight>) -> bool {
        let unchanged = self.paths.iter().zip(&sights).all(|(path, sight)| sight.unchanged(path));
        if unchanged {
            self.read = sights;
        }
        unchanged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_secs(2);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn rig() -> (tempfile::TempDir, PathBuf, Watched) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".grade.info");
        let watched = Watched::new(vec![path.clone()], SETTLE);
        (folder, path, watched)
    }

    fn ready(watched: &mut Watched, now: Duration) -> Vec<Sight> {
        match watched.look(now) {
            Seen::Ready(sights) => sights,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_is_read_once_it_is_quiet_and_then_not_again() {
        let (_folder, path, mut watched) = rig();
        assert!(matches!(watched.look(at(0)), Seen::Missing(_)));
        fs::write(&path, "a\n").unwrap();
        assert_eq!(watched.look(at(1)), Seen::Settling(SETTLE));
        fs::write(&path, "a\nb\n").unwrap();
        assert_eq!(watched.look(at(2)), Seen::Settling(SETTLE), "a slow writer begins the wait anew");
        let sights = ready(&mut watched, at(4));
        assert!(watched.was_read(sights));
        assert_eq!(watched.look(at(5)), Seen::Same);
    }

    #[test]
    fn half_a_line_is_waited_for_longer() {
        let (_folder, path, mut watched) = rig();
        fs::write(&path, "a\nb").unwrap();
        assert_eq!(watched.look(at(0)), Seen::Settling(5 * SETTLE));
        assert!(matches!(watched.look(at(9)), Seen::Settling(_)));
        ready(&mut watched, at(10));
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_was_not_read() {
        let (folder, path, mut watched) = rig();
        fs::write(&path, "a\n").unwrap();
        watched.look(at(0));
        let sights = ready(&mut watched, at(2));
        let fresh = folder.path().join("fresh");
        fs::write(&fresh, "b\n").unwrap();
        fs::rename(&fresh, &path).unwrap();
        assert!(!watched.was_read(sights), "same size, other file");
        assert_eq!(watched.look(at(3)), Seen::Settling(SETTLE), "renamed over: seen");
        let sights = ready(&mut watched, at(5));
        assert!(watched.was_read(sights));
        fs::remove_file(&path).unwrap();
        assert!(matches!(watched.look(at(6)), Seen::Missing(_)));
        fs::write(&path, "c\n").unwrap();
        assert_eq!(watched.look(at(7)), Seen::Settling(SETTLE), "deleted and made anew: seen");
    }
}
