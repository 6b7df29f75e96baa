//! The agents' `gob` setting: no compression, the archive cut into byte-slice values of one gob stream.

use std::io::Read;

use super::{corrupt, truncated};
use crate::error::{BackupError, Stage};
use crate::gob::TYPE_BYTES;
use crate::gob::encode::signed;
use crate::input::{Input, Stream};

/// Go's encoder makes no message of this size.
const MAX_MESSAGE: u64 = 1 << 33;

/// Whether the bytes look like a byte-slice message: length, type id 5, singleton byte, matching inner length.
pub(super) fn looks_like_slices(head: &[u8]) -> bool {
    let mut bytes = head.iter().copied();
    let Some(message) = unsigned(&mut bytes) else { return false };
    let after_length = bytes.len();
    if bytes.next() != Some(signed(TYPE_BYTES) as u8) || bytes.next() != Some(0) {
        return false;
    }
    let Some(slice) = unsigned(&mut bytes) else { return false };
    message == (after_length - bytes.len()) as u64 + slice
}

fn unsigned(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let first = bytes.next()?;
    if first < 0x80 {
        return Some(u64::from(first));
    }
    let width = usize::from(first.wrapping_neg());
    if width > 8 {
        return None;
    }
    (0..width).try_fold(0u64, |value, _| Some(value << 8 | u64::from(bytes.next()?)))
}

/// Passes slices through as they come: one can be as long as the whole archive.
#[derive(Default)]
pub(super) struct Slices {
    /// Bytes of the current slice that are still to come.
    left: u64,
}

impl Slices {
    pub(super) fn unpack<R: Read>(&mut self, input: &mut Input<'_, R>, out: &mut [u8]) -> Result<usize, BackupError> {
        let mut filled = 0;
        while filled < out.len() {
            if self.left == 0 {
                match self.begin_slice(input) {
                    Ok(true) => continue,
                    Ok(false) => break,
                    // What precedes damage is handed out first; the damage is met again at the next call.
                    Err(error) if filled > 0 && error.stage == Stage::Unpack => break,
                    Err(error) => return Err(error),
                }
            }
            let ready = input.fill()?;
            if ready.is_empty() {
                if filled > 0 {
                    break;
                }
                return Err(truncated(input.position(), "a gob byte slice"));
            }
            let count = ready.len().min(out.len() - filled).min(usize::try_from(self.left).unwrap_or(usize::MAX));
            out[filled..filled + count].copy_from_slice(&ready[..count]);
            input.consume(count);
            self.left -= count as u64;
            filled += count;
        }
        Ok(filled)
    }

    /// Reads the head of the next slice; `false` at the end of the stream. Nothing is consumed on an error.
    fn begin_slice<R: Read>(&mut self, input: &mut Input<'_, R>) -> Result<bool, BackupError> {
        /// Two lengths of at most nine bytes, a type id, a singleton byte.
        const LONGEST_HEAD: usize = 20;
        let at = input.position();
        let head = input.peek(LONGEST_HEAD)?;
        if head.is_empty() {
            return Ok(false);
        }
        let mut bytes = head.iter().copied();
        let cut = head.len() < LONGEST_HEAD;
        let number = |bytes: &mut std::iter::Copied<std::slice::Iter<'_, u8>>| {
            let width_is_right = bytes.clone().next().is_none_or(|first| !(0x80..0xf8).contains(&first));
            match unsigned(bytes) {
                Some(value) => Ok(value),
                None if cut && width_is_right => Err(truncated(at, "the length of a gob byte slice")),
                None => Err(corrupt(at, "a gob number has an impossible width")),
            }
        };
        let message = number(&mut bytes)?;
        let after_length = bytes.len();
        match (bytes.next(), bytes.next()) {
            (Some(kind), Some(0)) if kind == signed(TYPE_BYTES) as u8 => {}
            (None, _) | (_, None) => return Err(truncated(at, "the type of a gob byte slice")),
            _ => return Err(corrupt(at, "the gob stream holds something else than byte slices")),
        }
        let slice = number(&mut bytes)?;
        let inner = (after_length - bytes.len()) as u64;
        if message >= MAX_MESSAGE || slice.checked_add(inner) != Some(message) {
            return Err(corrupt(at, format!("a gob message of {message} bytes holds a slice of {slice}")));
        }
        let used = head.len() - bytes.len();
        input.consume(used);
        self.left = slice;
        Ok(true)
    }
}
