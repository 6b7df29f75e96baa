//! Whole jobs, from the spec to the report.

use serde_json::json;
use windlass_sim::vald::{Cluster, ClusterBuilder};

use crate::rig::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deviation_is_evened_out_once_and_then_there_is_nothing_to_do() {
    let rig = Rig::start(Cluster::builder().ids(600).skew(2.0).seed(1)).await;
    let before = rig.cluster.placement();
    let run = rig.run(rig.spec(json!({ "chunk": 50 }))).await.succeeded();
    assert_eq!(run.verdict(), "done");
    assert!(run.outcome("done") > 50, "{:#}", run.summary);
    assert!(run.spread("before") > 1.2 && run.spread("after") <= 1.1 + 1e-9, "{:#}", run.summary["spread"]);
    assert!((run.spread("after") - run.spread("predicted")).abs() < 0.01, "{:#}", run.summary["spread"]);
    rig.assert_nothing_lost(&before);
    rig.assert_copies(2);

    let changes = rig.cluster.mutations().len();
    let cooling = rig.run(rig.spec(json!({}))).await.succeeded();
    assert_eq!(cooling.verdict(), "nothing_to_do");
    assert!(cooling.summary["decision"]["reason"].as_str().unwrap().contains("ended less than"));
    let calm = rig.run(rig.spec(json!({ "cool_down": "0s" }))).await.succeeded();
    assert_eq!(calm.verdict(), "nothing_to_do");
    assert!(calm.summary["decision"]["reason"].as_str().unwrap().contains("within the tolerance"));
    assert_eq!(rig.cluster.mutations().len(), changes, "nothing was asked of any agent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_made_and_nothing_moves() {
    let rig = Rig::start(Cluster::builder().ids(300).skew(2.0).seed(2)).await;
    let before = rig.cluster.placement();
    let run = rig.run(rig.spec(json!({ "mode": "plan" }))).await.succeeded();
    assert_eq!(run.verdict(), "planned");
    assert!(run.summary["plan"]["totals"]["moves"].as_u64().unwrap() > 0);
    assert_eq!(rig.cluster.placement(), before);
    assert_eq!(rig.cluster.mutations(), []);
    let again = rig.run(rig.spec(json!({ "mode": "plan" }))).await.succeeded();
    assert_eq!(again.summary["plan"], run.summary["plan"], "the same inputs give the same plan");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_says_in_words_what_would_move_and_changes_nothing() {
    let rig = Rig::start(Cluster::builder().ids(300).skew(2.0).seed(3)).await;
    let (preview, text) = rig.preview(rig.spec(json!({}))).await;
    for part in ["vald-agent-2 is the fullest agent", "vald-agent-0.tar.gz (fast", "step", "move", "spread (max/mean)"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(preview.would_run.iter().any(|task| task.task_type == "rebalance.move"));
    assert!(preview.would_run.iter().any(|task| task.task_type == "rebalance.finish"));
    assert_eq!(rig.cluster.mutations(), []);
    let (_, calm) = rig.preview(rig.spec(json!({ "tolerance": 5.0 }))).await;
    assert!(calm.contains("nothing to do:"), "{calm}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_agent_is_empty_in_the_end_even_of_what_came_after_the_backup() {
    let rig = Rig::start(Cluster::builder().agents(4).ids(400).added(20).seed(4)).await;
    let before = rig.cluster.placement();
    let spec = rig.spec(json!({ "mode": "drain", "agents": ["vald-agent-1"], "chunk": 100 }));
    let run = rig.run(spec).await.succeeded();
    assert_eq!(rig.counts()[1], 0, "{:#}", run.summary);
    assert!(!run.summary["sweeps"].as_array().unwrap().is_empty());
    rig.assert_nothing_lost(&before);
    rig.assert_copies(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_agent_held_is_filled_up_from_the_others() {
    let rig = Rig::start(Cluster::builder().agents(4).ids(300).seed(5)).await;
    rig.cluster.stop(3).await;
    let spec = rig.spec(json!({ "mode": "recovery", "agents": ["vald-agent-3"], "chunk": 100 }));
    let run = rig.run(spec).await.succeeded();
    let placement = rig.cluster.placement();
    for (id, on) in &placement {
        let living = on.iter().filter(|(agent, _)| *agent != 3).count();
        assert_eq!(living, 2, "{id} is on {on:?}");
    }
    assert_eq!(run.summary["backups"][3]["read_mode"], "full");
    let renamed = run.summary["renamed_backups"][0]["renamed_to"].as_str().unwrap();
    assert!(renamed.starts_with("vald-agent-3_") && renamed.ends_with(".tar.gz"), "{renamed}");
    assert!(rig.backups().join(renamed).exists());
    assert!(!rig.backups().join("vald-agent-3.tar.gz").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_copies_of_a_lost_agent_are_restored_from_its_backup() {
    let rig = Rig::start(Cluster::builder().agents(3).replica(1).ids(300).seed(6)).await;
    let before = rig.cluster.placement();
    rig.cluster.stop(2).await;
    let spec = rig.spec(json!({ "mode": "recovery", "index_replica": 1, "agents": ["vald-agent-2"], "chunk": 100 }));
    let run = rig.run(spec).await.succeeded();
    let lost: Vec<_> = before.iter().filter(|(_, on)| on.iter().any(|(agent, _)| *agent == 2)).collect();
    assert_eq!(run.outcome("done"), lost.len() as u64, "{:#}", run.summary["moves"]);
    for (id, on) in lost {
        let time = on[0].1;
        let (vector, found) = (0..2).find_map(|agent| rig.cluster.copy(agent, id)).unwrap();
        assert_eq!(found, time, "restored vectors keep the time of the backup");
        assert_eq!(vector, rig.cluster.copy(2, id).unwrap().0);
    }
    assert!(!rig.backups().join("vald-agent-2.tar.gz").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_moves_a_share_off_one_agent() {
    let rig = Rig::start(Cluster::builder().agents(4).ids(400).skew(0.0).seed(7)).await;
    let before = rig.cluster.placement();
    let full = rig.counts();
    let spec = rig.spec(json!({ "mode": "manual", "agents": ["vald-agent-0"], "rate": 0.25 }));
    let run = rig.run(spec).await.succeeded();
    assert_eq!(run.outcome("done"), full[0] / 4);
    assert_eq!(rig.counts()[0], full[0] - full[0] / 4);
    rig.assert_nothing_lost(&before);
    rig.assert_copies(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn irregular_copies_are_repaired_on_the_way() {
    let rig = Rig::start(ClusterBuilder::cluster3()).await;
    let odd = rig.cluster.irregularities().clone();
    let run = rig.run(rig.spec(json!({ "mode": "manual" }))).await.succeeded();
    let placement = rig.cluster.placement();
    for missing in &odd.missing {
        assert_eq!(placement[&missing.id].len(), 2, "{missing:?}");
    }
    for extra in &odd.extra {
        assert_eq!(placement[&extra.id].len(), 2, "{extra:?}");
    }
    for stale in &odd.stale {
        let newest = stale.copies.iter().map(|(_, time)| *time).max().unwrap();
        assert!(placement[&stale.id].iter().all(|(_, time)| *time >= newest), "{stale:?} {:?}", placement[&stale.id]);
    }
    for deleted in &odd.deleted {
        assert!(!placement.contains_key(&deleted.id), "{deleted:?} came back");
    }
    assert_eq!(rig.cluster.violations(), [], "{:#}", run.summary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_job_per_cluster_runs_at_a_time_by_name() {
    use windlass_engine::kind::Kind;
    let rig = Rig::start(Cluster::builder().ids(10)).await;
    let kind = windlass_rebalance::RebalanceKind::new();
    let names = kind.exclusive(&rig.spec(json!({})));
    assert_eq!(
        names,
        kind.exclusive(&rig.spec(json!({ "mode": "drain", "agents": ["vald-agent-0"], "index_replica": 1 })))
    );
    assert_eq!(names.len(), 1);
    assert!(kind.exclusive(&rig.spec(json!({ "mode": "plan" }))).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undone_recovery_gives_the_backup_its_name_back_and_takes_the_copies_away() {
    let rig = Rig::start(Cluster::builder().agents(4).ids(200).seed(8)).await;
    rig.cluster.stop(3).await;
    let before = rig.cluster.placement();
    let spec = rig.spec(json!({ "mode": "recovery", "agents": ["vald-agent-3"] }));
    let run = rig.run_and_undo(spec).await;
    assert_eq!(run.status.state, windlass_model::job::JobState::Finished, "{:#}", run.report);
    let names = |placement: &windlass_sim::vald::Placement| -> Vec<(String, Vec<usize>)> {
        placement.iter().map(|(id, on)| (id.to_string(), on.iter().map(|(agent, _)| *agent).collect())).collect()
    };
    assert_eq!(names(&rig.cluster.placement()), names(&before));
    assert!(rig.backups().join("vald-agent-3.tar.gz").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_process_dies_goes_on_where_it_was() {
    let rig = Rig::start(Cluster::builder().ids(600).skew(2.0).seed(9)).await;
    let before = rig.cluster.placement();
    let spec = rig.spec(json!({ "chunk": 30 }));
    let run = rig.run_dying(8, spec).await.succeeded();
    assert_eq!(run.verdict(), "done");
    assert!(run.spread("after") <= 1.1 + 1e-9, "{:#}", run.summary["spread"]);
    rig.assert_nothing_lost(&before);
    rig.assert_copies(2);
}
