//! A patch in parts, when merging all of it at once would take more memory than there is. All rows of a key are in one
//! part, in their order, so that parts are merged one after the other as if the others were not there.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use arrow_array::ArrayRef;
use arrow_row::{RowConverter, SortField};

use crate::definition::Shape;
use crate::error::{Result, TableError, arrow};
use crate::keys::hash;
use crate::patch::Patch;

/// Memory that reading and writing a day's files takes, whatever is merged into it.
pub const FIXED: u64 = 48 << 20;
/// Memory for each byte of a patch: its rows, their keys, what they hit, and what comes of them.
pub const PER_BYTE: u64 = 8;
/// Bytes of the smallest part.
const LEAST: u64 = 4 << 10;
/// Most parts: each has files that are open at the same time.
const MOST: u64 = 200;
/// For telling the parts of keys.
const SEED: u64 = 0x5851_F42D_4C95_7F2D;

/// How many parts patches of so many bytes are merged in, with this much memory.
pub(crate) fn parts(bytes: u64, memory: u64) -> u64 {
    let at_once = (memory.saturating_sub(FIXED) / PER_BYTE).max(LEAST);
    bytes.div_ceil(at_once).clamp(1, MOST)
}

/// Splits files of patches.
pub(crate) fn split(patches: &[PathBuf], parts: u64, shape: &Shape, folder: &Path) -> Result<Vec<PathBuf>> {
    let fields = shape.primary_key.iter().map(|at| SortField::new(shape.types[*at].arrow())).collect();
    let converter = RowConverter::new(fields).map_err(arrow("prepare for reading keys"))?;
    let count = usize::try_from(parts).unwrap_or(1).max(1);
    let paths: Vec<PathBuf> = (0..count).map(|n| folder.join(format!("part-{n}.patch"))).collect();
    // What an earlier attempt has left there is not part of this one.
    let mut begun = vec![false; count];
    for path in patches {
        let mut file = std::fs::File::open(path).map_err(TableError::disk("open", path))?;
        Patch::read_each(&mut file, shape, |patch| {
            let columns: Vec<ArrayRef> = shape.primary_key.iter().map(|at| patch.column(*at).clone()).collect();
            let encoded = converter.convert_columns(&columns).map_err(arrow("read keys"))?;
            let mut rows = vec![Vec::new(); count];
            for (row, key) in (0_u32..).zip(&encoded) {
                // The low half decides where the key lies in a table of keys.
                let part = (hash(SEED, key.as_ref()) >> 32) % count as u64;
                rows[usize::try_from(part).unwrap_or(0)].push(row);
            }
            for (n, rows) in rows.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
                let mut options = OpenOptions::new();
                options.create(true).write(true).append(begun[n]).truncate(!begun[n]);
                let mut to = options.open(&paths[n]).map_err(TableError::disk("open", &paths[n]))?;
                patch.pick(rows)?.write(&mut to)?;
                begun[n] = true;
            }
            Ok(())
        })?;
    }
    Ok(paths.into_iter().zip(begun).filter_map(|(path, begun)| begun.then_some(path)).collect())
}

/// Bytes of files.
pub(crate) fn bytes(paths: &[PathBuf]) -> Result<u64> {
    let mut all = 0;
    for path in paths {
        all += std::fs::metadata(path).map_err(TableError::disk("look at", path))?.len();
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_needs_more_memory_than_there_is() {
        for memory in [FIXED + (64 << 20), FIXED + (200 << 20)] {
            for bytes in [0, 1, 5 << 20, 100 << 20, 1 << 30] {
                let parts = parts(bytes, memory);
                assert!(FIXED + bytes.div_ceil(parts) * PER_BYTE <= memory, "{bytes} in {parts}");
            }
        }
        assert_eq!(parts(100, 0), 1);
    }
}
