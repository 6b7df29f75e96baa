//! A run, step by step: plan, merge each day, commit, trim. Every step may be repeated, and only the commit changes the
//! table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_blob::{DownloadOptions, ErrorKind, PutMode, UploadOptions};
use windlass_clock::{SharedClock, SharedEntropy};

use crate::day::Day;
use crate::definition::{Definition, Shape, Uniqueness};
use crate::delta::{Action, Add, Base, CommitInfo, Outcome, Txn, commit_run};
use crate::edits::outcomes;
use crate::error::{Result, TableError};
use crate::fold::{Effect, Effects, effect};
use crate::home::{Table, archive_app, backfill_app, engine, metrics};
use crate::log::Reader;
use crate::merge::{Merged, rewrite};
use crate::patch::{Patch, RowOp};
use crate::plan::{DayPlan, Reading, RunPlan, Sorted, Window, sort};
use crate::probe::{BaseFile, Keys, probe};
use crate::rows::Row;

pub use crate::clean::{Trimmed, clean};

/// Where runs keep what their steps hand on.
pub(crate) const RUNS: &str = "_windlass/runs";
/// Most bytes of a plan.
const LARGEST_PLAN: u64 = 256 << 20;

/// What a run needs around it.
#[derive(Clone)]
pub struct Around {
    /// Time.
    pub clock: SharedClock,
    /// Randomness.
    pub entropy: SharedEntropy,
    /// A folder of the run on this machine.
    pub work: PathBuf,
    /// Says whether to go on.
    pub go_on: Arc<dyn Fn() -> Result<()> + Send + Sync>,
}

impl std::fmt::Debug for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Around").field("work", &self.work).finish_non_exhaustive()
    }
}

impl Around {
    /// One that always goes on.
    #[must_use]
    pub fn new(clock: SharedClock, entropy: SharedEntropy, work: PathBuf) -> Self {
        Self { clock, entropy, work, go_on: Arc::new(|| Ok(())) }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.wall().as_millisecond()
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.work.join(name);
        std::fs::create_dir_all(&folder).map_err(TableError::disk("make the folder", &folder))?;
        Ok(folder)
    }
}

/// What a run shall do.
#[derive(Clone, Debug)]
pub struct Order {
    /// Its name, which no other run has.
    pub run: String,
    /// The shard.
    pub shard: u32,
    /// Up to when to archive, in seconds since 1970; `None`: only late rows are merged.
    pub archive_to: Option<i64>,
    /// Bytes of the log that it takes, about.
    pub most_bytes: u64,
}

/// What merging a day came to, as the commit needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DayResult {
    /// The day.
    pub day: Day,
    /// Files that go, if any do.
    pub removes: Vec<Add>,
    /// Files that come.
    pub adds: Vec<Add>,
    /// What happened to the keys.
    pub effects: Effects,
    /// Rows that were older than what is stored.
    pub stale: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
}

pub(crate) fn key(run: &str, name: &str) -> String {
    format!("{RUNS}/{run}/{name}")
}

async fn put_json(table: &Table, key: &str, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|error| TableError::invalid(format!("{key}: {error}")))?;
    table.store().put_bytes(key, Bytes::from(text), PutMode::Overwrite).await?;
    Ok(())
}

pub(crate) async fn get_json<T: for<'de> Deserialize<'de>>(table: &Table, key: &str) -> Result<Option<T>> {
    match table.store().get_bytes(key, LARGEST_PLAN).await {
        Ok((bytes, _)) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| TableError::damaged(format!("{}: {error}", table.store().url().of_key(key)))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Runs what computes on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| TableError::Cancelled)?
}

/// Plans a run. `None`: nothing is to be done.
///
/// # Errors
///
/// That the table was dropped, damage of the log, and whatever the disk and the store say.
pub async fn plan(table: &Table, order: &Order, around: &Around) -> Result<Option<RunPlan>> {
    let snapshot = table.snapshot().await?;
    let definition = snapshot.definition()?;
    let (from, cutoff) = table.progress(&snapshot, order.shard);
    let new_cutoff = order.archive_to.map_or(cutoff, |to| to.saturating_mul(1_000_000));
    if order.archive_to.is_some() && new_cutoff <= cutoff {
        return Ok(None);
    }
    let window = Window { from, to: from, cutoff, new_cutoff };
    let (log, identity) = (table.log_folder(order.shard)?, table.identity(order.shard)?);
    let folder = around.folder(&format!("plan-{}", order.run))?;
    let dead = table.dead_folder(order.shard).join(format!(".{}", order.run));
    let (shape, go_on, most_bytes) = (definition.shape(), around.go_on.clone(), order.most_bytes);
    let (sorted, shape, definition) = {
        let folder = folder.clone();
        blocking(move || {
            let log = Reader::open(log, identity)?;
            log.must_follow(from)?;
            let reading = Reading {
                definition: &definition,
                shape: &shape,
                window,
                most_bytes,
                folder: &folder,
                dead: Some(&dead),
            };
            let sorted = sort(&log, &reading, &*go_on)?;
            Ok((sorted, shape, definition))
        })
        .await?
    };
    if sorted.window.to == from && new_cutoff == cutoff {
        return Ok(None);
    }
    let by_day = snapshot.by_day()?;
    let (days, effects, stale) = match shape.uniqueness {
        Uniqueness::Day => (sorted.days.clone(), None, 0),
        Uniqueness::Table => {
            let (days, effects, stale) = resolve(table, &sorted, &by_day, shape, around, &folder).await?;
            (days, Some(effects), stale)
        }
    };
    let mut planned = Vec::with_capacity(days.len());
    for (day, (path, rows)) in days {
        (around.go_on)()?;
        let patch = key(&order.run, &format!("{day}.patch"));
        let written = table.store().upload_file(&path, &patch, UploadOptions::default()).await?;
        let base = by_day.get(&day).cloned().unwrap_or_default();
        planned.push(DayPlan { day, patch, rows, bytes: written.digests.bytes, base });
    }
    let mut counts = sorted.counts;
    counts.stale += stale;
    let plan = RunPlan {
        run: order.run.clone(),
        shard: order.shard,
        base_version: snapshot.version,
        window: sorted.window,
        definition,
        counts,
        log_bytes: sorted.log_bytes,
        batches: sorted.batches,
        days: planned,
        effects,
        more: sorted.more,
    };
    put_json(table, &key(&order.run, "plan.json"), &plan).await?;
    let _ = std::fs::remove_dir_all(&folder);
    Ok(Some(plan))
}

/// The plan of a run.
///
/// # Errors
///
/// That there is none, and whatever the store says.
pub async fn load_plan(table: &Table, run: &str) -> Result<RunPlan> {
    get_json(table, &key(run, "plan.json"))
        .await?
        .ok_or_else(|| TableError::Changed(format!("the plan of run {run} is gone")))
}

/// Days with a patch and how many rows it has.
type Days = BTreeMap<Day, (PathBuf, u64)>;

/// With uniqueness in the whole table: where each key lives now, and what that means for each day.
async fn resolve(
    table: &Table,
    sorted: &Sorted,
    by_day: &BTreeMap<Day, Vec<Add>>,
    shape: Shape,
    around: &Around,
    folder: &Path,
) -> Result<(Days, BTreeMap<Day, Effects>, u64)> {
    let Some((path, _)) = sorted.days.values().next().cloned() else { return Ok(Default::default()) };
    let mut files = Vec::new();
    for (day, adds) in by_day {
        for add in adds {
            files.push((*day, fetch(table, add, around).await?));
        }
    }
    let (go_on, folder) = (around.go_on.clone(), folder.to_path_buf());
    blocking(move || {
        let mut file = std::fs::File::open(&path).map_err(TableError::disk("open", &path))?;
        let patches = Patch::read_all(&mut file, &shape)?;
        let keys = Keys::of(&patches, &shape)?;
        let base: Vec<BaseFile> = files.iter().map(|(_, file)| file.clone()).collect();
        let hits = probe(&base, &keys, &shape, &*go_on)?;
        let (outcomes, stale) = outcomes(&patches, &keys, hits, &shape);
        let day_of = |row: &Row| match &row[shape.event_time] {
            crate::cell::Cell::Int(micros) => Day::of(*micros),
            _ => Day(0),
        };
        let mut edits: BTreeMap<Day, Vec<(RowOp, Row)>> = BTreeMap::new();
        let mut effects: BTreeMap<Day, Effects> = BTreeMap::new();
        for outcome in outcomes {
            let before = outcome.before.map(|hit| (files[hit.file].0, hit.row));
            let day = match (&before, &outcome.after) {
                (_, Some(after)) => day_of(after),
                (Some((day, _)), None) => *day,
                (None, None) => continue,
            };
            let mut what = effect(before.as_ref().map(|(_, row)| row), outcome.after.as_ref(), &shape);
            if outcome.after.is_some() && before.as_ref().is_some_and(|(home, _)| *home != day) {
                what = Effect::Moved;
            }
            effects.entry(day).or_default().count(what);
            if what == Effect::NoEffect {
                continue;
            }
            if let Some((home, row)) = before
                && (what == Effect::Moved || what == Effect::Deleted)
            {
                edits.entry(home).or_default().push((RowOp::Delete, row));
            }
            if let Some(row) = outcome.after {
                edits.entry(day).or_default().push((RowOp::Put, row));
            }
        }
        let mut days = Days::new();
        for (day, rows) in edits {
            let path = folder.join(format!("{day}.edits"));
            let mut file = std::fs::File::create(&path).map_err(TableError::disk("make the file", &path))?;
            for rows in rows.chunks(8192) {
                Patch::of_rows(rows, &shape)?.write(&mut file)?;
            }
            days.insert(day, (path, rows.len() as u64));
        }
        Ok((days, effects, stale))
    })
    .await
}

/// A data file of the table on this machine.
pub(crate) async fn fetch(table: &Table, add: &Add, around: &Around) -> Result<BaseFile> {
    let key = add.key();
    if add.deletion_vector.is_some() {
        return Err(TableError::Unsupported(format!("{key} has a deletion vector, which is not merged yet")));
    }
    if let Some(data) = table.local_data() {
        return Ok(BaseFile { path: data.join(&key), deleted: Vec::new() });
    }
    let path = around.folder("base")?.join(key.replace('/', "_"));
    if !path.exists() {
        table.store().download_file(&key, &path, DownloadOptions::default()).await?;
    }
    Ok(BaseFile { path, deleted: Vec::new() })
}

/// Merges one day of a run. `announce` is told of the objects that are about to be made.
///
/// # Errors
///
/// Damage, and whatever the disk and the store say.
pub async fn merge_day<F>(
    table: &Table,
    plan: &RunPlan,
    day: Day,
    around: &Around,
    announce: impl FnOnce(Vec<String>) -> F,
) -> Result<DayResult>
where
    F: Future<Output = Result<()>>,
{
    let name = key(&plan.run, &format!("{day}.json"));
    if let Some(done) = get_json::<DayResult>(table, &name).await? {
        return Ok(done);
    }
    let planned = plan.days.iter().find(|planned| planned.day == day);
    let planned = planned.ok_or_else(|| TableError::invalid(format!("run {} does not touch {day}", plan.run)))?;
    let folder = around.folder(&format!("merge-{}-{day}", plan.run))?;
    let mut base = Vec::with_capacity(planned.base.len());
    for add in &planned.base {
        base.push(fetch(table, add, around).await?);
    }
    let patch = folder.join("patch");
    let _ = std::fs::remove_file(&patch);
    table.store().download_file(&planned.patch, &patch, DownloadOptions::default()).await?;
    let merged = {
        let (definition, folder, entropy, go_on) =
            (plan.definition.clone(), folder.clone(), around.entropy.clone(), around.go_on.clone());
        blocking(move || merge_files(&base, &patch, &definition, &folder, &*entropy, &*go_on)).await?
    };
    let bytes_read = planned.base.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum::<u64>() + planned.bytes;
    let mut result = DayResult {
        day,
        removes: Vec::new(),
        adds: Vec::new(),
        effects: merged.effects,
        stale: merged.stale,
        bytes_read,
    };
    if let Some(files) = merged.files {
        let named: Vec<(String, _)> =
            files.into_iter().map(|file| (data_key(day, around.entropy.next_u128()), file)).collect();
        let keys: Vec<String> = named.iter().map(|(key, _)| key.clone()).collect();
        // Written down before they exist, so that whatever becomes of this attempt they are found again.
        let journal = key(&plan.run, &format!("names/{day}-{:016x}.json", around.entropy.next_u64()));
        put_json(table, &journal, &keys).await?;
        announce(keys).await?;
        for (key, file) in named {
            (around.go_on)()?;
            table.store().upload_file(&file.file, &key, UploadOptions::default()).await?;
            result.adds.push(Table::add(day, &key, file.bytes, &file.stats, around.now_ms())?);
        }
        result.removes.clone_from(&planned.base);
    }
    put_json(table, &name, &result).await?;
    let _ = std::fs::remove_dir_all(&folder);
    Ok(result)
}

fn merge_files(
    base: &[BaseFile],
    patch: &Path,
    definition: &Definition,
    folder: &Path,
    entropy: &dyn windlass_clock::Entropy,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<Merged> {
    let shape = definition.shape();
    let mut file = std::fs::File::open(patch).map_err(TableError::disk("open", patch))?;
    let patches = Patch::read_all(&mut file, &shape)?;
    rewrite(base, &patches, definition, &shape, folder, entropy, go_on)
}

/// The key of a new data file.
pub(crate) fn data_key(day: Day, random: u128) -> String {
    format!("day={day}/part-{}.parquet", crate::home::uuid(random))
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// What became of the commit, if one was tried: the version.
    pub committed_version: Option<i64>,
    /// Why the run has to be planned anew.
    pub replan: Option<String>,
    /// Whether somebody else had merged as much.
    pub already: bool,
    /// Its counters.
    pub metrics: Value,
}

/// Commits a run whose days are all merged.
///
/// # Errors
///
/// As [`commit_run`].
pub async fn commit(table: &Table, plan: &RunPlan, around: &Around) -> Result<Finished> {
    let mut results = Vec::with_capacity(plan.days.len());
    for day in &plan.days {
        let result: Option<DayResult> = get_json(table, &key(&plan.run, &format!("{}.json", day.day))).await?;
        results.push(result.ok_or_else(|| {
            TableError::Changed(format!("what merging {} came to is gone from run {}", day.day, plan.run))
        })?);
    }
    let metrics = counters(plan, &results);
    let now = around.now_ms();
    let table_name = &table.descriptor().name;
    let (merge_app, cut_app) = (backfill_app(table_name, plan.shard), archive_app(table_name, plan.shard));
    let archives = plan.window.new_cutoff > plan.window.cutoff;
    let lsn = i64::try_from(plan.window.to.0).unwrap_or(i64::MAX);
    let mut actions = vec![Action::CommitInfo(CommitInfo {
        timestamp: now,
        operation: if archives { "ARCHIVE" } else { "BACKFILL" }.to_owned(),
        engine_info: Some(engine()),
        txn_id: Some(plan.run.clone()),
        run_id: Some(plan.run.clone()),
        operation_metrics: self::metrics(metrics.clone()),
    })];
    actions.push(Action::Txn(Txn { app_id: merge_app.clone(), version: lsn, last_updated: Some(now) }));
    if archives {
        let version = plan.window.new_cutoff.div_euclid(1_000_000);
        actions.push(Action::Txn(Txn { app_id: cut_app.clone(), version, last_updated: Some(now) }));
    }
    for result in &results {
        actions.extend(result.removes.iter().map(|add| Action::Remove(Box::new(add.removed(now, true)))));
        actions.extend(result.adds.iter().map(|add| Action::Add(Box::new(add.clone()))));
    }
    // An archiving that merges no further row moves only the cutoff, and is told from its repetition by that.
    let (progress, fixed) = if archives {
        ((cut_app, plan.window.new_cutoff.div_euclid(1_000_000)), merge_app)
    } else {
        ((merge_app, lsn), cut_app)
    };
    let base = Base { version: plan.base_version, progress, fixed: vec![fixed], run: plan.run.clone() };
    let outcome = commit_run(table.log(), &base, &actions).await?;
    Ok(match outcome {
        Outcome::Committed(version) => {
            Finished { committed_version: Some(version), replan: None, already: false, metrics }
        }
        Outcome::Already(version) => {
            Finished { committed_version: Some(version), replan: None, already: true, metrics }
        }
        Outcome::Replan(why) => Finished { committed_version: None, replan: Some(why), already: false, metrics },
    })
}

fn counters(plan: &RunPlan, results: &[DayResult]) -> Value {
    let mut by_day: BTreeMap<Day, Effects> = plan.effects.clone().unwrap_or_default();
    if plan.effects.is_none() {
        by_day.extend(results.iter().map(|result| (result.day, result.effects.clone())));
    }
    let mut all = Effects::default();
    by_day.values().for_each(|effects| all.add(effects));
    let rewritten: Vec<Day> = results
        .iter()
        .filter(|result| !result.removes.is_empty() || !result.adds.is_empty())
        .map(|result| result.day)
        .collect();
    let mut counts = plan.counts.clone();
    if plan.effects.is_none() {
        counts.stale += results.iter().map(|result| result.stale).sum::<u64>();
    }
    let written: i64 = results.iter().flat_map(|result| &result.adds).map(|add| add.size).sum();
    json!({
        "rows": counts,
        "keys": all,
        "by_day": by_day,
        "days_affected": by_day.len(),
        "days_rewritten": rewritten,
        "files_added": results.iter().map(|result| result.adds.len()).sum::<usize>(),
        "files_removed": results.iter().map(|result| result.removes.len()).sum::<usize>(),
        "bytes_read": results.iter().map(|result| result.bytes_read).sum::<u64>(),
        "bytes_written": written,
        "log_bytes": plan.log_bytes,
        "batches": plan.batches,
        "from_lsn": plan.window.from,
        "to_lsn": plan.window.to,
        "base_version": plan.base_version,
    })
}

/// Makes the table quick to read again, when that is due.
///
/// # Errors
///
/// Whatever the store says; the table is as good without it.
pub async fn checkpoint(table: &Table, around: &Around) -> Result<bool> {
    let snapshot = table.snapshot().await?;
    table.log().checkpoint_if_due(&snapshot, around.now_ms()).await
}
