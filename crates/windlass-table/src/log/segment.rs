//! A segment: one file of the log.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Result, TableError};
use crate::log::frame::{self, Fault, Frame, HEADER};

const MAGIC: [u8; 8] = *b"WNDLSSLG";
const FORMAT: u32 = 1;
/// Bytes of the header.
pub(crate) const HEAD: usize = 8 + 4 + 16 + 4 + 8 + 4;
/// Numbers of frames in one segment.
const ORDINALS: u32 = 24;

/// The number of a frame: the segment, and which of its frames, from 1. 0 is before all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    pub(crate) fn new(segment: u64, ordinal: u64) -> Self {
        Self(segment << ORDINALS | ordinal)
    }

    /// Its segment.
    #[must_use]
    pub fn segment(self) -> u64 {
        self.0 >> ORDINALS
    }

    /// Which of the segment's frames it is.
    #[must_use]
    pub fn ordinal(self) -> u64 {
        self.0 & ((1 << ORDINALS) - 1)
    }

    /// Whether the segment has no numbers left after it.
    pub(crate) fn is_last(self) -> bool {
        self.ordinal() == (1 << ORDINALS) - 1
    }
}

impl std::fmt::Display for Lsn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}:{}", self.segment(), self.ordinal())
    }
}

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The table's id.
    pub table: u128,
    /// The shard.
    pub shard: u32,
}

fn header(identity: Identity, id: u64) -> [u8; HEAD] {
    let mut bytes = [0; HEAD];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[12..28].copy_from_slice(&identity.table.to_le_bytes());
    bytes[28..32].copy_from_slice(&identity.shard.to_le_bytes());
    bytes[32..40].copy_from_slice(&id.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..40]);
    bytes[40..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The file of a segment.
pub(crate) fn path(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:016x}.seg"))
}

/// The segments of a folder, the oldest first.
pub(crate) fn list(folder: &Path) -> Result<Vec<u64>> {
    let listed = match std::fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TableError::disk("list the log", folder)(error)),
    };
    let mut ids = Vec::new();
    for entry in listed {
        let name = entry.map_err(TableError::disk("list the log", folder))?.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        let id = id.filter(|id| id.len() == 16).and_then(|id| u64::from_str_radix(id, 16).ok());
        ids.extend(id);
    }
    ids.sort_unstable();
    Ok(ids)
}

/// Makes an empty segment. Durable when it returns.
pub(crate) fn create(folder: &Path, identity: Identity, id: u64) -> Result<File> {
    let path = path(folder, id);
    let fault = || TableError::disk("begin the segment", path.clone());
    let mut file = OpenOptions::new().create_new(true).append(true).open(&path).map_err(fault())?;
    file.write_all(&header(identity, id)).and_then(|()| file.sync_all()).map_err(fault())?;
    sync_folder(folder)?;
    Ok(file)
}

/// Makes a new or removed name durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    let opened = File::open(folder).and_then(|folder| folder.sync_all());
    opened.map_err(TableError::disk("sync the folder", folder))
}

/// How a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With its last frame.
    Whole,
    /// With something at this byte that a crash cut off.
    Torn(u64),
}

/// What a reader of frames says to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// More.
    On,
    /// That was enough.
    Enough,
}

/// Reads the frames of a segment up to byte `limit`. `newest` says that its end may be torn; elsewhere that is damage.
pub(crate) fn read(
    folder: &Path,
    identity: Identity,
    id: u64,
    limit: u64,
    newest: bool,
    mut each: impl FnMut(Frame<'_>, u64) -> Result<Flow>,
) -> Result<End> {
    let path = path(folder, id);
    let file = File::open(&path).map_err(TableError::disk("open the segment", &path))?;
    let mut reader = BufReader::with_capacity(256 << 10, file.take(limit));
    let mut head = [0; HEAD];
    let got = fill(&mut reader, &mut head, &path)?;
    if got < HEAD {
        if newest {
            return Ok(End::Torn(0));
        }
        return Err(TableError::damaged(format!("the segment {} ends within its header", path.display())));
    }
    if head != header(identity, id) {
        return Err(TableError::damaged(format!(
            "{} is no segment {id:x} of this table's shard {}; was it copied from elsewhere?",
            path.display(),
            identity.shard
        )));
    }
    let mut at = HEAD as u64;
    let mut ordinal = 0_u64;
    let mut buffer = vec![0; HEADER];
    loop {
        buffer.resize(HEADER, 0);
        let got = fill(&mut reader, &mut buffer, &path)?;
        if got == 0 {
            return Ok(End::Whole);
        }
        let mut fault = None;
        if got < HEADER {
            fault = Some(Fault::Short);
        } else {
            match frame::payload_length(&buffer) {
                Ok(length) => {
                    buffer.resize(HEADER + length, 0);
                    let got = fill(&mut reader, &mut buffer[HEADER..], &path)?;
                    buffer.truncate(HEADER + got);
                }
                Err(wrong) => fault = Some(wrong),
            }
        }
        let decoded = match fault {
            Some(fault) => Err(fault),
            None => frame::decode(&buffer),
        };
        match decoded {
            Ok(frame) => {
                let lsn = Lsn(frame.lsn);
                let expected = if frame.flags & frame::GAP == 0 { ordinal + 1 } else { lsn.ordinal() };
                if lsn.segment() != id || lsn.ordinal() != expected || lsn.ordinal() == 0 {
                    return Err(TableError::damaged(format!(
                        "the frame at byte {at} of {} has the number {lsn}, and {} was due",
                        path.display(),
                        Lsn::new(id, expected)
                    )));
                }
                ordinal = expected;
                if each(frame, at)? == Flow::Enough {
                    return Ok(End::Whole);
                }
                at += frame.length as u64;
            }
            Err(fault) => {
                let rest_is_zero = buffer.iter().all(|byte| *byte == 0) && only_zeros(&mut reader, &path)?;
                let at_the_end = fault == Fault::Short || rest_is_zero || fill(&mut reader, &mut [0], &path)? == 0;
                if newest && at_the_end {
                    return Ok(End::Torn(at));
                }
                return Err(TableError::damaged(format!(
                    "the log is damaged: {} at byte {at}, after {}: {fault}; `windlass table repair` can skip it, and then says which batches are lost",
                    path.display(),
                    Lsn::new(id, ordinal)
                )));
            }
        }
    }
}

/// Reads until `buffer` is full or the file ends.
fn fill(reader: &mut impl Read, buffer: &mut [u8], path: &Path) -> Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match reader.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(TableError::disk("read the segment", path)(error)),
        }
    }
    Ok(got)
}

fn only_zeros(reader: &mut impl Read, path: &Path) -> Result<bool> {
    let mut buffer = [0; 4096];
    loop {
        match fill(reader, &mut buffer, path)? {
            0 => return Ok(true),
            got if buffer[..got].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}
