//! Volumes and snapshots, and how they change hands.

use serde_json::{Value, json};
use windlass_openstack::{Method, Scope, Service::Volume};

use crate::walk::Walk;

const VOLUME: [&str; 9] = [
    "name",
    "description",
    "size",
    "metadata",
    "bootable",
    "multiattach",
    "attachments",
    "os-vol-tenant-attr:tenant_id",
    "volume_type",
];

pub(crate) async fn walk(walk: &mut Walk<'_>) {
    let home = Scope::Home;
    let body = json!({ "volume": { "size": 1, "name": "replica", "description": "d", "metadata": { "windlass_replica_of": "x" } } });
    let replica = walk
        .make(&home, (Volume, "/volumes", "REPLICA"), body, ("volume", &["name", "size", "metadata", "status"]))
        .await;
    let path = format!("/volumes/{replica}");
    walk.settled(&home, Volume, &path, "volume", &["creating"]).await;
    walk.call(&home, (Volume, Method::GET, &path), Value::Null, ("volume", &VOLUME)).await;
    flags(walk, &path).await;

    let body = json!({ "snapshot": { "volume_id": replica, "name": "point", "force": true, "metadata": { "windlass": "wl:x" } } });
    let snapshot = walk
        .make(
            &home,
            (Volume, "/snapshots", "SNAPSHOT"),
            body,
            ("snapshot", &["name", "volume_id", "size", "status", "metadata"]),
        )
        .await;
    let at = format!("/snapshots/{snapshot}");
    walk.settled(&home, Volume, &at, "snapshot", &["creating"]).await;
    walk.list(&home, Volume, "/snapshots/detail?all_tenants=1&name=point", "snapshots", &["name", "metadata"]).await;
    walk.call(&home, (Volume, Method::DELETE, &path), Value::Null, ("", &[])).await;
    let body = json!({ "volume": { "snapshot_id": snapshot, "size": 2, "name": "copy", "description": "", "metadata": { "windlass": "wl:y" }, "multiattach": false } });
    let copy = walk
        .make(&home, (Volume, "/volumes", "COPY"), body.clone(), ("volume", &["name", "snapshot_id", "size"]))
        .await;
    let copy_path = format!("/volumes/{copy}");
    walk.settled(&home, Volume, &copy_path, "volume", &["creating"]).await;
    walk.call(&home, (Volume, Method::GET, &copy_path), Value::Null, ("volume", &VOLUME)).await;
    let mut small = body;
    small["volume"]["size"] = 0.into();
    walk.call(&home, (Volume, Method::POST, "/volumes"), small, ("", &[])).await;
    walk.call(&home, (Volume, Method::DELETE, &at), Value::Null, ("", &[])).await;
    walk.settled(&home, Volume, &at, "snapshot", &["deleting"]).await;
    walk.call(&home, (Volume, Method::DELETE, &at), Value::Null, ("", &[])).await;

    hand_over(walk, &copy).await;
    types(walk).await;
    managing(walk, &replica).await;
    quotas(walk).await;
    walk.kept.insert("volume", copy);
}

async fn flags(walk: &mut Walk<'_>, path: &str) {
    let action = format!("{path}/action");
    for body in [
        json!({ "os-set_bootable": { "bootable": true } }),
        json!({ "os-update_readonly_flag": { "readonly": true } }),
        json!({ "os-update_readonly_flag": { "readonly": false } }),
        json!({ "os-set_bootable": { "bootable": false } }),
        json!({ "os-none": {} }),
    ] {
        walk.call(&Scope::Home, (Volume, Method::POST, &action), body, ("", &[])).await;
        walk.call(&Scope::Home, (Volume, Method::GET, path), Value::Null, ("volume", &["bootable", "metadata"])).await;
    }
}

async fn hand_over(walk: &mut Walk<'_>, volume: &str) {
    let home = Scope::Home;
    let path = format!("/volumes/{volume}");
    let body = json!({ "transfer": { "volume_id": volume, "name": "wl:t" } });
    let offer = walk
        .call(&home, (Volume, Method::POST, "/volume-transfers"), body.clone(), ("transfer", &["name", "volume_id"]))
        .await;
    walk.learn(offer["id"].as_str().unwrap_or_default(), "OFFER");
    walk.call(&home, (Volume, Method::GET, &path), Value::Null, ("volume", &["status"])).await;
    walk.call(&home, (Volume, Method::POST, "/volume-transfers"), body.clone(), ("", &[])).await;
    walk.list(&home, Volume, "/volume-transfers/detail", "transfers", &["name", "volume_id"]).await;
    let at = format!("/volume-transfers/{}", offer["id"].as_str().unwrap_or_default());
    walk.call(&home, (Volume, Method::DELETE, &at), Value::Null, ("", &[])).await;
    walk.call(&home, (Volume, Method::DELETE, &at), Value::Null, ("", &[])).await;
    let offer = walk.call(&home, (Volume, Method::POST, "/volume-transfers"), body, ("transfer", &["name"])).await;
    let (id, key) = (offer["id"].as_str().unwrap_or_default().to_owned(), offer["auth_key"].clone());
    walk.learn(&id, "OFFER");
    walk.learn(key.as_str().unwrap_or_default(), "KEY");
    let accept = format!("/volume-transfers/{id}/accept");
    let tenant = walk.tenant();
    walk.call(&tenant, (Volume, Method::POST, &accept), json!({ "accept": { "auth_key": "wrong" } }), ("", &[])).await;
    let body = json!({ "accept": { "auth_key": key } });
    walk.call(&tenant, (Volume, Method::POST, &accept), body.clone(), ("transfer", &["volume_id"])).await;
    walk.settled(&home, Volume, &path, "volume", &["awaiting-transfer"]).await;
    walk.call(&tenant, (Volume, Method::POST, &accept), body, ("", &[])).await;
    walk.call(
        &home,
        (Volume, Method::GET, &path),
        Value::Null,
        ("volume", &["status", "os-vol-tenant-attr:tenant_id", "metadata"]),
    )
    .await;
    walk.list(&tenant, Volume, "/volumes/detail", "volumes", &["id", "name"]).await;
}

async fn types(walk: &mut Walk<'_>) {
    walk.list(&Scope::Home, Volume, "/types?name=lab", "volume_types", &[]).await;
    let found = walk.look(&Scope::Home, Volume, "/types").await.unwrap();
    let lab = found["volume_types"].as_array().into_iter().flatten().any(|one| one["name"] == "lab");
    walk.note("a type named lab", &lab.into());
    let body = json!({ "volume": { "size": 1, "name": "shared", "volume_type": "lab", "metadata": {} } });
    let id = walk
        .make(&Scope::Home, (Volume, "/volumes", "SHARED"), body, ("volume", &["volume_type", "multiattach"]))
        .await;
    let path = format!("/volumes/{id}");
    walk.settled(&Scope::Home, Volume, &path, "volume", &["creating"]).await;
    walk.call(&Scope::Home, (Volume, Method::DELETE, &path), Value::Null, ("", &[])).await;
    walk.settled(&Scope::Home, Volume, &path, "volume", &["deleting"]).await;
    walk.call(&Scope::Home, (Volume, Method::DELETE, &path), Value::Null, ("", &[])).await;
    let body = json!({ "volume": { "size": 1, "name": "none", "volume_type": "no such type" } });
    walk.call(&Scope::Home, (Volume, Method::POST, "/volumes"), body, ("", &[])).await;
}

async fn managing(walk: &mut Walk<'_>, volume: &str) {
    let home = Scope::Home;
    let action = format!("/volumes/{volume}/action");
    walk.call(&home, (Volume, Method::POST, &action), json!({ "os-unmanage": {} }), ("", &[])).await;
    let path = format!("/volumes/{volume}");
    walk.settled(&home, Volume, &path, "volume", &["unmanaging"]).await;
    let name = format!("volume-{volume}");
    let host = walk.host.clone();
    let list = format!("/manageable_volumes/detail?host={}", host.replace('#', "%23").replace('@', "%40"));
    let entry = |found: &Value| {
        found["manageable-volumes"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["reference"]["source-name"] == name.as_str())
            .map(|one| json!([one["safe_to_manage"], one["cinder_id"], one["reason_not_safe"], one["size"]]))
    };
    let found = walk.look(&home, Volume, &list).await.unwrap();
    walk.note("manageable", &entry(&found).unwrap_or_default());
    let body = |host: &str, source: &str| json!({ "volume": { "host": host, "ref": { "source-name": source }, "name": "managed", "description": "d", "bootable": true, "metadata": { "windlass": "wl:m" } } });
    walk.call(&home, (Volume, Method::POST, "/manageable_volumes"), body("nobody@none#none", &name), ("", &[])).await;
    let made = walk
        .make(
            &home,
            (Volume, "/manageable_volumes", "MANAGED"),
            body(&host, &name),
            ("volume", &["name", "description", "metadata", "bootable"]),
        )
        .await;
    let path = format!("/volumes/{made}");
    walk.settled(&home, Volume, &path, "volume", &["creating", "managing"]).await;
    walk.call(
        &home,
        (Volume, Method::GET, &path),
        Value::Null,
        ("volume", &["size", "bootable", "metadata", "os-vol-host-attr:host"]),
    )
    .await;
    walk.call(&home, (Volume, Method::POST, "/manageable_volumes"), body(&host, &format!("volume-{made}")), ("", &[]))
        .await;
    let lost =
        walk.make(&home, (Volume, "/manageable_volumes", "LOST"), body(&host, "not-there"), ("volume", &[])).await;
    let lost = format!("/volumes/{lost}");
    walk.settled(&home, Volume, &lost, "volume", &["creating", "managing"]).await;
    walk.call(&home, (Volume, Method::DELETE, &lost), Value::Null, ("", &[])).await;
    walk.settled(&home, Volume, &lost, "volume", &["deleting"]).await;
    // A snapshot of it may be let go and taken back, too.
    let body = json!({ "snapshot": { "volume_id": made, "name": "kept", "metadata": {} } });
    let snapshot = walk.make(&home, (Volume, "/snapshots", "KEPT"), body, ("snapshot", &["name"])).await;
    let at = format!("/snapshots/{snapshot}");
    walk.settled(&home, Volume, &at, "snapshot", &["creating"]).await;
    walk.call(&home, (Volume, Method::POST, &format!("{path}/action")), json!({ "os-unmanage": {} }), ("", &[])).await;
    walk.call(&home, (Volume, Method::POST, &format!("{at}/action")), json!({ "os-unmanage": {} }), ("", &[])).await;
    walk.settled(&home, Volume, &at, "snapshot", &["unmanaging"]).await;
    let body = json!({ "snapshot": { "volume_id": made, "name": "taken", "metadata": { "windlass": "wl:s" }, "ref": { "source-name": format!("snapshot-{snapshot}") } } });
    let taken = walk
        .make(&home, (Volume, "/manageable_snapshots", "TAKEN"), body, ("snapshot", &["name", "volume_id", "metadata"]))
        .await;
    let at = format!("/snapshots/{taken}");
    walk.settled(&home, Volume, &at, "snapshot", &["creating", "managing"]).await;
    walk.call(&home, (Volume, Method::DELETE, &at), Value::Null, ("", &[])).await;
    walk.settled(&home, Volume, &at, "snapshot", &["deleting"]).await;
    walk.call(&home, (Volume, Method::DELETE, &path), Value::Null, ("", &[])).await;
    walk.settled(&home, Volume, &path, "volume", &["deleting"]).await;
    walk.list(&home, Volume, "/os-services?binary=cinder-volume", "services", &["binary", "state", "status"]).await;
}

async fn quotas(walk: &mut Walk<'_>) {
    let path = format!("/os-quota-sets/{}", walk.project);
    let home = Scope::Home;
    walk.call(
        &home,
        (Volume, Method::PUT, &path),
        json!({ "quota_set": { "gigabytes": 3, "volumes": 7 } }),
        ("quota_set", &["gigabytes", "volumes"]),
    )
    .await;
    walk.call(&home, (Volume, Method::GET, &path), Value::Null, ("quota_set", &["gigabytes", "volumes"])).await;
    let tenant = walk.tenant();
    walk.call(
        &tenant,
        (Volume, Method::POST, "/volumes"),
        json!({ "volume": { "size": 9, "name": "too large" } }),
        ("", &[]),
    )
    .await;
    walk.call(&home, (Volume, Method::DELETE, &path), Value::Null, ("", &[])).await;
    walk.call(&home, (Volume, Method::DELETE, &path), Value::Null, ("", &[])).await;
}
