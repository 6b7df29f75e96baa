//! The file that holds the ids of a chunk.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 8 | `WLIDS01` and a line feed |
//! | per id: 4 | length of the id, little-endian |
//! | 8 | the newest time the plan knows for it, Unix nanoseconds, little-endian signed |
//! | 4 | object number on the source, little-endian |
//! | length | the id |
//!
//! Its SHA-256 and the number of ids are kept where the file is named; a file that does not have them is refused.

use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::input::IdListRef;

const MAGIC: &[u8; 8] = b"WLIDS01\n";
const HEAD: usize = 16;

/// No agent takes a request above 4 MiB; an id that long cannot be moved, and a length above it is damage.
const LONGEST_ID: usize = 16 << 20;

/// One id of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedId {
    /// The id: any bytes.
    pub id: Box<[u8]>,
    /// The newest time the plan knows for it, Unix nanoseconds; 0 when unknown.
    pub time: i64,
    /// Object number on the source.
    pub number: u32,
}

/// Writes a list of ids.
#[derive(Debug)]
pub struct IdListWriter<W: Write> {
    to: BufWriter<W>,
    hash: Sha256,
    count: u64,
}

impl<W: Write> IdListWriter<W> {
    /// Begins a list.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being written.
    pub fn new(to: W) -> io::Result<Self> {
        let mut list = Self { to: BufWriter::new(to), hash: Sha256::new(), count: 0 };
        list.put(MAGIC)?;
        Ok(list)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.to.write_all(bytes)
    }

    /// Adds an id.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being written, or an id of more than 16 MiB.
    pub fn push(&mut self, id: &[u8], time: i64, number: u32) -> io::Result<()> {
        let length = u32::try_from(id.len())
            .ok()
            .filter(|_| id.len() <= LONGEST_ID)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "an id is longer than 16 MiB"))?;
        self.put(&length.to_le_bytes())?;
        self.put(&time.to_le_bytes())?;
        self.put(&number.to_le_bytes())?;
        self.put(id)?;
        self.count += 1;
        Ok(())
    }

    /// Ends the list and gives back what it was written to, flushed but not synced, and the reference to it under
    /// `path`.
    ///
    /// # Errors
    ///
    /// Whatever kept it from being written.
    pub fn finish(self, path: impl Into<String>) -> io::Result<(W, IdListRef)> {
        let to = self.to.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((to, IdListRef { path: path.into(), sha256: hex(&self.hash.finalize()), count: self.count }))
    }
}

/// Hexadecimal digits, lower case.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Why a list of ids cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdListError {
    /// It cannot be read.
    #[error("the list of ids {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// It is not the file that was written.
    #[error("the list of ids {path} is not the one that was planned: {what}; plan again")]
    Changed {
        /// The file.
        path: String,
        /// What differs.
        what: &'static str,
    },
}

/// Reads the whole list that `list` names; relative paths start at `base`. Blocking.
///
/// # Errors
///
/// The file cannot be read, or is not the one that `list` describes.
pub fn read_id_list(base: &Path, list: &IdListRef) -> Result<Vec<ListedId>, IdListError> {
    let path = base.join(&list.path);
    let read = |source| IdListError::Read { path: path.display().to_string(), source };
    let changed = |what| IdListError::Changed { path: path.display().to_string(), what };
    let mut bytes = Vec::new();
    std::fs::File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)).map_err(read)?;
    if hex(&Sha256::digest(&bytes)) != list.sha256 {
        return Err(changed("its SHA-256 differs"));
    }
    let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(|| changed("it begins with other bytes"))?;
    let mut ids = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_first_chunk::<HEAD>().ok_or_else(|| changed("it ends too early"))?;
        let [a, b, c, d, time @ .., w, x, y, z] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let id = after.get(..length).ok_or_else(|| changed("it ends too early"))?;
        ids.push(ListedId { id: id.into(), time: i64::from_le_bytes(time), number: u32::from_le_bytes([w, x, y, z]) });
        rest = &after[length..];
    }
    if ids.len() as u64 != list.count {
        return Err(changed("it has another number of ids"));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path) -> IdListRef {
        let file = std::fs::File::create(folder.join("ids")).unwrap();
        let mut writer = IdListWriter::new(file).unwrap();
        writer.push(b"a\n\0", 5, 7).unwrap();
        writer.push(b"", -1, u32::MAX).unwrap();
        writer.finish("ids").unwrap().1
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let list = write(folder.path());
        let ids = read_id_list(folder.path(), &list).unwrap();
        assert_eq!(ids.len(), 2);
        assert_eq!(ids[0], ListedId { id: b"a\n\0".as_slice().into(), time: 5, number: 7 });
        assert_eq!(ids[1], ListedId { id: b"".as_slice().into(), time: -1, number: u32::MAX });
    }

    #[test]
    fn a_list_that_was_touched_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let list = write(folder.path());
        let other = IdListRef { count: 3, ..list.clone() };
        assert!(matches!(read_id_list(folder.path(), &other), Err(IdListError::Changed { .. })));
        let path = folder.path().join("ids");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(matches!(read_id_list(folder.path(), &list), Err(IdListError::Changed { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read_id_list(folder.path(), &list), Err(IdListError::Read { .. })));
    }
}
