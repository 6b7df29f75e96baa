//! Standing jobs: they merge when it is time, one run a log, and share what memory there is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_backfill::BackfillKind;
use windlass_clock::{SharedClock, SystemClock, SystemEntropy};
use windlass_engine::{Command, Engine, EngineConfig, JobRequest, Kinds, view};
use windlass_model::JobId;
use windlass_sim::matrix::{self, Case, Cast};
use windlass_store::Store;
use windlass_store::memory::MemoryStore;
use windlass_table::Table;
use windlass_table::log::{Limits, Lsn, Writer};
use windlass_table::source::{Form, Meaning, whole_batch};

use crate::world::{CUTOFF, fares, lines, table};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Stand {
    pub(crate) engine: Arc<Engine>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) kinds: Kinds,
    pub(crate) clock: SharedClock,
}

impl Stand {
    pub(crate) async fn new(folder: &Path) -> Self {
        let clock = SystemClock::real();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        Self::on(folder, store).await
    }

    async fn on(folder: &Path, store: Arc<dyn Store>) -> Self {
        let clock = SystemClock::real();
        let kinds = Kinds::new().with(BackfillKind::default());
        let config =
            EngineConfig::new(store.clone(), clock.clone(), SystemEntropy::real(), kinds.clone(), folder.join("work"));
        Self { engine: Arc::new(Engine::open(config).await.unwrap()), store, kinds, clock }
    }

    pub(crate) async fn submit(&self, name: &str, spec: Value) -> JobId {
        let request = JobRequest { kind: "backfill".into(), name: name.into(), spec, ..JobRequest::default() };
        self.engine.submit(request).await.unwrap()
    }

    /// What the last round found.
    async fn status(&self, job: JobId) -> Value {
        let view = view::job(&*self.store, &self.kinds, job, self.clock.wall()).await.unwrap();
        view.rounds.map(|rounds| rounds.status).unwrap_or_default()
    }

    /// Waits until a round has found what is `wanted`.
    async fn until(&self, job: JobId, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = self.clock.monotonic();
        loop {
            let status = self.status(job).await;
            if wanted(&status) {
                return status;
            }
            assert!(self.clock.monotonic() - begun < PATIENCE, "{status}");
            self.clock.sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn report(&self, job: JobId) -> Value {
        windlass_engine::report::make(&*self.store, &self.kinds, job, self.clock.wall()).await.unwrap().summary
    }
}

/// Rows into a log, as if they had come at `arrival` seconds.
pub(crate) async fn ingest(table: &Table, shard: u32, rows: &[(i64, i64, f64)], arrival: i64) {
    let definition = table.snapshot().await.unwrap().definition().unwrap();
    let meaning = Meaning { arrival: arrival * 1_000_000, batch_rows: 10_000, ..Meaning::default() };
    let batch = whole_batch(Form::JsonLines, &lines(rows).into(), &definition, &meaning).unwrap().unwrap();
    let (folder, identity) = (table.log_folder(shard).unwrap(), table.identity(shard).unwrap());
    let writer = Writer::open(folder, identity, Limits::default(), Lsn::default()).unwrap();
    writer.append(&batch).await.unwrap();
}

/// A standing job over the table that the other matrices have, in several commits. Settled, it is cancelled.
async fn case() -> Case {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let table = crate::fill(folder.path()).await;
    let spec = json!({"table": table.home(), "max_run": "2 KiB", "keep": {"every": "1s", "max_age": "1s"}});
    let request = JobRequest { kind: "backfill".into(), name: "keep".into(), spec, ..JobRequest::default() };
    Case {
        clock: SystemClock::real(),
        kinds: Kinds::new().with(BackfillKind::default()),
        request,
        others: Vec::new(),
        reversed: false,
        then: Some(Command::Cancel { undo: false }),
        work_dir: folder.path().join("jobs"),
        fingerprint: Box::new(move || {
            let (folder, table) = (folder.clone(), table.clone());
            Box::pin(async move { crate::state(&table, &folder.path().join("look")).await })
        }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standing_job_that_is_killed_merges_every_row_once() {
    let wanted = crate::wanted().await;
    let stores = |clock: SharedClock| async { Arc::new(MemoryStore::new(clock)) as Arc<dyn Store> };
    let matrix = matrix::make_on(stores, case, 5, Cast::Alone, 8).await;
    println!("{}\n{}", matrix.clean, matrix.to_table());
    assert!(matrix.clean.contains("completed cancelled"), "{}", matrix.clean);
    assert!(matrix.clean.contains(&wanted), "{wanted:?} is not in {}", matrix.clean);
    assert!(matrix.clean.contains(r#""settled":true"#), "{}", matrix.clean);
    for label in ["plan", "merge", "commit", "trim"] {
        assert!(matrix.rows.iter().any(|row| row.label == label), "it was not killed at {label}");
    }
    // How many tasks there were until it had settled hangs on when it was killed.
    let rest = |text: &str| text.split_once('{').map(|(_, rest)| rest.trim().to_owned());
    let differs = |difference: &str| {
        let (ended, clean) = difference.split_once("\n      clean run: ").unwrap();
        rest(ended) != rest(clean)
    };
    let different: Vec<_> = matrix.rows.iter().filter(|row| row.difference.as_deref().is_some_and(differs)).collect();
    assert!(different.is_empty(), "{different:#?}");
}

fn now() -> i64 {
    SystemClock::real().wall().as_second()
}

#[tokio::test]
async fn logs_of_many_tables_are_merged_when_it_is_time_and_memory_is_shared() {
    let folder = tempfile::tempdir().unwrap();
    let tables = folder.path().join("tables");
    let mut all = Vec::new();
    for n in 0..6 {
        let table = table(&tables, &format!("t{n}"), 4, &json!({})).await;
        // Three logs of each table have late rows, half of them old enough; one stays empty.
        for shard in 0..3 {
            let arrival = if n % 2 == 0 { now() - 3600 } else { now() };
            let ride = i64::from(shard) * 10;
            ingest(&table, shard, &[(ride, 60, 1.0), (ride + 1, 90_000, 2.0)], arrival).await;
        }
        all.push(table);
    }
    let stand = Stand::new(folder.path()).await;
    // Room for one merge at a time, whatever wants to run.
    let spec = json!({
        "tables": tables, "memory": "100 MiB",
        "keep": {"every": "1s", "max_age": "10m", "soft": "8 KiB", "at_a_time": 5},
    });
    let job = stand.submit("all", spec).await;
    let status =
        stand.until(job, |status| status["waiting"] == 9 && status["running"] == 0 && status["due"] == 0).await;
    assert_eq!(
        (status["tables"].as_u64(), status["logs"].as_u64(), status["troubled"].as_u64()),
        (Some(6), Some(24), Some(0))
    );
    for (n, table) in all.iter().enumerate() {
        let found = fares(table, &folder.path().join("look"), false).await;
        assert_eq!(found.len(), if n % 2 == 0 { 6 } else { 0 }, "{n} {found:?}");
    }
    let report = stand.report(job).await;
    assert_eq!((report["runs"].as_u64(), report["commits"].as_u64()), (Some(9), Some(9)), "{report}");
    assert_eq!((report["inserted"].as_u64(), report["failed"].as_u64()), (Some(18), Some(0)), "{report}");
    // What is large is due at once.
    let many: Vec<_> = (0..400).map(|n| (500 + n, 60, 5.0)).collect();
    ingest(&all[1], 0, &many, now()).await;
    stand.until(job, |status| status["waiting"] == 8 && status["running"] == 0).await;
    assert_eq!(fares(&all[1], &folder.path().join("look"), false).await.len(), 402);
    stand.engine.command(job, Command::Cancel { undo: false }, None).await.unwrap();
    assert!(stand.engine.wait(job).await.unwrap().result.is_some());
}

#[tokio::test]
async fn archiving_goes_along_and_a_table_that_is_damaged_stops_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let tables = folder.path().join("tables");
    let good = table(&tables, "good", 1, &json!({"delay_seconds": 3600})).await;
    let bad = table(&tables, "bad", 1, &json!({})).await;
    for table in [&good, &bad] {
        // Live, and long ago by now.
        ingest(table, 0, &[(1, -60, 1.0), (2, -7200, 2.0)], CUTOFF + 7300).await;
    }
    let segment = std::fs::read_dir(bad.log_folder(0).unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|end| end == "seg")).max().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let length = bytes.len();
    bytes[length - 100] ^= 1;
    // Something follows, so it is no torn end.
    let copy = bytes[44..].to_vec();
    bytes.extend(copy);
    std::fs::write(&segment, bytes).unwrap();
    let stand = Stand::new(folder.path()).await;
    let spec = json!({"tables": tables, "keep": {"every": "1s", "archive_every": "1s", "max_age": "1s"}});
    let job = stand.submit("all", spec).await;
    let status = stand.until(job, |status| status["troubled"] == 1 && status["running"] == 0).await;
    let trouble = status["shown"].as_array().unwrap().iter().find(|log| log["table"] == "bad").unwrap();
    assert!(trouble["trouble"].as_str().unwrap().contains("damaged"), "{status}");
    let begun = stand.clock.monotonic();
    loop {
        let found = fares(&good, &folder.path().join("look"), false).await;
        if found.len() == 2 {
            break;
        }
        assert!(stand.clock.monotonic() - begun < PATIENCE, "{found:?} {}", stand.status(job).await);
        stand.clock.sleep(Duration::from_millis(50)).await;
    }
    stand.engine.command(job, Command::Cancel { undo: false }, None).await.unwrap();
    stand.engine.wait(job).await.unwrap();
}

#[tokio::test]
async fn a_job_by_hand_and_a_standing_one_share_a_log_and_every_row_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let tables = folder.path().join("tables");
    let table = table(&tables, "rides", 1, &json!({})).await;
    for ride in 0..5 {
        ingest(&table, 0, &[(ride, 60 + 90_000 * ride, 1.0)], now() - 3600).await;
    }
    let stand = Stand::new(folder.path()).await;
    let home = table.home().to_path_buf();
    let keep = stand.submit("keep", json!({"table": home, "keep": {"every": "1s", "max_age": "1s"}})).await;
    let once = stand.submit("once", json!({"table": home})).await;
    let status = stand.engine.wait(once).await.unwrap();
    assert!(status.result.is_some_and(windlass_model::job::JobResult::is_success), "{status:?}");
    stand.until(keep, |status| status["logs"] == 1 && status["waiting"] == 0 && status["running"] == 0).await;
    assert_eq!(fares(&table, &folder.path().join("look"), false).await.len(), 5);
    stand.engine.command(keep, Command::Cancel { undo: false }, None).await.unwrap();
    stand.engine.wait(keep).await.unwrap();
}
