//! Many instances at once.

use serde_json::{Value, json};

use crate::rig::{Rig, troubles};

/// How many instances; `WINDLASS_RECOVER_INSTANCES=500` is what the product is meant for.
fn instances() -> usize {
    std::env::var("WINDLASS_RECOVER_INSTANCES").ok().and_then(|text| text.parse().ok()).unwrap_or(30)
}

#[tokio::test]
async fn many_instances_with_three_volumes_each_come_up_and_go() {
    let count = instances();
    let mut rig = Rig::new().await;
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
    let before = rig.b.objects();
    let begun = rig.clock.monotonic();
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let up = rig.clock.monotonic();
    assert_eq!(rig.b.all("server").len(), count);
    assert!(rig.b.marks().values().all(|count| *count == 1));
    println!(
        "{count} instances, {} tasks, {} changes: up in {:.1} s",
        view.tasks.len(),
        rig.b.changes(),
        (up - begun).as_secs_f64()
    );
    rig.command(&engine, job, windlass_engine::Command::Undo).await;
    println!("undone in {:.1} s", (rig.clock.monotonic() - up).as_secs_f64());
    assert_eq!(rig.b.objects(), before);
}
