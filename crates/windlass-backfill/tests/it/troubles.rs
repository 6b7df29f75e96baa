//! What goes wrong around a job: it says so clearly, and no row is lost.

use std::time::Duration;

use serde_json::json;
use windlass_blob::Context;
use windlass_engine::view;
use windlass_model::job::JobResult;
use windlass_table::Table;
use windlass_table::log::repair;

use crate::standing::{Stand, ingest};
use crate::world::{CUTOFF, fares, table};

/// Where runs write what their steps hand on: a file there refuses all of it.
fn obstacle(table: &Table) -> std::path::PathBuf {
    table.local_data().unwrap().join("_windlass")
}

/// Waits until an attempt at a task of the job has failed.
async fn failed_once(stand: &Stand, job: windlass_model::JobId) {
    let begun = stand.clock.monotonic();
    loop {
        let tasks = view::job(&*stand.store, &stand.kinds, job, stand.clock.wall()).await.unwrap().tasks;
        if tasks.iter().any(|task| task.status.failures > 0) {
            return;
        }
        assert!(stand.clock.monotonic() - begun < Duration::from_secs(60), "nothing failed");
        stand.clock.sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_store_that_refuses_for_a_while_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path(), "rides", 1, &json!({})).await;
    ingest(&table, 0, &[(1, 60, 1.0), (2, 90_000, 2.0)], CUTOFF).await;
    std::fs::write(obstacle(&table), "in the way").unwrap();
    let stand = Stand::new(folder.path()).await;
    let job = stand.submit("once", json!({ "table": table.home() })).await;
    failed_once(&stand, job).await;
    assert_eq!(fares(&table, &folder.path().join("look"), false).await, []);
    std::fs::remove_file(obstacle(&table)).unwrap();
    let status = stand.engine.wait(job).await.unwrap();
    assert!(status.result.is_some_and(JobResult::is_success), "{status:?}");
    assert_eq!(fares(&table, &folder.path().join("look"), false).await, [(1, 1.0), (2, 2.0)]);
}

#[tokio::test]
async fn a_table_that_is_dropped_meanwhile_ends_the_job_with_that_reason() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path(), "rides", 1, &json!({})).await;
    ingest(&table, 0, &[(1, 60, 1.0)], CUTOFF).await;
    std::fs::write(obstacle(&table), "in the way").unwrap();
    let stand = Stand::new(folder.path()).await;
    let job = stand.submit("once", json!({ "table": table.home() })).await;
    failed_once(&stand, job).await;
    table.clone().drop_table(false, &Context::real()).await.unwrap();
    let status = stand.engine.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Cancelled), "{status:?}");
    let why = stand.report(job).await["last_error"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("the table rides was dropped"), "{why}");
}

#[tokio::test]
async fn a_log_that_is_damaged_ends_the_job_and_only_what_is_lost_is_missing_after_the_repair() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path(), "rides", 1, &json!({})).await;
    for ride in 1..=3 {
        ingest(&table, 0, &[(ride, 60, 1.0)], CUTOFF).await;
    }
    let segment = table.log_folder(0).unwrap().join(format!("{:016x}.seg", 1));
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let stand = Stand::new(folder.path()).await;
    let job = stand.submit("once", json!({ "table": table.home() })).await;
    let status = stand.engine.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Failed), "{status:?}");
    let why = stand.report(job).await["last_error"].as_str().unwrap_or_default().to_owned();
    assert!(why.contains("0000000000000001.seg at byte") && why.contains("1:1") && why.contains("repair"), "{why}");
    assert_eq!(fares(&table, &folder.path().join("look"), false).await, [], "no part of the log is merged");
    let mended = repair(&table.log_folder(0).unwrap(), table.identity(0).unwrap()).unwrap();
    assert_eq!(mended.len(), 1);
    let job = stand.submit("again", json!({ "table": table.home() })).await;
    let status = stand.engine.wait(job).await.unwrap();
    assert!(status.result.is_some_and(JobResult::is_success), "{status:?}");
    assert_eq!(fares(&table, &folder.path().join("look"), false).await, [(1, 1.0), (3, 1.0)]);
    let report = stand.report(job).await;
    assert_eq!(report["peak_reserved_bytes"].as_u64().unwrap() % (1 << 20), 0, "{report}");
    assert!(report["peak_reserved_bytes"].as_u64().unwrap() > 0, "{report}");
}

#[tokio::test]
async fn rows_that_cannot_be_merged_are_put_aside_with_their_reason_and_stop_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path(), "rides", 1, &json!({ "retention_days": 30 })).await;
    let rows = [(1, 60, 1.0), (2, -10 * 86_400, 2.0), (3, 40 * 86_400, 3.0), (4, 86_400, 4.0)];
    ingest(&table, 0, &rows, CUTOFF).await;
    let stand = Stand::new(folder.path()).await;
    let job = stand.submit("once", json!({ "table": table.home() })).await;
    let status = stand.engine.wait(job).await.unwrap();
    assert!(status.result.is_some_and(JobResult::is_success), "{status:?}");
    assert_eq!(fares(&table, &folder.path().join("look"), false).await, [(1, 1.0), (4, 4.0)]);
    let report = stand.report(job).await;
    assert_eq!((&report["from_future"], &report["out_of_retention"]), (&1.into(), &1.into()), "{report}");
    let dead: Vec<_> = std::fs::read_dir(table.dead_folder(0)).unwrap().map(|entry| entry.unwrap().path()).collect();
    let text = std::fs::read_to_string(&dead[0]).unwrap();
    assert!(dead.len() == 1 && text.contains("from_future") && text.contains("out_of_retention"), "{text}");
    assert_eq!(report["stage"], "complete");
    assert!(
        report["lateness"]["rows"].as_array().unwrap().iter().filter_map(serde_json::Value::as_u64).sum::<u64>() == 2
    );
}
