//! Packs: many outputs in one object.
//!
//! A pack is `WLGOPCK1` and then frames. Consecutive frames that belong together are an *extent*. Small outputs share
//! an extent of one frame; a larger output has an extent of its own, of as many frames as it needs.

use std::io::{self, Read};

use crate::frame::{LARGEST, Packer};
use crate::id::OutputId;
use crate::name::Name;
use crate::table::Location;

/// The first bytes of a pack.
pub(crate) const MAGIC: &[u8; 8] = b"WLGOPCK1";
/// Outputs below this share frames.
const SMALL: u64 = 32 * 1024;
/// A shared frame is closed when it holds this much: what reading one small output costs at most.
const SHARED: usize = 256 * 1024;

/// An output's place in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) output: OutputId,
    pub(crate) location: Location,
}

/// A pack being filled.
pub(crate) struct PackDraft {
    name: Name,
    bytes: Vec<u8>,
    packer: Packer,
    shared: Vec<u8>,
    waiting: Vec<(OutputId, u32)>,
    placed: Vec<Placed>,
}

/// A pack ready to be written.
pub(crate) struct Pack {
    pub(crate) name: Name,
    pub(crate) bytes: Vec<u8>,
    pub(crate) placed: Vec<Placed>,
}

impl PackDraft {
    pub(crate) fn new(name: Name, level: i32) -> Self {
        Self {
            name,
            bytes: MAGIC.to_vec(),
            packer: Packer::new(level),
            shared: Vec::new(),
            waiting: Vec::new(),
            placed: Vec::new(),
        }
    }

    /// About how large it would be if it were finished now.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.shared.len() / 3
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.placed.is_empty() && self.waiting.is_empty()
    }

    /// Adds an output of `size` bytes, which is above zero. An error of `body` leaves the pack as it was, but for
    /// bytes that nothing refers to.
    pub(crate) fn add(&mut self, output: OutputId, size: u64, body: &mut dyn Read) -> io::Result<()> {
        let mut body = body.take(size);
        if size < SMALL {
            let start = self.shared.len();
            if body.read_to_end(&mut self.shared)? as u64 != size {
                self.shared.truncate(start);
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            self.waiting.push((output, start as u32));
            if self.shared.len() >= SHARED {
                self.close_shared();
            }
            return Ok(());
        }
        let offset = self.bytes.len();
        let mut left = size;
        let mut piece = Vec::new();
        while left > 0 {
            piece.clear();
            let wanted = left.min(LARGEST as u64);
            if (&mut body).take(wanted).read_to_end(&mut piece)? as u64 != wanted {
                self.bytes.truncate(offset);
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            self.packer.append(&piece, &mut self.bytes);
            left -= wanted;
        }
        let location = self.extent(offset, 0);
        self.placed.push(Placed { output, location });
        Ok(())
    }

    fn extent(&self, offset: usize, within: u32) -> Location {
        Location { pack: self.name, offset: offset as u32, stored: (self.bytes.len() - offset) as u32, within }
    }

    fn close_shared(&mut self) {
        if self.shared.is_empty() {
            return;
        }
        let offset = self.bytes.len();
        self.packer.append(&self.shared, &mut self.bytes);
        for (output, within) in std::mem::take(&mut self.waiting) {
            let location = self.extent(offset, within);
            self.placed.push(Placed { output, location });
        }
        self.shared.clear();
    }

    pub(crate) fn finish(mut self) -> Pack {
        self.close_shared();
        Pack { name: self.name, bytes: self.bytes, placed: self.placed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::decode_extent;

    #[test]
    fn every_output_is_found_at_its_place() {
        let bodies: Vec<Vec<u8>> = (1..200u32)
            .map(|i| (0..i * 37 % 5000 + 1).map(|j| (i.wrapping_mul(j) >> 3) as u8).collect())
            .chain([vec![3; 40_000], vec![5; 3 * LARGEST + 17], vec![1]])
            .collect();
        let mut draft = PackDraft::new(Name([1; 16]), 1);
        for body in &bodies {
            draft.add(OutputId::of(body), body.len() as u64, &mut &body[..]).unwrap();
        }
        let short = draft.add(OutputId::EMPTY, 10, &mut &b"short"[..]);
        assert_eq!(short.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let pack = draft.finish();
        assert!(pack.bytes.starts_with(MAGIC));
        for body in &bodies {
            let at = pack.placed.iter().find(|placed| placed.output == OutputId::of(body)).unwrap().location;
            let extent = &pack.bytes[at.offset as usize..(at.offset + at.stored) as usize];
            let raw = decode_extent(extent, 4 * LARGEST).unwrap();
            assert!(raw[at.within as usize..].starts_with(body));
        }
        assert_eq!(pack.placed.len(), bodies.len());
    }
}
