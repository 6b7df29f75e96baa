//! What all requests share.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use windlass_api::page::Pages;
use windlass_clock::{SharedClock, SharedEntropy};
use windlass_engine::{Engine, EngineConfig};
use windlass_store::Store;

use crate::access::Access;
use crate::audit::Audit;
use crate::broadcast::Shared;
use crate::config::{Limits, ServerConfig};
use crate::idempotency::Idempotency;
use crate::metrics::{Metrics, MoreMetrics, StoreGauges};
use crate::picture::Pictures;
use crate::rate::Rate;
use crate::rows::{RowSink, Seen};
use crate::submission::JobText;

/// What all requests share.
pub(crate) struct App {
    pub(crate) engine: Arc<Engine>,
    pub(crate) clock: SharedClock,
    pub(crate) entropy: SharedEntropy,
    pub(crate) limits: Limits,
    pub(crate) hosts: Vec<String>,
    pub(crate) local: SocketAddr,
    pub(crate) tls: bool,
    pub(crate) open_metrics: bool,
    pub(crate) access: Option<RwLock<Arc<Access>>>,
    pub(crate) audit: Audit,
    pub(crate) idempotency: Idempotency,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gauges: Option<Arc<dyn StoreGauges>>,
    pub(crate) pictures: Pictures,
    pub(crate) rate: Rate,
    /// Much slower: what comes from an address without being let in.
    pub(crate) denied_rate: Rate,
    pub(crate) previews: Semaphore,
    pub(crate) preview: Option<EngineConfig>,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) shared_feed: Shared,
    /// Owns what feeds event streams.
    pub(crate) feeds: TaskTracker,
    /// Fires when the server ends.
    pub(crate) closing: CancellationToken,
    pub(crate) pages: Option<Arc<dyn Pages>>,
    pub(crate) job_text: Option<Arc<dyn JobText>>,
    pub(crate) more_metrics: Option<Arc<dyn MoreMetrics>>,
    pub(crate) rows: Option<Arc<dyn RowSink>>,
    /// KiB of rows that may be on their way at a time.
    pub(crate) rows_room: Semaphore,
    /// Who sent rows lately.
    pub(crate) rows_seen: Seen,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("local", &self.local).finish_non_exhaustive()
    }
}

/// What a server is made of besides its configuration.
pub(crate) struct Parts {
    pub(crate) engine: Arc<Engine>,
    pub(crate) clock: SharedClock,
    pub(crate) local: SocketAddr,
    pub(crate) access: Option<Access>,
    pub(crate) gauges: Option<Arc<dyn StoreGauges>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) preview: Option<EngineConfig>,
    pub(crate) pages: Option<Arc<dyn Pages>>,
    pub(crate) job_text: Option<Arc<dyn JobText>>,
    pub(crate) rows: Option<Arc<dyn RowSink>>,
    pub(crate) more_metrics: Option<Arc<dyn MoreMetrics>>,
}

impl App {
    pub(crate) fn new(config: ServerConfig, parts: Parts) -> Self {
        let entropy = windlass_clock::SystemEntropy::real();
        let store = parts.engine.store().clone();
        let limits = config.limits;
        Self {
            audit: Audit::new(store.clone(), parts.clock.clone(), entropy.clone(), limits.audit_kept),
            idempotency: Idempotency::new(store, parts.clock.clone(), limits.idempotency_kept),
            pictures: Pictures::default(),
            rate: Rate::new(limits.rate, limits.burst),
            denied_rate: Rate::new(1.0, 30.0),
            previews: Semaphore::new(2),
            streams: Arc::new(Semaphore::new(limits.streams)),
            shared_feed: Shared::default(),
            feeds: TaskTracker::new(),
            closing: CancellationToken::new(),
            tls: config.tls.is_some(),
            open_metrics: config.open_metrics,
            hosts: config.hosts,
            access: parts.access.map(|access| RwLock::new(Arc::new(access))),
            engine: parts.engine,
            clock: parts.clock,
            local: parts.local,
            gauges: parts.gauges,
            metrics: parts.metrics,
            preview: parts.preview,
            pages: parts.pages,
            job_text: parts.job_text,
            rows: parts.rows,
            more_metrics: parts.more_metrics,
            rows_room: Semaphore::new(limits.rows_bytes_at_once.max(limits.rows_bytes).div_ceil(1024)),
            rows_seen: Seen::default(),
            entropy,
            limits,
        }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.engine.store()
    }

    /// The grants as last read; `None` when everybody on this loopback address may do everything.
    pub(crate) fn grants(&self) -> Option<Arc<Access>> {
        let access = self.access.as_ref()?;
        Some(access.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub(crate) fn set_grants(&self, grants: Access) {
        if let Some(access) = &self.access {
            *access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(grants);
        }
    }

    /// Names a request.
    pub(crate) fn request_id(&self) -> String {
        format!("{:016x}", self.entropy.next_u64())
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    pub(crate) certificate: Option<crate::tls::CertificateNames>,
}
