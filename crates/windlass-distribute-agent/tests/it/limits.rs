//! What is served: not faster than it may, and with the checksum of what it should be.

use std::time::Duration;

use http_body_util::BodyExt as _;
use serde_json::json;
use windlass_clock::deadline;
use windlass_distribute::wire::agent::{Reason, TransferState};

use crate::node::{Node, PATIENCE, client, clock, data};
use crate::source::{Deed, Source};

/// Fetches a file; `first` decides which way the connection goes.
async fn fetch(node: &Node, client: &reqwest::Client, first: bool) -> Vec<u8> {
    if first {
        client.get(node.url("/v2/node")).send().await.unwrap().bytes().await.unwrap();
    }
    let answer = client.get(node.url("/v2/files/A")).send().await.unwrap();
    deadline(&*clock(), PATIENCE, answer.bytes()).await.unwrap().unwrap().to_vec()
}

#[tokio::test]
async fn serving_keeps_to_its_limit_which_changes_at_once() {
    let node = Node::with(|config| config.serve_bits_per_second = Some(4_000_000)).await;
    let bytes = data(700_000, 1);
    node.put("A", &bytes);
    let clock = clock();
    for first in [false, true] {
        let began = clock.monotonic();
        assert!(fetch(&node, &client(), first).await == bytes);
        let took = clock.monotonic() - began;
        // 1.4 s at half a megabyte a second; a piece goes at once, and a little may have been saved up.
        assert!(took > Duration::from_millis(600), "{took:?} {first}");
    }
    // At this rate it would take hours: until the limit is lifted in the middle.
    let many = data(30_000_000, 2);
    node.put("A", &many);
    for first in [false, true] {
        let patch = json!({ "serve_bits_per_second": 10_000 });
        assert_eq!(node.change("PATCH", "/v2/node", Some(patch)).await.0, 200);
        let client = client();
        if first {
            client.get(node.url("/v2/node")).send().await.unwrap().bytes().await.unwrap();
        }
        let answer = client.get(node.url("/v2/files/A")).send().await.unwrap();
        let mut body = reqwest::Body::from(answer);
        let mut got = body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
        let patch = json!({ "serve_bits_per_second": null });
        assert_eq!(node.change("PATCH", "/v2/node", Some(patch)).await.0, 200);
        got.extend(deadline(&*clock, PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes());
        assert!(got == many, "{first}");
    }
}

#[tokio::test]
async fn the_limit_of_the_hour_holds_for_what_is_fetched_and_served() {
    let always = |bits: u64| format!("00:00-24:00={bits}").parse().unwrap();
    let node = Node::with(|config| {
        config.serve_rates = vec![always(4_000_000), always(40_000_000)];
        config.rates = vec![always(8_000_000)];
    })
    .await;
    let bytes = data(700_000, 3);
    node.put("A", &bytes);
    let clock = clock();
    let began = clock.monotonic();
    assert!(fetch(&node, &client(), false).await == bytes);
    let took = clock.monotonic() - began;
    assert!(took > Duration::from_millis(600), "{took:?}");
    let source = Source::new(bytes.clone(), |_| Deed::Serve).await;
    let began = clock.monotonic();
    node.fetch("t", "B", &bytes, source.order()).await;
    let took = clock.monotonic() - began;
    assert!(took > Duration::from_millis(300), "{took:?}");
}

#[tokio::test]
async fn a_transfer_under_way_goes_faster_once_it_may_also_after_a_restart() {
    let node = Node::start().await;
    let bytes = data(600_000, 8);
    let source = Source::new(bytes.clone(), |_| Deed::Serve).await;
    let path = "/v2/transfers/t";
    // A kilobyte a second.
    let order =
        json!({ "id": "t", "name": "A", "size": bytes.len(), "source": source.order(), "bits_per_second": 8_000 });
    assert_eq!(node.change("PUT", path, Some(order.clone())).await.0, 202);
    node.until("t", |report| report.bytes > 0).await;
    for (path, patch, status) in [
        (path, json!({ "bits_per_second": 0 }), 400),
        (path, json!({}), 400),
        ("/v2/transfers/other", json!({ "bits_per_second": null }), 404),
        (path, json!({ "bits_per_second": 16_000 }), 200),
    ] {
        assert_eq!(node.change("PATCH", path, Some(patch.clone())).await.0, status, "{patch}");
    }
    assert_eq!(node.change("PUT", path, Some(order.clone())).await.0, 200, "it is the same order still");
    let node = Node::over(node.stop().await, |_| {}).await;
    node.until("t", |report| report.bytes > 0).await;
    assert_eq!(node.change("PATCH", path, Some(json!({ "bits_per_second": null }))).await.0, 200);
    assert_eq!(node.end("t").await.state, TransferState::Done);
    assert!(std::fs::read(node.path("A")).unwrap() == bytes);
    assert_eq!(node.change("PATCH", path, Some(json!({ "bits_per_second": 8 }))).await.0, 200, "and nothing happens");
}

#[tokio::test]
async fn who_wants_the_checksum_of_what_came_is_told() {
    let node = Node::start().await;
    let bytes = data(3_500_000, 4);
    node.put("A", &bytes);
    let expected = blake3::hash(&bytes).to_hex().to_string();
    let told = async |wanted: bool| {
        let mut request = client().head(node.url("/v2/files/A"));
        if wanted {
            request = request.header("windlass-want-checksum", "1");
        }
        let answer = request.send().await.unwrap();
        answer.headers().get("windlass-checksum").map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(told(false).await, None, "nothing is read for who does not want it");
    // One half on each way, and what lies between is read.
    let (straight, ordinary) = (client(), client());
    ordinary.get(node.url("/v2/node")).send().await.unwrap().bytes().await.unwrap();
    for (client, range) in [(&straight, "bytes=0-1100000"), (&ordinary, "bytes=2097152-3499999")] {
        let request = client.get(node.url("/v2/files/A")).header("range", range).header("windlass-want-checksum", "1");
        request.send().await.unwrap().bytes().await.unwrap();
    }
    assert_eq!(told(true).await, Some(expected.clone()));
    assert_eq!(told(false).await, None, "who does not want it is told what lies at the file only");
    node.put("A", &data(3_500_000, 5));
    assert_ne!(told(true).await, Some(expected), "another content has another one");
}

#[tokio::test]
async fn bytes_that_are_not_those_of_the_source_are_no_copy() {
    let bytes = data(300_000, 6);
    let checksum = blake3::hash(&bytes).to_hex().to_string();
    for (id, lies, said, good) in [
        ("good", false, checksum.clone(), true),
        // What came was changed on its way.
        ("lies", true, checksum, false),
        ("other", false, "0".repeat(64), false),
    ] {
        let source =
            Source::new(bytes.clone(), move |number| if lies && number == 1 { Deed::Lie } else { Deed::Serve });
        let source = source.await;
        let node = Node::start().await;
        assert_eq!(node.order(id, "A", bytes.len(), source.agent(&said)).await, 202);
        let report = node.end(id).await;
        let expected = if good { (TransferState::Done, None) } else { (TransferState::Failed, Some(Reason::Checksum)) };
        assert_eq!((report.state, report.reason), expected, "{report:?}");
        assert_eq!(node.path("A").exists(), good, "{id}");
    }
}

#[tokio::test]
async fn the_metrics_say_what_went_and_came() {
    let (from, to) = (Node::start().await, Node::start().await);
    let bytes = data(200_000, 7);
    from.put("A", &bytes);
    to.fetch("t", "B", &bytes, json!({ "url": from.url(""), "path_name": "A" })).await;
    to.order("gone", "C", 1, json!({ "url": from.url(""), "path_name": "Z" })).await;
    assert_eq!(to.end("gone").await.reason, Some(Reason::SourceGone));
    to.change("DELETE", "/v2/files/B", None).await;
    let text = async |node: &Node| {
        let answer = client().get(node.url("/metrics")).send().await.unwrap();
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
        answer.text().await.unwrap()
    };
    let (served, fetched) = (text(&from).await, text(&to).await);
    for line in
        ["windlass_agent_served_bytes_total 200000", "windlass_agent_requests_refused_total{reason=\"unknown\"} "]
    {
        assert!(served.lines().any(|found| found.starts_with(line)), "{line}\n{served}");
    }
    for line in [
        "windlass_agent_fetched_bytes_total 200000",
        "windlass_agent_transfers_total{result=\"done\"} 1",
        "windlass_agent_transfers_total{result=\"source_gone\"} 1",
        "windlass_agent_requests_refused_total{reason=\"bad_request\"} 1",
        "windlass_agent_transfers_open{state=\"running\"} 0",
        "windlass_agent_usage_limit_ratio 1",
        "windlass_agent_disk_bytes{kind=\"used\"} ",
        "# EOF",
    ] {
        assert!(fetched.lines().any(|found| found.starts_with(line)), "{line}\n{fetched}");
    }
    let token = windlass_distribute_agent::config::Token::new("correct-horse-battery").unwrap();
    let closed = Node::with(|config| config.token = Some(token)).await;
    assert_eq!(client().get(closed.url("/metrics")).send().await.unwrap().status(), 401);
}
