//! The layout that leaves files as they are and hides rows of them.

use std::sync::Arc;

use serde_json::{Value, json};
use windlass_blob::Context;
use windlass_table::delta::{Add, Snapshot};
use windlass_table::run;
use windlass_table::{Day, Layout, TableError};

use crate::world::{World, data, json};

fn expected(run: usize) -> Value {
    json(&data("sample/expected/expected.day.json"))[run].clone()
}

fn of_day(snapshot: &Snapshot, day: &str) -> Vec<Add> {
    snapshot.of_day(day.parse().unwrap()).into_iter().cloned().collect()
}

fn hidden(snapshot: &Snapshot) -> u64 {
    snapshot.files.values().map(Add::hidden).sum()
}

/// Rows of the sample's first trips of a day, as late rows with another fare.
fn late(day: &str, trips: std::ops::Range<u64>, fare: f64) -> String {
    let at = day.parse::<Day>().unwrap().start() / 1_000_000 + 5;
    let offset = day.parse::<Day>().unwrap().0 - 20_400;
    let row = |trip| json!({ "event_time": at, "trip_id": 1_000_000 + i64::from(offset) * 1000 + trip as i64, "leg": 0, "fare": fare });
    trips.map(|trip| format!("{}\n", row(trip))).collect()
}

#[tokio::test]
async fn a_few_rows_are_written_beside_the_file_and_many_make_the_day_anew() {
    let mut world = World::sample_beside().await;
    let before = world.table.snapshot().await.unwrap();
    assert_eq!(before.protocol.as_ref().unwrap().min_reader_version, 3);
    let day = "2025-11-13";
    let [old] = &of_day(&before, day)[..] else { panic!("one file") };
    world.ingest_lines(&late(day, 0..5, 0.25)).await;
    let done = world.backfill().await.unwrap();
    assert_eq!(done.metrics["keys"]["updated"], 5);
    assert_eq!((&done.metrics["files_added"], &done.metrics["files_removed"]), (&json!(1), &json!(0)));
    assert!(done.metrics["bytes_written"].as_u64().unwrap() < old.size as u64);
    let snapshot = world.table.snapshot().await.unwrap();
    let files = of_day(&snapshot, day);
    assert_eq!(files.len(), 2);
    let kept = files.iter().find(|add| add.path == old.path).unwrap();
    assert_eq!((kept.hidden(), kept.rows()), (5, old.rows()), "the number of rows stays the physical one");
    assert!(kept.stats.as_ref().unwrap().contains(r#""tightBounds":false"#), "{:?}", kept.stats);
    // The same rows again: what was written beside is hidden now, or gone when nothing of it is left.
    world.ingest_lines(&late(day, 0..5, 0.5)).await;
    world.backfill().await.unwrap();
    let files = of_day(&world.table.snapshot().await.unwrap(), day);
    assert_eq!(files.len(), 2, "the first small file has no row left: {files:?}");
    let one_by_one = world.digest().await;
    // More than a fifth of the day: it is written anew.
    world.ingest_lines(&late(day, 0..90, 0.75)).await;
    world.backfill().await.unwrap();
    let files = of_day(&world.table.snapshot().await.unwrap(), day);
    assert!(files.len() == 1 && files[0].hidden() == 0 && files[0].path != old.path, "{files:?}");
    let rows = |digest: &(std::collections::BTreeMap<String, (u64, String)>, String)| digest.0[day].0;
    assert_eq!(rows(&world.digest().await), rows(&one_by_one));
    assert_eq!(world.strangers().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_ninth_small_file_makes_the_day_anew() {
    let mut world = World::sample_beside().await;
    let day = "2025-11-13";
    let mut most = 0;
    for round in 0..9 {
        world.ingest_lines(&late(day, round * 2..round * 2 + 2, 0.25)).await;
        world.backfill().await.unwrap();
        most = most.max(of_day(&world.table.snapshot().await.unwrap(), day).len());
    }
    let snapshot = world.table.snapshot().await.unwrap();
    assert_eq!(most, 8);
    assert!(of_day(&snapshot, day).len() < 4, "{}", of_day(&snapshot, day).len());
}

#[tokio::test]
async fn deleting_every_row_of_a_day_leaves_nothing_of_it() {
    let mut world = World::sample_beside().await;
    let day: Day = "2025-11-13".parse().unwrap();
    let around = world.around("scan");
    let selection = windlass_table::scan::Selection { from: Some(day), to: Some(day), ..Default::default() };
    let deletes = Arc::new(std::sync::Mutex::new(String::new()));
    let gathered = deletes.clone();
    let _sink = windlass_table::scan::scan(&world.table, &selection, &around, move |_, rows, shape| {
        let mut text = gathered.lock().unwrap();
        for row in 0..rows.num_rows() {
            let cells = windlass_table::rows::row(rows, &shape.types, row);
            let cell = |at: usize| cells[at].to_json(&shape.types[at]);
            let line = json!({ "_op": "delete", "event_time": cell(0), "trip_id": cell(1), "leg": cell(2) });
            *text += &format!("{line}\n");
        }
        Ok(())
    })
    .await
    .unwrap();
    let text = deletes.lock().unwrap().clone();
    let all = text.lines().count();
    let some: String = text.lines().take(30).map(|line| format!("{line}\n")).collect();
    world.ingest_lines(&some).await;
    assert_eq!(world.backfill().await.unwrap().metrics["keys"]["deleted"], 30);
    let snapshot = world.table.snapshot().await.unwrap();
    assert_eq!(
        (of_day(&snapshot, "2025-11-13").len(), hidden(&snapshot)),
        (1, 30),
        "nothing is written but what is hidden"
    );
    world.ingest_lines(&text).await;
    let done = world.backfill().await.unwrap();
    assert_eq!(done.metrics["keys"]["deleted"], all - 30);
    assert_eq!(done.metrics["bytes_written"], 0);
    let snapshot = world.table.snapshot().await.unwrap();
    assert_eq!(of_day(&snapshot, "2025-11-13").len(), 0);
    assert_eq!(world.strangers().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_run_that_stops_at_any_point_is_made_up_for_by_the_next() {
    let mut stopped = 0;
    for at in (0_u64..).step_by(13) {
        let mut world = World::sample_beside().await;
        world.ingest(0..8).await;
        let order = world.order();
        let ended = world.run_that_stops(&order, at).await;
        if ended.is_err() {
            stopped += 1;
            world.backfill().await;
            run::clean(&world.table, &order.run, 0, &world.around(&order.run)).await.unwrap();
        }
        world.assert_is(&expected(0)).await;
        assert_eq!(world.strangers().await, Vec::<String>::new(), "stopped at {at}");
        if ended.is_ok() {
            break;
        }
    }
    assert!(stopped > 3, "stopped at {stopped} points");
}

#[tokio::test]
async fn a_table_with_hidden_rows_reads_alike_from_its_checkpoint_and_its_entries() {
    let mut world = World::sample_beside().await;
    for number in 0..14 {
        world.ingest([number]).await;
        world.backfill().await.unwrap();
    }
    let with = world.table.snapshot().await.unwrap();
    assert!(with.version == 14 && hidden(&with) > 0);
    let store = world.table.store();
    assert!(store.try_head("_delta_log/00000000000000000010.checkpoint.parquet").await.unwrap().is_some());
    store.delete("_delta_log/_last_checkpoint").await.unwrap();
    let without = world.table.snapshot().await.unwrap();
    assert_eq!((&with.txns, &with.protocol, &with.metadata), (&without.txns, &without.protocol, &without.metadata));
    let files = |snapshot: &Snapshot| -> Vec<_> {
        let of = |add: &Add| (add.path.clone(), add.size, add.stats.clone(), add.deletion_vector.clone());
        snapshot.files.values().map(of).collect()
    };
    assert_eq!(files(&with), files(&without));
    assert_eq!(with.removed.keys().collect::<Vec<_>>(), without.removed.keys().collect::<Vec<_>>());
    world.assert_is(&expected(1)).await;
}

#[tokio::test]
async fn a_table_goes_from_one_layout_to_the_other_and_back() {
    let mut world = World::sample(windlass_table::Uniqueness::Day).await;
    world.ingest(0..4).await;
    world.backfill().await.unwrap();
    world.table.relayout(Layout::MergeOnRead, &Context::real()).await.unwrap();
    world.ingest(4..8).await;
    world.backfill().await.unwrap();
    world.assert_is(&expected(0)).await;
    let between = world.table.snapshot().await.unwrap();
    assert!(hidden(&between) > 0 && between.definition().unwrap().layout == Layout::MergeOnRead);
    world.table.relayout(Layout::CopyOnWrite, &Context::real()).await.unwrap();
    world.ingest(8..14).await;
    world.backfill().await.unwrap();
    world.assert_is(&expected(1)).await;
    let after = world.table.snapshot().await.unwrap();
    assert_eq!(after.protocol, between.protocol, "readers still have to know what may be left");
    assert!(hidden(&after) < hidden(&between));
    assert!(!after.metadata.unwrap().configuration.contains_key("delta.enableDeletionVectors"));
}

#[tokio::test]
async fn a_damaged_vector_is_told_of_and_no_row_comes_back_by_it() {
    let mut world = World::sample_beside().await;
    world.ingest_lines(&late("2025-11-13", 0..5, 0.25)).await;
    world.backfill().await.unwrap();
    let snapshot = world.table.snapshot().await.unwrap();
    let vector = snapshot.files.values().find_map(|add| add.deletion_vector.clone()).unwrap();
    let path = world.table.local_data().unwrap().join(vector.key().unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 6;
    bytes[last] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let around = world.around("digest");
    let error = windlass_table::scan::digest(&world.table, &Default::default(), &around).await.unwrap_err();
    assert!(matches!(error, TableError::Damaged(_)) && error.to_string().contains("checksum"), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert!(windlass_table::scan::digest(&world.table, &Default::default(), &around).await.is_err());
}
