//! A run, step by step: plan, merge each day, commit, trim. Every step may be repeated, and only the commit changes the
//! table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_blob::{BlobStore, DownloadOptions, ErrorKind, PutMode, UploadOptions};
use windlass_clock::{SharedClock, SharedEntropy};

use crate::day::Day;
use crate::definition::{Shape, Uniqueness};
use crate::delta::{Action, Add, Base, CommitInfo, Deleted, Outcome, Txn, commit_run, vector};
use crate::edits::{Outcome as RowOutcome, outcomes};
use crate::error::{Result, TableError};
use crate::fold::{Effect, Effects, effect};
use crate::home::{Table, archive_app, backfill_app, engine, metrics};
use crate::keys::Keys;
use crate::log::Reader;
use crate::merge::{Fate, Means, merge};
use crate::outcome;
use crate::parts::{bytes, parts, split};
use crate::patch::{Patch, RowOp};
use crate::plan::{DayPlan, Reading, RunPlan, Window, sort};
use crate::probe::{BaseFile, probe};
use crate::rows::Row;

pub use crate::clean::{Trimmed, clean};
pub use crate::dropped::abandon;
pub use crate::outcome::{DayResult, Object};

/// Where runs keep what their steps hand on.
pub(crate) const RUNS: &str = "_windlass/runs";
/// Rows of days that are held before they are written to their files.
const HELD_ROWS: usize = 16_384;
/// Bytes of memory that a step may have if nothing else is said.
pub const MEMORY: u64 = 128 << 20;
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
    /// Bytes of memory that each of its steps may have. What needs more is done in parts.
    pub memory: u64,
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
        Self { clock, entropy, work, memory: MEMORY, go_on: Arc::new(|| Ok(())) }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.wall().as_millisecond()
    }

    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
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

pub(crate) fn key(run: &str, name: &str) -> String {
    format!("{RUNS}/{run}/{name}")
}

pub(crate) async fn put_json(table: &Table, key: &str, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|error| TableError::invalid(format!("{key}: {error}")))?;
    table.store().put_bytes(key, Bytes::from(text), PutMode::Overwrite).await?;
    Ok(())
}

pub(crate) async fn get_json<T: for<'de> Deserialize<'de>>(table: &Table, key: &str) -> Result<Option<T>> {
    read_json(table.store(), key).await
}

pub(crate) async fn read_json<T: for<'de> Deserialize<'de>>(store: &BlobStore, key: &str) -> Result<Option<T>> {
    match store.get_bytes(key, LARGEST_PLAN).await {
        Ok((bytes, _)) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| TableError::damaged(format!("{}: {error}", store.url().of_key(key)))),
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
            let patches = sorted.days.values().map(|(path, _)| path.clone()).collect();
            let (days, effects, stale) = resolve(table, patches, &by_day, shape, around, &folder).await?;
            (days, Some(effects), stale)
        }
    };
    let mut planned = Vec::with_capacity(days.len());
    for (day, (path, rows)) in days {
        (around.go_on)()?;
        let patch = key(&order.run, &format!("{day}.patch"));
        let bytes = table.store().move_file(&path, &patch, UploadOptions::default()).await?;
        let base = by_day.get(&day).cloned().unwrap_or_default();
        planned.push(DayPlan { day, patch, rows, bytes, base });
    }
    let mut counts = sorted.counts;
    counts.stale += stale;
    let plan = RunPlan {
        run: order.run.clone(),
        id: format!("{:032x}", around.entropy.next_u128()),
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
pub(crate) type Days = BTreeMap<Day, (PathBuf, u64)>;

/// With uniqueness in the whole table: where each key lives now, and what that means for each day.
pub(crate) async fn resolve(
    table: &Table,
    patches: Vec<PathBuf>,
    by_day: &BTreeMap<Day, Vec<Add>>,
    shape: Shape,
    around: &Around,
    folder: &Path,
) -> Result<(Days, BTreeMap<Day, Effects>, u64)> {
    if patches.is_empty() {
        return Ok(Default::default());
    }
    let mut files = Vec::new();
    for (day, adds) in by_day {
        for add in adds {
            files.push((*day, fetch(table, add, around).await?));
        }
    }
    let (go_on, folder) = (around.go_on.clone(), folder.to_path_buf());
    let memory = around.memory;
    blocking(move || {
        let base: Vec<BaseFile> = files.iter().map(|(_, file)| file.clone()).collect();
        let day_of = |row: &Row| match &row[shape.event_time] {
            crate::cell::Cell::Int(micros) => Day::of(*micros),
            _ => Day(0),
        };
        let parts = parts(bytes(&patches)?, memory);
        let patches: Vec<Vec<PathBuf>> = match parts {
            0 | 1 => vec![patches],
            _ => split(&patches, parts, &shape, &folder)?.into_iter().map(|path| vec![path]).collect(),
        };
        let mut edits = DayEdits { folder, shape: &shape, held: BTreeMap::new(), rows: 0, days: Days::new() };
        let mut effects: BTreeMap<Day, Effects> = BTreeMap::new();
        let mut each = |outcome: RowOutcome| {
            let before = outcome.before.map(|(hit, row)| (files[hit.file as usize].0, row));
            let day = match (&before, &outcome.after) {
                (_, Some(after)) => day_of(after),
                (Some((day, _)), None) => *day,
                (None, None) => return Ok(()),
            };
            let mut what = effect(before.as_ref().map(|(_, row)| row), outcome.after.as_ref(), &shape);
            if outcome.after.is_some() && before.as_ref().is_some_and(|(home, _)| *home != day) {
                what = Effect::Moved;
            }
            effects.entry(day).or_default().count(what);
            if what == Effect::NoEffect {
                return Ok(());
            }
            if let Some((home, row)) = before
                && (what == Effect::Moved || what == Effect::Deleted)
            {
                edits.push(home, RowOp::Delete, row)?;
            }
            if let Some(row) = outcome.after {
                edits.push(day, RowOp::Put, row)?;
            }
            Ok(())
        };
        let mut stale = 0;
        for part in &patches {
            let patches = Patch::read_files(part, &shape)?;
            let keys = Keys::of(&patches, &shape)?;
            let hits = probe(&base, &keys, &shape, false, &*go_on)?;
            stale += outcomes(&patches, &keys, &hits, &shape, &mut each)?;
        }
        edits.flush()?;
        Ok((edits.days, effects, stale))
    })
    .await
}

/// What is to be done to the rows of each day, in a file a day.
struct DayEdits<'a> {
    folder: PathBuf,
    shape: &'a Shape,
    held: BTreeMap<Day, Vec<(RowOp, Row)>>,
    rows: usize,
    days: Days,
}

impl DayEdits<'_> {
    fn push(&mut self, day: Day, what: RowOp, row: Row) -> Result<()> {
        self.held.entry(day).or_default().push((what, row));
        self.rows += 1;
        if self.rows >= HELD_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        for (day, rows) in std::mem::take(&mut self.held) {
            let path = self.folder.join(format!("{day}.edits"));
            let (_, known) = self.days.entry(day).or_insert_with(|| (path.clone(), 0));
            // What an earlier attempt has left there is not part of this one.
            let mut options = std::fs::OpenOptions::new();
            options.create(true).write(true).append(*known > 0).truncate(*known == 0);
            let mut file = options.open(&path).map_err(TableError::disk("open", &path))?;
            Patch::of_rows(&rows, self.shape)?.write(&mut file)?;
            *known += rows.len() as u64;
        }
        self.rows = 0;
        Ok(())
    }
}

/// A data file of the table on this machine.
pub(crate) async fn fetch(table: &Table, add: &Add, around: &Around) -> Result<BaseFile> {
    let key = add.key();
    let deleted = match &add.deletion_vector {
        Some(found) => vector::read(table.store(), found).await?,
        None => Deleted::default(),
    };
    if let Some(data) = table.local_data() {
        return Ok(BaseFile { path: data.join(&key), deleted });
    }
    let path = around.folder("base")?.join(key.replace('/', "_"));
    if !path.exists() {
        table.store().download_file(&key, &path, DownloadOptions::default()).await?;
    }
    Ok(BaseFile { path, deleted })
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
    // What an earlier plan of the run came to has other rows, and may be committed.
    if let Some(done) = get_json::<DayResult>(table, &name).await?.filter(|done| done.plan == plan.id) {
        return Ok(done);
    }
    let planned = plan.days.iter().find(|planned| planned.day == day);
    let planned = planned.ok_or_else(|| TableError::invalid(format!("run {} does not touch {day}", plan.run)))?;
    let folder = around.folder(&format!("merge-{}-{day}", plan.run))?;
    let mut base = Vec::with_capacity(planned.base.len());
    for add in &planned.base {
        base.push(fetch(table, add, around).await?);
    }
    let patch = match table.local_data().map(|data| data.join(&planned.patch)).filter(|patch| patch.exists()) {
        Some(patch) => patch,
        None => {
            let patch = folder.join("patch");
            let _ = std::fs::remove_file(&patch);
            table.store().download_file(&planned.patch, &patch, DownloadOptions::default()).await?;
            patch
        }
    };
    let merged = {
        let (definition, folder, entropy, go_on) =
            (plan.definition.clone(), folder.clone(), around.entropy.clone(), around.go_on.clone());
        let memory = around.memory;
        blocking(move || {
            let means = Means { folder: &folder, entropy: &*entropy, memory, go_on: &*go_on };
            merge(&base, &[patch], &definition, &definition.shape(), &means)
        })
        .await?
    };
    let bytes_read = planned.base.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum::<u64>() + planned.bytes;
    let mut result = DayResult {
        day,
        plan: plan.id.clone(),
        removes: Vec::new(),
        adds: Vec::new(),
        objects: Vec::new(),
        effects: merged.effects,
        stale: merged.stale,
        bytes_read,
    };
    let hidden: Vec<(usize, Deleted)> = merged
        .fates
        .iter()
        .enumerate()
        .filter_map(|(n, fate)| match fate {
            Fate::Hides(rows) => Some((n, rows.clone())),
            _ => None,
        })
        .collect();
    let goes = merged.fates.iter().any(|fate| matches!(fate, Fate::Goes));
    if !merged.files.is_empty() || !hidden.is_empty() || goes {
        let named: Vec<(String, _)> =
            merged.files.into_iter().map(|file| (data_key(day, around.entropy.next_u128()), file)).collect();
        let vectors = around.entropy.next_u128();
        let mut keys: Vec<String> = named.iter().map(|(key, _)| key.clone()).collect();
        keys.extend((!hidden.is_empty()).then(|| vector::key(vectors)));
        if !keys.is_empty() {
            // Written down before they exist, so that whatever becomes of this attempt they are found again.
            let journal = key(&plan.run, &format!("names/{day}-{:016x}.json", around.entropy.next_u64()));
            put_json(table, &journal, &keys).await?;
            announce(keys).await?;
        }
        for (key, file) in named {
            (around.go_on)()?;
            table.store().move_file(&file.file, &key, UploadOptions::default()).await?;
            result.adds.push(Table::add(day, &key, file.bytes, &file.stats, around.now_ms())?);
            result.objects.push(Object { key, bytes: file.bytes });
        }
        let gone = merged.fates.iter().zip(&planned.base).filter(|(fate, _)| !matches!(fate, Fate::Stays));
        result.removes.extend(gone.map(|(_, add)| add.clone()));
        if !hidden.is_empty() {
            let rows: Vec<&Deleted> = hidden.iter().map(|(_, rows)| rows).collect();
            let (bytes, found) = vector::write(vectors, &rows)?;
            result.objects.push(Object { key: vector::key(vectors), bytes: bytes.len() as u64 });
            vector::put(table.store(), vectors, bytes).await?;
            result.adds.extend(hidden.iter().zip(found).map(|((n, _), vector)| planned.base[*n].hiding(vector)));
        }
    }
    put_json(table, &name, &result).await?;
    let _ = std::fs::remove_dir_all(&folder);
    Ok(result)
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
        results.push(result.filter(|result| result.plan == plan.id).ok_or_else(|| {
            TableError::Changed(format!("what merging {} came to is gone from run {}", day.day, plan.run))
        })?);
    }
    let metrics = outcome::counters(plan, &results);
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
    let base = Base { version: plan.base_version, progress: Some(progress), fixed: vec![fixed], run: plan.run.clone() };
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

/// Makes the table quick to read again, when that is due, and forgets the oldest of its log then.
///
/// # Errors
///
/// Whatever the store says; the table is as good without it.
pub async fn checkpoint(table: &Table, around: &Around) -> Result<bool> {
    let snapshot = table.snapshot().await?;
    let written = table.log().checkpoint_if_due(&snapshot, around.now_ms()).await?;
    if written {
        crate::expire::expire(table, around).await?;
    }
    Ok(written)
}
