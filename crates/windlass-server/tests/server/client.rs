//! The client against a real server, over a restart on the same port.

use serde_json::json;
use windlass_api::{
    Client, ClientConfig, CommandRequest, EventKind, JobQuery, JobState, LogQuery, SubmitRequest, TaskQuery, WaitFor,
};
use windlass_clock::Seeded;

use crate::stand::{Stand, config};

#[tokio::test]
async fn every_call_is_answered_and_following_goes_on_over_a_restart() {
    let mut stand = Stand::new().await;
    let settings = ClientConfig { server: stand.address.to_string(), ..ClientConfig::default() };
    let client = Client::new(&settings, stand.clock.clone(), Seeded::shared(7)).unwrap();
    assert_eq!(client.whoami().await.unwrap().name, "local");
    assert_eq!(client.kinds().await.unwrap().kinds[0].name, "tiny");
    assert!(client.kind("tiny").await.unwrap().schema.is_some());
    let request = SubmitRequest {
        kind: "tiny".into(),
        name: "a".into(),
        spec: json!({ "steps": 4, "hold": true }),
        ..SubmitRequest::default()
    };
    assert_eq!(client.plan(&request).await.unwrap().by_type[0].tasks, 4);
    let key = client.key();
    let id = client.submit(&request, &key).await.unwrap().id;
    assert_eq!(client.submit(&request, &key).await.unwrap().id, id);
    let job = id.to_string();
    let mut events = client.follow(&job, 0);
    let mut numbers = Vec::new();
    while numbers.len() < 3 {
        let event = events.next().await.unwrap();
        numbers.extend(event.entry.map(|entry| entry.n));
    }
    let mut again = config();
    again.listen = stand.address;
    stand.until(&job, |job| job["counts"]["running"] == 1 && job["counts"]["succeeded"] == 3).await;
    stand = stand.restart(again).await;
    stand.gate.send_replace(true);
    let last = loop {
        let event = events.next().await.unwrap();
        numbers.extend(event.entry.map(|entry| entry.n));
        if event.kind == EventKind::Status && event.status.as_ref().is_some_and(|job| job.state == JobState::Completed)
        {
            break event.status.unwrap().last_log;
        }
    };
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
    assert_eq!(events.last(), Some(last.to_string().as_str()));
    let wait = WaitFor { wait: Some("10s".into()), after: None };
    assert_eq!(client.wait(&job, &wait).await.unwrap().state, JobState::Completed);
    assert_eq!(client.job("a").await.unwrap().id, id);
    assert_eq!(client.jobs(&JobQuery { limit: Some(1), ..JobQuery::default() }).await.unwrap().jobs.len(), 1);
    let tasks = client.tasks(&job, &TaskQuery { limit: Some(2), ..TaskQuery::default() }).await.unwrap();
    assert_eq!((tasks.tasks.len(), tasks.matching), (2, 4));
    let task = tasks.tasks[0].name();
    assert_eq!(client.task(&job, &task).await.unwrap().summary.name(), task);
    assert_eq!(client.task_output(&job, &task).await.unwrap(), json!({ "said": "done" }));
    assert_eq!(client.graph(&job).await.unwrap().tasks, 4);
    assert_eq!(client.why(&job, &TaskQuery::default()).await.unwrap().matching, 0);
    let log = client.log(&job, &LogQuery { tail: Some(2), ..LogQuery::default() }).await.unwrap();
    assert_eq!(log.entries.len(), 2);
    assert_eq!(client.report(&job).await.unwrap().tasks.succeeded, 4);
    assert_eq!(client.workers().await.unwrap().workers.len(), 1);
    client.shared().await.unwrap();
    client.schedules().await.unwrap();
    let answer = client.command(&job, &CommandRequest::Confirm, &client.key()).await.unwrap();
    assert_eq!(answer.state, Some(JobState::Finished));
    let error = client.command(&job, &CommandRequest::Undo, &client.key()).await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, "refused");
    assert!(!client.audit(&windlass_api::AuditQuery::default()).await.unwrap().entries.is_empty());
    let error = client.job("nothing").await.unwrap_err();
    assert!(error.hint().is_some());
}
