//! A run that is cut short anywhere, or has a rival, leaves the table as before or as after.

use serde_json::Value;
use windlass_blob::{Context, PutMode};
use windlass_clock::SystemClock;
use windlass_table::definition::Column;
use windlass_table::run::{self, Order};
use windlass_table::{TableError, Uniqueness};

use crate::world::{World, data, json};

fn expected(run: usize) -> Value {
    json(&data("sample/expected/expected.day.json"))[run].clone()
}

async fn first_eight() -> World {
    let world = World::sample(Uniqueness::Day).await;
    world.ingest(0..8).await;
    world
}

/// Plans and merges, and stops before the commit.
async fn merged(world: &World, order: &Order) -> run::Finished {
    let around = world.around(&order.run);
    let plan = run::plan(&world.table, order, &around).await.unwrap().unwrap();
    for day in &plan.days {
        run::merge_day(&world.table, &plan, day.day, &around, |_| async { Ok(()) }).await.unwrap();
    }
    run::Finished { committed_version: None, replan: None, already: false, metrics: Value::Null }
}

async fn commit(world: &World, order: &Order) -> run::Finished {
    let plan = run::load_plan(&world.table, &order.run).await.unwrap();
    run::commit(&world.table, &plan, &world.around(&order.run)).await.unwrap()
}

async fn clean(world: &World, order: &Order) -> run::Trimmed {
    run::clean(&world.table, &order.run, 0, &world.around(&order.run)).await.unwrap()
}

#[tokio::test]
async fn of_two_runners_one_commits_and_the_other_finds_that_out() {
    let mut world = first_eight().await;
    let (one, other) = (world.order(), world.order());
    merged(&world, &one).await;
    merged(&world, &other).await;
    let first = commit(&world, &one).await;
    assert!(first.committed_version == Some(1) && !first.already);
    let second = commit(&world, &other).await;
    assert!(second.committed_version == Some(1) && second.already);
    assert!(clean(&world, &other).await.deleted_outputs > 0);
    assert_eq!(clean(&world, &one).await.deleted_outputs, 0);
    world.assert_is(&expected(0)).await;
    assert_eq!(world.strangers().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_runner_whose_rival_merged_less_plans_anew() {
    let mut world = first_eight().await;
    let (mut small, large) = (world.order(), world.order());
    small.most_bytes = 1;
    merged(&world, &small).await;
    merged(&world, &large).await;
    assert!(commit(&world, &small).await.committed_version.is_some());
    assert!(commit(&world, &large).await.replan.is_some());
    clean(&world, &small).await;
    clean(&world, &large).await;
    let after = world.backfill().await.unwrap();
    assert_eq!(after.metrics["batches"], 7, "the first batch is merged already");
    world.assert_is(&expected(0)).await;
    assert_eq!(world.strangers().await, Vec::<String>::new());
}

#[tokio::test]
async fn many_small_runs_come_to_the_same_as_one() {
    let mut world = first_eight().await;
    let mut runs = 0;
    loop {
        let order = Order { most_bytes: 1, ..world.order() };
        if world.run(&order).await.unwrap().is_none() {
            break;
        }
        runs += 1;
    }
    assert_eq!(runs, 8, "a batch at a time");
    world.assert_is(&expected(0)).await;
    assert_eq!(world.strangers().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_found_again() {
    let mut world = first_eight().await;
    let order = world.order();
    merged(&world, &order).await;
    let first = commit(&world, &order).await;
    let again = commit(&world, &order).await;
    assert_eq!(first, again);
    assert_eq!(world.table.snapshot().await.unwrap().version, 1);
    // The runner dies here; the next one finds nothing to do, and whoever cleans up deletes nothing that counts.
    assert_eq!(world.backfill().await, None);
    assert_eq!(clean(&world, &order).await.deleted_outputs, 0);
    assert_eq!(clean(&world, &order).await.deleted_outputs, 0, "twice does no harm");
    world.assert_is(&expected(0)).await;
}

#[tokio::test]
async fn what_a_dead_attempt_had_begun_to_write_is_deleted() {
    let mut world = first_eight().await;
    let order = world.order();
    let around = world.around(&order.run);
    let plan = run::plan(&world.table, &order, &around).await.unwrap().unwrap();
    let store = world.table.store().clone();
    let died = run::merge_day(&world.table, &plan, plan.days[0].day, &around, |keys| async move {
        store.put_bytes(&keys[0], "half a file".into(), PutMode::Overwrite).await?;
        Err(TableError::Cancelled)
    });
    assert!(matches!(died.await, Err(TableError::Cancelled)));
    for day in &plan.days {
        run::merge_day(&world.table, &plan, day.day, &around, |_| async { Ok(()) }).await.unwrap();
    }
    commit(&world, &order).await;
    assert_eq!(clean(&world, &order).await.deleted_outputs, 1);
    world.assert_is(&expected(0)).await;
    assert_eq!(world.strangers().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_left_of_a_run_that_nobody_goes_on_with_is_deleted_a_week_later() {
    let mut world = first_eight().await;
    let given_up = world.order();
    let around = world.around(&given_up.run);
    let plan = run::plan(&world.table, &given_up, &around).await.unwrap().unwrap();
    run::merge_day(&world.table, &plan, plan.days[0].day, &around, |_| async { Ok(()) }).await.unwrap();
    let order = world.order();
    merged(&world, &order).await;
    commit(&world, &order).await;
    clean(&world, &order).await;
    assert!(run::load_plan(&world.table, &given_up.run).await.is_ok(), "it may still be gone on with");
    let unfinished = world.table.dead_folder(0).join(format!(".{}", given_up.run));
    assert!(unfinished.exists());
    let mut later = world.around("later");
    let week = jiff::SignedDuration::from_hours(7 * 24 + 1);
    later.clock = SystemClock::starting_at(later.clock.wall() + week);
    let trimmed = run::clean(&world.table, &order.run, 0, &later).await.unwrap();
    assert_eq!(trimmed.deleted_outputs, 1);
    assert!(!unfinished.exists());
    assert_eq!(world.strangers().await, Vec::<String>::new());
    world.assert_is(&expected(0)).await;
}

#[tokio::test]
async fn a_run_that_stops_at_any_point_is_made_up_for_by_the_next() {
    let mut stopped = 0;
    for at in (0_u64..).step_by(7) {
        let mut world = first_eight().await;
        let order = world.order();
        let ended = world.run_that_stops(&order, at).await;
        let done = ended.is_ok();
        if !done {
            stopped += 1;
            world.backfill().await;
            clean(&world, &order).await;
        }
        world.assert_is(&expected(0)).await;
        assert_eq!(world.strangers().await, Vec::<String>::new(), "stopped at {at}");
        if done {
            break;
        }
    }
    assert!(stopped > 5, "stopped at {stopped} points");
}

#[tokio::test]
async fn a_table_that_is_dropped_midway_is_not_written_to() {
    let mut world = first_eight().await;
    let order = world.order();
    merged(&world, &order).await;
    let table = world.table.clone();
    table
        .alter("DROP TABLE", &Context::real(), |metadata| {
            metadata.configuration.insert("windlass.dropped".to_owned(), "true".to_owned());
            Ok(())
        })
        .await
        .unwrap();
    assert!(commit(&world, &order).await.replan.unwrap().contains("changed what the table is"));
    let next = world.order();
    let planned = run::plan(&world.table, &next, &world.around("next")).await;
    assert!(matches!(planned, Err(TableError::Dropped(why)) if why.contains("was dropped")));
    // Its objects are nobody's, and are deleted.
    assert!(!world.strangers_of_all().await.is_empty());
    run::abandon(world.table.home(), &order.run, &Context::real()).await.unwrap();
    assert_eq!(world.strangers_of_all().await, Vec::<String>::new());
    // Afterwards the home is gone, and everybody is told why.
    let home = world.table.home().to_path_buf();
    table.drop_table(false, &Context::real()).await.unwrap();
    assert!(!home.exists());
    let opened = windlass_table::Table::open(&home, &Context::real());
    assert!(matches!(opened, Err(TableError::Dropped(why)) if why.contains("trips was dropped")));
    assert_eq!(run::abandon(&home, &order.run, &Context::real()).await.unwrap(), 0);
    assert!(!home.exists(), "looking for what is left makes nothing");
    let made = windlass_table::Creation::default();
    windlass_table::Table::create(&home, &world.definition, made, &Context::real()).await.unwrap();
    windlass_table::Table::open(&home, &Context::real()).unwrap();
}

#[tokio::test]
async fn a_column_that_comes_midway_makes_the_run_plan_anew() {
    let mut world = first_eight().await;
    let order = world.order();
    merged(&world, &order).await;
    let column = Column { name: "tip".into(), column_type: "float64".parse().unwrap(), nullable: true, default: None };
    world.table.evolve(column, &Context::real()).await.unwrap();
    assert!(commit(&world, &order).await.replan.is_some());
    clean(&world, &order).await;
    let done = world.backfill().await.unwrap();
    assert_eq!(done.metrics["keys"]["inserted"], expected(0)["effects"]["inserted"]);
    let (days, _) = world.digest().await;
    let rows: u64 = days.values().map(|(rows, _)| rows).sum();
    assert_eq!(rows, expected(0)["rows"].as_u64().unwrap());
    assert_eq!(world.strangers().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_column_that_goes_midway_makes_the_run_plan_anew_and_its_cells_are_left_out() {
    let mut world = first_eight().await;
    let order = world.order();
    merged(&world, &order).await;
    let error = world.table.drop_column("status", &Context::real()).await.unwrap_err();
    assert!(error.to_string().contains("sort column"), "{error}");
    world.table.drop_column("fare", &Context::real()).await.unwrap();
    assert!(commit(&world, &order).await.replan.is_some());
    clean(&world, &order).await;
    let done = world.backfill().await.unwrap();
    assert_eq!(done.metrics["keys"]["inserted"], expected(0)["effects"]["inserted"]);
    let snapshot = world.table.snapshot().await.unwrap();
    assert!(!snapshot.metadata.as_ref().unwrap().schema_string.contains("fare"));
    let (days, _) = world.digest().await;
    let rows: u64 = days.values().map(|(rows, _)| rows).sum();
    assert_eq!(rows, expected(0)["rows"].as_u64().unwrap());
    let again = Column { name: "Fare".into(), column_type: "float64".parse().unwrap(), nullable: true, default: None };
    let error = world.table.evolve(again, &Context::real()).await.unwrap_err();
    assert!(error.to_string().contains("was dropped"), "{error}");
    assert_eq!(world.strangers().await, Vec::<String>::new());
}

#[tokio::test]
async fn rows_that_wait_are_read_along_where_a_key_lives_once_in_the_table() {
    let mut world = World::sample(Uniqueness::Table).await;
    world.ingest(0..8).await;
    let around = world.around("live");
    let live = windlass_table::scan::Selection { live: true, ..Default::default() };
    let before = windlass_table::scan::digest(&world.table, &live, &around).await.unwrap().finish();
    world.backfill().await.unwrap();
    let archived = &json(&data("sample/expected/expected.table.json"))[0];
    world.assert_is(archived).await;
    let after = windlass_table::scan::digest(&world.table, &live, &around).await.unwrap().finish();
    assert_eq!(before.2, after.2, "what is read does not depend on what is merged");
    assert!(before.1 > archived["rows"].as_u64().unwrap(), "live rows are among them");
}

#[tokio::test]
async fn archiving_takes_what_was_live_and_loses_nothing_of_it() {
    let mut world = World::sample(Uniqueness::Day).await;
    world.ingest(0..15).await;
    world.backfill().await.unwrap();
    world.assert_is(&expected(2)).await;
    let live = |world: &World| {
        let around = world.around("live");
        let table = world.table.clone();
        async move {
            let selection = windlass_table::scan::Selection { live: true, ..Default::default() };
            windlass_table::scan::digest(&table, &selection, &around).await.unwrap().finish()
        }
    };
    let before = live(&world).await;
    assert!(before.1 > expected(2)["rows"].as_u64().unwrap(), "live rows are read along");
    // In two steps, of which the first archives nothing whole: the log must keep what the second needs.
    let cutoff = world.batches["cutoff"].as_i64().unwrap();
    for to in [cutoff + 3_600, cutoff + 2 * 86_400] {
        let order = Order { archive_to: Some(to), ..world.order() };
        let done = world.run(&order).await.unwrap().unwrap();
        assert!(done.committed_version.is_some());
        assert_eq!(live(&world).await.2, before.2, "what is read does not depend on what is archived");
    }
    let (days, all) = world.digest().await;
    assert_eq!(all, before.2, "{days:?}");
    let order = Order { archive_to: Some(cutoff), ..world.order() };
    assert_eq!(world.run(&order).await.unwrap(), None, "a cutoff does not go back");
}

#[tokio::test]
async fn a_table_reads_alike_from_its_checkpoint_and_its_entries() {
    let mut world = World::sample(Uniqueness::Day).await;
    for number in 0..14 {
        world.ingest([number]).await;
        world.backfill().await.unwrap();
    }
    let with = world.table.snapshot().await.unwrap();
    assert_eq!(with.version, 14);
    let store = world.table.store();
    assert!(store.try_head("_delta_log/00000000000000000010.checkpoint.parquet").await.unwrap().is_some());
    store.delete("_delta_log/_last_checkpoint").await.unwrap();
    let without = world.table.snapshot().await.unwrap();
    assert_eq!(with.txns, without.txns);
    assert_eq!((&with.protocol, &with.metadata), (&without.protocol, &without.metadata));
    assert_eq!(with.files.keys().collect::<Vec<_>>(), without.files.keys().collect::<Vec<_>>());
    let stats = |snapshot: &windlass_table::delta::Snapshot| -> Vec<_> {
        snapshot.files.values().map(|add| (add.size, add.stats.clone(), add.partition_values.clone())).collect()
    };
    assert_eq!(stats(&with), stats(&without));
    world.assert_is(&expected(1)).await;
}
