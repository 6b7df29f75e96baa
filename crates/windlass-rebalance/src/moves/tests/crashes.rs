//! The job dies at every point there is, and once more while it recovers; agents die too.

use windlass_model::effect::EffectState;
use windlass_sim::vald::Fault;

use super::rig::{Rig, cluster, count, quick};
use crate::moves::input::{ChunkKind, MoveInput, MoveSettings};

/// One after the other, so that the number of a point means the same in every run.
fn one_by_one(journal: bool) -> MoveSettings {
    MoveSettings { parallelism: 1, journal, ..quick() }
}

#[tokio::test]
async fn a_move_killed_at_any_point_ends_as_if_it_had_not_been() {
    let mut point = 1;
    loop {
        let rig = Rig::new(cluster().ids(6)).await;
        let ids = rig.ids_on(0);
        let input = MoveInput { settings: one_by_one(true), ..rig.input(ChunkKind::Move, &ids) };
        let first = rig.run_as(&rig.dying_at(point), &input).await;
        let survived = first.is_some();
        if !survived {
            // The next attempt dies soon after it began, too.
            let second = rig.run_as(&rig.dying_at(3), &input).await;
            if second.is_none() {
                rig.run(&input).await.unwrap();
            }
        }
        let output = rig.run(&input).await.unwrap();
        assert_eq!(count(&output, "done"), ids.len() as u64, "killed at point {point}");
        rig.assert_on(&ids, &[1]);
        rig.assert_sound();
        assert!(rig.state.ledger.lock().unwrap().values().all(|state| *state == EffectState::Made));
        if survived {
            break;
        }
        point += 1;
    }
    assert!(point > 40, "only {point} points: is the matrix still complete?");
}

#[tokio::test]
async fn a_move_whose_notes_are_lost_at_any_point_is_found_out_again() {
    let mut point = 1;
    loop {
        let rig = Rig::new(cluster().ids(4)).await;
        let ids = rig.ids_on(0);
        let input = MoveInput { settings: one_by_one(false), ..rig.input(ChunkKind::Move, &ids) };
        let survived = rig.run_as(&rig.dying_at(point), &input).await.is_some();
        let _ = std::fs::remove_dir_all(rig.folder.path().join("moves"));
        rig.run(&input).await.unwrap();
        rig.assert_on(&ids, &[1]);
        rig.assert_sound();
        if survived {
            break;
        }
        point += 1;
    }
}

#[tokio::test]
async fn an_attempt_that_dies_over_and_over_still_gets_there() {
    let rig = Rig::new(cluster().ids(8)).await;
    let ids = rig.ids_on(0);
    let input = MoveInput { settings: one_by_one(false), ..rig.input(ChunkKind::Move, &ids) };
    // Phases with more points than this would begin anew for ever; each attempt gets a little further.
    let mut lives = 0;
    for point in 2.. {
        lives += 1;
        if rig.run_as(&rig.dying_at(point), &input).await.is_some() {
            break;
        }
    }
    assert!(lives > 5);
    rig.assert_on(&ids, &[1]);
    rig.assert_sound();
}

#[tokio::test]
async fn agents_that_crash_at_any_change_lose_nothing() {
    for crashing in [0, 1] {
        for change in 1.. {
            let rig = Rig::new(cluster().ids(6)).await;
            let ids = rig.ids_on(0);
            let input = MoveInput { settings: one_by_one(false), ..rig.input(ChunkKind::Move, &ids) };
            let rig = std::sync::Arc::new(rig);
            let hooked = std::sync::Arc::clone(&rig);
            let fired = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let firing = std::sync::Arc::clone(&fired);
            let attempt = rig.watched(move |_, number| {
                if number == change {
                    firing.store(true, std::sync::atomic::Ordering::SeqCst);
                    hooked.cluster.restart(crashing);
                }
            });
            let output = rig.run_as(&attempt, &input).await.unwrap().unwrap();
            assert_eq!(count(&output, "done"), ids.len() as u64, "agent {crashing} at change {change}");
            rig.assert_on(&ids, &[1]);
            rig.assert_sound();
            if !fired.load(std::sync::atomic::Ordering::SeqCst) {
                assert!(change > 5, "only {change} changes");
                break;
            }
        }
    }
}

#[tokio::test]
async fn trims_and_fills_survive_being_killed_at_any_point() {
    for kind in [ChunkKind::Trim, ChunkKind::Fill, ChunkKind::Refresh] {
        let mut point = 1;
        loop {
            let builder = cluster().agents(3).replica(2).skew(0.0).ids(12).extra(3).missing(3).stale(3);
            let rig = Rig::new(builder).await;
            let ids = rig.ids_on(0);
            let input =
                MoveInput { index_replica: 2, planned: 1_000, settings: one_by_one(false), ..rig.input(kind, &ids) };
            let survived = rig.run_as(&rig.dying_at(point), &input).await.is_some();
            rig.run(&input).await.unwrap();
            rig.assert_sound();
            let clean = Rig::new(cluster().agents(3).replica(2).skew(0.0).ids(12).extra(3).missing(3).stale(3)).await;
            let input =
                MoveInput { index_replica: 2, planned: 1_000, settings: one_by_one(false), ..clean.input(kind, &ids) };
            clean.run(&input).await.unwrap();
            assert_eq!(rig.cluster.placement(), clean.cluster.placement(), "{kind:?} killed at point {point}");
            if survived {
                break;
            }
            point += 1;
        }
    }
}

#[tokio::test]
async fn lost_answers_and_repeated_requests_change_nothing_in_the_end() {
    for seed in 0..4 {
        let rig = Rig::new(cluster().ids(20)).await;
        let ids = rig.ids_on(0);
        for agent in [0, 1] {
            rig.cluster.inject(agent, Fault::on_any().chance(100, seed).fail(tonic::Code::Unavailable));
            rig.cluster.inject(agent, Fault::on_any().chance(100, seed + 100).after().fail(tonic::Code::Unavailable));
        }
        let input =
            MoveInput { settings: MoveSettings { journal: true, ..quick() }, ..rig.input(ChunkKind::Move, &ids) };
        let output = rig.run(&input).await.unwrap();
        assert_eq!(count(&output, "done"), ids.len() as u64);
        assert!(output.retries > 0);
        assert_eq!(output.inserts, ids.len() as u64);
        rig.assert_on(&ids, &[1]);
        rig.assert_sound();
    }
}
