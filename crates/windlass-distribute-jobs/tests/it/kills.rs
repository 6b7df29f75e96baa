//! A controller that is killed at random moments, over nodes that die and come back and inputs that change.
//!
//! `WINDLASS_SEED=n` runs one seed again, `WINDLASS_ROUNDS=n` runs as many kills.

use std::time::Duration;

use windlass_clock::{Entropy, Seeded};

use crate::node::Lie;
use crate::rig::Rig;

/// Kills of a usual test run.
const ROUNDS: u64 = 12;
/// Files that may be wanted.
const FILES: u64 = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test]
async fn a_controller_that_is_killed_at_random_moments_loses_nothing_and_copies_nothing_twice() {
    let seed = number("WINDLASS_SEED").unwrap_or(7);
    let rounds = number("WINDLASS_ROUNDS").unwrap_or(ROUNDS);
    println!("seed {seed}, {rounds} kills; run it again with WINDLASS_SEED={seed} WINDLASS_ROUNDS={rounds}");
    let dice = Seeded::new(seed);
    let pick = |n: u64| dice.next_u64() % n;
    let names: Vec<String> = (0..FILES).map(|n| format!("F{n:02} #?%.mpg")).collect();
    let all: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 100)).collect();
    let rig = Rig::new(&all);
    let sources = [rig.nodes.start(1_000, &[]).await, rig.nodes.start(1_000, &[]).await];
    let mut nodes = Vec::new();
    for n in 0..3 {
        // Some files are on two nodes, some on none.
        let there: Vec<(&str, u64)> = all.iter().copied().filter(|_| pick(3) == 0).collect();
        nodes.push(rig.nodes.start(10_000 + n, &there).await);
    }
    let mut spec = rig.spec(&sources[0], &nodes.iter().collect::<Vec<_>>());
    spec["nodes"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({ "address": sources[1], "source": true, "destination": false }));
    let mut engine = rig.engine().await;
    let job = rig.submit(&engine, spec).await;
    for round in 0..rounds {
        rig.nodes.takes(Duration::from_millis(5 + pick(60)));
        rig.clock.sleep(Duration::from_millis(pick(600))).await;
        match pick(5) {
            0 => rig.nodes.lie(&nodes[usize::try_from(pick(3)).unwrap()], Lie::Dead),
            1 => rig.nodes.lie(&nodes[usize::try_from(pick(3)).unwrap()], Lie::Cut),
            2 => nodes.iter().for_each(|node| rig.nodes.lie(node, Lie::None)),
            3 => {
                // A copy is lost by itself.
                let node = &nodes[usize::try_from(pick(3)).unwrap()];
                if let Some(file) = rig.nodes.files(node).first() {
                    rig.nodes.lose(node, file);
                }
            }
            _ => {
                // And one appears twice.
                let (node, name) =
                    (&nodes[usize::try_from(pick(3)).unwrap()], &names[usize::try_from(pick(FILES)).unwrap()]);
                if rig.nodes.holders(name).len() == 1 {
                    rig.nodes.put(node, name, 100);
                }
            }
        }
        rig.clock.sleep(Duration::from_millis(pick(400))).await;
        rig.kill(engine).await;
        engine = rig.engine().await;
        assert_eq!(rig.nodes.wrong(), Vec::<String>::new(), "seed {seed}, kill {round}: {}", rig.nodes.picture());
    }
    nodes.iter().for_each(|node| rig.nodes.lie(node, Lie::None));
    // What failed while nodes were away is tried again after a minute: files that nobody had wait for that.
    rig.until("every file that could be copied is there once", async || {
        let status = rig.status(job).await;
        let later = status["passed_over"]["retry_later"].as_u64().unwrap_or(0);
        let once = names.iter().filter(|name| rig.nodes.holders(name).len() == 1).count() as u64;
        status["trusted"] == 3 && status["settled"] == true && once + later >= FILES
    })
    .await;
    assert_eq!(rig.nodes.wrong(), Vec::<String>::new(), "seed {seed}: {}", rig.nodes.picture());
    println!("{} copies and {} deletes after {rounds} kills", rig.nodes.copies().len(), rig.nodes.deletes().len());
}
