//! The checksums of a backup over its sorted ids: of the ids alone and of ids with their numbers.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{Builder, JoinHandle};

use sha2::{Digest, Sha256};

use crate::sort::Record;

/// How much is gathered before it is hashed here: small enough for the first-level cache, twice.
const GATHERED_HERE: usize = 8 * 1024;
/// How much is gathered before it is handed to the thread.
const GATHERED_APART: usize = 64 * 1024;
/// Blocks that may wait for the thread.
const WAITING: usize = 2;

/// What goes into both hash functions next.
#[derive(Default)]
struct Block {
    ids: Vec<u8>,
    pairs: Vec<u8>,
}

#[derive(Clone, Default)]
struct Hashes {
    ids: Sha256,
    pairs: Sha256,
}

impl Hashes {
    fn add(&mut self, block: &mut Block) {
        self.ids.update(&block.ids);
        self.pairs.update(&block.pairs);
        block.ids.clear();
        block.pairs.clear();
    }

    fn finish(self) -> ([u8; 32], [u8; 32]) {
        (self.ids.finalize().into(), self.pairs.finalize().into())
    }
}

enum Hasher {
    Here(Box<Hashes>),
    Apart(Apart),
}

/// A thread that hashes while its owner merges. It touches nothing but its blocks, so when its owner is dropped it
/// may end a moment later.
struct Apart {
    blocks: SyncSender<Block>,
    empty: Receiver<Block>,
    thread: JoinHandle<Hashes>,
}

impl Apart {
    fn start() -> std::io::Result<Self> {
        let (blocks, to_hash) = sync_channel::<Block>(WAITING);
        // Every block that there is finds room, so handing one back never waits.
        let (give_back, empty) = sync_channel(WAITING + 2);
        let thread = Builder::new().name("windlass-hash".to_owned()).spawn(move || {
            let mut hashes = Hashes::default();
            for mut block in to_hash {
                hashes.add(&mut block);
                if let Err(TrySendError::Full(_)) = give_back.try_send(block) {
                    debug_assert!(false, "there are more blocks than were made");
                }
            }
            hashes
        })?;
        Ok(Self { blocks, empty, thread })
    }

    /// Hands over a block and returns an empty one.
    fn give(&mut self, block: Block) -> Block {
        // Should the thread have panicked, `finish` says so.
        let _ = self.blocks.send(block);
        self.empty.try_recv().unwrap_or_default()
    }

    fn finish(self) -> ([u8; 32], [u8; 32]) {
        drop(self.blocks);
        match self.thread.join() {
            Ok(hashes) => hashes.finish(),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Sums up records that come in the order of their ids.
pub(crate) struct Sums {
    hasher: Hasher,
    block: Block,
    gathered: usize,
    count: u64,
}

impl Sums {
    /// With a thread of its own if there is `much` to do and a thread is to be had.
    pub(crate) fn new(much: bool) -> Self {
        let apart = if much { Apart::start().ok() } else { None };
        let (hasher, gathered) = match apart {
            Some(apart) => (Hasher::Apart(apart), GATHERED_APART),
            None => (Hasher::Here(Box::default()), GATHERED_HERE),
        };
        Self { hasher, block: Block::default(), gathered, count: 0 }
    }

    #[inline]
    pub(crate) fn add(&mut self, record: Record<'_>) {
        self.count += 1;
        self.block.ids.extend_from_slice(record.framed_id());
        self.block.pairs.extend_from_slice(record.bytes());
        if self.block.pairs.len() >= self.gathered {
            self.hand_on();
        }
    }

    #[cold]
    fn hand_on(&mut self) {
        match &mut self.hasher {
            Hasher::Here(hashes) => hashes.add(&mut self.block),
            Hasher::Apart(apart) => self.block = apart.give(std::mem::take(&mut self.block)),
        }
    }

    /// Number of records, `ids_sha256` and `pairs_sha256`.
    pub(crate) fn finish(mut self) -> (u64, [u8; 32], [u8; 32]) {
        self.hand_on();
        let (ids, pairs) = match self.hasher {
            Hasher::Here(hashes) => hashes.finish(),
            Hasher::Apart(apart) => apart.finish(),
        };
        (self.count, ids, pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(much: bool, count: u32) -> (u64, [u8; 32], [u8; 32]) {
        let mut sums = Sums::new(much);
        for number in 0..count {
            let id = number.to_be_bytes();
            let record = [&4u32.to_be_bytes()[..], &id, &u64::from(number).to_be_bytes()].concat();
            sums.add(Record::of(&record));
        }
        sums.finish()
    }

    #[test]
    fn a_thread_of_its_own_makes_the_same_sums() {
        // From none to several times what may wait.
        for count in [0, 1, 4_095, 4_096, 4_097, 100_000] {
            assert_eq!(sums(true, count), sums(false, count), "{count} records");
        }
    }

    #[test]
    fn the_sum_of_nothing_is_that_of_no_bytes() {
        let empty: [u8; 32] = Sha256::digest(b"").into();
        assert_eq!(sums(false, 0), (0, empty, empty));
    }
}
