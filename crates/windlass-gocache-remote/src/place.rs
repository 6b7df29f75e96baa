//! One prefix of the remote: all requests go through here, counted, bounded in time, and past the breaker.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use windlass_blob::{
    BlobReader, BlobStore, BlobUrl, Context, Environment, PutMode, RetryPolicy, Settings, Timeouts, UploadOptions,
};
use windlass_clock::{DeadlinePassed, SharedClock, SharedEntropy, deadline};

use crate::breaker::Breaker;
use crate::cause::{Cause, Warnings};

/// A transfer slower than this counts as stuck.
const SLOWEST: u64 = 64 * 1024;

/// Where a test stops the world: asked before and after every request and every change of a file of the queue.
#[derive(Clone, Default)]
pub struct Steps(Option<Arc<GoesOn>>);

type GoesOn = dyn Fn(&str) -> bool + Send + Sync;

impl Steps {
    /// `goes_on` is told each step; once it says no, nothing is done any more.
    pub fn new(goes_on: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(goes_on)))
    }

    pub(crate) fn pass(&self, step: &str) -> io::Result<()> {
        match &self.0 {
            Some(goes_on) if !goes_on(step) => Err(io::Error::other("stopped by a test")),
            _ => Ok(()),
        }
    }
}

/// Counters that many tasks add to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) lookups: AtomicU64,
    pub(crate) found: AtomicU64,
    pub(crate) absent: AtomicU64,
    pub(crate) unavailable: AtomicU64,
    pub(crate) failed_requests: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) outputs_read: AtomicU64,
    pub(crate) output_bytes_read: AtomicU64,
    pub(crate) outputs_written: AtomicU64,
    pub(crate) actions_written: AtomicU64,
    pub(crate) deduplicated: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) waited_ms: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// What all places and tasks of one remote share.
pub(crate) struct Around {
    pub(crate) clock: SharedClock,
    pub(crate) entropy: SharedEntropy,
    pub(crate) warnings: Warnings,
    pub(crate) tally: Tally,
    pub(crate) steps: Steps,
    pub(crate) deadline: Duration,
}

/// Why a request brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The object is not there.
    Missing,
    /// It failed, for this reason and in these words.
    Failed(Cause, String),
    /// It was not made: the breaker is open.
    Open,
    /// A test has stopped the world.
    Stopped,
}

/// How much of an answer has come when a request is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answered {
    Whole,
    /// Only its beginning: whether reading works is known at its end.
    Begun,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Read,
    Write,
}

pub(crate) struct Place {
    pub(crate) store: BlobStore,
    pub(crate) label: String,
    pub(crate) around: Arc<Around>,
    reads: Breaker,
    writes: Breaker,
}

impl Place {
    /// Opens a place without a request.
    pub(crate) fn open(url: &BlobUrl, environment: &Environment, around: &Arc<Around>) -> Result<Self, Failure> {
        let context = Context {
            clock: Arc::clone(&around.clock),
            entropy: Arc::clone(&around.entropy),
            environment: environment.clone(),
            settings: Settings {
                retry: RetryPolicy {
                    attempts: std::num::NonZeroU32::new(3).unwrap_or(std::num::NonZeroU32::MIN),
                    base: Duration::from_millis(150),
                    cap: Duration::from_secs(1),
                    retry_after_cap: Duration::from_secs(2),
                },
                timeouts: Timeouts { connect: around.deadline.min(Duration::from_secs(3)), idle: around.deadline },
            },
            observer: None,
        };
        let label = url.of_key("").trim_end_matches('/').to_owned();
        match BlobStore::open(url, &context) {
            Ok(store) => Ok(Self {
                store,
                label,
                around: Arc::clone(around),
                reads: Breaker::default(),
                writes: Breaker::default(),
            }),
            Err(error) => {
                let cause = if error.is_not_found() { Cause::Place } else { Cause::Invalid };
                around.warnings.tell(cause, &label, &error.to_string());
                Err(Failure::Failed(cause, error.to_string()))
            }
        }
    }

    /// Whether nothing is known to be wrong with writing.
    pub(crate) fn writes_work(&self) -> bool {
        self.writes.is_closed()
    }

    fn failed(&self, side: Side, cause: Cause, words: &str) -> Failure {
        let breaker = if side == Side::Read { &self.reads } else { &self.writes };
        breaker.failure(cause, self.around.clock.monotonic());
        add(&self.around.tally.failed_requests, 1);
        self.around.warnings.tell(cause, &self.label, words);
        Failure::Failed(cause, words.to_owned())
    }

    /// A failure of what arrived, noticed after the request itself.
    pub(crate) fn damaged(&self, what: &str) {
        add(&self.around.tally.rejected, 1);
        self.around.warnings.tell(Cause::Damaged, &self.label, what);
    }

    async fn request<T>(
        &self,
        side: Side,
        step: &str,
        bytes: u64,
        call: impl Future<Output = windlass_blob::Result<T>>,
    ) -> Result<T, Failure> {
        self.request_that_is(Answered::Whole, side, step, bytes, call).await
    }

    async fn request_that_is<T>(
        &self,
        answered: Answered,
        side: Side,
        step: &str,
        bytes: u64,
        call: impl Future<Output = windlass_blob::Result<T>>,
    ) -> Result<T, Failure> {
        let around = &self.around;
        around.steps.pass(&format!("before {step}")).map_err(|_| Failure::Stopped)?;
        let breaker = if side == Side::Read { &self.reads } else { &self.writes };
        if !breaker.allows(around.clock.monotonic()) {
            return Err(Failure::Open);
        }
        let limit = around.deadline + Duration::from_secs(bytes / SLOWEST);
        let result = match deadline(&*around.clock, limit, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if error.is_not_found() && !error.cause().contains("bucket") && step != "list" => {
                Err(Failure::Missing)
            }
            Ok(Err(error)) => return Err(self.failed(side, Cause::of(&error), &error.to_string())),
            Err(DeadlinePassed) => {
                let words = format!("no answer to a request to {step} within {:.1} s", limit.as_secs_f64());
                return Err(self.failed(side, Cause::Hanging, &words));
            }
        };
        if answered == Answered::Whole || result.is_err() {
            breaker.success();
        }
        around.steps.pass(&format!("after {step}")).map_err(|_| Failure::Stopped)?;
        result
    }

    /// The keys under `prefix` with their sizes, and whether these are all. One request for each thousand.
    pub(crate) async fn list(
        &self,
        prefix: &str,
        page: usize,
        pages: usize,
    ) -> Result<(Vec<windlass_blob::Entry>, bool), Failure> {
        let mut listing = self.store.list_pages(prefix);
        listing.page_size(page);
        let mut all = Vec::new();
        for _ in 0..pages {
            match self.request(Side::Read, "list", 0, listing.next_page()).await? {
                Some(entries) => all.extend(entries),
                None => return Ok((all, true)),
            }
            if page < 1000 {
                // Only the beginning was wanted.
                return Ok((all, false));
            }
        }
        let rest = self.request(Side::Read, "list", 0, listing.next_page()).await?;
        let complete = rest.is_none_or(|entries| entries.is_empty());
        Ok((all, complete))
    }

    /// An object of at most `limit` bytes.
    pub(crate) async fn get(&self, step: &str, key: &str, limit: u64) -> Result<Bytes, Failure> {
        let (bytes, _) = self.request(Side::Read, step, limit.min(8 << 20), self.store.get_bytes(key, limit)).await?;
        add(&self.around.tally.bytes_read, bytes.len() as u64);
        Ok(bytes)
    }

    /// Begins to read a part of an object.
    pub(crate) async fn range(&self, key: &str, range: Range<u64>) -> Result<BlobReader, Failure> {
        self.request_that_is(Answered::Begun, Side::Read, "read", 0, self.store.get_range(key, range)).await
    }

    /// The next bytes of a part.
    pub(crate) async fn chunk(&self, reader: &mut BlobReader) -> Result<Option<Bytes>, Failure> {
        match deadline(&*self.around.clock, self.around.deadline * 2, reader.next_chunk()).await {
            Ok(Ok(chunk)) => {
                match &chunk {
                    Some(chunk) => add(&self.around.tally.bytes_read, chunk.len() as u64),
                    None => self.reads.success(),
                }
                Ok(chunk)
            }
            Ok(Err(error)) => Err(self.failed(Side::Read, Cause::of(&error), &error.to_string())),
            Err(DeadlinePassed) => Err(self.failed(Side::Read, Cause::Hanging, "an answer stopped half-way")),
        }
    }

    pub(crate) async fn put(&self, step: &str, key: &str, bytes: Bytes) -> Result<(), Failure> {
        let size = bytes.len() as u64;
        self.request(Side::Write, step, size, self.store.put_bytes(key, bytes, PutMode::Overwrite)).await?;
        add(&self.around.tally.bytes_written, size);
        Ok(())
    }

    pub(crate) async fn put_file(&self, step: &str, key: &str, file: &Path, size: u64) -> Result<(), Failure> {
        let options = UploadOptions { parallel: std::num::NonZeroUsize::MIN, ..UploadOptions::default() };
        self.request(Side::Write, step, size, self.store.upload_file(file, key, options)).await?;
        add(&self.around.tally.bytes_written, size);
        Ok(())
    }

    pub(crate) async fn delete(&self, key: &str) -> Result<(), Failure> {
        self.request(Side::Write, "delete", 0, self.store.delete(key)).await
    }
}
