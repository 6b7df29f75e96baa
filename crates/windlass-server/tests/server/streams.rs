//! Event streams: nothing lost, nothing repeated, over restarts.

use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::json;
use windlass_clock::SystemClock;
use windlass_store::Store;
use windlass_store::memory::MemoryStore;

use crate::stand::{Stand, Stream, Told, answer, config};

fn number(told: &Told) -> u64 {
    let n = told.data["entry"]["n"].as_u64().unwrap();
    assert!(told.id.is_some());
    n
}

fn ends(told: &Told) -> bool {
    told.data["entry"]["code"] == "job.completed"
}

#[tokio::test]
async fn a_job_is_followed_over_a_restart_without_loss_or_repeat() {
    let stand = Stand::new().await;
    let id = stand.submit("a", json!({ "steps": 30, "hold": true })).await;
    let path = format!("/jobs/{id}/events");
    let mut stream = Stream::open(&stand, &path, None).await;
    let mut seen: Vec<u64> = Vec::new();
    for told in stream.logs(|told| number(told) == 20).await {
        assert_eq!(told.id.as_deref(), Some(number(&told).to_string().as_str()));
        seen.push(number(&told));
    }
    stand.until(&id, |job| job["counts"]["succeeded"] == 29).await;
    let stand = stand.restart(config()).await;
    // What was on its way comes out, then the server says good-bye.
    let mut last = Told::default();
    while let Some(told) = stream.next().await {
        if told.event == "log" {
            seen.push(number(&told));
        }
        last = told;
    }
    assert_eq!(last.event, "bye");
    let resumed = seen.last().unwrap().to_string();
    let mut stream = Stream::open(&stand, &path, Some(&resumed)).await;
    stand.gate.send_replace(true);
    seen.extend(stream.logs(ends).await.iter().map(number));
    let job = stand.rest(&id).await;
    assert_eq!(seen, (1..=job["last_log"].as_u64().unwrap()).collect::<Vec<_>>());
    // The status that follows says how it ended.
    loop {
        let told = stream.next().await.unwrap();
        if told.event == "status" && told.data["status"]["state"] == "completed" {
            assert_eq!(told.id, None);
            break;
        }
    }
    let (status, _) = answer(stand.request(reqwest::Method::GET, &path).header("last-event-id", "x")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    // Whoever comes from a state that was replaced by an older one begins anew.
    let mut stream = Stream::open(&stand, &path, Some("99999")).await;
    assert_eq!(stream.next().await.unwrap().event, "reset");
    assert_eq!(number(&stream.next().await.unwrap()), 1);
}

#[tokio::test]
async fn all_jobs_are_followed_over_a_killed_server_without_loss_or_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let open = || -> Arc<dyn Store> {
        let options = windlass_store_embedded::Options::new(SystemClock::real());
        Arc::new(windlass_store_embedded::EmbeddedStore::open(dir.path(), options).unwrap())
    };
    let stand = Stand::on(open(), config()).await;
    let before = stand.submit("before", json!({ "steps": 1 })).await;
    stand.rest(&before).await;
    let mut stream = Stream::open(&stand, "/api/v1/events", None).await;
    let mut jobs = Vec::new();
    for n in 0..3 {
        jobs.push(stand.submit(&format!("job-{n}"), json!({ "steps": 10 })).await);
    }
    let mut seen: Vec<Told> = Vec::new();
    for _ in 0..10 {
        seen.extend(stream.logs(|_| true).await);
    }
    for job in &jobs {
        stand.rest(job).await;
    }
    // The stream is cut off in the middle, and the server's memory goes.
    drop(stream);
    let (store, ..) = stand.stop().await;
    drop(store);
    let stand = Stand::on(open(), config()).await;
    jobs.push(stand.submit("after", json!({ "steps": 10 })).await);
    let resumed = seen.last().unwrap().id.clone();
    let mut stream = Stream::open(&stand, "/api/v1/events", resumed.as_deref()).await;
    let mut left = jobs.clone();
    while !left.is_empty() {
        let told = stream.logs(|_| true).await.remove(0);
        if ends(&told) {
            left.retain(|job| told.data["job"] != json!(job));
        }
        seen.push(told);
    }
    for job in &jobs {
        let numbers: Vec<u64> = seen.iter().filter(|told| told.data["job"] == json!(job)).map(number).collect();
        let last = stand.rest(job).await["last_log"].as_u64().unwrap();
        assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
    }
    assert!(seen.iter().all(|told| told.data["job"] != json!(before)));
    let mut ids: Vec<_> = seen.iter().map(|told| told.id.clone().unwrap()).collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

#[tokio::test]
async fn two_servers_on_one_store_tell_the_same() {
    let store = MemoryStore::new(SystemClock::real());
    let (a, b) =
        tokio::join!(Stand::on(Arc::new(store.clone()), config()), Stand::on(Arc::new(store.clone()), config()));
    let id = a.submit("a", json!({ "steps": 5 })).await;
    a.rest(&id).await;
    let (status, job) = b.get(&format!("/jobs/{id}?wait=10s")).await;
    assert_eq!((status, &job["state"]), (StatusCode::OK, &json!("completed")));
    let path = format!("/jobs/{id}/events");
    let mut half = Stream::open(&a, &path, None).await.logs(|told| number(told) == 3).await;
    let last = half.last().unwrap().id.clone();
    half.extend(Stream::open(&b, &path, last.as_deref()).await.logs(ends).await);
    let whole = Stream::open(&b, &path, None).await.logs(ends).await;
    assert_eq!(half, whole);
}

#[tokio::test]
async fn streams_have_a_bound() {
    let mut config = config();
    config.limits.streams = 1;
    let stand = Stand::on(Arc::new(MemoryStore::new(SystemClock::real())), config).await;
    let stream = Stream::open(&stand, "/api/v1/events", None).await;
    let (status, problem) = stand.get("/api/v1/events").await;
    assert_eq!((status, &problem["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("too_many_streams")));
    drop(stream);
    let freed = async {
        while stand.request(reqwest::Method::GET, "/api/v1/events").send().await.unwrap().status() != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    };
    windlass_clock::deadline(&*stand.clock, crate::stand::PATIENCE, freed).await.expect("a place is freed");
}
