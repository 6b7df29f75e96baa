//! Sorts any number of (id, value) pairs in bounded memory, by runs in a work directory.
//!
//! Pairs are collected in one arena and sorted by eight bytes of their ids, taken after what all ids of the run
//! have in common, so that ids like `vec-0000000017` are told apart by their digits and not by full comparisons.
//! A full arena is written as a run, by a thread of its own while the next one fills; runs are merged by a tree of
//! losers on the same kind of key. Of several pairs with one id the last one pushed is kept.
//!
//! A record in memory is the id's length (u32, big-endian), the id, and the value (u64, big-endian): the very bytes
//! that the checksums of a backup are defined over. On disk both numbers are LEB128, seven bits to a byte, because
//! writing runs costs more than anything else here.

mod batch;
mod merge;
mod run;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::batch::Batch;
use self::merge::Merge;
use self::run::{Run, RunWriter};
use self::worker::Worker;
use crate::error::BackupError;
use crate::input::Watch;

/// Length and value around an id.
const FRAME: usize = 12;
const LEAST_BUFFER: usize = 64 * 1024;
/// More files open at once than this, and the process's limit comes into sight.
const MOST_SOURCES: usize = 256;

/// A record: length, id, value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a>(&'a [u8]);

impl<'a> Record<'a> {
    /// A record from its bytes.
    #[cfg(test)]
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The whole record, as `pairs_sha256` wants it.
    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Length and id, as `ids_sha256` wants them.
    pub(crate) fn framed_id(self) -> &'a [u8] {
        &self.0[..self.0.len() - 8]
    }

    pub(crate) fn id(self) -> &'a [u8] {
        &self.0[4..self.0.len() - 8]
    }

    pub(crate) fn value(self) -> u64 {
        u64::from_be_bytes(*self.0.last_chunk().expect("a record ends with its value"))
    }
}

/// Eight bytes of `id` after the first `skipped`, filled up with zeros: orders as the ids do where it differs.
fn key_of(id: &[u8], skipped: usize) -> u64 {
    let rest = id.get(skipped..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(&bytes) => u64::from_be_bytes(bytes),
        None => rest.iter().rev().fold(0, |key, &byte| (key >> 8) | u64::from(byte) << 56),
    }
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Takes pairs in any order.
pub(crate) struct Sorter<'w> {
    folder: &'w Path,
    name: &'static str,
    watch: &'w Arc<Watch>,
    memory: usize,
    batch: Batch,
    /// There from the first run on.
    worker: Option<Worker>,
    runs: Vec<Run>,
    made: usize,
}

impl<'w> Sorter<'w> {
    /// Sorts in about `memory` bytes, with files named after `name` in `folder`.
    pub(crate) fn new(folder: &'w Path, name: &'static str, memory: usize, watch: &'w Arc<Watch>) -> Self {
        let memory = memory.clamp(1 << 20, 1 << 31);
        Self { folder, name, watch, memory, batch: Batch::default(), worker: None, runs: Vec::new(), made: 0 }
    }

    /// Adds a pair; of equal ids the last one counts.
    #[inline]
    pub(crate) fn push(&mut self, id: &[u8], value: u64) -> Result<(), BackupError> {
        if self.batch.bytes_with(id.len()) > self.run_memory() && !self.batch.is_empty() {
            self.spill()?;
        }
        self.batch.push(id, value);
        Ok(())
    }

    /// Bytes that the next run may take: small while there are few runs, so that the arena, which is read in
    /// random order when it is written out, stays in the processor's cache; doubled as they become many, so that
    /// one merge still takes them all. At most half of the memory, because one is filled while one is sorted.
    #[inline]
    fn run_memory(&self) -> usize {
        const FIRST_RUNS: usize = 4 << 20;
        (self.memory / 2).min(FIRST_RUNS << (self.made / 64).min(16))
    }

    /// Ends the input and gives the pairs in the order of their ids.
    pub(crate) fn finish(mut self) -> Result<Sorted<'w>, BackupError> {
        let mut batch = std::mem::take(&mut self.batch);
        if self.made == 0 {
            batch.sort();
            return Ok(Sorted::Memory { batch, next: 0 });
        }
        // The last run is written here, beside the one before it.
        let path = self.next_path();
        let last = batch.write(path, self.watch)?;
        self.await_worker()?;
        self.runs.push(last);
        // Give all arenas back before the merge takes its buffers.
        drop(batch);
        self.batch = Batch::default();
        self.worker = None;
        while !self.fits_one_merge() {
            self.merge_some()?;
        }
        Ok(Sorted::Merge(Box::new(Merge::open(std::mem::take(&mut self.runs), self.watch)?)))
    }

    /// Has the batch made into a run, and goes on with an empty one.
    #[cold]
    fn spill(&mut self) -> Result<(), BackupError> {
        let path = self.next_path();
        if self.worker.is_none() {
            // Where no thread is to be had, the work is done here.
            self.worker = Worker::start(Arc::clone(self.watch)).ok();
        }
        let mut full = std::mem::take(&mut self.batch);
        self.await_worker()?;
        if let Some(worker) = &mut self.worker {
            worker.give(full, path);
        } else {
            self.runs.push(full.write(path, self.watch)?);
            self.batch = full;
        }
        Ok(())
    }

    /// Takes what the worker has made, in the order of the runs, and its batch.
    fn await_worker(&mut self) -> Result<(), BackupError> {
        if let Some((run, empty)) = self.worker.as_mut().map(Worker::take).transpose()?.flatten() {
            self.runs.push(run);
            self.batch = empty;
        }
        Ok(())
    }

    fn next_path(&mut self) -> PathBuf {
        self.made += 1;
        self.folder.join(format!("{}-{:05}.run", self.name, self.made))
    }

    fn fits_one_merge(&self) -> bool {
        let buffers: usize = self.runs.iter().map(Run::buffer).sum();
        self.runs.len() <= 2 || (self.runs.len() <= MOST_SOURCES && buffers <= self.memory)
    }

    /// One pass over all runs: merges as many neighbours at a time as memory allows, which keeps the order in
    /// which equal ids were pushed.
    fn merge_some(&mut self) -> Result<(), BackupError> {
        let mut waiting = std::mem::take(&mut self.runs).into_iter().peekable();
        while waiting.peek().is_some() {
            let (mut group, mut buffers) = (Vec::new(), 0);
            while let Some(next) = waiting.peek() {
                buffers += next.buffer();
                if group.len() >= 2 && (buffers > self.memory || group.len() == MOST_SOURCES) {
                    break;
                }
                group.extend(waiting.next());
            }
            if group.len() == 1 {
                self.runs.append(&mut group);
                continue;
            }
            let mut out = RunWriter::create(self.next_path(), self.watch)?;
            let mut merge = Merge::open(group, self.watch)?;
            let prefix = merge.prefix().to_vec();
            while let Some(record) = merge.next()? {
                out.put(record)?;
            }
            self.runs.push(out.finish(prefix)?);
        }
        Ok(())
    }
}

/// Pairs in the order of their ids, each id once.
pub(crate) enum Sorted<'w> {
    /// All of them fit the memory.
    Memory {
        /// The records, sorted.
        batch: Batch,
        /// The next one to give.
        next: usize,
    },
    /// They come out of runs.
    Merge(Box<Merge<'w>>),
}

impl Sorted<'_> {
    /// The next pair, until the next call.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Record<'_>>, BackupError> {
        match self {
            Self::Memory { batch, next } => {
                *next += 1;
                Ok(batch.get(*next - 1))
            }
            Self::Merge(merge) => merge.next(),
        }
    }
}

#[cfg(test)]
mod tests;
