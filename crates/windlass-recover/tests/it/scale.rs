//! Many instances at once.
//!
//! The usual run is small. What the product is meant for, with its figures:
//!
//! ```text
//! WINDLASS_RECOVER_INSTANCES=500 WINDLASS_RECOVER_STORE=etcd cargo test -p windlass-recover --test it -- many_instances --nocapture
//! ```

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::SharedClock;
use windlass_sim::etcd::EtcdServer;
use windlass_store::Store;
use windlass_store::memory::MemoryStore;
use windlass_store_embedded::EmbeddedStore;
use windlass_store_etcd::{EtcdConfig, EtcdStore};

use crate::rig::{Rig, troubles};

fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A store, and what has to live as long as it.
async fn store(rig: &Rig, clock: &SharedClock) -> (Arc<dyn Store>, Option<EtcdServer>) {
    match std::env::var("WINDLASS_RECOVER_STORE").as_deref() {
        Ok("etcd") => {
            let server = EtcdServer::start(1).await.unwrap();
            let config = EtcdConfig::new(server.endpoints());
            (Arc::new(EtcdStore::connect(config, clock.clone()).await.unwrap()), Some(server))
        }
        Ok("memory") => (Arc::new(MemoryStore::new(clock.clone())), None),
        _ => {
            let options = windlass_store_embedded::Options::new(clock.clone());
            (Arc::new(EmbeddedStore::open(&rig.folder.path().join("state"), options).unwrap()), None)
        }
    }
}

/// The most memory that this process has had, in MiB, where that is told.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
}

/// Puts many instances into the spec, each with three volumes, and four rules for each in one group.
fn fill(rig: &mut Rig, count: usize) {
    let inventory = &mut rig.spec["inventory"];
    let (mut volumes, mut servers) = (Vec::new(), Vec::new());
    for n in 0..count {
        let mut attachments = Vec::new();
        for disk in 0..3 {
            let id = format!("vol-{n}-{disk}");
            let _ = rig.b.plant_volume(&id, 1, &id, disk == 0, &json!({ "windlass_replica_of": id }));
            volumes.push(json!({ "id": id, "tenant": "t1", "name": id, "size_gib": 1, "bootable": disk == 0 }));
            attachments.push(json!({ "volume": id, "boot_index": if disk == 0 { json!(0) } else { Value::Null } }));
        }
        let address = format!("10.3.{}.{}", n / 200, n % 200 + 10);
        servers.push(json!({ "id": format!("i-{n}"), "tenant": "t1", "name": format!("server-{n}"), "flavor": "small", "volumes": attachments,
            "nics": [{ "network": "net-back", "addresses": [{ "subnet": "sub-wide", "address": address }], "security_groups": ["sg-many"] }] }));
    }
    let rules: Vec<Value> = (0..count * 4)
        .map(|n| json!({ "id": format!("m{n}"), "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_min": n + 1, "port_max": n + 1 }))
        .collect();
    inventory["security_groups"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "id": "sg-many", "tenant": "t1", "name": "many", "rules": rules }));
    inventory["subnets"].as_array_mut().unwrap().push(json!({ "id": "sub-wide", "network": "net-back", "name": "wide", "cidr": "10.3.0.0/16", "gateway_ip": "10.3.0.1" }));
    inventory["volumes"] = volumes.into();
    inventory["instances"] = servers.into();
    inventory["tenants"][0]["quotas"] = json!({});
    rig.spec["instances"] = json!([]);
    rig.spec["rto"] = "2h".into();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_instances_with_three_volumes_each_come_up_and_go() {
    let count = setting("WINDLASS_RECOVER_INSTANCES", 24);
    let ready_ms = setting("WINDLASS_RECOVER_READY_MS", 0) as u64;
    let mut rig = Rig::with(|options| options.ready_ms = ready_ms).await;
    let (store, _server) = store(&rig, &rig.clock).await;
    rig.store = store;
    rig.patience = Duration::from_secs(3_600);
    fill(&mut rig, count);
    let (before, images) = (rig.b.objects(), rig.b.images());
    let revision = rig.store.revision().await.unwrap();
    let begun = rig.clock.monotonic();
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let up = rig.clock.monotonic();
    let transactions = rig.store.revision().await.unwrap().0 - revision.0;
    assert_eq!(rig.b.all("server").len(), count);
    assert!(rig.b.marks().values().all(|count| *count == 1));
    println!(
        "{count} instances: {} tasks, {} changes, {transactions} transactions, up in {:.1} s",
        view.tasks.len(),
        rig.b.changes(),
        (up - begun).as_secs_f64()
    );
    let summary = rig.summary(&engine, job).await;
    let reported = rig.clock.monotonic();
    println!(
        "report in {:.1} s, {} KiB: took {} ms, at least {} ms; most memory {} MiB",
        (reported - up).as_secs_f64(),
        summary.to_string().len() / 1024,
        summary["took_ms"],
        summary["at_least_ms"],
        peak_mib()
    );
    println!("{:#}", summary["phases"]);
    assert_eq!((summary["recovered"].as_u64(), summary["rto"]["met"].as_bool()), (Some(count as u64), Some(true)));
    rig.command(&engine, job, windlass_engine::Command::Undo).await;
    println!("undone in {:.1} s", (rig.clock.monotonic() - reported).as_secs_f64());
    assert_eq!((rig.b.objects(), rig.b.images()), (before, images));
}
