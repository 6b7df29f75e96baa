//! The file of one agent's copies, sorted by id: what the planner merges.
//!
//! ```text
//!   magic     8 bytes   "WLCOPY1\n"
//!   copy      4 bytes   length of the id, little-endian, below 2^32 - 1
//!             n bytes   the id
//!             8 bytes   time, signed Unix nanoseconds, little-endian
//!             4 bytes   object number, little-endian; 0 if it came from a listing, which has none
//!             1 byte    1 if the agent had listed the id as broken, else 0
//!   ...                 ids strictly ascending, bytewise
//!   footer    4 bytes   ff ff ff ff, which no length is
//!             8 bytes   number of copies, little-endian
//!             8 bytes   XXH3-64 of all bytes from the magic up to here, little-endian
//!             8 bytes   "WLCOPYE\n"
//! ```
//!
//! A file whose footer is missing or wrong was not finished and is refused when it is opened, damage in the
//! middle at the end of reading. Version 1 is the only one there has been; another magic is refused.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::error::{BackupError, Code, Stage};
use crate::gob::MAX_ID_BYTES;

const MAGIC: &[u8; 8] = b"WLCOPY1\n";
const END_MAGIC: &[u8; 8] = b"WLCOPYE\n";
const FOOTER_MARK: [u8; 4] = [0xff; 4];
const FOOTER_BYTES: u64 = 28;
/// Time, number and mark.
const TAIL_BYTES: usize = 13;
const BUFFER_BYTES: usize = 64 * 1024;

/// One id on one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// The id, any bytes.
    pub id: Vec<u8>,
    /// Unix time in nanoseconds; 0 if unknown.
    pub time: i64,
    /// Object number inside the agent; 0 if unknown.
    pub number: u32,
    /// The agent listed the id as broken; it is not to be moved.
    pub invalid: bool,
}

/// Writes a file of copies. Dropping it without [`CopiesWriter::finish`] leaves a file that no reader accepts.
pub struct CopiesWriter {
    out: BufWriter<File>,
    path: PathBuf,
    hash: Box<Xxh3>,
    last: Vec<u8>,
    record: Vec<u8>,
    count: u64,
}

impl fmt::Debug for CopiesWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CopiesWriter").field("path", &self.path).field("count", &self.count).finish_non_exhaustive()
    }
}

impl CopiesWriter {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    ///
    /// [`Code::WorkFailed`] if it cannot be created or written.
    pub fn create(path: &Path) -> Result<Self, BackupError> {
        let file =
            File::create(path).map_err(|error| BackupError::work(&format!("create {}", path.display()), error))?;
        let mut writer = Self {
            out: BufWriter::with_capacity(BUFFER_BYTES, file),
            path: path.to_owned(),
            hash: Box::new(Xxh3::new()),
            last: Vec::new(),
            record: MAGIC.to_vec(),
            count: 0,
        };
        writer.put()?;
        Ok(writer)
    }

    /// Appends one copy; ids must come in strictly ascending order.
    ///
    /// # Errors
    ///
    /// [`Code::CopiesCorrupt`] for an id that is not above the one before or longer than [`MAX_ID_BYTES`];
    /// [`Code::WorkFailed`] if the file cannot be written.
    pub fn push(&mut self, id: &[u8], time: i64, number: u32, invalid: bool) -> Result<(), BackupError> {
        if self.count > 0 && id <= self.last.as_slice() {
            return Err(corrupt(&self.path, self.count, "an id was pushed that is not above the one before"));
        }
        if id.len() > MAX_ID_BYTES {
            return Err(corrupt(&self.path, self.count, "an id was pushed that is longer than 1 MiB"));
        }
        id.clone_into(&mut self.last);
        self.record.clear();
        self.record.extend_from_slice(&(id.len() as u32).to_le_bytes());
        self.record.extend_from_slice(id);
        self.record.extend_from_slice(&time.to_le_bytes());
        self.record.extend_from_slice(&number.to_le_bytes());
        self.record.push(u8::from(invalid));
        self.put()?;
        self.count += 1;
        Ok(())
    }

    /// Writes the footer, flushes the file and returns the number of copies. Does not sync: the file can be made
    /// again from its backup.
    ///
    /// # Errors
    ///
    /// [`Code::WorkFailed`] if the file cannot be written.
    pub fn finish(mut self) -> Result<u64, BackupError> {
        self.record.clear();
        self.record.extend_from_slice(&FOOTER_MARK);
        self.record.extend_from_slice(&self.count.to_le_bytes());
        self.put()?;
        self.record.clear();
        self.record.extend_from_slice(&self.hash.digest().to_le_bytes());
        self.record.extend_from_slice(END_MAGIC);
        self.put()?;
        self.out.flush().map_err(|error| BackupError::work(&format!("write {}", self.path.display()), error))?;
        Ok(self.count)
    }

    fn put(&mut self) -> Result<(), BackupError> {
        self.hash.update(&self.record);
        self.out
            .write_all(&self.record)
            .map_err(|error| BackupError::work(&format!("write {}", self.path.display()), error))
    }
}

/// Reads a file of copies in order, with one buffer of 64 KiB.
pub struct CopiesReader {
    file: File,
    path: PathBuf,
    hash: Box<Xxh3>,
    buffer: Vec<u8>,
    start: usize,
    /// Bytes of copies that are still in the file.
    unread: u64,
    count: u64,
    given: u64,
    checksum: u64,
    last: Vec<u8>,
}

impl fmt::Debug for CopiesReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, given, count) = (&self.path, &self.given, &self.count);
        f.debug_struct("CopiesReader")
            .field("path", path)
            .field("given", given)
            .field("count", count)
            .finish_non_exhaustive()
    }
}

impl CopiesReader {
    /// Opens a file and checks its beginning and its end.
    ///
    /// # Errors
    ///
    /// [`Code::CopiesCorrupt`] for a file that was not finished or is none of these; [`Code::WorkFailed`] if it
    /// cannot be read.
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        let failed = |error| BackupError::work(&format!("read {}", path.display()), error);
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let Some(unread) = length.checked_sub(MAGIC.len() as u64 + FOOTER_BYTES) else {
            return Err(corrupt(path, 0, "the file of copies was not finished"));
        };
        let mut footer = [0; FOOTER_BYTES as usize];
        file.seek(SeekFrom::Start(MAGIC.len() as u64 + unread)).map_err(failed)?;
        file.read_exact(&mut footer).map_err(failed)?;
        let mut magic = [0; MAGIC.len()];
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        file.read_exact(&mut magic).map_err(failed)?;
        if magic != *MAGIC {
            return Err(corrupt(path, 0, "the file does not begin as a file of copies, version 1"));
        }
        let (mark, rest) = footer.split_at(FOOTER_MARK.len());
        let (count, rest) = rest.split_at(8);
        let (checksum, end) = rest.split_at(8);
        if mark != FOOTER_MARK || end != END_MAGIC {
            return Err(corrupt(path, 0, "the file of copies was not finished"));
        }
        let mut hash = Box::new(Xxh3::new());
        hash.update(MAGIC);
        Ok(Self {
            file,
            path: path.to_owned(),
            hash,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            start: 0,
            unread,
            count: u64::from_le_bytes(count.try_into().expect("eight bytes were split off")),
            given: 0,
            checksum: u64::from_le_bytes(checksum.try_into().expect("eight bytes were split off")),
            last: Vec::new(),
        })
    }

    /// The number of copies that the footer promises.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Reads the next copy into `into`, whose memory is reused; `false` after the last.
    ///
    /// # Errors
    ///
    /// [`Code::CopiesCorrupt`] for damage; the whole content is only known to be right once this has returned
    /// `false`. [`Code::WorkFailed`] if the file cannot be read.
    pub fn next(&mut self, into: &mut Copy) -> Result<bool, BackupError> {
        let Some(&length) = self.ready(4)?.first_chunk::<4>() else {
            return self.end();
        };
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_ID_BYTES {
            return Err(corrupt(&self.path, self.given, "a length is out of range"));
        }
        let total = 4 + length + TAIL_BYTES;
        let ready = self.ready(total)?;
        let Some(record) = ready.get(..total) else {
            return Err(corrupt(&self.path, self.given, "a copy reaches past the end"));
        };
        let (head, tail) = record.split_at(4 + length);
        into.id.clear();
        into.id.extend_from_slice(&head[4..]);
        let (time, tail) = tail.split_at(8);
        into.time = i64::from_le_bytes(time.try_into().expect("eight bytes were split off"));
        into.number = u32::from_le_bytes(tail[..4].try_into().expect("four bytes were split off"));
        into.invalid = tail[4] != 0;
        self.start += total;
        if self.given > 0 && into.id <= self.last {
            return Err(corrupt(&self.path, self.given, "the ids are not in ascending order"));
        }
        into.id.clone_into(&mut self.last);
        self.given += 1;
        Ok(true)
    }

    fn end(&mut self) -> Result<bool, BackupError> {
        if !self.ready(1)?.is_empty() || self.given != self.count {
            return Err(corrupt(&self.path, self.given, "the number of copies is not the one in the footer"));
        }
        let mut hash = self.hash.clone();
        hash.update(&FOOTER_MARK);
        hash.update(&self.count.to_le_bytes());
        if hash.digest() != self.checksum {
            return Err(corrupt(&self.path, self.given, "the checksum is wrong"));
        }
        Ok(false)
    }

    /// At least `wanted` bytes, or all that are left.
    fn ready(&mut self, wanted: usize) -> Result<&[u8], BackupError> {
        if self.buffer.len() - self.start < wanted && self.unread > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
            let kept = self.buffer.len();
            let more = (BUFFER_BYTES.max(wanted) - kept) as u64;
            let more = more.min(self.unread);
            self.unread -= more;
            let got = (&mut self.file).take(more).read_to_end(&mut self.buffer);
            let got = got.map_err(|error| BackupError::work(&format!("read {}", self.path.display()), error))?;
            if got as u64 != more {
                return Err(corrupt(&self.path, self.given, "the file became shorter while it was read"));
            }
            self.hash.update(&self.buffer[kept..]);
        }
        Ok(&self.buffer[self.start..])
    }
}

fn corrupt(path: &Path, at: u64, what: &str) -> BackupError {
    let message = format!("{what}, at copy {at}; remove the file and let it be made again");
    BackupError::new(Code::CopiesCorrupt, Stage::Sort, 0, message).in_entry(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(copies: &[Copy]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.copies");
        let mut writer = CopiesWriter::create(&path).unwrap();
        for copy in copies {
            writer.push(&copy.id, copy.time, copy.number, copy.invalid).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), copies.len() as u64);
        (folder, path)
    }

    fn read(path: &Path) -> Result<Vec<Copy>, BackupError> {
        let mut reader = CopiesReader::open(path)?;
        let (mut all, mut copy) = (Vec::new(), Copy::default());
        while reader.next(&mut copy)? {
            all.push(copy.clone());
        }
        Ok(all)
    }

    fn sample() -> Vec<Copy> {
        let copy = |id: &[u8], time, number, invalid| Copy { id: id.to_vec(), time, number, invalid };
        let mut all = vec![copy(b"", 0, 1, false), copy(b"\0", i64::MIN, u32::MAX, true), copy(b"a", -1, 2, false)];
        all.push(copy(&[b'b'; 300_000], i64::MAX, 0, false));
        all.extend((0..5000).map(|at| copy(format!("c{at:05}").as_bytes(), at, at as u32, at % 7 == 0)));
        all
    }

    #[test]
    fn what_is_written_comes_back() {
        let (_folder, path) = written(&sample());
        assert_eq!(read(&path).unwrap(), sample());
        let (_folder, path) = written(&[]);
        assert_eq!(read(&path).unwrap(), []);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_when_it_is_opened() {
        let (_folder, path) = written(&sample()[..3]);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(CopiesReader::open(&path).unwrap_err().code, Code::CopiesCorrupt, "cut at {length}");
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let (_folder, path) = written(&sample()[..3]);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x20;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(read(&path).unwrap_err().code, Code::CopiesCorrupt, "byte {at}");
        }
    }

    #[test]
    fn ids_out_of_order_are_refused_by_the_writer() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = CopiesWriter::create(&folder.path().join("a")).unwrap();
        writer.push(b"b", 0, 1, false).unwrap();
        for id in [&b"b"[..], b"a"] {
            assert_eq!(writer.push(id, 0, 1, false).unwrap_err().code, Code::CopiesCorrupt);
        }
    }
}
