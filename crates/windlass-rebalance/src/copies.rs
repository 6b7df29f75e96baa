//! Sorted files of copies: made from live listings and from moved ids, and handed to the planner.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use windlass_index_backup::{BackupError, CopiesReader, CopiesWriter, Copy};

use crate::calculate::{AgentIndex, BoxError, CopyEntry, CopyLists, Mark, SortedCopies, SortedIds};

/// Bytes per copy besides its id, as the arena of a [`CopySorter`] counts them.
const OVERHEAD: usize = 64;

/// More runs than this are merged before new ones are made, so that few files are open at once.
const MOST_RUNS: usize = 64;

/// Sorts any number of copies in bounded memory, by runs on disk. Of several with one id the newest is kept.
#[derive(Debug)]
pub(crate) struct CopySorter {
    folder: PathBuf,
    memory: usize,
    held: usize,
    copies: Vec<Copy>,
    runs: Vec<PathBuf>,
    made: usize,
}

impl CopySorter {
    /// Sorts in about `memory` bytes, with runs in `folder`, which must exist.
    pub(crate) fn new(folder: &Path, memory: usize) -> Self {
        let memory = memory.max(1 << 20);
        Self { folder: folder.to_owned(), memory, held: 0, copies: Vec::new(), runs: Vec::new(), made: 0 }
    }

    /// Takes one copy.
    pub(crate) fn push(&mut self, copy: Copy) -> Result<(), BackupError> {
        self.held += copy.id.len() + OVERHEAD;
        self.copies.push(copy);
        if self.held >= self.memory { self.spill() } else { Ok(()) }
    }

    fn run_path(&mut self) -> PathBuf {
        self.made += 1;
        self.folder.join(format!("run-{}.copies", self.made))
    }

    fn spill(&mut self) -> Result<(), BackupError> {
        if self.copies.is_empty() {
            return Ok(());
        }
        self.copies.sort_by(|a, b| a.id.cmp(&b.id).then(b.time.cmp(&a.time)));
        self.copies.dedup_by(|later, first| later.id == first.id);
        let path = self.run_path();
        let mut writer = CopiesWriter::create(&path)?;
        for copy in self.copies.drain(..) {
            writer.push(&copy.id, copy.time, copy.number, copy.invalid)?;
        }
        writer.finish()?;
        self.held = 0;
        self.runs.push(path);
        if self.runs.len() >= MOST_RUNS {
            let (runs, path) = (std::mem::take(&mut self.runs), self.run_path());
            merge_into(&runs, &path)?;
            discard(&runs);
            self.runs.push(path);
        }
        Ok(())
    }

    /// Writes all copies to `out`, sorted, and returns their number.
    pub(crate) fn finish(mut self, out: &Path) -> Result<u64, BackupError> {
        self.spill()?;
        let count = merge_into(&self.runs, out)?;
        discard(&self.runs);
        Ok(count)
    }
}

fn discard(runs: &[PathBuf]) {
    for run in runs {
        // The folder goes as a whole in the end; this only gives the space back early.
        let _ = std::fs::remove_file(run);
    }
}

fn merge_into(runs: &[PathBuf], out: &Path) -> Result<u64, BackupError> {
    let mut writer = CopiesWriter::create(out)?;
    let mut merged = MergedCopies::open(runs)?;
    let mut copy = Copy::default();
    while merged.next(&mut copy)? {
        writer.push(&copy.id, copy.time, copy.number, copy.invalid)?;
    }
    writer.finish()
}

/// Several sorted files as one. Few enough that looking at all heads is as fast as a heap.
#[derive(Debug)]
pub(crate) struct MergedCopies {
    heads: Vec<(CopiesReader, Copy)>,
}

impl MergedCopies {
    pub(crate) fn open(files: &[PathBuf]) -> Result<Self, BackupError> {
        let mut heads = Vec::with_capacity(files.len());
        for file in files {
            let mut head = (CopiesReader::open(file)?, Copy::default());
            if head.0.next(&mut head.1)? {
                heads.push(head);
            }
        }
        Ok(Self { heads })
    }

    /// The next id, with the newest of its times.
    pub(crate) fn next(&mut self, into: &mut Copy) -> Result<bool, BackupError> {
        let order = |a: &Copy, b: &Copy| a.id.cmp(&b.id).then(b.time.cmp(&a.time));
        let Some(first) = (0..self.heads.len()).min_by(|&a, &b| order(&self.heads[a].1, &self.heads[b].1)) else {
            return Ok(false);
        };
        into.clone_from(&self.heads[first].1);
        let mut at = 0;
        while at < self.heads.len() {
            let (reader, head) = &mut self.heads[at];
            if head.id.as_slice().cmp(&into.id) == Ordering::Equal && !reader.next(head)? {
                self.heads.swap_remove(at);
            } else {
                at += 1;
            }
        }
        Ok(true)
    }
}

/// The lists of one job, as the planner wants them.
#[derive(Debug)]
pub(crate) struct ScannedCopies {
    /// By the position of the agent in the request; `None` for an agent without a list.
    pub(crate) files: Vec<Option<PathBuf>>,
    /// Files with ids that were moved, their times being those of the moves.
    pub(crate) moved: Vec<PathBuf>,
    /// Moves before this moment count no more, Unix nanoseconds.
    pub(crate) moved_since: i64,
}

impl CopyLists for ScannedCopies {
    fn open(&self, agent: AgentIndex) -> Result<Box<dyn SortedCopies + '_>, BoxError> {
        let reader = match self.files.get(agent.0).and_then(Option::as_ref) {
            Some(file) => Some(CopiesReader::open(file)?),
            None => None,
        };
        Ok(Box::new(OneAgent { reader, copy: Copy::default() }))
    }

    fn open_marked(&self, mark: Mark) -> Result<Option<Box<dyn SortedIds + '_>>, BoxError> {
        if mark != Mark::HeldOff || self.moved.is_empty() {
            return Ok(None);
        }
        let merged = MergedCopies::open(&self.moved)?;
        Ok(Some(Box::new(HeldOff { merged, since: self.moved_since, copy: Copy::default() })))
    }
}

struct OneAgent {
    reader: Option<CopiesReader>,
    copy: Copy,
}

impl SortedCopies for OneAgent {
    fn next(&mut self, into: &mut CopyEntry) -> Result<bool, BoxError> {
        let Some(reader) = &mut self.reader else { return Ok(false) };
        if !reader.next(&mut self.copy)? {
            self.reader = None;
            return Ok(false);
        }
        std::mem::swap(&mut into.id, &mut self.copy.id);
        into.time = self.copy.time;
        into.number = self.copy.number;
        into.invalid = self.copy.invalid;
        Ok(true)
    }
}

struct HeldOff {
    merged: MergedCopies,
    since: i64,
    copy: Copy,
}

impl SortedIds for HeldOff {
    fn next(&mut self, into: &mut Vec<u8>) -> Result<bool, BoxError> {
        while self.merged.next(&mut self.copy)? {
            if self.copy.time >= self.since {
                std::mem::swap(into, &mut self.copy.id);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(id: &str, time: i64) -> Copy {
        Copy { id: id.into(), time, number: 0, invalid: false }
    }

    fn read(path: &Path) -> Vec<(String, i64)> {
        let mut reader = CopiesReader::open(path).unwrap();
        let (mut found, mut copy) = (Vec::new(), Copy::default());
        while reader.next(&mut copy).unwrap() {
            found.push((String::from_utf8(copy.id.clone()).unwrap(), copy.time));
        }
        found
    }

    #[test]
    fn copies_come_out_sorted_with_the_newest_time_of_each_id() {
        let folder = tempfile::tempdir().unwrap();
        let mut sorter = CopySorter::new(folder.path(), 0);
        // Enough for more runs than are kept apart, so that merging in between is seen too.
        for round in 0..70_i64 {
            for n in 0..1_000_u32 {
                let id = format!("{:04}-{}", (n * 7919) % 10_000, "x".repeat(1_000));
                sorter.push(copy(&id, round)).unwrap();
            }
        }
        assert!(sorter.made > MOST_RUNS, "{} runs", sorter.made);
        let out = folder.path().join("out");
        assert_eq!(sorter.finish(&out).unwrap(), 1_000);
        let found = read(&out);
        assert!(found.iter().all(|(_, time)| *time == 69));
        assert!(found.is_sorted());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the runs are gone");
    }

    #[test]
    fn nothing_sorted_is_an_empty_file() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        assert_eq!(CopySorter::new(folder.path(), 0).finish(&out).unwrap(), 0);
        assert_eq!(read(&out), []);
    }

    #[test]
    fn old_moves_hold_nothing_off() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = [[copy("a", 1), copy("b", 5)], [copy("a", 9), copy("c", 2)]]
            .into_iter()
            .enumerate()
            .map(|(n, copies)| {
                let mut sorter = CopySorter::new(folder.path(), 0);
                copies.into_iter().for_each(|copy| sorter.push(copy).unwrap());
                let path = folder.path().join(n.to_string());
                sorter.finish(&path).unwrap();
                path
            })
            .collect();
        let lists = ScannedCopies { files: Vec::new(), moved: files, moved_since: 5 };
        let mut ids = lists.open_marked(Mark::HeldOff).unwrap().unwrap();
        let (mut found, mut id) = (Vec::new(), Vec::new());
        while ids.next(&mut id).unwrap() {
            found.push(String::from_utf8(id.clone()).unwrap());
        }
        assert_eq!(found, ["a", "b"]);
        assert!(lists.open_marked(Mark::Conflicting).unwrap().is_none());
    }
}
