//! Sorted files of records.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use super::{LEAST_BUFFER, Record};
use crate::error::{BackupError, Stage};
use crate::input::Watch;

/// Seven bits to a byte, the lowest first; the last byte has its top bit clear.
#[inline]
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A sorted file of records.
pub(super) struct Run {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    longest: usize,
    /// What all ids of the run begin with, cut to a few hundred bytes.
    pub(super) prefix: Vec<u8>,
}

impl Run {
    /// The buffer that reading this run needs.
    pub(super) fn buffer(&self) -> usize {
        self.longest.max(LEAST_BUFFER)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // The directory is removed as a whole in the end; this only gives the space back early.
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) struct RunWriter<'w> {
    file: File,
    run: Run,
    buffer: Vec<u8>,
    watch: &'w Watch,
}

impl<'w> RunWriter<'w> {
    pub(super) fn create(path: PathBuf, watch: &'w Watch) -> Result<Self, BackupError> {
        let file = File::create(&path).map_err(|error| BackupError::work("create a run of sorted ids", error))?;
        let run = Run { path, bytes: 0, longest: 0, prefix: Vec::new() };
        Ok(Self { file, run, buffer: Vec::with_capacity(2 * LEAST_BUFFER), watch })
    }

    pub(super) fn put(&mut self, record: Record<'_>) -> Result<(), BackupError> {
        let id = record.id();
        // The numbers take at most five and ten bytes.
        if self.buffer.len() + id.len() + 15 > self.buffer.capacity() {
            self.flush()?;
        }
        let before = self.buffer.len();
        put_number(&mut self.buffer, id.len() as u64);
        self.buffer.extend_from_slice(id);
        put_number(&mut self.buffer, record.value());
        let length = self.buffer.len() - before;
        self.run.longest = self.run.longest.max(length);
        self.run.bytes += length as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BackupError> {
        self.watch.check(Stage::Sort, self.run.bytes)?;
        self.file.write_all(&self.buffer).map_err(|error| BackupError::work("write a run of sorted ids", error))?;
        self.buffer.clear();
        Ok(())
    }

    pub(super) fn finish(mut self, prefix: Vec<u8>) -> Result<Run, BackupError> {
        self.flush()?;
        self.run.prefix = prefix;
        Ok(self.run)
    }
}
