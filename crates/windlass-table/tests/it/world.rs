//! A table on a folder of its own, and the runs that work on it.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tempfile::TempDir;
use windlass_blob::Context;
use windlass_clock::{SystemClock, SystemEntropy};
use windlass_table::delta::DeletionVector;
use windlass_table::log::{Appended, Limits, Lsn, Writer};
use windlass_table::run::{self, Around, Finished, MEMORY, Order};
use windlass_table::source::{Meaning, json_batches};
use windlass_table::{Creation, Definition, Layout, Mode, Result, Sender, Table, TableError, Uniqueness};

pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) table: Table,
    pub(crate) definition: Definition,
    pub(crate) batches: Value,
    /// Bytes of memory that a step may have.
    pub(crate) memory: u64,
    /// The most bytes that were merged into a day at once.
    pub(crate) largest: AtomicU64,
    source: PathBuf,
    runs: u32,
}

impl World {
    /// A table made of a data set.
    pub(crate) async fn of(source: &Path, uniqueness: Uniqueness, layout: Layout) -> Self {
        Self::at(source, uniqueness, layout, None, Context::real()).await
    }

    /// The same, with its data at a URL.
    pub(crate) async fn at(
        source: &Path,
        uniqueness: Uniqueness,
        layout: Layout,
        url: Option<String>,
        context: Context,
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let batches = json(&source.join("late/batches.json"));
        let mut definition = Definition::parse(&std::fs::read_to_string(source.join("table.json")).unwrap()).unwrap();
        definition.uniqueness = uniqueness;
        definition.layout = layout;
        definition.retention_days = batches["retention_days"].as_u64().map(|days| days as u32);
        let home = folder.path().join("trips");
        let import = Some(source.join("archive"));
        let creation = Creation { url, import, cutoff: batches["cutoff"].as_i64(), ..Creation::default() };
        let table = Table::create(&home, &definition, creation, &context).await.unwrap();
        Self {
            folder,
            table,
            definition,
            batches,
            memory: MEMORY,
            largest: AtomicU64::new(0),
            source: source.to_path_buf(),
            runs: 0,
        }
    }

    pub(crate) async fn sample(uniqueness: Uniqueness) -> Self {
        Self::of(&data("sample"), uniqueness, Layout::CopyOnWrite).await
    }

    /// The sample, in the layout that leaves files as they are.
    pub(crate) async fn sample_beside() -> Self {
        Self::of(&data("sample"), Uniqueness::Day, Layout::MergeOnRead).await
    }

    pub(crate) fn around(&self, name: &str) -> Around {
        let work = self.folder.path().join("work").join(name);
        Around { memory: self.memory, ..Around::new(SystemClock::real(), SystemEntropy::real(), work) }
    }

    pub(crate) async fn writer(&self) -> Writer {
        let snapshot = self.table.snapshot().await.unwrap();
        let (checkpoint, _) = self.table.progress(&snapshot, 0);
        let folder = self.table.log_folder(0).unwrap();
        Writer::open(folder, self.table.identity(0).unwrap(), Limits::default(), checkpoint).unwrap()
    }

    /// Hands in batches of the data set, each under a sequence of its own.
    pub(crate) async fn ingest(&self, numbers: impl IntoIterator<Item = usize>) -> Vec<Appended> {
        let writer = self.writer().await;
        let mut answers = Vec::new();
        for number in numbers {
            let about = &self.batches["batches"][number];
            let modes: BTreeMap<String, Mode> = serde_json::from_value(about["modes"].clone()).unwrap();
            let arrival = self.batches["now"].as_i64().unwrap() * 1_000_000;
            let meaning = Meaning { modes, arrival, batch_rows: 1 << 20 };
            let file = std::fs::File::open(self.source.join("late").join(about["file"].as_str().unwrap())).unwrap();
            let mut found = Vec::new();
            json_batches(&mut BufReader::new(file), &self.definition, &meaning, |batch| {
                found.push(batch);
                Ok(())
            })
            .unwrap();
            for batch in found {
                let sender = Sender { client: "test".to_owned(), sequence: number as u64 };
                answers.push(writer.append(&batch.from_sender(sender)).await.unwrap());
            }
        }
        answers
    }

    /// Hands in rows as JSON lines.
    pub(crate) async fn ingest_lines(&self, lines: &str) {
        self.ingest_lines_at(lines, self.batches["now"].as_i64().unwrap()).await;
    }

    /// Hands in rows as JSON lines, by a clock that says `second`.
    pub(crate) async fn ingest_lines_at(&self, lines: &str, second: i64) {
        let meaning = Meaning { modes: BTreeMap::new(), arrival: second * 1_000_000, batch_rows: 1 << 20 };
        let mut found = Vec::new();
        json_batches(&mut lines.as_bytes(), &self.definition, &meaning, |batch| {
            found.push(batch);
            Ok(())
        })
        .unwrap();
        let writer = self.writer().await;
        for batch in found {
            writer.append(&batch).await.unwrap();
        }
    }

    /// One that says stop when it has been asked `at` times whether to go on.
    pub(crate) fn around_until(&self, name: &str, at: u64) -> Around {
        let left = AtomicU64::new(at);
        let go_on = move || {
            let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            before.map(drop).map_err(|_| TableError::Cancelled)
        };
        Around { go_on: Arc::new(go_on), ..self.around(name) }
    }

    /// A whole run that is told to stop when it has asked `at` times whether it may go on.
    pub(crate) async fn run_that_stops(&self, order: &Order, at: u64) -> Result<()> {
        let around = self.around_until(&order.run, at);
        let Some(plan) = run::plan(&self.table, order, &around).await? else { return Ok(()) };
        for day in &plan.days {
            run::merge_day(&self.table, &plan, day.day, &around, |_| async { Ok(()) }).await?;
        }
        run::commit(&self.table, &plan, &around).await?;
        run::clean(&self.table, &order.run, 0, &around).await.map(drop)
    }

    pub(crate) fn order(&mut self) -> Order {
        self.runs += 1;
        Order { run: format!("run-{}", self.runs), shard: 0, archive_to: None, most_bytes: u64::MAX }
    }

    /// A run from its plan to its end.
    pub(crate) async fn backfill(&mut self) -> Option<Finished> {
        let order = self.order();
        self.run(&order).await.unwrap()
    }

    pub(crate) async fn run(&self, order: &Order) -> Result<Option<Finished>> {
        let around = self.around(&order.run);
        let Some(plan) = run::plan(&self.table, order, &around).await? else { return Ok(None) };
        for day in &plan.days {
            self.largest.fetch_max(day.bytes, Ordering::Relaxed);
            run::merge_day(&self.table, &plan, day.day, &around, |_| async { Ok(()) }).await?;
        }
        let done = run::commit(&self.table, &plan, &around).await?;
        run::clean(&self.table, &order.run, 0, &around).await?;
        run::checkpoint(&self.table, &around).await?;
        Ok(Some(done))
    }

    pub(crate) async fn checkpoint(&self) -> Lsn {
        self.table.progress(&self.table.snapshot().await.unwrap(), 0).0
    }

    /// The digest of what is archived.
    pub(crate) async fn digest(&self) -> (BTreeMap<String, (u64, String)>, String) {
        let around = self.around("digest");
        let digest = windlass_table::scan::digest(&self.table, &Default::default(), &around).await.unwrap();
        let (days, _, all) = digest.finish();
        (days.into_iter().map(|(day, digest)| (day.to_string(), (digest.rows, digest.sha256))).collect(), all)
    }

    /// Compares the table with what a run is expected to leave.
    pub(crate) async fn assert_is(&self, expected: &Value) {
        let (days, all) = self.digest().await;
        let wanted: BTreeMap<String, (u64, String)> = expected["days"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(day, of)| (day.clone(), (of["rows"].as_u64().unwrap(), of["sha256"].as_str().unwrap().to_owned())))
            .collect();
        assert_eq!(days, wanted);
        assert_eq!(all, expected["sha256"].as_str().unwrap());
    }

    /// Files in the table's place that no version since `version` refers to.
    pub(crate) async fn strangers(&self) -> Vec<String> {
        self.table.snapshot().await.unwrap();
        self.strangers_of_all().await
    }

    /// The same, also of a table that was dropped.
    pub(crate) async fn strangers_of_all(&self) -> Vec<String> {
        let snapshot = self.table.log().at(None).await.unwrap();
        let listing = self.table.store().list("").await.unwrap();
        let mut known = snapshot.objects();
        for remove in snapshot.removed.values() {
            known.insert(remove.path.clone());
            known.extend(remove.deletion_vector.as_ref().and_then(DeletionVector::key));
        }
        let keys = listing.entries.into_iter().map(|entry| entry.key);
        keys.filter(|key| !key.starts_with("_delta_log/") && !known.contains(key)).collect()
    }
}
