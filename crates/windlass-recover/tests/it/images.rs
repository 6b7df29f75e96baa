//! Instances that start from an image: it is found at the target site by its content, or copied there.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};
use windlass_engine::Command;
use windlass_openstack::{Method, Scope, Service};
use windlass_recover::{Cloud, RecoverConfig, RecoverKind, Site, reader};
use windlass_sim_cloud::{Options, Rule, SimCloud, What};

use crate::rig::{Rig, site, troubles};

struct Sites {
    a: Arc<SimCloud>,
    rig: Rig,
}

fn open(cloud: &SimCloud, name: &str, rig: &Rig) -> Cloud {
    Cloud::new(serde_json::from_value::<Site>(site(cloud, name)).unwrap(), rig.clock.clone())
}

/// The image that every simulated site begins with; each has other content.
fn first_image(cloud: &SimCloud) -> Value {
    cloud.all("image").remove(0)
}

impl Sites {
    /// Of the group only `web`, which starts from an image of site a and has a volume besides.
    async fn new() -> Self {
        let mut rig = Rig::new().await;
        let a = Arc::new(SimCloud::start(Options::new("a"), rig.clock.clone()).await.unwrap());
        let image = first_image(&a);
        rig.spec["only"] = json!(["web"]);
        rig.spec["instances"] = json!([]);
        rig.spec["source"] = site(&a, "a");
        rig.spec["inventory"]["images"] = json!([{
            "id": image["id"], "name": image["name"], "size": image["size"], "disk_format": "raw", "container_format": "bare",
            "digest": format!("sha512:{}", image["os_hash_value"].as_str().unwrap()),
            "properties": { "hw_disk_bus": "virtio" },
        }]);
        let web = &mut rig.spec["inventory"]["instances"][2];
        web["image"] = image["id"].clone();
        web["volumes"] = json!([{ "volume": "vol-data", "device": "/dev/vdb" }]);
        Self { a, rig }
    }

    async fn findings(&self) -> Vec<(String, bool)> {
        let kind = RecoverKind::new(RecoverConfig::foreground(BTreeMap::new()));
        let survey = kind.survey(&self.rig.clock, &self.rig.spec).await.unwrap();
        // What has changed since the inventory was read is another matter.
        let found = survey.findings.into_iter().filter(|one| one.code != "drift");
        found.map(|one| (one.code, one.blocks)).collect()
    }
}

fn code(code: &str, blocks: bool) -> (String, bool) {
    (code.to_owned(), blocks)
}

#[tokio::test]
async fn an_image_that_is_not_there_is_copied_and_removed_again() {
    let Sites { a, rig } = Sites::new().await;
    let (before, there) = (rig.b.objects(), a.objects());
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let original = first_image(&a);
    let copies: Vec<Value> = rig.b.all("image").into_iter().filter(|image| image["windlass"].is_string()).collect();
    let [copy] = copies.as_slice() else { panic!("{copies:?}") };
    assert_eq!(copy["os_hash_value"], original["os_hash_value"]);
    assert_eq!((&copy["visibility"], &copy["hw_disk_bus"]), (&json!("private"), &json!("virtio")));
    let server = rig.b.all("server").remove(0);
    assert_eq!(server["image"]["id"], copy["id"]);
    assert_eq!(copy["owner"], server["tenant_id"], "nobody else sees it");
    assert_eq!(server["os-extended-volumes:volumes_attached"].as_array().unwrap().len(), 1);
    let summary = rig.summary(&engine, job).await;
    assert_eq!(summary["resources"]["image"][0]["target"], copy["id"]);
    let undone = rig.command(&engine, job, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
    assert_eq!((rig.b.objects(), a.objects()), (before, there));
}

#[tokio::test]
async fn what_is_kept_of_a_migration_keeps_its_image() {
    let Sites { a: _there, rig } = Sites::new().await;
    let mut spec = rig.spec.clone();
    spec["mode"] = "migrate".into();
    let rig = Rig { spec, ..rig };
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let confirmed = rig.command(&engine, job, Command::Confirm).await;
    assert_eq!(confirmed.status.state.as_str(), "finished", "{:?}", troubles(&confirmed));
    let server = rig.b.all("server").remove(0);
    assert!(rig.b.all("image").iter().any(|image| image["id"] == server["image"]["id"]));
}

#[tokio::test]
async fn an_image_that_is_there_for_everybody_is_found_by_its_content() {
    let mut sites = Sites::new().await;
    let there = first_image(&sites.rig.b);
    sites.rig.spec["inventory"]["images"][0]["digest"] =
        format!("sha512:{}", there["os_hash_value"].as_str().unwrap()).into();
    // Nobody needs the protected site for that.
    sites.rig.spec.as_object_mut().unwrap().remove("source");
    let rig = sites.rig;
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    assert!(!view.tasks.iter().any(|task| task.name.starts_with("recover.create.image")));
    assert_eq!(rig.b.all("server")[0]["image"]["id"], there["id"]);
    let undone = rig.command(&engine, job, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
    assert_eq!(first_image(&rig.b), there, "it is nobody's to remove");
}

#[tokio::test]
async fn an_image_that_cannot_come_is_said_before_anything_is_made() {
    let mut sites = Sites::new().await;
    assert_eq!(sites.findings().await, [code("fresh_disk", false)]);
    let good = sites.rig.spec.clone();
    sites.rig.spec.as_object_mut().unwrap().remove("source");
    assert!(sites.findings().await.contains(&code("missing_image", true)), "there is nowhere to copy it from");
    sites.rig.spec = good.clone();
    sites.rig.spec["inventory"]["images"][0]["digest"] = "sha512:00".into();
    assert!(sites.findings().await.contains(&code("missing_image", true)), "it has other content now");
    sites.rig.spec = good.clone();
    sites.rig.spec["inventory"]["images"] = json!([]);
    assert!(sites.findings().await.contains(&code("missing_image", true)), "the inventory does not have it");
    sites.rig.spec = good.clone();
    sites.rig.spec["inventory"]["instances"][2]["volumes"] = json!([{ "volume": "vol-web-root", "boot_index": 0 }]);
    assert!(sites.findings().await.contains(&code("boots_twice", true)));
    sites.rig.spec = good;
    let id = first_image(&sites.a)["id"].as_str().unwrap().to_owned();
    sites.a.lose("image", &id);
    assert!(sites.findings().await.contains(&code("missing_image", true)), "it is gone at the protected site");
}

#[tokio::test]
async fn answers_swallowed_while_it_is_copied_and_removed_change_nothing_in_the_end() {
    let cases = [
        ("POST", "/v2/images", What::LostAfter),
        ("POST", "/v2/images", What::Late(10)),
        ("PUT", "/file", What::LostAfter),
        ("PUT", "/file", What::LostBefore),
        ("PUT", "/file", What::Status(503, None)),
        ("GET", "/file", What::Status(500, None)),
    ];
    let runs = cases.into_iter().map(|(method, path, what)| async move {
        let Sites { a, rig } = Sites::new().await;
        let before = rig.b.objects();
        let rule = Rule::once(method, path, what.clone());
        if method == "GET" {
            a.fail(rule.clone());
        } else {
            rig.b.fail(rule.clone());
        }
        let (engine, job, view) = rig.run().await;
        assert_eq!(troubles(&view), Vec::<String>::new(), "{rule:?}");
        assert!(rig.b.marks().values().all(|count| *count == 1), "{rule:?}: {:?}", rig.b.marks());
        rig.b.fail(Rule::once("DELETE", "/v2/images", What::LostAfter));
        let undone = rig.command(&engine, job, Command::Undo).await;
        assert_eq!(undone.status.state.as_str(), "finished", "{rule:?}: {:?}", troubles(&undone));
        assert_eq!(rig.b.objects(), before, "{rule:?}");
    });
    futures::stream::iter(runs).buffer_unordered(4).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn an_inventory_says_from_which_image_an_instance_starts() {
    let Sites { a, rig } = Sites::new().await;
    let cloud = open(&a, "a", &rig);
    let image = first_image(&a);
    let post = async |service, path: &str, body: Value| {
        cloud.call(&Scope::Home, service, Method::POST, path, Some(&body)).await.unwrap().body
    };
    let flavor = json!({ "flavor": { "name": "tiny", "ram": 64, "vcpus": 1, "disk": 1 } });
    let flavor = post(Service::Compute, "/flavors", flavor).await["flavor"]["id"].clone();
    let server =
        json!({ "server": { "name": "plain", "flavorRef": flavor, "imageRef": image["id"], "networks": "none" } });
    post(Service::Compute, "/servers", server).await;
    let found = reader::read(&cloud, &["plain".to_owned()]).await.unwrap();
    assert_eq!(found.instances[0].image.as_deref(), image["id"].as_str());
    let digest = format!("sha512:{}", image["os_hash_value"].as_str().unwrap());
    let [one] = found.images.as_slice() else { panic!("{:?}", found.images) };
    assert_eq!((one.digest.as_deref(), one.size), (Some(digest.as_str()), 1 << 20));
    // The instance goes on without it; that nobody can make another is said when a recovery is planned.
    a.lose("image", image["id"].as_str().unwrap());
    let found = reader::read(&cloud, &["plain".to_owned()]).await.unwrap();
    assert_eq!(found.images[0].digest, None);
}
