//! Gzip members (RFC 1952), each with its checksum and length verified.

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};

use super::{corrupt, truncated, warn_of_trailing_bytes};
use crate::error::BackupError;
use crate::input::{Input, Stream};
use crate::warnings::Warnings;

const FLAG_HEADER_CRC: u8 = 0x02;
const FLAG_EXTRA: u8 = 0x04;
const FLAG_NAME: u8 = 0x08;
const FLAG_COMMENT: u8 = 0x10;
const RESERVED_FLAGS: u8 = 0xe0;

/// No writer gives its file a longer name or comment; an endless one must not pass for progress.
const MAX_HEADER_TEXT: usize = 1 << 20;

enum State {
    Header,
    Body,
    /// The body turned out damaged after bytes that were still good and have been handed out.
    Damaged(String),
    Trailer,
    Ended,
}

pub(super) struct Gzip {
    inflate: Decompress,
    crc: crc32fast::Hasher,
    /// Bytes of this member, modulo 2^32 as in the trailer.
    size: u32,
    state: State,
}

impl Default for Gzip {
    fn default() -> Self {
        Self { inflate: Decompress::new(false), crc: crc32fast::Hasher::new(), size: 0, state: State::Header }
    }
}

impl Gzip {
    /// Errors come only when nothing good is left to hand out, so that what precedes damage can be used.
    pub(super) fn unpack<R: Read>(
        &mut self,
        input: &mut Input<'_, R>,
        out: &mut [u8],
        warnings: &mut Warnings,
    ) -> Result<usize, BackupError> {
        loop {
            match &self.state {
                State::Header => {
                    read_header(input)?;
                    self.inflate.reset(false);
                    self.crc.reset();
                    self.size = 0;
                    self.state = State::Body;
                }
                State::Body => {
                    let count = self.inflate(input, out)?;
                    if count > 0 {
                        self.crc.update(&out[..count]);
                        self.size = self.size.wrapping_add(count as u32);
                        return Ok(count);
                    }
                }
                State::Damaged(why) => return Err(corrupt(input.position(), why.clone())),
                State::Trailer => self.read_trailer(input, warnings)?,
                State::Ended => return Ok(0),
            }
        }
    }

    fn inflate<R: Read>(&mut self, input: &mut Input<'_, R>, out: &mut [u8]) -> Result<usize, BackupError> {
        let mut filled = 0;
        while filled < out.len() {
            let ready = input.fill()?;
            if ready.is_empty() {
                return if filled > 0 { Ok(filled) } else { Err(truncated(input.position(), "a gzip member")) };
            }
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(ready, &mut out[filled..], FlushDecompress::None);
            input.consume((self.inflate.total_in() - before_in) as usize);
            let made = (self.inflate.total_out() - before_out) as usize;
            filled += made;
            match status {
                Ok(Status::StreamEnd) => {
                    self.state = State::Trailer;
                    break;
                }
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) => {
                    self.state = State::Damaged(format!("the deflated data is damaged: {error}"));
                    break;
                }
            }
        }
        Ok(filled)
    }

    fn read_trailer<R: Read>(&mut self, input: &mut Input<'_, R>, warnings: &mut Warnings) -> Result<(), BackupError> {
        let at = input.position();
        let Some(&[c0, c1, c2, c3, s0, s1, s2, s3]) = input.peek(8)?.first_chunk::<8>() else {
            return Err(truncated(at, "the checksum of a gzip member"));
        };
        let (crc, size) = (u32::from_le_bytes([c0, c1, c2, c3]), u32::from_le_bytes([s0, s1, s2, s3]));
        let computed = self.crc.clone().finalize();
        if crc != computed {
            return Err(corrupt(at, format!("the content's CRC-32 is {computed:08x}, the member says {crc:08x}")));
        }
        if size != self.size {
            return Err(corrupt(at, format!("the member has {} bytes (mod 2^32) and says {size}", self.size)));
        }
        input.consume(8);
        let next = input.peek(2)?;
        self.state = if next.starts_with(&[0x1f, 0x8b]) {
            State::Header
        } else {
            if !next.is_empty() {
                warn_of_trailing_bytes(warnings, at + 8);
            }
            State::Ended
        };
        Ok(())
    }
}

/// Reads a member's header and checks its own checksum, if it has one.
fn read_header<R: Read>(input: &mut Input<'_, R>) -> Result<(), BackupError> {
    let mut header = Header { input, crc: crc32fast::Hasher::new() };
    let fixed: [u8; 10] = header.bytes()?;
    let [_, _, method, flags, ..] = fixed;
    let at = header.input.position();
    if !fixed.starts_with(&[0x1f, 0x8b]) {
        return Err(corrupt(at, "the gzip member does not begin with 1f 8b"));
    }
    if method != 8 || flags & RESERVED_FLAGS != 0 {
        return Err(corrupt(at, format!("gzip method {method} with flags {flags:#04x} does not exist")));
    }
    if flags & FLAG_EXTRA != 0 {
        for _ in 0..u16::from_le_bytes(header.bytes()?) {
            header.bytes::<1>()?;
        }
    }
    for text in [FLAG_NAME, FLAG_COMMENT] {
        if flags & text != 0 {
            let mut length = 0;
            while header.bytes()? != [0] {
                length += 1;
                if length > MAX_HEADER_TEXT {
                    return Err(corrupt(header.input.position(), "the gzip header's name does not end"));
                }
            }
        }
    }
    if flags & FLAG_HEADER_CRC != 0 {
        let computed = header.crc.clone().finalize() as u16;
        let stored = u16::from_le_bytes(header.bytes()?);
        if stored != computed {
            return Err(corrupt(header.input.position(), "the gzip header's checksum is wrong"));
        }
    }
    Ok(())
}

struct Header<'i, 'w, R> {
    input: &'i mut Input<'w, R>,
    crc: crc32fast::Hasher,
}

impl<R: Read> Header<'_, '_, R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.input.byte()?.ok_or_else(|| truncated(self.input.position(), "a gzip header"))?;
        }
        self.crc.update(&bytes);
        Ok(bytes)
    }
}
