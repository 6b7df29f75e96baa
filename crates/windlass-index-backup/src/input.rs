//! The bytes of the object as they arrive, and the caller's hold on the work: progress and the wish to stop.

use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{BackupError, Code, Stage};

/// How much is read at once; also the longest stretch between two looks at [`Watch::stop`].
const READ_BYTES: usize = 64 * 1024;

/// What the caller sees of, and says to, work that is under way in another thread.
///
/// All counters only grow while one object is read. Sampling them costs the work nothing.
#[derive(Debug, Default)]
pub struct Watch {
    stopped: AtomicBool,
    bytes_read: AtomicU64,
    plain_bytes: AtomicU64,
    ids: AtomicU64,
}

impl Watch {
    /// Asks the work to end with [`Code::Cancelled`]. It looks at least every 64 KiB of input or output, but
    /// cannot interrupt a read of the caller's own reader: make that one return as well.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether [`Watch::stop`] was called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Bytes of the object read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Decompressed bytes so far.
    #[must_use]
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes.load(Ordering::Relaxed)
    }

    /// Ids decoded so far.
    #[must_use]
    pub fn ids(&self) -> u64 {
        self.ids.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self, stage: Stage, offset: u64) -> Result<(), BackupError> {
        if self.is_stopped() {
            return Err(BackupError::new(Code::Cancelled, stage, offset, "the caller asked to stop"));
        }
        Ok(())
    }

    pub(crate) fn saw_plain_bytes(&self, total: u64) {
        self.plain_bytes.store(total, Ordering::Relaxed);
    }

    pub(crate) fn saw_ids(&self, total: u64) {
        self.ids.store(total, Ordering::Relaxed);
    }
}

/// A source of bytes that hands out its own buffer, so that decoders work without copying.
///
/// Errors of lower layers come through unchanged; nothing above may turn them into an "unexpected end".
pub(crate) trait Stream {
    /// Bytes that are ready, at least one unless the stream has ended.
    fn fill(&mut self) -> Result<&[u8], BackupError>;

    /// Marks the first `count` bytes of the last [`Stream::fill`] as used.
    fn consume(&mut self, count: usize);

    /// Bytes used since the beginning.
    fn position(&self) -> u64;
}

impl<S: Stream + ?Sized> Stream for &mut S {
    fn fill(&mut self) -> Result<&[u8], BackupError> {
        (**self).fill()
    }

    fn consume(&mut self, count: usize) {
        (**self).consume(count);
    }

    fn position(&self) -> u64 {
        (**self).position()
    }
}

/// The caller's reader with a buffer in front of it.
pub(crate) struct Input<'w, R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes of the object that have left the buffer.
    used: u64,
    ended: bool,
    watch: &'w Watch,
}

impl<'w, R: Read> Input<'w, R> {
    pub(crate) fn new(reader: R, watch: &'w Watch) -> Self {
        let buffer = vec![0; READ_BYTES].into_boxed_slice();
        Self { reader, buffer, start: 0, end: 0, used: 0, ended: false, watch }
    }

    /// At least `wanted` bytes, unless the object ends before. `wanted` is at most [`READ_BYTES`].
    pub(crate) fn peek(&mut self, wanted: usize) -> Result<&[u8], BackupError> {
        if self.end - self.start < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            while self.end < wanted && !self.ended {
                self.read()?;
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// One byte, or `None` at the end.
    pub(crate) fn byte(&mut self) -> Result<Option<u8>, BackupError> {
        let byte = self.fill()?.first().copied();
        self.consume(usize::from(byte.is_some()));
        Ok(byte)
    }

    /// Reads to the end of the object and forgets what comes.
    pub(crate) fn drain(&mut self) -> Result<(), BackupError> {
        loop {
            let ready = self.fill()?.len();
            if ready == 0 {
                return Ok(());
            }
            self.consume(ready);
        }
    }

    fn read(&mut self) -> Result<(), BackupError> {
        let offset = self.used + (self.end - self.start) as u64;
        loop {
            self.watch.check(Stage::Download, offset)?;
            match self.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.end += count;
                    self.watch.bytes_read.store(offset + count as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    let message = format!("the source of the bytes failed: {error}");
                    return Err(
                        BackupError::new(Code::DownloadFailed, Stage::Download, offset, message).caused_by(error)
                    );
                }
            }
            return Ok(());
        }
    }
}

impl<R: Read> Stream for Input<'_, R> {
    fn fill(&mut self) -> Result<&[u8], BackupError> {
        if self.start == self.end && !self.ended {
            self.start = 0;
            self.end = 0;
            self.read()?;
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
