//! Clocks that are set while rows come: each row is judged by the clock at its arrival, now and in every repetition, and
//! none vanishes.

use serde_json::Value;
use windlass_clock::SystemClock;
use windlass_table::Uniqueness;
use windlass_table::run::{self, Around};

use crate::world::World;

const DAY: i64 = 86_400;

/// The dead letters of the shard.
fn dead(world: &World) -> Vec<Value> {
    let mut files: Vec<_> =
        std::fs::read_dir(world.table.dead_folder(0)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_clock_that_jumps_by_a_day_loses_no_row_and_no_order() {
    let mut world = World::sample(Uniqueness::Day).await;
    let now = world.batches["now"].as_i64().unwrap();
    let cutoff = world.batches["cutoff"].as_i64().unwrap();
    let row = |id: i64, at: i64| format!("{{\"event_time\":{at},\"trip_id\":{id},\"leg\":0,\"fare\":{id}.5}}\n");
    // Right, a day back, a day ahead, right again: a row that is late, and one of just now by the right clock.
    let first = 9_000_001;
    for (n, by) in [(0, 0), (2, -DAY), (4, DAY), (6, 0)] {
        let lines = row(first + n, cutoff - 100) + &row(first + n + 1, now - 10);
        world.ingest_lines_at(&lines, now + by).await;
    }
    // One key, twice: what came last counts, whatever its clock said.
    world.ingest_lines_at(&row(first, cutoff - 100).replace("1.5", "2.5"), now - DAY).await;
    // It is planned by clocks that are wrong as well, and dies; the next one finds the same.
    let mut plans = Vec::new();
    for hours in [-24, 24, 0] {
        let order = world.order();
        let real = world.around(&order.run);
        let clock = SystemClock::starting_at(real.clock.wall() + jiff::SignedDuration::from_hours(hours));
        let around = Around { clock, ..real };
        let plan = run::plan(&world.table, &order, &around).await.unwrap().unwrap();
        plans.push((plan.counts, plan.window, plan.days.iter().map(|day| (day.day, day.rows)).collect::<Vec<_>>()));
        run::clean(&world.table, &order.run, 0, &around).await.unwrap();
    }
    assert!(plans.iter().all(|plan| *plan == plans[0]), "{plans:?}");
    let counts = &plans[0].0;
    assert_eq!((counts.rows_in, counts.rows_late, counts.rows_live, counts.from_future), (9, 5, 3, 1));
    let done = world.backfill().await.unwrap();
    assert_eq!(done.metrics["keys"]["inserted"], 4);
    // By a clock that was a day behind, a row of today was of the future: it is put aside with all it brought.
    let dead = dead(&world);
    assert_eq!(dead.len(), 1);
    assert_eq!((&dead[0]["reason"], &dead[0]["cells"]["trip_id"]), (&"from_future".into(), &(first + 3).into()));
    let lsn = dead[0]["lsn"].as_u64().unwrap();
    assert_eq!(lsn & 0xff_ffff, 2, "numbers go on whatever the clock says");
}
