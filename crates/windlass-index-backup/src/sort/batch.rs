//! Records gathered in memory, to be sorted and written as one run.

use std::path::PathBuf;

use super::run::{Run, RunWriter};
use super::{FRAME, Record, common_prefix, key_of};
use crate::error::BackupError;
use crate::input::Watch;

/// Enough to step over any common beginning that people give their ids.
const LONGEST_PREFIX: usize = 256;

/// Where a record is, and the key it is sorted by: from the top 64 bits of key, 32 of place, 32 of length.
///
/// As one number, slots are compared without a branch; pairs with equal keys stay in the order they came in. The
/// length is there so that nobody waits for the record itself to learn it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot(u128);

impl Slot {
    fn new(at: u32, length: u32) -> Self {
        Self(u128::from(at) << 32 | u128::from(length))
    }

    #[inline]
    fn set_key(&mut self, key: u64) {
        self.0 |= u128::from(key) << 64;
    }

    #[inline]
    fn key(self) -> u64 {
        (self.0 >> 64) as u64
    }

    #[inline]
    fn at(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    fn record(self, arena: &[u8]) -> Record<'_> {
        Record(&arena[self.at() as usize..][..self.0 as u32 as usize])
    }
}

/// Records in one arena, in the order they came in or, once sorted, in that of their ids.
#[derive(Default)]
pub(crate) struct Batch {
    arena: Vec<u8>,
    slots: Vec<Slot>,
    /// What all ids begin with, cut to a few hundred bytes.
    prefix: Vec<u8>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes in use once an id of `id_length` bytes has been added.
    #[inline]
    pub(super) fn bytes_with(&self, id_length: usize) -> usize {
        self.arena.len() + id_length + FRAME + (self.slots.len() + 1) * size_of::<Slot>()
    }

    /// Adds a pair. The caller sees to it that places fit 32 bits.
    #[inline]
    pub(super) fn push(&mut self, id: &[u8], value: u64) {
        if self.slots.is_empty() {
            self.prefix.clear();
            self.prefix.extend_from_slice(&id[..id.len().min(LONGEST_PREFIX)]);
        } else if !id.starts_with(&self.prefix) {
            self.prefix.truncate(common_prefix(id, &self.prefix));
        }
        let at = self.arena.len() as u32;
        self.arena.extend_from_slice(&(id.len() as u32).to_be_bytes());
        self.arena.extend_from_slice(id);
        self.arena.extend_from_slice(&value.to_be_bytes());
        self.slots.push(Slot::new(at, (id.len() + FRAME) as u32));
    }

    /// Sorts by id and keeps the last one pushed of several with one id. To be called once.
    pub(super) fn sort(&mut self) {
        let (arena, skipped) = (self.arena.as_slice(), self.prefix.len());
        for slot in &mut self.slots {
            slot.set_key(key_of(slot.record(arena).id(), skipped));
        }
        self.slots.sort_unstable();
        let id = |slot: &Slot| slot.record(arena).id();
        // Ids that the key does not tell apart, mostly none.
        for same in self.slots.chunk_by_mut(|a, b| a.key() == b.key()).filter(|same| same.len() > 1) {
            same.sort_unstable_by(|a, b| id(a).cmp(id(b)).then_with(|| a.at().cmp(&b.at())));
        }
        // Equal ids are neighbours now, the last one pushed behind the others.
        let mut kept = 0;
        for next in 0..self.slots.len() {
            let slot = self.slots[next];
            if kept > 0 && self.slots[kept - 1].key() == slot.key() && id(&self.slots[kept - 1]) == id(&slot) {
                kept -= 1;
            }
            self.slots[kept] = slot;
            kept += 1;
        }
        self.slots.truncate(kept);
    }

    /// The record number `index`.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<Record<'_>> {
        Some(self.slots.get(index)?.record(&self.arena))
    }

    /// Sorts, writes everything to a new run and leaves the batch empty, with its memory.
    pub(super) fn write(&mut self, path: PathBuf, watch: &Watch) -> Result<Run, BackupError> {
        self.sort();
        let mut out = RunWriter::create(path, watch)?;
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
        out.finish(std::mem::take(&mut self.prefix))
    }
}
