//! Places to test against, and the clock that makes waits between tries instant.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tempfile::TempDir;
use windlass_blob::{BlobStore, Context, Environment, RetryPolicy, Settings, Timeouts};
use windlass_clock::{Clock, Seeded, SharedClock, Sleep, SystemClock};
use windlass_sim::s3::{FaultProxy, Options, S3Server};

/// Longer than any wait between tries, so that the clock below can tell a timeout from such a wait.
const PATIENCE: Duration = Duration::from_secs(1000);

/// Lets waits between tries pass at once and notes them; timeouts are as long as `timeout` says.
#[derive(Debug)]
pub(crate) struct QuickClock {
    real: SharedClock,
    timeout: Duration,
    waits: Mutex<Vec<Duration>>,
}

impl QuickClock {
    pub(crate) fn new(timeout: Duration) -> Arc<Self> {
        Arc::new(Self { real: SystemClock::real(), timeout, waits: Mutex::new(Vec::new()) })
    }

    pub(crate) fn waits(&self) -> Vec<Duration> {
        self.waits.lock().unwrap().clone()
    }
}

impl Clock for QuickClock {
    fn wall(&self) -> Timestamp {
        self.real.wall()
    }

    fn monotonic(&self) -> Duration {
        self.real.monotonic()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        if duration >= PATIENCE {
            return self.real.sleep(self.timeout);
        }
        self.waits.lock().unwrap().push(duration);
        Box::pin(tokio::task::yield_now())
    }
}

pub(crate) fn context(clock: SharedClock, environment: Environment) -> Context {
    Context {
        clock,
        entropy: Seeded::shared(7),
        environment,
        settings: Settings {
            retry: RetryPolicy::default(),
            timeouts: Timeouts { connect: Duration::from_secs(5), idle: PATIENCE },
        },
        observer: None,
    }
}

/// A real S3 server with a bucket, a proxy in front of it, and a store that goes through the proxy.
pub(crate) struct Site {
    pub(crate) dir: TempDir,
    pub(crate) server: S3Server,
    pub(crate) proxy: FaultProxy,
    pub(crate) clock: Arc<QuickClock>,
    pub(crate) store: BlobStore,
}

impl Site {
    pub(crate) fn start() -> Self {
        Self::with(Duration::from_secs(30), Options::default())
    }

    pub(crate) fn with(timeout: Duration, options: Options) -> Self {
        let dir = TempDir::new().unwrap();
        let server = S3Server::start_with(dir.path(), "127.0.0.1:0", options).unwrap();
        server.create_bucket("bucket").unwrap();
        let proxy = FaultProxy::start(server.address()).unwrap();
        let clock = QuickClock::new(timeout);
        let store = BlobStore::open_text(
            &format!("s3://bucket/some/prefix?endpoint={}", proxy.endpoint()),
            &context(clock.clone(), Environment::from_pairs(S3Server::credentials())),
        )
        .unwrap();
        Self { dir, server, proxy, clock, store }
    }

    /// The same place without the proxy.
    pub(crate) fn direct(&self) -> BlobStore {
        BlobStore::open_text(
            &format!("s3://bucket/some/prefix?endpoint={}", self.server.endpoint()),
            &context(self.clock.clone(), Environment::from_pairs(S3Server::credentials())),
        )
        .unwrap()
    }
}

/// Bytes that differ everywhere, so that a shifted or repeated run shows.
pub(crate) fn pattern(length: usize, seed: u64) -> Bytes {
    use windlass_clock::Entropy;
    let numbers = Seeded::new(seed);
    let mut data = Vec::with_capacity(length + 8);
    while data.len() < length {
        data.extend_from_slice(&numbers.next_u64().to_le_bytes());
    }
    data.truncate(length);
    Bytes::from(data)
}

pub(crate) async fn read_all(mut reader: windlass_blob::BlobReader) -> windlass_blob::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = reader.next_chunk().await? {
        assert!(!chunk.is_empty());
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}
