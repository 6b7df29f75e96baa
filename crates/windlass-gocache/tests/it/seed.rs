//! The layout of the seed's program.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use windlass_gocache_remote::OutputId;

use crate::conversation::{Conversation, action};
use crate::program::{PROGRAM, Setup, run};

/// The folder as the seed's program reads it: record, then output, by its naming.
fn seed_get(dir: &Path, action: &str) -> Option<Vec<u8>> {
    let escape = |id: &str| id.replace('/', "-");
    let record = fs::read(dir.join(format!("{}-a.json", escape(action)))).ok()?;
    let record: Value = serde_json::from_slice(&record).unwrap();
    let bytes = fs::read(dir.join(format!("{}-d", escape(record["OutputID"].as_str().unwrap())))).ok()?;
    assert_eq!(record["Size"].as_u64().unwrap_or_default(), bytes.len() as u64);
    assert!(record["TimeNanos"].as_i64().unwrap() > 1_600_000_000_000_000_000);
    Some(bytes)
}

/// The folder as the seed's program writes it.
fn seed_put(dir: &Path, action: &str, body: &[u8]) {
    let escape = |id: &str| id.replace('/', "-");
    let output = OutputId::of(body).base64();
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(format!("{}-d", escape(&output))), body).unwrap();
    let mut record = json!({"OutputID": output, "Size": body.len(), "TimeNanos": 1_700_000_000_000_000_000_u64});
    if body.is_empty() {
        record.as_object_mut().unwrap().remove("Size");
    }
    fs::write(dir.join(format!("{}-a.json", escape(action))), record.to_string()).unwrap();
}

#[test]
fn the_seeds_program_reads_what_we_wrote() {
    let setup = Setup::with(&["--layout", "seed"]);
    let cold = Conversation::recorded("go1.26-build-cold");
    setup.run(&cold).check(&cold, &BTreeMap::new());
    for (action, body) in cold.bodies() {
        assert_eq!(seed_get(&setup.dir(), &action), Some(body), "{action}");
    }
    setup.verify();
}

#[test]
fn we_read_what_the_seeds_program_wrote() {
    let setup = Setup::with(&["--layout", "seed"]);
    let cold = Conversation::recorded("go1.26-build-cold");
    for (action, body) in cold.bodies() {
        seed_put(&setup.dir(), &action, &body);
    }
    let warm = Conversation::recorded("go1.26-build-warm");
    let said = setup.run(&warm);
    said.check(&warm, &cold.bodies());
    assert_eq!(said.answers[&1]["Time"], "2023-11-14T22:13:20Z");
    // It leaves half a file behind when it is killed.
    let body = cold.bodies().into_values().find(|body| body.len() > 100).unwrap();
    let path = setup.dir().join(format!("{}-d", OutputId::of(&body).base64().replace('/', "-")));
    fs::write(&path, &body[..50]).unwrap();
    let said = setup.run(&warm);
    let misses = warm.asked.keys().filter(|id| said.answers[id]["Miss"] == true).count();
    assert!(misses >= 1, "{:?}", said.answers);
}

#[test]
fn one_flag_makes_it_the_seeds_program() {
    let setup = Setup::new();
    let mut command = std::process::Command::new(PROGRAM);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WINDLASS_") || name.starts_with("S3_")) {
        command.env_remove(name);
    }
    command.arg("--seed").current_dir(setup.folder.path());
    let mut conversation = Conversation::default();
    let id = conversation.put(action(9), b"bytes");
    conversation.close();
    let said = run(command, std::slice::from_ref(&conversation.input));
    assert_eq!(said.stderr, "CacheProg used.\n");
    assert_eq!(said.bytes(id), b"bytes", "at an absolute path");
    assert_eq!(seed_get(&setup.folder.path().join(".cache"), &action(9).base64()).unwrap(), b"bytes");
    // Nothing is said otherwise.
    let said = Setup::new().run(&conversation);
    assert_eq!(said.stderr, "");
}

#[test]
fn some_of_the_five_variables_are_told_in_one_line() {
    let setup = Setup::new();
    let mut conversation = Conversation::default();
    conversation.put(action(1), b"x");
    conversation.close();
    let mut command = setup.command();
    command.env("S3_ENDPOINT", "s3.example.org").env("S3_SECRET_ACCESS_KEY", "hunter2");
    let said = run(command, std::slice::from_ref(&conversation.input));
    assert_eq!(said.status, Some(0));
    assert_eq!(said.stderr.lines().count(), 1);
    assert!(said.stderr.contains("S3_ACCESS_KEY_ID, S3_BUCKET_NAME are not set"), "{}", said.stderr);
    assert!(!said.stderr.contains("hunter2"));
}
