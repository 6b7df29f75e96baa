//! What stage 1 and the planner refuse.

use serde_json::json;
use windlass_sim::vald::Cluster;

use crate::rig::Rig;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_agent_makes_the_periodic_check_rest_and_a_person_is_told() {
    let rig = Rig::start(Cluster::builder().ids(200).skew(2.0).seed(21)).await;
    rig.cluster.stop(2).await;
    let changes = rig.cluster.mutations().len();
    let run = rig.run(rig.spec(json!({}))).await.succeeded();
    assert_eq!(run.verdict(), "nothing_to_do");
    let reason = run.summary["decision"]["reason"].as_str().unwrap();
    assert!(reason.contains("2 agents run where 3 are wanted (no answer from vald-agent-2)"), "{reason}");
    // The fullest agent is the dead one: a plan would have to take from it.
    let run = rig.run(rig.spec(json!({ "mode": "manual" }))).await.failed();
    assert_eq!(run.failures(), [("agent_unreachable".to_owned(), "vald-agent-2".to_owned())]);
    let run = rig.run(rig.spec(json!({ "mode": "drain", "agents": ["vald-agent-2"] }))).await.failed();
    assert_eq!(run.failures()[0].0, "agent_unreachable");
    assert_eq!(rig.cluster.mutations().len(), changes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_replica_number_is_noticed_before_anything_moves() {
    let rig = Rig::start(Cluster::builder().ids(200).skew(2.0).seed(22)).await;
    let gateway = rig.cluster.addresses().gateway;
    for replicas in [1, 3] {
        // By the copies themselves.
        let run = rig.run(rig.spec(json!({ "index_replica": replicas, "mode": "manual" }))).await.failed();
        assert_eq!(run.failures()[0].0, "index_replica_mismatch", "{replicas}");
        // By the gateway.
        let mut spec = rig.spec(json!({ "index_replica": replicas }));
        spec["cluster"]["gateway"] = json!(gateway);
        assert_eq!(rig.run(spec).await.failed().failures()[0].0, "index_replica_mismatch");
    }
    let mut spec = rig.spec(json!({ "index_replica": null, "mode": "plan" }));
    spec["cluster"]["gateway"] = json!(gateway);
    let run = rig.run(spec).await.succeeded();
    assert_eq!(run.summary["index_replica"], 2);
    assert_eq!(rig.cluster.mutations(), []);
}

/// The cluster as its discoverer tells it.
fn discovered(rig: &Rig) -> serde_json::Value {
    json!({
        "discoverer": rig.cluster.addresses().discoverer,
        "agent_set": "vald-agent",
        "agent_port": rig.cluster.address(0).port(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_and_their_memory_come_from_the_discoverer() {
    let rig = Rig::start(Cluster::builder().ids(200).skew(2.0).seed(23).one_port(true)).await;
    let spec = rig.spec(json!({ "mode": "plan", "plan_for": "manual", "cluster": discovered(&rig) }));
    let run = rig.run(spec).await.succeeded();
    assert_eq!(run.summary["agents"].as_array().unwrap().len(), 3);
    assert!(run.summary["plan"]["totals"]["moves"].as_u64().unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_leaves_too_few_agents_is_refused() {
    let rig = Rig::start(Cluster::builder().agents(2).ids(50).seed(24).one_port(true)).await;
    let spec = json!({ "mode": "drain", "agents": ["vald-agent-0"], "cluster": discovered(&rig) });
    let run = rig.run(rig.spec(spec)).await.failed();
    assert_eq!(run.failures()[0].0, "too_few_agents");
    assert_eq!(rig.cluster.mutations(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_came_back_is_not_recovered() {
    let rig = Rig::start(Cluster::builder().ids(50).seed(25)).await;
    let run = rig.run(rig.spec(json!({ "mode": "recovery", "agents": ["vald-agent-1"] }))).await.succeeded();
    assert_eq!(run.verdict(), "nothing_to_do");
    assert!(run.summary["warnings"].to_string().contains("answers again"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_lost_agents_each_is_judged_by_itself() {
    let rig = Rig::start(Cluster::builder().agents(5).ids(300).seed(26)).await;
    rig.cluster.stop(3).await;
    rig.cluster.stop(4).await;
    std::fs::remove_file(rig.backups().join("vald-agent-4.tar.gz")).unwrap();
    let spec = rig.spec(json!({ "mode": "recovery", "agents": ["vald-agent-3", "vald-agent-4"] }));
    let run = rig.run(spec).await.failed();
    assert_eq!(run.failures(), [("object_not_found".to_owned(), "vald-agent-4".to_owned())]);
    assert!(run.outcome("done") > 0, "the other one was recovered: {:#}", run.summary);
    assert!(run.summary["given_up"]["vald-agent-4"].is_string());
    // Ids that were on both may be in the one backup that is left, and nowhere else.
    assert!(run.summary["renamed_backups"][0]["kept_because"].as_str().unwrap().contains("not accounted for"));
    assert!(rig.backups().join("vald-agent-3.tar.gz").exists());
}
