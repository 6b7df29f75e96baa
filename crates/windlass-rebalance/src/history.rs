//! What finished jobs leave for later ones on this machine: when the last one ended, and which ids it moved.
//!
//! ```text
//!   <work directory>/../rebalance-history/<name of the cluster, hashed>/
//!       finished.json                      the end of the last job that moved anything
//!       moved-<unix nanoseconds>.copies    ids that a job moved, sorted, the end of the job as their time
//! ```
//!
//! It serves the cool-down and the hold-off of `deviation` and `manual`, which only keep data from going back and
//! forth; a machine without these files moves an id too early at worst, and loses nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_model::{Digest, Failure, JobId};

/// The last job that moved anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastJob {
    pub(crate) job: JobId,
    pub(crate) finished: Timestamp,
}

/// The history of one cluster on this machine.
#[derive(Clone, Debug)]
pub(crate) struct History {
    folder: PathBuf,
}

impl History {
    /// The history of `cluster` beside the job's `work_dir`.
    pub(crate) fn of(work_dir: &Path, cluster: &str) -> Self {
        let name: String = Digest::of(cluster.as_bytes()).hex().chars().take(16).collect();
        Self { folder: work_dir.parent().unwrap_or(work_dir).join("rebalance-history").join(name) }
    }

    /// The last job that moved anything, as far as this machine knows.
    pub(crate) fn last(&self) -> Option<LastJob> {
        let text = std::fs::read(self.folder.join("finished.json")).ok()?;
        // A torn file means that the machine went down while it was written: as good as none.
        serde_json::from_slice(&text).ok()
    }

    /// How long after `now` the cool-down still lasts, if it does.
    pub(crate) fn cooling(&self, now: Timestamp, cool_down: Duration) -> Option<(LastJob, Duration)> {
        let last = self.last()?;
        let left = cool_down.checked_sub(crate::backups::age(now, last.finished))?;
        (!left.is_zero()).then_some((last, left))
    }

    /// The files of moved ids that are younger than `hold_off`, and the moment from which moves count, in Unix
    /// nanoseconds. Older files are removed.
    pub(crate) fn moved(&self, now: Timestamp, hold_off: Duration) -> (Vec<PathBuf>, i64) {
        let nanoseconds = |at: i128| i64::try_from(at).unwrap_or(i64::MAX);
        let since = nanoseconds(now.as_nanosecond() - i128::try_from(hold_off.as_nanos()).unwrap_or(i128::MAX));
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let at = name
                .to_str()
                .and_then(|name| name.strip_prefix("moved-")?.strip_suffix(".copies")?.parse::<i64>().ok());
            match at {
                Some(at) if at >= since => files.push(entry.path()),
                Some(_) => {
                    let _ = std::fs::remove_file(entry.path());
                }
                None => {}
            }
        }
        files.sort();
        // Sixty-four jobs within the hold-off time is more than the cool-down lets happen; the newest count.
        let surplus = files.len().saturating_sub(64);
        (files.split_off(surplus), since)
    }

    /// Where the ids moved by a job that ended at `finished` go. Makes the folder.
    pub(crate) fn moved_file(&self, finished: Timestamp) -> Result<PathBuf, Failure> {
        std::fs::create_dir_all(&self.folder).map_err(|error| unwritable(&self.folder, &error))?;
        Ok(self.folder.join(format!("moved-{}.copies", finished.as_nanosecond())))
    }

    /// Notes the end of a job.
    pub(crate) fn note(&self, job: JobId, finished: Timestamp) -> Result<(), Failure> {
        std::fs::create_dir_all(&self.folder).map_err(|error| unwritable(&self.folder, &error))?;
        let path = self.folder.join("finished.json");
        let text = serde_json::to_vec(&LastJob { job, finished }).unwrap_or_default();
        let temporary = self.folder.join("finished.json.new");
        std::fs::write(&temporary, text)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|error| unwritable(&path, &error))
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::transient("work_failed", format!("{} cannot be written", path.display()))
        .caused_by(error)
        .hint("check the space and the permissions of the work directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_cool_down_counts_from_the_last_end_and_ends() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::of(&folder.path().join("job"), "prod");
        assert_eq!(history.cooling(at(0), Duration::from_secs(60)), None);
        let job = JobId::from_bits(7);
        history.note(job, at(1_000)).unwrap();
        let (last, left) = history.cooling(at(1_010), Duration::from_secs(60)).unwrap();
        assert_eq!((last.job, left.as_secs()), (job, 50));
        assert_eq!(history.cooling(at(1_060), Duration::from_secs(60)), None);
        let other = History::of(&folder.path().join("job2"), "staging");
        assert_eq!(other.cooling(at(1_010), Duration::from_secs(60)), None);
    }

    #[test]
    fn files_of_moves_that_are_too_old_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::of(&folder.path().join("job"), "prod");
        for second in [100, 200, 300] {
            std::fs::write(history.moved_file(at(second)).unwrap(), b"").unwrap();
        }
        let (files, since) = history.moved(at(310), Duration::from_secs(120));
        assert_eq!(files, [history.moved_file(at(200)).unwrap(), history.moved_file(at(300)).unwrap()]);
        assert_eq!(since, 190_000_000_000);
        assert!(!history.moved_file(at(100)).unwrap().exists());
    }
}
