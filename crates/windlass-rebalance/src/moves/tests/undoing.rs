//! Undo, from wherever the chunk got to.

use windlass_sim::vald::Method;

use super::rig::{Rig, cluster, count, quick};
use crate::moves::extra_copies;
use crate::moves::input::{ChunkKind, MoveInput, MoveSettings};
use crate::moves::undo::Scope;

fn one_by_one() -> MoveSettings {
    MoveSettings { parallelism: 1, ..quick() }
}

#[tokio::test]
async fn undoing_a_move_brings_everything_back_but_what_changed_since() {
    let rig = Rig::new(cluster()).await;
    let before = rig.cluster.placement();
    let ids = rig.ids_on(0);
    let input = rig.input(ChunkKind::Move, &ids);
    rig.run(&input).await.unwrap();
    rig.cluster.client_update(&ids[0], &[7.0; 8], 1_700_100_000_000_000_000).unwrap();
    rig.cluster.client_delete(&ids[1], 1_700_100_000_000_000_000).unwrap();
    let parts = rig.undo(&input).await;
    assert_eq!(count(&parts[0], "done"), ids.len() as u64 - 2);
    assert_eq!((count(&parts[0], "changed"), count(&parts[0], "gone")), (1, 1));
    assert_eq!(rig.holders(&ids[0]), [1]);
    assert_eq!(rig.holders(&ids[1]), Vec::<usize>::new());
    rig.assert_on(&ids[2..], &[0]);
    let after = rig.cluster.placement();
    assert!(ids[2..].iter().all(|id| after[id.as_str()] == before[id.as_str()]));
    rig.assert_sound();
}

#[tokio::test]
async fn a_move_killed_at_any_point_is_undone_without_a_trace() {
    let mut point = 1;
    loop {
        let rig = Rig::new(cluster().ids(4)).await;
        let before = rig.cluster.placement();
        let ids = rig.ids_on(0);
        let input = MoveInput { settings: one_by_one(), ..rig.input(ChunkKind::Move, &ids) };
        let survived = rig.run_as(&rig.dying_at(point), &input).await.is_some();
        rig.undo(&input).await;
        assert_eq!(rig.cluster.placement(), before, "killed at point {point}");
        rig.assert_sound();
        if survived {
            break;
        }
        point += 1;
    }
}

#[tokio::test]
async fn an_undo_killed_at_any_point_is_finished_by_the_next() {
    let mut point = 1;
    loop {
        let rig = Rig::new(cluster().ids(4)).await;
        let before = rig.cluster.placement();
        let ids = rig.ids_on(0);
        let input = MoveInput { settings: one_by_one(), ..rig.input(ChunkKind::Move, &ids) };
        rig.run(&input).await.unwrap();
        let forward = rig.state.checkpoint.lock().unwrap().take();
        let undo = async |attempt| {
            let own = rig.state.checkpoint.lock().unwrap().clone();
            rig.undo_as(&attempt, &input, forward.as_ref(), own.as_ref(), Scope::Everything).await
        };
        let survived = undo(rig.dying_at(point)).await.is_some();
        undo(rig.attempt()).await.unwrap().unwrap();
        assert_eq!(rig.cluster.placement(), before, "killed at point {point}");
        rig.assert_sound();
        if survived {
            break;
        }
        point += 1;
    }
    assert!(point > 20);
}

#[tokio::test]
async fn trims_and_fills_are_undone() {
    for kind in [ChunkKind::Trim, ChunkKind::Fill, ChunkKind::Move] {
        let rig = Rig::new(cluster().agents(3).replica(2).skew(0.0).extra(10).missing(15)).await;
        let before = rig.cluster.placement();
        let ids = rig.ids_on(0);
        let input = MoveInput { index_replica: 2, planned: 1_000, ..rig.input(kind, &ids) };
        let output = rig.run(&input).await.unwrap();
        assert!(count(&output, "done") > 0);
        assert_ne!(rig.cluster.placement(), before);
        rig.undo(&input).await;
        assert_eq!(rig.cluster.placement(), before, "{kind:?}");
        assert_eq!(rig.cluster.violations(), []);
    }
}

#[tokio::test]
async fn copies_that_a_cancelled_chunk_left_over_are_listed_and_cleaned_up() {
    let rig = Rig::new(cluster().ids(6)).await;
    let before = rig.cluster.placement();
    let ids = rig.ids_on(0);
    let input = MoveInput { settings: one_by_one(), ..rig.input(ChunkKind::Move, &ids) };
    let attempt = rig.attempt();
    let cancel = attempt.cancel.clone();
    rig.cluster.hold_builds(1, true);
    let stop = async {
        while rig.cluster.calls(1, Method::CreateAndSaveIndex) == 0 {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(rig.run_as(&attempt, &input), stop);
    assert!(outcome.unwrap().is_err());
    rig.cluster.hold_builds(1, false);
    let task = crate::agent::Attempt::task(&attempt);
    let listed = extra_copies(rig.folder.path(), task, &input).await.unwrap();
    assert_eq!(listed, Some(ids.clone()));
    assert!(ids.iter().all(|id| rig.holders(id) == [0, 1]));
    let forward = rig.state.checkpoint.lock().unwrap().clone();
    rig.undo_as(&rig.attempt(), &input, forward.as_ref(), None, Scope::Extra).await.unwrap().unwrap();
    assert_eq!(rig.cluster.placement(), before);
    rig.assert_sound();
}
