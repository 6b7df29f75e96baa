//! An instance that starts from an image, with a volume whose replica only the storage of the other site knows.

use serde_json::{Value, json};
use windlass_clock::SystemClock;
use windlass_engine::{Command, JobRequest};
use windlass_openstack::{Scope, Service};
use windlass_recover::reader;

use crate::lab::{self, Place};
use crate::rig::{Rig, troubles};

struct One {
    name: String,
    /// Of its volume.
    volume: String,
    /// As the image service describes it. Each site has one of this name, and other content.
    image: Value,
}

impl One {
    async fn build(place: &Place, stamp: &str) -> Self {
        let name = format!("one-{stamp}");
        let project = place.project(&name).await;
        let scope = Scope::Project(project.clone());
        let net = async |path: &str, body: Value| place.make(&Scope::Home, Service::Network, path, body).await;
        let network = net("/networks", json!({ "network": { "name": "alone", "project_id": project } })).await;
        let subnet = json!({ "name": "alone-4", "network_id": network, "cidr": "10.4.0.0/24", "ip_version": 4, "project_id": project });
        let subnet = net("/subnets", json!({ "subnet": subnet })).await;
        let addresses = json!([{ "subnet_id": subnet, "ip_address": "10.4.0.10" }]);
        let port = json!({ "network_id": network, "project_id": project, "fixed_ips": addresses });
        let port = net("/ports", json!({ "port": port })).await;
        let volume = json!({ "volume": { "name": "papers", "size": 1 } });
        let volume = place.make(&scope, Service::Volume, "/volumes", volume).await;
        place.until(Service::Volume, &format!("/volumes/{volume}"), "volume", "available").await;
        lab::write(&place.file(&volume), &format!("papers of {stamp}"));
        let image = place.list(Service::Image, "/images?name=lab-tiny", "images").await.remove(0);
        let flavors = place.list(Service::Compute, "/flavors/detail", "flavors").await;
        let flavor = flavors.iter().find(|flavor| flavor["name"] == "lab.tiny").unwrap();
        let disks = json!([
            { "uuid": image["id"], "source_type": "image", "destination_type": "local", "boot_index": 0, "delete_on_termination": true },
            { "uuid": volume, "source_type": "volume", "destination_type": "volume", "boot_index": -1 },
        ]);
        let server = json!({ "server": {
            "name": name, "flavorRef": flavor["id"], "imageRef": image["id"], "networks": [{ "port": port }],
            "block_device_mapping_v2": disks,
        } });
        let server = place.make(&scope, Service::Compute, "/servers", server).await;
        place.until(Service::Compute, &format!("/servers/{server}"), "server", "ACTIVE").await;
        Self { name, volume, image }
    }
}

// Reading what is below the volumes takes long and must not keep the engine from its work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_copied_and_a_replica_of_the_storage_is_managed_and_given_back() {
    let _alone = lab::ALONE.lock().await;
    let clock = SystemClock::real();
    let (a, b) = (Place::open("a", &clock), Place::open("b", &clock));
    let stamp = format!("{:x}", clock.wall().as_millisecond());
    let one = One::build(&a, &stamp).await;
    let names = [one.name.clone()];
    let mut inventory = reader::read(&a.cloud, &names).await.unwrap();
    inventory.taken_at = Some(clock.wall());
    // As storage that replicates would bring it there, under a name of its own.
    let replica = format!("mirror-{}.img", one.volume);
    lab::replicate(&a.file(&one.volume), &b.volumes.join(&replica));
    let (before, files) = (b.objects().await, b.files());
    let spec = json!({
        "group": one.name, "mode": "drill", "source": a.site, "target": b.site, "inventory": inventory,
        "pace": { "poll": "300ms", "settle": "2s" },
        "volumes": { "cinder-native": { "manage": {
            "host": b.volume_host, "name": "mirror-{id}.img", "give_back": { "folder": b.volumes },
            "point": "2026-01-01T00:00:00Z",
        } } },
    });
    let rig = Rig::new(&clock);
    let engine = rig.engine().await;
    let request = JobRequest { kind: "recover".into(), name: "one".into(), spec, ..JobRequest::default() };
    let job = engine.submit(request).await.unwrap();
    let view = rig.rest(&engine, job).await;
    assert_eq!(troubles(&view), Vec::<String>::new());

    let images = b.list(Service::Image, "/images?visibility=all", "images").await;
    let copies: Vec<&Value> = images.iter().filter(|image| image["windlass"].is_string()).collect();
    let [copy] = copies.as_slice() else { panic!("{copies:?}") };
    assert_eq!(copy["os_hash_value"], one.image["os_hash_value"]);
    let here = reader::read(&b.cloud, &names).await.unwrap();
    assert_eq!(here.instances[0].image.as_deref(), copy["id"].as_str());
    let [volume] = here.volumes.as_slice() else { panic!("{here:#?}") };
    assert_eq!(lab::content(&b.file(&volume.id)), lab::content(&a.file(&one.volume)));
    assert_eq!(b.files().get(&replica), files.get(&replica), "the replica is as it was, under its name");

    let undone = rig.command(&engine, job, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
    assert_eq!(b.objects().await, before, "by the services' own lists nothing is left");
    assert_eq!(b.files(), files, "every file is there under its name, with its content");
}
