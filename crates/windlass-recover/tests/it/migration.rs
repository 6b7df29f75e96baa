//! The real thing: what is confirmed stays, and nothing else; what jobs share stays as long as one needs it.

use windlass_engine::Command;
use windlass_recover::{Cloud, Site};

use crate::rig::{Rig, site, troubles};

#[tokio::test]
async fn a_confirmed_migration_keeps_exactly_what_the_instances_need_and_can_be_read_as_an_inventory() {
    let mut rig = Rig::new().await;
    rig.spec["mode"] = "migrate".into();
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let there = rig.b.objects();
    let confirmed = rig.command(&engine, job, Command::Confirm).await;
    assert_eq!(confirmed.status.state.as_str(), "finished", "{:?}", troubles(&confirmed));
    assert_eq!(rig.b.objects(), there);
    assert!(rig.b.all("snapshot").is_empty(), "no snapshot is needed any more");

    let here: Site = serde_json::from_value(site(&rig.b, "b")).unwrap();
    let cloud = Cloud::new(here, rig.clock.clone());
    let only: Vec<String> = ["db", "app", "web"].map(String::from).into();
    let read = windlass_recover::reader::read(&cloud, &only).await.unwrap();
    let counts = (
        read.instances.len(),
        read.volumes.len(),
        read.security_groups.len(),
        read.routers.len(),
        read.keypairs.len(),
        read.flavors.len(),
    );
    assert_eq!(counts, (3, 4, 2, 1, 1, 1), "{read:#?}");
    assert_eq!(read.networks.iter().filter(|network| !network.external).count(), 2);
    assert!(read.instances.iter().all(|instance| instance.volumes.iter().any(|one| one.boot_index == Some(0))));
    assert!(read.volumes.iter().any(|volume| volume.name == "data" && volume.multiattach));
    let back = read.subnets.iter().find(|subnet| subnet.name == "back-4").unwrap();
    assert_eq!((back.enable_dhcp, back.gateway_ip.as_deref()), (false, None));
    let rules: usize = read.security_groups.iter().map(|group| group.rules.len()).sum();
    assert_eq!(rules, 4);
    let limits = &read.tenants[0].quotas;
    assert_eq!((limits["compute"]["instances"], limits["volume"]["gigabytes"]), (20, 500), "{limits:?}");
    let db = read.instances.iter().find(|instance| instance.name == "db").unwrap();
    let order: Vec<_> = db.volumes.iter().map(|one| (one.device.as_deref(), one.boot_index)).collect();
    assert_eq!(order, [(Some("/dev/vda"), Some(0)), (Some("/dev/vdb"), None)]);
    let addresses = |name: &str| -> Vec<String> {
        let one = read.instances.iter().find(|instance| instance.name == name).unwrap();
        one.nics.iter().flat_map(|nic| nic.addresses.iter().map(|address| address.address.clone())).collect()
    };
    assert_eq!(addresses("app"), ["10.2.0.11", "10.1.0.11"], "the order of its cards, too");
    let remote = read.security_groups.iter().find(|group| group.name == "db").unwrap();
    assert_eq!(remote.rules.iter().filter(|rule| rule.remote_group.is_some()).count(), 2);
}

#[tokio::test]
async fn of_a_partial_success_only_what_the_good_instances_need_is_kept() {
    let mut rig = Rig::new().await;
    rig.spec["mode"] = "migrate".into();
    rig.spec["inventory"]["instances"][1]["metadata"]["lab_fault"] = "spawn".into();
    let (engine, job, _) = rig.run().await;
    let confirmed = rig.command(&engine, job, Command::Confirm).await;
    assert_eq!(confirmed.status.state.as_str(), "finished", "{:?}", troubles(&confirmed));
    let names = |kind: &str| {
        let mut names: Vec<String> =
            rig.b.all(kind).iter().map(|thing| thing["name"].as_str().unwrap_or_default().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names("server"), ["db"]);
    assert_eq!(names("network"), ["back", "public"]);
    assert_eq!(names("router"), Vec::<String>::new());
    let volumes: Vec<String> = names("volume").into_iter().filter(|name| !name.starts_with("replica")).collect();
    assert_eq!(volumes, ["data", "db-root"]);
    // A rule of db's group names the group web.
    assert_eq!(names("security_group"), ["db", "default", "default", "web"]);
    assert!(rig.b.all("floatingip").is_empty());
}

#[tokio::test]
async fn what_two_jobs_share_is_made_once_and_goes_with_the_last() {
    let mut rig = Rig::new().await;
    let before = rig.b.objects();
    rig.spec["only"] = serde_json::json!(["db"]);
    let (engine, first, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    rig.spec["group"] = "shop-front".into();
    rig.spec["only"] = serde_json::json!(["app"]);
    rig.spec["instances"] = serde_json::json!([]);
    let second = engine.submit(windlass_engine::JobRequest { name: "second".into(), ..rig.request() }).await.unwrap();
    let view = rig.rest(&engine, second).await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let count = |kind: &str| rig.b.all(kind).len();
    assert_eq!((count("project"), count("network"), count("server"), count("keypair")), (2, 3, 2, 1));
    let undone = rig.command(&engine, first, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
    assert_eq!((count("project"), count("network"), count("server"), count("keypair")), (2, 3, 1, 1));
    let undone = rig.command(&engine, second, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
    assert_eq!(rig.b.objects(), before);
}
