//! Each kind of chunk, on a cluster where nothing goes wrong.

use windlass_sim::vald::Method;

use super::rig::{Rig, cluster, count, quick};
use crate::moves::input::{ChunkKind, Durability, MoveInput, MoveSettings, Verify};

#[tokio::test]
async fn a_move_brings_ids_to_the_destination_with_their_times_and_takes_them_from_the_source() {
    let rig = Rig::new(cluster()).await;
    let ids = rig.ids_on(0);
    let before: Vec<_> = ids.iter().map(|id| rig.cluster.copy(0, id)).collect();
    let output = rig.run(&rig.input(ChunkKind::Move, &ids)).await.unwrap();
    assert_eq!(count(&output, "done"), ids.len() as u64);
    rig.assert_on(&ids, &[1]);
    rig.assert_sound();
    let after: Vec<_> = ids.iter().map(|id| rig.cluster.copy(1, id)).collect();
    assert_eq!(before, after);
    assert_eq!(output.inserts, ids.len() as u64);
    assert_eq!(output.bytes, ids.len() as u64 * 8 * 4);
    let progress = *rig.state.progress.lock().unwrap();
    assert_eq!((progress.done_items, progress.total_items), (ids.len() as u64, Some(ids.len() as u64)));
}

#[tokio::test]
async fn moving_again_moves_nothing() {
    let rig = Rig::new(cluster()).await;
    let ids = rig.ids_on(0);
    let input = rig.input(ChunkKind::Move, &ids);
    rig.run(&input).await.unwrap();
    let inserts = rig.cluster.calls(1, Method::Insert);
    // The same task again finds everything done; a new one finds the ids gone.
    let output = rig.run(&input).await.unwrap();
    assert_eq!(count(&output, "done"), ids.len() as u64);
    *rig.state.checkpoint.lock().unwrap() = None;
    let few = MoveInput { planned: 1_000, ..rig.input(ChunkKind::Move, &ids) };
    let output = rig.run(&few).await.unwrap();
    assert_eq!(count(&output, "gone"), ids.len() as u64);
    assert_eq!(rig.cluster.calls(1, Method::Insert), inserts);
    rig.assert_on(&ids, &[1]);
    rig.assert_sound();
}

#[tokio::test]
async fn every_outcome_is_counted_listed_and_written_down() {
    let rig = Rig::new(cluster().replica(2).agents(3)).await;
    let on_both: Vec<String> = rig.ids_on(0).into_iter().filter(|id| rig.holders(id) == [0, 1]).collect();
    let movable: Vec<String> = rig.ids_on(0).into_iter().filter(|id| rig.holders(id) == [0, 2]).collect();
    let mut ids: Vec<Vec<u8>> = vec![b"".to_vec(), b"\xff\n".to_vec(), b"never was".to_vec()];
    ids.push(on_both[0].clone().into_bytes());
    ids.push(movable[0].clone().into_bytes());
    let input = MoveInput { index_replica: 2, planned: 1_000, ..rig.input(ChunkKind::Move, &ids) };
    let output = rig.run(&input).await.unwrap();
    let expected = [("already_there", 1), ("done", 1), ("gone", 1), ("not_movable", 2)];
    assert_eq!(output.outcomes, expected.map(|(name, count)| (name.to_owned(), count)).into());
    assert_eq!(output.listed["not_movable"][1].id, "\\xff\\n");
    let lines = std::fs::read_to_string(rig.folder.path().join(&output.outcomes_file)).unwrap();
    assert_eq!(lines.lines().count(), 5);
    assert_eq!(rig.holders(&on_both[0]), [0, 1]);
    assert_eq!(rig.holders(&movable[0]), [1, 2]);
    rig.assert_sound();
}

#[tokio::test]
async fn an_id_that_both_have_is_trimmed_if_there_are_copies_to_spare() {
    let rig = Rig::new(cluster().agents(3).replica(2).extra(40)).await;
    let ids = rig.ids_on(0);
    assert!(ids.iter().all(|id| rig.holders(id) == [0, 1, 2]));
    let input = MoveInput { index_replica: 2, ..rig.input(ChunkKind::Move, &ids) };
    let output = rig.run(&input).await.unwrap();
    assert_eq!((count(&output, "done"), output.trimmed, output.inserts), (40, 40, 0));
    rig.assert_on(&ids, &[1, 2]);
    rig.assert_sound();
}

#[tokio::test]
async fn a_fill_adds_a_copy_and_takes_none() {
    let rig = Rig::new(cluster().agents(3).replica(2).skew(0.0).missing(20)).await;
    let lacking: Vec<String> = rig.ids_on(0).into_iter().filter(|id| rig.holders(id) == [0]).collect();
    let whole: Vec<String> = rig.ids_on(0).into_iter().filter(|id| rig.holders(id) == [0, 2]).collect();
    assert!(!lacking.is_empty() && !whole.is_empty());
    let ids = [lacking.clone(), whole.clone()].concat();
    let input = MoveInput { index_replica: 2, ..rig.input(ChunkKind::Fill, &ids) };
    let output = rig.run(&input).await.unwrap();
    assert_eq!(count(&output, "done"), lacking.len() as u64);
    assert_eq!(count(&output, "already_there"), whole.len() as u64);
    rig.assert_on(&lacking, &[0, 1]);
    rig.assert_on(&whole, &[0, 2]);
    rig.assert_sound();
}

#[tokio::test]
async fn a_trim_takes_only_what_others_have_in_the_newest_version() {
    let rig = Rig::new(cluster().agents(3).replica(2).extra(5)).await;
    let ids = rig.ids_on(0);
    let surplus: Vec<String> = ids.iter().filter(|id| rig.holders(id).len() == 3).cloned().collect();
    let input = MoveInput { index_replica: 2, ..rig.input(ChunkKind::Trim, &ids) };
    let output = rig.run(&input).await.unwrap();
    assert_eq!(count(&output, "done"), surplus.len() as u64);
    assert_eq!(count(&output, "already_there"), (ids.len() - surplus.len()) as u64);
    rig.assert_on(&surplus, &[1, 2]);
    rig.assert_sound();
}

#[tokio::test]
async fn a_refresh_brings_the_older_copy_up_to_date() {
    for other_vector in [false, true] {
        let rig = Rig::new(cluster().replica(2).stale(8).stale_vectors_differ(other_vector)).await;
        let placement = rig.cluster.placement();
        let older: Vec<String> =
            placement.iter().filter(|(_, copies)| copies[0].1 > copies[1].1).map(|(id, _)| id.to_string()).collect();
        assert!(!older.is_empty());
        let ids = rig.ids_on(0);
        let input = MoveInput { index_replica: 2, ..rig.input(ChunkKind::Refresh, &ids) };
        let output = rig.run(&input).await.unwrap();
        assert_eq!(count(&output, "done"), older.len() as u64);
        for id in &older {
            assert_eq!(rig.cluster.copy(0, id), rig.cluster.copy(1, id), "{id}");
        }
        rig.assert_on(&older, &[0, 1]);
        rig.assert_sound();
    }
}

#[tokio::test]
async fn every_durability_and_level_of_verification_ends_in_the_same_placement() {
    for durability in [Durability::Queued, Durability::Committed, Durability::Saved] {
        for verify in [Verify::Exact, Verify::Close, Verify::Timestamp] {
            let rig = Rig::new(cluster().ids(6)).await;
            let ids = rig.ids_on(0);
            let settings = MoveSettings { durability, verify, journal: true, ..quick() };
            let input = MoveInput { settings, ..rig.input(ChunkKind::Move, &ids) };
            let output = rig.run(&input).await.unwrap();
            assert_eq!(count(&output, "done"), ids.len() as u64, "{durability:?} {verify:?}");
            assert!(ids.iter().all(|id| rig.holders(id) == [1]));
            rig.assert_sound();
            let left: Vec<_> = std::fs::read_dir(rig.folder.path().join("moves")).unwrap().collect();
            assert_eq!(left.len(), 2, "notes and outcomes stay, journals go: {left:?}");
        }
    }
}

#[tokio::test]
async fn a_limit_on_moves_spreads_them_over_time() {
    let rig = Rig::new(cluster()).await;
    let ids: Vec<String> = rig.ids_on(0).into_iter().take(5).collect();
    let settings = MoveSettings { moves_per_second: Some(20.0), ..quick() };
    let input = MoveInput { settings, ..rig.input(ChunkKind::Move, &ids) };
    let output = rig.run(&input).await.unwrap();
    assert_eq!(count(&output, "done"), 5);
    assert!(output.seconds >= 0.2, "{}", output.seconds);
}
