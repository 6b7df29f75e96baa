//! Flavours, key pairs, servers.

use serde_json::{Value, json};
use windlass_openstack::{Method, Scope, Service::Compute, Service::Volume};

use crate::walk::Walk;

pub(crate) async fn walk(walk: &mut Walk<'_>) {
    flavours(walk).await;
    keypairs(walk).await;
    server(walk).await;
    failing(walk).await;
    hosts(walk).await;
    quotas(walk).await;
    leave(walk).await;
}

async fn flavours(walk: &mut Walk<'_>) {
    let home = Scope::Home;
    let id = format!("wl-{}", walk.stamp);
    walk.learn(&id, "FLAVOR");
    let body = json!({ "flavor": { "id": id, "name": format!("small {} (recovered from a)", walk.stamp), "vcpus": 1, "ram": 64, "disk": 0,
        "OS-FLV-EXT-DATA:ephemeral": 0, "swap": 0, "description": "[wl:f]" } });
    let fields =
        ["id", "name", "vcpus", "ram", "disk", "OS-FLV-EXT-DATA:ephemeral", "swap", "description", "extra_specs"];
    walk.call(&home, (Compute, Method::POST, "/flavors"), body.clone(), ("flavor", &fields)).await;
    walk.call(&home, (Compute, Method::POST, "/flavors"), body, ("", &[])).await;
    let path = format!("/flavors/{id}");
    let specs = json!({ "extra_specs": { "hw:cpu_policy": "shared" } });
    for _ in 0..2 {
        walk.call(
            &home,
            (Compute, Method::POST, &format!("{path}/os-extra_specs")),
            specs.clone(),
            ("extra_specs", &["hw:cpu_policy"]),
        )
        .await;
    }
    walk.call(&home, (Compute, Method::GET, &path), Value::Null, ("flavor", &fields)).await;
    let all = walk.look(&home, Compute, "/flavors/detail?is_public=None").await.unwrap();
    let listed = all["flavors"].as_array().into_iter().flatten().any(|one| one["id"] == id.as_str());
    walk.note("the flavour is listed", &listed.into());
    walk.kept.insert("flavor", id);
}

async fn keypairs(walk: &mut Walk<'_>) {
    let home = Scope::Home;
    let name = format!("ops-{}", walk.stamp);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHFbWd2kFvSRj5Q0SNC2HWB3Ur6HQhO1Yz2yd6XrZ5sS ops";
    let body = json!({ "keypair": { "name": name, "public_key": key, "type": "ssh" } });
    for _ in 0..2 {
        walk.call(&home, (Compute, Method::POST, "/os-keypairs"), body.clone(), ("keypair", &["name", "public_key"]))
            .await;
    }
    let mut wrong = body;
    wrong["keypair"]["public_key"] = "no key".into();
    wrong["keypair"]["name"] = format!("bad-{}", walk.stamp).into();
    walk.call(&home, (Compute, Method::POST, "/os-keypairs"), wrong, ("", &[])).await;
    let path = format!("/os-keypairs/{name}");
    walk.call(&home, (Compute, Method::GET, &path), Value::Null, ("keypair", &["name", "public_key", "type"])).await;
    walk.kept.insert("keypair", name);
}

fn body(walk: &Walk<'_>) -> Value {
    json!({ "server": {
        "name": format!("db-{}", walk.stamp), "flavorRef": walk.kept["flavor"], "key_name": walk.kept["keypair"], "description": "the data",
        "metadata": { "windlass": "wl:s", "tier": "db" }, "user_data": "I2Nsb3VkLWNvbmZpZwo=", "config_drive": true,
        "networks": [{ "port": walk.kept["card"] }],
        "block_device_mapping_v2": [{ "uuid": walk.kept["volume"], "source_type": "volume", "destination_type": "volume", "boot_index": 0,
            "delete_on_termination": false, "device_name": "/dev/vda" }],
    } })
}

async fn server(walk: &mut Walk<'_>) {
    let tenant = walk.tenant();
    let home = Scope::Home;
    let body = body(walk);
    let volume = walk.kept["volume"].clone();
    let at = format!("/volumes/{volume}");
    // Not from a disk that nobody said can be started from.
    walk.call(&tenant, (Compute, Method::POST, "/servers"), body.clone(), ("server", &[])).await;
    let bootable = json!({ "os-set_bootable": { "bootable": true } });
    walk.call(&home, (Volume, Method::POST, &format!("{at}/action")), bootable, ("", &[])).await;
    let mut wrong = body.clone();
    wrong["server"]["flavorRef"] = "no-such".into();
    walk.call(&tenant, (Compute, Method::POST, "/servers"), wrong, ("", &[])).await;
    let mut wrong = body.clone();
    wrong["server"]["key_name"] = "no-such".into();
    walk.call(&tenant, (Compute, Method::POST, "/servers"), wrong, ("", &[])).await;
    let id = walk.make(&tenant, (Compute, "/servers", "SERVER"), body.clone(), ("server", &[])).await;
    let path = format!("/servers/{id}");
    walk.settled(&home, Compute, &path, "server", &["BUILD"]).await;
    let fields = [
        "name",
        "description",
        "tenant_id",
        "user_id",
        "key_name",
        "metadata",
        "config_drive",
        "OS-EXT-SRV-ATTR:user_data",
        "OS-EXT-SRV-ATTR:root_device_name",
        "OS-EXT-AZ:availability_zone",
        "flavor/original_name",
        "flavor/vcpus",
        "flavor/ram",
        "flavor/disk",
        "flavor/ephemeral",
        "flavor/swap",
        "flavor/extra_specs",
        "os-extended-volumes:volumes_attached",
        "image",
    ];
    walk.call(&home, (Compute, Method::GET, &path), Value::Null, ("server", &fields)).await;
    let named = format!("/servers/detail?all_tenants=1&name=db-{}", walk.stamp);
    walk.list(&home, Compute, &named, "servers", &["id", "metadata", "config_drive"]).await;
    walk.list(&tenant, Compute, "/servers/detail", "servers", &["id", "metadata", "status"]).await;
    let attachments = walk
        .list(
            &home,
            Compute,
            &format!("{path}/os-volume_attachments"),
            "volumeAttachments",
            &["volumeId", "device", "delete_on_termination"],
        )
        .await;
    walk.note("attachments", &attachments.len().into());
    walk.list(&home, Compute, &format!("{path}/os-interface"), "interfaceAttachments", &["port_id", "net_id"]).await;
    let card = format!("/ports/{}", walk.kept["card"]);
    walk.call(
        &home,
        (windlass_openstack::Service::Network, Method::GET, &card),
        Value::Null,
        ("port", &["device_id", "device_owner", "status", "description"]),
    )
    .await;
    walk.call(
        &home,
        (Volume, Method::GET, &at),
        Value::Null,
        ("volume", &["status", "attachments/0/server_id", "attachments/0/device"]),
    )
    .await;
    // What is used stays.
    walk.call(&home, (Volume, Method::DELETE, &at), Value::Null, ("", &[])).await;
    let snapshot = json!({ "snapshot": { "volume_id": volume, "name": "busy" } });
    walk.call(&home, (Volume, Method::POST, "/snapshots"), snapshot, ("", &[])).await;
    walk.call(&tenant, (Compute, Method::POST, "/servers"), body, ("server", &[])).await;
    let action = format!("{path}/action");
    walk.call(&home, (Compute, Method::POST, &action), json!({ "os-getConsoleOutput": { "length": 50 } }), ("", &[]))
        .await;
    for (what, passing) in [("os-stop", ["ACTIVE"]), ("os-start", ["SHUTOFF"])] {
        walk.call(&home, (Compute, Method::POST, &action), json!({ what: null }), ("", &[])).await;
        walk.settled(&home, Compute, &path, "server", &passing).await;
        walk.call(&home, (Compute, Method::POST, &action), json!({ what: null }), ("", &[])).await;
    }
    for _ in 0..2 {
        walk.call(&home, (Compute, Method::DELETE, &path), Value::Null, ("", &[])).await;
        walk.settled(&home, Compute, &path, "server", &["ACTIVE", "DELETED"]).await;
    }
    walk.settled(&home, Volume, &at, "volume", &["in-use", "detaching"]).await;
    // A port that somebody made stays, and is free.
    walk.call(
        &home,
        (windlass_openstack::Service::Network, Method::GET, &card),
        Value::Null,
        ("port", &["device_id", "device_owner", "description"]),
    )
    .await;
}

async fn failing(walk: &mut Walk<'_>) {
    let tenant = walk.tenant();
    let mut body = body(walk);
    body["server"]["metadata"]["lab_fault"] = "spawn".into();
    body["server"]["networks"] = "none".into();
    let id = walk.make(&tenant, (Compute, "/servers", "FAILING"), body, ("server", &[])).await;
    let path = format!("/servers/{id}");
    let found = walk.settled(&Scope::Home, Compute, &path, "server", &["BUILD"]).await;
    walk.note("it says why", &found["fault"]["message"].is_string().into());
    walk.call(&Scope::Home, (Compute, Method::DELETE, &path), Value::Null, ("", &[])).await;
    walk.settled(&Scope::Home, Compute, &path, "server", &["ERROR", "DELETED"]).await;
    // From an image, which needs no volume.
    let image = json!({ "server": { "name": "plain", "flavorRef": walk.kept["flavor"], "imageRef": walk.kept["image"], "networks": "none" } });
    let id = walk.make(&tenant, (Compute, "/servers", "PLAIN"), image, ("server", &[])).await;
    let path = format!("/servers/{id}");
    walk.settled(&Scope::Home, Compute, &path, "server", &["BUILD"]).await;
    walk.call(
        &Scope::Home,
        (Compute, Method::GET, &path),
        Value::Null,
        ("server", &["image/id", "os-extended-volumes:volumes_attached", "OS-EXT-SRV-ATTR:root_device_name"]),
    )
    .await;
    walk.call(&Scope::Home, (Compute, Method::DELETE, &path), Value::Null, ("", &[])).await;
    walk.settled(&Scope::Home, Compute, &path, "server", &["ACTIVE", "DELETED"]).await;
}

async fn hosts(walk: &mut Walk<'_>) {
    let home = Scope::Home;
    walk.list(&home, Compute, "/os-hypervisors/detail", "hypervisors", &["hypervisor_hostname", "state", "status"])
        .await;
    walk.list(&home, Compute, "/os-availability-zone", "availabilityZoneInfo", &["zoneName", "zoneState/available"])
        .await;
}

async fn quotas(walk: &mut Walk<'_>) {
    let path = format!("/os-quota-sets/{}", walk.project);
    let home = Scope::Home;
    walk.call(
        &home,
        (Compute, Method::PUT, &path),
        json!({ "quota_set": { "instances": 0 } }),
        ("quota_set", &["instances"]),
    )
    .await;
    walk.call(&home, (Compute, Method::GET, &path), Value::Null, ("quota_set", &["instances"])).await;
    let body = body(walk);
    walk.call(&walk.tenant(), (Compute, Method::POST, "/servers"), body, ("server", &[])).await;
    walk.call(&home, (Compute, Method::DELETE, &path), Value::Null, ("", &[])).await;
}

async fn leave(walk: &mut Walk<'_>) {
    let home = Scope::Home;
    let kept = walk.kept.clone();
    let volume = format!("/volumes/{}", kept["volume"]);
    walk.call(&home, (Volume, Method::DELETE, &volume), Value::Null, ("", &[])).await;
    walk.settled(&home, Volume, &volume, "volume", &["deleting"]).await;
    for path in [format!("/flavors/{}", kept["flavor"]), format!("/os-keypairs/{}", kept["keypair"])] {
        for _ in 0..2 {
            walk.call(&home, (Compute, Method::DELETE, &path), Value::Null, ("", &[])).await;
        }
    }
}
