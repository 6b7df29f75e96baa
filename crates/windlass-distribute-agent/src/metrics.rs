//! `/metrics`, in the text format of OpenMetrics.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use windlass_distribute::wire::agent::TransferState;

use crate::agent::Agent;
use crate::serve::refusal::Refused;

type Labels = Vec<(&'static str, String)>;

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What an agent counts from its start on.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    served: Counter,
    fetched: Counter,
    transfers: Family<Labels, Counter>,
    deletes: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
}

impl Counts {
    /// So many bytes of files were sent.
    pub(crate) fn served(&self, bytes: u64) {
        self.served.inc_by(bytes);
    }

    /// So many bytes of copies came.
    pub(crate) fn fetched(&self, bytes: u64) {
        self.fetched.inc_by(bytes);
    }

    /// A transfer ended.
    pub(crate) fn ended(&self, result: &str) {
        self.transfers.get_or_create(&vec![("result", result.to_owned())]).inc();
    }

    /// A deletion was asked for.
    pub(crate) fn deleted(&self, result: &str) {
        self.deletes.get_or_create(&vec![("result", result.to_owned())]).inc();
    }

    /// A request was refused.
    pub(crate) fn refused(&self, code: &str) {
        self.refused.get_or_create(&vec![("reason", code.to_owned())]).inc();
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

/// Everything, as text. Blocks.
pub(crate) fn text(agent: &Agent) -> Result<String, Refused> {
    let failed = |error: fmt::Error| Refused::new(500, "encoding", format!("write the metrics: {error}"));
    let report = agent.report()?;
    let mut registry = Registry::with_prefix("windlass_agent");
    let disk = Family::<Labels, Gauge>::default();
    registry.register("disk_bytes", "Bytes of the disk, by what they are", disk.clone());
    for (kind, bytes) in [("size", report.total), ("used", report.used), ("avail", report.avail)] {
        disk.get_or_create(&vec![("kind", kind.to_owned())]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    let limit = Gauge::<f64, AtomicU64>::default();
    limit.set(f64::from(report.limits.usage_limit_percent) / 100.0);
    registry.register("usage_limit_ratio", "Above this part of the disk nothing is taken", limit);
    let open = Family::<Labels, Gauge>::default();
    registry.register("transfers_open", "Transfers that are not over, by state", open.clone());
    for (state, wanted) in [("queued", TransferState::Queued), ("running", TransferState::Running)] {
        let count = report.transfers.iter().filter(|transfer| transfer.state == wanted).count();
        open.get_or_create(&vec![("state", state.to_owned())]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    for (name, what, bucket) in [
        ("fetch_limit_bits_per_second", "The limit over all transfers at this hour", agent.transfers.bucket()),
        ("serve_limit_bits_per_second", "The limit over all files that are served at this hour", &agent.serving),
    ] {
        if let Some(bits) = bucket.limit() {
            gauge(&mut registry, name, what, bits);
        }
    }
    let counts = agent.counts();
    registry.register("served_bytes", "Bytes of files that were sent", counts.served.clone());
    registry.register("fetched_bytes", "Bytes of copies that came", counts.fetched.clone());
    registry.register("transfers", "Transfers that ended, by result", counts.transfers.clone());
    registry.register("deletes", "Deletions that were asked for, by result", counts.deletes.clone());
    registry.register("requests_refused", "Requests that were refused, by reason", counts.refused.clone());
    let mut text = String::new();
    encode_registry(&mut text, &registry).and_then(|()| encode_eof(&mut text)).map_err(failed)?;
    Ok(text)
}
