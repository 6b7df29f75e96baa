//! Zstandard frames (RFC 8878). The library decodes them; where frames begin and end is watched here.

use std::io::Read;

use zstd::stream::raw::{DParameter, Decoder, Operation};

use super::{corrupt, truncated, warn_of_trailing_bytes};
use crate::error::{BackupError, Code, Stage};
use crate::input::{Input, Stream};
use crate::warnings::Warnings;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The longest frame header: magic, descriptor, window, dictionary id, content size.
const MAX_HEADER: usize = 18;

/// Whether a frame, skippable or not, begins here.
pub(super) fn starts_frame(head: &[u8]) -> bool {
    match head.first_chunk::<4>() {
        Some(&[first, rest @ ..]) => [first, rest[0], rest[1], rest[2]] == MAGIC || is_skippable(first, rest),
        None => false,
    }
}

fn is_skippable(first: u8, rest: [u8; 3]) -> bool {
    first & 0xf0 == 0x50 && rest == [0x2a, 0x4d, 0x18]
}

#[derive(PartialEq, Eq)]
enum State {
    Boundary,
    Frame,
    Ended,
}

pub(super) struct Zstandard {
    decoder: Decoder<'static>,
    window: u64,
    state: State,
    frames: u64,
    /// Damage found behind bytes that were still good.
    damaged: Option<String>,
}

impl Zstandard {
    /// `window` is the largest window, in bytes, that a frame may ask for.
    pub(super) fn new(window: u64) -> Result<Self, BackupError> {
        let setup = || {
            let mut decoder = Decoder::new()?;
            decoder.set_parameter(DParameter::WindowLogMax(window.ilog2().clamp(10, 27)))?;
            Ok(decoder)
        };
        let decoder = setup().map_err(|error: std::io::Error| {
            let message = "the zstd decoder could not be set up; there is probably no memory left";
            BackupError::new(Code::CompressionLimit, Stage::Unpack, 0, message).caused_by(error)
        })?;
        Ok(Self { decoder, window, state: State::Boundary, frames: 0, damaged: None })
    }

    pub(super) fn unpack<R: Read>(
        &mut self,
        input: &mut Input<'_, R>,
        out: &mut [u8],
        warnings: &mut Warnings,
    ) -> Result<usize, BackupError> {
        let mut filled = 0;
        loop {
            match self.state {
                State::Ended => return Ok(filled),
                State::Boundary => {
                    if filled > 0 {
                        return Ok(filled);
                    }
                    self.begin_frame(input, warnings)?;
                }
                State::Frame => {
                    if let Some(why) = &self.damaged {
                        return Err(corrupt(input.position(), why.clone()));
                    }
                    let ready = input.fill()?;
                    let ended = ready.is_empty();
                    // With no input left the decoder may still hold output of what it has taken.
                    match self.decoder.run_on_buffers(ready, &mut out[filled..]) {
                        Ok(status) => {
                            input.consume(status.bytes_read);
                            filled += status.bytes_written;
                            if status.remaining == 0 {
                                self.state = State::Boundary;
                            } else if ended && status.bytes_written == 0 && filled == 0 {
                                return Err(truncated(input.position(), "a zstd frame"));
                            }
                        }
                        Err(error) => self.damaged = Some(format!("the zstd frame is damaged: {error}")),
                    }
                    if filled == out.len() || (ended || self.damaged.is_some()) && filled > 0 {
                        return Ok(filled);
                    }
                }
            }
        }
    }

    fn begin_frame<R: Read>(&mut self, input: &mut Input<'_, R>, warnings: &mut Warnings) -> Result<(), BackupError> {
        let at = input.position();
        let head = input.peek(MAX_HEADER)?;
        if head.is_empty() && self.frames > 0 {
            self.state = State::Ended;
            return Ok(());
        }
        if !starts_frame(head) {
            if self.frames == 0 {
                return Err(truncated(at, "the first zstd frame"));
            }
            warn_of_trailing_bytes(warnings, at);
            self.state = State::Ended;
            return Ok(());
        }
        let needed = window_of(head);
        if needed > self.window {
            let message = format!(
                "a zstd frame asks for a window of {needed} bytes, {} are allowed; raise memory_limit if that is right",
                self.window
            );
            return Err(BackupError::new(Code::CompressionLimit, Stage::Unpack, at, message));
        }
        self.frames += 1;
        self.state = State::Frame;
        Ok(())
    }
}

/// The window that the frame beginning here asks for; 0 if it has none or its header is incomplete.
fn window_of(head: &[u8]) -> u64 {
    let Some(&descriptor) = head.get(4).filter(|_| head.starts_with(&MAGIC)) else { return 0 };
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let Some(&window) = head.get(5) else { return 0 };
        let base = 1u64 << (10 + (window >> 3));
        return base + base / 8 * u64::from(window & 7);
    }
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let width = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let Some(field) = head.get(5 + dictionary..5 + dictionary + width) else { return 0 };
    let value = field.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    if width == 2 { value + 256 } else { value }
}
