//! Notes on a chunk that outlive an attempt: what is known about each id, in a file of its own.
//!
//! A new file is written after every phase and made durable before the checkpoint names it; the one before is
//! removed after. Files carry the epoch of their attempt in their name, so an attempt that has lost its claim and
//! does not know it yet cannot damage what its successor wrote.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 8 | `WLNOT01` and a line feed |
//! | 4 | length of the header, little-endian |
//! | | the header, JSON: [`Header`] |
//! | 40 per id | see [`Entry::to_bytes`] |
//!
//! The checkpoint holds the SHA-256 of the file. It also holds, one bit per id, which ids the destination had before
//! the job touched it: the one thing that cannot be found out again should the file be lost with its machine.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use windlass_model::{Epoch, TaskId};

use super::entry::{Entry, Marks, RECORD};
use super::id_list::hex;

const MAGIC: &[u8; 8] = b"WLNOT01\n";

/// What the notes say about the chunk as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// SHA-256 of the list of ids, which says what the places are.
    pub(crate) list: String,
    /// Journals, oldest first, by file name.
    pub(crate) journals: Vec<String>,
    /// Vector bytes copied so far.
    pub(crate) bytes: u64,
    /// Inserts and updates sent so far.
    pub(crate) inserts: u64,
    /// Requests repeated so far.
    pub(crate) retries: u64,
    /// Milliseconds spent so far.
    pub(crate) spent_ms: u64,
    /// An agent tells no times.
    pub(crate) timeless: bool,
}

/// Notes as they are read: about the chunk, and about each id.
pub(crate) type Notes = (Header, Vec<Entry>);

/// Where the notes are; goes into the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NotesRef {
    /// File name, in the folder of the notes.
    pub(crate) file: String,
    /// SHA-256 of the file.
    pub(crate) sha256: String,
    /// One bit per id, the first in the lowest bit: on the destination before the job touched it. Hexadecimal.
    pub(crate) present: String,
}

/// Writes notes to `folder`/`file` and makes them durable. Blocking.
pub(crate) fn write(folder: &Path, file: String, header: &Header, entries: &[Entry]) -> io::Result<NotesRef> {
    let header = serde_json::to_vec(header)?;
    let mut bytes = Vec::with_capacity(MAGIC.len() + 4 + header.len() + entries.len() * RECORD);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&u32::try_from(header.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&header);
    for entry in entries {
        bytes.extend_from_slice(&entry.to_bytes());
    }
    write_durably(folder, &file, &bytes)?;
    let sha256 = hex(&Sha256::digest(&bytes));
    Ok(NotesRef { file, sha256, present: bits(entries) })
}

/// Writes a file and makes it and its name durable. Blocking.
pub(crate) fn write_durably(folder: &Path, file: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut to = File::create(folder.join(file))?;
    to.write_all(bytes)?;
    to.sync_all()?;
    File::open(folder)?.sync_all()
}

/// Reads the notes that `notes` names: `None` if they are not there or not what was written. Blocking.
pub(crate) fn read(folder: &Path, notes: &NotesRef) -> io::Result<Option<Notes>> {
    let bytes = match fs::read(folder.join(&notes.file)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if hex(&Sha256::digest(&bytes)) != notes.sha256 {
        return Ok(None);
    }
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Option<Notes> {
    let (length, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let header = serde_json::from_slice(rest.get(..length)?).ok()?;
    let records = rest[length..].chunks_exact(RECORD);
    if !records.remainder().is_empty() {
        return None;
    }
    let entries = records.map(|record| Entry::of_bytes(record.try_into().ok()?)).collect::<Option<Vec<_>>>()?;
    Some((header, entries))
}

fn bits(entries: &[Entry]) -> String {
    let mut bytes = vec![0u8; entries.len().div_ceil(8)];
    for (at, _) in entries.iter().enumerate().filter(|(_, entry)| entry.marks.has(Marks::PRESENT)) {
        bytes[at / 8] |= 1 << (at % 8);
    }
    hex(&bytes)
}

impl NotesRef {
    /// Whether the id at `place` was on the destination before the job touched it.
    pub(crate) fn was_present(&self, place: usize) -> bool {
        let digits = self.present.get(place / 8 * 2..place / 8 * 2 + 2);
        digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).is_some_and(|byte| byte >> (place % 8) & 1 == 1)
    }

    /// The reference in a task's checkpoint to the notes of one of its parts.
    pub(crate) fn of_checkpoint(checkpoint: &Value, part: &str) -> Option<Self> {
        serde_json::from_value(checkpoint.get(part)?.get("notes")?.clone()).ok()
    }
}

/// The name of a file of notes. Within a part, the highest epoch and then the highest number is the newest.
pub(crate) fn file_name(task: TaskId, part: &str, epoch: Epoch, number: u32) -> String {
    format!("{task}.{part}.{epoch}.{number}.notes")
}

/// The newest whole notes of a task's part, without a checkpoint that names them. Blocking.
pub(crate) fn newest(folder: &Path, task: TaskId, part: &str) -> io::Result<Option<(NotesRef, Notes)>> {
    let files = match fs::read_dir(folder) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let prefix = format!("{task}.{part}.");
    let mut found: Vec<((u64, u32), PathBuf)> = Vec::new();
    for file in files {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let numbers = name.strip_prefix(&prefix).and_then(|name| name.strip_suffix(".notes"));
        let numbers = numbers.and_then(|numbers| numbers.split_once('.'));
        if let Some((epoch, number)) = numbers
            && let (Ok(epoch), Ok(number)) = (epoch.parse(), number.parse())
        {
            found.push(((epoch, number), path));
        }
    }
    found.sort_unstable();
    for (_, path) in found.iter().rev() {
        // One that was being written when something happened is not whole.
        let bytes = fs::read(path)?;
        if let Some(notes) = parse(&bytes) {
            let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let named = NotesRef { file, sha256: hex(&Sha256::digest(&bytes)), present: bits(&notes.1) };
            return Ok(Some((named, notes)));
        }
    }
    Ok(None)
}

/// The folder of notes, journals and outcomes in a job's work directory.
pub(crate) fn folder(work_dir: &Path) -> PathBuf {
    work_dir.join("moves")
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Outcome, Step};
    use super::*;

    fn entries() -> Vec<Entry> {
        (0..19)
            .map(|at| {
                let mut entry = Entry { step: Step::Ended(Outcome::Done), time: at, ..Entry::default() };
                if at % 3 == 0 {
                    entry.marks.add(Marks::PRESENT);
                }
                entry
            })
            .collect()
    }

    #[test]
    fn notes_are_read_as_written_and_their_bits_tell_who_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let header = Header { list: "l".into(), bytes: 7, ..Header::default() };
        let notes = write(folder.path(), "a".into(), &header, &entries()).unwrap();
        assert_eq!(read(folder.path(), &notes).unwrap(), Some((header, entries())));
        let present: Vec<usize> = (0..30).filter(|at| notes.was_present(*at)).collect();
        assert_eq!(present, [0, 3, 6, 9, 12, 15, 18]);
    }

    #[test]
    fn notes_that_are_not_what_was_written_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let notes = write(folder.path(), "a".into(), &Header::default(), &entries()).unwrap();
        let path = folder.path().join("a");
        let bytes = fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(read(folder.path(), &notes).unwrap(), None);
            // Not even with a matching digest.
            let cheat = NotesRef { sha256: hex(&Sha256::digest(&bytes[..cut])), ..notes.clone() };
            let fewer = read(folder.path(), &cheat).unwrap();
            assert!(fewer.is_none_or(|(_, entries)| entries.len() < 19));
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(read(folder.path(), &notes).unwrap(), None);
    }

    #[test]
    fn a_checkpoint_carries_the_reference() {
        let notes = NotesRef { file: "f".into(), sha256: "s".into(), present: "01".into() };
        let checkpoint = serde_json::json!({"move": {"notes": notes, "phase": "copy"}});
        assert_eq!(NotesRef::of_checkpoint(&checkpoint, "move"), Some(notes));
        assert_eq!(NotesRef::of_checkpoint(&checkpoint, "back"), None);
        assert_eq!(NotesRef::of_checkpoint(&Value::Null, "move"), None);
    }

    #[test]
    fn the_newest_whole_notes_are_found_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let task = TaskId::from_bits(7);
        assert_eq!(newest(&folder.path().join("none"), task, "move").unwrap(), None);
        for (epoch, number, bytes) in [(2, 9, 1), (10, 1, 2), (9, 30, 3)] {
            let header = Header { bytes, ..Header::default() };
            write(folder.path(), file_name(task, "move", Epoch(epoch), number), &header, &entries()).unwrap();
        }
        fs::write(folder.path().join(file_name(task, "move", Epoch(10), 2)), b"WLNOT01\nhalf").unwrap();
        fs::write(folder.path().join(file_name(task, "back", Epoch(99), 1)), b"").unwrap();
        assert_eq!(newest(folder.path(), task, "move").unwrap().unwrap().1.0.bytes, 2);
    }
}
