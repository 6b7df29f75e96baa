//! Writing a stream: parts in bounded memory, tried again one by one, aborted when it fails.

use std::io;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_clock::deadline;

use crate::checksum::{Digester, Digests};
use crate::error::{BlobError, ErrorKind, Operation, Result};
use crate::objects::{PutMode, Written};
use crate::retry::classify_io;
use crate::store::{BlobStore, Request};

/// S3 takes no part but the last below 5 MiB; 8 MiB is what the usual tools send.
const PART: u64 = 8 * 1024 * 1024;
const SMALLEST_PART: u64 = 5 * 1024 * 1024;
/// S3 and R2 number parts up to this.
const MOST_PARTS: u64 = 10_000;
/// Cancelling must not wait longer than this for the abort to be answered; it goes on behind.
const ABORT_WAIT: Duration = Duration::from_millis(500);

/// How a stream is uploaded. At most (`parallel` + 2) parts are in memory at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadOptions {
    /// Bytes per part, at least 5 MiB. `None` takes 8 MiB, or more if `size` asks for it.
    pub part_bytes: Option<NonZeroU64>,
    /// Parts under way at once.
    pub parallel: NonZeroUsize,
    /// The size, if it is known: anything else in the end is [`ErrorKind::Corrupt`].
    pub size: Option<u64>,
}

impl Default for UploadOptions {
    fn default() -> Self {
        Self { part_bytes: None, parallel: NonZeroUsize::new(4).expect("four is not zero"), size: None }
    }
}

impl UploadOptions {
    fn part(&self) -> Option<usize> {
        let needed = self.size.map_or(0, |size| size.div_ceil(MOST_PARTS).next_multiple_of(1024 * 1024));
        let part = match self.part_bytes {
            Some(part) if part.get() < SMALLEST_PART || part.get() < needed => return None,
            Some(part) => part.get(),
            None => PART.max(needed),
        };
        usize::try_from(part).ok()
    }
}

/// Cuts a stream into parts.
struct Parts<S> {
    stream: S,
    part: usize,
    /// What came beyond the part before.
    left: Bytes,
}

impl<S, E> Parts<S>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<io::Error>,
{
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut part = BytesMut::new();
        loop {
            let chunk = if self.left.is_empty() {
                match self.stream.next().await {
                    None => break,
                    Some(chunk) => chunk.map_err(Into::into)?,
                }
            } else {
                std::mem::take(&mut self.left)
            };
            let room = self.part - part.len();
            if chunk.len() > room {
                part.extend_from_slice(&chunk[..room]);
                self.left = chunk.slice(room..);
                break;
            }
            part.extend_from_slice(&chunk);
            if part.len() == self.part {
                break;
            }
        }
        Ok((!part.is_empty()).then(|| part.freeze()))
    }
}

impl BlobStore {
    /// Writes a stream as one object, which becomes visible only when it is whole. Replaces what is there: conditions
    /// do not exist for uploads in parts. What fits into one part is sent in one request.
    ///
    /// If it fails, is cancelled or dropped, the unfinished upload is aborted, so that it costs no storage.
    ///
    /// # Errors
    ///
    /// The error of the stream, if it had one ([`ErrorKind::Other`] unless it was a [`BlobError`] or says more);
    /// [`ErrorKind::Corrupt`] when the size is not the one given, or the store ends up with another;
    /// [`ErrorKind::Invalid`] for impossible part sizes; and whatever can go wrong with the store.
    pub async fn put_stream<S, E>(&self, key: &str, stream: S, options: UploadOptions) -> Result<Written>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<io::Error>,
    {
        let path = self.path(Operation::Put, key)?;
        let part = options.part().ok_or_else(|| {
            let cause = "parts are at least 5 MiB, and large enough that 10000 of them hold the object";
            self.error(Operation::Put, key, ErrorKind::Invalid, cause)
        })?;
        let mut parts = Parts { stream, part, left: Bytes::new() };
        let first = self.take(key, &mut parts).await?.unwrap_or_default();
        let second = if first.len() < part { None } else { self.take(key, &mut parts).await? };
        let Some(second) = second else {
            self.check_size(key, first.len() as u64, options.size)?;
            return self.put_bytes(key, first, PutMode::Overwrite).await;
        };
        let mut upload = Upload::begin(self, key, path).await?;
        match self.send_parts(&mut upload, [first, second], &mut parts, &options).await {
            Ok(written) => Ok(written),
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    async fn take<S, E>(&self, key: &str, parts: &mut Parts<S>) -> Result<Option<Bytes>>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<io::Error>,
    {
        let next = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(self.cancelled(Operation::Put, key)),
            next = parts.next() => next,
        };
        next.map_err(|error| match BlobError::in_io(&error) {
            Some(inner) => inner.clone(),
            None => {
                let failure = classify_io(&error);
                self.error(Operation::Put, key, failure.kind, format!("reading what to write: {}", failure.cause))
            }
        })
    }

    fn check_size(&self, key: &str, found: u64, wanted: Option<u64>) -> Result<()> {
        match wanted {
            Some(wanted) if wanted != found => {
                let cause = format!("{found} bytes came where {wanted} were announced");
                Err(self.error(Operation::Put, key, ErrorKind::Corrupt, cause))
            }
            _ => Ok(()),
        }
    }

    async fn send_parts<S, E>(
        &self,
        upload: &mut Upload,
        begun: [Bytes; 2],
        parts: &mut Parts<S>,
        options: &UploadOptions,
    ) -> Result<Written>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<io::Error>,
    {
        let key = upload.key.clone();
        let mut begun = begun.into_iter();
        let mut digester = Digester::default();
        let mut sending: JoinSet<Result<(usize, PartId)>> = JoinSet::new();
        let mut sent: Vec<Option<PartId>> = Vec::new();
        loop {
            let next = match begun.next() {
                Some(part) => Some(part),
                None => self.take(&key, parts).await?,
            };
            let Some(part) = next else { break };
            if sent.len() as u64 == MOST_PARTS {
                let cause = format!("it has more than {MOST_PARTS} parts; tell its size, or make the parts larger");
                return Err(self.error(Operation::PutPart, &key, ErrorKind::Invalid, cause));
            }
            while sending.len() >= options.parallel.get() {
                self.note(&key, sending.join_next().await, &mut sent)?;
            }
            self.pace(Operation::PutPart, &key, part.len() as u64).await?;
            match upload.sender() {
                Sender::Cloud(store, id) => {
                    let (index, data) = (sent.len(), part.clone());
                    let (this, path, key) = (self.clone(), upload.path.clone(), key.clone());
                    sending.spawn(async move {
                        let call = || store.put_part(&path, &id, index, PutPayload::from_bytes(data.clone()));
                        let done = this.retrying(Operation::PutPart, &key, data.len() as u64, call).await;
                        done.map(|id| (index, id)).map_err(|(error, _)| error)
                    });
                    sent.push(None);
                }
                Sender::Local(file) => {
                    let call = file.put_part(PutPayload::from_bytes(part.clone()));
                    self.single(Operation::PutPart, &key, part.len() as u64, call).await?;
                }
            }
            digester = hash(digester, part).await;
            while let Some(done) = sending.try_join_next() {
                self.note(&key, Some(done), &mut sent)?;
            }
        }
        while let Some(done) = sending.join_next().await {
            self.note(&key, Some(done), &mut sent)?;
        }
        let digests = digester.finish();
        self.check_size(&key, digests.bytes, options.size)?;
        self.complete(upload, sent, digests).await
    }

    fn note(
        &self,
        key: &str,
        done: Option<Result<Result<(usize, PartId)>, tokio::task::JoinError>>,
        sent: &mut [Option<PartId>],
    ) -> Result<()> {
        let Some(done) = done else { return Ok(()) };
        let (index, id) = done.map_err(|error| {
            self.error(Operation::PutPart, key, ErrorKind::Other, format!("an uploading task ended: {error}"))
        })??;
        sent[index] = Some(id);
        Ok(())
    }

    async fn single<T>(
        &self,
        operation: Operation,
        key: &str,
        bytes: u64,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T> {
        let request = Request { operation, key, range: None };
        self.once(request, self.patience(bytes), call).await.map_err(|failure| {
            let error = self.error(operation, key, failure.kind, failure.cause);
            failure.hint.map_or(error.clone(), |hint| error.with_hint(hint))
        })
    }

    async fn complete(&self, upload: &mut Upload, sent: Vec<Option<PartId>>, digests: Digests) -> Result<Written> {
        let key = upload.key.clone();
        let path = upload.path.clone();
        let result = match upload.sender() {
            Sender::Local(file) => self.single(Operation::CompleteUpload, &key, 0, file.complete()).await.map(Some),
            Sender::Cloud(store, id) => {
                let ids: Vec<PartId> = sent.into_iter().flatten().collect();
                let call = || store.complete_multipart(&path, &id, ids.clone());
                match self.retrying(Operation::CompleteUpload, &key, 0, call).await {
                    Ok(result) => Ok(Some(result)),
                    // The first try may have done it and its answer been lost. Stores then say that they do not know the
                    // upload, each in its own way; only the object itself tells.
                    Err((error, failures)) if failures > 0 && !error.is_transient() && !self.cancel.is_cancelled() => {
                        match self.digests_of(&key).await {
                            Ok(found) if found == digests => Ok(None),
                            _ => Err(error),
                        }
                    }
                    Err((error, _)) => Err(error),
                }
            }
        }?;
        upload.done();
        let found = self.head(&key).await?;
        if found.size != digests.bytes {
            let cause = format!("{} bytes were sent and the store holds {}", digests.bytes, found.size);
            return Err(self.error(Operation::CompleteUpload, &key, ErrorKind::Corrupt, cause));
        }
        let (etag, version) = match result {
            Some(result) => (result.e_tag.or(found.etag), result.version.or(found.version)),
            None => (found.etag, found.version),
        };
        Ok(Written { etag, version, digests })
    }
}

async fn hash(digester: Digester, part: Bytes) -> Digester {
    let spare = digester.clone();
    let data = part.clone();
    let hashed = tokio::task::spawn_blocking(move || {
        let mut digester = digester;
        digester.update(&data);
        digester
    });
    match hashed.await {
        Ok(digester) => digester,
        // The runtime is shutting down: do it here.
        Err(_) => {
            let mut digester = spare;
            digester.update(&part);
            digester
        }
    }
}

/// An upload that is aborted unless it gets done.
struct Upload {
    store: BlobStore,
    key: String,
    path: Path,
    way: Option<Way>,
}

enum Way {
    Cloud(Arc<dyn MultipartStore>, String),
    /// Removes its temporary file itself when dropped.
    Local(Box<dyn MultipartUpload>),
}

enum Sender<'a> {
    Cloud(Arc<dyn MultipartStore>, String),
    Local(&'a mut Box<dyn MultipartUpload>),
}

impl Upload {
    async fn begin(store: &BlobStore, key: &str, path: Path) -> Result<Self> {
        let backend = &store.shared.backend;
        let way = match &backend.parts {
            Some(parts) => {
                // A lost answer leaves an upload nobody knows. It holds no parts, so it costs nothing.
                let call = || parts.create_multipart(&path);
                let id = store.retrying(Operation::BeginUpload, key, 0, call).await.map_err(|(error, _)| error)?;
                Way::Cloud(Arc::clone(parts), id)
            }
            None => {
                let call = backend.objects.put_multipart(&path);
                Way::Local(store.single(Operation::BeginUpload, key, 0, call).await?)
            }
        };
        Ok(Self { store: store.clone(), key: key.to_owned(), path, way: Some(way) })
    }

    fn sender(&mut self) -> Sender<'_> {
        match self.way.as_mut().expect("an upload is used only until it is done") {
            Way::Cloud(store, id) => Sender::Cloud(Arc::clone(store), id.clone()),
            Way::Local(file) => Sender::Local(file),
        }
    }

    fn done(&mut self) {
        self.way = None;
    }

    /// Starts the abort; `None` when there is nothing to do or no runtime to do it on.
    fn start_abort(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        let way = self.way.take()?;
        let runtime = Handle::try_current().ok()?;
        // The abort is wanted most when the rest is cancelled.
        let store = self.store.with_cancel(CancellationToken::new());
        let (key, path) = (std::mem::take(&mut self.key), self.path.clone());
        Some(runtime.spawn(async move {
            let aborted = match way {
                Way::Cloud(parts, id) => {
                    let call = || parts.abort_multipart(&path, &id);
                    store.retrying(Operation::AbortUpload, &key, 0, call).await.map_err(|(error, _)| error)
                }
                Way::Local(mut file) => store.single(Operation::AbortUpload, &key, 0, file.abort()).await,
            };
            if let Err(error) = aborted
                && !error.is_not_found()
            {
                tracing::warn!(%error, "an unfinished upload is left behind; the bucket's lifecycle rules may remove it");
            }
        }))
    }

    async fn abort(&mut self) {
        let clock = Arc::clone(self.store.clock());
        if let Some(task) = self.start_abort() {
            let _ = deadline(&*clock, ABORT_WAIT, task).await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        drop(self.start_abort());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_with_the_size_and_small_ones_are_refused() {
        let part = |part_bytes: Option<u64>, size| {
            UploadOptions { part_bytes: part_bytes.and_then(NonZeroU64::new), size, ..UploadOptions::default() }.part()
        };
        assert_eq!(part(None, None), Some(8 << 20));
        assert_eq!(part(None, Some(1)), Some(8 << 20));
        let large = part(None, Some(1 << 40)).unwrap() as u64;
        assert!(large * MOST_PARTS >= 1 << 40 && large.is_multiple_of(1 << 20), "{large}");
        assert_eq!(part(Some(1024), None), None);
        assert_eq!(part(Some(5 << 20), Some(1 << 40)), None);
    }

    #[tokio::test]
    async fn a_stream_is_cut_into_equal_parts_whatever_its_chunks() {
        for chunk in [1, 3, 10, 25, 1000] {
            let data: Vec<u8> = (0..57).collect();
            let chunks: Vec<io::Result<Bytes>> = data.chunks(chunk).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
            let mut parts = Parts { stream: futures::stream::iter(chunks), part: 10, left: Bytes::new() };
            let mut lengths = Vec::new();
            let mut all = Vec::new();
            while let Some(part) = parts.next().await.unwrap() {
                lengths.push(part.len());
                all.extend_from_slice(&part);
            }
            assert_eq!(lengths, [10, 10, 10, 10, 10, 7], "chunks of {chunk}");
            assert_eq!(all, data);
        }
    }
}
