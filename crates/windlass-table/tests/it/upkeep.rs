//! Compaction, retention, vacuum and pins, alone and beside those who write and read.

use std::time::Duration;

use serde_json::Value;
use windlass_clock::SystemClock;
use windlass_table::compact::{CompactOrder, compact};
use windlass_table::delta::{Add, Snapshot};
use windlass_table::pins::{pin, pins, unpin};
use windlass_table::retain::{RetainOrder, retain};
use windlass_table::run;
use windlass_table::scan::{Selection, digest};
use windlass_table::vacuum::{VacuumOrder, vacuum};
use windlass_table::{TableError, Uniqueness};

use crate::world::{World, data, json};

fn expected(run: usize) -> Value {
    json(&data("sample/expected/expected.day.json"))[run].clone()
}

/// A table with small files and hidden rows, after each of the first eight batches.
async fn scattered() -> World {
    let mut world = World::sample_beside().await;
    for number in 0..8 {
        world.ingest([number]).await;
        world.backfill().await.unwrap();
    }
    world
}

fn hidden(snapshot: &Snapshot) -> u64 {
    snapshot.files.values().map(Add::hidden).sum()
}

fn everything(run: &str) -> CompactOrder {
    CompactOrder { all: true, ..CompactOrder::new(run) }
}

fn now(run: &str) -> VacuumOrder {
    VacuumOrder { retention: Some(Duration::ZERO), strangers: Duration::ZERO, ..VacuumOrder::new(run) }
}

async fn version_reads(world: &World, version: i64) -> Result<(u64, String), TableError> {
    let selection = Selection { version: Some(version), ..Selection::default() };
    let (_, rows, all) = digest(&world.table, &selection, &world.around("version")).await?.finish();
    Ok((rows, all))
}

#[tokio::test]
async fn compaction_makes_one_file_of_each_day_and_changes_no_row() {
    let world = scattered().await;
    let before = world.table.snapshot().await.unwrap();
    assert!(hidden(&before) > 0 && before.files.len() > 20);
    let look = CompactOrder { dry_run: true, ..everything("look") };
    let would = compact(&world.table, &look, &world.around("look")).await.unwrap();
    assert_eq!(world.table.snapshot().await.unwrap().version, before.version);
    let done = compact(&world.table, &everything("c1"), &world.around("c1")).await.unwrap();
    let after = world.table.snapshot().await.unwrap();
    assert_eq!((&would.days, would.files_removed), (&done.days, done.files_removed));
    assert_eq!(done.rows_dropped, hidden(&before));
    assert_eq!((hidden(&after), after.files.len()), (0, after.by_day().unwrap().len()));
    assert_eq!(done.version, Some(after.version));
    world.assert_is(&expected(0)).await;
    assert_eq!(world.strangers().await, Vec::<String>::new());
    let again = compact(&world.table, &everything("c2"), &world.around("c2")).await.unwrap();
    assert_eq!(again, Default::default(), "nothing is left to do");
    assert_eq!(version_reads(&world, before.version).await.unwrap().1, expected(0)["sha256"]);
}

#[tokio::test]
async fn a_day_that_is_only_a_little_scattered_is_left_alone() {
    let mut world = World::sample_beside().await;
    world.ingest([0]).await;
    world.backfill().await.unwrap();
    let before = world.table.snapshot().await.unwrap();
    let done = compact(&world.table, &CompactOrder::new("c"), &world.around("c")).await.unwrap();
    assert_eq!(done, Default::default());
    assert_eq!(world.table.snapshot().await.unwrap().version, before.version);
}

#[tokio::test]
async fn a_backfill_that_was_planned_before_a_compaction_is_planned_anew() {
    let mut world = scattered().await;
    world.ingest(8..14).await;
    let order = world.order();
    let around = world.around(&order.run);
    let plan = run::plan(&world.table, &order, &around).await.unwrap().unwrap();
    for day in &plan.days {
        run::merge_day(&world.table, &plan, day.day, &around, |_| async { Ok(()) }).await.unwrap();
    }
    compact(&world.table, &everything("c"), &world.around("c")).await.unwrap();
    let refused = run::commit(&world.table, &plan, &around).await.unwrap();
    assert!(refused.replan.is_some(), "{refused:?}");
    run::clean(&world.table, &order.run, 0, &around).await.unwrap();
    world.backfill().await.unwrap();
    world.assert_is(&expected(1)).await;
    assert_eq!(world.strangers().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_compaction_that_dies_anywhere_leaves_nothing_that_is_not_cleaned_up() {
    let world = scattered().await;
    let mut ended = false;
    for at in (0_u64..).step_by(29) {
        let around = world.around_until("dies", at);
        let run = format!("dies-{at}");
        ended = compact(&world.table, &everything(&run), &around).await.is_ok();
        world.assert_is(&expected(0)).await;
        if ended {
            break;
        }
    }
    assert!(ended);
    let mut later = world.around("later");
    later.clock = SystemClock::starting_at(later.clock.wall() + jiff::SignedDuration::from_hours(7 * 24 + 1));
    run::clean(&world.table, "later", 0, &later).await.unwrap();
    assert_eq!(world.strangers().await, Vec::<String>::new());
    world.assert_is(&expected(0)).await;
}

#[tokio::test]
async fn vacuum_deletes_what_was_replaced_and_nothing_that_counts() {
    let world = scattered().await;
    compact(&world.table, &everything("c"), &world.around("c")).await.unwrap();
    let snapshot = world.table.snapshot().await.unwrap();
    let usual = vacuum(&world.table, &VacuumOrder::new("v0"), &world.around("v")).await.unwrap();
    assert_eq!((usual.files, usual.oldest_version), (0, 0), "nothing was replaced longer ago than seven days");
    let look = VacuumOrder { dry_run: true, ..now("v1") };
    let would = vacuum(&world.table, &look, &world.around("v")).await.unwrap();
    assert_eq!(world.strangers().await, ["_windlass/clock"]);
    let done = vacuum(&world.table, &now("v2"), &world.around("v")).await.unwrap();
    assert_eq!((would.files, would.bytes, &would.keys), (done.files, done.bytes, &done.keys));
    assert!(done.files > 20 && done.oldest_version == snapshot.version, "{done:?}");
    let listing = world.table.store().list("").await.unwrap();
    let data: Vec<String> =
        listing.entries.into_iter().map(|entry| entry.key).filter(|key| !key.starts_with('_')).collect();
    assert_eq!(data, snapshot.objects().into_iter().collect::<Vec<_>>());
    world.assert_is(&expected(0)).await;
    assert!(version_reads(&world, 3).await.is_err(), "its files are gone");
    let again = vacuum(&world.table, &now("v3"), &world.around("v")).await.unwrap();
    assert_eq!(again.files, 0);
}

#[tokio::test]
async fn a_pinned_version_stays_readable_until_the_pin_is_given_up() {
    let world = scattered().await;
    let around = world.around("pins");
    let held = pin(&world.table, "report", Some(3), Duration::from_secs(3600), "the monthly report", &around);
    assert_eq!(held.await.unwrap().version, 3);
    let before = version_reads(&world, 3).await.unwrap();
    compact(&world.table, &everything("c"), &around).await.unwrap();
    let done = vacuum(&world.table, &now("v1"), &around).await.unwrap();
    assert!(done.files > 0 && done.pinned > 0, "{done:?}");
    assert_eq!(version_reads(&world, 3).await.unwrap(), before);
    assert!(version_reads(&world, 5).await.is_err());
    let error = pin(&world.table, "late", Some(5), Duration::from_secs(60), "", &around).await.unwrap_err();
    assert!(error.to_string().contains("cannot be read any more"), "{error}");
    assert_eq!(pins(&world.table).await.unwrap().len(), 1);
    unpin(&world.table, "report").await.unwrap();
    unpin(&world.table, "report").await.unwrap();
    assert!(vacuum(&world.table, &now("v2"), &around).await.unwrap().files > 0);
    assert!(version_reads(&world, 3).await.is_err());
    // One that has ended holds nothing.
    let newest = pin(&world.table, "short", None, Duration::ZERO, "", &around).await.unwrap();
    assert_eq!(newest.version, world.table.snapshot().await.unwrap().version);
    world.assert_is(&expected(0)).await;
}

#[tokio::test]
async fn a_pin_and_a_vacuum_at_the_same_time_see_each_other() {
    let world = scattered().await;
    let around = world.around("pins");
    // A vacuum that has said what it will delete, and has not deleted it yet.
    let store = world.table.store();
    let newest = world.table.snapshot().await.unwrap().version;
    let intent = |before: i64| bytes::Bytes::from(format!("{{\"before\":{before}}}"));
    let mode = windlass_blob::PutMode::Overwrite;
    store.put_bytes("_windlass/vacuum/v.json", intent(i64::MAX), mode).await.unwrap();
    let error = pin(&world.table, "a", Some(2), Duration::from_secs(60), "", &around).await.unwrap_err();
    assert!(matches!(&error, TableError::Changed(why) if why.contains("vacuum")), "{error}");
    assert_eq!(pins(&world.table).await.unwrap(), [], "nothing is left of it");
    pin(&world.table, "b", Some(newest), Duration::from_secs(60), "", &around).await.unwrap();
    let mode = windlass_blob::PutMode::Overwrite;
    store.put_bytes("_windlass/vacuum/v.json", intent(0), mode).await.unwrap();
    pin(&world.table, "a", Some(2), Duration::from_secs(60), "", &around).await.unwrap();
}

#[tokio::test]
async fn vacuum_leaves_alone_what_a_run_is_about_to_commit() {
    let mut world = scattered().await;
    world.ingest(8..14).await;
    let order = world.order();
    let around = world.around(&order.run);
    let plan = run::plan(&world.table, &order, &around).await.unwrap().unwrap();
    for day in &plan.days {
        run::merge_day(&world.table, &plan, day.day, &around, |_| async { Ok(()) }).await.unwrap();
    }
    vacuum(&world.table, &now("v"), &around).await.unwrap();
    run::commit(&world.table, &plan, &around).await.unwrap();
    run::clean(&world.table, &order.run, 0, &around).await.unwrap();
    world.assert_is(&expected(1)).await;
}

#[tokio::test]
async fn what_nobody_ever_named_is_deleted_only_when_it_is_old() {
    let world = World::sample(Uniqueness::Day).await;
    let store = world.table.store();
    for key in ["day=2025-11-13/stranger.parquet", "_hidden/file", "day=2025-11-13/.half"] {
        store.put_bytes(key, "?".into(), windlass_blob::PutMode::Create).await.unwrap();
    }
    let around = world.around("v");
    let young = VacuumOrder { retention: Some(Duration::ZERO), ..VacuumOrder::new("v1") };
    assert_eq!(vacuum(&world.table, &young, &around).await.unwrap().files, 0);
    let done = vacuum(&world.table, &now("v2"), &around).await.unwrap();
    assert_eq!(done.keys, ["day=2025-11-13/stranger.parquet"]);
    assert!(store.try_head("_hidden/file").await.unwrap().is_some());
}

#[tokio::test]
async fn days_beyond_retention_leave_and_a_wrong_clock_empties_nothing() {
    let mut world = World::sample(Uniqueness::Day).await;
    let today = world.batches["now"].as_i64().unwrap();
    let order = RetainOrder { run: "r".to_owned(), days: None, even_all: false, dry_run: false };
    let mut around = world.around("r");
    let at = |second: i64| SystemClock::starting_at(jiff::Timestamp::from_second(second).unwrap());
    around.clock = at(today);
    let dry = RetainOrder { dry_run: true, ..order.clone() };
    let would = retain(&world.table, &dry, &around).await.unwrap();
    assert_eq!(would.version, None);
    let done = retain(&world.table, &order, &around).await.unwrap();
    let days: Vec<String> = done.days.iter().map(ToString::to_string).collect();
    assert_eq!(days, ["2025-11-08", "2025-11-09"]);
    assert_eq!((would.rows, would.files, &would.days), (done.rows, 2, &done.days));
    assert_eq!(retain(&world.table, &order, &around).await.unwrap().version, None, "nothing is left to do");
    // The rest is as it must be; what comes for days that left is dropped.
    world.ingest(0..8).await;
    world.backfill().await.unwrap();
    let (days, _) = world.digest().await;
    for (day, of) in expected(0)["days"].as_object().unwrap().iter().skip(2) {
        assert_eq!(days[day].1, of["sha256"], "{day}");
    }
    assert!(!days.contains_key("2025-11-08"));
    around.clock = at(today + 400 * 86_400);
    let error = retain(&world.table, &order, &around).await.unwrap_err();
    assert!(error.to_string().contains("look at the clock"), "{error}");
    assert_eq!(world.digest().await.0, days);
    let all = RetainOrder { even_all: true, ..order };
    assert_eq!(retain(&world.table, &all, &around).await.unwrap().days.len(), days.len());
}

#[tokio::test]
async fn a_backfill_whose_day_leaves_meanwhile_is_planned_anew() {
    let mut world = World::sample(Uniqueness::Day).await;
    world.ingest(0..8).await;
    let order = world.order();
    let around = world.around(&order.run);
    let plan = run::plan(&world.table, &order, &around).await.unwrap().unwrap();
    for day in &plan.days {
        run::merge_day(&world.table, &plan, day.day, &around, |_| async { Ok(()) }).await.unwrap();
    }
    let mut clock = world.around("r");
    let now = jiff::Timestamp::from_second(world.batches["now"].as_i64().unwrap()).unwrap();
    clock.clock = SystemClock::starting_at(now);
    let order = RetainOrder { run: "r".to_owned(), days: Some(8), even_all: false, dry_run: false };
    assert!(retain(&world.table, &order, &clock).await.unwrap().version.is_some());
    assert!(run::commit(&world.table, &plan, &around).await.unwrap().replan.is_some());
}
