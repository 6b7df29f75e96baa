//! The store itself: what every operation shares.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use object_store::ObjectMeta;
use object_store::path::Path;
use tokio_util::sync::CancellationToken;
use windlass_clock::{DeadlinePassed, SharedClock, SharedEntropy, SystemClock, SystemEntropy, deadline};

use crate::bandwidth::Bandwidth;
use crate::blob_url::BlobUrl;
use crate::connect::{Backend, connect, scrub};
use crate::environment::Environment;
use crate::error::{BlobError, ErrorKind, Operation, Result};
use crate::retry::{Failure, RetryPolicy, classify, parse_retry_after};

/// An upload slower than this counts as stuck: it is what turns a number of bytes into a time limit.
const SLOWEST_UPLOAD: u64 = 32 * 1024;

/// How long silence is borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands, TLS included.
    pub connect: Duration,
    /// Until the first byte of an answer, and between two pieces of it.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), idle: Duration::from_secs(30) }
    }
}

/// What can be tuned about a store. The defaults suit a store across a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How transient errors are tried again.
    pub retry: RetryPolicy,
    /// How long silence is borne.
    pub timeouts: Timeouts,
}

/// One request about to be made, for those who count or log them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What kind.
    pub operation: Operation,
    /// The key, or the prefix of a listing, without the URL's prefix.
    pub key: &'a str,
    /// The bytes asked for, if not all.
    pub range: Option<Range<u64>>,
}

/// Is told of every request just before it is made, second tries included. Must not block.
pub trait Observer: Send + Sync + fmt::Debug + 'static {
    /// Called once per request.
    fn request(&self, request: &Request<'_>);
}

/// What a store needs from around it.
#[derive(Clone, Debug)]
pub struct Context {
    /// Time, for waits and timeouts.
    pub clock: SharedClock,
    /// Randomness, for the jitter of waits and names of temporary objects.
    pub entropy: SharedEntropy,
    /// Where credentials come from.
    pub environment: Environment,
    /// Tuning.
    pub settings: Settings,
    /// Told of every request.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Context {
    /// Clock, randomness and environment of this process, default settings. Call within a tokio runtime.
    #[must_use]
    pub fn real() -> Self {
        Self::process(SystemClock::real(), SystemEntropy::real())
    }

    /// Environment of this process and default settings, with a clock and randomness that are given.
    #[must_use]
    pub fn process(clock: SharedClock, entropy: SharedEntropy) -> Self {
        Self { clock, entropy, environment: Environment::process(), settings: Settings::default(), observer: None }
    }

    /// The same with other credentials.
    #[must_use]
    pub fn with_environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// The same with other settings.
    #[must_use]
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }
}

/// What a store says about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Size in bytes.
    pub size: u64,
    /// The entity tag, quotes included where the store has them. Changes with the content; not a checksum.
    pub etag: Option<String>,
    /// The version, on stores that keep several.
    pub version: Option<String>,
    /// Last change by the store's clock, at the store's resolution, which may be a second.
    pub modified: Timestamp,
}

impl Meta {
    pub(crate) fn from_store(meta: &ObjectMeta) -> Self {
        let nanos = i32::try_from(meta.last_modified.timestamp_subsec_nanos()).unwrap_or(0).min(999_999_999);
        Self {
            size: meta.size,
            etag: meta.e_tag.clone(),
            version: meta.version.clone(),
            modified: Timestamp::new(meta.last_modified.timestamp(), nanos).unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }

    /// Whether `other` is the same state of the object, as far as the store lets one know.
    #[must_use]
    pub fn same_object(&self, other: &Self) -> bool {
        match (&self.etag, &other.etag) {
            (Some(ours), Some(theirs)) => ours == theirs && self.size == other.size,
            _ => self.size == other.size && self.modified == other.modified,
        }
    }

    /// What [`crate::PutMode::Update`] wants, to write over exactly this state.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision { etag: self.etag.clone(), version: self.version.clone() }
    }
}

/// A state of an object, for conditional writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The entity tag.
    pub etag: Option<String>,
    /// The version; some stores compare this instead of the tag.
    pub version: Option<String>,
}

/// How many requests of each kind were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts([u64; Operation::ALL.len()]);

impl Counts {
    /// The requests for `operation`.
    #[must_use]
    pub fn of(&self, operation: Operation) -> u64 {
        Operation::ALL.iter().position(|one| *one == operation).map_or(0, |index| self.0[index])
    }

    /// All requests.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// A place for objects: an S3, GCS or Azure bucket, a local folder, or memory.
///
/// Cheap to clone; clones share connections and counters. [`BlobStore::with_cancel`] and
/// [`BlobStore::with_bandwidth`] give clones that obey a token or a limit.
///
/// All operations are cancel safe in that dropping one leaves no half-written object visible; a dropped multipart
/// upload is aborted in the background, if a runtime is still there to do it.
#[derive(Clone)]
pub struct BlobStore {
    pub(crate) shared: Arc<Shared>,
    pub(crate) cancel: CancellationToken,
    pub(crate) bandwidth: Option<Arc<Bandwidth>>,
}

pub(crate) struct Shared {
    pub(crate) url: BlobUrl,
    pub(crate) backend: Backend,
    pub(crate) context: Context,
    counts: [AtomicU64; Operation::ALL.len()],
}

impl fmt::Debug for BlobStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobStore({})", self.shared.url)
    }
}

/// The failures in a row of one operation.
#[derive(Debug)]
pub(crate) struct Tries {
    failures: u32,
    since: Duration,
}

impl Tries {
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn progress(&mut self) {
        self.failures = 0;
    }
}

impl BlobStore {
    /// Opens the store at `url` without making any request to it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when credentials or settings are missing or wrong; [`ErrorKind::NotFound`] when a local
    /// folder is missing and the URL does not ask to create it.
    pub fn open(url: &BlobUrl, context: &Context) -> Result<Self> {
        let backend = connect(url, &context.environment, context.settings.timeouts.connect)?;
        Ok(Self {
            shared: Arc::new(Shared {
                url: url.clone(),
                backend,
                context: context.clone(),
                counts: std::array::from_fn(|_| AtomicU64::new(0)),
            }),
            cancel: CancellationToken::new(),
            bandwidth: None,
        })
    }

    /// Opens the store at a URL still in text form.
    ///
    /// # Errors
    ///
    /// As [`BlobStore::open`], and [`ErrorKind::Invalid`] when the text is no blob URL.
    pub fn open_text(url: &str, context: &Context) -> Result<Self> {
        let url: BlobUrl = url.parse().map_err(|error: crate::UrlError| {
            BlobError::new(ErrorKind::Invalid, Operation::Open, "the blob store", error.to_string())
        })?;
        Self::open(&url, context)
    }

    /// The same store, whose operations end with [`ErrorKind::Cancelled`] soon after `cancel` is triggered.
    #[must_use]
    pub fn with_cancel(&self, cancel: CancellationToken) -> Self {
        Self { cancel, ..self.clone() }
    }

    /// The same store, whose transfers draw from `bandwidth`.
    #[must_use]
    pub fn with_bandwidth(&self, bandwidth: Arc<Bandwidth>) -> Self {
        Self { bandwidth: Some(bandwidth), ..self.clone() }
    }

    /// The URL it was opened with.
    #[must_use]
    pub fn url(&self) -> &BlobUrl {
        &self.shared.url
    }

    /// The requests made so far through this store and all its clones.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts(std::array::from_fn(|index| self.shared.counts[index].load(Ordering::Relaxed)))
    }

    pub(crate) fn clock(&self) -> &SharedClock {
        &self.shared.context.clock
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.context.settings
    }

    /// The library's path for `key`, prefix included.
    pub(crate) fn path(&self, operation: Operation, key: &str) -> Result<Path> {
        let invalid = |cause: &str| BlobError::new(ErrorKind::Invalid, operation, self.shared.url.of_key(key), cause);
        if key.is_empty() || key.starts_with('/') || key.ends_with('/') {
            return Err(invalid("a key is not empty and has no slash at either end"));
        }
        let prefix = self.shared.url.prefix();
        let full = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") };
        Path::parse(full).map_err(|_| invalid("a key has no empty, '.' or '..' segments and no control characters"))
    }

    pub(crate) fn error(
        &self,
        operation: Operation,
        key: &str,
        kind: ErrorKind,
        cause: impl Into<String>,
    ) -> BlobError {
        BlobError::new(kind, operation, self.shared.url.of_key(key), cause)
    }

    pub(crate) fn cancelled(&self, operation: Operation, key: &str) -> BlobError {
        self.error(operation, key, ErrorKind::Cancelled, "cancelled")
    }

    pub(crate) fn classify(&self, error: &object_store::Error) -> Failure {
        let mut failure = classify(error);
        failure.cause = scrub(failure.cause, &self.shared.backend.secrets);
        failure
    }

    /// How long a request that sends `bytes` may take until its answer begins.
    pub(crate) fn patience(&self, bytes: u64) -> Duration {
        self.settings().timeouts.idle + Duration::from_secs(bytes / SLOWEST_UPLOAD)
    }

    /// Makes one request: counted, timed, cancellable.
    pub(crate) async fn once<T>(
        &self,
        request: Request<'_>,
        patience: Duration,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failure> {
        if let Some(index) = Operation::ALL.iter().position(|one| *one == request.operation) {
            self.shared.counts[index].fetch_add(1, Ordering::Relaxed);
        }
        if let Some(observer) = &self.shared.context.observer {
            observer.request(&request);
        }
        self.bounded(patience, call).await?.map_err(|error| self.classify(&error))
    }

    /// Waits for `work`, but neither longer than `patience` nor beyond cancellation.
    pub(crate) async fn bounded<T>(&self, patience: Duration, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::new(ErrorKind::Cancelled, "cancelled")),
            done = deadline(&**self.clock(), patience, work) => done.map_err(|DeadlinePassed| {
                Failure::new(ErrorKind::Unavailable, format!("no answer for {:.1} s", patience.as_secs_f64()))
            }),
        }
    }

    pub(crate) fn tries(&self) -> Tries {
        Tries { failures: 0, since: self.clock().monotonic() }
    }

    /// After a failure: waits before the next try, or says that there is none.
    pub(crate) async fn again(
        &self,
        tries: &mut Tries,
        operation: Operation,
        key: &str,
        failure: Failure,
    ) -> Result<()> {
        let context = &self.shared.context;
        let now = context.clock.monotonic();
        if tries.failures == 0 {
            tries.since = now;
        }
        tries.failures = tries.failures.saturating_add(1);
        let transient = failure.kind == ErrorKind::Unavailable;
        if !transient || tries.failures >= context.settings.retry.attempts.get() {
            let mut error = self.error(operation, key, failure.kind, failure.cause);
            if let Some(hint) = failure.hint {
                error = error.with_hint(hint);
            }
            return Err(error.with_tries(tries.failures, now.saturating_sub(tries.since)));
        }
        let asked = failure.retry_after.as_deref().and_then(|text| parse_retry_after(text, context.clock.wall()));
        let wait = context.settings.retry.wait(tries.failures, asked, &*context.entropy);
        tracing::debug!(
            url = %self.shared.url.of_key(key),
            operation = operation.verb(),
            cause = %failure.cause,
            failures = tries.failures,
            wait_ms = wait.as_millis() as u64,
            "trying again after a transient error"
        );
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(self.cancelled(operation, key)),
            () = context.clock.sleep(wait) => Ok(()),
        }
    }

    /// Makes a request until it succeeds or the policy is exhausted. Also gives the number of failures before.
    pub(crate) async fn retrying<T, F>(
        &self,
        operation: Operation,
        key: &str,
        bytes: u64,
        mut call: impl FnMut() -> F,
    ) -> Result<T, (BlobError, u32)>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut tries = self.tries();
        loop {
            let request = Request { operation, key, range: None };
            match self.once(request, self.patience(bytes), call()).await {
                Ok(value) => return Ok(value),
                Err(failure) => {
                    let before = tries.failures();
                    self.again(&mut tries, operation, key, failure).await.map_err(|error| (error, before))?;
                }
            }
        }
    }

    /// Draws `bytes` from the bandwidth limit, if there is one.
    pub(crate) async fn pace(&self, operation: Operation, key: &str, bytes: u64) -> Result<()> {
        let Some(bandwidth) = &self.bandwidth else { return Ok(()) };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(self.cancelled(operation, key)),
            () = bandwidth.take(bytes) => Ok(()),
        }
    }
}
