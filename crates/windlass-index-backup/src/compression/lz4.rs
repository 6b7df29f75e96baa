//! LZ4 frames (<https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>), several or skippable ones too.
//!
//! The block decoder is a library's. The framing is here because that library's frame reader takes a stream that
//! ends between magic and descriptor for one that ends well, and does not step over skippable frames.

use std::io::Read;

use xxhash_rust::xxh32::{Xxh32, xxh32};

use super::{corrupt, truncated, warn_of_trailing_bytes};
use crate::error::BackupError;
use crate::input::{Input, Stream};
use crate::warnings::Warnings;

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// A block may refer back this far into what came before it.
const HISTORY: usize = 64 * 1024;

/// Whether a frame begins here. A skippable frame looks like zstd's, so the first one must be a real one.
pub(super) fn starts_frame(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
}

#[derive(Default)]
enum State {
    #[default]
    Boundary,
    Frame(Frame),
    Ended,
}

struct Frame {
    max_block: usize,
    linked: bool,
    block_checksum: bool,
    content_checksum: Option<Xxh32>,
    content_size: Option<u64>,
    produced: u64,
}

/// Buffers grow to the block size of the frame: at most 4 MiB each.
#[derive(Default)]
pub(super) struct Lz4 {
    state: State,
    frames: u64,
    packed: Vec<u8>,
    /// Up to [`HISTORY`] bytes of earlier blocks, then the current block.
    plain: Vec<u8>,
    handed_out: usize,
}

impl Lz4 {
    pub(super) fn unpack<R: Read>(
        &mut self,
        input: &mut Input<'_, R>,
        out: &mut [u8],
        warnings: &mut Warnings,
    ) -> Result<usize, BackupError> {
        loop {
            if self.handed_out < self.plain.len() {
                let ready = &self.plain[self.handed_out..];
                let count = ready.len().min(out.len());
                out[..count].copy_from_slice(&ready[..count]);
                self.handed_out += count;
                return Ok(count);
            }
            match self.state {
                State::Boundary => self.begin_frame(input, warnings)?,
                State::Frame(_) => self.read_block(input)?,
                State::Ended => return Ok(0),
            }
        }
    }

    fn begin_frame<R: Read>(&mut self, input: &mut Input<'_, R>, warnings: &mut Warnings) -> Result<(), BackupError> {
        let at = input.position();
        let head = input.peek(8)?;
        if let [0x50..=0x5f, 0x2a, 0x4d, 0x18, length @ ..] = head {
            let length = length.first_chunk().map(|&bytes| u32::from_le_bytes(bytes));
            let mut left = u64::from(length.ok_or_else(|| truncated(at, "a skippable frame"))?) + 8;
            while left > 0 {
                let ready = input.fill()?.len();
                if ready == 0 {
                    return Err(truncated(input.position(), "a skippable frame"));
                }
                let step = left.min(ready as u64);
                input.consume(step as usize);
                left -= step;
            }
            return Ok(());
        }
        if !starts_frame(head) {
            if head.is_empty() && self.frames == 0 {
                return Err(truncated(at, "the first lz4 frame"));
            }
            if !head.is_empty() {
                warn_of_trailing_bytes(warnings, at);
            }
            self.state = State::Ended;
            return Ok(());
        }
        self.state = State::Frame(read_descriptor(input)?);
        self.frames += 1;
        self.plain.clear();
        self.handed_out = 0;
        Ok(())
    }

    fn read_block<R: Read>(&mut self, input: &mut Input<'_, R>) -> Result<(), BackupError> {
        let State::Frame(frame) = &mut self.state else { return Ok(()) };
        let at = input.position();
        let word = u32::from_le_bytes(take(input)?);
        if word == 0 {
            frame.finish(input)?;
            self.state = State::Boundary;
            return Ok(());
        }
        let (length, stored) = ((word & 0x7fff_ffff) as usize, word >> 31 == 1);
        if length > frame.max_block {
            return Err(corrupt(
                at,
                format!("an lz4 block of {length} bytes in a frame of {}-byte blocks", frame.max_block),
            ));
        }
        read_into(input, &mut self.packed, length)?;
        if frame.block_checksum {
            let checksum = u32::from_le_bytes(take(input)?);
            if checksum != xxh32(&self.packed, 0) {
                return Err(corrupt(at, "the checksum of an lz4 block is wrong"));
            }
        }
        // Everything before has been handed out: keep what this block may refer to.
        let history = if frame.linked { self.plain.len().min(HISTORY) } else { 0 };
        self.plain.drain(..self.plain.len() - history);
        if stored {
            self.plain.extend_from_slice(&self.packed);
        } else {
            self.plain.resize(history + frame.max_block, 0);
            let (before, block) = self.plain.split_at_mut(history);
            let made = lz4_flex::block::decompress_into_with_dict(&self.packed, block, before)
                .map_err(|error| corrupt(at, format!("an lz4 block is damaged: {error}")))?;
            self.plain.truncate(history + made);
        }
        self.handed_out = history;
        let made = &self.plain[history..];
        frame.produced += made.len() as u64;
        if let Some(hash) = &mut frame.content_checksum {
            hash.update(made);
        }
        Ok(())
    }
}

impl Frame {
    fn finish<R: Read>(&self, input: &mut Input<'_, R>) -> Result<(), BackupError> {
        let at = input.position();
        if let Some(size) = self.content_size.filter(|&size| size != self.produced) {
            return Err(corrupt(at, format!("the lz4 frame has {} bytes and says {size}", self.produced)));
        }
        if let Some(hash) = &self.content_checksum {
            let checksum = u32::from_le_bytes(take(input)?);
            if checksum != hash.digest() {
                return Err(corrupt(at, "the checksum of the lz4 frame's content is wrong"));
            }
        }
        Ok(())
    }
}

fn read_descriptor<R: Read>(input: &mut Input<'_, R>) -> Result<Frame, BackupError> {
    let at = input.position();
    let [.., flags, sizes]: [u8; 6] = take(input)?;
    let mut descriptor = vec![flags, sizes];
    if flags >> 6 != 1 || flags & 0x02 != 0 || sizes & 0x8f != 0 {
        return Err(corrupt(at, format!("lz4 frame flags {flags:#04x} {sizes:#04x} are not of version 1")));
    }
    let max_block = match sizes >> 4 & 7 {
        code @ 4..=7 => 1usize << (8 + 2 * code),
        code => return Err(corrupt(at, format!("lz4 block size code {code} does not exist"))),
    };
    let content_size = if flags & 0x08 != 0 {
        let bytes = take::<8, R>(input)?;
        descriptor.extend_from_slice(&bytes);
        Some(u64::from_le_bytes(bytes))
    } else {
        None
    };
    if flags & 0x01 != 0 {
        return Err(corrupt(at, "the lz4 frame needs a dictionary, which backups never do"));
    }
    let [checksum] = take(input)?;
    if checksum != (xxh32(&descriptor, 0) >> 8) as u8 {
        return Err(corrupt(at, "the checksum of an lz4 frame descriptor is wrong"));
    }
    Ok(Frame {
        max_block,
        linked: flags & 0x20 == 0,
        block_checksum: flags & 0x10 != 0,
        content_checksum: (flags & 0x04 != 0).then(|| Xxh32::new(0)),
        content_size,
        produced: 0,
    })
}

fn take<const N: usize, R: Read>(input: &mut Input<'_, R>) -> Result<[u8; N], BackupError> {
    let at = input.position();
    let bytes = *input.peek(N)?.first_chunk::<N>().ok_or_else(|| truncated(at, "an lz4 frame"))?;
    input.consume(N);
    Ok(bytes)
}

/// Reads `length` bytes, growing only as they arrive.
fn read_into<R: Read>(input: &mut Input<'_, R>, into: &mut Vec<u8>, length: usize) -> Result<(), BackupError> {
    into.clear();
    while into.len() < length {
        let ready = input.fill()?;
        if ready.is_empty() {
            return Err(truncated(input.position(), "an lz4 block"));
        }
        let count = ready.len().min(length - into.len());
        into.extend_from_slice(&ready[..count]);
        input.consume(count);
    }
    Ok(())
}
