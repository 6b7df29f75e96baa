//! Keeping the folder within its limits.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use windlass_gocache_remote::OutputId;

use super::find::last_use;
use super::layout::Named;
use super::walk::Seen;
use super::{LocalStore, STAMP_EVERY, Unreadable};

/// How finely uses are told apart when it is decided what has to go.
const GRAIN: u64 = 600;

/// A little more than clocks of files and processes differ by.
const SLACK: Duration = Duration::from_secs(60);

/// A temporary file that nobody has written to for so long belongs to nobody.
const ABANDONED: Duration = Duration::from_secs(2 * 3600);

/// How many files are removed while others have to wait.
const TOGETHER: usize = 64;

/// How much may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes on the disk. When they are exceeded, what was used least recently goes until a tenth is free again.
    pub max_size: u64,
    /// What was not used for so long goes.
    pub max_age: Duration,
    /// What was used so recently stays in any case. Uses are noted once an hour, so it may be up to an hour more.
    pub keep_recent: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let day = 24 * 3600;
        Self { max_size: 10 << 30, max_age: Duration::from_secs(30 * day), keep_recent: Duration::from_secs(3600) }
    }
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Outputs that were removed.
    pub outputs: u64,
    /// Records that were removed, those that pointed to removed outputs among them.
    pub records: u64,
    /// Temporary files of processes that died.
    pub temporaries: u64,
    /// Bytes on the disk that were freed.
    pub freed: u64,
    /// Bytes on the disk that stay.
    pub kept: u64,
    /// By how many bytes that is more than the limit, because everything is in use.
    pub over: u64,
    /// It was stopped before its end; the next one goes on.
    pub stopped: bool,
}

impl LocalStore {
    /// Removes what is over the limits, least recently used first. `None`: another process is doing so.
    ///
    /// Nothing is removed that was used within [`Limits::keep_recent`], or since the oldest living process began.
    /// It may be stopped or killed at any point: each removal stands for itself, and the next one goes on.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn gc(&self, limits: &Limits, stop: &dyn Fn() -> bool) -> io::Result<Option<Collected>> {
        let Some(_held) = self.try_gc_lock()? else { return Ok(None) };
        let now = self.now();
        let mut spared = before(now, limits.keep_recent.saturating_add(STAMP_EVERY).saturating_add(SLACK));
        if let Some(since) = self.oldest_living()? {
            spared = spared.min(before(since, STAMP_EVERY + SLACK));
        }
        let mut total = 0;
        let mut uses: BTreeMap<u64, u64> = BTreeMap::new();
        let mut done = self.walk(&mut |seen| {
            total += seen.cost();
            if let Some(used) = removable(seen) {
                // One place for all that is too old bounds the table, whatever times the files bear.
                let used = used.clamp(before(now, limits.max_age), now);
                *uses.entry(grain(used)).or_default() += seen.cost();
            }
            Ok(!stop())
        })?;
        let cutoff = cutoff(now, limits, total, &uses).min(spared);
        let mut result = Collected::default();
        if done {
            done = self.sweep(cutoff, now, stop, &mut result)? && self.drop_dangling(now, stop, &mut result)?;
        }
        result.kept = total.saturating_sub(result.freed);
        result.over = result.kept.saturating_sub(limits.max_size);
        result.stopped = !done;
        if done {
            // Its time of change says when the last collection came to its end.
            fs::write(self.inner.state.join("gc.done"), b"")?;
        }
        Ok(Some(result))
    }

    /// Whether the last complete collection is longer ago than `interval`.
    #[must_use]
    pub fn gc_is_due(&self, interval: Duration) -> bool {
        let done = fs::metadata(self.inner.state.join("gc.done")).and_then(|file| file.modified());
        match done {
            Ok(done) => self.now().duration_since(done).map_or(true, |age| age >= interval),
            // Never yet: then it is counted from when the folder was made.
            Err(_) => {
                let made = fs::metadata(self.inner.state.join("gc.lock")).and_then(|file| file.modified());
                made.is_ok_and(|made| self.now().duration_since(made).is_ok_and(|age| age >= interval))
            }
        }
    }

    pub(super) fn gc_lock_file(&self) -> io::Result<File> {
        let path = self.inner.state.join("gc.lock");
        fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)
    }

    fn try_gc_lock(&self) -> io::Result<Option<File>> {
        let file = self.gc_lock_file()?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn sweep(
        &self,
        cutoff: SystemTime,
        now: SystemTime,
        stop: &dyn Fn() -> bool,
        result: &mut Collected,
    ) -> io::Result<bool> {
        let abandoned = before(now, ABANDONED);
        let goes = |seen: &Seen| match seen.named {
            Named::Temporary => last_use(&seen.file) < abandoned,
            _ => removable(seen).is_some_and(|used| used < cutoff),
        };
        let mut together = Vec::with_capacity(TOGETHER);
        let done = self.walk(&mut |seen| {
            if goes(seen) {
                together.push((seen.named, seen.path.clone()));
                if together.len() == TOGETHER {
                    self.remove_together(&mut together, &goes, result)?;
                }
            }
            Ok(!stop())
        })?;
        self.remove_together(&mut together, &goes, result)?;
        Ok(done)
    }

    fn remove_together(
        &self,
        together: &mut Vec<(Named, String)>,
        goes: &dyn Fn(&Seen) -> bool,
        result: &mut Collected,
    ) -> io::Result<()> {
        if together.is_empty() {
            return Ok(());
        }
        let _held = self.own_use()?;
        for (named, path) in together.drain(..) {
            // Somebody may have come to use it until the lock was ours.
            let Ok(file) = fs::symlink_metadata(&path) else { continue };
            let seen = Seen { named, path, file };
            if goes(&seen) && remove(&seen.path)? {
                result.freed += seen.cost();
                match named {
                    Named::Output(_) => result.outputs += 1,
                    Named::Action(_) => result.records += 1,
                    _ => result.temporaries += 1,
                }
            }
        }
        Ok(())
    }

    /// Removes records whose outputs are gone, whoever removed those.
    fn drop_dangling(&self, now: SystemTime, stop: &dyn Fn() -> bool, result: &mut Collected) -> io::Result<bool> {
        let settled = before(now, ABANDONED);
        self.walk(&mut |seen| {
            let Named::Action(action) = seen.named else { return Ok(!stop()) };
            let goes = || match self.read_record(&action) {
                // One that was put a moment ago may be about to get its output from the remote.
                Ok(Some((record, used))) => {
                    used < settled && fs::symlink_metadata(self.output_path(&record.entry.output)).is_err()
                }
                Err(Unreadable::Fault(_)) => true,
                Ok(None) | Err(Unreadable::Disk(_)) => false,
            };
            if goes() {
                let _held = self.own_use()?;
                if goes() && remove(&seen.path)? {
                    result.freed += seen.cost();
                    result.records += 1;
                }
            }
            Ok(!stop())
        })
    }
}

/// When something that may be removed was last used.
fn removable(seen: &Seen) -> Option<SystemTime> {
    match seen.named {
        // A quarter of all records point to it, and it costs nothing.
        Named::Output(OutputId::EMPTY) => None,
        Named::Output(_) => Some(last_use(&seen.file)),
        // Its time of access tells nothing: reading it here counts as well.
        Named::Action(_) => seen.file.modified().ok(),
        Named::Temporary | Named::Foreign => None,
    }
}

/// What was last used before this moment has to go.
fn cutoff(now: SystemTime, limits: &Limits, total: u64, uses: &BTreeMap<u64, u64>) -> SystemTime {
    let by_age = before(now, limits.max_age);
    if total <= limits.max_size {
        return by_age;
    }
    let goal = limits.max_size - limits.max_size / 10;
    let mut left = total;
    for (grain, bytes) in uses {
        if left <= goal {
            break;
        }
        left = left.saturating_sub(*bytes);
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs((grain + 1).saturating_mul(GRAIN));
        if left <= goal {
            return end.max(by_age);
        }
    }
    now
}

fn grain(used: SystemTime) -> u64 {
    used.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / GRAIN)
}

/// `span` before `moment`, or the beginning of time.
fn before(moment: SystemTime, span: Duration) -> SystemTime {
    moment.checked_sub(span).map_or(SystemTime::UNIX_EPOCH, |then| then.max(SystemTime::UNIX_EPOCH))
}

pub(super) fn remove(path: &str) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // A folder under the name of a file: not ours to remove.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(false),
        Err(error) => Err(error),
    }
}
