//! What survives.

use std::sync::{Arc, Mutex};

use super::*;

/// What a client sees of an agent that is gone: UNAVAILABLE when it cannot connect, and UNKNOWN or CANCELLED when
/// a connection breaks under it, as with a process that was killed.
fn is_gone(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}

/// Calls until the agent can be reached again: a broken channel connects anew.
async fn reach(agent: &Agent, id: &str) -> Result<object::Vector, Status> {
    loop {
        let answer = agent.get(id).await;
        if answer.as_ref().err().is_none_or(|status| !is_gone(status)) {
            return answer;
        }
    }
}

#[tokio::test]
async fn a_crash_loses_what_was_not_saved_and_the_port_stays() {
    let cluster = small().await;
    let agent = Agent::new(&cluster, 0);
    let dimension = [0.5; 8];
    agent.insert("saved", &dimension, T).await.unwrap();
    agent.commit_and_save().await.unwrap();
    agent.insert("committed", &dimension, T).await.unwrap();
    agent.core().create_index(control::CreateIndexRequest::default()).await.unwrap();
    agent.insert("queued", &dimension, T).await.unwrap();
    let before = cluster.address(0);
    assert!(cluster.durable_placement().contains_key("saved"));
    assert!(!cluster.durable_placement().contains_key("committed"));

    cluster.crash(0);
    assert!(is_gone(&agent.get("saved").await.unwrap_err()));
    cluster.start(0);
    reach(&agent, "saved").await.unwrap();
    assert_eq!(code(agent.get("committed").await), Code::NotFound);
    assert_eq!(code(agent.get("queued").await), Code::NotFound);
    assert_eq!(cluster.address(0), before);
}

#[tokio::test]
async fn without_a_volume_an_agent_restarts_from_its_backup() {
    let uploads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&uploads);
    let uploader = Uploader::new(move |key, content| {
        seen.lock().unwrap().push((key, content.len()));
        Box::pin(async { Ok(()) })
    });
    let builder = Cluster::builder().ids(60).persistent(false).uploader(uploader).upload_on_save(false);
    let cluster = builder.start().await.unwrap();
    let agent = Agent::new(&cluster, 1);
    agent.insert("backed-up", &[0.5; 8], T).await.unwrap();
    agent.commit_and_save().await.unwrap();
    cluster.upload(1).await.unwrap();
    agent.insert("saved", &[0.5; 8], T).await.unwrap();
    agent.commit_and_save().await.unwrap();
    assert!(!cluster.durable_placement().contains_key("saved"));
    cluster.restart(1);
    reach(&agent, "backed-up").await.unwrap();
    assert_eq!(code(agent.get("saved").await), Code::NotFound);
    let uploads = uploads.lock().unwrap();
    assert_eq!(uploads.len(), 1);
    assert_eq!(uploads[0].0, "vald-agent-1.tar.gz");
    assert!(uploads[0].1 > 0);
}

#[tokio::test]
async fn a_stopped_agent_saves_and_uploads_first() {
    let directory = tempfile::tempdir().unwrap();
    let builder = Cluster::builder().ids(60).persistent(false).uploader(Uploader::to_directory(directory.path()));
    let cluster = builder.start().await.unwrap();
    let agent = Agent::new(&cluster, 2);
    agent.insert("last", &[0.5; 8], T).await.unwrap();
    cluster.stop(2).await;
    assert!(is_gone(&agent.get("last").await.unwrap_err()));
    assert!(directory.path().join("vald-agent-2.tar.gz").exists());
    cluster.start(2);
    reach(&agent, "last").await.unwrap();
}

#[tokio::test]
async fn a_failed_upload_leaves_the_last_backup() {
    let uploader = Uploader::new(|_, _| Box::pin(async { Err(std::io::Error::other("no room")) }));
    let cluster = Cluster::builder().ids(60).persistent(false).uploader(uploader).start().await.unwrap();
    let agent = Agent::new(&cluster, 0);
    agent.insert("x", &[0.5; 8], T).await.unwrap();
    agent.commit_and_save().await.unwrap();
    assert!(cluster.upload(0).await.is_err());
    assert!(!cluster.durable_placement().contains_key("x"));
}

#[tokio::test]
async fn a_call_that_was_under_way_at_a_crash_is_not_done() {
    let cluster = small().await;
    let agent = Agent::new(&cluster, 0);
    cluster.hang(0, true);
    let channel = agent.channel.clone();
    let insert = tokio::spawn(async move { Agent { channel }.insert("x", &[0.5; 8], T).await });
    while cluster.calls(0, Method::Insert) == 0 {
        tokio::task::yield_now().await;
    }
    cluster.restart(0);
    cluster.hang(0, false);
    insert.await.unwrap().unwrap_err();
    assert_eq!(code(reach(&agent, "x").await), Code::NotFound);
}

#[tokio::test]
async fn a_build_that_a_crash_interrupts_does_not_end() {
    let cluster = small().await;
    let agent = Agent::new(&cluster, 0);
    agent.insert("x", &[0.5; 8], T).await.unwrap();
    cluster.hold_builds(0, true);
    let channel = agent.channel.clone();
    let build = tokio::spawn(async move { Agent { channel }.commit_and_save().await });
    while !cluster.counts(0).indexing {
        tokio::task::yield_now().await;
    }
    cluster.restart(0);
    cluster.hold_builds(0, false);
    build.await.unwrap().unwrap_err();
    assert!(!cluster.counts(0).indexing);
    assert!(!cluster.placement().contains_key("x"));
}

#[tokio::test]
async fn a_planted_crash_comes_before_or_after_the_work() {
    let cluster = small().await;
    let agent = Agent::new(&cluster, 0);
    let id = only_on(&cluster, 0, 1);
    cluster.inject(0, Fault::on(Method::Remove).nth(1).action(Action::Restart));
    agent.remove(&id, T).await.unwrap_err();
    reach(&agent, &id).await.unwrap();
    cluster.inject(0, Fault::on(Method::CreateAndSaveIndex).nth(1).after().action(Action::Crash));
    agent.remove(&id, T).await.unwrap();
    agent.commit_and_save().await.unwrap_err();
    // It was saved before the crash.
    cluster.start(0);
    assert_eq!(code(reach(&agent, &id).await), Code::NotFound);
}

#[tokio::test]
async fn cut_connections_come_back_and_nothing_is_lost() {
    let cluster = small().await;
    let agent = Agent::new(&cluster, 0);
    agent.insert("queued", &[0.5; 8], T).await.unwrap();
    cluster.cut(0);
    reach(&agent, "queued").await.unwrap();
}
