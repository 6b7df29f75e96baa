//! Old agents: they ask for their tasks, and say `done` whatever came of it.

use std::time::Duration;

use serde_json::{Value, json};
use windlass_distribute::wire::tasks::{Status, Task};

use crate::rig::Rig;

/// A port that is free.
pub(crate) async fn free() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Plays the loop of an old agent.
pub(crate) async fn agent(rig: std::sync::Arc<Rig>, listen: String, own: String, honest: bool) {
    windlass_blob::install_crypto_provider();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    loop {
        rig.clock.sleep(Duration::from_millis(20)).await;
        let Ok(answer) = http.get(format!("http://{listen}/tasks")).send().await else { continue };
        let tasks: Vec<Task> = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let mine = tasks.into_iter().find(|task| task.dst_addr == own && task.status == Status::Ready);
        let Some(task) = mine else { continue };
        let patch = async |status: &str| {
            let request = http.patch(format!("http://{listen}/tasks/{}", task.id));
            let _ = request.body(json!({ "status": status }).to_string()).send().await;
        };
        patch("working").await;
        if honest {
            rig.nodes.put(&own, &task.file_name, 100);
        }
        patch("done").await;
    }
}

async fn ground(
    honest: bool,
) -> (std::sync::Arc<Rig>, windlass_engine::Engine, windlass_model::JobId, String, String, tokio::task::JoinSet<()>) {
    windlass_blob::install_crypto_provider();
    let rig = std::sync::Arc::new(Rig::new(&[("A.mpg", 100), ("B b.mpg", 100)]));
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[]).await;
    let mut spec = rig.spec(&source, &[&a]);
    let listen = free().await;
    spec["listen"] = json!(listen);
    for node in spec["nodes"].as_array_mut().unwrap() {
        (node["wire"], node["serves"]) = (json!("legacy"), json!("program"));
    }
    let engine = rig.engine().await;
    let job = rig.submit(&engine, spec).await;
    let mut playing = tokio::task::JoinSet::new();
    playing.spawn(agent(rig.clone(), listen.clone(), a.clone(), honest));
    (rig, engine, job, a, listen, playing)
}

async fn get(listen: &str, path: &str) -> (u16, String) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.get(format!("http://{listen}{path}")).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn an_old_agent_is_driven_and_the_pages_show_it() {
    let (rig, _engine, job, a, listen, _playing) = ground(true).await;
    rig.settled(job).await;
    assert_eq!(rig.nodes.files(&a), ["A.mpg", "B b.mpg"]);
    assert_eq!(get(&listen, "/tasks").await, (200, "[]\n".to_owned()));
    let (status, page) = get(&listen, "/dashboard/filemetas?q=B").await;
    assert!(status == 200 && page.contains("B b.mpg") && !page.contains("A.mpg"), "{page}");
    assert!(get(&listen, "/dashboard/hb").await.1.contains(&a));
    assert!(get(&listen, "/dashboard").await.1.contains("Tasks"));
    assert_eq!(get(&listen, "/dashboard/other").await.0, 404);
    let why: Value = serde_json::from_str(&get(&listen, "/v2/why/B%20b.mpg").await.1).unwrap();
    assert_eq!((&why["rank"], &why["on"][0]), (&json!(2), &json!(a)), "{why:#}");
    assert!(why["because"][0].as_str().unwrap().contains("held"), "{why:#}");
    let plan: Value = serde_json::from_str(&get(&listen, "/v2/plan").await.1).unwrap();
    assert_eq!(plan["copies"], json!([]));
}

#[tokio::test]
async fn an_old_agent_that_says_done_for_nothing_does_not_hold_the_queue() {
    let (rig, engine, job, _, listen, _playing) = ground(false).await;
    rig.until("both were tried and wait", async || {
        rig.status(job).await["passed_over"]["retry_later"].as_u64() == Some(2)
    })
    .await;
    let view = windlass_engine::view::job(&rig.store, engine.kinds(), job, rig.clock.wall()).await.unwrap();
    assert_eq!(view.counts.failed, 2, "each was tried once");
    let why: Value = serde_json::from_str(&get(&listen, "/v2/why/A.mpg").await.1).unwrap();
    assert!(why["because"].to_string().contains("retry later"), "{why:#}");
}
