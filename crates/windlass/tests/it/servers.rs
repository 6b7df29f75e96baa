//! Several servers on one etcd.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json as object};
use windlass_api::{Client, ClientConfig, EventKind, Events};
use windlass_clock::{SystemClock, SystemEntropy, deadline};
use windlass_sim::etcd::EtcdServer;

use crate::documents::{json, windlass};
use crate::server::{Up, asking, file, until};

/// Longest that anything may take before the test gives up: a lease has to end first.
const PATIENCE: Duration = Duration::from_secs(90);

/// The ids and codes of the first events of `job`, so many.
async fn told(events: &mut Events, job: &str, many: usize) -> Vec<(String, String)> {
    let mut all = Vec::new();
    while all.len() < many {
        let event = deadline(&*SystemClock::real(), PATIENCE, events.next()).await.unwrap().unwrap();
        assert_ne!(event.kind, EventKind::Reset);
        if let Some(entry) = event.entry.filter(|_| event.job.is_some_and(|id| id.to_string() == job)) {
            all.push((events.last().unwrap().to_owned(), entry.code.clone()));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_of_one_server_is_seen_and_steered_at_the_other_also_when_one_dies() {
    let etcd = EtcdServer::start(1).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = format!("etcd://{}/two", etcd.endpoints().join(","));
    let up = |name: &str| Up::start_in(&folder.path().join(name), &state, &["--listen", "127.0.0.1:0", "--name", name]);
    let (anna, bert) = (up("anna"), up("bert"));
    let client = |server: &str| {
        let config = ClientConfig { server: server.to_owned(), ..ClientConfig::default() };
        Client::new(&config, SystemClock::real(), SystemEntropy::real()).unwrap()
    };
    // Both hear of everything from the same beginning on, wherever it is asked for.
    let begin = Some("1.0".to_owned());
    let mut at_anna = client(&anna.url).follow_all(begin.clone());
    let mut at_bert = client(&bert.url).follow_all(begin);

    let ask = |words: &[&str], server: &str| {
        let (document, code) = json(windlass().args(words).args(["--server", server]));
        assert_eq!(code, 0, "{words:?}: {document}");
        document
    };
    let path = file(folder.path(), "shared", &asking());
    let job = ask(&["submit", path.to_str().unwrap()], &anna.url)["job"].as_str().unwrap().to_owned();
    let at = |url: &str| ask(&["show", "shared"], url);
    until("the question at the other", &mut || at(&bert.url).to_string().contains("go on?")).await;
    assert_eq!(ask(&["pause", "shared"], &bert.url)["job"], job.as_str());
    until("the pause", &mut || at(&anna.url)["status"]["state"] == "paused").await;
    ask(&["resume", "shared"], &anna.url);
    until("the resumption", &mut || at(&bert.url)["status"]["state"] == "running").await;
    let (one, other) = (at(&anna.url), at(&bert.url));
    for member in ["record", "status", "tasks", "coordinator"] {
        assert_eq!(one[member], other[member], "{member}");
    }
    // As does whoever reads the etcd itself.
    let (listed, code) = json(windlass().args(["jobs", "--state", &state]));
    assert_eq!((code, &listed), (0, &ask(&["jobs"], &bert.url)));

    let nightly = folder.path().join("nightly.json");
    let document = object!({ "kind": "dag", "name": "nightly", "spec": { "tasks": [{ "name": "a", "type": "noop" }] },
        "schedule": { "every": "12h" } });
    std::fs::write(&nightly, document.to_string()).unwrap();
    ask(&["submit", nightly.to_str().unwrap()], &anna.url);
    assert_eq!(ask(&["schedule", "pause", "nightly"], &bert.url)["paused"], true);
    let (shown, _) = json(windlass().args(["schedule", "show", "nightly", "--state", &state]));
    assert_eq!((&shown["paused"], &shown), (&object!(true), &ask(&["schedule", "show", "nightly"], &anna.url)));

    // The one that coordinates the job dies; the other takes it up, and whoever watches there sees it through.
    // By now both have told how it was submitted, paused and resumed.
    let mut whole = told(&mut at_anna, &job, 4).await;
    assert_eq!(told(&mut at_bert, &job, 4).await, whole);
    let bert_stays = one["coordinator"] != "bert";
    let (dying, staying) = if bert_stays { (anna, bert) } else { (bert, anna) };
    let mut watch = Command::new(assert_cmd::cargo::cargo_bin!("windlass"));
    watch.args(["watch", "shared", "--output", "json", "--server", &staying.url]).env_remove("WINDLASS_STATE");
    let watch = watch.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    dying.kill();
    ask(&["approve", "shared", "ask"], &staying.url);
    let output = watch.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["status"]["result"], "succeeded");

    // What the one that lives told is whole, and begins with what the other had told, under the same numbers.
    let log = ask(&["log", "shared"], &staying.url);
    let codes: Vec<&str> =
        log["entries"].as_array().unwrap().iter().map(|entry| entry["code"].as_str().unwrap()).collect();
    let alive = if bert_stays { &mut at_bert } else { &mut at_anna };
    whole.extend(told(alive, &job, codes.len() - whole.len()).await);
    assert_eq!(whole.iter().map(|(_, code)| code.as_str()).collect::<Vec<_>>(), codes);
    let mut ids: Vec<&String> = whole.iter().map(|(id, _)| id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), codes.len());
}
