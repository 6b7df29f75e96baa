//! Old entries of the table's own log go, and what somebody needs stays.

use std::time::Duration;

use windlass_blob::Context;
use windlass_table::delta::{Base, Outcome, commit_run};
use windlass_table::expire::expire;
use windlass_table::pins::{pin, unpin};
use windlass_table::run;
use windlass_table::scan::{Selection, digest};
use windlass_table::vacuum::{VacuumOrder, vacuum};
use windlass_table::{Creation, Table, TableError, Uniqueness};

use crate::world::{World, data, json};

/// Commits that change nothing but a property, up to a version.
async fn until(world: &World, version: i64) {
    while world.table.snapshot().await.unwrap().version < version {
        set(world, "note", "none").await;
        run::checkpoint(&world.table, &world.around("checkpoint")).await.unwrap();
    }
}

async fn set(world: &World, name: &str, value: &str) {
    let context = Context::real();
    let change = world.table.alter("SET TBLPROPERTIES", &context, |metadata| {
        metadata.configuration.insert(name.to_owned(), value.to_owned());
        Ok(())
    });
    change.await.unwrap();
}

/// Versions whose entry is there, and versions with a checkpoint.
async fn log(world: &World) -> (Vec<i64>, Vec<i64>) {
    let keys: Vec<String> =
        world.table.store().list("_delta_log/").await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
    let versions = |end: &str| -> Vec<i64> {
        keys.iter().filter_map(|key| key.strip_prefix("_delta_log/")?.strip_suffix(end)?.parse().ok()).collect()
    };
    (versions(".json"), versions(".checkpoint.parquet"))
}

async fn reads(world: &World, version: i64) -> Result<String, TableError> {
    let selection = Selection { version: Some(version), ..Selection::default() };
    Ok(digest(&world.table, &selection, &world.around("look")).await?.finish().2)
}

#[tokio::test]
async fn entries_that_nobody_needs_go_and_what_somebody_needs_stays() {
    let mut world = World::sample(Uniqueness::Day).await;
    world.ingest(0..4).await;
    world.backfill().await.unwrap();
    until(&world, 12).await;
    world.ingest(4..8).await;
    // A run that is planned and goes on later, and a version that is pinned.
    let order = world.order();
    let around = world.around(&order.run);
    let plan = run::plan(&world.table, &order, &around).await.unwrap().unwrap();
    until(&world, 21).await;
    let pinned = pin(&world.table, "report", Some(11), Duration::from_secs(3600), "", &around).await.unwrap();
    let before = reads(&world, 11).await.unwrap();
    until(&world, 41).await;
    assert_eq!(log(&world).await.0.len(), 42, "nothing is thirty days old");
    assert_eq!(expire(&world.table, &around).await.unwrap(), 0);
    set(&world, "delta.enableExpiredLogCleanup", "false").await;
    set(&world, "delta.logRetentionDuration", "interval 0 seconds").await;
    assert_eq!(expire(&world.table, &around).await.unwrap(), 0, "somebody wants them all");
    set(&world, "delta.enableExpiredLogCleanup", "true").await;
    // The pin and the run need what is behind version 10.
    assert_eq!(expire(&world.table, &around).await.unwrap(), 10);
    let (entries, checkpoints) = log(&world).await;
    assert_eq!((entries[0], checkpoints[0]), (10, 10));
    assert_eq!(reads(&world, 11).await.unwrap(), before);
    unpin(&world.table, &pinned.id).await.unwrap();
    assert_eq!(expire(&world.table, &around).await.unwrap(), 0, "the run is still under way");
    for day in &plan.days {
        run::merge_day(&world.table, &plan, day.day, &around, |_| async { Ok(()) }).await.unwrap();
    }
    let done = run::commit(&world.table, &plan, &around).await.unwrap();
    assert!(done.replan.unwrap().contains("changed what the table is"));
    run::clean(&world.table, &order.run, 0, &around).await.unwrap();
    let kept = VacuumOrder { retention: Some(Duration::ZERO), ..VacuumOrder::new("v") };
    let vacuumed = vacuum(&world.table, &kept, &around).await.unwrap();
    assert_eq!(vacuumed.entries, 30);
    let (entries, checkpoints) = log(&world).await;
    assert_eq!((entries[0], checkpoints), (40, vec![40]));
    // Everything goes on.
    world.backfill().await.unwrap();
    world.assert_is(&json(&data("sample/expected/expected.day.json"))[0]).await;
    assert_eq!(world.strangers().await, ["_windlass/clock"]);
    let error = reads(&world, 11).await.unwrap_err().to_string();
    assert!(error.contains("so old"), "{error}");
    let error = reads(&world, 400).await.unwrap_err().to_string();
    assert!(error.contains("its newest is 45"), "{error}");
    // What was needed longer ago than the log goes back cannot be said any more.
    let long = VacuumOrder { retention: Some(Duration::from_secs(3600)), ..VacuumOrder::new("w") };
    let error = vacuum(&world.table, &long, &around).await.unwrap_err().to_string();
    assert!(error.contains("does not go back"), "{error}");
}

#[tokio::test]
async fn a_table_whose_log_began_anew_is_found_without_the_note_of_its_checkpoint() {
    let world = World::sample(Uniqueness::Day).await;
    set(&world, "delta.logRetentionDuration", "interval 0 seconds").await;
    until(&world, 11).await;
    assert_eq!(log(&world).await.0, [10, 11], "it goes along with the checkpoint");
    let before = world.table.snapshot().await.unwrap();
    world.table.store().delete("_delta_log/_last_checkpoint").await.unwrap();
    assert_eq!(world.table.snapshot().await.unwrap(), before);
    // Nobody takes it for a place without a table.
    let creation = Creation { cutoff: world.batches["cutoff"].as_i64(), ..Creation::default() };
    let again = Table::create(world.table.home(), &world.definition, creation, &Context::real()).await.unwrap();
    assert_eq!(again.snapshot().await.unwrap(), before);
}

#[tokio::test]
async fn a_run_that_rests_on_a_version_that_is_forgotten_commits_nothing() {
    let world = World::sample(Uniqueness::Day).await;
    set(&world, "delta.logRetentionDuration", "interval 0 seconds").await;
    until(&world, 11).await;
    let base = Base { version: 3, progress: None, fixed: Vec::new(), run: "slept for a month".to_owned() };
    let outcome = commit_run(world.table.log(), &base, &[]).await.unwrap();
    assert!(matches!(&outcome, Outcome::Replan(why) if why.contains("so old")), "{outcome:?}");
    assert_eq!(log(&world).await.0, [10, 11]);
}
