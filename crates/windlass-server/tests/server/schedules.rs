//! Schedules, what is held, and who works.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use windlass_clock::{SystemClock, deadline};
use windlass_store::Store;

use crate::pages::{form, page};
use crate::stand::{PATIENCE, Stand, access_file, answer, config, json_body};

const SCHEDULES: &str = "/api/v1/schedules";

fn nightly(name: &str, spec: &Value, overlap: &str) -> Value {
    let schedule = json!({ "cron": "0 3 1 1 *", "time_zone": "Europe/Berlin", "overlap": overlap });
    json!({ "kind": "tiny", "name": name, "spec": spec, "schedule": schedule })
}

/// A change with an idempotency key.
async fn keyed(stand: &Stand, path: &str, key: &str, body: &Value) -> (StatusCode, Value) {
    answer(json_body(stand.request(Method::POST, path), body).header("idempotency-key", key)).await
}

async fn command(stand: &Stand, schedule: &str, command: &str) -> Value {
    let (status, answer) =
        stand.post(&format!("{SCHEDULES}/{schedule}/commands"), &json!({ "command": command })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

/// What `look` finds, looked for again after each change of the store.
async fn arrival<T>(stand: &Stand, what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let come = async {
        loop {
            let revision = stand.store.revision().await.unwrap();
            let mut changes = stand.store.watch("", revision).await.unwrap();
            if let Some(found) = look().await {
                return found;
            }
            // One that fell behind: looked for afresh.
            drop(changes.next().await);
        }
    };
    deadline(&*stand.clock, PATIENCE, come).await.unwrap_or_else(|_| panic!("there is no {what}"))
}

#[tokio::test]
async fn a_schedule_is_stored_once_for_each_key_and_steered_also_by_another_server() {
    let dir = tempfile::tempdir().unwrap();
    let open = || -> Arc<dyn Store> {
        let options = windlass_store_embedded::Options::new(SystemClock::real());
        Arc::new(windlass_store_embedded::EmbeddedStore::open(dir.path(), options).unwrap())
    };
    let stand = Stand::on(open(), config()).await;
    let body = nightly("nightly", &json!({ "steps": 1 }), "skip");
    let many = join_all((0..6).map(|_| keyed(&stand, "/jobs", "s1", &body))).await;
    assert!(many.iter().all(|(status, _)| *status == StatusCode::CREATED), "{many:?}");
    let ids: BTreeSet<&str> = many.iter().map(|(_, answer)| answer["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1);
    let (id, submitted) = (ids.first().unwrap().to_string(), many[0].1.clone());
    assert_eq!(submitted, json!({ "id": id, "location": format!("{SCHEDULES}/{id}"), "scheduled": true }));
    let (status, problem) = stand.post("/jobs", &body).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("name_taken")));

    let (_, list) = stand.get(SCHEDULES).await;
    let (_, one) = stand.get(&format!("{SCHEDULES}/nightly")).await;
    assert_eq!(list["schedules"], json!([one]));
    assert_eq!((&one["id"], &one["kind"], &one["paused"]), (&json!(id), &json!("tiny"), &json!(false)));
    assert!(one["next"].as_str().unwrap().ends_with("-01-01T02:00:00Z"), "{one}");
    let schedule = &one["schedule"];
    assert_eq!((&schedule["overlap"], &schedule["misfire"]), (&json!("skip"), &json!("run-once")), "{one}");

    assert_eq!(command(&stand, "nightly", "pause").await["paused"], true);
    let path = format!("{SCHEDULES}/nightly/commands");
    let trigger = json!({ "command": "trigger" });
    let first = keyed(&stand, &path, "t1", &trigger).await;
    assert_eq!((first.0, &first.1["triggered"]), (StatusCode::OK, &json!("began")), "{first:?}");
    assert_eq!(keyed(&stand, &path, "t1", &trigger).await, first);
    let job = first.1["job"].as_str().unwrap().to_owned();
    let done = stand.rest(&job).await;
    assert_eq!((&done["result"], &done["name"]), (&json!("succeeded"), &json!("nightly")));
    drop(stand.stop().await);

    let stand = Stand::on(open(), config()).await;
    assert_eq!(keyed(&stand, "/jobs", "s1", &body).await.1, submitted);
    assert_eq!(keyed(&stand, &path, "t1", &trigger).await, first);
    let (_, one) = stand.get(&format!("{SCHEDULES}/{id}")).await;
    assert_eq!((&one["paused"], &one["runs"]), (&json!(true), &json!(1)));
    let run = &one["history"][0];
    assert_eq!((&run["job"], &run["by"], &run["result"]), (&json!(job), &json!("person"), &json!("succeeded")));
    assert_eq!(command(&stand, &id, "resume").await["paused"], false);
    let delete = json!({ "command": "delete" });
    let gone = keyed(&stand, &path, "d1", &delete).await;
    assert_eq!(gone.0, StatusCode::OK, "{gone:?}");
    assert_eq!(keyed(&stand, &path, "d1", &delete).await, gone);
    // The key has led to what is gone: it does not come back.
    assert_eq!(keyed(&stand, "/jobs", "s1", &body).await.1, submitted);
    let (status, problem) = stand.get(&format!("{SCHEDULES}/{id}")).await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("no_such_schedule")));
    assert_eq!(stand.get(&format!("/jobs/{job}")).await.0, StatusCode::OK);
    let (_, audit) = stand.get("/api/v1/audit").await;
    let done: Vec<&str> = audit["entries"].as_array().unwrap().iter().filter_map(|e| e["what"].as_str()).collect();
    let told = ["schedule.delete", "schedule.resume", "schedule.trigger", "schedule.pause", "schedule.create"];
    assert!(told.iter().all(|what| done.contains(what)), "{done:?}");
    stand.stop().await;
}

#[tokio::test]
async fn faults_of_a_schedule_are_named_and_nothing_is_stored() {
    let stand = Stand::new().await;
    let submit = |schedule: Value| {
        let body = json!({ "kind": "tiny", "name": "n", "spec": { "steps": 1 }, "schedule": schedule });
        let stand = &stand;
        async move { stand.post("/jobs", &body).await }
    };
    let (status, problem) = submit(json!({ "every_ms": 5, "catch_up": 0 })).await;
    assert_eq!((status, &problem["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_job")));
    let pointers: BTreeSet<&str> =
        problem["faults"].as_array().unwrap().iter().filter_map(|fault| fault["pointer"].as_str()).collect();
    assert_eq!(pointers, BTreeSet::from(["/schedule/catch_up", "/schedule/every_ms"]), "{problem}");
    let (status, problem) = submit(json!({ "every_ms": 5000, "overlap": "replace" })).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(problem.to_string().contains("cancel-running"), "{problem}");
    // What a run would be refused for is refused now.
    let mut body = nightly("n", &json!({}), "skip");
    assert_eq!(stand.post("/jobs", &body).await.1["code"], "invalid_spec");
    body["spec"] = json!({ "steps": 2 });
    let (status, plan) = stand.post("/plan", &body).await;
    assert_eq!((status, &plan["description"]), (StatusCode::OK, &json!("2 steps")));
    assert_eq!(stand.get(SCHEDULES).await.1["schedules"], json!([]));
    for command in ["pause", "explode"] {
        let (status, _) = stand.post(&format!("{SCHEDULES}/nothing/commands"), &json!({ "command": command })).await;
        assert!(status.is_client_error(), "{command}");
    }
}

#[tokio::test]
async fn a_schedule_runs_by_itself_and_its_overlap_counts() {
    let stand = Stand::new().await;
    let body = nightly("by-hand", &json!({ "steps": 1, "hold": true }), "skip");
    assert_eq!(stand.post("/jobs", &body).await.0, StatusCode::CREATED);
    let began = command(&stand, "by-hand", "trigger").await;
    let again = command(&stand, "by-hand", "trigger").await;
    assert_eq!((&again["triggered"], &again["job"]), (&json!("left-out"), &began["job"]));
    let (_, one) = stand.get(&format!("{SCHEDULES}/by-hand")).await;
    assert!(one["history"][0]["note"].is_string() && one["history"][0]["job"].is_null(), "{one}");
    assert!(one["history"][1]["state"].is_null(), "{one}");
    stand.gate.send_replace(true);
    stand.rest(began["job"].as_str().unwrap()).await;

    let mut body = nightly("often", &json!({ "steps": 1 }), "skip");
    body["schedule"] = json!({ "every_ms": 1000 });
    assert_eq!(stand.post("/jobs", &body).await.0, StatusCode::CREATED);
    let job = arrival(&stand, "job of often", async || {
        let (_, jobs) = stand.get("/jobs?name=often").await;
        jobs["jobs"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    command(&stand, "often", "pause").await;
    assert_eq!(stand.rest(&job).await["result"], "succeeded");
    stand.stop().await;
}

#[tokio::test]
async fn the_page_of_schedules_shows_runs_asks_back_and_takes_commands() {
    let stand = Stand::new().await;
    let text = nightly("by-form", &json!({ "steps": 1 }), "queue").to_string();
    let pairs = [("text", text.as_str()), ("do", "submit"), ("key", "k")];
    let first = form(&stand, "/submit", &pairs, None).await;
    let place = first.headers()["location"].to_str().unwrap().to_owned();
    let id = place.strip_prefix("/schedules#schedule-").expect("the page of schedules").to_owned();
    assert_eq!(form(&stand, "/submit", &pairs, None).await.headers()["location"], *place);
    let give = async |command: &str| {
        let (status, text) = page(&stand, &format!("/schedules/{id}/ask/{command}")).await;
        assert!(status == StatusCode::OK && text.contains(&format!("/schedules/{id}/command")), "{text}");
        let response =
            form(&stand, &format!("/schedules/{id}/command"), &[("command", command), ("key", command)], None).await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        page(&stand, "/schedules").await.1
    };
    let text = give("trigger").await;
    let (_, jobs) = stand.get("/jobs?name=by-form").await;
    let job = jobs["jobs"][0]["id"].as_str().unwrap();
    assert!(text.contains(&format!("/jobs/{job}")) && text.contains("overlap: queue"), "{text}");
    stand.rest(job).await;
    assert!(page(&stand, "/schedules").await.1.contains("completed · succeeded"));
    assert!(give("pause").await.contains("/ask/resume"));
    assert!(give("resume").await.contains("/ask/pause"));
    assert!(give("delete").await.contains("Nothing runs by itself."));
    let (status, _) = page(&stand, &format!("/schedules/{id}/ask/pause")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let response = form(&stand, &format!("/schedules/{id}/command"), &[("command", "pause")], None).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn viewers_read_schedules_operators_steer_them_and_admins_delete_them() {
    let dir = tempfile::tempdir().unwrap();
    let (path, [viewer, operator, admin]) = access_file(dir.path());
    let mut config = config();
    config.access_file = Some(path);
    let mut stand = Stand::on(Arc::new(windlass_store::memory::MemoryStore::new(SystemClock::real())), config).await;
    stand.token = Some(operator);
    assert_eq!(stand.post("/jobs", &nightly("n", &json!({ "steps": 1 }), "skip")).await.0, StatusCode::CREATED);
    let commands = format!("{SCHEDULES}/n/commands");
    assert_eq!(stand.post(&commands, &json!({ "command": "pause" })).await.0, StatusCode::OK);
    assert_eq!(stand.post(&commands, &json!({ "command": "delete" })).await.0, StatusCode::FORBIDDEN);
    stand.token = Some(viewer);
    assert_eq!(stand.get(&format!("{SCHEDULES}/n")).await.1["paused"], true);
    assert_eq!(stand.post(&commands, &json!({ "command": "resume" })).await.0, StatusCode::FORBIDDEN);
    stand.token = Some(admin);
    assert_eq!(stand.post(&commands, &json!({ "command": "delete" })).await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_jobs_hold_and_wait_for_and_who_works_is_listed() {
    let stand = Stand::new().await;
    let spec = json!({ "steps": 1, "hold": true, "pool": "copies", "alone": "ladder", "shared": "rope" });
    let first = stand.submit("first", spec).await;
    stand.until(&first, |job| job["counts"]["running"] == 1).await;
    let second = stand.submit("second", json!({ "steps": 1, "pool": "copies" })).await;
    let of = |list: &Value, sort: &str| {
        let all = list["resources"].as_array().unwrap().clone();
        all.into_iter().find(|resource| resource["sort"] == sort).unwrap_or_default()
    };
    let list = arrival(&stand, "job that waits for a place", async || {
        let (_, list) = stand.get("/api/v1/shared").await;
        of(&list, "pool")["waiting"].is_array().then_some(list)
    })
    .await;
    let pool = of(&list, "pool");
    assert_eq!((&pool["key"], &pool["size"]), (&json!("copies"), &json!(1)), "{pool}");
    let holder = &pool["holders"][0];
    assert_eq!((&holder["job"], &holder["name"], &holder["slot"]), (&json!(first), &json!("first"), &json!(0)));
    assert!(holder["task"].is_string() && holder["since"].is_string(), "{pool}");
    assert_eq!((&pool["waiting"][0]["job"], &pool["waiting"][0]["name"]), (&json!(second), &json!("second")));
    let name = of(&list, "exclusive");
    assert_eq!((&name["key"], &name["holders"][0]["job"]), (&json!("ladder"), &json!(first)), "{list}");
    let rope = of(&list, "shared");
    assert_eq!((&rope["key"], &rope["state"]), (&json!("rope"), &json!("creating")), "{list}");
    assert_eq!((&rope["holders"][0]["job"], &rope["owner"]["job"]), (&json!(first), &json!(first)), "{rope}");

    let (_, workers) = stand.get("/api/v1/workers").await;
    let worker = &workers["workers"][0];
    assert_eq!(worker["takes_up"], true, "{worker}");
    assert!(worker["task_types"].as_array().unwrap().contains(&json!("tiny.step")), "{worker}");
    assert!(worker["places"].as_u64().unwrap() > 0 && worker["host"].is_string() && worker["pid"].is_u64());
    let claims: BTreeSet<&str> =
        worker["claims"].as_array().unwrap().iter().filter_map(|claim| claim["name"].as_str()).collect();
    assert_eq!(claims, BTreeSet::from(["first", "second"]));
    let (_, text) = page(&stand, "/shared").await;
    for part in ["copies", "ladder", "rope", "1 job waiting", &second, "made by"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(page(&stand, "/workers").await.1.contains(&first));
    stand.gate.send_replace(true);
    for job in [&first, &second] {
        assert_eq!(stand.rest(job).await["result"], "succeeded");
    }
    let (_, list) = stand.get("/api/v1/shared").await;
    assert_eq!((of(&list, "pool"), of(&list, "shared")["state"].clone()), (Value::Null, json!("ready")), "{list}");
    stand.stop().await;
}
