//! The controllers of this process in the text format of OpenMetrics.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use windlass_clock::Clock;

use crate::tally::{self, Counted};

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge>;
type Seconds = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;

/// Writes what is counted and measured of the `distribute` jobs that this process coordinates, without an end mark.
///
/// # Errors
///
/// That `text` takes no more.
pub fn write(text: &mut String, clock: &dyn Clock) -> fmt::Result {
    let all = tally::all();
    if all.is_empty() {
        return Ok(());
    }
    let mut registry = Registry::with_prefix("windlass_distribute");
    let families = Families::new(&mut registry);
    for (job, tally) in all {
        families.add(&job.to_string(), &tally.read(), clock.monotonic());
    }
    encode_registry(text, &registry)
}

struct Families {
    copies: Counters,
    deletes: Counters,
    bytes: Counters,
    plans: Counters,
    plan_seconds: Family<Labels, Counter<f64, AtomicU64>>,
    files: Gauges,
    catalogue: Gauges,
    origin: Gauges,
    trusted: Gauges,
    waiting: Gauges,
    under_way: Gauges,
    rising: Gauges,
    rising_seconds: Seconds,
    catalogue_seconds: Seconds,
    plan_age: Seconds,
    malformed: Gauges,
    alarms: Gauges,
    node_up: Gauges,
    node_trusted: Gauges,
    node_files: Gauges,
    node_bytes: Gauges,
}

fn count(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Families {
    fn new(registry: &mut Registry) -> Self {
        let counters = |registry: &mut Registry, name: &str, help: &str| {
            let family = Counters::default();
            registry.register(name, help, family.clone());
            family
        };
        let gauges = |registry: &mut Registry, name: &str, help: &str| {
            let family = Gauges::default();
            registry.register(name, help, family.clone());
            family
        };
        let seconds = |registry: &mut Registry, name: &str, help: &str| {
            let family = Seconds::default();
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
            family
        };
        let plan_seconds = Family::<Labels, Counter<f64, AtomicU64>>::default();
        registry.register_with_unit("plan", "Time that plans took, by part", Unit::Seconds, plan_seconds.clone());
        Self {
            copies: counters(registry, "copies", "Copies that ended, by reason and result"),
            deletes: counters(registry, "deletes", "Deletes that ended, by reason and result"),
            bytes: counters(registry, "copied_bytes", "Bytes that came, by source and node"),
            plans: counters(registry, "plans", "Plans that were made"),
            plan_seconds,
            files: gauges(registry, "files", "Files of the catalogue that are not copied now, by reason"),
            catalogue: gauges(registry, "catalogue_files", "Files of the catalogue in use"),
            origin: gauges(registry, "origin_files", "Files on the origin"),
            trusted: gauges(registry, "trusted_nodes", "Nodes whose answers count"),
            waiting: gauges(registry, "waiting_files", "Files that wait for a source or for room"),
            under_way: gauges(registry, "tasks_under_way", "Copies and deletes under way"),
            rising: gauges(registry, "rising_files", "Files with many recent requests"),
            rising_seconds: seconds(registry, "rising_waits", "How long the first rising file has waited"),
            catalogue_seconds: seconds(registry, "catalogue_age", "How long the catalogue in use has been so"),
            plan_age: seconds(registry, "plan_age", "How long ago the last plan was made"),
            malformed: gauges(registry, "malformed_lines", "Lines of the inputs that make no sense"),
            alarms: gauges(registry, "alarm", "1 where a person should look"),
            node_up: gauges(registry, "node_up", "1 where a node answers"),
            node_trusted: gauges(registry, "node_trusted", "1 where what a node says counts"),
            node_files: gauges(registry, "node_files", "Files on a node"),
            node_bytes: gauges(registry, "node_disk_bytes", "Bytes of a node's disk, by what they are"),
        }
    }

    fn add(&self, job: &str, counted: &Counted, now: Duration) {
        let with = |more: &[(&'static str, &str)]| -> Labels {
            let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
            [("job", job.to_owned())].into_iter().chain(more).collect()
        };
        for (family, ends) in [(&self.copies, &counted.copies), (&self.deletes, &counted.deletes)] {
            for ((reason, result), n) in ends {
                family.get_or_create(&with(&[("reason", reason), ("result", result)])).inc_by(*n);
            }
        }
        for ((source, node), n) in &counted.bytes {
            self.bytes.get_or_create(&with(&[("source", source), ("node", node)])).inc_by(*n);
        }
        self.plans.get_or_create(&with(&[])).inc_by(counted.plans);
        for (part, took) in [("decide", counted.decided), ("put_down", counted.put_down)] {
            self.plan_seconds.get_or_create(&with(&[("part", part)])).inc_by(took.as_secs_f64());
        }
        let last = &counted.last;
        for (family, value) in [
            (&self.catalogue, count(last.catalogue)),
            (&self.origin, count(last.origin)),
            (&self.trusted, count(last.trusted)),
            (&self.waiting, i64::try_from(last.waiting).unwrap_or(i64::MAX)),
            (&self.under_way, count(last.under_way)),
            (&self.rising, count(last.rising)),
        ] {
            family.get_or_create(&with(&[])).set(value);
        }
        for (reason, n) in &last.passed {
            self.files.get_or_create(&with(&[("reason", reason)])).set(i64::try_from(*n).unwrap_or(i64::MAX));
        }
        for (input, n) in &last.malformed {
            self.malformed.get_or_create(&with(&[("input", input)])).set(i64::try_from(*n).unwrap_or(i64::MAX));
        }
        for (family, at) in [
            (&self.rising_seconds, last.rising_since),
            (&self.catalogue_seconds, last.catalogue_at),
            (&self.plan_age, counted.planned_at),
        ] {
            if let Some(at) = at {
                family.get_or_create(&with(&[])).set(now.saturating_sub(at).as_secs_f64());
            }
        }
        for (alarm, is_so) in [
            ("catalogue_refused", last.doubted),
            ("node_untrusted", last.nodes.iter().any(|node| node.told)),
            ("file_parked", last.parked > 0),
            ("rising_waits", last.rising_waits),
            ("store", last.store_fails),
            ("no_plan", counted.is_late(now)),
        ] {
            self.alarms.get_or_create(&with(&[("alarm", alarm)])).set(i64::from(is_so));
        }
        for node in &last.nodes {
            let whose = with(&[("node", &node.address)]);
            self.node_up.get_or_create(&whose).set(i64::from(node.up));
            self.node_trusted.get_or_create(&whose).set(i64::from(node.trusted));
            if let Some(files) = node.files {
                self.node_files.get_or_create(&whose).set(count(files));
            }
            for (kind, bytes) in [("used", node.used), ("size", node.size)] {
                if let Some(bytes) = bytes {
                    self.node_bytes.get_or_create(&with(&[("node", &node.address), ("kind", kind)])).set(bytes);
                }
            }
        }
    }
}
