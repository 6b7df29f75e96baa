//! Rows that come to a process that keeps running.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use windlass_backfill::Figures;
use windlass_backfill::ingest::{Ingest, Refused, Sent, Taken};
use windlass_blob::Context;
use windlass_table::column::ColumnType;
use windlass_table::definition::Column;
use windlass_table::source::Form;
use windlass_table::{Sender, TableError};

use crate::world::{fares, lines, table};

fn sent(table: &str, text: impl Into<String>) -> Sent {
    let bytes = text.into().into();
    Sent { table: table.into(), shard: 0, sender: None, modes: BTreeMap::new(), form: Form::JsonLines, bytes }
}

fn start(folder: &std::path::Path) -> (Ingest, Arc<Figures>) {
    let figures = Arc::new(Figures::default());
    (Ingest::start(folder.to_path_buf(), Context::real(), figures.clone()), figures)
}

#[tokio::test]
async fn rows_are_there_at_once_and_a_batch_that_comes_again_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path(), "rides", 2, &json!({})).await;
    let (ingest, figures) = start(folder.path());
    let sender = |sequence| Some(Sender { client: "me".into(), sequence });
    let first = Sent { sender: sender(1), ..sent("rides", lines(&[(1, -60, 1.0), (2, 60, 2.0)])) };
    let taken = ingest.take(first.clone()).await.unwrap();
    assert!(matches!(taken, Taken { rows: 2, before: false, .. }) && taken.pending > 0, "{taken:?}");
    let again = ingest.take(first).await.unwrap();
    assert!(again.before && again.lsn == taken.lsn, "{again:?}");
    // Another log of the table knows nothing of that.
    let other = Sent { shard: 1, sender: sender(1), ..sent("rides", lines(&[(3, -60, 3.0)])) };
    assert!(!ingest.take(other).await.unwrap().before);
    let csv = Sent { form: Form::Csv, ..sent("rides", "ride,at,fare\n4,2025-11-19T23:00:00Z,4\n") };
    assert_eq!(ingest.take(csv).await.unwrap().rows, 1);
    assert_eq!(ingest.take(sent("rides", "")).await.unwrap().rows, 0);
    let work = folder.path().join("work");
    assert_eq!(fares(&table, &work, true).await, [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]);
    let mut text = String::new();
    figures.write(&mut text).unwrap();
    assert!(text.contains("windlass_backfill_ingested_rows_total{table=\"rides\"} 4"), "{text}");
    assert!(text.contains("windlass_backfill_lateness_seconds_count{table=\"rides\"} 2"), "{text}");
    assert_eq!(ingest.open_logs(), 2);
    ingest.close_idle(Duration::ZERO).await;
    assert_eq!(ingest.open_logs(), 0);
    // The log is free for others, and opens again.
    assert_eq!(ingest.take(sent("rides", lines(&[(5, 1, 5.0)]))).await.unwrap().rows, 1);
}

#[tokio::test]
async fn what_does_not_fit_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path(), "rides", 1, &json!({"soft_limit_bytes": 1, "hard_limit_bytes": 3000})).await;
    let (ingest, _) = start(folder.path());
    for name in ["", "..", "a/b", ".hidden", "nothing", &"x".repeat(200)] {
        let refused = ingest.take(sent(name, lines(&[(1, 1, 1.0)]))).await.unwrap_err();
        assert!(matches!(refused, Refused::NoTable(_)), "{name} {refused:?}");
    }
    let refused = ingest.take(Sent { shard: 7, ..sent("rides", lines(&[(1, 1, 1.0)])) }).await.unwrap_err();
    assert!(matches!(refused, Refused::NoTable(_)), "{refused:?}");
    assert_eq!(ingest.open_logs(), 0);
    let good = lines(&[(1, 1, 1.0)]);
    for text in [format!("{good}no json"), format!("{good}{{\"wings\": 2}}"), format!("{good}{{\"fare\": \"x\"}}")] {
        let refused = ingest.take(sent("rides", text.clone())).await.unwrap_err();
        let says = matches!(&refused, Refused::Table(TableError::Invalid(why)) if why.contains("line 2"));
        assert!(says, "{text} {refused:?}");
    }
    for form in [Form::Parquet, Form::Arrow] {
        let refused = ingest.take(Sent { form, ..sent("rides", "neither") }).await.unwrap_err();
        assert!(matches!(refused, Refused::Table(TableError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(fares(&table, &folder.path().join("work"), true).await, []);
    let mut taken = 0;
    let refused = loop {
        match ingest.take(sent("rides", good.clone())).await {
            Ok(answer) => {
                assert!(answer.due);
                taken += 1;
            }
            Err(refused) => break refused,
        }
        assert!(taken < 100, "the limit is never reached");
    };
    assert!(matches!(refused, Refused::Table(TableError::Full { .. })) && taken > 0, "{refused:?}");
}

#[tokio::test]
async fn a_column_that_is_new_and_a_table_that_is_gone_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path(), "rides", 1, &json!({})).await;
    let (ingest, _) = start(folder.path());
    ingest.take(sent("rides", lines(&[(1, 1, 1.0)]))).await.unwrap();
    let column = Column { name: "tip".into(), column_type: ColumnType::Int64, nullable: true, default: None };
    table.evolve(column, &Context::real()).await.unwrap();
    let row = r#"{"at": 1763596700, "ride": 2, "fare": 2.0, "tip": 5}"#;
    assert_eq!(ingest.take(sent("rides", row)).await.unwrap().rows, 1);
    table.drop_table(true, &Context::real()).await.unwrap();
    ingest.close_idle(Duration::ZERO).await;
    let refused = ingest.take(sent("rides", row)).await.unwrap_err();
    assert!(matches!(refused, Refused::NoTable(_)), "{refused:?}");
}

#[tokio::test]
async fn many_who_send_at_once_are_all_heard() {
    let folder = tempfile::tempdir().unwrap();
    let table = table(folder.path(), "rides", 1, &json!({})).await;
    let ingest = Arc::new(start(folder.path()).0);
    let mut sending = tokio::task::JoinSet::new();
    for ride in 0..64 {
        let ingest = ingest.clone();
        sending.spawn(async move { ingest.take(sent("rides", lines(&[(ride, 1, 1.0)]))).await.unwrap().lsn });
    }
    let mut numbers = std::collections::BTreeSet::new();
    while let Some(lsn) = sending.join_next().await {
        assert!(numbers.insert(lsn.unwrap()), "a number was given twice");
    }
    assert_eq!(fares(&table, &folder.path().join("work"), true).await.len(), 64);
}
