//! The client of one agent, and how agents are found.

use std::time::Duration;

use windlass_model::ErrorClass;
use windlass_sim::vald::{Cluster, Fault, Method, Release};

use super::rig::{Rig, cluster};
use crate::agent::{AgentClient, ClientSettings, FAILURES_IN_A_ROW, InsertAnswer};
use crate::discover::{AgentSource, SeenAgent, ask_gateway, discover};
use crate::moves::input::AgentAddress;

fn settings() -> ClientSettings {
    ClientSettings { backoff: Duration::from_millis(1), ..ClientSettings::default() }
}

fn client(rig: &Rig, settings: ClientSettings) -> AgentClient {
    let agent = rig.agent(0);
    AgentClient::new(&agent.name, &agent.address, settings).unwrap()
}

#[tokio::test]
async fn what_an_old_release_lacks_is_asked_for_once() {
    let rig = Rig::new(cluster().release(Release::WITHOUT_GET_TIMESTAMP)).await;
    let (client, attempt) = (client(&rig, settings()), rig.attempt());
    let agent = client.within(&attempt);
    let id = &rig.ids_on(0)[0];
    let time = rig.cluster.copy(0, id).unwrap().1;
    for _ in 0..3 {
        assert_eq!(agent.get_timestamp(id).await.unwrap(), Some(time));
        assert_eq!(agent.index_info().await.unwrap().stored, rig.cluster.counts(0).stored);
    }
    assert_eq!(rig.cluster.calls(0, Method::GetObject), 3);
    assert_eq!(agent.get_timestamp("none").await.unwrap(), None);
    assert!(agent.exists(id).await.unwrap() && !agent.exists("none").await.unwrap());
}

#[tokio::test]
async fn fifty_failures_in_a_row_ask_for_a_person_and_one_success_forgets_them() {
    let rig = Rig::new(cluster()).await;
    let (client, attempt) = (client(&rig, settings()), rig.attempt());
    let agent = client.within(&attempt);
    let most = u64::from(FAILURES_IN_A_ROW) - 1;
    rig.cluster.inject(0, Fault::on(Method::Exists).first(most));
    assert!(!agent.exists("none").await.unwrap());
    assert_eq!(client.retries(), most);
    rig.cluster.inject(0, Fault::on(Method::Exists));
    let failure = agent.exists("none").await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.class), ("agent_unreachable", ErrorClass::NeedsAttention));
    assert!(failure.hint.is_some() && failure.message.contains(&rig.cluster.name(0)));
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed() {
    let rig = Rig::new(cluster()).await;
    let (client, attempt) = (client(&rig, ClientSettings { parallelism: 2, ..settings() }), rig.attempt());
    rig.cluster.hang(0, true);
    let asked = futures::future::join_all((0..6).map(|_| async { client.within(&attempt).exists("none").await }));
    let counted = async {
        while rig.cluster.calls(0, Method::Exists) < 2 {
            tokio::task::yield_now().await;
        }
        // Whoever would come too early has had every chance to.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        let calls = rig.cluster.calls(0, Method::Exists);
        rig.cluster.hang(0, false);
        calls
    };
    let (answers, calls) = tokio::join!(asked, counted);
    assert_eq!(calls, 2);
    assert!(answers.into_iter().all(|answer| !answer.unwrap()));
}

#[tokio::test]
async fn an_insert_that_finds_its_own_lost_answer_says_that_it_may_be_ours() {
    let rig = Rig::new(cluster()).await;
    let (client, attempt) = (client(&rig, settings()), rig.attempt());
    let agent = client.within(&attempt);
    rig.cluster.inject(0, Fault::on(Method::Insert).nth(1).after());
    let ours = agent.insert("new", &[0.5; 8], 100).await.unwrap();
    assert_eq!(ours, InsertAnswer::AlreadyExists { repeated: true });
    let other = agent.insert("new", &[0.5; 8], 100).await.unwrap();
    assert_eq!(other, InsertAnswer::AlreadyExists { repeated: false });
    assert!(matches!(agent.insert("odd", &[0.5; 3], 100).await.unwrap(), InsertAnswer::Rejected(_)));
}

#[test]
fn addresses_that_are_none_are_refused_with_the_forms_there_are() {
    let error = AgentClient::new("a", "http://a b", settings()).unwrap_err();
    assert!(error.to_string().contains("host:port"), "{error}");
}

#[tokio::test]
async fn agents_are_found_counted_and_the_dead_ones_marked() {
    let rig = Rig::new(cluster().agents(3).replica(2)).await;
    rig.cluster.crash(1);
    let listed: Vec<AgentAddress> = (0..3).rev().map(|agent| rig.agent(agent)).collect();
    let attempt = rig.attempt();
    let seen = discover(&attempt, &AgentSource::Listed(listed.clone()), &settings()).await.unwrap();
    assert_eq!(seen.iter().map(SeenAgent::is_reachable).collect::<Vec<_>>(), [true, false, true]);
    assert!(seen[1].trouble.as_ref().unwrap().contains("index_info"));
    assert_eq!(seen[2].index.unwrap().stored, rig.cluster.counts(2).stored);

    let twice = AgentSource::Listed(vec![listed[0].clone(), listed[0].clone()]);
    assert_eq!(discover(&attempt, &twice, &settings()).await.unwrap_err().code, "agents_ambiguous");
    let none = AgentSource::Listed(Vec::new());
    assert_eq!(discover(&attempt, &none, &settings()).await.unwrap_err().code, "no_agents");
}

#[tokio::test]
async fn discoverer_and_gateway_are_asked() {
    let rig = Rig::new(Cluster::builder().agents(3).replica(2).ids(30).one_port(true)).await;
    let attempt = rig.attempt();
    let addresses = rig.cluster.addresses();
    let port = addresses.agents[0].address.rsplit_once(':').unwrap().1.parse().unwrap();
    let source = AgentSource::Discoverer {
        address: addresses.discoverer,
        name: "vald-agent".into(),
        namespace: String::new(),
        port: Some(port),
    };
    let seen = discover(&attempt, &source, &settings()).await.unwrap();
    let found: Vec<(&str, &str)> = seen.iter().map(|agent| (agent.name.as_str(), agent.address.as_str())).collect();
    let expected: Vec<(&str, &str)> =
        addresses.agents.iter().map(|agent| (agent.name.as_str(), agent.address.as_str())).collect();
    assert_eq!(found, expected);
    assert!(seen.iter().all(|agent| agent.is_reachable() && agent.memory_usage.is_some()));
    let view = ask_gateway(&attempt, &addresses.gateway, &settings()).await.unwrap();
    assert_eq!((view.index_replica, view.live_agents), (2, 3));

    let nowhere = ask_gateway(&attempt, "127.0.0.1:1", &settings()).await.unwrap_err();
    assert_eq!((nowhere.code.as_str(), nowhere.class), ("unreachable", ErrorClass::Transient));
}
