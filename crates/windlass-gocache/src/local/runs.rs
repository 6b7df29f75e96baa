//! What the last runs were like.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::LocalStore;

/// The history begins anew when it is longer; the one before it is kept.
const LONGEST: u64 = 1 << 20;

/// How one run of the program ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// `go` said close.
    #[default]
    Closed,
    /// The input ended without it, as it does with `go list`.
    InputEnded,
    /// SIGTERM.
    Terminated,
    /// The input could not be understood.
    Broken,
}

/// What one run of the program was asked, and how it answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// When it began.
    pub began: Option<Timestamp>,
    /// How long it took, up to the last request.
    pub milliseconds: u64,
    /// How it ended.
    pub end: End,
    /// Gets.
    pub gets: u64,
    /// Gets that the folder answered.
    pub local_hits: u64,
    /// Gets that the remote answered.
    pub remote_hits: u64,
    /// Gets that nobody could answer.
    pub misses: u64,
    /// Entries that were found damaged, and dropped.
    pub damaged: u64,
    /// Outputs that were hashed before they were given out.
    pub confirmed: u64,
    /// Puts that were stored.
    pub puts: u64,
    /// Their bytes.
    pub put_bytes: u64,
    /// Puts whose output was there already.
    pub deduplicated: u64,
    /// Puts that went to the spare folder, because the folder could not take them.
    pub spared: u64,
    /// Puts that failed, and requests that made no sense.
    pub failed: u64,
    /// How long gets waited on the remote, added up.
    pub remote_wait_ms: u64,
    /// The longest of these waits.
    pub remote_slowest_ms: u64,
    /// Uploads that were not finished at the end, and are left to the next run.
    pub uploads_left: u64,
    /// What the remote counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<serde_json::Value>,
}

impl LocalStore {
    /// Adds a run to the history.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn add_run(&self, run: &Run) -> io::Result<()> {
        let path = self.state().join("runs.jsonl");
        let mut line = serde_json::to_vec(run)?;
        line.push(b'\n');
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path)?;
        // One write: lines of several processes do not mix.
        file.write_all(&line)?;
        if file.metadata()?.len() > LONGEST {
            fs::rename(&path, self.state().join("runs.before.jsonl"))?;
        }
        Ok(())
    }

    /// The last runs, oldest first.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn runs(&self, most: usize) -> io::Result<Vec<Run>> {
        let mut runs = Vec::new();
        for name in ["runs.before.jsonl", "runs.jsonl"] {
            let mut file = match fs::File::open(self.state().join(name)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(2 * LONGEST)))?;
            let mut text = Vec::new();
            file.take(2 * LONGEST).read_to_end(&mut text)?;
            // A line that was cut when the machine died is left out.
            runs.extend(text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Run>(line).ok()));
        }
        let surplus = runs.len().saturating_sub(most);
        runs.drain(..surplus);
        Ok(runs)
    }
}
