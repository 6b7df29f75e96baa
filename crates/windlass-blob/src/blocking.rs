//! A reader for blocking code: decoders that want [`std::io::Read`].

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, OnceLock};

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{BlobError, ErrorKind, Operation, Result};
use crate::read::BlobReader;
use crate::store::Meta;

/// Chunks waiting between the async side and the blocking side. When they are full, the network waits.
const WAITING: usize = 4;
/// Larger chunks are passed on in pieces, so that the number above bounds the bytes as well.
const PIECE: usize = 256 * 1024;

/// A [`BlobReader`] as [`Read`], for use on blocking threads only: reading from it within async code panics.
///
/// The errors of `read` carry the [`BlobError`] ([`BlobError::in_io`] finds it), and every further `read` gives the
/// same one, so the first cause survives whatever layers are in between. Dropping it closes the connection.
pub struct BlockingReader {
    meta: Meta,
    chunk: Bytes,
    pieces: mpsc::Receiver<Bytes>,
    outcome: Arc<OnceLock<Result<()>>>,
    lost: BlobError,
    _pump: AbortOnDropHandle<()>,
}

impl BlockingReader {
    /// Starts to read ahead, on the runtime this is called in.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(reader: BlobReader) -> Self {
        Self::on(&Handle::current(), reader)
    }

    /// Starts to read ahead on `runtime`.
    #[must_use]
    pub fn on(runtime: &Handle, mut reader: BlobReader) -> Self {
        let meta = reader.meta().clone();
        let lost = reader.store().error(
            Operation::Get,
            reader.key(),
            ErrorKind::Other,
            "the task that reads it ended without a word; is the runtime shutting down?",
        );
        let (sender, pieces) = mpsc::channel(WAITING);
        let outcome = Arc::new(OnceLock::new());
        let told = Arc::clone(&outcome);
        let pump = runtime.spawn(async move {
            let done = pump(&mut reader, &sender).await;
            // Set before the channel closes, so that the other side finds it.
            let _ = told.set(done);
            drop(sender);
        });
        Self { meta, chunk: Bytes::new(), pieces, outcome, lost, _pump: AbortOnDropHandle::new(pump) }
    }

    /// The state of the object being read.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The error that ended the reading, if one did.
    #[must_use]
    pub fn error(&self) -> Option<&BlobError> {
        self.outcome.get().and_then(|outcome| outcome.as_ref().err())
    }
}

async fn pump(reader: &mut BlobReader, sender: &mpsc::Sender<Bytes>) -> Result<()> {
    let cancel = reader.store().cancel.clone();
    while let Some(mut chunk) = reader.next_chunk().await? {
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(PIECE));
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(reader.store().cancelled(Operation::Get, reader.key())),
                sent = sender.send(piece) => {
                    // Nobody listens any more.
                    if sent.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
    Ok(())
}

impl Read for BlockingReader {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if target.is_empty() {
            return Ok(0);
        }
        // A cancelled reader stops at once, not after what is still waiting.
        if let Some(error) = self.error()
            && error.kind() == ErrorKind::Cancelled
        {
            return Err(error.clone().into());
        }
        if self.chunk.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.chunk = piece,
                None => {
                    return match self.outcome.get() {
                        Some(Ok(())) => Ok(0),
                        Some(Err(error)) => Err(error.clone().into()),
                        None => Err(self.lost.clone().into()),
                    };
                }
            }
        }
        let count = self.chunk.len().min(target.len());
        self.chunk.copy_to_slice(&mut target[..count]);
        Ok(count)
    }
}

impl fmt::Debug for BlockingReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingReader").field("meta", &self.meta).field("outcome", &self.outcome).finish()
    }
}
