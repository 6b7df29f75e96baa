//! Everything at once, from a seed: clients, crashes of agents and of the job, requests and answers that get lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use windlass_clock::{Entropy, Seeded};
use windlass_sim::vald::Fault;

use super::rig::{Rig, cluster, count, quick};
use crate::moves::input::{ChunkKind, MoveInput, MoveSettings};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Weather {
    /// Clients write and delete.
    Clients,
    /// Agents crash.
    Crashes,
    /// Agents crash and clients write. Not delete: a crash brings back what was deleted just before it, whoever
    /// moves vectors or does not.
    Both,
}

fn below(entropy: &dyn Entropy, limit: usize) -> usize {
    (entropy.next_u64() % limit as u64) as usize
}

fn gust(rig: &Rig, ids: &[String], entropy: &dyn Entropy, weather: Weather) {
    let crash = match weather {
        Weather::Clients => false,
        Weather::Crashes => true,
        Weather::Both => entropy.next_u64().is_multiple_of(2),
    };
    if crash {
        return rig.cluster.restart(below(entropy, 3));
    }
    let id = &ids[below(entropy, ids.len())];
    let vector = [entropy.fraction() as f32; 8];
    // Whether the client succeeds is its own affair.
    let _ = match entropy.next_u64() % 4 {
        0 if weather == Weather::Clients => rig.cluster.client_delete(id, rig.cluster.now()),
        1 => rig.cluster.client_update_balanced(id, &vector, rig.cluster.now()),
        2 => rig.cluster.client_insert(id, &vector, rig.cluster.now()),
        _ => rig.cluster.client_update(id, &vector, rig.cluster.now()),
    };
}

async fn storm(kind: ChunkKind, weather: Weather, seed: u64) {
    let name = format!("{kind:?} {weather:?} {seed}");
    // To the observer a client's write makes the copies there are the copies there must be. For an id that lacks one,
    // and has two just now because it is being moved, that would be one too many.
    let missing = if kind == ChunkKind::Fill || weather == Weather::Crashes { 4 } else { 0 };
    let builder = cluster().agents(3).replica(2).ids(24).extra(4).missing(missing).stale(4).seed(seed + 50);
    let rig = Arc::new(Rig::new(builder).await);
    // Clients that move ids about make short work of the bound on extra copies; copies lost are what matters here.
    rig.cluster.watch_copies(false);
    let ids = rig.ids_on(0);
    let entropy: Arc<Seeded> = Arc::new(Seeded::new(seed));
    for agent in 0..3 {
        rig.cluster.inject(agent, Fault::on_any().chance(20, seed).fail(tonic::Code::Unavailable));
        rig.cluster.inject(agent, Fault::on_any().chance(20, seed + 1).after().fail(tonic::Code::Unavailable));
    }
    let settings = MoveSettings { parallelism: 4, ..quick() };
    let input = MoveInput { index_replica: 2, planned: 1_000, settings, ..rig.input(kind, &ids) };
    for _ in 0..6 {
        let (hooked, all, dice) = (Arc::clone(&rig), ids.clone(), Arc::clone(&entropy));
        let mut attempt = rig.watched(move |_, _| {
            if dice.next_u64().is_multiple_of(6) {
                gust(&hooked, &all, &*dice, weather);
            }
        });
        attempt.die_at(10 + below(&*entropy, 60));
        if let Some(ended) = rig.run_as(&attempt, &input).await {
            ended.unwrap();
        }
    }
    for agent in 0..3 {
        rig.cluster.clear_faults(agent);
    }
    let output = rig.run(&input).await.unwrap();
    count(&output, "done");
    for agent in 0..3 {
        rig.cluster.build_and_save(agent).await.unwrap();
    }
    assert_eq!(rig.cluster.violations(), [], "{name}");
    assert_eq!(rig.cluster.resurrected(), Vec::<Arc<str>>::new(), "{name}");
    // What was reported as done is done, unless a client has put it back since.
    let lines = std::fs::read_to_string(rig.folder.path().join(&output.outcomes_file)).unwrap();
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let (id, time) = (line["id"].as_str().unwrap(), line["time"].as_i64().unwrap());
        if line["outcome"] == "done" && kind == ChunkKind::Move {
            assert!(rig.cluster.copy(0, id).is_none_or(|(_, now)| now > time), "{name}: {id}");
        }
    }
    let vectors: BTreeSet<_> = ids.iter().filter_map(|id| rig.cluster.copy(1, id)).map(|(_, time)| time).collect();
    assert!(kind == ChunkKind::Trim || !vectors.is_empty(), "{name}");
}

#[tokio::test]
async fn nothing_is_lost_replaced_or_revived_in_any_storm() {
    for kind in [ChunkKind::Move, ChunkKind::Fill, ChunkKind::Trim, ChunkKind::Refresh] {
        for weather in [Weather::Clients, Weather::Crashes, Weather::Both] {
            for seed in 0..5 {
                storm(kind, weather, seed).await;
            }
        }
    }
}
