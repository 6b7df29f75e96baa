//! How much there is.

use std::io;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::find::last_use;
use super::layout::Named;
use super::{LocalStore, Run};

/// What the folder holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// The folder.
    pub root: String,
    /// Outputs.
    pub outputs: u64,
    /// Their bytes.
    pub output_bytes: u64,
    /// Records of actions.
    pub records: u64,
    /// Temporary files.
    pub temporaries: u64,
    /// Bytes on the disk, records and temporary files among them.
    pub disk_bytes: u64,
    /// The use that is longest ago.
    pub oldest_use: Option<Timestamp>,
    /// The latest use.
    pub latest_use: Option<Timestamp>,
    /// The last complete collection.
    pub last_gc: Option<Timestamp>,
    /// The last runs, oldest first.
    pub runs: Vec<Run>,
}

impl LocalStore {
    /// Counts what there is. Goes through the whole folder.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn stats(&self) -> io::Result<Stats> {
        let mut stats = Stats { root: self.root().display().to_string(), ..Stats::default() };
        let (mut oldest, mut latest): (Option<SystemTime>, Option<SystemTime>) = (None, None);
        self.walk(&mut |seen| {
            stats.disk_bytes += seen.cost();
            match seen.named {
                Named::Output(_) => {
                    stats.outputs += 1;
                    stats.output_bytes += seen.file.len();
                    let used = last_use(&seen.file);
                    oldest = Some(oldest.map_or(used, |oldest| oldest.min(used)));
                    latest = Some(latest.map_or(used, |latest| latest.max(used)));
                }
                Named::Action(_) => stats.records += 1,
                Named::Temporary | Named::Foreign => stats.temporaries += 1,
            }
            Ok(true)
        })?;
        let timestamp = |moment: Option<SystemTime>| moment.and_then(|moment| Timestamp::try_from(moment).ok());
        stats.oldest_use = timestamp(oldest);
        stats.latest_use = timestamp(latest);
        stats.last_gc =
            timestamp(std::fs::metadata(self.state().join("gc.done")).and_then(|file| file.modified()).ok());
        stats.runs = self.runs(100)?;
        Ok(stats)
    }
}
