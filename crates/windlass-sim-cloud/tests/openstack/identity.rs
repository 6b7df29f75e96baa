//! Projects and roles.

use serde_json::{Value, json};
use windlass_openstack::{Method, Scope, Service::Identity};

use crate::walk::Walk;

pub(crate) async fn walk(walk: &mut Walk<'_>) {
    let home = Scope::Home;
    let name = format!("shop-{}", walk.stamp);
    let body = json!({ "project": { "name": name, "description": "the shop [wl:x]", "enabled": true, "domain_id": "default" } });
    let fields = ["name", "description", "enabled", "domain_id"];
    walk.project = walk.make(&home, (Identity, "/projects", "PROJECT"), body.clone(), ("project", &fields)).await;
    walk.call(&home, (Identity, Method::POST, "/projects"), body, ("project", &[])).await;
    walk.list(&home, Identity, &format!("/projects?name={name}"), "projects", &["id", "name", "description"]).await;
    let path = format!("/projects/{}", walk.project);
    walk.call(&home, (Identity, Method::GET, &path), Value::Null, ("project", &fields)).await;
    let roles = walk.list(&home, Identity, "/roles?name=admin", "roles", &["name"]).await;
    let role = roles[0]["id"].as_str().unwrap_or_default().to_owned();
    walk.learn(&role, "ROLE");
    let user = walk.user.clone();
    let path = format!("/projects/{}/users/{user}/roles/{role}", walk.project);
    walk.call(&home, (Identity, Method::PUT, &path), Value::Null, ("", &[])).await;
    walk.call(&home, (Identity, Method::PUT, &path), Value::Null, ("", &[])).await;
    let missing = format!("/projects/{}", "0".repeat(32));
    walk.call(&home, (Identity, Method::GET, &missing), Value::Null, ("", &[])).await;
}

pub(crate) async fn leave(walk: &mut Walk<'_>) {
    let path = format!("/projects/{}", walk.project);
    for _ in 0..2 {
        walk.call(&Scope::Home, (Identity, Method::DELETE, &path), Value::Null, ("", &[])).await;
    }
    walk.call(&Scope::Home, (Identity, Method::GET, &path), Value::Null, ("", &[])).await;
}
