//! The crash matrix: a job killed before or after any commit and any change to an agent ends as if it had not been.
//!
//! The cluster speaks real gRPC and outlives the engine that is killed. Its observer sees every moment in between:
//! no copy may be missing at any of them, and no id may have more than one too many.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use windlass_clock::SystemClock;
use windlass_engine::{Command, JobRequest, Kinds};
use windlass_rebalance::RebalanceKind;
use windlass_sim::matrix::{self, Case};
use windlass_sim::vald::{Cluster, ClusterBuilder};

use crate::rig::Rig;

/// What is run again and again.
#[derive(Clone)]
struct Scene {
    name: &'static str,
    cluster: fn() -> ClusterBuilder,
    /// An agent that is gone before the job begins.
    lost: Option<usize>,
    spec: fn() -> Value,
    then: Option<Command>,
}

fn small(replica: usize, ids: u64) -> ClusterBuilder {
    Cluster::builder().replica(replica).ids(ids).dimension(4).skew(2.0)
}

async fn case(scene: Scene) -> Case {
    let rig = Rig::start((scene.cluster)()).await;
    if let Some(agent) = scene.lost {
        rig.cluster.stop(agent).await;
    }
    let mut spec = rig.spec((scene.spec)());
    // Otherwise it is named after the folder of its backups, which is another one each time.
    spec["cluster"]["name"] = json!("matrix");
    if let (Some(agent), Some(agents)) = (scene.lost, spec["cluster"]["agents"].as_array_mut()) {
        // One that is listed and does not answer would be waited for in each run.
        agents.remove(agent);
    }
    let rig = Arc::new(rig);
    Case {
        clock: SystemClock::real(),
        kinds: Kinds::new().with(RebalanceKind::new()),
        request: JobRequest { kind: "rebalance".into(), name: "matrix".into(), spec, ..JobRequest::default() },
        others: Vec::new(),
        then: scene.then,
        reversed: false,
        work_dir: rig.folder.path().join("work"),
        fingerprint: Box::new(move || {
            let rig = rig.clone();
            Box::pin(async move { end(&rig) })
        }),
    }
}

/// Everything that must be the same however often the job was killed.
fn end(rig: &Rig) -> String {
    let violations = rig.cluster.violations();
    let mut text = format!("{} violations", rig.cluster.violation_count());
    if let Some(first) = violations.first() {
        text += &format!(" (first: {first:?})");
    }
    text += &format!(", {} came back; backups:", rig.cluster.resurrected().len());
    let mut names: Vec<String> = std::fs::read_dir(rig.backups())
        .unwrap()
        .map(|entry| without_time(&entry.unwrap().file_name().into_string().unwrap()))
        .collect();
    names.sort();
    for name in names {
        text += &format!(" {name}");
    }
    text += "; copies:";
    for (id, on) in rig.cluster.placement() {
        let on: Vec<String> = on.iter().map(|(agent, time)| format!("{agent}@{time}")).collect();
        text += &format!(" {id}={}", on.join("+"));
    }
    text
}

/// A backup that was put aside is named after the moment.
fn without_time(name: &str) -> String {
    let is_time = |part: &&str| part.len() > 15 && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts = name.split_inclusive(['_', '.']);
    parts.map(|part| if is_time(&part.trim_end_matches('.')) { "TIME." } else { part }).collect()
}

/// The engine's commits that every job makes.
const COMMITS: [&str; 7] = ["submit", "claim", "checkpoint", "intend", "settle", "finish", "all_done"];

/// Set to have each run killed at every point instead of some.
const EVERY_POINT: &str = "WINDLASS_EVERY_POINT";

/// Makes the matrix of `scene` with each `every`th point and checks it: each run ends as the clean one, that is what
/// `clean` says, and both sides of all commits and of `effects` were among the points.
async fn check(scene: Scene, every: usize, effects: &[&str], clean: &[&str]) {
    let every = if std::env::var_os(EVERY_POINT).is_some() { 1 } else { every };
    let clock = SystemClock::real();
    let begun = clock.monotonic();
    let matrix = matrix::make(|| case(scene.clone()), every).await;
    println!("{}: clean run: {}", scene.name, matrix.clean);
    println!("{}", matrix.to_table());
    let took = (clock.monotonic() - begun).as_secs_f64();
    println!("{}: {} kills (each {every}. point), {took:.1} s", scene.name, matrix.rows.len());
    assert!(matrix.clean.contains("0 violations, 0 came back"), "{}", matrix.clean);
    for part in clean {
        assert!(matrix.clean.contains(part), "{part:?} is not in {}", matrix.clean);
    }
    assert!(matrix.different().is_empty(), "{:#?}", matrix.different());
    let met: BTreeSet<(String, &str)> =
        matrix.rows.iter().map(|row| (format!("{:?}", row.moment), row.label.as_str())).collect();
    let commits = COMMITS.iter().flat_map(|label| [("BeforeCommit", *label), ("AfterCommit", *label)]);
    let effects = effects.iter().flat_map(|label| [("BeforeEffect", *label), ("AfterEffect", *label)]);
    for (moment, label) in commits.chain(effects) {
        assert!(met.contains(&(moment.to_owned(), label)), "no run was killed at {moment} {label}, only at {met:?}");
    }
    let reached = matrix.rows.iter().filter(|row| row.reached).count();
    assert!(reached * 10 >= matrix.rows.len() * 9, "only {reached} of {} kills happened", matrix.rows.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evening_out_two_copies_of_each_id() {
    let scene = Scene {
        name: "deviation, R = 2",
        cluster: || small(2, 30).seed(31),
        lost: None,
        spec: || json!({ "chunk": 6 }),
        then: None,
    };
    check(scene, 1, &["insert", "create_and_save_index", "remove"], &["succeeded"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evening_out_the_only_copy_of_each_id() {
    let scene = Scene {
        name: "deviation, R = 1",
        cluster: || small(1, 30).seed(32),
        lost: None,
        spec: || json!({ "index_replica": 1, "chunk": 6 }),
        then: None,
    };
    check(scene, 3, &["insert", "create_and_save_index", "remove"], &["succeeded"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_an_agent_with_ids_that_came_after_its_backup() {
    let scene = Scene {
        name: "drain, R = 2",
        cluster: || small(2, 24).agents(4).skew(0.0).added(6).seed(33),
        lost: None,
        spec: || json!({ "mode": "drain", "agents": ["vald-agent-1"], "chunk": 6 }),
        then: None,
    };
    check(scene, 9, &["insert", "create_and_save_index", "remove"], &["succeeded"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filling_up_what_a_lost_agent_held() {
    let scene = Scene {
        name: "recovery by the others, R = 2",
        cluster: || small(2, 24).agents(4).skew(0.0).seed(34),
        lost: Some(3),
        spec: || json!({ "mode": "recovery", "agents": ["vald-agent-3"], "chunk": 6 }),
        then: None,
    };
    check(scene, 3, &["insert", "create_and_save_index", "rename"], &["succeeded", "vald-agent-3_TIME.tar.gz"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restoring_the_only_copies_from_the_backup_of_a_lost_agent() {
    let scene = Scene {
        name: "recovery from the backup, R = 1",
        cluster: || small(1, 36).seed(35),
        lost: Some(2),
        spec: || json!({ "mode": "recovery", "index_replica": 1, "agents": ["vald-agent-2"], "chunk": 6 }),
        then: None,
    };
    check(scene, 3, &["insert", "create_and_save_index", "rename"], &["succeeded", "vald-agent-2_TIME.tar.gz"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repairing_copies_that_are_missing_too_many_or_too_old() {
    let scene = Scene {
        name: "irregular copies, R = 2",
        cluster: || small(2, 30).missing(2).extra(2).stale(2).deleted(2).added(2).seed(36),
        lost: None,
        spec: || json!({ "mode": "manual", "chunk": 8 }),
        then: None,
    };
    check(scene, 5, &["insert", "create_and_save_index", "remove"], &["succeeded"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undoing_what_was_evened_out() {
    let scene = Scene {
        name: "deviation undone, R = 2",
        cluster: || small(2, 24).seed(37),
        lost: None,
        spec: || json!({ "chunk": 6 }),
        then: Some(Command::Undo),
    };
    check(scene, 5, &["insert", "create_and_save_index", "remove"], &["finished"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undoing_a_recovery() {
    let scene = Scene {
        name: "recovery undone, R = 1",
        cluster: || small(1, 24).seed(38),
        lost: Some(2),
        spec: || json!({ "mode": "recovery", "index_replica": 1, "agents": ["vald-agent-2"], "chunk": 8 }),
        then: Some(Command::Undo),
    };
    check(scene, 5, &["insert", "create_and_save_index", "rename"], &["finished", " vald-agent-2.tar.gz"]).await;
}
