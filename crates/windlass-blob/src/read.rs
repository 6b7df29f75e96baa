//! Reading an object: pinned to one state, resumed where it was cut, if wanted several ranges at once.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::Range;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{BlobError, ErrorKind, Operation, Result};
use crate::retry::Failure;
use crate::store::{BlobStore, Meta, Request, Tries};

/// Local files are read this much at a time: large enough that handing it between threads costs nothing.
const FILE_CHUNK: usize = 512 * 1024;

/// Several ranges read at once, handed out in order.
///
/// At most `ranges` × `range_bytes` are held in memory, the range being handed out included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAhead {
    /// How many ranges are under way at once.
    pub ranges: NonZeroUsize,
    /// How long each is.
    pub range_bytes: NonZeroU64,
}

impl Default for ReadAhead {
    fn default() -> Self {
        Self {
            ranges: NonZeroUsize::new(4).expect("four is not zero"),
            range_bytes: NonZeroU64::new(4 * 1024 * 1024).expect("4 MiB is not zero"),
        }
    }
}

/// Which part of an object to read, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The first byte wanted. May equal the object's size, which reads nothing.
    pub offset: u64,
    /// How many bytes to read at most; `None` reads to the end.
    pub limit: Option<u64>,
    /// The state of the object to read, if it was looked up before; another state is [`ErrorKind::Changed`].
    pub pin: Option<Meta>,
    /// Several ranges at once; `None` reads on one connection.
    pub read_ahead: Option<ReadAhead>,
}

impl BlobStore {
    /// Opens an object for reading.
    ///
    /// Reading a whole object on one connection takes one request; everything else begins with a look-up unless
    /// [`ReadOptions::pin`] makes it needless.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::Invalid`] for an offset beyond the end, and whatever can go wrong with the
    /// store.
    pub async fn get_stream(&self, key: &str, options: ReadOptions) -> Result<BlobReader> {
        let path = self.path(Operation::Get, key)?;
        let whole = options.offset == 0 && options.limit.is_none() && options.read_ahead.is_none();
        let (meta, body) = match options.pin {
            Some(meta) => (meta, None),
            None if whole => {
                let call = || self.shared.backend.objects.get_opts(&path, GetOptions::new());
                let result = self.retrying(Operation::Get, key, 0, call).await.map_err(|(error, _)| error)?;
                (Meta::from_store(&result.meta), Some(body_of(result)))
            }
            None => (self.head(key).await?, None),
        };
        if options.offset > meta.size {
            let cause = format!("offset {} is beyond its end at {}", options.offset, meta.size);
            return Err(self.error(Operation::Get, key, ErrorKind::Invalid, cause));
        }
        let end = options.limit.map_or(meta.size, |limit| options.offset.saturating_add(limit).min(meta.size));
        let range = options.offset..end;
        let whole_range = RangeReader {
            store: self.clone(),
            key: key.to_owned(),
            path,
            meta: meta.clone(),
            range: range.clone(),
            body,
            tries: self.tries(),
            owed: 0,
        };
        let source = match options.read_ahead {
            None => Source::One(whole_range),
            Some(ahead) => Source::Ahead(Ahead::new(whole_range, ahead)),
        };
        Ok(BlobReader { meta, position: range.start, end: range.end, source, failed: None })
    }

    /// Opens a part of an object that was written once and never changes: one request and no look-up before it. Where
    /// the answer is cut the rest is read of the state that the first answer showed, as ever.
    ///
    /// # Errors
    ///
    /// As [`BlobStore::get_stream`]; [`ErrorKind::Corrupt`] when the object ends before the range does.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<BlobReader> {
        let path = self.path(Operation::Get, key)?;
        let call = || {
            let options = GetOptions::new().with_range(Some(GetRange::Bounded(range.clone())));
            self.shared.backend.objects.get_opts(&path, options)
        };
        let result = self.retrying(Operation::Get, key, 0, call).await.map_err(|(error, _)| error)?;
        if result.range != range {
            let cause =
                format!("bytes {} to {} were asked for, and it ends at {}", range.start, range.end, result.range.end);
            return Err(self.error(Operation::Get, key, ErrorKind::Corrupt, cause));
        }
        let meta = Meta::from_store(&result.meta);
        let reader = RangeReader {
            store: self.clone(),
            key: key.to_owned(),
            path,
            meta: meta.clone(),
            range: range.clone(),
            body: Some(body_of(result)),
            tries: self.tries(),
            owed: 0,
        };
        Ok(BlobReader { meta, position: range.start, end: range.end, source: Source::One(reader), failed: None })
    }

    /// Reads an object of at most `limit` bytes whole.
    ///
    /// # Errors
    ///
    /// As [`BlobStore::get_stream`]; [`ErrorKind::Invalid`] when the object is larger, of which nothing is read then.
    pub async fn get_bytes(&self, key: &str, limit: u64) -> Result<(Bytes, Meta)> {
        let mut reader = self.get_stream(key, ReadOptions::default()).await?;
        let meta = reader.meta().clone();
        if meta.size > limit {
            let cause = format!("it has {} bytes, and at most {limit} were expected", meta.size);
            return Err(self.error(Operation::Get, key, ErrorKind::Invalid, cause));
        }
        let Some(first) = reader.next_chunk().await? else { return Ok((Bytes::new(), meta)) };
        if first.len() as u64 == meta.size {
            return Ok((first, meta));
        }
        // Grown by what really arrives, not by what a header promised.
        let mut all = first.to_vec();
        while let Some(chunk) = reader.next_chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok((Bytes::from(all), meta))
    }
}

/// A read under way. Dropping it closes its connections at once.
pub struct BlobReader {
    meta: Meta,
    position: u64,
    end: u64,
    source: Source,
    failed: Option<BlobError>,
}

enum Source {
    One(RangeReader),
    Ahead(Ahead),
}

impl BlobReader {
    /// The state of the object being read.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Where in the object the next chunk begins.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many bytes are still to come.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.end - self.position
    }

    /// The next bytes, never empty; `None` at the end. Cancel safe: no byte is lost.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Changed`] when the object is no longer the one the read began with, and whatever can go wrong with
    /// the store once the retries are used up. The same error comes again if it is called again.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let next = match &mut self.source {
            Source::One(range) => range.next_chunk().await,
            Source::Ahead(ahead) => ahead.next_chunk().await,
        };
        match &next {
            Ok(Some(chunk)) => self.position += chunk.len() as u64,
            Ok(None) => {}
            Err(error) => self.failed = Some(error.clone()),
        }
        next
    }

    /// The chunks as a stream. Ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send + Unpin + 'static {
        futures::stream::unfold(Some(self), |reader| async move {
            let mut reader = reader?;
            match reader.next_chunk().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    pub(crate) fn store(&self) -> &BlobStore {
        match &self.source {
            Source::One(range) => &range.store,
            Source::Ahead(ahead) => &ahead.template.store,
        }
    }

    pub(crate) fn key(&self) -> &str {
        match &self.source {
            Source::One(range) => &range.key,
            Source::Ahead(ahead) => &ahead.template.key,
        }
    }
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobReader({} at {} of {})", self.key(), self.position, self.end)
    }
}

type Body = BoxStream<'static, object_store::Result<Bytes>>;

/// One range on one connection at a time.
struct RangeReader {
    store: BlobStore,
    key: String,
    path: Path,
    meta: Meta,
    /// What is still to come.
    range: Range<u64>,
    body: Option<Body>,
    tries: Tries,
    /// Bytes received and not yet drawn from the bandwidth limit.
    owed: u64,
}

impl RangeReader {
    /// Cancel safe: a chunk is either still in the body or returned. The bandwidth limit is paid for afterwards, before
    /// the next chunk is asked for.
    async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.owed > 0 {
                self.store.pace(Operation::Get, &self.key, self.owed).await?;
                self.owed = 0;
            }
            if self.range.is_empty() {
                // Takes the end of the body, so that the connection can serve another request.
                return self.finish().await;
            }
            match self.step().await {
                Ok(Some(chunk)) => {
                    self.tries.progress();
                    return Ok(Some(chunk));
                }
                Ok(None) => {}
                Err(failure) => {
                    self.body = None;
                    self.store.again(&mut self.tries, Operation::Get, &self.key, failure).await?;
                }
            }
        }
    }

    async fn finish(&mut self) -> Result<Option<Bytes>> {
        let Some(mut body) = self.body.take() else { return Ok(None) };
        let idle = self.store.settings().timeouts.idle;
        match self.store.bounded(idle, body.next()).await {
            Ok(Some(Err(error))) => {
                let failure = self.as_change(self.store.classify(&error));
                // Everything is here: only a changed object matters now.
                if failure.kind == ErrorKind::Changed {
                    return Err(self.store.error(Operation::Get, &self.key, failure.kind, failure.cause));
                }
            }
            Ok(Some(Ok(chunk))) if !chunk.is_empty() => {
                let cause = "the store sent more bytes than were asked for";
                return Err(self.store.error(Operation::Get, &self.key, ErrorKind::Corrupt, cause));
            }
            Err(failure) if failure.kind == ErrorKind::Cancelled => {
                return Err(self.store.cancelled(Operation::Get, &self.key));
            }
            Ok(_) | Err(_) => {}
        }
        Ok(None)
    }

    /// Opens the body if there is none, and takes a chunk from it. `None` means: nothing yet, come again.
    async fn step(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(body) = &mut self.body else {
            let opened = self.open().await?;
            self.body = Some(opened);
            return Ok(None);
        };
        let idle = self.store.settings().timeouts.idle;
        let chunk = match self.store.bounded(idle, body.next()).await? {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return Err(self.as_change(self.store.classify(&error))),
            None => {
                let cause = format!("the answer ended at byte {} of {}", self.range.start, self.range.end);
                return Err(Failure::new(ErrorKind::Unavailable, cause));
            }
        };
        let length = chunk.len() as u64;
        if length == 0 {
            return Ok(None);
        }
        if length > self.range.end - self.range.start {
            return Err(Failure::new(ErrorKind::Corrupt, "the store sent more bytes than were asked for"));
        }
        self.range.start += length;
        if self.store.bandwidth.is_some() {
            self.owed = length;
        }
        Ok(Some(chunk))
    }

    // `&mut` because a shared reference to a body cannot move between threads.
    async fn open(&mut self) -> Result<Body, Failure> {
        let options = GetOptions::new()
            .with_range(Some(GetRange::Bounded(self.range.clone())))
            .with_if_match(self.meta.etag.clone());
        let request = Request { operation: Operation::Get, key: &self.key, range: Some(self.range.clone()) };
        let call = self.store.shared.backend.objects.get_opts(&self.path, options);
        let patience = self.store.settings().timeouts.idle;
        let result = self.store.once(request, patience, call).await.map_err(|failure| self.as_change(failure))?;
        // A store may ignore `If-Match`.
        let found = Meta::from_store(&result.meta);
        if !self.meta.same_object(&found) {
            return Err(Failure::new(ErrorKind::Changed, self.change(Some(&found))));
        }
        Ok(body_of(result))
    }

    /// Once reading has begun, a missing object and a failed condition both say that it is another one now.
    fn as_change(&self, failure: Failure) -> Failure {
        match failure.kind {
            ErrorKind::Precondition | ErrorKind::NotFound | ErrorKind::Changed => {
                Failure::new(ErrorKind::Changed, self.change(None))
            }
            _ => failure,
        }
    }

    fn change(&self, found: Option<&Meta>) -> String {
        let tag = |meta: &Meta| meta.etag.clone().unwrap_or_else(|| "none".to_owned());
        let at = self.range.start;
        match found {
            Some(found) => format!(
                "the object was replaced while it was read, at byte {at}: {} bytes with tag {} became {} with tag {}",
                self.meta.size,
                tag(&self.meta),
                found.size,
                tag(found)
            ),
            None => format!(
                "the object was replaced or removed while it was read, at byte {at}: the state with tag {} is gone",
                tag(&self.meta)
            ),
        }
    }
}

/// Ranges read by tasks of their own, the next ones while the first is handed out.
struct Ahead {
    /// Reads the first range wanted; cloned for each.
    template: RangeReader,
    limits: ReadAhead,
    /// In order. Dropping a handle ends its task and closes its connection.
    tasks: VecDeque<AbortOnDropHandle<Result<Vec<Bytes>>>>,
    /// Of the range being handed out.
    current: VecDeque<Bytes>,
}

impl Ahead {
    fn new(template: RangeReader, limits: ReadAhead) -> Self {
        Self { template, limits, tasks: VecDeque::new(), current: VecDeque::new() }
    }

    /// Starts ranges as long as there is room for them.
    fn fill(&mut self) {
        while self.tasks.len() + usize::from(!self.current.is_empty()) < self.limits.ranges.get()
            && !self.template.range.is_empty()
        {
            let whole = &mut self.template.range;
            let end = whole.start.saturating_add(self.limits.range_bytes.get()).min(whole.end);
            let range = whole.start..end;
            whole.start = end;
            let mut reader = RangeReader {
                store: self.template.store.clone(),
                key: self.template.key.clone(),
                path: self.template.path.clone(),
                meta: self.template.meta.clone(),
                range,
                body: None,
                tries: self.template.store.tries(),
                owed: 0,
            };
            self.tasks.push_back(AbortOnDropHandle::new(tokio::spawn(async move {
                let mut chunks = Vec::new();
                while let Some(chunk) = reader.next_chunk().await? {
                    chunks.push(chunk);
                }
                Ok(chunks)
            })));
        }
    }

    async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(chunk) = self.current.pop_front() {
                self.fill();
                return Ok(Some(chunk));
            }
            self.fill();
            // Left in place until it is done, so that a cancelled wait loses nothing.
            let Some(front) = self.tasks.front_mut() else { return Ok(None) };
            let joined = front.await;
            self.tasks.pop_front();
            let chunks = joined.map_err(|error| {
                let cause = format!("a reading task ended: {error}");
                self.template.store.error(Operation::Get, &self.template.key, ErrorKind::Other, cause)
            })??;
            self.current = chunks.into();
        }
    }
}

/// The body of an answer; for a local file one that reads on blocking threads and notices a change in place.
fn body_of(result: GetResult) -> Body {
    match result.payload {
        GetResultPayload::Stream(body) => body,
        GetResultPayload::File(file, _) => file_body(file, result.range, result.meta),
    }
}

fn file_body(file: File, range: Range<u64>, meta: ObjectMeta) -> Body {
    struct State {
        file: File,
        next: u64,
        end: u64,
        meta: ObjectMeta,
    }
    let state = State { file, next: range.start, end: range.end, meta };
    futures::stream::try_unfold(state, |mut state| async move {
        let location = state.meta.location.clone();
        let read = tokio::task::spawn_blocking(move || -> io::Result<Option<(Bytes, State)>> {
            if state.next >= state.end {
                let now = state.file.metadata()?;
                // Only a change in place shows here: a file replaced by renaming is another file.
                if now.len() != state.meta.size || now.modified()? != state.meta.last_modified.into() {
                    return Err(io::Error::from(io::ErrorKind::StaleNetworkFileHandle));
                }
                return Ok(None);
            }
            let wanted = usize::try_from(state.end - state.next).unwrap_or(usize::MAX).min(FILE_CHUNK);
            let mut chunk = vec![0; wanted];
            state.file.seek(SeekFrom::Start(state.next))?;
            let got = loop {
                match state.file.read(&mut chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    other => break other?,
                }
            };
            if got == 0 {
                return Err(io::Error::from(io::ErrorKind::StaleNetworkFileHandle));
            }
            chunk.truncate(got);
            state.next += got as u64;
            Ok(Some((Bytes::from(chunk), state)))
        })
        .await?;
        read.map_err(|error| match error.kind() {
            io::ErrorKind::StaleNetworkFileHandle => {
                object_store::Error::Precondition { path: location.to_string(), source: "the file changed".into() }
            }
            _ => object_store::Error::Generic { store: "local folder", source: error.into() },
        })
    })
    .boxed()
}
