//! The sample and generated data sets must come out exactly as independent implementations say, counters included.

use serde_json::{Map, Value};
use tempfile::TempDir;
use windlass_table::log::Appended;
use windlass_table::{Layout, Uniqueness};

use crate::generator::generate;
use crate::oracle::expect;
use crate::world::{World, data, json as read};

const ROWS: [&str; 7] = [
    "rows_in",
    "rows_late",
    "rows_live",
    "out_of_retention",
    "from_future",
    "rejected_no_event_time",
    "rejected_no_key",
];
const KEYS: [&str; 5] = ["inserted", "updated", "resorted", "moved", "no_effect"];

async fn comes_out_as_expected(mut world: World, expected: &[Value]) -> World {
    let mut delivered = 0;
    for run in expected {
        let name = run["run"].as_str().unwrap();
        let wanted =
            &world.batches["runs"].as_array().unwrap().iter().find(|run| run["name"] == name).unwrap()["deliver"];
        let numbers: Vec<usize> = wanted.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        // Those that were delivered before are refused by the log.
        let answers = world.ingest(numbers.iter().copied()).await;
        let before = answers.iter().filter(|answer| matches!(answer, Appended::Before(_))).count();
        assert_eq!(before, numbers.iter().filter(|n| **n < delivered).count(), "{name}");
        delivered = numbers.iter().max().unwrap() + 1;

        let checkpoint = world.checkpoint().await;
        let done = world.backfill().await.unwrap();
        assert!(done.committed_version.is_some() && !done.already);
        assert!(world.checkpoint().await > checkpoint);
        world.assert_is(run).await;

        let metrics = &done.metrics;
        for counter in ROWS {
            assert_eq!(metrics["rows"][counter], run["counts"][counter], "{name} {counter}");
        }
        for counter in KEYS {
            assert_eq!(metrics["keys"][counter], run["effects"][counter], "{name} {counter}");
        }
        let by_day: Map<String, Value> = metrics["by_day"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(day, of)| {
                let mut of = of.clone();
                assert_eq!(of["deleted"], 0);
                of.as_object_mut().unwrap().remove("deleted");
                (day.clone(), of)
            })
            .collect();
        assert_eq!(Value::Object(by_day), run["effects_by_day"], "{name}");
        assert_eq!(metrics["days_rewritten"], run["rewritten_days"], "{name}");
        assert_eq!(world.strangers().await, Vec::<String>::new(), "{name}");
    }
    assert_eq!(world.backfill().await, None, "nothing is left to do");
    world
}

async fn the_sample(uniqueness: Uniqueness, layout: Layout, expected: &str) {
    let expected = read(&data("sample/expected").join(expected));
    let world = World::of(&data("sample"), uniqueness, layout).await;
    comes_out_as_expected(world, expected.as_array().unwrap()).await;
}

async fn generated(seed: u64, uniqueness: Uniqueness, layout: Layout) {
    let source = TempDir::new().unwrap();
    let set = generate(seed);
    set.write(source.path());
    let mut world = World::of(source.path(), uniqueness, layout).await;
    if seed == 23 {
        // Too little for anything: the larger days are merged in parts.
        world.memory = 0;
    }
    let world = comes_out_as_expected(world, &expect(&set, uniqueness)).await;
    // The smallest part has 4 KiB.
    let largest = world.largest.into_inner();
    assert!(largest > 4 << 10, "days of seed {seed} have at most {largest} bytes: one part holds them");
}

#[tokio::test]
async fn the_sample_with_keys_that_are_unique_in_a_day() {
    the_sample(Uniqueness::Day, Layout::CopyOnWrite, "expected.day.json").await;
}

#[tokio::test]
async fn the_sample_with_keys_that_are_unique_in_the_table() {
    the_sample(Uniqueness::Table, Layout::CopyOnWrite, "expected.table.json").await;
}

#[tokio::test]
async fn the_sample_merged_on_read_with_keys_that_are_unique_in_a_day() {
    the_sample(Uniqueness::Day, Layout::MergeOnRead, "expected.day.json").await;
}

#[tokio::test]
async fn the_sample_merged_on_read_with_keys_that_are_unique_in_the_table() {
    the_sample(Uniqueness::Table, Layout::MergeOnRead, "expected.table.json").await;
}

#[tokio::test]
async fn generated_sets_with_keys_that_are_unique_in_a_day() {
    for seed in [11, 23, 2026] {
        generated(seed, Uniqueness::Day, Layout::CopyOnWrite).await;
    }
}

#[tokio::test]
async fn generated_sets_with_keys_that_are_unique_in_the_table() {
    for seed in [11, 23, 2026] {
        generated(seed, Uniqueness::Table, Layout::CopyOnWrite).await;
    }
}

#[tokio::test]
async fn generated_sets_merged_on_read_with_keys_that_are_unique_in_a_day() {
    for seed in [11, 23, 2026] {
        generated(seed, Uniqueness::Day, Layout::MergeOnRead).await;
    }
}

#[tokio::test]
async fn generated_sets_merged_on_read_with_keys_that_are_unique_in_the_table() {
    for seed in [11, 23, 2026] {
        generated(seed, Uniqueness::Table, Layout::MergeOnRead).await;
    }
}

/// The generator and the reference here stand for those that made the sample, so they have to make the same.
#[test]
fn generator_and_reference_make_the_sample_from_its_seed() {
    let set = generate(7);
    let about = read(&data("sample/late/batches.json"));
    assert_eq!((about["cutoff"].as_i64(), about["now"].as_i64()), (Some(set.cutoff), Some(set.now)));
    for (delivery, about) in set.deliveries.iter().zip(about["batches"].as_array().unwrap()) {
        assert_eq!(serde_json::to_value(&delivery.modes).unwrap(), about["modes"]);
        let text = std::fs::read_to_string(data("sample/late").join(about["file"].as_str().unwrap())).unwrap();
        let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let made: Vec<Value> = delivery.rows.iter().cloned().map(Value::Object).collect();
        assert_eq!(made, rows, "{}", about["file"]);
    }
    for (uniqueness, file) in [(Uniqueness::Day, "expected.day.json"), (Uniqueness::Table, "expected.table.json")] {
        let expected = read(&data("sample/expected").join(file));
        for (found, wanted) in expect(&set, uniqueness).iter().zip(expected.as_array().unwrap()) {
            for part in ["effects_by_day", "rewritten_days", "days", "rows", "sha256"] {
                assert_eq!(found[part], wanted[part], "{file} {} {part}", wanted["run"]);
            }
            for counter in ROWS {
                assert_eq!(found["counts"][counter], wanted["counts"][counter], "{file} {counter}");
            }
            for counter in KEYS {
                assert_eq!(found["effects"][counter], wanted["effects"][counter], "{file} {counter}");
            }
        }
    }
}
