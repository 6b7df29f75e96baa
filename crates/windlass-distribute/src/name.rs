//! Names of files: bytes, each kept once and known by a number.

use std::fmt;

use serde::{Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;

/// The folder on a node in which copies grow before they are published.
pub const GROWING: &[u8] = b"temp.downloaded";

/// Longest legal name, in bytes.
pub const LONGEST: usize = 255;

/// A name's number in a [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u32);

impl FileId {
    /// The number, to index columns with.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The number as it is kept in compact rows.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The id with this number.
    #[must_use]
    pub const fn of(number: u32) -> Self {
        Self(number)
    }
}

/// Why something is no name of a file.
///
/// # Errors
/// The reason, in words that follow "the name".
pub fn legal(name: &[u8]) -> Result<(), &'static str> {
    match name {
        b"" => Err("is empty"),
        b"." | b".." => Err("is a folder's own name"),
        _ if name.len() > LONGEST => Err("is longer than 255 bytes"),
        _ if name == GROWING => Err("is the name of the folder for copies that grow"),
        _ if name.contains(&b'/') => Err("holds a slash"),
        _ if name.iter().any(|byte| *byte < 0x20 || *byte == 0x7f) => Err("holds a control character"),
        _ => Ok(()),
    }
}

/// All names, each once.
///
/// One arena of bytes and one open-addressed table: about 35 bytes for a name besides its own. A name that came once
/// keeps its number for the life of the table.
#[derive(Clone, Debug)]
pub struct Names {
    bytes: Vec<u8>,
    /// Where each name ends in `bytes`.
    ends: Vec<u64>,
    /// Upper half: hash; lower half: number + 1; 0 is free.
    slots: Vec<u64>,
    most: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self::with_limit(100_000_000)
    }
}

impl Names {
    /// A table that takes at most `most` names.
    #[must_use]
    pub fn with_limit(most: usize) -> Self {
        let most = most.min(u32::MAX as usize - 1);
        Self { bytes: Vec::new(), ends: Vec::new(), slots: vec![0; 64], most }
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes that the table takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.bytes.capacity() + 8 * self.ends.capacity() + 8 * self.slots.capacity()
    }

    /// The name with this number; empty for a number of another table.
    #[must_use]
    pub fn get(&self, id: FileId) -> &[u8] {
        let at = id.index();
        let Some(end) = self.ends.get(at) else { return b"" };
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start as usize..*end as usize]
    }

    /// The name as people read it.
    #[must_use]
    pub fn shown(&self, id: FileId) -> Shown<'_> {
        Shown(self.get(id))
    }

    /// The number of a name that came before.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<FileId> {
        let hash = hash(name);
        self.probe(hash, name).ok()
    }

    /// The number of a name, a new one if it comes for the first time. `None`: the table is full.
    pub fn intern(&mut self, name: &[u8]) -> Option<FileId> {
        let hash = hash(name);
        let at = match self.probe(hash, name) {
            Ok(id) => return Some(id),
            Err(at) => at,
        };
        if self.ends.len() >= self.most {
            return None;
        }
        let id = FileId(u32::try_from(self.ends.len()).ok()?);
        self.bytes.extend_from_slice(name);
        self.ends.push(self.bytes.len() as u64);
        self.slots[at] = u64::from(hash) << 32 | u64::from(id.0 + 1);
        if self.ends.len() * 3 > self.slots.len() * 2 {
            self.grow();
        }
        Some(id)
    }

    /// The numbers of many names; as [`Names::intern`] for each of them. `None`: the table is full.
    pub fn intern_all<'n>(&mut self, names: impl IntoIterator<Item = &'n [u8]>, ids: &mut Vec<FileId>) -> Option<()> {
        let mut names = names.into_iter();
        let mut block = Vec::with_capacity(BLOCK);
        loop {
            block.clear();
            block.extend(names.by_ref().take(BLOCK).map(Sought::new));
            if block.is_empty() {
                return Some(());
            }
            self.fetch(&mut block);
            for sought in &block {
                ids.push(match self.at_once(sought) {
                    Some(id) => id,
                    None => self.intern(sought.name)?,
                });
            }
        }
    }

    /// The numbers of many names that came before; as [`Names::find`] for each of them.
    pub fn find_all<'n>(&self, names: impl IntoIterator<Item = &'n [u8]>, ids: &mut Vec<Option<FileId>>) {
        let mut names = names.into_iter();
        let mut block = Vec::with_capacity(BLOCK);
        loop {
            block.clear();
            block.extend(names.by_ref().take(BLOCK).map(Sought::new));
            if block.is_empty() {
                return;
            }
            self.fetch(&mut block);
            ids.extend(block.iter().map(|sought| self.at_once(sought).or_else(|| self.find(sought.name))));
        }
    }

    /// Looks at what has to be looked at for a block of names, before any is compared: the table is far larger than the
    /// processor's caches, and so the waits overlap.
    fn fetch(&self, block: &mut [Sought<'_>]) {
        let mask = self.slots.len() - 1;
        for sought in block.iter_mut() {
            sought.slot = self.slots[sought.hash as usize & mask];
        }
        for sought in block {
            let known = (sought.slot >> 32) as u32 == sought.hash && sought.slot != 0;
            sought.end = if known { self.ends[sought.slot as u32 as usize - 1] } else { 0 };
        }
    }

    /// The number of a name if it is where it was looked for first.
    fn at_once(&self, sought: &Sought<'_>) -> Option<FileId> {
        if sought.end == 0 {
            return None;
        }
        let end = usize::try_from(sought.end).ok()?;
        let start = end.checked_sub(sought.name.len())?;
        let id = FileId((sought.slot as u32).wrapping_sub(1));
        // The bytes alone do not make it: the beginning has to be where the name before ends.
        (self.bytes[start..end] == *sought.name && self.get(id).len() == sought.name.len()).then_some(id)
    }

    /// The number, or the free slot where it belongs.
    fn probe(&self, hash: u32, name: &[u8]) -> Result<FileId, usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                return Err(at);
            }
            if (slot >> 32) as u32 == hash {
                let id = FileId(slot as u32 - 1);
                if self.get(id) == name {
                    return Ok(id);
                }
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let mut slots = vec![0_u64; self.slots.len() * 2];
        let mask = slots.len() - 1;
        for slot in self.slots.iter().filter(|slot| **slot != 0) {
            let mut at = (slot >> 32) as usize & mask;
            while slots[at] != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = *slot;
        }
        self.slots = slots;
    }
}

/// Names that are looked for together.
const BLOCK: usize = 32;

/// A name that is looked for.
struct Sought<'n> {
    name: &'n [u8],
    hash: u32,
    slot: u64,
    end: u64,
}

impl<'n> Sought<'n> {
    fn new(name: &'n [u8]) -> Self {
        Self { name, hash: hash(name), slot: 0, end: 0 }
    }
}

fn hash(name: &[u8]) -> u32 {
    (xxh3_64(name) >> 32) as u32
}

/// A name as people read it: UTF-8 as it is, every other byte and every control character as `\xNN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown<'a>(pub &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for letter in chunk.valid().chars() {
                if letter.is_control() {
                    let mut buffer = [0; 4];
                    for byte in letter.encode_utf8(&mut buffer).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                } else {
                    write!(f, "{letter}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_and_its_bytes() {
        let mut names = Names::default();
        let all: Vec<Vec<u8>> = (0..10_000_u32).map(|n| format!("MV{n}.mpg").into_bytes()).collect();
        let ids: Vec<FileId> = all.iter().map(|name| names.intern(name).unwrap()).collect();
        for (name, id) in all.iter().zip(&ids) {
            assert_eq!(names.intern(name), Some(*id));
            assert_eq!(names.find(name), Some(*id));
            assert_eq!(names.get(*id), &name[..]);
        }
        assert_eq!(names.len(), all.len());
        assert_eq!(names.find(b"other"), None);
    }

    #[test]
    fn many_at_once_are_numbered_as_one_by_one() {
        let all: Vec<Vec<u8>> = (0..5_000_u32).map(|n| format!("M{}V{n}.mpg", n % 7).into_bytes()).collect();
        let (mut one, mut many) = (Names::default(), Names::default());
        // Names that end alike, and the empty one: an end alone does not make a name.
        for name in [&b""[..], b"g", b".mpg", b"V1.mpg"] {
            assert_eq!(one.intern(name), many.intern(name));
        }
        for _ in 0..2 {
            let mut ids = Vec::new();
            many.intern_all(all.iter().map(Vec::as_slice), &mut ids).unwrap();
            let expected: Vec<FileId> = all.iter().map(|name| one.intern(name).unwrap()).collect();
            assert_eq!(ids, expected);
        }
        let mut ids = Vec::new();
        many.intern_all([&b""[..], b"g", b".mpg", b"V1.mpg", b"pg"], &mut ids).unwrap();
        assert_eq!(ids.iter().map(|id| id.number()).collect::<Vec<_>>(), [0, 1, 2, 3, 5_004]);
        let sought = [&b""[..], b"V1.mpg", b"none", b"pg"];
        let mut found = Vec::new();
        many.find_all(sought, &mut found);
        assert_eq!(found, sought.map(|name| many.find(name)));
        let full = Names::with_limit(3).intern_all(all.iter().map(Vec::as_slice), &mut ids);
        assert_eq!(full, None);
    }

    #[test]
    fn a_full_table_takes_no_more_and_still_finds() {
        let mut names = Names::with_limit(2);
        let first = names.intern(b"a").unwrap();
        names.intern(b"").unwrap();
        assert_eq!(names.intern(b"c"), None);
        assert_eq!(names.intern(b"a"), Some(first));
        assert_eq!(names.get(FileId::of(9)), b"");
    }

    #[test]
    fn what_cannot_be_a_file_is_refused_with_the_reason() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", b"a\tb", b"temp.downloaded", &[b'x'; 256]] {
            assert!(legal(bad).is_err(), "{bad:?}");
        }
        for good in [&b"a b#1.mpg"[..], "\u{d55c}.mpg".as_bytes(), b"\xff\xfe", b"...", &[b'x'; 255]] {
            assert!(legal(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn names_that_are_no_text_are_shown_whole() {
        assert_eq!(Shown("\u{d55c} a.mpg".as_bytes()).to_string(), "\u{d55c} a.mpg");
        assert_eq!(Shown(b"a\xff\n").to_string(), "a\\xff\\x0a");
    }
}
