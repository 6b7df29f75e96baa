//! The decompressed object as a stream with its own buffer.

use std::io::Read;

use crate::compression::{Compression, PLAIN_BYTES, Unpacked};
use crate::error::BackupError;
use crate::input::Stream;
use crate::warnings::Warnings;

/// Decompressed bytes, a buffer of [`PLAIN_BYTES`] at a time.
pub(crate) struct Plain<'w, R> {
    unpacked: Unpacked<'w, R>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    used: u64,
    ended: bool,
}

impl<'w, R: Read> Plain<'w, R> {
    pub(crate) fn new(unpacked: Unpacked<'w, R>) -> Self {
        let buffer = vec![0; PLAIN_BYTES].into_boxed_slice();
        Self { unpacked, buffer, start: 0, end: 0, used: 0, ended: false }
    }

    pub(crate) fn compression(&self) -> Compression {
        self.unpacked.compression()
    }

    pub(crate) fn warnings(&mut self) -> &mut Warnings {
        self.unpacked.warnings()
    }

    /// Reads everything that is left, checksums and all.
    pub(crate) fn drain(&mut self) -> Result<(), BackupError> {
        loop {
            let ready = self.fill()?.len();
            if ready == 0 {
                return self.unpacked.drain();
            }
            self.consume(ready);
        }
    }
}

impl<R: Read> Stream for Plain<'_, R> {
    fn fill(&mut self) -> Result<&[u8], BackupError> {
        if self.start == self.end && !self.ended {
            self.start = 0;
            self.end = 0;
            self.end = self.unpacked.unpack(&mut self.buffer)?;
            self.ended = self.end == 0;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start);
        self.start += count;
        self.used += count as u64;
    }

    fn position(&self) -> u64 {
        self.used
    }
}
