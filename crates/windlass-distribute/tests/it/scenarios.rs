//! Captured worlds: what comes out must be what is written beside them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use windlass_distribute::input::catalogue::Reading;
use windlass_distribute::scenario;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures/scenarios")
}

/// The document, cut down to the keys that are expected.
fn compare(half: &str, reading: Reading) {
    let mut count = 0;
    let mut wrong = Vec::new();
    let mut folders: Vec<PathBuf> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    for folder in folders {
        let text = fs::read(folder.join("expected.json")).unwrap();
        let expected = serde_json::from_slice::<Value>(&text).unwrap()[half].clone();
        let found = scenario::decide(&folder, reading, 0).unwrap();
        count += 1;
        for (key, value) in expected.as_object().unwrap() {
            if found[key] != *value {
                wrong.push(format!("{} {key}:\n  expected {value}\n  found    {}", folder.display(), found[key]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(count, 18, "all scenarios are there");
}

#[test]
fn all_scenarios_are_decided_as_expected() {
    compare("product", Reading::Product);
}

#[test]
fn with_the_legacy_profile_all_scenarios_are_decided_as_by_the_original() {
    compare("legacy", Reading::Legacy);
}
