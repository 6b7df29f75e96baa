//! Jobs that run: each type, what it puts out, how it fails, how it is undone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::sync::Notify;
use windlass_clock::deadline;
use windlass_dag::DagConfig;
use windlass_engine::probe::{Moment, Point, Probe};
use windlass_engine::view::{self, Wait};
use windlass_engine::{Command, CommandReply, EngineConfig, JobRequest};
use windlass_model::job::{JobResult, JobState};
use windlass_store::memory::MemoryStore;
use windlass_store::read_all;

use crate::peer::Peer;
use crate::rig::{Rig, end_of, faults_of, output, request};

#[tokio::test]
async fn outputs_go_where_references_say_and_data_stays_as_it_is() {
    let rig = Rig::new();
    let (engine, job, view) = rig
        .run(json!([
            { "name": "make", "type": "exec", "with": { "argv": ["sh", "-c", "printf '{\"id\": 7}'; echo oops >&2"], "parse_json": true } },
            { "name": "say", "type": "exec", "needs": ["make"], "with": {
                "argv": ["printf", "%s|%s|%s", { "join": ["id=", { "ref": "make#/json/id" }] }, "$HOME; *", "{\"$ref\": \"make#/json\"}"] } },
            { "name": "read", "type": "exec", "needs": ["make"], "with": { "argv": ["sh", "-c", "cat; printf %s \"$ID\""],
                "stdin": { "ref": "make#/stdout" }, "env": { "ID": { "ref": "make#/json/id" } }, "changes": false } },
            { "name": "all", "type": "noop", "needs": ["make", "say"], "after": ["read"], "with": { "output": {
                "id": { "ref": "make#/json/id" }, "list": [{ "ref": "say#/exit_code" }], "data": { "$ref": "make#/json" },
                "same": { "literal": { "ref": "make#/json" } } } } },
        ]))
        .await;
    assert_eq!(view.status.result, Some(JobResult::Succeeded), "{:#?}", view.tasks);
    assert_eq!(output(&rig, &engine, job, "make").await["stderr"], "oops\n");
    assert_eq!(output(&rig, &engine, job, "say").await["stdout"], "id=7|$HOME; *|{\"$ref\": \"make#/json\"}");
    assert_eq!(output(&rig, &engine, job, "read").await["stdout"], "{\"id\": 7}7");
    assert_eq!(
        output(&rig, &engine, job, "all").await,
        json!({ "id": 7, "list": [0], "data": { "$ref": "make#/json" }, "same": { "ref": "make#/json" } })
    );
}

#[tokio::test]
async fn a_failure_stops_what_needs_it_and_nothing_else() {
    let rig = Rig::new();
    let (_engine, _, view) = rig
        .run(json!([
            { "name": "bad", "type": "exec", "with": { "argv": ["sh", "-c", "echo why >&2; exit 3"] } },
            { "name": "needs", "type": "noop", "needs": ["bad"] },
            { "name": "after", "type": "noop", "after": ["bad"] },
            { "name": "gone", "type": "exec", "with": { "argv": ["surely-no-such-command"] } },
            { "name": "again", "type": "exec", "retry": { "attempts": 5, "backoff": "10ms" }, "with": {
                "argv": ["sh", "-c", "echo x >> tries; [ $(wc -l < tries) -ge 3 ] || exit 75"], "exit": { "retry": [75] } } },
            { "name": "slow", "type": "exec", "with": { "argv": ["sh", "-c", "sleep 60 & sleep 60"], "timeout": "200ms" } },
        ]))
        .await;
    assert_eq!(view.status.state, JobState::Completed);
    assert_eq!(end_of(&view, "bad"), "failed: command_failed: \"sh\" ended with exit code 3: why");
    assert_eq!([end_of(&view, "needs"), end_of(&view, "after")], ["ignored", "succeeded"]);
    assert!(end_of(&view, "gone").starts_with("failed: no_command"), "{}", end_of(&view, "gone"));
    assert_eq!(end_of(&view, "again"), "succeeded");
    assert!(end_of(&view, "slow").starts_with("failed: timed_out"), "{}", end_of(&view, "slow"));
}

#[tokio::test]
async fn undo_steps_run_in_reverse_with_what_the_task_put_out() {
    let rig = Rig::new();
    std::fs::write(rig.path("source"), "data").unwrap();
    let log = rig.path("log");
    let note = |text: &str| json!(["sh", "-c", format!("echo {text}-$1 >> {}", log.display()), "sh", { "ref": "first#/stdout" }]);
    let (engine, job, view) = rig
        .run(json!([
            { "name": "first", "type": "exec", "with": { "argv": ["printf", "one"] },
              "undo": { "type": "exec", "with": { "argv": note("first") } } },
            { "name": "copy", "type": "copy", "needs": ["first"], "with": { "from": rig.url("source"), "to": rig.url("target") } },
            { "name": "looks", "type": "exec", "needs": ["copy"], "with": { "argv": ["true"], "changes": false } },
            { "name": "second", "type": "noop", "needs": ["first", "looks"], "undo": { "type": "exec", "with": { "argv": note("second") } } },
        ]))
        .await;
    assert_eq!(view.status.result, Some(JobResult::Succeeded), "{:#?}", view.tasks);
    assert_eq!(std::fs::read_to_string(rig.path("target")).unwrap(), "data");
    let reply = engine.command(job, Command::Undo, None).await.unwrap();
    assert!(matches!(reply, CommandReply::Done(_)), "{reply:?}");
    let view = rig.rest(&engine, job).await;
    assert_eq!(view.status.state, JobState::Finished, "{:#?}", view.tasks);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "second-one\nfirst-one\n");
    assert!(!rig.path("target").exists() && rig.path("source").exists());
}

#[tokio::test]
async fn what_has_no_undo_step_is_left_and_said() {
    let rig = Rig::new();
    let (engine, job, _) = rig.run(json!([{ "name": "a", "type": "exec", "with": { "argv": ["true"] } }])).await;
    engine.command(job, Command::Undo, None).await.unwrap();
    let view = rig.rest(&engine, job).await;
    assert_eq!(view.status.state, JobState::UndoFailed);
    assert!(end_of(&view, "undo a").contains("has no undo step"), "{}", end_of(&view, "undo a"));
}

#[tokio::test]
async fn a_copy_is_verified_replaces_nothing_unasked_and_removes_only_its_own() {
    let rig = Rig::new();
    std::fs::write(rig.path("source"), "data").unwrap();
    std::fs::write(rig.path("theirs"), "theirs").unwrap();
    let hash = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7";
    let copy = |to: &str| json!({ "from": rig.url("source"), "to": rig.url(to) });
    let with = |to: &str, name: &str, value: serde_json::Value| {
        let mut with = copy(to);
        with[name] = value;
        with
    };
    let (engine, job, view) = rig
        .run(json!([
            { "name": "there", "type": "copy", "with": copy("theirs") },
            { "name": "wrong", "type": "copy", "with": with("wrong", "sha256", json!("0".repeat(64))) },
            { "name": "right", "type": "copy", "with": with("right", "sha256", json!(hash)) },
            { "name": "changed", "type": "copy", "with": with("changed", "read_back", json!(true)) },
            { "name": "memory", "type": "copy", "with": { "from": rig.url("source"), "to": "memory:///dag-copy/x", "sha256": hash } },
            { "name": "bad", "type": "copy", "with": { "from": rig.url("source"), "to": "memory:///dag-copy/y", "sha256": "1".repeat(64) } },
            { "name": "missing", "type": "copy", "with": { "from": rig.url("nothing"), "to": rig.url("never") } },
            { "name": "back", "type": "copy", "needs": ["memory"], "with": { "from": { "ref": "memory#/to" }, "to": rig.url("back") } },
        ]))
        .await;
    assert!(end_of(&view, "there").starts_with("failed: target_exists"), "{}", end_of(&view, "there"));
    assert!(end_of(&view, "wrong").starts_with("failed: wrong_checksum"), "{}", end_of(&view, "wrong"));
    assert!(end_of(&view, "bad").starts_with("failed: wrong_checksum"), "{}", end_of(&view, "bad"));
    assert!(end_of(&view, "missing").starts_with("failed: object_not_found"), "{}", end_of(&view, "missing"));
    for name in ["right", "changed", "memory", "back"] {
        assert_eq!(end_of(&view, name), "succeeded");
    }
    assert_eq!(std::fs::read_to_string(rig.path("theirs")).unwrap(), "theirs");
    assert!(!rig.path("wrong").exists());
    assert_eq!(output(&rig, &engine, job, "right").await["sha256"], hash);
    // Somebody else's from here on.
    std::fs::write(rig.path("changed"), "somebody else's").unwrap();
    engine.command(job, Command::Undo, None).await.unwrap();
    let view = rig.rest(&engine, job).await;
    assert_eq!(view.status.state, JobState::Finished, "{:#?}", view.tasks);
    let mut left: Vec<String> = std::fs::read_dir(rig.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["changed", "source", "theirs"]);
}

#[tokio::test]
async fn requests_carry_a_key_keep_secrets_and_obey_the_server() {
    let rig = Rig::new();
    let peer = Peer::start().await;
    std::fs::write(rig.path("token"), "s3cret-token\n").unwrap();
    peer.next(&[(429, Some("0")), (503, Some("0"))]);
    let token = json!({ "join": ["Bearer ", { "file": rig.path("token") }] });
    let (engine, job, view) = rig
        .run(json!([
            { "name": "post", "type": "http", "with": { "url": peer.url("/things"), "json": { "a": { "$ref": "x#/y" } }, "headers": { "authorization": token } },
              "undo": { "type": "http", "with": { "method": "DELETE", "url": peer.url("/things") } } },
            { "name": "get", "type": "http", "needs": ["post"], "with": { "url": peer.url("/state"), "headers": { "authorization": token } } },
        ]))
        .await;
    assert_eq!(view.status.result, Some(JobResult::Succeeded), "{:#?}", view.tasks);
    assert_eq!(peer.made(), ["{\"a\":{\"$ref\":\"x#/y\"}}"]);
    assert_eq!(peer.requests().iter().filter(|request| *request == "POST /things").count(), 3);
    let got = output(&rig, &engine, job, "get").await;
    assert_eq!(got["json"], json!({ "made": 1, "token": "Bearer ***", "path": "/state" }));
    assert!(got["headers"].get("set-cookie").is_none());
    peer.next(&[(400, None)]);
    let job = engine
        .submit(request(json!([{ "name": "bad", "type": "http", "with": { "url": peer.url("/x"), "headers": { "authorization": token } } }])))
        .await
        .unwrap();
    let view = rig.rest(&engine, job).await;
    assert!(end_of(&view, "bad").ends_with("answered 400 Bad Request: told Bearer ***"), "{}", end_of(&view, "bad"));
    let everything = read_all(&rig.store, "").await.unwrap();
    let text: String = everything.iter().map(|entry| String::from_utf8_lossy(&entry.value).into_owned()).collect();
    assert!(!text.contains("s3cret-token"), "the secret is stored");
}

#[tokio::test]
async fn a_lost_answer_is_asked_about_or_repeated_under_the_same_key() {
    let rig = Rig::new();
    let peer = Peer::start().await;
    peer.next(&[(0, None)]);
    let (engine, _, view) = rig
        .run(json!([{ "name": "post", "type": "http", "retry": { "backoff": "10ms" }, "with": { "url": peer.url("/a"), "body": "one" } }]))
        .await;
    assert_eq!(view.status.result, Some(JobResult::Succeeded), "{:#?}", view.tasks);
    assert_eq!((peer.made(), peer.requests().len()), (vec!["one".to_owned()], 2));
    peer.next(&[(0, None)]);
    let look = json!([{ "name": "post", "type": "http", "retry": { "backoff": "10ms" },
        "with": { "url": peer.url("/b"), "body": "two", "lookup": { "url": peer.url("/found") } } }]);
    let job = engine.submit(request(look)).await.unwrap();
    assert_eq!(rig.rest(&engine, job).await.status.result, Some(JobResult::Succeeded));
    assert_eq!(peer.requests()[2..], ["POST /b", "GET /found"]);
    // A person is asked, and says yes by resuming.
    peer.next(&[(0, None)]);
    let ask = json!([{ "name": "post", "type": "http", "retry": { "backoff": "10ms" }, "with": { "url": peer.url("/c"), "body": "three", "on_unknown": "ask" } }]);
    let job = engine.submit(request(ask)).await.unwrap();
    let mut watch = engine.watch(job).unwrap();
    watch.wait_for(|seen| seen.status.state == JobState::Paused).await.unwrap();
    assert_eq!(peer.requests().len(), 5);
    engine.command(job, Command::Resume, None).await.unwrap();
    assert!(rig.rest(&engine, job).await.status.result.is_some_and(JobResult::is_success));
    assert_eq!(peer.made(), ["one", "three", "two"]);
}

#[tokio::test]
async fn an_output_cannot_name_a_secret() {
    let rig = Rig::new();
    let (_engine, _, view) = rig
        .run(json!([
            { "name": "sly", "type": "exec", "with": { "argv": ["printf", "{\"env\": \"HOME\"}"], "parse_json": true } },
            { "name": "use", "type": "exec", "needs": ["sly"], "with": { "argv": ["true"], "env": { "X": { "ref": "sly#/json" } } } },
        ]))
        .await;
    assert!(end_of(&view, "use").starts_with("failed: not_a_text"), "{}", end_of(&view, "use"));
}

#[tokio::test]
async fn a_cancel_ends_the_whole_group_soon() {
    let rig = Rig::new();
    let engine = rig.engine(DagConfig::foreground()).await;
    let pids = rig.path("pids");
    let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", pids.display());
    let tasks = json!([{ "name": "long", "type": "exec", "with": { "argv": ["sh", "-c", script] } }]);
    let job = engine.submit(request(tasks)).await.unwrap();
    while !pids.exists() {
        rig.clock.sleep(std::time::Duration::from_millis(5)).await;
    }
    let begun = rig.clock.monotonic();
    engine.command(job, Command::Cancel { undo: false }, None).await.unwrap();
    let view = rig.rest(&engine, job).await;
    assert!((rig.clock.monotonic() - begun).as_secs_f64() < 5.0);
    assert_eq!(view.status.result, Some(JobResult::Cancelled));
    let pid = std::fs::read_to_string(&pids).unwrap();
    // The signal was sent to all of the group; a busy machine may take a while to let the last of it die.
    loop {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            break;
        }
        assert!((rig.clock.monotonic() - begun).as_secs_f64() < 10.0, "the child still runs: {state}");
        rig.clock.sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn nothing_is_stored_of_a_job_that_is_refused() {
    let rig = Rig::new();
    let engine = rig.engine(DagConfig::default()).await;
    let refused = engine.submit(request(json!([{ "name": "a", "type": "exec", "with": { "argv": ["true"] } }]))).await;
    assert!(faults_of(&refused.unwrap_err())[0].contains("allow_exec"));
    assert!(read_all(&rig.store, "jobs/").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_person_is_asked_and_a_wait_takes_its_time() {
    let rig = Rig::new();
    let engine = rig.engine(DagConfig::foreground()).await;
    let tasks = json!([
        { "name": "ask", "type": "approve", "with": { "question": "Go on?" } },
        { "name": "rest", "type": "wait", "needs": ["ask"], "with": { "for": "300ms" } },
        { "name": "moment", "type": "wait", "needs": ["ask"], "with": { "until": "2020-01-01T00:00:00Z" } },
    ]);
    let begun = rig.clock.monotonic();
    let job = engine.submit(request(tasks)).await.unwrap();
    let yes = Command::Approve { task: "ask".into(), by: "somebody".into(), note: None };
    while !matches!(engine.command(job, yes.clone(), None).await.unwrap(), CommandReply::Done(_)) {
        rig.clock.sleep(std::time::Duration::from_millis(5)).await;
    }
    let view = rig.rest(&engine, job).await;
    assert_eq!(view.status.result, Some(JobResult::Succeeded), "{:#?}", view.tasks);
    assert!((rig.clock.monotonic() - begun).as_millis() >= 300);
    assert_eq!(output(&rig, &engine, job, "ask").await["approved"], true);
}

#[tokio::test]
async fn two_thousand_tasks_run_and_their_spec_is_kept_apart() {
    let rig = Rig::new();
    let engine = rig.engine(DagConfig::default()).await;
    let spec = windlass_dag::sample(2_000).to_json();
    assert!(spec.to_string().len() > windlass_store::budget::VALUE_BYTES);
    let job = engine.submit(JobRequest { spec: spec.clone(), ..request(json!([])) }).await.unwrap();
    let view = rig.rest(&engine, job).await;
    assert_eq!((view.status.result, view.counts.succeeded), (Some(JobResult::Succeeded), 2_000));
    assert_eq!(view.record.spec, spec);
    assert_eq!(output(&rig, &engine, job, "t01999").await["n"], 49);
    drop(engine);
    let engine = rig.engine(DagConfig::default()).await;
    assert_eq!(view::record(&rig.store, job).await.unwrap().spec, spec);
    drop(engine);
}

#[tokio::test]
async fn a_task_with_labels_runs_only_where_they_are_and_so_does_its_undo() {
    let rig = Rig::new();
    let tasks = json!([
        { "name": "anywhere", "type": "noop" },
        { "name": "there", "type": "noop", "needs": ["anywhere"], "labels": { "site": "b" } },
    ]);
    let engine = rig.engine(DagConfig::foreground()).await;
    let job = engine.submit(request(tasks)).await.unwrap();
    let waits = || async {
        let view = view::job(&rig.store, engine.kinds(), job, engine.now()).await.unwrap();
        let waits = |name: &str| view.tasks.iter().find(|task| task.name.contains(name)).map(|task| task.waits.clone());
        waits("there").unwrap_or_default()
    };
    let begun = rig.clock.monotonic();
    loop {
        let waits = waits().await;
        if let [Wait::Worker { demand }] = waits.as_slice() {
            assert!(demand.contains("site=b"), "{demand}");
            break;
        }
        assert!(rig.clock.monotonic() - begun < std::time::Duration::from_secs(60), "{waits:?}");
        rig.clock.sleep(std::time::Duration::from_millis(10)).await;
    }
    engine.shutdown().await.unwrap();
    let engine = rig.engine_with(DagConfig::foreground(), |config| EngineConfig {
        labels: [("site".to_owned(), "b".to_owned())].into(),
        ..config
    });
    let engine = engine.await;
    let view = rig.rest(&engine, job).await;
    assert_eq!(view.status.result, Some(JobResult::Succeeded), "{:#?}", view.tasks);
}

/// Stops the world as soon as the store knows that a task asks.
struct AfterTheNote {
    store: MemoryStore,
    is_over: AtomicBool,
    stopped: Notify,
}

#[async_trait::async_trait]
impl Probe for AfterTheNote {
    async fn at(&self, point: Point<'_>) {
        if point.moment == Moment::AfterCommit && !self.is_over.load(Ordering::SeqCst) {
            let all = read_all(&self.store, "job/").await.unwrap();
            let asks = |text: &[u8]| String::from_utf8_lossy(text).contains("\"asked\":true");
            if all.iter().any(|entry| asks(&entry.value)) {
                self.is_over.store(true, Ordering::SeqCst);
                self.stopped.notify_one();
            }
        }
        if self.is_over.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[tokio::test]
async fn a_question_that_died_with_its_worker_is_asked_again_and_not_taken_for_answered() {
    let rig = Rig::new();
    let peer = Peer::start().await;
    peer.next(&[(0, None)]);
    let (store, is_over) = (rig.store.clone(), AtomicBool::new(false));
    let probe = Arc::new(AfterTheNote { store, is_over, stopped: Notify::new() });
    let engine =
        rig.engine_with(DagConfig::foreground(), |config| EngineConfig { probe: probe.clone(), ..config }).await;
    let ask = json!([{ "name": "post", "type": "http", "retry": { "backoff": "10ms" },
        "with": { "url": peer.url("/c"), "body": "three", "on_unknown": "ask" } }]);
    let job = engine.submit(request(ask)).await.unwrap();
    deadline(&*rig.clock, std::time::Duration::from_secs(60), probe.stopped.notified()).await.unwrap();
    assert_eq!(peer.requests().len(), 1);
    drop(engine);

    let engine = rig.engine(DagConfig::foreground()).await;
    let paused = async {
        while view::status(&rig.store, job).await.unwrap().state != JobState::Paused {
            assert!(peer.requests().len() == 1, "it was sent again without a yes: {:?}", peer.requests());
            rig.clock.sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    deadline(&*rig.clock, std::time::Duration::from_secs(60), paused).await.unwrap();
    assert_eq!(peer.requests().len(), 1);
    engine.command(job, Command::Resume, None).await.unwrap();
    assert!(rig.rest(&engine, job).await.status.result.is_some_and(JobResult::is_success));
    assert_eq!((peer.made(), peer.requests().len()), (vec!["three".to_owned()], 2));
}
