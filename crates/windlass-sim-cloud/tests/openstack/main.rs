//! The same calls at real services and at the simulated cloud are answered alike, as far as a recovery reads the answers.
//!
//! `WINDLASS_OPENSTACK` names the folder of a lab that is up; `cargo xtask test --openstack` sees to it.

#![expect(clippy::unwrap_used, reason = "tests say where they break")]

mod compute;
mod identity;
mod image;
mod network;
mod volume;
mod walk;

use std::path::PathBuf;

use serde_json::{Value, json};
use windlass_clock::{SharedClock, SystemClock};
use windlass_openstack::{Cloud, Site};
use windlass_sim_cloud::{Options, SimCloud};

use crate::walk::Walk;

/// The description of the lab's site `name`.
fn lab(name: &str) -> Value {
    let folder = std::env::var("WINDLASS_OPENSTACK")
        .expect("WINDLASS_OPENSTACK must name the folder of a lab that is up; run `cargo xtask test --openstack`");
    let path = PathBuf::from(folder).join("lab.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str::<Value>(&text).unwrap()["sites"][name].clone()
}

fn cloud(name: &str, auth_url: &str, password: &str, clock: &SharedClock) -> Cloud {
    let file = std::env::temp_dir().join(format!("windlass-conformance-{}", std::process::id()));
    std::fs::write(&file, password).unwrap();
    let password = json!({ "user": "admin", "password": { "file": file }, "project": "admin" });
    let site = json!({ "name": name, "auth_url": auth_url, "credential": { "password": password } });
    Cloud::new(serde_json::from_value::<Site>(site).unwrap(), clock.clone())
}

async fn walk(cloud: &Cloud, clock: &SharedClock, host: &str) -> Vec<(String, String)> {
    let mut walk = Walk::new(cloud, clock.clone(), host).await;
    identity::walk(&mut walk).await;
    network::walk(&mut walk).await;
    volume::walk(&mut walk).await;
    image::walk(&mut walk).await;
    compute::walk(&mut walk).await;
    network::leave(&mut walk).await;
    identity::leave(&mut walk).await;
    walk.notes
}

#[tokio::test]
async fn the_simulated_cloud_answers_as_the_services_do() {
    let clock = SystemClock::real();
    let site = lab("a");
    let text = |name: &str| site[name].as_str().unwrap().to_owned();
    let real = cloud("a", &text("auth_url"), &text("password"), &clock);
    let options = Options { ready_ms: 100, ..Options::new("a") };
    let sim = SimCloud::start(options, clock.clone()).await.unwrap();
    let simulated = cloud("a", &sim.auth_url(), "lab-secret", &clock);

    let there = walk(&real, &clock, &text("volume_host")).await;
    let here = walk(&simulated, &clock, "storage-a@lab#lab").await;
    let mut different = Vec::new();
    for (n, (label, answer)) in there.iter().enumerate() {
        match here.get(n) {
            Some((other, same)) if other == label && same == answer => {}
            other => different.push(format!("{label}\n  services:   {answer}\n  simulation: {other:?}")),
        }
    }
    println!("{} calls compared, {} answered differently", there.len(), different.len());
    assert!(different.is_empty() && here.len() == there.len(), "{}", different.join("\n"));
}
