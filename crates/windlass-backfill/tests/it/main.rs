//! The kind `backfill`, killed before and after every commit of the store and every change outside, ends as if it had
//! not been.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests say where they break, and print their tables")]

mod ingest;
mod s3;
mod standing;
mod troubles;
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use windlass_backfill::BackfillKind;
use windlass_blob::Context;
use windlass_clock::{SystemClock, SystemEntropy};
use windlass_engine::{JobRequest, Kinds};
use windlass_sim::matrix::{self, Case};
use windlass_table::log::{Limits, Lsn, Writer};
use windlass_table::run::Around;
use windlass_table::scan::{Selection, digest};
use windlass_table::source::{Meaning, json_batches};
use windlass_table::{Creation, Day, Definition, Mode, Table};

const DAYS: [&str; 2] = ["2025-11-12", "2025-11-13"];

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../windlass-table/tests/data/sample")
}

/// Two days of the sample with the rows of four of its batches that belong to them; some add up, so that merging one
/// twice would show.
async fn fill(folder: &Path) -> Table {
    fill_at(folder, None, &Context::real()).await
}

/// The same, with its data at a URL.
async fn fill_at(folder: &Path, url: Option<String>, context: &Context) -> Table {
    let archive = folder.join("archive");
    for day in DAYS {
        let name = format!("day={day}/part-00000.parquet");
        fs::create_dir_all(archive.join(&name).parent().unwrap()).unwrap();
        fs::copy(sample().join("archive").join(&name), archive.join(&name)).unwrap();
    }
    let about: Value = serde_json::from_str(&fs::read_to_string(sample().join("late/batches.json")).unwrap()).unwrap();
    let definition = Definition::parse(&fs::read_to_string(sample().join("table.json")).unwrap()).unwrap();
    let creation = Creation { url, import: Some(archive), cutoff: about["cutoff"].as_i64(), ..Creation::default() };
    let table = Table::create(&folder.join("trips"), &definition, creation, context).await.unwrap();
    let identity = table.identity(0).unwrap();
    let log = table.log_folder(0).unwrap();
    // Short segments, so that there is something to trim.
    let limits = Limits { segment_bytes: 3_000, ..Limits::default() };
    let writer = Writer::open(log, identity, limits, Lsn::default()).unwrap();
    for batch in 0..4 {
        let about_batch = &about["batches"][batch];
        let modes: BTreeMap<String, Mode> = serde_json::from_value(about_batch["modes"].clone()).unwrap();
        let text = fs::read_to_string(sample().join("late").join(about_batch["file"].as_str().unwrap())).unwrap();
        let of_days = |line: &&str| {
            let row: Value = serde_json::from_str(line).unwrap();
            let day = row["event_time"].as_i64().map(|at| Day::of(at * 1_000_000).to_string());
            day.is_some_and(|day| DAYS.contains(&day.as_str()))
        };
        let lines: Vec<&str> = text.lines().filter(of_days).collect();
        let arrival = about["now"].as_i64().unwrap() * 1_000_000;
        let meaning = Meaning { modes, arrival, batch_rows: 1000 };
        let mut found = Vec::new();
        json_batches(&mut Cursor::new(lines.join("\n")), &definition, &meaning, |batch| {
            found.push(batch);
            Ok(())
        })
        .unwrap();
        for batch in found {
            writer.append(&batch).await.unwrap();
        }
    }
    table
}

/// What the table holds and how far it is merged; and what is left of its log and in its place, in numbers.
async fn state(table: &Table, work: &Path) -> String {
    let around = Around::new(SystemClock::real(), SystemEntropy::real(), work.to_path_buf());
    let (days, rows, all) = digest(table, &Selection::default(), &around).await.unwrap().finish();
    let snapshot = table.snapshot().await.unwrap();
    let listing = table.store().list("").await.unwrap();
    let strangers = listing.entries.iter().map(|entry| &entry.key).filter(|key| {
        !key.starts_with("_delta_log/") && !snapshot.files.contains_key(*key) && !snapshot.removed.contains_key(*key)
    });
    let segments = fs::read_dir(table.log_folder(0).unwrap()).unwrap().filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "seg"))
    });
    format!(
        "{} days, {rows} rows, {all}, merged up to {}, {} strangers, {} segment(s)",
        days.len(),
        table.progress(&snapshot, 0).0,
        strangers.count(),
        segments.count()
    )
}

fn spec(folder: &Path, max_run: Option<&str>) -> Value {
    let mut spec = json!({ "table": folder.join("trips") });
    if let Some(max_run) = max_run {
        spec["max_run"] = max_run.into();
    }
    spec
}

async fn case(max_run: Option<&'static str>) -> Case {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let table = fill(folder.path()).await;
    let request = JobRequest {
        kind: "backfill".into(),
        name: "test".into(),
        spec: spec(folder.path(), max_run),
        ..JobRequest::default()
    };
    Case {
        clock: SystemClock::real(),
        kinds: Kinds::new().with(BackfillKind::default()),
        request,
        others: Vec::new(),
        reversed: false,
        then: None,
        work_dir: folder.path().join("jobs"),
        fingerprint: Box::new(move || {
            let (folder, table) = (folder.clone(), table.clone());
            Box::pin(async move { state(&table, &folder.path().join("look")).await })
        }),
    }
}

/// What the table must be in the end, by a run without an engine.
async fn wanted() -> String {
    use windlass_table::run;
    let folder = tempfile::tempdir().unwrap();
    let table = fill(folder.path()).await;
    let around = Around::new(SystemClock::real(), SystemEntropy::real(), folder.path().join("work"));
    let order = run::Order { run: "one".into(), shard: 0, archive_to: None, most_bytes: u64::MAX };
    let plan = run::plan(&table, &order, &around).await.unwrap().unwrap();
    for day in &plan.days {
        run::merge_day(&table, &plan, day.day, &around, |_| async { Ok(()) }).await.unwrap();
    }
    run::commit(&table, &plan, &around).await.unwrap();
    run::clean(&table, "one", 0, &around).await.unwrap();
    state(&table, &folder.path().join("look")).await
}

/// What an attempt that died had said it would write is in the ledger as gone, beside what the next one wrote.
fn is_the_same(difference: &str) -> bool {
    let (ended, clean) = difference.split_once("\n      clean run: ").unwrap();
    ended.replace("write:Gone ", "") == clean
}

async fn check(name: &str, max_run: Option<&'static str>, every: usize) {
    let wanted = wanted().await;
    let matrix = matrix::make(|| case(max_run), every).await;
    println!("{name}: {}\n{}", matrix.clean, matrix.to_table());
    assert!(matrix.clean.contains("completed succeeded"), "{}", matrix.clean);
    assert!(matrix.clean.contains(&wanted), "{wanted:?} is not in {}", matrix.clean);
    assert!(wanted.contains("0 strangers, 1 segment(s)"), "{wanted}");
    assert_eq!(matrix.clean.contains("commit[round-0001]"), max_run.is_some(), "{}", matrix.clean);
    let different = matrix.rows.iter().filter_map(|row| Some((row.n, row.difference.as_deref()?)));
    let different: Vec<_> = different.filter(|(_, difference)| !is_the_same(difference)).collect();
    assert!(different.is_empty(), "{name}: {different:#?}");
}

#[tokio::test]
async fn a_run_that_is_killed_anywhere_merges_every_row_once() {
    check("one commit", None, 1).await;
}

#[tokio::test]
async fn a_run_of_several_commits_that_is_killed_merges_every_row_once() {
    check("several commits", Some("2 KiB"), 3).await;
}
