//! Skipping what is damaged: only on request, and never without saying what is lost.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Result, TableError};
use crate::log::frame::{self, GAP, HEADER};
use crate::log::segment::{self, End, Flow, HEAD, Identity, Lsn};
use crate::log::writer::lock;

/// What a repair of one segment lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// The segment.
    pub segment: u64,
    /// Numbers that are lost: after the first, before the second.
    pub lost: Vec<(Lsn, Lsn)>,
    /// Bytes that were skipped.
    pub skipped_bytes: u64,
}

/// Rewrites every damaged segment without what is damaged. The damaged file stays beside it as `….seg.damaged`.
///
/// # Errors
///
/// [`TableError::Held`] when somebody writes to the log, that the disk fails, or that a segment's header is damaged, which
/// cannot be mended.
pub fn repair(folder: &Path, identity: Identity) -> Result<Vec<Repaired>> {
    if segment::list(folder)?.is_empty() {
        return Ok(Vec::new());
    }
    // A writer would go on with the file that is replaced, and what it takes in would be lost.
    let _lock = lock(folder)?;
    let ids = segment::list(folder)?;
    let mut repaired = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let newest = n + 1 == ids.len();
        match segment::read(folder, identity, *id, u64::MAX, newest, |_, _| Ok(Flow::On)) {
            Ok(End::Whole | End::Torn(_)) => {}
            Err(TableError::Damaged(_)) => repaired.push(mend(folder, *id)?),
            Err(error) => return Err(error),
        }
    }
    Ok(repaired)
}

fn mend(folder: &Path, id: u64) -> Result<Repaired> {
    let path = segment::path(folder, id);
    let bytes = std::fs::read(&path).map_err(TableError::disk("read the segment", &path))?;
    let Some(head) = bytes.get(..HEAD) else {
        return Err(TableError::damaged(format!("the segment {} ends within its header", path.display())));
    };
    let mut mended = head.to_vec();
    let mut result = Repaired { segment: id, lost: Vec::new(), skipped_bytes: 0 };
    let (mut at, mut last, mut in_gap) = (HEAD, Lsn::new(id, 0), false);
    while at < bytes.len() {
        match frame::decode(&bytes[at..]) {
            Ok(found) if Lsn(found.lsn).segment() == id && Lsn(found.lsn) > last => {
                let lsn = Lsn(found.lsn);
                if in_gap {
                    result.lost.push((last, lsn));
                    // Takes the place of the last one that is lost, so that the numbers go on from there.
                    if lsn.ordinal() > last.ordinal() + 1 {
                        let note = serde_json::to_vec(&(last, lsn)).unwrap_or_default();
                        mended.extend(frame::encode(lsn.0 - 1, GAP, &note));
                    }
                }
                mended.extend_from_slice(&bytes[at..at + found.length]);
                (last, in_gap) = (lsn, false);
                at += found.length;
            }
            _ => {
                in_gap = true;
                result.skipped_bytes += 1;
                at += 1;
                // A frame begins where its length leads to a sum that is right; anything shorter cannot be one.
                if bytes.len() - at < HEADER {
                    result.skipped_bytes += (bytes.len() - at) as u64;
                    break;
                }
            }
        }
    }
    if in_gap {
        result.lost.push((last, Lsn::new(id + 1, 0)));
    }
    let fresh = path.with_extension("seg.mended");
    let mut file = File::create(&fresh).map_err(TableError::disk("write the mended segment", &fresh))?;
    file.write_all(&mended).and_then(|()| file.sync_all()).map_err(TableError::disk("write", &fresh))?;
    let aside = path.with_extension("seg.damaged");
    std::fs::copy(&path, &aside).map_err(TableError::disk("keep the damaged segment as", &aside))?;
    std::fs::rename(&fresh, &path).map_err(TableError::disk("replace the segment", &path))?;
    segment::sync_folder(folder)?;
    Ok(result)
}
