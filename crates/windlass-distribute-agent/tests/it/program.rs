//! The copying program of the old agents.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::deadline;
use windlass_distribute::wire::agent::{Reason, TransferState};
use windlass_distribute_agent::config::Downloader;

use crate::node::{Node, PATIENCE, clock};

/// A program for the shell.
pub(crate) fn program(folder: &Path, text: &str) -> Downloader {
    let path = folder.join("download");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Downloader::new(path, "Successfully").unwrap()
}

fn source() -> Value {
    json!({ "program": { "src_ip": "10.0.0.1", "file_path": "/data2/A%20b" } })
}

#[tokio::test]
async fn it_is_called_as_ever_and_only_a_whole_file_is_published() {
    let tools = tempfile::tempdir().unwrap();
    for (id, text, reason) in [
        ("good", "echo \"$1|$3|$4\" > \"$2\"; echo noise; echo 'copied Successfully' >&2", None),
        ("short", "printf 'x' > \"$2\"; echo Successfully >&2", Some(Reason::Program)),
        ("fails", "echo \"$1|$3|$4\" > \"$2\"; echo Successfully >&2; exit 3", Some(Reason::Program)),
        ("silent", "echo \"$1|$3|$4\" > \"$2\"; echo successfully >&2", Some(Reason::Program)),
        ("nothing", "echo Successfully >&2", Some(Reason::Program)),
    ] {
        let node = Node::with(|config| config.downloader = Some(program(tools.path(), text))).await;
        let expected = "10.0.0.1|/data2/A b|5000000\n";
        let order =
            json!({ "id": id, "name": "A", "size": expected.len(), "bits_per_second": 5_000_000, "source": source() });
        assert_eq!(node.change("PUT", &format!("/v2/transfers/{id}"), Some(order)).await.0, 202);
        let report = node.end(id).await;
        assert_eq!(report.reason, reason, "{id}: {report:?}");
        if reason.is_none() {
            assert_eq!(std::fs::read_to_string(node.path("A")).unwrap(), expected);
        }
        assert_eq!((node.path("A").exists(), node.growing().len()), (reason.is_none(), 0), "{id}");
    }
    let node = Node::start().await;
    node.order("none", "A", 1, source()).await;
    assert_eq!(node.end("none").await.reason, Some(Reason::Refused));
}

#[tokio::test]
async fn one_that_hangs_is_ended_with_all_that_it_started() {
    let tools = tempfile::tempdir().unwrap();
    let pids = tools.path().join("pids");
    let text = format!("sleep 1000 & echo $! $$ > {0}.new; mv {0}.new {0}; echo x > \"$2\"; wait", pids.display());
    let start = async |stall| {
        Node::with(|config| {
            config.downloader = Some(program(tools.path(), &text));
            config.transfers.stall = stall;
        })
        .await
    };
    let gone = async |id: &str| {
        let text = std::fs::read_to_string(&pids).unwrap();
        let dead = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // One that nobody has waited for yet is dead, too.
            stat.is_empty() || stat.contains(") Z")
        };
        let wait = async {
            while !text.split_whitespace().all(dead) {
                clock().sleep(Duration::from_millis(10)).await;
            }
        };
        deadline(&*clock(), PATIENCE, wait).await.unwrap_or_else(|_| panic!("{id}: something runs on"));
        std::fs::remove_file(&pids).unwrap();
    };
    let node = start(Duration::from_millis(500)).await;
    node.order("a", "A", 1000, source()).await;
    assert_eq!(node.end("a").await.reason, Some(Reason::Stalled));
    gone("a").await;
    assert!(node.growing().is_empty());
    let node = start(PATIENCE).await;
    node.order("b", "B", 1000, source()).await;
    let begun = async {
        while !pids.exists() {
            clock().sleep(Duration::from_millis(10)).await;
        }
    };
    deadline(&*clock(), PATIENCE, begun).await.unwrap();
    node.change("DELETE", "/v2/transfers/b", None).await;
    assert_eq!(node.end("b").await.state, TransferState::Cancelled);
    gone("b").await;
    assert!(node.growing().is_empty());
}
