//! The crash matrix: a job killed before or after any commit and any change outside ends as if it had not been.

use std::sync::Arc;

use serde_json::{Value, json};
use windlass_clock::SystemClock;
use windlass_dag::{DagConfig, DagKind};
use windlass_engine::{Command, Kinds};
use windlass_sim::matrix::{self, Case};

use crate::peer::Peer;
use crate::rig::request;

fn files(folder: &std::path::Path) -> String {
    let mut all: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            format!("{}={}", entry.file_name().to_string_lossy(), std::fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    all.sort();
    all.join(" ")
}

async fn case(tasks: fn(&str, &Peer) -> Value, then: Option<Command>) -> Case {
    let folder = tempfile::tempdir().unwrap();
    let peer = Arc::new(Peer::start().await);
    let data = folder.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("source"), "data").unwrap();
    let request = request(tasks(&data.display().to_string(), &peer));
    let work_dir = folder.path().join("jobs");
    let folder = Arc::new(folder);
    Case {
        clock: SystemClock::real(),
        kinds: Kinds::new().with(DagKind::new(DagConfig::foreground())),
        request,
        others: Vec::new(),
        reversed: false,
        then,
        work_dir,
        fingerprint: Box::new(move || {
            let (folder, peer) = (folder.clone(), peer.clone());
            Box::pin(async move { format!("{} | made {:?}", files(&folder.path().join("data")), peer.made()) })
        }),
    }
}

async fn check(name: &str, tasks: fn(&str, &Peer) -> Value, then: Option<Command>, clean: &[&str]) {
    let matrix = matrix::make(|| case(tasks, then.clone()), 1).await;
    println!("{name}: {}\n{}", matrix.clean, matrix.to_table());
    for part in clean {
        assert!(matrix.clean.contains(part), "{part:?} is not in {}", matrix.clean);
    }
    assert!(matrix.different().is_empty(), "{name}: {:#?}", matrix.different());
}

fn exec(folder: &str, _: &Peer) -> Value {
    json!([{ "name": "make", "type": "exec",
        "with": { "argv": ["sh", "-c", format!("printf x > {folder}/made-$WINDLASS_TASK; printf made")] },
        "undo": { "type": "exec", "with": { "argv": ["rm", "-f", { "join": [format!("{folder}/"), { "ref": "make#/stdout" }, "-make"] }] } } }])
}

fn copy(folder: &str, _: &Peer) -> Value {
    json!([{ "name": "copy", "type": "copy", "with": { "from": format!("file://{folder}/source"), "to": format!("file://{folder}/target") } }])
}

fn http(_: &str, peer: &Peer) -> Value {
    json!([{ "name": "post", "type": "http", "with": { "url": peer.url("/things"), "body": "thing" },
        "undo": { "type": "http", "with": { "method": "DELETE", "url": peer.url("/thing") } } }])
}

fn quiet(_: &str, _: &Peer) -> Value {
    json!([{ "name": "short", "type": "wait", "with": { "for": "1ms" } },
        { "name": "a", "type": "wait", "with": { "until": "2020-01-01T00:00:00Z" } },
        { "name": "b", "type": "noop", "needs": ["a"], "with": { "output": 1 }, "undo": { "type": "noop" } }])
}

#[tokio::test]
async fn a_command_that_is_killed_anywhere_ends_as_if_it_had_not_been() {
    check("exec", exec, None, &["completed succeeded", "made-make=x"]).await;
}

#[tokio::test]
async fn the_undo_of_a_command_likewise() {
    check("exec, undone", exec, Some(Command::Undo), &["finished", "source=data |"]).await;
}

#[tokio::test]
async fn a_copy_likewise() {
    check("copy", copy, None, &["completed succeeded", "target=data"]).await;
}

#[tokio::test]
async fn the_undo_of_a_copy_likewise() {
    check("copy, undone", copy, Some(Command::Undo), &["finished", "source=data |"]).await;
}

#[tokio::test]
async fn a_request_likewise() {
    check("http", http, None, &["completed succeeded", "made [\"thing\"]"]).await;
}

#[tokio::test]
async fn the_undo_of_a_request_likewise() {
    check("http, undone", http, Some(Command::Undo), &["finished", "made []"]).await;
}

#[tokio::test]
async fn what_changes_nothing_likewise() {
    check("wait, noop", quiet, Some(Command::Undo), &["finished"]).await;
}
