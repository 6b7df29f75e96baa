//! A disk that is full: a small file system of its own, in a name space of its own.

use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use windlass_distribute::wire::agent::{Reason, TransferReport, TransferState};

use crate::kills::example;
use crate::node::{client, clock, data};
use crate::source::{Deed, Source};

#[tokio::test]
async fn on_a_full_disk_a_transfer_fails_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    // Whoever may not mount as who they are may as root of a name space.
    let script = format!(
        "mount -t tmpfs -o size=1m none {path} && exec {} {path} --part 65536 --limit 100",
        example().display()
    );
    let mut child = tokio::process::Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("`unshare` of util-linux is needed: install it, or put it on PATH");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    assert!(
        !line.is_empty(),
        "a file system of its own needs root, or user name spaces (kernel.unprivileged_userns_clone)"
    );
    let url = |path: &str| format!("http://{}{path}", line.trim());
    let order = async |id: &str, size: usize| {
        let source = Source::new(data(size, 1), |_| Deed::Serve).await;
        let order = json!({ "id": id, "name": id, "size": size, "source": source.order() });
        let put = client().put(url(&format!("/v2/transfers/{id}"))).body(order.to_string());
        let put = put.header("windlass-controller", "c").header("windlass-term", "1").send().await.unwrap();
        assert_eq!(put.status(), 202);
        loop {
            let answer = client().get(url(&format!("/v2/transfers/{id}"))).send().await.unwrap();
            let report: TransferReport = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
            if report.state.ended() {
                return (report.state, report.reason);
            }
            clock().sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    assert_eq!(order("A", 600_000).await, (TransferState::Done, None));
    for id in ["B", "C"] {
        assert_eq!(order(id, 600_000).await, (TransferState::Failed, Some(Reason::NoSpace)));
    }
    // What failed has left its room to others.
    assert_eq!(order("D", 300_000).await, (TransferState::Done, None));
    child.kill().await.unwrap();
}
