//! Removing everything.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::LocalStore;
use super::find::last_use;
use super::gc::remove;
use super::layout::Named;

/// What is to be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleaning {
    /// Only what was not used for so long.
    pub older_than: Option<Duration>,
    /// Only say what would be removed.
    pub dry_run: bool,
}

/// What was removed, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleaned {
    /// Outputs.
    pub outputs: u64,
    /// Records of actions.
    pub records: u64,
    /// Temporary files.
    pub temporaries: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// It was stopped before its end.
    pub stopped: bool,
}

impl LocalStore {
    /// Removes outputs and records, whoever uses them. Files that are not ours stay, and so does what the remote keeps
    /// in the folder: its queue, its copy of the index.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn clean(&self, what: &Cleaning, stop: &dyn Fn() -> bool) -> io::Result<Cleaned> {
        let before = what.older_than.map(|age| self.now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH));
        let mut cleaned = Cleaned::default();
        let done = self.walk(&mut |seen| {
            let used = match seen.named {
                Named::Action(_) => seen.file.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                _ => last_use(&seen.file),
            };
            if before.is_some_and(|before| used >= before) {
                return Ok(!stop());
            }
            let gone = if what.dry_run {
                true
            } else {
                // Each for itself, so that nobody waits for long.
                let _held = self.own_use()?;
                remove(&seen.path)?
            };
            if gone {
                cleaned.bytes += seen.cost();
                match seen.named {
                    Named::Output(_) => cleaned.outputs += 1,
                    Named::Action(_) => cleaned.records += 1,
                    Named::Temporary | Named::Foreign => cleaned.temporaries += 1,
                }
            }
            Ok(!stop())
        })?;
        cleaned.stopped = !done;
        if done && !what.dry_run {
            for folder in self.layout().folders().iter().filter(|folder| !folder.is_empty()) {
                // Those that are not empty stay.
                let _ = fs::remove_dir(self.root().join(folder));
            }
        }
        Ok(cleaned)
    }
}
