//! Images.

use serde_json::{Value, json};
use windlass_openstack::{Method, Scope, Service::Image};

use crate::walk::Walk;

const IMAGE: [&str; 8] =
    ["name", "status", "disk_format", "container_format", "min_disk", "min_ram", "visibility", "windlass"];

pub(crate) async fn walk(walk: &mut Walk<'_>) {
    let home = Scope::Home;
    let known = walk
        .list(&home, Image, "/images?name=lab-tiny", "images", &["name", "status", "disk_format", "size", "visibility"])
        .await;
    let known = known[0]["id"].as_str().unwrap().to_owned();
    walk.learn(&known, "LAB-TINY");
    let body = json!({ "name": format!("image-{}", walk.stamp), "disk_format": "raw", "container_format": "bare", "min_disk": 1, "min_ram": 64,
        "visibility": "private", "windlass": "wl:i", "os_version": "12" });
    let mut paths = Vec::new();
    for name in ["IMAGE", "SECOND-IMAGE"] {
        // An image is not in a member of the answer.
        let made = walk.call(&home, (Image, Method::POST, "/images"), body.clone(), ("", &IMAGE)).await;
        let id = made["id"].as_str().unwrap_or_default().to_owned();
        walk.learn(&id, name);
        paths.push(format!("/images/{id}"));
    }
    let (first, second) = (paths[0].clone(), paths[1].clone());
    walk.call(&home, (Image, Method::GET, &first), Value::Null, ("", &["id", "status", "size", "os_version", "owner"]))
        .await;
    walk.list(&home, Image, "/images?windlass=wl%3Ai&visibility=all", "images", &["id", "status"]).await;
    let none = walk.content(&first).await;
    walk.note("there is content before the upload", &none.is_some().into());
    walk.upload(&first, b"bytes of an image".as_slice().into()).await;
    // Content is not written twice.
    walk.upload(&first, b"other bytes".as_slice().into()).await;
    if let Some(content) = walk.content(&first).await {
        walk.upload(&second, content).await;
    }
    for path in [&first, &second] {
        let fields = ["status", "size", "os_hash_algo", "os_hash_value"];
        walk.call(&home, (Image, Method::GET, path), Value::Null, ("", &fields)).await;
        walk.call(&home, (Image, Method::DELETE, path), Value::Null, ("", &[])).await;
        walk.call(&home, (Image, Method::DELETE, path), Value::Null, ("", &[])).await;
    }
    walk.kept.insert("image", known);
}
