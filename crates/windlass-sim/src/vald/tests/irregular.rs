//! Clusters like the fixtures', their backups, and the host for other processes.

use std::collections::BTreeMap;
use std::io::Read;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::*;

const TRUTH: &str = include_str!("../../../tests/fixtures/vald/cluster3-truth.json");

fn oddities(truth: &Value, name: &str) -> Vec<Oddity> {
    let copy = |copy: &Value| {
        let agent = copy["agent"].as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
        (agent, copy["timestamp"].as_i64().unwrap())
    };
    let oddity = |oddity: &Value| Oddity {
        id: oddity["id"].as_str().unwrap().into(),
        copies: oddity["copies"].as_array().unwrap().iter().map(copy).collect(),
    };
    truth[name].as_array().unwrap().iter().map(oddity).collect()
}

#[tokio::test]
async fn the_cluster_of_the_fixture_has_the_fixtures_truth() {
    let truth: Value = serde_json::from_str(TRUTH).unwrap();
    let cluster = ClusterBuilder::cluster3().start().await.unwrap();
    let odd = cluster.irregularities();
    assert_eq!(odd.missing, oddities(&truth, "one_copy_missing"));
    assert_eq!(odd.extra, oddities(&truth, "one_copy_too_many"));
    assert_eq!(odd.stale, oddities(&truth, "copies_of_different_age"));
    assert_eq!(odd.deleted, oddities(&truth, "deleted_since_backup"));
    assert_eq!(odd.added, oddities(&truth, "added_since_backup"));

    let counts: Vec<u64> = truth["agents"].as_array().unwrap().iter().map(|a| a["count"].as_u64().unwrap()).collect();
    for (agent, count) in counts.iter().enumerate() {
        let moved = |odd: &[Oddity]| odd.iter().filter(|o| o.copies.iter().any(|(on, _)| *on == agent)).count() as u64;
        let live = u64::from(cluster.counts(agent).stored);
        assert_eq!(live + moved(&odd.deleted) - moved(&odd.added), *count, "agent {agent}");
    }
    let placement = cluster.placement();
    assert!(odd.deleted.iter().all(|oddity| !placement.contains_key(&oddity.id)));
    assert!(odd.added.iter().all(|oddity| placement.contains_key(&oddity.id)));
    assert_eq!(placement, cluster.durable_placement());
}

#[tokio::test]
async fn seeds_give_other_ids_and_the_same_again() {
    let start = |seed| Cluster::builder().ids(50).seed(seed).start();
    let (one, same, other) = (start(7).await.unwrap(), start(7).await.unwrap(), start(8).await.unwrap());
    assert_eq!(one.placement(), same.placement());
    assert!(one.placement().keys().all(|id| !other.placement().contains_key(id)));
}

#[tokio::test]
async fn older_copies_may_hold_another_vector() {
    for differ in [false, true] {
        let cluster = Cluster::builder().ids(20).stale(3).stale_vectors_differ(differ).start().await.unwrap();
        for oddity in &cluster.irregularities().stale {
            let [new, old] = [oddity.copies[0], oddity.copies[1]].map(|(agent, _)| cluster.copy(agent, &oddity.id));
            let ((new, new_time), (old, old_time)) = (new.unwrap(), old.unwrap());
            assert_eq!(old_time, new_time - 1_000_000_000);
            assert_eq!(new != old, differ);
        }
    }
}

#[tokio::test]
async fn impossible_clusters_are_refused() {
    for (agents, replica) in [(0, 0), (2, 3), (3, 0)] {
        assert!(Cluster::builder().agents(agents).replica(replica).start().await.is_err());
    }
}

#[tokio::test]
async fn backups_are_tars_with_the_state_of_the_last_backup() {
    let options = ArchiveOptions { compression: Compression::None, suffix: ".tar".into(), ..Default::default() };
    let cluster = Cluster::builder().ids(30).deleted(2).archive(options).start().await.unwrap();
    let mut backups = BTreeMap::new();
    cluster
        .write_backups(|key, content| {
            backups.insert(key.to_owned(), content);
            Ok(())
        })
        .unwrap();
    assert_eq!(backups.keys().collect::<Vec<_>>(), ["vald-agent-0.tar", "vald-agent-1.tar", "vald-agent-2.tar"]);
    let holds = |agent: usize, id: &str| {
        let content = &backups[&format!("vald-agent-{agent}.tar")];
        content.windows(id.len()).any(|window| window == id.as_bytes())
    };
    for oddity in &cluster.irregularities().deleted {
        assert!(oddity.copies.iter().all(|(agent, _)| holds(*agent, &oddity.id)));
    }
    for (id, copies) in cluster.placement() {
        for agent in 0..3 {
            assert_eq!(holds(agent, &id), copies.iter().any(|(on, _)| *on == agent), "{id} on {agent}");
        }
    }
    // Newer content gets in with an upload only.
    let agent = Agent::new(&cluster, 0);
    agent.insert("newcomer", &[0.5; 8], T).await.unwrap();
    agent.commit_and_save().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    cluster.write_backups_to(directory.path()).unwrap();
    let mut content = Vec::new();
    std::fs::File::open(directory.path().join("vald-agent-0.tar")).unwrap().read_to_end(&mut content).unwrap();
    assert!(content.windows(8).any(|window| window == b"newcomer"));
}

#[tokio::test]
async fn agents_of_old_have_no_times_in_their_backups() {
    for (release, has) in [(Release::WITHOUT_TIMES_IN_BACKUPS, false), (Release::CURRENT, true)] {
        let options = ArchiveOptions { compression: Compression::None, ..Default::default() };
        let cluster = Cluster::builder().ids(30).release(release).archive(options).start().await.unwrap();
        let check = |_: &str, content: Vec<u8>| {
            let name = b"ngt-timestamp.kvsdb";
            assert_eq!(content.windows(name.len()).any(|window| window == name), has);
            Ok(())
        };
        cluster.write_backups(check).unwrap();
    }
}

#[tokio::test]
async fn a_hundred_thousand_ids_fit() {
    let cluster = Cluster::builder().ids(100_000).dimension(8).start().await.unwrap();
    let stored: u32 = (0..3).map(|agent| cluster.counts(agent).stored).sum();
    assert_eq!(stored, 200_000);
}

#[tokio::test]
async fn a_hosted_cluster_obeys_line_by_line() {
    let cluster = small().await;
    let id = only_on(&cluster, 2, 0);
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (input, output) = tokio::io::split(theirs);
    let hosted = tokio::spawn(host(cluster, BufReader::new(input), output));
    let (answers, mut requests) = tokio::io::split(ours);
    let mut answers = BufReader::new(answers).lines();
    let first: Addresses = serde_json::from_str(&answers.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(first.agents.len(), 3);

    let mut ask = async |line: &str| -> Value {
        requests.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        serde_json::from_str(&answers.next_line().await.unwrap().unwrap()).unwrap()
    };
    let nothing = serde_json::json!({});
    assert_eq!(ask("watch").await, nothing);
    for word in ["hang", "unhang", "save", "upload", "crash", "start", "restart", "cut", "stop", "start"] {
        assert_eq!(ask(&format!("{word} 1")).await, nothing, "{word}");
    }
    assert_eq!(ask("violations").await["count"], 0);
    assert_eq!(ask(&format!("update {id} {T}")).await, nothing);
    assert_eq!(ask("placement").await[&*id].as_array().unwrap().len(), 2);
    assert_eq!(ask(&format!("delete {id} {}", T + 5)).await, nothing);
    assert_eq!(ask("placement").await.get(&*id), None);
    assert_eq!(ask("durable").await[&*id].as_array().unwrap().len(), 2);
    assert_eq!(ask("resurrected").await, serde_json::json!([]));
    assert_eq!(ask(&format!("insert new {T}")).await, nothing);
    assert_eq!(ask("counts").await.as_array().unwrap().len(), 3);
    for line in ["crash 9", "crash x", "nonsense", "delete unknown 5", "delete", "update x y"] {
        assert!(ask(line).await["error"].is_string(), "{line}");
    }
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(ask(&format!("backups {}", directory.path().display())).await, nothing);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
    // The end of the input ends the host.
    requests.shutdown().await.unwrap();
    hosted.await.unwrap().unwrap();
}
