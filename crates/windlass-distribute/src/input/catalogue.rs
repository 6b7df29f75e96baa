//! The catalogue: which files are known, how good they are, how big, and where viewers are sent.
//!
//! Two files make it. `.grade.info`: a header, then one line per file, best first, columns by TAB, of which the first
//! counts, and the seventh, `TargetCopyCount`, where copies are wished. `.hitcount.history`: a header, then
//! `name,_,_,size,addresses,…`. Or one file does, a document per line: see [`super::documents`].

use std::io::{self, Read};

use super::lines::{Line, Lines};
use super::malformed::Malformed;
use crate::name::{self, FileId, Names};
use crate::settings::Fleet;
use crate::wire::agent::Checksum;

/// The reader of the program before this one gave up at a line of that length, silently.
const LEGACY_LONGEST: usize = 64 * 1024;

/// Whose way of reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// Ours.
    #[default]
    Product,
    /// The original's, mistakes included.
    Legacy,
}

/// The known files. Columns are indexed by [`FileId`]; about 20 bytes a file.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// The file of each rank, beginning with rank 1; [`NO_FILE`] where a line names none.
    pub(super) lines: Vec<u32>,
    /// 0: not in the catalogue.
    pub(super) ranks: Vec<u32>,
    /// -1: unknown.
    pub(super) sizes: Vec<i64>,
    /// Wished copies, 0: no wish; none if nobody wishes any.
    pub(super) wishes: Vec<u8>,
    /// In the order of files; those that are known.
    pub(super) checksums: Vec<(FileId, Checksum)>,
    /// Where a file's claims begin in `claims`; 0: none.
    pub(super) claims_at: Vec<u32>,
    /// A count and so many IPs, for each file with claims.
    pub(super) claims: Vec<u16>,
    pub(super) entries: usize,
    /// Whether both headers have the known form.
    pub headers_known: bool,
    /// Whether the last line of both files was ended.
    pub ended: bool,
    /// Lines of `.grade.info` that name no file.
    pub bad_grades: Malformed,
    /// Lines of `.hitcount.history` that could not be used.
    pub bad_history: Malformed,
}

const NO_FILE: u32 = u32::MAX;

/// Lines that are taken up together, because their files are looked up together.
#[derive(Debug, Default)]
struct Block {
    text: Vec<u8>,
    /// The number of each line and where it ends.
    lines: Vec<(u64, usize)>,
}

impl Block {
    fn add(&mut self, number: u64, line: &[u8]) {
        self.text.extend_from_slice(line);
        self.lines.push((number, self.text.len()));
    }

    const fn is_full(&self) -> bool {
        self.lines.len() >= 256 || self.text.len() >= 1 << 20
    }

    fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut start = 0;
        self.lines.iter().map(move |(number, end)| (*number, &self.text[std::mem::replace(&mut start, *end)..*end]))
    }

    fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
    }
}

impl Catalogue {
    /// Reads both files.
    ///
    /// # Errors
    /// When one of them cannot be read to its end.
    pub fn read(
        names: &mut Names,
        fleet: &Fleet,
        grades: impl Read,
        history: impl Read,
        reading: Reading,
    ) -> io::Result<Self> {
        let mut catalogue = Self { claims: vec![0], headers_known: true, ended: true, ..Self::default() };
        catalogue.read_grades(names, grades, reading)?;
        catalogue.read_history(names, fleet, history, reading)?;
        Ok(catalogue)
    }

    /// Notes how many copies are wished of a file.
    pub(super) fn wish_for(&mut self, id: FileId, copies: u64) {
        if copies == 0 && self.wishes.len() <= id.index() {
            return;
        }
        if self.wishes.len() <= id.index() {
            self.wishes.resize(id.index() + 1, 0);
        }
        self.wishes[id.index()] = u8::try_from(copies).unwrap_or(u8::MAX);
    }

    /// Notes where viewers of a file are sent.
    pub(super) fn claim(&mut self, at: usize, ips: impl Iterator<Item = u16>) {
        let start = self.claims.len();
        self.claims.push(0);
        self.claims.extend(ips.take(usize::from(u16::MAX)));
        let count = self.claims.len() - start - 1;
        self.claims[start] = u16::try_from(count).unwrap_or(u16::MAX);
        self.claims_at[at] = u32::try_from(start).unwrap_or(0);
        if count == 0 {
            self.claims.truncate(start);
            self.claims_at[at] = 0;
        }
    }

    fn read_grades(&mut self, names: &mut Names, source: impl Read, reading: Reading) -> io::Result<()> {
        let mut lines = Lines::new(source);
        let mut number = 0_u64;
        loop {
            number += 1;
            let (line, ended) = match lines.next_line()? {
                None => break,
                Some(Line::TooLong) if reading == Reading::Legacy => break,
                Some(Line::TooLong) => {
                    self.bad_grades.add(number, b"", "is longer than 1 MiB");
                    continue;
                }
                Some(Line::Whole(line)) => (line, true),
                Some(Line::Unended(line)) => (line, false),
            };
            if reading == Reading::Legacy && line.len() >= LEGACY_LONGEST {
                break;
            }
            self.ended &= ended;
            if number == 1 {
                self.headers_known &= line.starts_with(b"filename\t") || line == b"filename";
                continue;
            }
            if line.is_empty() {
                continue;
            }
            let mut columns = line.split(|byte| *byte == b'\t');
            let file = columns.next().unwrap_or_default();
            let id = match name::legal(file) {
                Err(why) if reading == Reading::Product => {
                    self.bad_grades.add(number, line, why);
                    None
                }
                _ => names.intern(file),
            };
            let rank = u32::try_from(self.lines.len() + 1).unwrap_or(u32::MAX);
            self.lines.push(id.map_or(NO_FILE, FileId::number));
            let Some(id) = id else { continue };
            if self.ranks.len() <= id.index() {
                self.ranks.resize(names.len().max(id.index() + 1), 0);
            }
            self.entries += usize::from(self.ranks[id.index()] == 0);
            self.ranks[id.index()] = rank;
            if reading == Reading::Product {
                let wish = columns.nth(5).and_then(|wish| std::str::from_utf8(wish).ok()?.trim().parse().ok());
                self.wish_for(id, wish.unwrap_or(0));
            }
        }
        if number == 1 {
            self.headers_known = false;
        }
        self.lines.shrink_to_fit();
        self.sizes = vec![-1; self.ranks.len()];
        self.claims_at = vec![0; self.ranks.len()];
        Ok(())
    }

    fn read_history(&mut self, names: &Names, fleet: &Fleet, source: impl Read, reading: Reading) -> io::Result<()> {
        let mut lines = Lines::new(source);
        let mut number = 0_u64;
        let mut block = Block::default();
        loop {
            number += 1;
            let (line, ended) = match lines.next_line()? {
                None => break,
                Some(Line::TooLong) if reading == Reading::Legacy => break,
                Some(Line::TooLong) => {
                    self.bad_history.add(number, b"", "is longer than 1 MiB");
                    continue;
                }
                Some(Line::Whole(line)) => (line, true),
                Some(Line::Unended(line)) => (line, false),
            };
            if reading == Reading::Legacy && line.len() >= LEGACY_LONGEST {
                break;
            }
            self.ended &= ended;
            if number == 1 {
                self.headers_known &= line.starts_with(b"historyheader:");
                continue;
            }
            if line.is_empty() {
                continue;
            }
            block.add(number, line);
            if block.is_full() {
                self.history_lines(names, fleet, &mut block);
            }
        }
        self.history_lines(names, fleet, &mut block);
        if number == 1 {
            self.headers_known = false;
        }
        self.claims.shrink_to_fit();
        Ok(())
    }

    /// Takes up the lines of a block and empties it.
    fn history_lines(&mut self, names: &Names, fleet: &Fleet, block: &mut Block) {
        let mut ids = Vec::with_capacity(block.lines.len());
        let file = |line: &'_ [u8]| line.iter().position(|byte| *byte == b',').unwrap_or(line.len());
        names.find_all(block.iter().map(|(_, line)| &line[..file(line)]), &mut ids);
        for ((number, line), id) in block.iter().zip(ids) {
            self.history_line(fleet, number, line, id);
        }
        block.clear();
    }

    fn history_line(&mut self, fleet: &Fleet, number: u64, line: &[u8], id: Option<FileId>) {
        let mut columns = line.split(|byte| *byte == b',').skip(1);
        let (Some(size), Some(addresses)) = (columns.nth(2), columns.next()) else {
            self.bad_history.add(number, line, "has fewer than five columns");
            return;
        };
        let known = |at: &usize| self.ranks.get(*at).is_some_and(|rank| *rank > 0);
        let Some(at) = id.map(FileId::index).filter(known) else { return };
        self.sizes[at] = std::str::from_utf8(size).ok().and_then(|size| size.parse().ok()).unwrap_or_else(|| {
            self.bad_history.add(number, line, "has a size that is no number");
            0
        });
        self.claim(at, addresses.split(|byte| *byte == b' ').filter_map(|ip| fleet.ip(ip)));
    }

    /// How many files there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// How good a file is: 1 is best, 0 is unknown.
    #[must_use]
    pub fn rank(&self, id: FileId) -> u32 {
        self.ranks.get(id.index()).copied().unwrap_or(0)
    }

    /// Whether a file is known.
    #[must_use]
    pub fn has(&self, id: FileId) -> bool {
        self.rank(id) > 0
    }

    /// Size in bytes as the history says; -1 if it does not.
    #[must_use]
    pub fn size(&self, id: FileId) -> i64 {
        self.sizes.get(id.index()).copied().unwrap_or(-1)
    }

    /// How many copies are wished of a file; 0: nobody says.
    #[must_use]
    pub fn wish(&self, id: FileId) -> u16 {
        self.wishes.get(id.index()).copied().unwrap_or(0).into()
    }

    /// What the content of a file must be, if that is known.
    #[must_use]
    pub fn checksum(&self, id: FileId) -> Option<Checksum> {
        let at = self.checksums.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        Some(self.checksums[at].1)
    }

    /// The IPs, by number, to which viewers of the file are sent; one that is listed twice comes twice.
    #[must_use]
    pub fn claims(&self, id: FileId) -> &[u16] {
        match self.claims_at.get(id.index()) {
            None | Some(0) => &[],
            Some(at) => {
                let at = *at as usize;
                &self.claims[at + 1..=at + usize::from(self.claims[at])]
            }
        }
    }

    /// Whether viewers of the file are sent to this IP.
    #[must_use]
    pub fn claimed(&self, id: FileId, ip: Option<u16>) -> bool {
        ip.is_some_and(|ip| self.claims(id).contains(&ip))
    }

    /// All files, best first.
    pub fn by_rank(&self) -> impl Iterator<Item = FileId> {
        self.lines
            .iter()
            .zip(1_u32..)
            .filter(|(file, rank)| self.ranks.get(**file as usize) == Some(rank))
            .map(|(file, _)| FileId::of(*file))
    }

    /// All files, in the order in which they come for the first time.
    #[must_use]
    pub fn by_first_line(&self) -> Vec<FileId> {
        let mut seen = vec![false; self.ranks.len()];
        let first = |file: &&u32| **file != NO_FILE && !std::mem::replace(&mut seen[**file as usize], true);
        self.lines.iter().filter(first).map(|file| FileId::of(*file)).collect()
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        4 * self.lines.capacity()
            + 4 * self.ranks.capacity()
            + 8 * self.sizes.capacity()
            + self.wishes.capacity()
            + size_of::<(FileId, Checksum)>() * self.checksums.capacity()
            + 4 * self.claims_at.capacity()
            + 2 * self.claims.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    fn fleet() -> Fleet {
        Fleet::new(&[], &["10.0.0.1:1".to_owned(), "10.0.0.2:1".to_owned()], &Settings::default()).unwrap()
    }

    #[test]
    fn wishes_of_the_load_balancer_are_the_seventh_column() {
        let grades = "filename\tw\tb\tg\ts\th\tTargetCopyCount\nA\t1\t1\t1\t1\t1\t5\nB\t1\nC\t1\t1\t1\t1\t1\tx\nD\t\t\t\t\t\t999\n";
        let names = &mut Names::default();
        let read = |reading, names: &mut Names| {
            Catalogue::read(names, &fleet(), grades.as_bytes(), &b"historyheader:1\n"[..], reading).unwrap()
        };
        let catalogue = read(Reading::Product, names);
        let wishes = [b"A", b"B", b"C", b"D"].map(|name| catalogue.wish(names.find(name).unwrap()));
        assert_eq!(wishes, [5, 0, 0, 255]);
        assert_eq!(catalogue.bad_grades.count, 0);
        assert_eq!(read(Reading::Legacy, names).wish(names.find(b"A").unwrap()), 0);
    }
}
