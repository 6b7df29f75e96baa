//! What this process counts of tables and their jobs, in the text format of OpenMetrics.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde_json::Value;
use windlass_table::{Batch, Definition};

type Labels = Vec<(&'static str, String)>;

/// Tables that have counters of their own; those beyond share one, so that nobody fills the memory with names.
const TABLES: usize = 2000;

/// The counters of a process.
#[derive(Debug)]
pub struct Figures {
    registry: Registry,
    known: Mutex<std::collections::BTreeSet<String>>,
    ingested: Family<Labels, Counter>,
    full: Family<Labels, Counter>,
    lateness: Family<Labels, Histogram, fn() -> Histogram>,
    runs: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    rows: Family<Labels, Counter>,
    keys: Family<Labels, Counter>,
    days: Family<Labels, Counter>,
    written: Family<Labels, Counter>,
    conflicts: Family<Labels, Counter>,
    checkpoint: Family<Labels, Gauge>,
    segments: Family<Labels, Gauge>,
    log_bytes: Family<Labels, Gauge>,
    pending: Family<Labels, Gauge>,
    fill: Family<Labels, Gauge<f64, std::sync::atomic::AtomicU64>>,
    oldest: Family<Labels, Gauge>,
    memory: Gauge,
    memory_most: Gauge,
    dead: Family<Labels, Counter>,
    corrupt: Family<Labels, Counter>,
}

/// Bounds of the classes of lateness, in seconds: those of `windlass table late`.
fn lateness() -> Histogram {
    Histogram::new(windlass_table::late::LATENESS.iter().filter(|bound| **bound < i64::MAX).map(|bound| *bound as f64))
}

fn seconds() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.01, 4.0, 9))
}

impl Default for Figures {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("windlass_backfill");
        macro_rules! register {
            ($name:literal, $help:literal, $metric:expr) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        let lateness = Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(lateness);
        let seconds = Family::<Labels, Histogram, fn() -> Histogram>::new_with_constructor(seconds);
        Self {
            ingested: register!("ingested_rows", "Rows that came over HTTP and are in a log", Family::default()),
            full: register!(
                "refused_full",
                "Batches that were told to come again, as too much waits",
                Family::default()
            ),
            lateness: register!("lateness_seconds", "How late late rows came over HTTP", lateness),
            runs: register!("runs", "Runs by how they ended", Family::default()),
            seconds: register!("duration_seconds", "Time of the stages of runs", seconds),
            rows: register!("rows", "Rows that runs read, by what became of them", Family::default()),
            keys: register!("keys", "Keys that runs touched, by what happened to them", Family::default()),
            days: register!("days_rewritten", "Days that runs wrote anew", Family::default()),
            written: register!("bytes_written", "Bytes of data files that were committed", Family::default()),
            conflicts: register!("commit_conflicts", "Runs that others' changes sent back to plan", Family::default()),
            checkpoint: register!("checkpoint_lsn", "How far a log is merged", Family::default()),
            segments: register!("log_segments", "Segments of a log, when it was last trimmed", Family::default()),
            log_bytes: register!("log_bytes", "Bytes of a log, when it was last trimmed", Family::default()),
            pending: register!("pending_bytes", "Bytes of a log that wait, when last looked at", Family::default()),
            fill: register!("pending_fill_ratio", "Part of the hard limit that waits", Family::default()),
            oldest: register!("oldest_pending_seconds", "Age of the oldest batch that waits", Family::default()),
            memory: register!(
                "memory_held_bytes",
                "Memory that merges of this process have set aside",
                Gauge::default()
            ),
            memory_most: register!(
                "memory_most_held_bytes",
                "The most memory that merges of this process had set aside at a time",
                Gauge::default()
            ),
            dead: register!("dead_letter_rows", "Rows that were not merged, by reason", Family::default()),
            corrupt: register!("log_corrupt", "Looks at logs that found damage", Family::default()),
            known: Mutex::default(),
            registry,
        }
    }
}

static PROCESS: LazyLock<Arc<Figures>> = LazyLock::new(Arc::default);

impl Figures {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Arc<Self> {
        PROCESS.clone()
    }

    /// Writes all of them, without an end mark.
    ///
    /// # Errors
    ///
    /// That `text` takes no more.
    pub fn write(&self, text: &mut String) -> std::fmt::Result {
        encode_registry(text, &self.registry)
    }

    fn table(&self, name: &str) -> String {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(name) {
            return name.to_owned();
        }
        if known.len() >= TABLES {
            return "(others)".to_owned();
        }
        known.insert(name.to_owned());
        name.to_owned()
    }

    fn labels(&self, table: &str, shard: u32) -> Labels {
        vec![("table", self.table(table)), ("shard", shard.to_string())]
    }

    fn labels_and(&self, table: &str, shard: u32, name: &'static str, value: &str) -> Labels {
        let mut labels = self.labels(table, shard);
        labels.push((name, value.to_owned()));
        labels
    }

    /// A batch is in a log.
    pub(crate) fn ingested(&self, definition: &Definition, batch: &Batch, cutoff: i64) {
        let labels = vec![("table", self.table(&definition.name))];
        self.ingested.get_or_create(&labels).inc_by(batch.len() as u64);
        let events = batch.column(&definition.event_time);
        let events = events.and_then(|array| array.as_primitive_opt::<TimestampMicrosecondType>());
        let Some(events) = events else { return };
        let lateness = self.lateness.get_or_create(&labels);
        for event in events.iter().flatten().filter(|event| *event < cutoff) {
            lateness.observe(batch.arrival().saturating_sub(event).max(0) as f64 / 1e6);
        }
    }

    /// A batch was refused because too much waits.
    pub(crate) fn full(&self, table: &str) {
        self.full.get_or_create(&vec![("table", self.table(table))]).inc();
    }

    /// A stage of a run took so long.
    pub(crate) fn stage(&self, table: &str, shard: u32, stage: &'static str, seconds: f64) {
        self.seconds.get_or_create(&self.labels_and(table, shard, "stage", stage)).observe(seconds);
    }

    /// A run was committed with these counters.
    pub(crate) fn committed(&self, table: &str, shard: u32, metrics: &Value) {
        self.ended(table, shard, "committed");
        let groups = [("rows", "kind", &self.rows), ("keys", "effect", &self.keys)];
        for (group, label, family) in groups {
            for (name, value) in metrics.get(group).and_then(Value::as_object).into_iter().flatten() {
                let value = value.as_u64().unwrap_or(0);
                family.get_or_create(&self.labels_and(table, shard, label, name)).inc_by(value);
                let is_dead = name.starts_with("rejected") || name == "from_future" || name == "out_of_retention";
                if group == "rows" && is_dead && value > 0 {
                    self.dead.get_or_create(&self.labels_and(table, shard, "reason", name)).inc_by(value);
                }
            }
        }
        let labels = self.labels(table, shard);
        let days = metrics.get("days_rewritten").and_then(Value::as_array).map_or(0, Vec::len);
        self.days.get_or_create(&labels).inc_by(days as u64);
        let number = |name: &str| metrics.get(name).and_then(Value::as_u64).unwrap_or(0);
        self.written.get_or_create(&labels).inc_by(number("bytes_written"));
        let lsn = i64::try_from(number("to_lsn")).unwrap_or(i64::MAX);
        self.checkpoint.get_or_create(&labels).set(lsn);
    }

    /// A run ended otherwise.
    pub(crate) fn ended(&self, table: &str, shard: u32, result: &str) {
        self.runs.get_or_create(&self.labels_and(table, shard, "result", result)).inc();
        if result == "conflict" {
            self.conflicts.get_or_create(&self.labels(table, shard)).inc();
        }
        if result == "damaged" {
            self.corrupt.get_or_create(&self.labels(table, shard)).inc();
        }
    }

    /// What is left of a log.
    pub(crate) fn log(&self, table: &str, shard: u32, segments: u64, bytes: u64) {
        let labels = self.labels(table, shard);
        self.segments.get_or_create(&labels).set(i64::try_from(segments).unwrap_or(i64::MAX));
        self.log_bytes.get_or_create(&labels).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// What waits in a log, and since when.
    pub(crate) fn pending(&self, table: &str, shard: u32, bytes: u64, hard: u64, age_seconds: i64) {
        let labels = self.labels(table, shard);
        self.pending.get_or_create(&labels).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.fill.get_or_create(&labels).set(bytes as f64 / hard.max(1) as f64);
        self.oldest.get_or_create(&labels).set(age_seconds);
    }

    /// Memory that is set aside.
    pub(crate) fn memory(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.memory.set(bytes);
        self.memory_most.inner().fetch_max(bytes, std::sync::atomic::Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_run_came_to_can_be_read() {
        let figures = Figures::default();
        let metrics = json!({
            "rows": {"rows_in": 5, "rejected_no_key": 2}, "keys": {"inserted": 3},
            "days_rewritten": ["2025-11-18", "2025-11-19"], "bytes_written": 100, "to_lsn": 7,
        });
        figures.committed("rides", 1, &metrics);
        figures.committed("rides", 1, &metrics);
        figures.ended("rides", 1, "conflict");
        let mut text = String::new();
        figures.write(&mut text).unwrap();
        for line in [
            "windlass_backfill_runs_total{table=\"rides\",shard=\"1\",result=\"committed\"} 2",
            "windlass_backfill_rows_total{table=\"rides\",shard=\"1\",kind=\"rows_in\"} 10",
            "windlass_backfill_dead_letter_rows_total{table=\"rides\",shard=\"1\",reason=\"rejected_no_key\"} 4",
            "windlass_backfill_keys_total{table=\"rides\",shard=\"1\",effect=\"inserted\"} 6",
            "windlass_backfill_days_rewritten_total{table=\"rides\",shard=\"1\"} 4",
            "windlass_backfill_checkpoint_lsn{table=\"rides\",shard=\"1\"} 7",
            "windlass_backfill_commit_conflicts_total{table=\"rides\",shard=\"1\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }

    #[test]
    fn names_beyond_a_bound_share_a_counter() {
        let figures = Figures::default();
        for n in 0..TABLES + 10 {
            figures.full(&format!("t{n}"));
        }
        let mut text = String::new();
        figures.write(&mut text).unwrap();
        assert!(text.contains("windlass_backfill_refused_full_total{table=\"(others)\"} 10"));
    }
}
