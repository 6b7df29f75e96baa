//! Which parts of a growing copy are there: a file beside it that only grows.
//!
//! The first line says what is copied; each entry behind it is a part's number, its hash, and a check of both. Entries
//! are written after the bytes that they tell of are on disk. An end that was torn off by a crash does not fit its
//! check and is dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::tree::{PartHash, Parts};

const ENTRY: usize = 4 + 32 + 4;
/// Longest first line.
const LONGEST_HEAD: usize = 16 << 10;

/// What is copied. Parts of anything else are worth nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Form of this file.
    pub(crate) v: u32,
    /// Bytes of the whole file.
    pub(crate) size: u64,
    /// Bytes of a part.
    pub(crate) part: u64,
    /// The source's version.
    pub(crate) version: String,
}

/// The file, open at its end.
#[derive(Debug)]
pub(crate) struct Sidecar {
    file: File,
}

impl Sidecar {
    /// Opens the file of a copy that goes on, or begins a new one. Gives the parts that it tells of: none of them if
    /// it is of another copy or torn at its beginning.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn open(path: &Path, head: &Head) -> io::Result<(Self, BTreeMap<u64, PartHash>)> {
        let parts = Parts { size: head.size, part: head.part };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        if let Some((found, good)) = entries(&bytes, head, parts) {
            let file = File::options().append(true).open(path)?;
            file.set_len(good as u64)?;
            return Ok((Self { file }, found));
        }
        let mut first = serde_json::to_vec(head).map_err(io::Error::other)?;
        first.push(b' ');
        first.extend_from_slice(hex(check(&first[..first.len() - 1])).as_bytes());
        first.push(b'\n');
        let mut file = File::options().create(true).write(true).truncate(true).open(path)?;
        file.write_all(&first)?;
        Ok((Self { file }, BTreeMap::new()))
    }

    /// Puts parts down whose bytes are on disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn add(&mut self, parts: &[(u64, PartHash)]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(parts.len() * ENTRY);
        for (index, hash) in parts {
            let start = bytes.len();
            bytes.extend_from_slice(&u32::try_from(*index).map_err(io::Error::other)?.to_le_bytes());
            bytes.extend_from_slice(hash);
            let check = check(&bytes[start..]);
            bytes.extend_from_slice(&check);
        }
        self.file.write_all(&bytes)?;
        self.file.sync_data()
    }
}

/// The entries, and how many bytes of the file are good. `None`: it is of another copy.
fn entries(bytes: &[u8], head: &Head, parts: Parts) -> Option<(BTreeMap<u64, PartHash>, usize)> {
    let window = &bytes[..bytes.len().min(LONGEST_HEAD)];
    let end = window.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
    let (json, digits) = line.split_at_checked(end.checked_sub(9)?)?;
    if digits.strip_prefix(b" ")? != hex(check(json)).as_bytes() {
        return None;
    }
    let found: Head = serde_json::from_slice(json).ok()?;
    if found != *head {
        return None;
    }
    let (mut known, mut good) = (BTreeMap::new(), end + 1);
    for entry in rest.chunks_exact(ENTRY) {
        let (data, sum) = entry.split_at(ENTRY - 4);
        let (Ok(number), Ok(hash)) = (data[..4].try_into(), data[4..].try_into()) else { break };
        let index = u64::from(u32::from_le_bytes(number));
        if check(data) != sum || index >= parts.count() {
            break;
        }
        known.insert(index, hash);
        good += ENTRY;
    }
    Some((known, good))
}

fn check(bytes: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(bytes);
    let mut out = [0; 4];
    out.copy_from_slice(&hash.as_bytes()[..4]);
    out
}

fn hex(bytes: [u8; 4]) -> String {
    format!("{:08x}", u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_torn_off_is_dropped_and_the_rest_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parts");
        let head = Head { v: 1, size: 1000, part: 64, version: "3e8-1".to_owned() };
        let (mut sidecar, known) = Sidecar::open(&path, &head).unwrap();
        assert!(known.is_empty());
        sidecar.add(&[(0, [1; 32]), (7, [7; 32])]).unwrap();
        sidecar.add(&[(3, [3; 32])]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (mut sidecar, known) = Sidecar::open(&path, &head).unwrap();
            let expected = if length < first { 0 } else { (length - first) / ENTRY };
            assert_eq!(known.len(), expected, "{length}");
            // What is added behind a torn end is found again.
            sidecar.add(&[(9, [9; 32])]).unwrap();
            let (_, known) = Sidecar::open(&path, &head).unwrap();
            assert_eq!((known.len(), known.get(&9)), (expected + 1, Some(&[9; 32])), "{length}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x20;
            std::fs::write(&path, &damaged).unwrap();
            let (_, known) = Sidecar::open(&path, &head).unwrap();
            assert!(known.len() < 3, "{at}");
        }
        std::fs::write(&path, &whole).unwrap();
        let other = Head { version: "3e8-2".to_owned(), ..head };
        assert!(Sidecar::open(&path, &other).unwrap().1.is_empty(), "another version begins anew");
    }
}
