//! Frames: pieces of at most 1 MiB, each compressed or not, each with its checksum.
//!
//! ```text
//! offset  bytes
//!      0      1  0 stored as it is, 1 zstd
//!      1      3  zero
//!      4      4  bytes stored after this header
//!      8      4  bytes they decode to, 1 to 1 MiB
//!     12      4  CRC-32 of the twelve bytes before and of the bytes stored
//! ```
//!
//! Numbers are little-endian. Compressed bytes are always fewer than those they decode to.

use thiserror::Error;

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 16;
/// Most bytes a frame decodes to: what bounds the memory of whoever decodes it.
pub(crate) const LARGEST: usize = 1024 * 1024;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Why bytes are not what the format says.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{what} {why}")]
pub struct FormatError {
    what: &'static str,
    why: String,
}

impl FormatError {
    pub(crate) fn new(what: &'static str, why: impl Into<String>) -> Self {
        Self { what, why: why.into() }
    }
}

fn bad(why: impl Into<String>) -> FormatError {
    FormatError::new("a frame", why)
}

/// Compresses, with a context kept between frames.
pub(crate) struct Packer {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    room: Vec<u8>,
}

impl Packer {
    /// `level` 0 compresses nothing.
    pub(crate) fn new(level: i32) -> Self {
        let zstd = if level == 0 { None } else { zstd::bulk::Compressor::new(level.clamp(1, 19)).ok() };
        Self { zstd, room: Vec::new() }
    }

    /// Appends `raw`, 1 to [`LARGEST`] bytes, as one frame.
    pub(crate) fn append(&mut self, raw: &[u8], to: &mut Vec<u8>) {
        debug_assert!(!raw.is_empty() && raw.len() <= LARGEST);
        self.room.resize(raw.len().saturating_sub(1), 0);
        let shorter = self.zstd.as_mut().and_then(|zstd| zstd.compress_to_buffer(raw, &mut self.room[..]).ok());
        let (codec, stored) = shorter.map_or((PLAIN, raw), |length| (ZSTD, &self.room[..length]));
        let mut header = [0; HEADER];
        header[0] = codec;
        header[4..8].copy_from_slice(&(stored.len() as u32).to_le_bytes());
        header[8..12].copy_from_slice(&(raw.len() as u32).to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[..12]);
        crc.update(stored);
        header[12..].copy_from_slice(&crc.finalize().to_le_bytes());
        to.extend_from_slice(&header);
        to.extend_from_slice(stored);
    }
}

/// A frame's header, its numbers within their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    bytes: [u8; HEADER],
    pub(crate) stored: usize,
    pub(crate) raw: usize,
}

impl FrameHeader {
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Result<Self, FormatError> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        let (stored, raw) = (number(4), number(8));
        if bytes[0] > ZSTD || bytes[1..4] != [0; 3] {
            return Err(bad("has a codec that is not known"));
        }
        if raw == 0 || raw > LARGEST {
            return Err(bad(format!("claims to decode to {raw} bytes; 1 to {LARGEST} are allowed")));
        }
        if stored == 0 || stored > raw || (bytes[0] == PLAIN) != (stored == raw) {
            return Err(bad(format!("claims {stored} bytes stored for {raw}")));
        }
        Ok(Self { bytes: *bytes, stored, raw })
    }
}

/// Decodes, with a context kept between frames.
pub(crate) struct Unpacker {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
    raw: Vec<u8>,
}

impl Unpacker {
    pub(crate) fn new() -> Self {
        Self { zstd: None, raw: Vec::new() }
    }

    /// The bytes of one frame.
    pub(crate) fn decode(&mut self, header: &FrameHeader, stored: &[u8]) -> Result<&[u8], FormatError> {
        if stored.len() != header.stored {
            return Err(bad("is shorter than its header says"));
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header.bytes[..12]);
        crc.update(stored);
        if crc.finalize().to_le_bytes() != header.bytes[12..] {
            return Err(bad("has a wrong checksum"));
        }
        self.raw.clear();
        if header.bytes[0] == PLAIN {
            self.raw.extend_from_slice(stored);
            return Ok(&self.raw);
        }
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(zstd::bulk::Decompressor::new().map_err(|error| bad(error.to_string()))?),
        };
        self.raw.resize(header.raw, 0);
        let length = zstd
            .decompress_to_buffer(stored, &mut self.raw[..])
            .map_err(|error| bad(format!("does not decompress: {error}")))?;
        if length != header.raw {
            return Err(bad(format!("decompresses to {length} bytes instead of {}", header.raw)));
        }
        Ok(&self.raw)
    }
}

/// The bytes of all frames in `stored`, one after the other: an extent read whole.
///
/// # Errors
///
/// [`FormatError`] when a frame is damaged, cut, or they decode to more than `limit` bytes.
pub fn decode_extent(mut stored: &[u8], limit: usize) -> Result<Vec<u8>, FormatError> {
    let mut unpacker = Unpacker::new();
    let mut all = Vec::new();
    while !stored.is_empty() {
        let (header, rest) = stored.split_first_chunk::<HEADER>().ok_or_else(|| bad("is cut in its header"))?;
        let header = FrameHeader::parse(header)?;
        if header.raw > limit - all.len() {
            return Err(bad(format!("would exceed the {limit} bytes expected")));
        }
        let (body, rest) = rest.split_at_checked(header.stored).ok_or_else(|| bad("is cut"))?;
        all.extend_from_slice(unpacker.decode(&header, body)?);
        stored = rest;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(raw: &[u8], level: i32) -> Vec<u8> {
        let mut out = Vec::new();
        Packer::new(level).append(raw, &mut out);
        out
    }

    #[test]
    fn what_does_not_shrink_is_stored_as_it_is() {
        let noise: Vec<u8> = (0..5000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        assert!(framed(&noise, 1).len() <= noise.len() + HEADER);
        assert_eq!(framed(b"x", 1).len(), 1 + HEADER);
        assert!(framed(&[7; 5000], 1).len() < 100);
        assert_eq!(framed(&[7; 5000], 0).len(), 5000 + HEADER);
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        for raw in [vec![7; 3000], (0..=255).collect::<Vec<u8>>()] {
            let good = framed(&raw, 1);
            assert_eq!(decode_extent(&good, LARGEST).unwrap(), raw);
            for at in 0..good.len() {
                let mut damaged = good.clone();
                damaged[at] ^= 0x10;
                assert!(decode_extent(&damaged, LARGEST).is_err(), "byte {at}");
                if at > 0 {
                    assert!(decode_extent(&good[..at], LARGEST).is_err(), "cut at {at}");
                }
            }
        }
    }

    #[test]
    fn hostile_lengths_take_no_memory() {
        let mut header = [0; HEADER];
        for (stored, raw) in [(u32::MAX, u32::MAX), (1, u32::MAX), (0, 0), (10, 5), (1, 0), (5, LARGEST as u32 + 1)] {
            for codec in [PLAIN, ZSTD, 2] {
                header[0] = codec;
                header[4..8].copy_from_slice(&stored.to_le_bytes());
                header[8..12].copy_from_slice(&raw.to_le_bytes());
                assert!(FrameHeader::parse(&header).is_err(), "{stored} {raw} {codec}");
            }
        }
        // Many small frames must not add up beyond the limit.
        let mut many = Vec::new();
        let mut packer = Packer::new(1);
        for _ in 0..10 {
            packer.append(&[0; 1000], &mut many);
        }
        assert!(decode_extent(&many, 9999).is_err());
        assert_eq!(decode_extent(&many, 10_000).unwrap().len(), 10_000);
    }

    proptest! {
        #[test]
        fn frames_round_trip(raw in prop::collection::vec(any::<u8>(), 1..20_000), level in 0..4) {
            let good = framed(&raw, level);
            prop_assert!(good.len() <= raw.len() + HEADER);
            prop_assert_eq!(decode_extent(&good, LARGEST).unwrap(), raw);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_extent(&bytes, LARGEST);
        }
    }
}
