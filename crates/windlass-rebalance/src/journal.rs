//! A file of vectors on local disk, so that a vector which two agents lost is not lost.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 8 | `WLJRN01` and a line feed |
//! | per vector: 4 | length of what follows the checksum, little-endian |
//! | 4 | CRC-32 of what follows |
//! | 4 | place of the id in its chunk, little-endian |
//! | 8 | time, Unix nanoseconds, little-endian signed |
//! | 4 | length of the id, little-endian; then the id |
//! | 4 per element | little-endian IEEE 754 bits |
//!
//! Records after a damaged one are not believed: the file was being written when something happened. The last
//! record of a place counts.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"WLJRN01\n";
const HEAD: usize = 8;
/// Place, time and length of the id.
const FIXED: usize = 16;
/// No agent takes a request this long; a longer record is damage.
const LONGEST: u32 = 256 << 20;

/// A vector taken from a journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Journalled {
    /// Place of the id in its chunk.
    pub place: u32,
    /// The id.
    pub id: Box<[u8]>,
    /// Unix nanoseconds.
    pub time: i64,
    /// The elements.
    pub vector: Vec<f32>,
}

/// Where the last vector of each place begins, and its time.
type Places = HashMap<u32, (u64, i64)>;

/// Writes a journal. Appending is buffered; only [`JournalWriter::sync`] makes it last. Blocking, but each call
/// is a copy into memory or into the page cache.
#[derive(Debug)]
pub struct JournalWriter {
    path: PathBuf,
    file: BufWriter<File>,
    /// What has been written, so that it is found again without reading the file.
    places: Places,
    end: u64,
}

impl JournalWriter {
    /// Creates the file, which must not exist.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being created.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let mut file = BufWriter::with_capacity(256 * 1024, file);
        file.write_all(MAGIC)?;
        Ok(Self { path: path.to_owned(), file, places: HashMap::new(), end: MAGIC.len() as u64 })
    }

    /// Adds a vector.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being written.
    pub fn append(&mut self, place: u32, id: &[u8], time: i64, vector: &[f32]) -> io::Result<()> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "a vector is too long for a journal");
        let mut record = Vec::with_capacity(FIXED + id.len() + vector.len() * 4);
        record.extend_from_slice(&place.to_le_bytes());
        record.extend_from_slice(&time.to_le_bytes());
        record.extend_from_slice(&u32::try_from(id.len()).map_err(|_| too_long())?.to_le_bytes());
        record.extend_from_slice(id);
        for element in vector {
            record.extend_from_slice(&element.to_le_bytes());
        }
        let length = u32::try_from(record.len()).ok().filter(|length| *length <= LONGEST).ok_or_else(too_long)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&crc32fast::hash(&record).to_le_bytes())?;
        self.file.write_all(&record)?;
        self.places.insert(place, (self.end, time));
        self.end += (HEAD + record.len()) as u64;
        Ok(())
    }

    /// Writes everything to the disk.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being written.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The journals of a chunk: those of earlier attempts, and the one that is being written.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Earlier ones, oldest first: file and where its places are.
    old: Vec<(PathBuf, Places)>,
    current: Option<JournalWriter>,
}

impl Journal {
    /// Opens journals of earlier attempts. One that is missing holds nothing. Blocking.
    pub(crate) fn open(paths: impl IntoIterator<Item = PathBuf>) -> io::Result<Self> {
        let mut journal = Self::default();
        for path in paths {
            match scan(&path) {
                Ok(places) => journal.old.push((path, places)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(journal)
    }

    /// Takes a journal to write to; one that was written to before becomes an earlier one.
    pub(crate) fn write_to(&mut self, writer: JournalWriter) -> io::Result<()> {
        if let Some(mut before) = self.current.replace(writer) {
            before.sync()?;
            self.old.push((before.path, before.places));
        }
        Ok(())
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.current.is_some()
    }

    pub(crate) fn append(&mut self, place: u32, id: &[u8], time: i64, vector: &[f32]) -> io::Result<()> {
        match &mut self.current {
            Some(writer) => writer.append(place, id, time, vector),
            None => Ok(()),
        }
    }

    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.current.as_mut().map_or(Ok(()), JournalWriter::sync)
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        let current = self.current.iter().map(|writer| writer.path.as_path());
        self.old.iter().map(|(path, _)| path.as_path()).chain(current)
    }

    /// Whether it has the vector of `place` with this time.
    pub(crate) fn has(&self, place: u32, time: i64) -> bool {
        self.find(place).is_some_and(|(_, (_, found))| found == time)
    }

    fn find(&self, place: u32) -> Option<(&Path, (u64, i64))> {
        if let Some(writer) = &self.current
            && let Some(at) = writer.places.get(&place)
        {
            return Some((&writer.path, *at));
        }
        self.old.iter().rev().find_map(|(path, places)| Some((path.as_path(), *places.get(&place)?)))
    }

    /// The last vector written for `place`. Blocking.
    pub(crate) fn get(&mut self, place: u32) -> io::Result<Option<Journalled>> {
        if let Some(writer) = &mut self.current {
            writer.flush()?;
        }
        let Some((path, (offset, _))) = self.find(place) else { return Ok(None) };
        let file = File::open(path)?;
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, offset)?;
        let (length, crc) = parse_head(head)?;
        let mut record = vec![0; length];
        file.read_exact_at(&mut record, offset + HEAD as u64)?;
        if crc32fast::hash(&record) != crc {
            return Err(damaged("a record's checksum is wrong"));
        }
        parse(&record).map(Some)
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn parse_head(head: [u8; HEAD]) -> io::Result<(usize, u32)> {
    let [a, b, c, d, w, x, y, z] = head;
    let length = u32::from_le_bytes([a, b, c, d]);
    if length < FIXED as u32 || length > LONGEST {
        return Err(damaged("a record's length is impossible"));
    }
    Ok((length as usize, u32::from_le_bytes([w, x, y, z])))
}

fn parse(record: &[u8]) -> io::Result<Journalled> {
    let (fixed, rest) = record.split_first_chunk::<FIXED>().ok_or_else(|| damaged("a record is too short"))?;
    let [p, q, r, s, time @ .., a, b, c, d] = *fixed;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    let id = rest.get(..length).ok_or_else(|| damaged("an id is longer than its record"))?;
    let elements = rest[length..].chunks_exact(4);
    if !elements.remainder().is_empty() {
        return Err(damaged("a record ends inside an element"));
    }
    Ok(Journalled {
        place: u32::from_le_bytes([p, q, r, s]),
        id: id.into(),
        time: i64::from_le_bytes(time),
        vector: elements.map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect(),
    })
}

/// Where the places of a journal are, up to the first damage.
fn scan(path: &Path) -> io::Result<Places> {
    let mut file = BufReader::with_capacity(256 * 1024, File::open(path)?);
    let mut places = HashMap::new();
    let mut magic = [0; MAGIC.len()];
    if file.read_exact(&mut magic).is_err() || magic != *MAGIC {
        return Ok(places);
    }
    let mut offset = MAGIC.len() as u64;
    let mut record = Vec::new();
    loop {
        let mut head = [0; HEAD];
        if file.read_exact(&mut head).is_err() {
            return Ok(places);
        }
        let Ok((length, crc)) = parse_head(head) else { return Ok(places) };
        record.clear();
        // Grows with what is really there, not with what the length says.
        file.by_ref().take(length as u64).read_to_end(&mut record)?;
        if record.len() != length || crc32fast::hash(&record) != crc {
            return Ok(places);
        }
        let Ok(found) = parse(&record) else { return Ok(places) };
        places.insert(found.place, (offset, found.time));
        offset += (HEAD + length) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path) -> PathBuf {
        let path = folder.join("a.journal");
        let mut writer = JournalWriter::create(&path).unwrap();
        writer.append(0, b"zero", 5, &[1.0, -0.0]).unwrap();
        writer.append(1, b"", -5, &[]).unwrap();
        writer.append(0, b"zero", 6, &[2.0, 3.0]).unwrap();
        writer.sync().unwrap();
        path
    }

    #[test]
    fn the_last_vector_of_a_place_is_found_again_by_a_later_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let mut journal = Journal::open([folder.path().join("none"), path]).unwrap();
        let zero = journal.get(0).unwrap().unwrap();
        assert_eq!(zero, Journalled { place: 0, id: b"zero".as_slice().into(), time: 6, vector: vec![2.0, 3.0] });
        assert!(journal.get(1).unwrap().unwrap().vector.is_empty());
        assert_eq!(journal.get(2).unwrap(), None);
        assert!(journal.has(0, 6) && !journal.has(0, 5));

        journal.write_to(JournalWriter::create(&folder.path().join("b.journal")).unwrap()).unwrap();
        journal.append(0, b"zero", 7, &[4.0]).unwrap();
        assert_eq!(journal.get(0).unwrap().unwrap().vector, [4.0]);
        assert_eq!(journal.paths().count(), 2);
    }

    #[test]
    fn wherever_a_journal_is_cut_what_lies_before_is_believed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let bytes = std::fs::read(&path).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let mut journal = Journal::open([path.clone()]).unwrap();
            let zero = journal.get(0).unwrap().map(|found| found.time);
            assert_ne!(zero, Some(6));
            seen.insert((zero, journal.get(1).unwrap().is_some()));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(None, false), (Some(5), false), (Some(5), true)]);
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            let mut journal = Journal::open([path.clone()]).unwrap();
            let found = [journal.get(0).unwrap(), journal.get(1).unwrap()];
            assert!(found.iter().flatten().count() < 2 || found[0].as_ref().unwrap().time == 5, "{at}");
        }
    }
}
