//! Which crate may depend on which. Arrows point down only; see ARCHITECTURE.md.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Fault;
use crate::run;

/// A crate of the workspace with what it depends on in its product (not only in its tests).
#[derive(Clone, Debug)]
pub(super) struct Package {
    name: String,
    dependencies: Vec<String>,
}

/// The crates below the kinds, and which of ours each may use. What is not listed is a kind.
const GROUND: [(&str, &[&str]); 21] = [
    ("windlass-clock", &[]),
    ("windlass-model", &[]),
    ("windlass-store", &["windlass-clock", "windlass-model"]),
    ("windlass-store-embedded", &["windlass-clock", "windlass-model", "windlass-store"]),
    ("windlass-store-etcd", &["windlass-clock", "windlass-store"]),
    ("windlass-engine", &["windlass-clock", "windlass-model", "windlass-store"]),
    ("windlass-blob", &["windlass-clock"]),
    ("windlass-distribute", &["windlass-clock"]),
    ("windlass-gocache", &["windlass-blob", "windlass-clock", "windlass-gocache-remote"]),
    ("windlass-gocache-remote", &["windlass-blob", "windlass-clock"]),
    ("windlass-distribute-agent", &["windlass-clock", "windlass-distribute", "windlass-tls"]),
    ("windlass-index-backup", &[]),
    ("windlass-openstack", &["windlass-clock"]),
    ("windlass-sim-cloud", &["windlass-clock"]),
    ("windlass-table", &["windlass-blob", "windlass-clock"]),
    ("windlass-tls", &["windlass-clock"]),
    ("windlass-vald", &[]),
    ("windlass-api", &["windlass-clock", "windlass-model"]),
    ("windlass-ui", &["windlass-api"]),
    (
        "windlass-server",
        &["windlass-api", "windlass-clock", "windlass-engine", "windlass-model", "windlass-store", "windlass-tls"],
    ),
    (
        "windlass-sim",
        &[
            "windlass-clock",
            "windlass-engine",
            "windlass-index-backup",
            "windlass-model",
            "windlass-store",
            "windlass-vald",
        ],
    ),
];

/// What a kind may use of ours. Not a store, not the simulation, and not another kind.
const FOR_KINDS: [&str; 12] = [
    "windlass-blob",
    "windlass-clock",
    "windlass-distribute",
    "windlass-engine",
    "windlass-gocache",
    "windlass-gocache-remote",
    "windlass-index-backup",
    "windlass-model",
    "windlass-openstack",
    "windlass-table",
    "windlass-tls",
    "windlass-vald",
];

/// The one crate that knows all kinds and stores.
const BINARY: &str = "windlass";

/// Crates that do no input or output and nothing async, and what would let them.
const PURE: [&str; 1] = ["windlass-model"];
const IMPURE: [&str; 5] = ["tokio", "tokio-util", "futures", "async-trait", "rusqlite"];

/// The crates of the workspace, as cargo sees them.
pub(super) fn packages() -> Result<Vec<Package>> {
    let text = run::output(run::cargo().args(["metadata", "--no-deps", "--format-version=1", "--offline"]))?;
    let metadata: Value = serde_json::from_str(&text).context("read what `cargo metadata` wrote")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let package = |package: &Value| Package {
        name: text(&package["name"]),
        dependencies: list(&package["dependencies"])
            .iter()
            // Tests may look sideways: the engine is tested on the embedded store.
            .filter(|dependency| dependency["kind"] != "dev")
            .map(|dependency| text(&dependency["name"]))
            .collect(),
    };
    Ok(list(&metadata["packages"]).iter().map(package).collect())
}

/// Checks every arrow.
pub(super) fn check(packages: &[Package], faults: &mut Vec<Fault>) {
    for package in packages.iter().filter(|package| package.name.starts_with("windlass")) {
        let manifest = format!("crates/{}/Cargo.toml", package.name);
        if package.name == BINARY {
            continue;
        }
        let ground = GROUND.iter().find(|(name, _)| *name == package.name);
        let allowed = ground.map_or(FOR_KINDS.as_slice(), |(_, allowed)| allowed);
        let role = if ground.is_some() { "lies below the kinds" } else { "is a kind" };
        let ours = package.dependencies.iter().filter(|name| name.starts_with("windlass"));
        for wrong in ours.filter(|name| !allowed.contains(&name.as_str())) {
            let what = format!("{} {role} and must not depend on {wrong}", package.name);
            faults.push(Fault::new(&manifest, 0, what));
        }
        if PURE.contains(&package.name.as_str()) {
            for wrong in package.dependencies.iter().filter(|name| IMPURE.contains(&name.as_str())) {
                let what = format!("{} does no input or output and must not depend on {wrong}", package.name);
                faults.push(Fault::new(&manifest, 0, what));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(name: &str, dependencies: &[&str]) -> usize {
        let dependencies = dependencies.iter().map(|name| (*name).to_owned()).collect();
        let mut faults = Vec::new();
        check(&[Package { name: name.into(), dependencies }], &mut faults);
        faults.len()
    }

    #[test]
    fn the_engine_knows_no_kind_and_no_store_product() {
        assert_eq!(faults("windlass-engine", &["windlass-store", "windlass-model", "tokio"]), 0);
        assert_eq!(faults("windlass-engine", &["windlass-rebalance", "windlass-store-embedded"]), 2);
    }

    #[test]
    fn the_model_is_neither_async_nor_above_anything() {
        assert_eq!(faults("windlass-model", &["serde", "jiff"]), 0);
        assert_eq!(faults("windlass-model", &["tokio", "windlass-clock"]), 2);
    }

    #[test]
    fn a_kind_knows_no_other_kind_no_store_and_not_the_simulation() {
        assert_eq!(faults("windlass-recover", &["windlass-engine", "windlass-blob"]), 0);
        assert_eq!(
            faults("windlass-recover", &["windlass-rebalance", "windlass-store-embedded", "windlass-sim", "windlass"]),
            4
        );
    }

    #[test]
    fn the_binary_may_know_everything() {
        assert_eq!(faults("windlass", &["windlass-rebalance", "windlass-store-embedded"]), 0);
    }

    #[test]
    fn the_workspace_itself_is_read() {
        let packages = packages().unwrap();
        assert!(packages.iter().any(|package| package.name == "windlass-engine" && !package.dependencies.is_empty()));
    }
}
