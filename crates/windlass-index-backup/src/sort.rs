//! Sorts any number of (id, value) pairs in bounded memory, by runs in a work directory.
//!
//! Pairs are collected in one arena and sorted by eight bytes of their ids, taken after what all ids of the run
//! have in common, so that ids like `vec-0000000017` are told apart by their digits and not by full comparisons.
//! A full arena is written as a run; runs are merged by a tree of losers on the same kind of key. Of several
//! pairs with one id the last one pushed is kept.
//!
//! A record in memory is the id's length (u32, big-endian), the id, and the value (u64, big-endian): the very bytes
//! that the checksums of a backup are defined over. On disk both numbers are LEB128, seven bits to a byte, because
//! writing runs costs more than anything else here.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{BackupError, Stage};
use crate::gob::MAX_ID_BYTES;
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

/// Seven bits to a byte, the lowest first; the last byte has its top bit clear.
#[inline]
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The number that begins at `at`, and where it ends.
#[inline]
fn number_at(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut number = 0;
    // Most lengths take one byte.
    if let Some(&byte) = bytes.get(at)
        && byte < 0x80
    {
        return Some((u64::from(byte), at + 1));
    }
    for (index, &byte) in bytes.get(at..)?.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((number, at + index + 1));
        }
    }
    None
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Where a record is, and the key it is sorted by.
#[derive(Clone, Copy)]
pub(crate) struct Slot {
    key: u64,
    at: u32,
    /// Bytes of the record, so that nobody waits for the record itself to learn them.
    length: u32,
}

impl Slot {
    #[inline]
    fn record(self, arena: &[u8]) -> Record<'_> {
        Record(&arena[self.at as usize..][..self.length as usize])
    }
}

/// A sorted file of records.
struct Run {
    path: PathBuf,
    bytes: u64,
    longest: usize,
    /// What all ids of the run begin with, cut to a few hundred bytes.
    prefix: Vec<u8>,
}

impl Run {
    /// The buffer that reading this run needs.
    fn buffer(&self) -> usize {
        self.longest.max(LEAST_BUFFER)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // The directory is removed as a whole in the end; this only gives the space back early.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes pairs in any order.
pub(crate) struct Sorter<'w> {
    folder: &'w Path,
    name: &'static str,
    watch: &'w Watch,
    memory: usize,
    arena: Vec<u8>,
    slots: Vec<Slot>,
    prefix: Vec<u8>,
    longest: usize,
    runs: Vec<Run>,
    made: usize,
}

impl<'w> Sorter<'w> {
    /// Sorts in about `memory` bytes, with files named after `name` in `folder`.
    pub(crate) fn new(folder: &'w Path, name: &'static str, memory: usize, watch: &'w Watch) -> Self {
        Self {
            folder,
            name,
            watch,
            memory: memory.clamp(1 << 20, 1 << 31),
            arena: Vec::new(),
            slots: Vec::new(),
            prefix: Vec::new(),
            longest: 0,
            runs: Vec::new(),
            made: 0,
        }
    }

    /// Adds a pair; of equal ids the last one counts.
    #[inline]
    pub(crate) fn push(&mut self, id: &[u8], value: u64) -> Result<(), BackupError> {
        let needed = self.arena.len() + id.len() + FRAME + (self.slots.len() + 1) * size_of::<Slot>();
        if needed > self.run_memory() && !self.slots.is_empty() {
            self.spill()?;
        }
        if self.slots.is_empty() {
            /// Enough to step over any common beginning that people give their ids.
            const LONGEST_PREFIX: usize = 256;
            self.prefix.clear();
            self.prefix.extend_from_slice(&id[..id.len().min(LONGEST_PREFIX)]);
            self.longest = 0;
        } else if !id.starts_with(&self.prefix) {
            self.prefix.truncate(common_prefix(id, &self.prefix));
        }
        let at = self.arena.len() as u32;
        self.longest = self.longest.max(id.len() + FRAME);
        self.arena.extend_from_slice(&(id.len() as u32).to_be_bytes());
        self.arena.extend_from_slice(id);
        self.arena.extend_from_slice(&value.to_be_bytes());
        self.slots.push(Slot { key: 0, at, length: (id.len() + FRAME) as u32 });
        Ok(())
    }

    /// Bytes that the next run may take: small while there are few runs, so that the arena, which is read in
    /// random order when it is written out, stays in the processor's cache; doubled as they become many, so that
    /// one merge still takes them all.
    #[inline]
    fn run_memory(&self) -> usize {
        const FIRST_RUNS: usize = 4 << 20;
        self.memory.min(FIRST_RUNS << (self.runs.len() / 64).min(16))
    }

    /// Ends the input and gives the pairs in the order of their ids.
    pub(crate) fn finish(mut self) -> Result<Sorted<'w>, BackupError> {
        if self.runs.is_empty() {
            self.sort_arena();
            return Ok(Sorted::Memory { arena: self.arena, slots: self.slots, next: 0 });
        }
        self.spill()?;
        // Give the arena back before the merge takes its buffers.
        self.arena = Vec::new();
        self.slots = Vec::new();
        while !self.fits_one_merge() {
            self.merge_some()?;
        }
        Ok(Sorted::Merge(Box::new(Merge::open(std::mem::take(&mut self.runs), self.watch)?)))
    }

    fn sort_arena(&mut self) {
        let (arena, skipped) = (self.arena.as_slice(), self.prefix.len());
        for slot in &mut self.slots {
            slot.key = key_of(slot.record(arena).id(), skipped);
        }
        let id = |slot: &Slot| slot.record(arena).id();
        self.slots
            .sort_unstable_by(|a, b| a.key.cmp(&b.key).then_with(|| id(a).cmp(id(b))).then_with(|| a.at.cmp(&b.at)));
        // Equal ids are neighbours now, the last one pushed behind the others.
        let mut kept = 0;
        for next in 0..self.slots.len() {
            let slot = self.slots[next];
            if kept > 0 && self.slots[kept - 1].key == slot.key && id(&self.slots[kept - 1]) == id(&slot) {
                kept -= 1;
            }
            self.slots[kept] = slot;
            kept += 1;
        }
        self.slots.truncate(kept);
    }

    fn spill(&mut self) -> Result<(), BackupError> {
        self.sort_arena();
        let prefix = std::mem::take(&mut self.prefix);
        let mut out = self.begin_run()?;
        // The records lie all over the arena. Touching a few dozen at once lets their cache misses overlap; taken one
        // by one, each copy waits for its own.
        for slots in self.slots.chunks(32) {
            let touched = slots.iter().fold(0, |all, slot| {
                let record = slot.record(&self.arena).bytes();
                all ^ record[0] ^ record[record.len() - 1]
            });
            std::hint::black_box(touched);
            for slot in slots {
                out.put(slot.record(&self.arena))?;
            }
        }
        self.arena.clear();
        self.slots.clear();
        let run = out.finish(prefix)?;
        self.runs.push(run);
        Ok(())
    }

    fn begin_run(&mut self) -> Result<RunWriter<'w>, BackupError> {
        let path = self.folder.join(format!("{}-{:05}.run", self.name, self.made));
        self.made += 1;
        RunWriter::create(path, self.watch)
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
            let mut out = self.begin_run()?;
            let mut merge = Merge::open(group, self.watch)?;
            let prefix = merge.prefix.clone();
            while let Some(record) = merge.next()? {
                out.put(record)?;
            }
            self.runs.push(out.finish(prefix)?);
        }
        Ok(())
    }
}

struct RunWriter<'w> {
    file: File,
    run: Run,
    buffer: Vec<u8>,
    watch: &'w Watch,
}

impl<'w> RunWriter<'w> {
    fn create(path: PathBuf, watch: &'w Watch) -> Result<Self, BackupError> {
        let file = File::create(&path).map_err(|error| BackupError::work("create a run of sorted ids", error))?;
        let run = Run { path, bytes: 0, longest: 0, prefix: Vec::new() };
        Ok(Self { file, run, buffer: Vec::with_capacity(2 * LEAST_BUFFER), watch })
    }

    fn put(&mut self, record: Record<'_>) -> Result<(), BackupError> {
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

    fn finish(mut self, prefix: Vec<u8>) -> Result<Run, BackupError> {
        self.flush()?;
        self.run.prefix = prefix;
        Ok(self.run)
    }
}

/// Pairs in the order of their ids, each id once.
pub(crate) enum Sorted<'w> {
    /// All of them fit the arena.
    Memory {
        /// The records.
        arena: Vec<u8>,
        /// Where they are, in order.
        slots: Vec<Slot>,
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
            Self::Memory { arena, slots, next } => {
                let Some(slot) = slots.get(*next) else { return Ok(None) };
                *next += 1;
                Ok(Some(slot.record(arena)))
            }
            Self::Merge(merge) => merge.next(),
        }
    }
}

/// Where the current record of a source lies in its buffer.
#[derive(Clone, Copy)]
struct Here {
    id: usize,
    id_end: usize,
    value: u64,
    end: usize,
}

/// Reads one run through a window in which the current record always lies whole.
struct Source {
    file: File,
    run: Run,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes still in the file.
    unread: u64,
    here: Option<Here>,
}

impl Source {
    fn open(run: Run) -> Result<Self, BackupError> {
        let file = File::open(&run.path).map_err(|error| BackupError::work("open a run of sorted ids", error))?;
        let (unread, buffer) = (run.bytes, vec![0; run.buffer()]);
        Ok(Self { file, run, buffer, start: 0, end: 0, unread, here: None })
    }

    /// The current id and value; `None` at the end of the run.
    #[inline]
    fn current(&self) -> Option<(&[u8], u64)> {
        self.here.map(|here| (&self.buffer[here.id..here.id_end], here.value))
    }

    #[inline]
    fn locate(&self) -> Option<Here> {
        let bytes = &self.buffer[..self.end];
        let (length, id) = number_at(bytes, self.start)?;
        let id_end = id + length as usize;
        let (value, end) = number_at(bytes, id_end)?;
        Some(Here { id, id_end, value, end })
    }

    /// Steps over the current record and makes sure that the next one is whole.
    #[inline]
    fn advance(&mut self, watch: &Watch) -> Result<(), BackupError> {
        if let Some(here) = self.here {
            self.start = here.end;
        }
        self.here = self.locate();
        if self.here.is_none() && self.unread > 0 {
            self.refill(watch)?;
            self.here = self.locate();
        }
        Ok(())
    }

    #[cold]
    fn refill(&mut self, watch: &Watch) -> Result<(), BackupError> {
        watch.check(Stage::Sort, self.run.bytes - self.unread)?;
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let space = (self.buffer.len() - self.end) as u64;
        let wanted = space.min(self.unread) as usize;
        let into = &mut self.buffer[self.end..self.end + wanted];
        self.file.read_exact(into).map_err(|error| BackupError::work("read a run of sorted ids", error))?;
        self.end += wanted;
        self.unread -= wanted as u64;
        Ok(())
    }
}

/// Merges runs with a tree of losers: each inner node holds the loser of the match below it, so that replacing
/// the winner costs one comparison per level.
pub(crate) struct Merge<'w> {
    sources: Vec<Source>,
    /// Key of each source's current record. An exhausted source has the largest key and loses all ties.
    keys: Vec<u64>,
    losers: Vec<u32>,
    winner: usize,
    prefix: Vec<u8>,
    /// The record handed out last.
    current: Vec<u8>,
    watch: &'w Watch,
}

impl<'w> Merge<'w> {
    fn open(runs: Vec<Run>, watch: &'w Watch) -> Result<Self, BackupError> {
        let mut prefix = runs.first().map(|run| run.prefix.clone()).unwrap_or_default();
        let mut sources = Vec::with_capacity(runs.len());
        for run in runs {
            prefix.truncate(common_prefix(&prefix, &run.prefix));
            let mut source = Source::open(run)?;
            source.advance(watch)?;
            sources.push(source);
        }
        let count = sources.len();
        let mut merge = Self {
            sources,
            keys: vec![u64::MAX; count],
            losers: vec![0; count],
            winner: 0,
            prefix,
            current: Vec::with_capacity(MAX_ID_BYTES.min(256)),
            watch,
        };
        for source in 0..count {
            merge.set_key(source);
        }
        merge.build();
        Ok(merge)
    }

    fn set_key(&mut self, source: usize) {
        self.keys[source] = self.sources[source].current().map_or(u64::MAX, |(id, _)| key_of(id, self.prefix.len()));
    }

    /// Plays all matches once. Leaf `s` sits below inner node `(s + count) / 2`.
    fn build(&mut self) {
        let count = self.sources.len();
        let mut winners = vec![0; 2 * count];
        for (source, slot) in winners[count..].iter_mut().enumerate() {
            *slot = source;
        }
        for node in (1..count).rev() {
            let (left, right) = (winners[2 * node], winners[2 * node + 1]);
            let left_wins = self.before(left, right);
            let (winner, loser) = if left_wins { (left, right) } else { (right, left) };
            winners[node] = winner;
            self.losers[node] = loser as u32;
        }
        self.winner = winners.get(1).copied().unwrap_or(0);
    }

    #[inline]
    fn before(&self, a: usize, b: usize) -> bool {
        let (key_a, key_b) = (self.keys[a], self.keys[b]);
        if key_a == key_b { self.before_in_full(a, b) } else { key_a < key_b }
    }

    /// Equal keys: whole ids decide, then the later run, whose value is the one that counts.
    #[cold]
    fn before_in_full(&self, a: usize, b: usize) -> bool {
        match (self.sources[a].current(), self.sources[b].current()) {
            (Some((id_a, _)), Some((id_b, _))) => id_a.cmp(id_b).then(b.cmp(&a)).is_lt(),
            (in_a, _) => in_a.is_some(),
        }
    }

    /// Steps the winner's source on and finds the next winner.
    #[inline]
    fn replace_winner(&mut self) -> Result<(), BackupError> {
        let count = self.sources.len();
        let mut winner = self.winner;
        self.sources[winner].advance(self.watch)?;
        self.set_key(winner);
        let mut node = (winner + count) / 2;
        while node > 0 {
            let loser = self.losers[node] as usize;
            if self.before(loser, winner) {
                self.losers[node] = winner as u32;
                winner = loser;
            }
            node /= 2;
        }
        self.winner = winner;
        Ok(())
    }

    pub(crate) fn next(&mut self) -> Result<Option<Record<'_>>, BackupError> {
        let Some((id, value)) = self.sources[self.winner].current() else { return Ok(None) };
        self.current.clear();
        self.current.extend_from_slice(&(id.len() as u32).to_be_bytes());
        self.current.extend_from_slice(id);
        self.current.extend_from_slice(&value.to_be_bytes());
        let key = self.keys[self.winner];
        self.replace_winner()?;
        // Older pairs of the same id come right behind.
        while self.keys[self.winner] == key
            && let Some((id, _)) = self.sources[self.winner].current()
            && id == Record(&self.current).id()
        {
            self.replace_winner()?;
        }
        Ok(Some(Record(&self.current)))
    }
}

#[cfg(test)]
mod tests;
