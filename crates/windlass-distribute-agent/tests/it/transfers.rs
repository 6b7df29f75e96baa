//! Transfers: done, resumed, refused, cancelled, ended.

use std::time::Duration;

use serde_json::json;
use windlass_distribute::wire::agent::{Reason, TransferState};

use crate::node::{Node, client, data};
use crate::source::{Deed, Source};

#[tokio::test]
async fn a_file_goes_from_agent_to_agent_with_its_checksum() {
    let (from, to) = (Node::start().await, Node::start().await);
    let name = "A b#\u{d55c}.mpg";
    for (number, size) in [0, 1, 65_536, 65_537, 1_000_000].into_iter().enumerate() {
        let bytes = data(size, 7);
        from.put(name, &bytes);
        let url = json!({ "url": from.url(""), "path_name": "A%20b%23%ED%95%9C.mpg" });
        let report = to.fetch(&format!("t{number}"), &format!("F{number}"), &bytes, url).await;
        let head = client().head(to.url(&format!("/v2/files/F{number}"))).send().await.unwrap();
        assert_eq!(head.headers()["etag"], format!("\"{}\"", report.version.unwrap()));
        if let Some(checksum) = head.headers().get("windlass-checksum") {
            assert_eq!(checksum.to_str().unwrap(), report.checksum.unwrap().to_string());
        }
    }
    let node = to.get("/v2/node").await;
    assert_eq!(node["transfers"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn a_file_of_a_source_folder_is_copied_and_no_other() {
    let origin = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let bytes = data(500_000, 1);
    std::fs::create_dir(origin.path().join("d 1")).unwrap();
    std::fs::write(origin.path().join("d 1/A"), &bytes).unwrap();
    std::fs::write(outside.path().join("secret"), &bytes).unwrap();
    std::os::unix::fs::symlink(outside.path().join("secret"), origin.path().join("out")).unwrap();
    std::os::unix::fs::symlink("d 1/A", origin.path().join("in")).unwrap();
    let node = Node::with(|config| config.source_dirs.push(origin.path().to_owned())).await;
    let root = origin.path().canonicalize().unwrap();
    let path = |rest: &str| json!({ "path": format!("{}{rest}", root.display()) });
    node.fetch("a", "A", &bytes, path("/d%201/A")).await;
    node.fetch("b", "B", &bytes, path("/in")).await;
    for (id, source, reason) in [
        ("c", path("/out"), Reason::Refused),
        ("d", path("/../x"), Reason::Refused),
        ("e", json!({ "path": outside.path().join("secret") }), Reason::Refused),
        ("f", path(""), Reason::Refused),
        ("g", path("/gone"), Reason::SourceGone),
        ("h", path("/d%201"), Reason::SourceGone),
    ] {
        node.order(id, "C", bytes.len(), source).await;
        assert_eq!(node.end(id).await.reason, Some(reason), "{id}");
    }
    node.order("i", "C", bytes.len() + 1, path("/in")).await;
    assert_eq!(node.end("i").await.reason, Some(Reason::SourceChanged), "another size is another file");
    assert!(!node.path("C").exists() && node.growing().is_empty());
}

#[tokio::test]
async fn an_id_stands_for_one_order_and_a_name_for_one_file() {
    let source = Source::new(data(200_000, 2), |_| Deed::Serve).await;
    let node = Node::start().await;
    assert_eq!(node.order("a", "A", 200_000, source.order()).await, 202);
    assert_eq!(node.order("a", "A", 200_000, source.order()).await, 200, "the same again");
    assert_eq!(node.order("a", "B", 200_000, source.order()).await, 409);
    let done = node.end("a").await;
    assert_eq!(done.state, TransferState::Done);
    assert_eq!(node.order("a", "A", 200_000, source.order()).await, 200);
    assert_eq!(node.report("a").await, done, "an order that is over is not begun again");
    assert_eq!(node.order("b", "A", 200_000, source.order()).await, 202);
    assert_eq!(node.end("b").await.reason, Some(Reason::Exists), "nothing is replaced");
    assert_eq!(source.given(), 200_000, "nothing is copied twice");
    for (id, body) in [
        ("x", json!({ "id": "y", "name": "A", "size": 1, "source": source.order() })),
        ("x", json!({ "id": "x", "name": "..", "size": 1, "source": source.order() })),
        ("x", json!({ "id": "x", "name": "A", "size": 1, "source": {} })),
        ("x", json!({ "id": "x", "name": "A", "size": 1, "bits_per_second": 0, "source": source.order() })),
    ] {
        assert_eq!(node.change("PUT", &format!("/v2/transfers/{id}"), Some(body)).await.0, 400);
    }
    let folder = node.stop().await;
    let node = Node::over(folder, |_| {}).await;
    let again = node.report("a").await;
    assert_eq!((again.state, again.checksum, again.version), (done.state, done.checksum, done.version));
}

#[tokio::test]
async fn cut_slow_and_failing_sources_are_gone_on_with() {
    let bytes = data(2_000_000, 3);
    let source = Source::new(bytes.clone(), |number| match number % 5 {
        0 => Deed::Cut(10_000),
        1 => Deed::Status(503),
        2 => Deed::Slow(20_000, 1),
        3 => Deed::Cut(0),
        _ => Deed::Serve,
    })
    .await;
    let node = Node::start().await;
    node.fetch("a", "A", &bytes, source.order()).await;
    assert!(source.asked() > 31, "it was cut and asked again");
    assert!(source.given() <= bytes.len() as u64 + 40 * 10_000, "{}: from where it stopped", source.given());
}

#[tokio::test]
async fn what_cannot_become_the_file_fails_with_its_reason_and_leaves_nothing() {
    let bytes = data(300_000, 4);
    let checksum = blake3::hash(&bytes).to_hex().to_string();
    type Plan = fn(u64) -> Deed;
    let cases: [(&str, Plan, Reason); 7] = [
        ("changed", |number| if number < 2 { Deed::Serve } else { Deed::Changed }, Reason::SourceChanged),
        ("gone", |_| Deed::Status(404), Reason::SourceGone),
        ("other", |_| Deed::Status(412), Reason::SourceChanged),
        ("forbidden", |_| Deed::Status(403), Reason::Refused),
        ("lies", |number| if number == 1 { Deed::Lie } else { Deed::Serve }, Reason::Checksum),
        ("whole", |_| Deed::NoRanges, Reason::SourceFailed),
        ("hangs", |_| Deed::Hang(0), Reason::Stalled),
    ];
    for (id, plan, reason) in cases {
        let source = Source::new(bytes.clone(), plan).await;
        let node = Node::with(|config| config.transfers.stall = Duration::from_millis(600)).await;
        let order =
            json!({ "id": id, "name": "A", "size": bytes.len(), "checksum": checksum, "source": source.order() });
        assert_eq!(node.change("PUT", &format!("/v2/transfers/{id}"), Some(order)).await.0, 202);
        let report = node.end(id).await;
        assert_eq!((report.state, report.reason), (TransferState::Failed, Some(reason)), "{id}: {report:?}");
        assert!(report.message.is_some() && !node.path("A").exists(), "{id}");
        assert_eq!(node.growing(), Vec::<String>::new(), "{id}");
    }
    let node = Node::with(|config| config.transfers.stall = Duration::from_millis(300)).await;
    node.order("dead", "A", 1, json!({ "url": "http://127.0.0.1:1/x" })).await;
    assert_eq!(node.end("dead").await.reason, Some(Reason::SourceFailed));
    node.order("other", "A", 1, json!({ "url": "ftp://127.0.0.1:1/x" })).await;
    assert_eq!(node.end("other").await.reason, Some(Reason::Refused));
    let source = Source::new(bytes, |_| Deed::Serve).await;
    let order = json!({ "id": "v", "name": "A", "size": 300_000, "version": "v0", "source": source.order() });
    node.change("PUT", "/v2/transfers/v", Some(order)).await;
    assert_eq!(node.end("v").await.reason, Some(Reason::SourceChanged));
}

#[tokio::test]
async fn a_local_source_that_is_replaced_meanwhile_is_noticed() {
    let origin = tempfile::tempdir().unwrap();
    let path = origin.path().canonicalize().unwrap().join("A");
    let bytes = data(1_000_000, 5);
    std::fs::write(&path, &bytes).unwrap();
    let node = Node::with(|config| {
        config.source_dirs.push(origin.path().to_owned());
        // Slow enough to be in the middle when the file is replaced.
        config.transfers.bits_per_second = Some(2_000_000);
    })
    .await;
    node.order("a", "A", bytes.len(), json!({ "path": path })).await;
    node.until("a", |report| report.bytes > 0).await;
    std::fs::write(origin.path().join("new"), data(1_000_000, 6)).unwrap();
    std::fs::rename(origin.path().join("new"), &path).unwrap();
    node.change("PATCH", "/v2/node", Some(json!({ "bits_per_second": null }))).await;
    assert_eq!(node.end("a").await.reason, Some(Reason::SourceChanged));
    assert!(!node.path("A").exists() && node.growing().is_empty());
}

#[tokio::test]
async fn a_file_that_does_not_fit_fails_before_a_byte_comes() {
    let source = Source::claiming(Vec::new(), 1 << 60, |_| Deed::Serve).await;
    let node = Node::start().await;
    node.order("a", "A", 1 << 60, source.order()).await;
    let report = node.end("a").await;
    assert_eq!(report.reason, Some(Reason::NoSpace), "{report:?}");
    let limited = Node::with(|config| config.transfers.usage_limit_percent = 0).await;
    let small = Source::new(data(1000, 1), |_| Deed::Serve).await;
    limited.order("a", "A", 1000, small.order()).await;
    assert_eq!(limited.end("a").await.reason, Some(Reason::UsageLimit));
    assert_eq!((source.asked(), small.asked()), (0, 0));
    assert!(node.growing().is_empty() && limited.growing().is_empty());
}

#[tokio::test]
async fn the_limit_changes_while_bytes_flow() {
    let bytes = data(4_000_000, 8);
    let source = Source::new(bytes.clone(), |_| Deed::Serve).await;
    let node = Node::with(|config| config.transfers.bits_per_second = Some(80_000)).await;
    let began = crate::node::clock();
    node.order("a", "A", bytes.len(), source.order()).await;
    node.until("a", |report| report.bytes > 0).await;
    let report = node.report("a").await;
    assert!(report.bytes < 1_000_000, "{report:?}");
    let before = began.monotonic();
    node.change("PATCH", "/v2/node", Some(json!({ "bits_per_second": null }))).await;
    assert_eq!(node.end("a").await.state, TransferState::Done);
    // At the first limit it would have taken more than six minutes.
    assert!(began.monotonic() - before < Duration::from_secs(60));
    // The same for the limit of one transfer: a second at 8 Mbit/s.
    let source = Source::new(data(1_000_000, 9), |_| Deed::Serve).await;
    let order =
        json!({ "id": "b", "name": "B", "size": 1_000_000, "bits_per_second": 8_000_000, "source": source.order() });
    let before = began.monotonic();
    node.change("PUT", "/v2/transfers/b", Some(order)).await;
    node.end("b").await;
    assert!(began.monotonic() - before > Duration::from_millis(400));
}

#[tokio::test]
async fn what_was_cancelled_ends_and_never_begins_again() {
    let bytes = data(1_000_000, 10);
    let source = Source::new(bytes.clone(), |_| Deed::Slow(1000, 5)).await;
    let node = Node::start().await;
    node.order("a", "A", bytes.len(), source.order()).await;
    node.order("b", "B", bytes.len(), source.order()).await;
    node.until("a", |report| report.state == TransferState::Running && source.given() > 0).await;
    assert_eq!(node.change("DELETE", "/v2/transfers/b", None).await.0, 202, "one that waits");
    assert_eq!(node.change("DELETE", "/v2/transfers/a", None).await.0, 202, "one that runs");
    assert_eq!(node.change("DELETE", "/v2/transfers/c", None).await.0, 202, "one that has not come yet");
    for id in ["a", "b"] {
        assert_eq!(node.end(id).await.state, TransferState::Cancelled, "{id}");
    }
    let asked = source.asked();
    let folder = node.stop().await;
    let node = Node::over(folder, |_| {}).await;
    for id in ["a", "b", "c"] {
        let order = json!({ "id": id, "name": id.to_uppercase(), "size": bytes.len(), "source": source.order() });
        let (status, report) = node.change("PUT", &format!("/v2/transfers/{id}"), Some(order)).await;
        assert_eq!((status, &report["state"]), (200, &json!("cancelled")), "{id}");
    }
    // A file after them went through the same queue: they would have been begun by now.
    let other = Source::new(bytes.clone(), |_| Deed::Serve).await;
    node.fetch("d", "D", &bytes, other.order()).await;
    assert_eq!(source.asked(), asked);
    assert!(!node.path("A").exists() && !node.path("B").exists() && !node.path("C").exists());
}

#[tokio::test]
async fn after_a_stop_it_goes_on_where_it_was_and_torn_leftovers_are_fetched_again() {
    let bytes = data(3_000_000, 11);
    for torn in [false, true] {
        let source = Source::new(bytes.clone(), |_| Deed::Slow(16_000, 2)).await;
        let node = Node::with(|config| config.transfers.sync_every = Duration::from_millis(10)).await;
        node.order("a", "A", bytes.len(), source.order()).await;
        node.until("a", |report| report.bytes > 1_000_000).await;
        let folder = node.stop().await;
        assert!(!folder.path().join("A").exists());
        let temp = folder.path().join("temp.downloaded");
        if torn {
            // The list ends in the middle of an entry, and a part that it tells of is not what it was.
            let parts = std::fs::read(temp.join("t-a.parts")).unwrap();
            std::fs::write(temp.join("t-a.parts"), &parts[..parts.len() - 7]).unwrap();
            let data = std::fs::File::options().write(true).open(temp.join("t-a.data")).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&data, &[0; 65_536], 0).unwrap();
        }
        let before = source.given();
        let node = Node::over(folder, |_| {}).await;
        let report = node.end("a").await;
        assert_eq!(report.state, TransferState::Done, "{report:?}");
        assert!(std::fs::read(node.path("A")).unwrap() == bytes);
        let again = source.given() + before - bytes.len() as u64 - before;
        // What was in flight, and what was torn: a part for each thread, the damaged one, and the one cut off.
        assert!(again <= 6 * 65_536, "{again} bytes came twice");
        assert!(before > 900_000 && node.growing().is_empty());
    }
}
