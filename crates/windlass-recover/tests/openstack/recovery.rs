//! A group is recovered at the other site as a drill that is undone, then as a migration that is confirmed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::SystemClock;
use windlass_engine::{Command, JobRequest};
use windlass_openstack::{Scope, Service};

use crate::group::Group;
use crate::lab::{self, Place};
use crate::rig::{Rig, troubles};

/// Replicas of the volumes at `b`, as storage would have brought them there.
async fn replicas(a: &Place, b: &Place, group: &Group) -> BTreeMap<&'static str, String> {
    let mut replicas = BTreeMap::new();
    for (name, id) in &group.volumes {
        let size = if *name == "data" { 2 } else { 1 };
        let metadata = json!({ "windlass_replica_of": id, "windlass_point": "2026-01-01T00:00:00Z" });
        // A volume that several use comes from one that may.
        let kind = if *name == "data" { "lab" } else { "__DEFAULT__" };
        let body = json!({ "volume": { "name": format!("replica of {name}"), "size": size, "metadata": metadata, "volume_type": kind } });
        let replica = b.make(&Scope::Home, Service::Volume, "/volumes", body).await;
        b.until(Service::Volume, &format!("/volumes/{replica}"), "volume", "available").await;
        lab::replicate(&a.file(id), &b.file(&replica));
        replicas.insert(*name, replica);
    }
    replicas
}

fn spec(b: &Place, group: &Group, stamp: &str, mode: &str) -> Value {
    let named = |name: &str| format!("{name}-{stamp}");
    let keystone = b.site["auth_url"].as_str().unwrap();
    let place = keystone.trim_start_matches("http://").split('/').next().unwrap();
    json!({
        "group": format!("shop-{stamp}"), "mode": mode, "target": b.site, "inventory": group.inventory, "rto": "30m",
        "pace": { "poll": "300ms", "settle": "2s" },
        "instances": [
            { "name": named("app"), "after": [{ "instance": named("db"), "condition": "active" }] },
            // The lab's guests do not run: what is looked at is what stands for them.
            { "name": named("web"), "after": [{ "instance": named("app") }], "diagnose": [
                { "console": "LAST LINE", "timeout": "60s" }, { "port": place, "timeout": "60s" },
                { "http_get": keystone, "timeout": "60s" }, { "command": ["true"], "timeout": "60s" } ] },
        ],
    })
}

/// What was recovered is as it was.
async fn compare(a: &Place, b: &Place, group: &Group, stamp: &str) {
    let names: Vec<String> = ["db", "app", "web"].iter().map(|name| format!("{name}-{stamp}")).collect();
    let here = windlass_recover::reader::read(&b.cloud, &names).await.unwrap();
    let there = &group.inventory;
    let count = |inventory: &windlass_recover::inventory::Inventory| {
        let rules: usize = inventory.security_groups.iter().map(|group| group.rules.len()).sum();
        [
            inventory.instances.len(),
            inventory.volumes.len(),
            inventory.networks.len(),
            inventory.subnets.len(),
            inventory.routers.len(),
            inventory.security_groups.len(),
            rules,
            inventory.floating_ips.len(),
            inventory.keypairs.len(),
            inventory.flavors.len(),
        ]
    };
    assert_eq!(count(&here), count(there), "{here:#?}");
    assert_eq!(count(&here)[..6], [3, 4, 3, 2, 1, 2]);
    for volume in &here.volumes {
        let source = &group.volumes[volume.name.as_str()];
        assert_eq!(lab::content(&b.file(&volume.id)), lab::content(&a.file(source)), "the bytes of {}", volume.name);
        let was = there.volumes.iter().find(|one| one.id == *source).unwrap();
        assert_eq!(
            (volume.size_gib, volume.bootable, volume.multiattach, volume.readonly),
            (was.size_gib, was.bootable, was.multiattach, was.readonly),
            "{}",
            volume.name
        );
    }
    for subnet in &here.subnets {
        let was = there.subnets.iter().find(|one| one.name == subnet.name).unwrap();
        let all = |one: &windlass_recover::inventory::Subnet| {
            (
                one.cidr.clone(),
                one.enable_dhcp,
                one.gateway_ip.clone(),
                one.pools.clone(),
                one.nameservers.clone(),
                one.host_routes.clone(),
            )
        };
        assert_eq!(all(subnet), all(was));
    }
    for instance in &here.instances {
        let was = there.instances.iter().find(|one| one.name == instance.name).unwrap();
        let cards = |one: &windlass_recover::inventory::Instance| {
            let mut cards: Vec<_> = one
                .nics
                .iter()
                .map(|nic| (nic.addresses.iter().map(|one| one.address.clone()).collect::<Vec<_>>(), nic.mac.clone()))
                .collect();
            cards.sort();
            cards
        };
        let disks = |one: &windlass_recover::inventory::Instance| {
            one.volumes.iter().map(|one| (one.device.clone(), one.boot_index)).collect::<Vec<_>>()
        };
        assert_eq!((cards(instance), disks(instance)), (cards(was), disks(was)), "{}", instance.name);
        assert_eq!((&instance.metadata, &instance.user_data), (&was.metadata, &was.user_data));
        let server = b.cloud.get(&Scope::Home, Service::Compute, &format!("/servers/{}", instance.id)).await.unwrap();
        assert_eq!(server["server"]["status"], "ACTIVE", "{}", instance.name);
    }
    let networks = |one: &windlass_recover::inventory::Inventory| {
        let mut all: Vec<_> = one
            .networks
            .iter()
            .filter(|one| !one.external)
            .map(|one| (one.name.clone(), one.mtu, one.port_security, one.admin_state_up))
            .collect();
        all.sort();
        all
    };
    assert_eq!(networks(&here), networks(there));
    assert_eq!(here.routers[0].routes, there.routers[0].routes);
    assert_eq!(here.routers[0].interfaces[0].address, there.routers[0].interfaces[0].address);
    let group = |name: &str| here.security_groups.iter().find(|one| one.name == name).unwrap();
    assert!(
        group("db")
            .rules
            .iter()
            .any(|rule| rule.remote_group.as_ref() == Some(&group("web").id) && rule.port_min == Some(5432))
    );
    let limits = |one: &windlass_recover::inventory::Inventory| {
        one.tenants.iter().filter_map(|one| one.quotas["compute"].get("cores").copied()).collect::<Vec<_>>()
    };
    assert_eq!(limits(&here), limits(there));
    assert!(limits(there).contains(&21));
}

// Reading what is below the volumes takes long and must not keep the engine from its work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_recovered_undone_without_a_trace_then_migrated_and_kept() {
    let _alone = lab::ALONE.lock().await;
    let clock = SystemClock::real();
    let (a, b) = (Place::open("a", &clock), Place::open("b", &clock));
    let stamp = format!("{:x}", clock.wall().as_millisecond());
    let took = |since: Duration| clock.monotonic().saturating_sub(since).as_secs();
    let begun = clock.monotonic();
    let group = Group::build(&a, &stamp).await;
    let replicas = replicas(&a, &b, &group).await;
    println!("group and replicas: {} s", took(begun));
    let (before, files) = (b.objects().await, b.files());
    let rig = Rig::new(&clock);
    let engine = rig.engine().await;
    let request = |mode: &str| JobRequest {
        kind: "recover".into(),
        name: mode.into(),
        spec: spec(&b, &group, &stamp, mode),
        ..JobRequest::default()
    };

    let begun = clock.monotonic();
    let job = engine.submit(request("drill")).await.unwrap();
    let view = rig.rest(&engine, job).await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    println!("drill: {} tasks in {} s", view.tasks.len(), took(begun));
    compare(&a, &b, &group, &stamp).await;
    let begun = clock.monotonic();
    let undone = rig.command(&engine, job, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
    println!("undone in {} s", took(begun));
    assert_eq!(b.objects().await, before, "by the services' own lists nothing is left");
    assert_eq!(b.files(), files, "every file is there under its name, with its content");

    let begun = clock.monotonic();
    let job = engine.submit(request("migrate")).await.unwrap();
    let view = rig.rest(&engine, job).await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let confirmed = rig.command(&engine, job, Command::Confirm).await;
    assert_eq!(confirmed.status.state.as_str(), "finished", "{:?}", troubles(&confirmed));
    println!("migrated and confirmed in {} s", took(begun));
    compare(&a, &b, &group, &stamp).await;
    let after = b.objects().await;
    assert!(before.iter().all(|one| after.contains(one)), "what was there is there");
    let mut kept: BTreeMap<&str, usize> = BTreeMap::new();
    for one in after.iter().filter(|one| !before.contains(one)) {
        *kept.entry(one.split(' ').next().unwrap()).or_default() += 1;
    }
    // Ports: four cards, the router inside and outside, the floating address. Groups: two, and the project's own with its
    // four rules.
    let expected = [
        ("flavors", 1),
        ("floatingips", 1),
        ("keypairs", 1),
        ("networks", 2),
        ("ports", 7),
        ("projects", 1),
        ("routers", 1),
        ("security_group_rules", 10),
        ("security_groups", 3),
        ("servers", 3),
        ("subnets", 2),
        ("volumes", 4),
    ];
    assert_eq!(kept, expected.into(), "exactly what the instances need: {after:?}");
    for (name, id) in &replicas {
        let file = format!("volume-{id}");
        assert_eq!(b.files().get(&file), files.get(&file), "the replica of {name} is as it was");
    }
}
