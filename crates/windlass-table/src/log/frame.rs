//! A frame: bytes with their length, checksum and number. See `docs/format-ingest-log.md`.

use std::fmt;

/// Bytes before the payload.
pub(crate) const HEADER: usize = 20;
/// Most bytes of a payload: what a reader holds at once, whatever a header claims.
pub(crate) const MOST: usize = 96 << 20;

/// The payload is the table of senders.
pub(crate) const SENDERS: u32 = 1;
/// The payload says which numbers a repair has lost.
pub(crate) const GAP: u32 = 2;

/// A frame in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) lsn: u64,
    pub(crate) flags: u32,
    pub(crate) payload: &'a [u8],
    /// Bytes of the whole frame.
    pub(crate) length: usize,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// They end before the frame does.
    Short,
    /// The length cannot be true.
    Length(usize),
    /// The checksum is another.
    Checksum,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("it ends in the middle of a frame"),
            Self::Length(length) => write!(f, "a frame of {length} bytes cannot be"),
            Self::Checksum => f.write_str("the checksum is wrong"),
        }
    }
}

fn checksum(length: [u8; 4], rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), rest)
}

/// Writes a frame.
pub(crate) fn encode(lsn: u64, flags: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&lsn.to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes.extend_from_slice(payload);
    let sum = checksum(length, &bytes[8..]).to_le_bytes();
    bytes[4..8].copy_from_slice(&sum);
    bytes
}

/// Reads the length of the payload from the beginning of a frame.
pub(crate) fn payload_length(header: &[u8]) -> Result<usize, Fault> {
    let length = header.first_chunk::<4>().ok_or(Fault::Short)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MOST { Err(Fault::Length(length)) } else { Ok(length) }
}

/// Reads the frame at the beginning of `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Result<Frame<'_>, Fault> {
    let length = payload_length(bytes)?;
    let bytes = bytes.get(..HEADER + length).ok_or(Fault::Short)?;
    let four =
        |at: usize| bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>()).copied().unwrap_or_default();
    if checksum(four(0), &bytes[8..]) != u32::from_le_bytes(four(4)) {
        return Err(Fault::Checksum);
    }
    let lsn = bytes.get(8..16).and_then(|bytes| bytes.first_chunk::<8>()).copied().unwrap_or_default();
    Ok(Frame {
        lsn: u64::from_le_bytes(lsn),
        flags: u32::from_le_bytes(four(16)),
        payload: &bytes[HEADER..],
        length: HEADER + length,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_damage_is_seen_at_every_byte() {
        let bytes = encode(0x0102_0304, 7, b"payload");
        let frame = decode(&bytes).unwrap();
        assert_eq!((frame.lsn, frame.flags, frame.payload, frame.length), (0x0102_0304, 7, &b"payload"[..], 27));
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x40;
            assert!(decode(&wrong).is_err(), "byte {at}");
            assert_eq!(decode(&bytes[..at]), Err(Fault::Short));
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_anything_is_read() {
        assert_eq!(decode(&[0xff; 64]), Err(Fault::Length(u32::MAX as usize)));
    }
}
