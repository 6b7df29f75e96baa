//! Recovers many instances at a simulated site, undoes that, and prints what it took as one JSON document.
//!
//! `cargo run --release -p windlass-recover --example bench_recover -- STORE INSTANCES READY_MS`
//!
//! STORE is `etcd` (one member with default flags, started for the measurement), `embedded` or `memory`. Each instance has
//! three volumes and four rules in a security group of all; servers, volumes and snapshots take READY_MS to become ready.
//!
//! How long it had to take at least is reckoned from the times that the tasks themselves took: the longest chain of tasks
//! that wait for each other; and, after the survey, which comes before everything, what goes through each pool shared out
//! over its places, and everything shared out over the places of the process. These times contain what the engine adds
//! within a task (the commits of its ledger). A second bound is reckoned from the times of a recovery of one instance with
//! nothing else at work: what the services alone need.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::{Seeded, SharedClock, SystemClock};
use windlass_engine::{Command, Engine, EngineConfig, JobRequest, Kinds, report};
use windlass_recover::{RecoverConfig, RecoverKind};
use windlass_sim::etcd::EtcdServer;
use windlass_sim_cloud::{Options, SimCloud};
use windlass_store::Store;
use windlass_store::memory::MemoryStore;
use windlass_store_embedded::EmbeddedStore;
use windlass_store_etcd::{EtcdConfig, EtcdStore};

type Failed = Box<dyn Error + Send + Sync>;

/// Volumes of an instance, and rules of the group for each.
const VOLUMES: usize = 3;
const RULES: usize = 4;
/// Places of the pools that the kind puts volume copies and the making of servers into.
const POOLS: [(&str, u64); 2] = [("copy.volume", 8), ("create-and-diagnose.instance", 10)];
/// Instances of the recovery that shows what the services alone need.
const FEW: usize = 1;

/// What one recovery took.
struct Run {
    summary: Value,
    places: u64,
    tasks: u64,
    /// Milliseconds until it was up, for the report, and until it was undone.
    up: u64,
    report: u64,
    down: u64,
    /// Transactions of the two.
    transactions: (u64, u64),
    changes: usize,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the document is the program's output")]
async fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [store, instances, ready_ms] = arguments.as_slice() else {
        return Err("the arguments are STORE INSTANCES READY_MS".into());
    };
    let (instances, ready_ms): (usize, u64) = (instances.parse()?, ready_ms.parse()?);
    let small = recover(store, FEW, ready_ms).await?;
    let large = recover(store, instances, ready_ms).await?;
    let took = number(&large.summary["took_ms"]);
    let bound = at_least(&large, &large);
    let services = at_least(&large, &small);
    let document = json!({
        "store": store, "instances": instances, "volumes": instances * VOLUMES, "rules": instances * RULES,
        "ready_ms": ready_ms, "places": large.places, "tasks": large.tasks, "changes": large.changes,
        "up_ms": large.up, "report_ms": large.report, "down_ms": large.down,
        "transactions_up": large.transactions.0, "transactions_down": large.transactions.1,
        "took_ms": took, "at_least_ms": bound, "ratio": ratio(took, bound),
        "services_ms": services, "services_ratio": ratio(took, services),
        "phases": large.summary["phases"], "peak_mib": peak_mib(),
    });
    println!("{document:#}");
    Ok(())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of hours fit")]
fn ratio(took: u64, bound: u64) -> f64 {
    took as f64 / bound.max(1) as f64
}

/// The least that a recovery could have taken, if each task took as long as in `times`.
fn at_least(run: &Run, times: &Run) -> u64 {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (phase, figures) in run.summary["phases"].as_object().into_iter().flatten() {
        let seen = &times.summary["phases"][phase];
        let sum = number(&figures["tasks"]) * number(&seen["took_ms"]) / number(&seen["tasks"]).max(1);
        sums.insert(phase, sum);
    }
    let sum = |phase: &str| sums.get(phase).copied().unwrap_or(0);
    // The survey comes before everything: it says what there is to do. It is that of this run, whose site is as large.
    let survey = number(&run.summary["phases"]["survey"]["took_ms"]);
    let after: u64 = sums.values().sum::<u64>().saturating_sub(sum("survey"));
    let of_pools = POOLS.iter().map(|(phase, size)| sum(phase) / size).max().unwrap_or(0);
    // The longest chain of the run that the times are from, among what the kind reckons itself.
    let chain = number(&times.summary["at_least_ms"]);
    (survey + of_pools.max(after / run.places.max(1))).max(chain)
}

async fn open_store(
    kind: &str,
    folder: &Path,
    clock: &SharedClock,
) -> Result<(Arc<dyn Store>, Option<EtcdServer>), Failed> {
    Ok(match kind {
        "etcd" => {
            let server = EtcdServer::start(1).await?;
            let config = EtcdConfig::new(server.endpoints());
            (Arc::new(EtcdStore::connect(config, clock.clone()).await?), Some(server))
        }
        "embedded" => {
            let options = windlass_store_embedded::Options::new(clock.clone());
            (Arc::new(EmbeddedStore::open(&folder.join("state"), options)?), None)
        }
        "memory" => (Arc::new(MemoryStore::new(clock.clone())), None),
        other => return Err(format!("there is no store named {other}: etcd, embedded or memory").into()),
    })
}

async fn recover(store: &str, instances: usize, ready_ms: u64) -> Result<Run, Failed> {
    let clock = SystemClock::real();
    let folder = tempfile::tempdir()?;
    let password = folder.path().join("password");
    std::fs::write(&password, "lab-secret\n")?;
    let (store, _server) = open_store(store, folder.path(), &clock).await?;
    let cloud = SimCloud::start(Options { ready_ms, ..Options::new("b") }, clock.clone()).await?;
    let inventory = inventory(&cloud, instances);
    let spec = json!({
        "group": "many", "inventory": inventory, "rto": "2h",
        "pace": { "poll": format!("{}ms", (ready_ms / 4).max(5)), "settle": "100ms" },
        "target": { "name": "b", "auth_url": cloud.auth_url(), "credential": { "password": {
            "user": "admin", "password": { "file": password.display().to_string() }, "project": "admin" } } },
    });
    let planted = cloud.objects();
    let kinds = Kinds::new().with(RecoverKind::new(RecoverConfig::foreground(BTreeMap::new())));
    let config = EngineConfig::new(store.clone(), clock.clone(), Seeded::shared(7), kinds, folder.path().join("jobs"));
    let places = u64::try_from(config.places)?;
    let engine = Engine::open(config).await?;
    let transactions = store.revision().await?.0;
    let begun = clock.monotonic();
    let request = JobRequest { kind: "recover".into(), name: "many".into(), spec, ..JobRequest::default() };
    let job = engine.submit(request).await?;
    engine.wait(job).await?;
    let up = clock.monotonic();
    let transactions_up = store.revision().await?.0 - transactions;
    let made = report::make(&*store, engine.kinds(), job, engine.now()).await?;
    let reported = clock.monotonic();
    if made.tasks.succeeded != made.tasks.total() || cloud.all("server").len() != instances {
        return Err(format!("not everything was recovered: {:?}", made.unsuccessful.first()).into());
    }
    if cloud.marks().values().any(|count| *count != 1) {
        return Err("something was made twice".into());
    }
    let undone = clock.monotonic();
    let revision = store.revision().await?.0;
    engine.command(job, Command::Undo, None).await?;
    engine.wait(job).await?;
    let down = clock.monotonic();
    if cloud.objects() != planted {
        return Err(format!("{} things are left, before there were {}", cloud.objects().len(), planted.len()).into());
    }
    let in_ms = |from: Duration, to: Duration| u64::try_from(to.saturating_sub(from).as_millis()).unwrap_or(u64::MAX);
    let run = Run {
        places,
        tasks: made.tasks.total(),
        summary: made.summary,
        up: in_ms(begun, up),
        report: in_ms(up, reported),
        down: in_ms(undone, down),
        transactions: (transactions_up, store.revision().await?.0 - revision),
        changes: cloud.changes(),
    };
    engine.shutdown().await?;
    Ok(run)
}

/// What there is at the protected site, with replicas of its volumes at the other.
fn inventory(cloud: &SimCloud, instances: usize) -> Value {
    let (mut volumes, mut servers, mut rules) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..instances {
        let mut attachments = Vec::new();
        for disk in 0..VOLUMES {
            let id = format!("vol-{n}-{disk}");
            let boots = disk == 0;
            // Found by its metadata, as a person would leave it.
            let _ = cloud.plant_volume(&id, 1, &id, boots, &json!({ "windlass_replica_of": id }));
            volumes.push(json!({ "id": id, "tenant": "t1", "name": id, "size_gib": 1, "bootable": boots }));
            attachments.push(json!({ "volume": id, "boot_index": if boots { json!(0) } else { Value::Null } }));
        }
        for _ in 0..RULES {
            let port = rules.len() + 1;
            rules.push(
                json!({ "id": format!("r{port}"), "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp",
                "port_min": port, "port_max": port }),
            );
        }
        let address = format!("10.3.{}.{}", n / 200, n % 200 + 10);
        servers.push(json!({ "id": format!("i-{n}"), "tenant": "t1", "name": format!("server-{n}"), "flavor": "small",
            "volumes": attachments, "nics": [{ "network": "net", "security_groups": ["sg"],
                "addresses": [{ "subnet": "sub", "address": address }] }] }));
    }
    json!({
        "site": "a",
        "tenants": [{ "id": "t1", "name": "shop" }],
        "networks": [{ "id": "net", "tenant": "t1", "name": "net" }],
        "subnets": [{ "id": "sub", "network": "net", "name": "sub", "cidr": "10.3.0.0/16", "gateway_ip": "10.3.0.1" }],
        "security_groups": [{ "id": "sg", "tenant": "t1", "name": "sg", "rules": rules }],
        "flavors": [{ "name": "small", "vcpus": 1, "ram_mib": 512 }],
        "volumes": volumes, "instances": servers,
    })
}

/// The most memory that this process has had, in MiB, where that is told.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
}
