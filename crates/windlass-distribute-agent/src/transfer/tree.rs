//! The checksum of a file whose parts come in any order.
//!
//! BLAKE3 is a tree. A part whose length and place are multiples of the same power of two is a subtree of its own, so
//! each part is hashed while it is written, and the whole file needs only what came out: 32 bytes for each part.

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use windlass_distribute::wire::agent::Checksum;

/// What is kept of a part: of the only one the checksum, of others the value of their subtree.
pub(crate) type PartHash = ChainingValue;

/// How a file is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Bytes of the file.
    pub(crate) size: u64,
    /// Bytes of a part but the last; a power of two.
    pub(crate) part: u64,
}

impl Parts {
    /// How many parts there are.
    #[must_use]
    pub(crate) fn count(&self) -> u64 {
        self.size.div_ceil(self.part)
    }

    /// Where a part begins.
    #[must_use]
    pub(crate) fn start(&self, index: u64) -> u64 {
        index * self.part
    }

    /// Bytes of a part.
    #[must_use]
    pub(crate) fn length(&self, index: u64) -> u64 {
        self.size.saturating_sub(self.start(index)).min(self.part)
    }

    /// Begins to hash a part.
    #[must_use]
    pub(crate) fn hasher(&self, index: u64) -> Hasher {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(self.start(index));
        hasher
    }

    /// Ends the hashing of a part.
    #[must_use]
    pub(crate) fn finish(&self, hasher: &Hasher) -> PartHash {
        if self.count() > 1 { hasher.finalize_non_root() } else { *hasher.finalize().as_bytes() }
    }

    /// The checksum of the file from those of all its parts.
    #[must_use]
    pub(crate) fn checksum(&self, parts: &[PartHash]) -> Checksum {
        match parts {
            [] => Checksum(*blake3::hash(b"").as_bytes()),
            [only] => Checksum(*only),
            _ => {
                let (left, right) = halves(parts);
                Checksum(*merge_subtrees_root(&value(left), &value(right), Mode::Hash).as_bytes())
            }
        }
    }
}

/// The left half is as large as a power of two can be and leaves something to the right one.
fn halves(parts: &[PartHash]) -> (&[PartHash], &[PartHash]) {
    parts.split_at(parts.len().next_power_of_two() / 2)
}

fn value(parts: &[PartHash]) -> ChainingValue {
    match parts {
        [only] => *only,
        _ => {
            let (left, right) = halves(parts);
            merge_subtrees_non_root(&value(left), &value(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_in_any_order_give_the_checksum_of_the_whole() {
        let data: Vec<u8> = (0..1_100_000_u32).map(|n| ((n * 31) >> 3) as u8).collect();
        for size in [0, 1, 1023, 65_535, 65_536, 65_537, 131_072, 196_609, 262_144, 1_000_000, 1_048_576, 1_100_000] {
            let parts = Parts { size: size as u64, part: 65_536 };
            let mut hashes = vec![[0; 32]; parts.count() as usize];
            for index in (0..parts.count()).rev() {
                let start = parts.start(index) as usize;
                let mut hasher = parts.hasher(index);
                for piece in data[start..start + parts.length(index) as usize].chunks(10_000) {
                    hasher.update(piece);
                }
                hashes[index as usize] = parts.finish(&hasher);
            }
            assert_eq!(parts.checksum(&hashes).0, *blake3::hash(&data[..size]).as_bytes(), "{size}");
        }
    }
}
