//! Days with more rows to merge than memory is for.

use serde_json::json;
use windlass_table::run::{self, Around, DayResult, Order};
use windlass_table::{Layout, Uniqueness};

use crate::world::{World, data};

/// Late rows of two days: most of their keys several times, every seventh one of a trip that is there.
fn many(rows: u64) -> String {
    let at = |n: u64| 1_762_992_000 + (n % 2) * 86_400 + n % 50_000;
    let row = |n: u64| {
        let trip = if n.is_multiple_of(7) { 1_005_000 + n % 400 } else { 9_000_000 + n % (rows / 3) };
        json!({ "event_time": at(n), "trip_id": trip, "leg": 0, "fare": n as f64 }).to_string() + "\n"
    };
    (0..rows).map(row).collect()
}

/// A run with so much memory, and what merging each day came to.
async fn merge(world: &World, order: &Order, memory: u64) -> (run::Finished, Vec<DayResult>) {
    let around = Around { memory, ..world.around(&order.run) };
    let plan = run::plan(&world.table, order, &around).await.unwrap().unwrap();
    let mut days = Vec::new();
    for day in &plan.days {
        days.push(run::merge_day(&world.table, &plan, day.day, &around, |_| async { Ok(()) }).await.unwrap());
    }
    let done = run::commit(&world.table, &plan, &around).await.unwrap();
    run::clean(&world.table, &order.run, 0, &around).await.unwrap();
    (done, days)
}

#[tokio::test]
async fn a_day_that_is_merged_in_parts_is_as_if_it_had_been_merged_at_once() {
    let lines = many(6_000);
    for uniqueness in [Uniqueness::Day, Uniqueness::Table] {
        for layout in [Layout::CopyOnWrite, Layout::MergeOnRead] {
            let mut ends = Vec::new();
            // With none, a part is a few kilobytes, and there are dozens.
            for memory in [u64::MAX, 0] {
                let mut world = World::of(&data("sample"), uniqueness, layout).await;
                world.ingest_lines(&lines).await;
                let order = world.order();
                let (done, _) = merge(&world, &order, memory).await;
                assert_eq!(world.strangers().await, Vec::<String>::new());
                let counts =
                    (done.metrics["keys"].clone(), done.metrics["by_day"].clone(), done.metrics["rows"].clone());
                ends.push((world.digest().await, counts));
            }
            assert_eq!(ends[0], ends[1], "{uniqueness:?} {layout:?}");
        }
    }
}

#[tokio::test]
async fn a_day_whose_rows_change_nothing_stays_as_it_is_also_in_parts() {
    let mut world = World::sample(Uniqueness::Day).await;
    let lines = many(3_000);
    world.ingest_lines(&lines).await;
    world.backfill().await.unwrap();
    let before = world.table.snapshot().await.unwrap();
    world.ingest_lines(&lines).await;
    let order = world.order();
    let (done, days) = merge(&world, &order, 0).await;
    assert!(days.iter().all(|day| !day.changes()));
    assert_eq!(done.metrics["bytes_written"], 0);
    assert_eq!(world.table.snapshot().await.unwrap().files, before.files);
}
