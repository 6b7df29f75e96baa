//! The sample must come out exactly as an independent implementation says, counters included.

use serde_json::Value;
use windlass_table::Uniqueness;
use windlass_table::log::Appended;

use crate::world::{World, data, json as read};

async fn comes_out_as_expected(uniqueness: Uniqueness, expected: &str) {
    let expected = read(&data("sample/expected").join(expected));
    let mut world = World::sample(uniqueness).await;
    let mut delivered = 0;
    for run in expected.as_array().unwrap() {
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
        for counter in [
            "rows_in",
            "rows_late",
            "rows_live",
            "out_of_retention",
            "from_future",
            "rejected_no_event_time",
            "rejected_no_key",
        ] {
            assert_eq!(metrics["rows"][counter], run["counts"][counter], "{name} {counter}");
        }
        let effects = &run["effects"];
        for counter in ["inserted", "updated", "resorted", "moved", "no_effect"] {
            assert_eq!(metrics["keys"][counter], effects[counter], "{name} {counter}");
        }
        let by_day: serde_json::Map<String, Value> = metrics["by_day"]
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
}

#[tokio::test]
async fn the_sample_with_keys_that_are_unique_in_a_day() {
    comes_out_as_expected(Uniqueness::Day, "expected.day.json").await;
}

#[tokio::test]
async fn the_sample_with_keys_that_are_unique_in_the_table() {
    comes_out_as_expected(Uniqueness::Table, "expected.table.json").await;
}
