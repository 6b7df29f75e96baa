//! Reading a log, also while another process writes it, and deleting what nobody needs any more.

use std::fs::File;
use std::path::PathBuf;

use crate::batch::Batch;
use crate::error::{Result, TableError};
use crate::log::frame::{GAP, SENDERS};
use crate::log::segment::{self, Flow, HEAD, Identity, Lsn};

/// Reads a log.
#[derive(Clone, Debug)]
pub struct Reader {
    folder: PathBuf,
    identity: Identity,
    /// The segments, the oldest first, each with the bytes of it that are durable.
    segments: Vec<(u64, u64)>,
}

impl Reader {
    /// Looks at the log as it is now: batches that come later are not part of what this reader reads.
    ///
    /// # Errors
    ///
    /// That the disk fails, or that a segment is missing.
    pub fn open(folder: impl Into<PathBuf>, identity: Identity) -> Result<Self> {
        let folder = folder.into();
        let ids = segment::list(&folder)?;
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
            return Err(TableError::damaged(format!(
                "the segments between {:x} and {:x} are missing from {}; nothing is merged before they are back",
                pair[0],
                pair[1],
                folder.display()
            )));
        }
        let mut segments = Vec::with_capacity(ids.len());
        for (n, id) in ids.iter().enumerate() {
            let path = segment::path(&folder, *id);
            let fault = || TableError::disk("look at the segment", path.clone());
            let file = File::open(&path).map_err(fault())?;
            let bytes = file.metadata().map_err(fault())?.len();
            // What this reader is about to see must not be lost any more, or its number would be given away again.
            if n + 1 == ids.len() {
                file.sync_all().map_err(fault())?;
            }
            segments.push((*id, bytes));
        }
        Ok(Self { folder, identity, segments })
    }

    /// Checks that nothing behind `checkpoint` is gone.
    ///
    /// # Errors
    ///
    /// That segments are missing.
    pub fn must_follow(&self, checkpoint: Lsn) -> Result<()> {
        let Some((first, _)) = self.segments.first() else { return Ok(()) };
        if *first > checkpoint.segment() + 1 {
            return Err(TableError::damaged(format!(
                "the log {} begins with segment {first:x}, and the table has merged it up to {checkpoint}: what is between is missing",
                self.folder.display()
            )));
        }
        Ok(())
    }

    /// Bytes of all segments, and how many there are.
    #[must_use]
    pub fn size(&self) -> (u64, usize) {
        (self.segments.iter().map(|(_, bytes)| bytes).sum(), self.segments.len())
    }

    /// Reads the batches behind `after`. `each` says whether to go on. Returns the number of the last one that was
    /// given to it.
    ///
    /// # Errors
    ///
    /// Damage, and whatever `each` fails with.
    pub fn read(&self, after: Lsn, mut each: impl FnMut(Lsn, Batch, usize) -> Result<bool>) -> Result<Lsn> {
        let mut last = after;
        for (n, (id, bytes)) in self.segments.iter().enumerate() {
            if Lsn::new(id + 1, 0) <= after {
                continue;
            }
            let newest = n + 1 == self.segments.len();
            let mut more = true;
            segment::read(&self.folder, self.identity, *id, *bytes, newest, |frame, at| {
                let lsn = Lsn(frame.lsn);
                if lsn <= after || frame.flags & (SENDERS | GAP) != 0 {
                    return Ok(Flow::On);
                }
                let batch = Batch::decode(frame.payload).map_err(|error| {
                    TableError::damaged(format!("batch {lsn} at byte {at} of segment {id:x}: {error}"))
                })?;
                last = lsn;
                more = each(lsn, batch, frame.length)?;
                Ok(if more { Flow::On } else { Flow::Enough })
            })?;
            if !more {
                break;
            }
        }
        Ok(last)
    }
}

/// What trimming a log came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Kept {
    /// Segments that were deleted.
    pub deleted: u64,
    /// Segments that are left.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Deletes the segments, the oldest first, whose batches are all merged and have no rows that are still live. The newest
/// one stays in any case: it says which number is next.
///
/// # Errors
///
/// That the disk fails, or damage.
pub fn trim(folder: impl Into<PathBuf>, identity: Identity, checkpoint: Lsn, cutoff: i64) -> Result<Kept> {
    let folder = folder.into();
    let reader = Reader::open(&folder, identity)?;
    let mut kept = Kept { deleted: 0, segments: reader.segments.len() as u64, bytes: reader.size().0 };
    for (id, bytes) in reader.segments.iter().take(reader.segments.len().saturating_sub(1)) {
        if Lsn::new(id + 1, 0) <= checkpoint || merged(&folder, identity, *id, *bytes, checkpoint)? {
            if live(&folder, identity, *id, *bytes, cutoff)? {
                break;
            }
            let path = segment::path(&folder, *id);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(TableError::disk("delete the segment", path)(error));
                }
                _ => {}
            }
            kept.deleted += 1;
            kept.segments -= 1;
            kept.bytes -= bytes;
        } else {
            break;
        }
    }
    if kept.deleted > 0 {
        segment::sync_folder(&folder)?;
    }
    Ok(kept)
}

fn merged(folder: &std::path::Path, identity: Identity, id: u64, bytes: u64, checkpoint: Lsn) -> Result<bool> {
    let mut last = Lsn::default();
    segment::read(folder, identity, id, bytes, false, |frame, _| {
        last = Lsn(frame.lsn);
        Ok(Flow::On)
    })?;
    Ok(last <= checkpoint)
}

/// Whether a segment has rows at or after the cutoff.
fn live(folder: &std::path::Path, identity: Identity, id: u64, bytes: u64, cutoff: i64) -> Result<bool> {
    if bytes <= HEAD as u64 {
        return Ok(false);
    }
    let mut live = false;
    segment::read(folder, identity, id, bytes, false, |frame, _| {
        if frame.flags & (SENDERS | GAP) == 0 {
            live = Batch::decode(frame.payload)?.newest().is_some_and(|newest| newest >= cutoff);
        }
        Ok(if live { Flow::Enough } else { Flow::On })
    })?;
    Ok(live)
}
