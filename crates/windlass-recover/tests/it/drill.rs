//! A drill: everything comes up, and everything goes.

use windlass_engine::Command;
use windlass_model::job::JobResult;

use crate::rig::{Rig, troubles};

#[tokio::test]
async fn a_drill_of_three_instances_comes_up_as_it_was_and_leaves_nothing_when_it_is_undone() {
    let rig = Rig::new().await;
    let before = rig.b.objects();
    let images = rig.b.images();
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    assert_eq!(view.status.result, Some(JobResult::Succeeded), "{:?}", view.status);

    let servers = rig.b.all("server");
    let mut names: Vec<&str> = servers.iter().map(|server| server["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["app", "db", "web"]);
    assert!(servers.iter().all(|server| server["status"] == "ACTIVE"));
    let app = servers.iter().find(|server| server["name"] == "app").unwrap();
    // What looks like a reference arrives as it is.
    assert_eq!(app["OS-EXT-SRV-ATTR:user_data"], "eyIkcmVmIjoieCMveSJ9");
    assert_eq!(app["description"], "{\"$ref\": \"x#/y\"}");
    assert_eq!(app["metadata"]["tier"], "app");

    let subnets = rig.b.all("subnet");
    let back = subnets.iter().find(|subnet| subnet["name"] == "back-4").unwrap();
    assert_eq!((&back["enable_dhcp"], &back["gateway_ip"]), (&false.into(), &serde_json::Value::Null));
    assert_eq!(back["allocation_pools"][0]["start"], "10.2.0.50");
    let group = |name: &str| rig.b.all("security_group").into_iter().find(|group| group["name"] == name).unwrap();
    let rules = rig.b.all("security_group_rule");
    let of_db: Vec<_> = rules.iter().filter(|rule| rule["security_group_id"] == group("db")["id"]).collect();
    assert_eq!(of_db.len(), 2, "the usual rules are gone: {of_db:?}");
    assert!(of_db.iter().any(|rule| rule["remote_group_id"] == group("web")["id"] && rule["port_range_min"] == 5432));
    let data = rig.b.all("volume").into_iter().find(|volume| volume["name"] == "data").unwrap();
    assert_eq!(data["attachments"].as_array().unwrap().len(), 2, "used by db and app: {data}");
    let images_now = rig.b.images();
    let id = data["id"].as_str().unwrap();
    assert_eq!(images_now[&format!("volume-{id}")], "2 bytes of data");
    for (name, content) in &images {
        assert_eq!(images_now.get(name), Some(content), "the replica {name} is as it was");
    }
    let floating = rig.b.all("floatingip");
    assert_eq!(floating[0]["fixed_ip_address"], "10.1.0.10");
    assert_eq!(rig.b.all("router")[0]["routes"][0]["nexthop"], "10.1.0.254");
    assert!(rig.b.marks().values().all(|count| *count == 1), "{:?}", rig.b.marks());

    let undone = rig.command(&engine, job, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
    assert_eq!(rig.b.objects(), before);
    assert_eq!(rig.b.images(), images);
    assert_eq!(rig.b.marks().len(), 0);
}
