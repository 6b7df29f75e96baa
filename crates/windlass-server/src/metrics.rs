//! `/metrics`, in the text format of OpenMetrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use windlass_clock::SharedClock;
use windlass_store::{Committed, Entry, LeaseId, Page, Revision, Scan, Store, StoreError, Txn, Watch, keys};

use crate::app::App;
use crate::jobs;
use crate::refusal::{Answer, Refusal};

type Labels = Vec<(&'static str, String)>;

/// What a store can say about itself.
#[async_trait]
pub trait StoreGauges: Send + Sync + 'static {
    /// Bytes that the store takes, and the most that it may take, if there is such a bound.
    async fn size(&self) -> Option<(u64, Option<u64>)>;
}

/// Counters that others keep, such as kinds.
pub trait MoreMetrics: Send + Sync + 'static {
    /// Writes them in the text format of OpenMetrics, without an end mark, under names that begin with `windlass_`.
    ///
    /// # Errors
    ///
    /// That `text` takes no more.
    fn write(&self, text: &mut String) -> std::fmt::Result;
}

/// Counters of one process. Made before the store is opened, so that [`Measured`] can count its commits.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    request_seconds: Histogram,
    denied: Family<Labels, Counter>,
    streams: Gauge,
    commits: Family<Labels, Counter>,
    commit_seconds: Histogram,
    keep_alive: Gauge<f64, AtomicU64>,
    webhooks: Family<Labels, Counter>,
    webhook_queue: Family<Labels, Gauge>,
    spans: Family<Labels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All counters at nothing.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("windlass");
        let requests = Family::<Labels, Counter>::default();
        registry.register("http_requests", "Requests by method, route and status", requests.clone());
        let request_seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        registry.register("http_request_seconds", "Time to the head of an answer", request_seconds.clone());
        let denied = Family::<Labels, Counter>::default();
        registry.register("http_denied", "Requests that were not let in, by reason", denied.clone());
        let streams = Gauge::<i64>::default();
        registry.register("http_event_streams", "Open event streams", streams.clone());
        let commits = Family::<Labels, Counter>::default();
        registry.register("store_commits", "Commits of this process by how they ended", commits.clone());
        let commit_seconds = Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        registry.register("store_commit_seconds", "Time of a commit until it is durable", commit_seconds.clone());
        let keep_alive = Gauge::<f64, AtomicU64>::default();
        let help = "When a lease of this process was last kept alive, on its monotonic clock";
        registry.register("store_lease_kept_at_seconds", help, keep_alive.clone());
        let webhooks = Family::<Labels, Counter>::default();
        registry.register("webhook_deliveries", "Deliveries by receiver and outcome", webhooks.clone());
        let webhook_queue = Family::<Labels, Gauge>::default();
        registry.register("webhook_failing", "Attempts in a row that a receiver did not take", webhook_queue.clone());
        let spans = Family::<Labels, Counter>::default();
        registry.register("trace_spans", "Spans by what the collector of traces did with them", spans.clone());
        Self {
            registry,
            requests,
            request_seconds,
            denied,
            streams,
            commits,
            commit_seconds,
            keep_alive,
            webhooks,
            webhook_queue,
            spans,
        }
    }

    pub(crate) fn request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let labels = vec![("method", method.to_owned()), ("route", route.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn denied(&self, code: &str) {
        self.denied.get_or_create(&vec![("reason", code.to_owned())]).inc();
    }

    pub(crate) fn streams(&self, change: i64) {
        self.streams.inc_by(change);
    }

    pub(crate) fn webhook(&self, name: &str, outcome: &str, failing: u32) {
        self.webhooks.get_or_create(&vec![("name", name.to_owned()), ("outcome", outcome.to_owned())]).inc();
        self.webhook_queue.get_or_create(&vec![("name", name.to_owned())]).set(failing.into());
    }

    pub(crate) fn spans(&self, outcome: &str, number: usize) {
        self.spans.get_or_create(&vec![("outcome", outcome.to_owned())]).inc_by(number as u64);
    }
}

/// `GET /metrics`
pub(crate) async fn get(State(app): State<Arc<App>>) -> Answer<Response> {
    let mut registry = Registry::with_prefix("windlass");
    let jobs = Family::<Labels, Gauge>::default();
    registry.register("jobs", "Jobs by state and kind", jobs.clone());
    for ((state, kind), n) in jobs::by_state_and_kind(&app).await? {
        let labels = vec![("state", state.as_str().to_owned()), ("kind", kind)];
        jobs.get_or_create(&labels).set(i64::try_from(n).unwrap_or(i64::MAX));
    }
    let tasks = Family::<Labels, Gauge>::default();
    registry.register("tasks", "Tasks of the jobs that run in this process, by state", tasks.clone());
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    let (claims, own) = claims(&app).await?;
    for snapshot in own {
        let counts = snapshot.counts;
        for (state, n) in [
            ("waiting", counts.waiting),
            ("running", counts.running),
            ("succeeded", counts.succeeded),
            ("failed", counts.failed),
            ("ignored", counts.ignored),
            ("cancelled", counts.cancelled),
        ] {
            *sums.entry(state).or_default() += n;
        }
    }
    for (state, n) in sums {
        tasks.get_or_create(&vec![("state", state.to_owned())]).set(i64::try_from(n).unwrap_or(i64::MAX));
    }
    let gauge = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge(&mut registry, "claims", "Jobs that some process coordinates", claims);
    let workers = windlass_store::read_all(&**app.store(), "worker/").await?.len();
    gauge(&mut registry, "workers", "Worker processes that are present", workers as u64);
    let revision = app.store().revision().await?;
    gauge(&mut registry, "store_revision", "The revision of the state store", revision.0);
    let clock = app.clock.monotonic();
    let now = Gauge::<f64, AtomicU64>::default();
    now.set(clock.as_secs_f64());
    registry.register("monotonic_seconds", "This process's monotonic clock, to compare with", now);
    if let Some(gauges) = &app.gauges
        && let Some((bytes, quota)) = gauges.size().await
    {
        gauge(&mut registry, "store_bytes", "Bytes that the state store takes", bytes);
        if let Some(quota) = quota {
            gauge(&mut registry, "store_quota_bytes", "Bytes that the state store may take", quota);
        }
    }
    let mut text = String::new();
    let written = encode_registry(&mut text, &registry)
        .and_then(|()| encode_registry(&mut text, &app.metrics.registry))
        .and_then(|()| app.more_metrics.as_ref().map_or(Ok(()), |more| more.write(&mut text)))
        .and_then(|()| encode_eof(&mut text));
    written.map_err(|error| Refusal::internal(format!("write the metrics: {error}")))?;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, media_type)], text).into_response())
}

/// How many jobs are claimed, and those of them that run here.
async fn claims(app: &App) -> Answer<(u64, Vec<windlass_engine::JobSnapshot>)> {
    let claims = windlass_store::read_all(&**app.store(), keys::CLAIMS).await?;
    let jobs = claims.iter().filter_map(|entry| keys::last_part(&entry.key));
    let own = jobs.filter_map(|job| app.engine.watch(job)).map(|watch| watch.borrow().clone());
    Ok((claims.len() as u64, own.collect()))
}

/// A store whose commits are counted and timed.
#[derive(Debug)]
pub struct Measured {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    clock: SharedClock,
}

impl Measured {
    /// Counts what is done to `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, metrics: Arc<Metrics>, clock: SharedClock) -> Self {
        Self { store, metrics, clock }
    }
}

#[async_trait]
impl Store for Measured {
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        let begun = self.clock.monotonic();
        let result = self.store.commit(txn).await;
        self.metrics.commit_seconds.observe(self.clock.monotonic().saturating_sub(begun).as_secs_f64());
        let outcome = match &result {
            Ok(Committed::At(_)) => "done",
            Ok(Committed::Conflict(_)) => "conflict",
            Err(StoreError::Unknown(_)) => "unknown",
            Err(_) => "failed",
        };
        self.metrics.commits.get_or_create(&vec![("outcome", outcome.to_owned())]).inc();
        result
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.store.get(key).await
    }

    async fn scan(&self, prefix: &str) -> Result<Box<dyn Scan>, StoreError> {
        self.store.scan(prefix).await
    }

    async fn last_before(&self, prefix: &str, before: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        self.store.last_before(prefix, before, limit).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.store.watch(prefix, after).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let result = self.store.keep_alive(lease).await;
        if result.is_ok() {
            self.metrics.keep_alive.set(self.clock.monotonic().as_secs_f64());
        }
        result
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke(lease).await
    }
}
