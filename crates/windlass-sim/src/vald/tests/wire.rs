//! Every service, and what releases and faults change.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use windlass_clock::{Clock, SystemClock, deadline};
use windlass_vald::{
    Empty, discoverer, discoverer_client, element_id, flush, flush_client, index_client, info, object, remove, update,
    update_client, upsert, upsert_client,
};

use super::*;

fn vector(id: &str, elements: &[f32], timestamp: i64) -> Option<object::Vector> {
    Some(object::Vector { id: id.into(), vector: elements.into(), timestamp })
}

async fn empty() -> Cluster {
    Cluster::builder().agents(1).replica(1).dimension(2).start().await.unwrap()
}

fn timestamp_of(id: &str) -> object::TimestampRequest {
    object::TimestampRequest { id: Some(object::Id { id: id.into() }) }
}

#[tokio::test]
async fn a_vector_is_inserted_read_committed_listed_and_removed() {
    let cluster = empty().await;
    let agent = Agent::new(&cluster, 0);
    agent.insert("x", &[1.0, 2.0], T).await.unwrap();
    assert_eq!(agent.get("x").await.unwrap(), vector("x", &[1.0, 2.0], T).unwrap());
    assert_eq!(agent.object().get_timestamp(timestamp_of("x")).await.unwrap().into_inner().timestamp, T);
    assert_eq!(agent.object().exists(object::Id { id: "x".into() }).await.unwrap().into_inner().id, "x");
    assert_eq!(cluster.counts(0), Counts { uncommitted: 1, ..Counts::default() });

    let mut index = index_client::IndexClient::new(agent.channel.clone());
    agent.commit_and_save().await.unwrap();
    let count = info::index::Count { stored: 1, ..Default::default() };
    assert_eq!(index.index_info(Empty {}).await.unwrap().into_inner(), count);
    let detail = index.index_detail(Empty {}).await.unwrap().into_inner();
    assert_eq!((detail.counts["vald-agent-0"], detail.replica, detail.live_agents), (count, 1, 1));

    agent.insert("y", &[0.0, 1.0], T).await.unwrap();
    let listing = agent.object().stream_list_object(object::list::Request {}).await.unwrap().into_inner();
    let ids: Vec<String> = listing
        .map(|item| match item.unwrap().payload.unwrap() {
            object::list::response::Payload::Vector(vector) => vector.id,
            object::list::response::Payload::Status(status) => panic!("{status:?}"),
        })
        .collect()
        .await;
    assert_eq!(ids, ["y", "x"]);

    agent.remove("x", T + 1).await.unwrap();
    assert_eq!(code(agent.get("x").await), Code::NotFound);
    let asked: Vec<_> = cluster.mutations().iter().map(|m| (m.method, m.id.to_string(), m.time)).collect();
    assert_eq!(
        asked,
        [
            (Method::Insert, "x".to_owned(), T),
            (Method::CreateIndex, String::new(), 0),
            (Method::Insert, "y".to_owned(), T),
            (Method::Remove, "x".to_owned(), T + 1),
        ]
    );
}

#[tokio::test]
async fn refusals_have_the_protocols_codes() {
    let cluster = empty().await;
    let agent = Agent::new(&cluster, 0);
    assert_eq!(code(agent.insert("x", &[1.0], T).await), Code::InvalidArgument);
    assert_eq!(code(agent.insert("", &[1.0, 2.0], T).await), Code::InvalidArgument);
    assert_eq!(code(agent.remove("x", T).await), Code::NotFound);
    assert_eq!(code(agent.core().create_index(control::CreateIndexRequest::default()).await), Code::FailedPrecondition);
    // Without anything to commit, the save goes on and finds nothing to do.
    agent.commit_and_save().await.unwrap();
    agent.insert("x", &[1.0, 2.0], T).await.unwrap();
    assert_eq!(code(agent.insert("x", &[1.0, 2.0], T).await), Code::AlreadyExists);
    cluster.flush_window(0, true).unwrap();
    assert_eq!(code(agent.get("x").await), Code::Aborted);
    cluster.flush_window(0, false).unwrap();
    agent.get("x").await.unwrap();
}

#[tokio::test]
async fn updates_upserts_and_flushes_go_over_the_wire() {
    let cluster = empty().await;
    let agent = Agent::new(&cluster, 0);
    let mut upserts = upsert_client::UpsertClient::new(agent.channel.clone());
    let mut updates = update_client::UpdateClient::new(agent.channel.clone());
    upserts.upsert(upsert::Request { vector: vector("x", &[1.0, 2.0], T), config: None }).await.unwrap();
    let config = update::Config { timestamp: T + 5, ..Default::default() };
    let request = update::Request { vector: vector("x", &[3.0, 4.0], T), config: Some(config) };
    updates.update(request.clone()).await.unwrap();
    assert_eq!(agent.get("x").await.unwrap().timestamp, T + 6);
    assert_eq!(code(updates.update(request).await), Code::AlreadyExists);
    let request = update::TimestampRequest { id: "x".into(), timestamp: T + 9, force: false };
    updates.update_timestamp(request).await.unwrap();
    assert_eq!(agent.get("x").await.unwrap().timestamp, T + 9);
    let many =
        update::MultiRequest { requests: vec![update::Request { vector: vector("x", &[5.0, 6.0], 0), config: None }] };
    updates.multi_update(many).await.unwrap();
    let many =
        upsert::MultiRequest { requests: vec![upsert::Request { vector: vector("y", &[5.0, 6.0], T), config: None }] };
    upserts.multi_upsert(many).await.unwrap();
    let mut flushes = flush_client::FlushClient::new(agent.channel.clone());
    assert_eq!(flushes.flush(flush::Request {}).await.unwrap().into_inner(), info::index::Count::default());
    assert!(cluster.placement().is_empty());
}

#[tokio::test]
async fn multi_requests_have_their_odd_times() {
    let cluster = empty().await;
    let agent = Agent::new(&cluster, 0);
    let requests = [("x", T), ("y", T + 7)]
        .map(|(id, time)| insert::Request { vector: vector(id, &[1.0, 2.0], time), config: None })
        .to_vec();
    insert_client::InsertClient::new(agent.channel.clone())
        .multi_insert(insert::MultiRequest { requests })
        .await
        .unwrap();
    assert_eq!(agent.get("y").await.unwrap().timestamp, T);
    let config = Some(remove::Config { timestamp: 1, ..Default::default() });
    let request = remove::Request { id: Some(object::Id { id: "x".into() }), config };
    let mut removes = remove_client::RemoveClient::new(agent.channel.clone());
    removes.multi_remove(remove::MultiRequest { requests: vec![request] }).await.unwrap();
    // With the time in the request the entry would have stayed visible.
    assert_eq!(code(agent.get("x").await), Code::NotFound);
    let condition = remove::Timestamp { timestamp: T, operator: remove::timestamp::Operator::Eq.into() };
    let removed = removes.remove_by_timestamp(remove::TimestampRequest { timestamps: vec![condition] }).await.unwrap();
    assert_eq!(removed.into_inner().locations[0].uuid, "y");
}

#[tokio::test]
async fn streams_answer_each_element_with_its_id() {
    let cluster = empty().await;
    let agent = Agent::new(&cluster, 0);
    let wanted = [("x", vec![1.0, 2.0]), ("short", vec![1.0]), ("y", vec![0.0, 1.0])];
    let requests: Vec<_> =
        wanted.iter().map(|(id, elements)| insert::Request { vector: vector(id, elements, T), config: None }).collect();
    let answers = insert_client::InsertClient::new(agent.channel.clone())
        .stream_insert(stream::iter(requests))
        .await
        .unwrap()
        .into_inner();
    let answers: Vec<Result<String, (i32, Option<String>)>> = answers
        .map(|answer| match answer.unwrap().payload.unwrap() {
            object::stream_location::Payload::Location(location) => Ok(location.uuid),
            object::stream_location::Payload::Status(status) => Err((status.code, element_id(&status))),
        })
        .collect()
        .await;
    assert_eq!(answers, [Ok("x".to_owned()), Err((3, Some("short".to_owned()))), Ok("y".to_owned())]);

    let requests =
        ["y", "missing"].map(|id| object::VectorRequest { id: Some(object::Id { id: id.into() }), filters: None });
    let answers = agent.object().stream_get_object(stream::iter(requests)).await.unwrap().into_inner();
    let found: Vec<bool> = answers
        .map(|answer| matches!(answer.unwrap().payload, Some(object::stream_vector::Payload::Vector(_))))
        .collect()
        .await;
    assert_eq!(found, [true, false]);
    assert_eq!(cluster.calls(0, Method::Insert), 3);
}

#[tokio::test]
async fn old_releases_lack_what_came_later() {
    let start = |release| Cluster::builder().agents(1).replica(1).dimension(2).release(release).start();

    let cluster = start(Release::WITHOUT_INDEX_SERVICE).await.unwrap();
    let agent = Agent::new(&cluster, 0);
    let mut index = index_client::IndexClient::new(agent.channel.clone());
    assert_eq!(code(index.index_info(Empty {}).await), Code::Unimplemented);
    assert_eq!(code(index.index_detail(Empty {}).await), Code::Unimplemented);
    agent.core().index_info(Empty {}).await.unwrap();
    let mut flushes = flush_client::FlushClient::new(agent.channel.clone());
    assert_eq!(code(flushes.flush(flush::Request {}).await), Code::Unimplemented);

    let cluster = start(Release::WITHOUT_GET_TIMESTAMP).await.unwrap();
    let agent = Agent::new(&cluster, 0);
    agent.insert("x", &[1.0, 2.0], T).await.unwrap();
    assert_eq!(code(agent.object().get_timestamp(timestamp_of("x")).await), Code::Unimplemented);
    assert_eq!(agent.get("x").await.unwrap().timestamp, T);

    let cluster = start(Release::WITHOUT_TIME_IN_VECTOR).await.unwrap();
    let agent = Agent::new(&cluster, 0);
    agent.insert("x", &[1.0, 2.0], T).await.unwrap();
    assert_eq!(agent.get("x").await.unwrap().timestamp, 0);
    assert_eq!(code(agent.object().stream_list_object(object::list::Request {}).await), Code::Unimplemented);

    let cluster = start(Release::CURRENT).await.unwrap();
    let agent = Agent::new(&cluster, 0);
    assert_eq!(code(agent.core().index_info(Empty {}).await), Code::Unimplemented);
}

#[tokio::test]
async fn a_read_replica_refuses_commits_and_saves() {
    let builder = Cluster::builder().agents(1).replica(1).dimension(2);
    let cluster = builder.agent_options(|_, options| options.read_replica = true).start().await.unwrap();
    let agent = Agent::new(&cluster, 0);
    agent.insert("x", &[1.0, 2.0], T).await.unwrap();
    agent.get("x").await.unwrap();
    assert_eq!(code(agent.commit_and_save().await), Code::Internal);
    assert_eq!(code(agent.core().save_index(Empty {}).await), Code::Internal);
}

#[tokio::test]
async fn during_a_build_one_call_waits_and_the_next_is_answered_at_once() {
    let cluster = Arc::new(empty().await);
    let agent = Agent::new(&cluster, 0);
    agent.insert("x", &[1.0, 2.0], T).await.unwrap();
    cluster.hold_builds(0, true);
    let build = |agent: &Agent| {
        let mut core = agent.core();
        tokio::spawn(async move { core.create_index(control::CreateIndexRequest::default()).await.map(|_| ()) })
    };
    let first = build(&agent);
    let mut index = index_client::IndexClient::new(agent.channel.clone());
    while !index.index_info(Empty {}).await.unwrap().into_inner().indexing {}
    agent.insert("y", &[1.0, 2.0], T).await.unwrap();
    let second = build(&agent);
    while cluster.calls(0, Method::CreateIndex) < 2 || cluster.mutations().len() < 4 {
        index.index_info(Empty {}).await.unwrap();
    }
    // A third has nothing to wait for: it is told OK, and yet `y` is not committed.
    build(&agent).await.unwrap().unwrap();
    assert_eq!(cluster.counts(0), Counts { stored: 1, uncommitted: 1, indexing: true, saving: false });
    cluster.hold_builds(0, false);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(cluster.counts(0), Counts { stored: 2, ..Counts::default() });
}

#[tokio::test]
async fn a_fault_before_does_nothing_and_one_after_loses_the_answer() {
    let cluster = empty().await;
    let agent = Agent::new(&cluster, 0);
    cluster.inject(0, Fault::on(Method::Insert).nth(1).fail(Code::ResourceExhausted));
    cluster.inject(0, Fault::on(Method::Insert).nth(2).after().fail(Code::DeadlineExceeded));
    assert_eq!(code(agent.insert("x", &[1.0, 2.0], T).await), Code::ResourceExhausted);
    assert_eq!(code(agent.get("x").await), Code::NotFound);
    assert_eq!(code(agent.insert("x", &[1.0, 2.0], T).await), Code::DeadlineExceeded);
    agent.get("x").await.unwrap();
    assert_eq!(code(agent.insert("x", &[1.0, 2.0], T).await), Code::AlreadyExists);
    assert_eq!(cluster.calls(0, Method::Insert), 3);
    assert_eq!(cluster.all_calls()[&Method::GetObject], 2);
}

#[tokio::test(start_paused = true)]
async fn delays_and_builds_take_the_clocks_time_and_a_lost_answer_never_comes() {
    let clock = SystemClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
    let hour = Duration::from_secs(3600);
    let builder = Cluster::builder().agents(1).replica(1).dimension(2).clock(clock.clone()).build_time(hour);
    let cluster = builder.start().await.unwrap();
    let agent = Agent::new(&cluster, 0);
    cluster.inject(0, Fault::on(Method::Insert).nth(1).action(Action::Delay(2 * hour)));
    cluster.inject(0, Fault::on(Method::Remove).nth(1).after().action(Action::NoAnswer));
    agent.insert("x", &[1.0, 2.0], 0).await.unwrap();
    assert!(clock.monotonic() >= 2 * hour);
    // The time of the insert is the one at which it was done.
    let start = 1_767_225_600_000_000_000;
    assert!(agent.get("x").await.unwrap().timestamp >= start + 7_200_000_000_000);
    let before = clock.monotonic();
    agent.commit_and_save().await.unwrap();
    assert!(clock.monotonic() - before >= 2 * hour, "a build and a save");
    assert!(deadline(&*clock, hour, agent.remove("x", 0)).await.is_err());
    assert_eq!(code(agent.get("x").await), Code::NotFound);
    cluster.clear_faults(0);
    agent.remove("x", 0).await.unwrap();
}

#[tokio::test]
async fn a_hanging_agent_answers_when_it_hangs_no_more() {
    let cluster = empty().await;
    let agent = Agent::new(&cluster, 0);
    cluster.hang(0, true);
    let channel = agent.channel.clone();
    let insert = tokio::spawn(async move { Agent { channel }.insert("x", &[1.0, 2.0], T).await });
    while cluster.calls(0, Method::Insert) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(cluster.counts(0), Counts::default());
    assert!(!insert.is_finished());
    cluster.hang(0, false);
    insert.await.unwrap().unwrap();
    assert_eq!(cluster.counts(0).uncommitted, 1);
}

#[tokio::test]
async fn discoverer_lists_the_emptiest_agent_first_and_gateway_knows_the_replicas() {
    let cluster = Cluster::builder().ids(100).skew(3.0).one_port(true).start().await.unwrap();
    let addresses = cluster.addresses();
    let mut discoverer =
        discoverer_client::DiscovererClient::connect(format!("http://{}", addresses.discoverer)).await.unwrap();
    let ask = |name: &str| discoverer::Request { name: name.into(), ..Default::default() };
    assert_eq!(code(discoverer.pods(ask("")).await), Code::InvalidArgument);
    assert_eq!(code(discoverer.pods(ask("other")).await), Code::NotFound);
    let pods = discoverer.pods(ask("vald-agent")).await.unwrap().into_inner().pods;
    let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["vald-agent-0", "vald-agent-1", "vald-agent-2"]);
    let port = cluster.address(0).port();
    for pod in &pods {
        assert!(
            addresses
                .agents
                .iter()
                .any(|agent| agent.name == pod.name && agent.address == format!("{}:{port}", pod.ip))
        );
    }
    assert_eq!(discoverer.nodes(ask("vald-agent")).await.unwrap().into_inner().nodes.len(), 1);

    let mut gateway = index_client::IndexClient::connect(format!("http://{}", addresses.gateway)).await.unwrap();
    cluster.crash(1);
    let detail = gateway.index_detail(Empty {}).await.unwrap().into_inner();
    assert_eq!((detail.replica, detail.live_agents), (2, 2));
    let keys: Vec<String> = [0, 2].map(|agent| cluster.address(agent).to_string()).into();
    assert_eq!(detail.counts.keys().cloned().collect::<Vec<_>>(), keys);
    let sum = gateway.index_info(Empty {}).await.unwrap().into_inner();
    assert_eq!(sum.stored, cluster.counts(0).stored + cluster.counts(2).stored);
    assert_eq!(discoverer.pods(ask("vald-agent")).await.unwrap().into_inner().pods.len(), 2);
}

#[tokio::test]
async fn clients_write_through_the_gateway() {
    let cluster = Cluster::builder().agents(3).replica(2).dimension(2).start().await.unwrap();
    cluster.watch_copies(true);
    let url = format!("http://{}", cluster.addresses().gateway);
    let mut inserts = insert_client::InsertClient::connect(url.clone()).await.unwrap();
    inserts.insert(insert::Request { vector: vector("x", &[1.0, 2.0], T), config: None }).await.unwrap();
    assert_eq!(cluster.placement()["x"].len(), 2);
    let config = update::Config { timestamp: T + 1, ..Default::default() };
    let request = update::Request { vector: vector("x", &[2.0, 2.0], 0), config: Some(config) };
    update_client::UpdateClient::connect(url.clone()).await.unwrap().update(request).await.unwrap();
    assert!(cluster.placement()["x"].iter().all(|(_, time)| *time == T + 2));
    let request = remove::Request { id: Some(object::Id { id: "x".into() }), config: None };
    remove_client::RemoveClient::connect(url).await.unwrap().remove(request).await.unwrap();
    assert!(cluster.placement().is_empty());
    assert_eq!(cluster.violations(), []);
}
