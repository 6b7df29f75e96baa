//! Each operation, what it answers and what it refuses.

use std::collections::BTreeSet;
use std::sync::Arc;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use windlass_api::route::ROUTES;
use windlass_store::Store;

use crate::stand::{Stand, answer, config, json_body};

#[tokio::test]
async fn a_job_is_submitted_followed_and_read_in_every_way() {
    let stand = Stand::new().await;
    let id = stand.submit("nightly", json!({ "steps": 3, "hold": true, "large": true })).await;
    let held = stand.until(&id, |job| job["counts"]["running"] == 1 && job["counts"]["succeeded"] == 2).await;
    assert_eq!(held["state"], "running");
    assert!(held["commands"].as_array().unwrap().contains(&json!("pause")));
    let (_, tasks) = stand.get("/jobs/nightly/tasks?state=running").await;
    assert_eq!(tasks["matching"], 1);
    let task = &tasks["tasks"][0];
    assert_eq!(task["resource"], "00002");
    assert!(task["worker"].is_string());
    let (_, detail) = stand.get(&format!("/jobs/{id}/tasks/{}", task["id"].as_str().unwrap())).await;
    assert_eq!(detail["checkpoint"], json!({ "at": "gate" }), "{detail}");
    assert_eq!(detail["ledger"][0]["state"], "intended");
    assert_eq!(detail["dependencies"][0]["required"], true);
    stand.gate.send_replace(true);
    let job = stand.rest(&id).await;
    assert_eq!((&job["state"], &job["result"]), (&json!("completed"), &json!("succeeded")));
    assert_eq!(job["counts"]["succeeded"], 3);
    let (_, detail) = stand.get(&format!("/jobs/{id}/tasks/00002")).await;
    assert!(detail["output"]["stored"]["size"].as_u64().unwrap() > 50_000, "{detail}");
    let (_, output) = stand.get(&format!("/jobs/{id}/tasks/00002/output")).await;
    assert_eq!(output["said"].as_str().unwrap().len(), 50_000);
    let (_, small) = stand.get(&format!("/jobs/{id}/tasks/00000/output")).await;
    assert_eq!(small, json!({ "said": "done" }));
    let (_, graph) = stand.get(&format!("/jobs/{id}/graph")).await;
    assert_eq!((graph["nodes"].as_array().unwrap().len(), graph["edges"].as_array().unwrap().len()), (3, 2));
    let (_, log) = stand.get(&format!("/jobs/{id}/log")).await;
    let numbers: Vec<u64> = log["entries"].as_array().unwrap().iter().map(|one| one["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=job["last_log"].as_u64().unwrap()).collect::<Vec<_>>());
    let (_, tail) = stand.get(&format!("/jobs/{id}/log?tail=1")).await;
    assert_eq!(tail["entries"][0]["n"], job["last_log"]);
    let (_, none) = stand.get(&format!("/jobs/{id}/log?level=error")).await;
    assert_eq!(none["entries"], json!([]));
    let (_, report) = stand.get(&format!("/jobs/{id}/report")).await;
    assert_eq!((&report["summary"]["ended"], &report["effects"]["step"]["made"]), (&json!(3), &json!(1)));
    let (_, why) = stand.get(&format!("/jobs/{id}/why")).await;
    assert_eq!(why["matching"], 0);
    let (_, whoami) = stand.get("/api/v1/whoami").await;
    assert_eq!(whoami, json!({ "name": "local", "role": "admin", "by": "loopback" }));
    let (_, kinds) = stand.get("/api/v1/kinds").await;
    assert_eq!(kinds["kinds"][0]["task_types"], json!(["tiny.step"]));
    let (_, kind) = stand.get("/api/v1/kinds/tiny").await;
    assert!(kind["schema"]["properties"].is_object());
    let (_, workers) = stand.get("/api/v1/workers").await;
    assert_eq!(workers["workers"].as_array().unwrap().len(), 1, "{workers}");
    for path in ["/api/v1/shared", "/api/v1/schedules", "/api/v1/audit"] {
        assert_eq!(stand.get(path).await.0, StatusCode::OK);
    }
    let (status, done) = stand.command(&id, json!({ "command": "undo" })).await;
    assert_eq!((status, &done["command"]), (StatusCode::OK, &json!("undo")), "{done}");
    assert_eq!(stand.rest(&id).await["state"], "finished");
}

#[tokio::test]
async fn commands_change_jobs_and_what_does_not_fit_is_refused() {
    let stand = Stand::new().await;
    let id = stand.submit("a", json!({ "steps": 2, "hold": true })).await;
    stand.until(&id, |job| job["counts"]["running"] == 1 && job["counts"]["succeeded"] == 1).await;
    let (status, answer) = stand.command(&id, json!({ "command": "pause", "for": "1h" })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert!(answer["resume_at"].is_string());
    let paused = stand.until(&id, |job| job["state"] == "paused").await;
    assert_eq!(paused["paused"]["by"], "person");
    assert!(paused["waiting_on"][0].as_str().unwrap().contains("pause"), "{paused}");
    let (status, problem) = stand.command(&id, json!({ "command": "confirm" })).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("refused")));
    let (status, problem) = stand.command(&id, json!({ "command": "explode" })).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    let (status, problem) = stand.command(&id, json!({ "command": "pause", "for": "soon" })).await;
    assert_eq!((status, &problem["faults"][0]["pointer"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("/for")));
    assert_eq!(stand.command(&id, json!({ "command": "resume" })).await.0, StatusCode::OK);
    assert_eq!(stand.command(&id, json!({ "command": "cancel" })).await.0, StatusCode::OK);
    assert_eq!(stand.rest(&id).await["result"], "cancelled");
    assert_eq!(stand.command(&id, json!({ "command": "confirm" })).await.0, StatusCode::OK);
    let (status, problem) = stand.command("nobody", json!({ "command": "resume" })).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("no_such_job")));
    // Each change is in the audit list with its outcome.
    let (_, audit) = stand.get(&format!("/api/v1/audit?job={id}")).await;
    let told: Vec<(String, String)> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|one| (one["what"].as_str().unwrap().to_owned(), one["outcome"].as_str().unwrap().to_owned()))
        .collect();
    let pair = |what: &str, outcome: &str| (what.to_owned(), outcome.to_owned());
    assert_eq!(
        told,
        [
            pair("job.submit", "done"),
            pair("job.pause", "done"),
            pair("job.confirm", "refused"),
            pair("job.resume", "done"),
            pair("job.cancel", "done"),
            pair("job.confirm", "done"),
        ]
    );
}

#[tokio::test]
async fn faults_of_a_submission_come_all_at_once_with_their_places_and_nothing_is_stored() {
    let stand = Stand::new().await;
    let pointers = |problem: &Value| -> Vec<String> {
        let faults = problem["faults"].as_array().unwrap();
        faults.iter().map(|fault| fault["pointer"].as_str().unwrap().to_owned()).collect()
    };
    let body = json!({ "kind": "tiny", "name": " a", "spec": 5, "deadline": "soon", "labels": { "a": "\u{7}" } });
    let (status, problem) = stand.post("/jobs", &body).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(pointers(&problem), ["/name", "/spec", "/labels/a", "/deadline"]);
    let (status, problem) = stand.post("/jobs", &json!({ "kind": "tiny", "name": "a", "spec": {} })).await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_spec")));
    assert_eq!(pointers(&problem), ["/spec/steps"]);
    let (_, problem) = stand.post("/jobs", &json!({ "kind": "huge", "name": "a", "spec": {} })).await;
    assert_eq!(pointers(&problem), ["/kind"]);
    let (_, problem) =
        stand.post("/jobs", &json!({ "kind": "tiny", "name": "a", "spec": {}, "labels": { "x": 5 } })).await;
    assert_eq!(pointers(&problem), ["/labels/x"], "{problem}");
    let (_, problem) = stand.post("/jobs", &json!({ "kind": "tiny", "name": "a", "spec": {}, "prio": 5 })).await;
    assert!(problem["detail"].as_str().unwrap().contains("prio"), "{problem}");
    let (status, problem) = answer(
        stand.request(Method::POST, "/jobs").header("content-type", "application/json").body("{\"kind\":\n\"tiny\",,}"),
    )
    .await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("malformed_json")));
    assert_eq!(problem["faults"][0]["line"], 2);
    let (status, _) =
        answer(stand.request(Method::POST, "/jobs").header("content-type", "text/plain").body("{}")).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let (status, _) = answer(stand.request(Method::DELETE, "/jobs")).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    let (status, problem) = stand.get("/api/v2/jobs").await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("no_such_path")));
    for path in [
        "/jobs?limit=x",
        "/jobs?sort=up",
        "/jobs?state=odd",
        "/jobs?cursor=x",
        "/jobs/x/tasks?cursor=x",
        "/jobs?wait=x",
    ] {
        let (status, problem) = stand.get(path).await;
        assert!(matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND), "{path} {problem}");
    }
    let (_, list) = stand.get("/jobs").await;
    assert_eq!(list["jobs"], json!([]));
}

#[tokio::test]
async fn a_preview_changes_nothing() {
    let stand = Stand::new().await;
    let (status, plan) = stand.post("/plan", &json!({ "kind": "tiny", "name": "a", "spec": { "steps": 5 } })).await;
    assert_eq!(status, StatusCode::OK, "{plan}");
    assert_eq!((&plan["description"], &plan["by_type"][0]["tasks"]), (&json!("5 steps"), &json!(5)));
    assert_eq!(plan["by_type"][0]["size"]["total_items"], 50);
    assert_eq!(plan["would_run"].as_array().unwrap().len(), 5);
    assert_eq!(stand.get("/jobs").await.1["jobs"], json!([]));
    let (status, _) = stand.post("/plan", &json!({ "kind": "tiny", "name": "a", "spec": {} })).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn lists_are_filtered_and_their_pages_stay_put_while_jobs_are_added() {
    let stand = Stand::new().await;
    let mut expected = Vec::new();
    for n in 0..7 {
        let body = json!({
            "kind": "tiny", "name": format!("job-{n}"), "spec": { "steps": 1 },
            "labels": { "team": if n % 2 == 0 { "even" } else { "odd" } },
        });
        let (_, answer) = stand.post("/jobs", &body).await;
        expected.insert(0, answer["id"].as_str().unwrap().to_owned());
        stand.rest(&expected[0]).await;
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let (_, list) = stand.get(&format!("/jobs?limit=3&cursor={cursor}")).await;
        seen.extend(list["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        // A job that comes meanwhile does not shift the pages.
        stand.submit("late", json!({ "steps": 1 })).await;
        match list["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(seen, expected);
    let count = async |query: &str| stand.get(&format!("/jobs?{query}")).await.1["jobs"].as_array().unwrap().len();
    assert_eq!(count("label=team=even").await, 4);
    assert_eq!(count("label=team").await, 7);
    assert_eq!(count("name=job-3").await, 1);
    assert_eq!(count("text=OB-3").await, 1);
    assert_eq!(count("kind=other").await, 0);
    assert_eq!(count("state=paused").await, 0);
    assert_eq!(count("state=rest&text=job-").await, 7);
    let (_, list) = stand.get("/jobs?text=job-&state=paused").await;
    assert_eq!(list["by_state"]["completed"], 7);

    let id = stand.submit("wide", json!({ "steps": 25, "wide": true, "hold": true })).await;
    stand.until(&id, |job| job["counts"]["succeeded"] == 24).await;
    let mut seen = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let (_, list) = stand.get(&format!("/jobs/{id}/tasks?limit=10&cursor={cursor}")).await;
        assert_eq!((&list["matching"], &list["types"][0]["counts"]["succeeded"]), (&json!(25), &json!(24)));
        for task in list["tasks"].as_array().unwrap() {
            assert!(seen.insert(task["id"].as_str().unwrap().to_owned()));
        }
        match list["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(seen.len(), 25);
    stand.gate.send_replace(true);
    stand.rest(&id).await;
}

#[tokio::test]
async fn why_says_what_failed_and_what_waits() {
    let stand = Stand::new().await;
    let id = stand.submit("bad", json!({ "steps": 3, "fail": true })).await;
    let job = stand.rest(&id).await;
    assert_ne!(job["result"], "succeeded");
    let (_, why) = stand.get(&format!("/jobs/{id}/why")).await;
    assert_eq!(why["tasks"][0]["failure"]["code"], "step_failed", "{why}");
    assert_eq!(why["tasks"][0]["failure"]["hint"], "mend it");
    let (_, report) = stand.get(&format!("/jobs/{id}/report")).await;
    assert_eq!(report["unsuccessful"][0]["outcome"], "failed");
    let (_, list) = stand.get(&format!("/jobs/{id}/tasks?state=unsuccessful")).await;
    assert_eq!(list["matching"], 1);
    assert_eq!(stand.command(&id, json!({ "command": "retry" })).await.0, StatusCode::OK);
    stand.rest(&id).await;
}

#[tokio::test]
async fn the_same_key_changes_once_also_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = || -> Arc<dyn Store> {
        let options = windlass_store_embedded::Options::new(windlass_clock::SystemClock::real());
        Arc::new(windlass_store_embedded::EmbeddedStore::open(dir.path(), options).unwrap())
    };
    let stand = Stand::on(open(), config()).await;
    let body = json!({ "kind": "tiny", "name": "once", "spec": { "steps": 2, "hold": true } });
    let submit = |stand: &Stand, key: &str, body: &Value| {
        answer(json_body(stand.request(Method::POST, "/jobs"), body).header("idempotency-key", key.to_owned()))
    };
    // What was refused has not used its key up.
    let wrong = json!({ "kind": "tiny", "name": "once", "spec": {} });
    assert_eq!(submit(&stand, "k1", &wrong).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let many = futures::future::join_all((0..8).map(|_| submit(&stand, "k1", &body))).await;
    let ids: BTreeSet<String> = many.iter().map(|(_, answer)| answer["id"].to_string()).collect();
    assert!(many.iter().all(|(status, _)| *status == StatusCode::CREATED), "{many:?}");
    assert_eq!(ids.len(), 1);
    let other = json!({ "kind": "tiny", "name": "other", "spec": { "steps": 1 } });
    let (status, problem) = submit(&stand, "k1", &other).await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("idempotency_key_reused")));
    assert_eq!(submit(&stand, "not ok", &body).await.0, StatusCode::BAD_REQUEST);
    let id = many[0].1["id"].as_str().unwrap().to_owned();
    stand.until(&id, |job| job["counts"]["running"] == 1 && job["counts"]["succeeded"] == 1).await;
    let command = |stand: &Stand, key: &str, body: Value| {
        let request = stand.request(Method::POST, &format!("/jobs/{id}/commands"));
        answer(json_body(request, &body).header("idempotency-key", key.to_owned()))
    };
    let pause = json!({ "command": "pause" });
    let first = command(&stand, "k2", pause.clone()).await;
    assert_eq!(first.0, StatusCode::OK, "{first:?}");
    let refused = command(&stand, "k3", json!({ "command": "confirm" })).await;
    assert_eq!(refused.0, StatusCode::CONFLICT);
    stand.until(&id, |job| job["state"] == "paused").await;
    assert_eq!(stand.command(&id, json!({ "command": "resume" })).await.0, StatusCode::OK);
    // The same again changes nothing: it runs on.
    assert_eq!(command(&stand, "k2", pause.clone()).await, first);
    let (store, ..) = stand.stop().await;
    drop(store);

    let stand = Stand::on(open(), config()).await;
    assert_eq!(submit(&stand, "k1", &body).await.1["id"], json!(id));
    assert_eq!(command(&stand, "k2", pause).await, first);
    let again = command(&stand, "k3", json!({ "command": "confirm" })).await;
    assert_eq!((again.0, &again.1["code"]), (refused.0, &refused.1["code"]));
    assert_eq!(stand.get("/jobs").await.1["jobs"].as_array().unwrap().len(), 1);
    stand.until(&id, |job| job["state"] == "running").await;
    stand.gate.send_replace(true);
    assert_eq!(stand.rest(&id).await["result"], "succeeded");
    stand.stop().await;
}

#[tokio::test]
async fn waiting_ends_with_what_was_waited_for_or_with_the_time() {
    let stand = Stand::new().await;
    let id = stand.submit("held", json!({ "steps": 1, "hold": true })).await;
    let held = stand.until(&id, |job| job["counts"]["running"] == 1).await;
    let (status, job) = stand.get(&format!("/jobs/{id}?wait=50ms")).await;
    assert_eq!((status, &job["state"]), (StatusCode::OK, &json!("running")));
    let last = held["last_log"].as_u64().unwrap();
    let (_, none) = stand.get(&format!("/jobs/{id}/log?after={last}&wait=20ms")).await;
    assert_eq!(none["entries"], json!([]));
    let opened = async { stand.gate.send_replace(true) };
    let path = format!("/jobs/{id}/log?after={last}&wait=60s");
    let waited = stand.get(&path);
    let (log, job, _) = tokio::join!(waited, stand.rest(&id), opened);
    assert_eq!(log.1["entries"][0]["n"], last + 1);
    assert_eq!(job["state"], "completed");
}

#[tokio::test]
async fn the_document_lists_every_route_and_each_is_mounted() {
    let stand = Stand::new().await;
    let (_, document) = stand.get("/api/v1/openapi.json").await;
    let id = stand.submit("a", json!({ "steps": 1 })).await;
    stand.rest(&id).await;
    let nightly = json!({ "cron": "0 3 * * *" });
    let body = json!({ "kind": "tiny", "name": "nightly", "spec": { "steps": 1 }, "schedule": nightly });
    assert_eq!(stand.post("/jobs", &body).await.0, StatusCode::CREATED);
    for route in ROUTES {
        let path = format!("/api/v1{}", route.path);
        assert!(document["paths"][&path][route.method.as_str()].is_object(), "{path}");
        if route.method.as_str() == "post" {
            // Mounted: it complains about the body, not about the path. Where no document is wanted, this is a row.
            let fine = if route.media.is_empty() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
            let path = path.replace("{job}", &id).replace("{schedule}", "nightly");
            let (status, problem) = stand.post(&path, &json!(5)).await;
            assert_eq!(status, fine, "{path} {problem}");
            continue;
        }
        let path = path.replace("{job}", &id).replace("{task}", "00000").replace("{kind}", "tiny");
        let path = path.replace("{schedule}", "nightly");
        let response = stand.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn health_readiness_and_metrics_are_served_and_the_metrics_are_well_formed() {
    let stand = Stand::new().await;
    let id = stand.submit("a", json!({ "steps": 1 })).await;
    stand.rest(&id).await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(stand.get(path).await.0, StatusCode::OK);
    }
    let response = stand.request(Method::GET, "/metrics").send().await.unwrap();
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = response.text().await.unwrap();
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("windlass_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    for wanted in [
        "windlass_jobs{state=\"completed\",kind=\"tiny\"} 1",
        "windlass_workers 1",
        "windlass_store_commits_total{outcome=\"done\"}",
        "windlass_store_commit_seconds_bucket",
        "windlass_http_requests_total{method=\"POST\",route=\"/api/v1/jobs\",status=\"201\"} 1",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
}
