//! Nodes that are away when they are told to fetch a file, and transfers whose speed changes under way.

use std::time::Duration;

use serde_json::json;
use windlass_clock::SystemClock;
use windlass_model::task::Outcome;

use crate::rig::Rig;

#[tokio::test]
async fn an_order_that_never_came_to_a_dead_node_goes_to_another_one() {
    let rig = Rig::new(&[("A.mpg", 100)]);
    let source = rig.nodes.start(1_000, &[]).await;
    let small = rig.nodes.start(1_000, &[("A.mpg", 100)]).await;
    let large = rig.nodes.start(4_000, &[]).await;
    let mut spec = rig.spec(&source, &[&small, &large]);
    // Who does not answer is asked again each second; before, nobody looks.
    (spec["watch"]["every"], spec["revoke_grace"]) = (json!("8s"), json!("50s"));
    let engine = rig.engine().await;
    let job = rig.submit(&engine, spec).await;
    rig.settled(job).await;
    rig.nodes.close(&large);
    rig.on_origin("B.mpg", 50);
    rig.catalogue(&[("A.mpg", 100), ("B.mpg", 50)]);
    // A file that was to blame would wait for a minute, which is longer than this waits.
    rig.until("the other node has it", async || rig.nodes.holders("B.mpg") == [small.clone()]).await;
    let view = windlass_engine::view::job(&rig.store, engine.kinds(), job, rig.clock.wall()).await.unwrap();
    let failed: Vec<String> = view
        .tasks
        .iter()
        .filter_map(|task| match task.status.outcome() {
            Some(Outcome::Failed { failure }) => Some(failure.code.clone()),
            _ => None,
        })
        .collect();
    assert!(failed.iter().all(|code| code == "node_down") && failed.len() <= 1, "{failed:?}");
    assert_eq!(rig.nodes.wrong(), Vec::<String>::new());
}

#[tokio::test]
async fn a_transfer_under_way_goes_as_fast_as_the_hour_says() {
    let clock = SystemClock::starting_at("2026-03-02T02:30:00Z".parse().unwrap());
    let rig = Rig::on(clock.clone(), &[("A.mpg", 100)]);
    rig.nodes.takes(Duration::from_secs(7 * 24 * 3600));
    let source = rig.nodes.start(1_000, &[]).await;
    let a = rig.nodes.start(1_000, &[]).await;
    let mut spec = rig.spec(&source, &[&a]);
    let row = |from: &str, to: &str, bits: u64| json!({ "hours": { "from": from, "to": to }, "bits_per_second": bits });
    spec["bandwidth"] = json!([row("02:00", "03:00", 8), row("03:00", "04:00", 16)]);
    let engine = rig.engine().await;
    let job = rig.submit(&engine, spec).await;
    rig.until("it is under way", async || rig.nodes.copies() == ["A.mpg"]).await;
    assert_eq!(rig.nodes.paces(), [], "it was ordered so");
    let hour = 3_600_000;
    clock.jump_wall(hour);
    rig.until("it may go faster", async || rig.nodes.paces() == [Some(16)]).await;
    clock.jump_wall(hour);
    rig.settled(job).await;
    assert_eq!((rig.nodes.paces(), rig.nodes.holders("A.mpg")), (vec![Some(16), None], vec![a]));
}
