//! Keeps written room ahead of the write-ahead log.
//!
//! A sync after a write that made its file longer has to make the new length durable as well, and on the usual
//! file systems that is a commit to their own journal: about half as much again as a sync of bytes that are
//! overwritten in place. SQLite appends to its log until the log starts over, so every commit would pay that.
//! Hence the checkpoint thread appends zeros before the log gets there, and commits overwrite them.
//!
//! SQLite takes what follows the last valid frame for leftovers, which it has to cope with anyhow: a log that
//! has started over is followed by the frames of its previous round. Zeros have no valid checksum.
//!
//! The room is appended, never written at a place: whichever of SQLite and this module writes first, zeros go
//! behind what is there, and no frame is overwritten.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes of a page in the log: the page and its frame header.
const FRAME: u64 = 4096 + 24;
/// Room is added when fewer pages than this are left: some dozen small commits.
const LOW_PAGES: u32 = 128;
/// Below this the log is not worth it: a command that changes one job writes less.
const FROM_PAGES: u32 = 24;
/// Room that is added at a time: as much as there is already, within these bounds.
const STEP: std::ops::RangeInclusive<u64> = 512 * 1024..=4 * 1024 * 1024;

/// Whether room has to be added to a log of `used` pages whose file has room for `room` pages.
pub(crate) const fn is_low(used: u32, room: u32) -> bool {
    used >= FROM_PAGES && used.saturating_add(LOW_PAGES) > room
}

/// The log file of a database.
pub(crate) fn path_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Adds room to the log behind its `used` pages. Answers for how many pages its file now has room.
///
/// # Errors
///
/// When the file cannot be written: a full disk, say. The log is as good as before; it grows by itself then.
pub(crate) fn add(log: &Path, used: u32) -> io::Result<u32> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut file = OpenOptions::new().append(true).open(log)?;
    let length = file.metadata()?.len();
    let pages = |length: u64| u32::try_from(length / FRAME).unwrap_or(u32::MAX);
    if !is_low(used, pages(length)) {
        return Ok(pages(length));
    }
    let step = (u64::from(used) * FRAME).clamp(*STEP.start(), *STEP.end());
    let mut left = step;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_all(&ZEROS[..part])?;
        left -= part as u64;
    }
    // Here, so that no commit has to wait for the zeros.
    file.sync_data()?;
    Ok(pages(file.metadata()?.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_goes_behind_what_is_there_and_only_when_it_is_low() {
        let dir = tempfile::tempdir().unwrap();
        let log = path_of(&dir.path().join("state.db"));
        assert!(log.ends_with("state.db-wal"));
        assert!(add(&log, 100).is_err(), "the log is SQLite's to create");
        std::fs::write(&log, b"frames").unwrap();
        assert_eq!(add(&log, 1).unwrap(), 0, "a small log is left alone");
        let room = add(&log, 100).unwrap();
        assert!(room > 100, "{room}");
        let bytes = std::fs::read(&log).unwrap();
        assert!(bytes.starts_with(b"frames") && bytes[6..].iter().all(|byte| *byte == 0));
        assert!(is_low(100, room), "the first step is small");
        let room = add(&log, 100).unwrap();
        assert!(!is_low(100, room));
        assert_eq!(add(&log, 100).unwrap(), room, "there is enough");
    }
}
