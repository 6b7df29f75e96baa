//! Blocks of bodies on their way from the reader to the disk.

use std::sync::{Arc, Mutex, PoisonError};

use crate::wire::Block;

/// How many empty blocks are kept for later.
const KEPT: usize = 32;

/// Empty blocks. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Blocks {
    empty: Arc<Mutex<Vec<Block>>>,
}

impl Blocks {
    /// An empty block.
    pub(super) fn take(&self) -> Block {
        self.empty.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Keeps a block for later.
    pub(super) fn give_back(&self, mut block: Block) {
        block.clear();
        let mut empty = self.empty.lock().unwrap_or_else(PoisonError::into_inner);
        if empty.len() < KEPT {
            empty.push(block);
        }
    }
}
