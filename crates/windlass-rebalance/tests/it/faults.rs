//! Agents that lose answers, crash or hang during a job, and clients that write meanwhile: no copy is ever missing,
//! nothing that was deleted comes back, nothing new is replaced by something old, and the job then has nothing left
//! to do.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::{SharedClock, SystemClock};
use windlass_sim::vald::{Action, Cluster, ClusterBuilder, Fault, Method, Vector};

use crate::rig::{Rig, Run};

/// The methods of agents that a job changes something with.
const CHANGING: [Method; 4] = [Method::Insert, Method::Remove, Method::CreateAndSaveIndex, Method::Update];

fn builder(replica: usize, seed: u64) -> ClusterBuilder {
    Cluster::builder().replica(replica).ids(90).dimension(4).skew(2.0).seed(seed)
}

/// Irregular copies too, so that there are updates.
fn irregular(seed: u64) -> ClusterBuilder {
    builder(2, seed).missing(3).extra(3).stale(3).deleted(3).added(3)
}

fn members(replica: usize) -> Value {
    json!({ "mode": "manual", "index_replica": replica, "chunk": 12, "call_timeout": "300ms", "cool_down": "0s" })
}

/// The same job again has nothing to do.
async fn assert_finished(rig: &Rig, replica: usize) {
    for agent in 0..rig.cluster.agents() {
        // As the cluster's own schedule does, so that the backups are of now.
        rig.cluster.clear_faults(agent);
        rig.cluster.build_and_save(agent).await.unwrap();
    }
    let changes = rig.cluster.mutations().len();
    let again = rig.run(rig.spec(members(replica))).await.succeeded();
    assert_eq!(again.verdict(), "nothing_to_do", "{:#}", again.summary);
    assert_eq!(rig.cluster.mutations().len(), changes);
}

/// Runs a job through `faults`, planted on each agent, and checks all that must hold.
async fn survives(name: &str, replica: usize, builder: ClusterBuilder, faults: &[Fault]) {
    let rig = Rig::start(builder).await;
    let before = rig.cluster.placement();
    for agent in 0..rig.cluster.agents() {
        for fault in faults {
            rig.cluster.inject(agent, fault.clone());
        }
    }
    let run = rig.run(rig.spec(members(replica))).await;
    assert!(run.status.result.is_some(), "{name}: {:#?}", run.status);
    let run = run.succeeded();
    assert_eq!(run.verdict(), "done", "{name}: {:#}", run.summary);
    rig.assert_nothing_lost(&before);
    rig.assert_copies(replica);
    assert_finished(&rig, replica).await;
    println!("{name}: survived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_answers_that_get_lost() {
    for method in CHANGING {
        let lost = [
            ("request", Fault::on(method).nth(2)),
            ("answer", Fault::on(method).nth(2).after()),
            ("answer in time", Fault::on(method).nth(3).after().action(Action::NoAnswer)),
        ];
        for (what, fault) in lost {
            // A commit may take long: its answer is waited for.
            if method == Method::CreateAndSaveIndex && what == "answer in time" {
                continue;
            }
            survives(&format!("{what} of {method}"), 2, irregular(51), &[fault]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_and_answers_that_get_lost() {
    for replica in [1, 2] {
        for seed in 0..3 {
            let faults = [Fault::on_any().chance(30, seed), Fault::on_any().chance(30, seed + 100).after()];
            survives(&format!("R = {replica}, seed {seed}"), replica, builder(replica, 52 + seed), &faults).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_crash_in_the_middle_of_a_chunk_and_restart_from_their_last_save() {
    let moments = [
        Fault::on(Method::GetObject).nth(4),
        Fault::on(Method::Insert).nth(7).after(),
        Fault::on(Method::GetTimestamp).nth(20),
        Fault::on(Method::CreateAndSaveIndex).nth(1),
        Fault::on(Method::CreateAndSaveIndex).nth(1).after(),
        Fault::on(Method::Remove).nth(5).after(),
    ];
    for replica in [1, 2] {
        for moment in &moments {
            let fault = moment.clone().action(Action::Restart);
            survives(&format!("R = {replica}, {moment:?}"), replica, builder(replica, 55), &[fault]).await;
        }
    }
}

async fn until(clock: &SharedClock, reached: impl Fn() -> bool) {
    while !reached() {
        clock.sleep(Duration::from_millis(1)).await;
    }
}

fn calls(rig: &Rig, method: Method) -> u64 {
    (0..rig.cluster.agents()).map(|agent| rig.cluster.calls(agent, method)).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_hangs_for_longer_than_a_call_may_take() {
    let clock = SystemClock::real();
    for method in [Method::GetObject, Method::Insert, Method::GetTimestamp, Method::Remove] {
        for agent in 0..3 {
            let rig = Arc::new(Rig::start(builder(2, 56)).await);
            let before = rig.cluster.placement();
            let hanging = {
                let (rig, clock) = (rig.clone(), clock.clone());
                tokio::spawn(async move {
                    until(&clock, || calls(&rig, method) >= 8).await;
                    rig.cluster.hang(agent, true);
                    clock.sleep(Duration::from_millis(700)).await;
                    rig.cluster.hang(agent, false);
                })
            };
            let run = rig.run(rig.spec(members(2))).await.succeeded();
            hanging.await.unwrap();
            assert_eq!(run.verdict(), "done", "{method} {agent}");
            rig.assert_nothing_lost(&before);
            rig.assert_copies(2);
            assert_finished(&rig, 2).await;
        }
    }
}

/// What a client does to an id.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Write {
    Delete,
    /// Where the copies are.
    Update,
    /// Removed everywhere and inserted on the emptiest agents, as gateways do.
    Balanced,
}

/// The ids that the job moves on this cluster.
async fn moved(replica: usize, seed: u64) -> Vec<String> {
    let rig = Rig::start(builder(replica, seed)).await;
    let before = rig.cluster.placement();
    rig.run(rig.spec(members(replica))).await.succeeded();
    let after = rig.cluster.placement();
    before.iter().filter(|(id, on)| after[*id] != **on).map(|(id, _)| id.to_string()).collect()
}

/// Writes to some ids under way as soon as `method` has been called so often.
async fn clients_write(rig: &Rig, ids: &[String], write: Write, (method, count): (Method, u64)) -> Vec<(String, i64)> {
    until(&SystemClock::real(), || calls(rig, method) >= count).await;
    let mut written = Vec::new();
    for id in ids {
        let time = rig.cluster.now();
        let vector: Vector = [0.5, 0.25, 0.125, 1.0].into();
        let done = match write {
            Write::Delete => rig.cluster.client_delete(id, time),
            Write::Update => rig.cluster.client_update(id, &vector, time),
            Write::Balanced => rig.cluster.client_update_balanced(id, &vector, time),
        };
        done.unwrap();
        written.push((id.clone(), time));
    }
    written
}

async fn clients_meanwhile(replica: usize, write: Write, seed: u64) {
    let ids = moved(replica, seed).await;
    assert!(ids.len() >= 12, "too few to choose from: {}", ids.len());
    let moments = [
        (Method::GetTimestamp, 3),
        (Method::Insert, 2),
        (Method::Insert, 9),
        (Method::CreateAndSaveIndex, 1),
        (Method::CreateAndSaveIndex, 2),
        (Method::Remove, 1),
        (Method::Remove, 6),
    ];
    for moment in moments {
        let name = format!("R = {replica}, {write:?} at {moment:?}");
        let rig = Arc::new(Rig::start(builder(replica, seed)).await);
        if write == Write::Balanced {
            // Such an update puts copies where a move may be putting one, too.
            rig.cluster.watch_copies(false);
        }
        let writing = {
            // A few of each chunk; if too many are deleted, the job takes its backups to be too old.
            let ids: Vec<String> = ids.iter().step_by(6).cloned().collect();
            let rig = rig.clone();
            tokio::spawn(async move { clients_write(&rig, &ids, write, moment).await })
        };
        let run: Run = rig.run(rig.spec(members(replica))).await.succeeded();
        let written = writing.await.unwrap();
        assert_eq!(rig.cluster.violations(), [], "{name}");
        assert!(rig.cluster.resurrected().is_empty(), "{name}: {:#}", run.summary["moves"]);
        for agent in 0..3 {
            rig.cluster.build_and_save(agent).await.unwrap();
        }
        assert!(rig.cluster.resurrected().is_empty(), "{name}: back after a commit");
        let placement = rig.cluster.placement();
        for (id, time) in &written {
            let copies = placement.get(id.as_str());
            match write {
                Write::Delete => assert_eq!(copies, None, "{name}: {id}"),
                Write::Update | Write::Balanced => {
                    let copies = copies.unwrap_or_else(|| panic!("{name}: {id} is gone"));
                    assert!(copies.iter().all(|(_, found)| found > time), "{name}: {id} at {time}: {copies:?}");
                    assert!(copies.len() >= replica, "{name}: {id} at {time}: {copies:?}");
                }
            }
        }
        println!(
            "{name}: {} written, outcomes {} {}",
            written.len(),
            run.summary["moves"]["outcomes"],
            run.summary["moves"]["listed"]
        );
        let surplus: Vec<_> = placement.iter().filter(|(_, on)| on.len() != replica).collect();
        assert!(surplus.is_empty(), "{name}: {surplus:?}\n{:#}", run.summary["moves"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_delete_during_a_job_stays_deleted() {
    clients_meanwhile(2, Write::Delete, 61).await;
    clients_meanwhile(1, Write::Delete, 62).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_write_during_a_job_is_not_replaced() {
    clients_meanwhile(2, Write::Update, 63).await;
    clients_meanwhile(1, Write::Update, 64).await;
    clients_meanwhile(2, Write::Balanced, 65).await;
}
