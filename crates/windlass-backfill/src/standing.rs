//! A standing job looks after the logs of one table or of all tables of a folder: what waits there, and whether it is
//! time to merge it.
//!
//! A log at which nothing happens costs two looks at its newest files a round and nothing else: it is neither read nor is
//! the table's own log. What is known is kept in memory; another coordinator of the job begins by looking anew.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use windlass_blob::Context;
use windlass_engine::reconcile::{ReconcileContext, Reconciled};
use windlass_model::task::Outcome;
use windlass_model::{Failure, JobId};
use windlass_table::late::waiting;
use windlass_table::run::Around;
use windlass_table::{Table, TableError};

use crate::Shared;
use crate::figures::Figures;
use crate::shard::SHARD;
use crate::spec::{BackfillSpec, Keep};
use crate::tasks::failure;
use crate::watch::{Due, Found, Mark, Rules, Watched, Why};

/// Logs that one round reads to find out what waits in them; the others come in the next.
const LOOKS: usize = 32;
/// Logs that are shown.
const SHOWN: usize = 50;

/// A clock that goes otherwise than time by more than so many milliseconds between two rounds was set.
const CLOCK_SET: i64 = 2_000;

/// What all standing jobs of this process know.
#[derive(Debug, Default)]
pub(crate) struct Keepers(Mutex<HashMap<JobId, Arc<tokio::sync::Mutex<Keeper>>>>);

/// Standing jobs that are remembered; one beyond begins by looking anew.
const KEEPERS: usize = 64;

impl Keepers {
    fn of(&self, cx: &ReconcileContext) -> Arc<tokio::sync::Mutex<Keeper>> {
        let mut keepers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keepers.len() >= KEEPERS && !keepers.contains_key(&cx.job()) {
            keepers.clear();
        }
        keepers.entry(cx.job()).or_default().clone()
    }
}

/// What is known of the logs that one job looks after.
#[derive(Debug, Default)]
struct Keeper {
    term: u64,
    /// How far the clock was ahead of the time that has passed, in milliseconds.
    ahead: Option<i64>,
    /// By the name of the table.
    tables: BTreeMap<String, Kept>,
}

#[derive(Debug)]
struct Kept {
    table: Table,
    /// What of a log may wait before a run is due, and what at most.
    limits: Option<(u64, u64)>,
    shards: Vec<Watched>,
    /// Why it cannot be looked after.
    trouble: Option<String>,
}

/// One round.
pub(crate) async fn round(shared: &Shared, cx: &ReconcileContext) -> Result<Reconciled, Failure> {
    let (keepers, figures) = (&shared.keepers, &*shared.figures);
    let spec = BackfillSpec::parse(cx.spec())?;
    let keep = spec.keep.clone().unwrap_or_default();
    let keeper = if cx.is_preview() { Arc::default() } else { keepers.of(cx) };
    let mut keeper = keeper.lock().await;
    if keeper.term != cx.term() {
        *keeper = Keeper { term: cx.term(), ..Keeper::default() };
    }
    let context = shared.context(cx.clock().clone(), cx.entropy().clone());
    let now = cx.clock().wall();
    keeper.note_clock(now, cx.clock().monotonic());
    keeper.find(&spec, &context)?;
    keeper.note_ends(cx, now).await;
    keeper.mark(now)?;
    let more = keeper.look(&keep, cx, now, figures).await?;
    let (due, left) = keeper.due(&keep, cx, now);
    let mut tasks = Vec::new();
    for (name, shard, due) in &due {
        let Some(kept) = keeper.tables.get_mut(name) else { continue };
        let home = kept.table.home().to_string_lossy().into_owned();
        let input = json!({ "table": home, "shard": shard, "archive": due.archive, "because": due.why.text() });
        let pool = place(&home, *shard);
        tasks.push(cx.task(SHARD, format!("{name}/{shard}")).input(input).pool(pool, 1));
        if let Some(watched) = kept.shards.get_mut(*shard as usize) {
            watched.begin(now);
        }
    }
    let every = keep.every();
    let (summary, status) = keeper.status(now, cx.in_flight().len() + tasks.len(), left);
    let wait = if more { Duration::from_millis(100).min(every) } else { every };
    Ok(Reconciled::add(tasks).status(summary, status).next(wait))
}

/// The place that a run of a shard's log needs, in a pool that has one: whoever holds it, a job or a task, is the only one
/// that merges the log, on whatever worker.
pub(crate) fn place(home: &str, shard: u32) -> String {
    let mut name = home.trim_matches('/').replace('/', ".");
    if name.len() > 400 {
        // The end says more than the beginning.
        let from = (name.len() - 400..name.len()).find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        name = name.split_off(from);
    }
    format!("table/{name}/{shard}")
}

impl Keeper {
    /// Finds out whether the clock was set.
    fn note_clock(&mut self, now: Timestamp, passed: Duration) {
        let ahead = now.as_millisecond().saturating_sub(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX));
        let by = self.ahead.map_or(0, |before| ahead.saturating_sub(before));
        if by.abs() > CLOCK_SET {
            let shards = self.tables.values_mut().flat_map(|kept| &mut kept.shards);
            shards.for_each(|shard| shard.clock_was_set(SignedDuration::from_millis(by)));
        }
        self.ahead = Some(ahead);
    }

    /// Which tables there are.
    fn find(&mut self, spec: &BackfillSpec, context: &Context) -> Result<(), Failure> {
        let homes: Vec<PathBuf> = match &spec.tables {
            None => vec![spec.home()],
            Some(folder) => homes(Path::new(folder))?,
        };
        let name_of =
            |home: &Path| home.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let names: BTreeMap<String, PathBuf> = homes.into_iter().map(|home| (name_of(&home), home)).collect();
        self.tables.retain(|name, _| names.contains_key(name));
        for (name, home) in names {
            if self.tables.contains_key(&name) {
                continue;
            }
            match Table::open(&home, context) {
                Ok(table) => {
                    let shards = (0..table.descriptor().shards).map(|_| Watched::default()).collect();
                    self.tables.insert(name, Kept { table, limits: None, shards, trouble: None });
                }
                // A folder in which there is no table, or one that is being made.
                Err(_) if spec.tables.is_some() => {}
                Err(error) => return Err(failure(&error)),
            }
        }
        Ok(())
    }

    /// Takes in how runs ended.
    async fn note_ends(&mut self, cx: &ReconcileContext, now: Timestamp) {
        for ended in cx.ended().iter().filter(|ended| ended.task.task_type == SHARD && !ended.again) {
            let Some((name, shard)) = ended.task.resource.rsplit_once('/') else { continue };
            let Some(kept) = self.tables.get_mut(name) else { continue };
            let Some(watched) = shard.parse().ok().and_then(|shard: usize| kept.shards.get_mut(shard)) else {
                continue;
            };
            match &ended.outcome {
                Outcome::Succeeded { .. } => {
                    let archived = match cx.output(ended).await {
                        Ok(Some(output)) => output.get("archived_to").and_then(Value::as_i64),
                        _ => None,
                    };
                    kept.trouble = None;
                    watched.succeeded(archived.and_then(|second| Timestamp::from_second(second).ok()));
                }
                Outcome::Failed { failure } => watched.failed(failure.to_string(), now),
                _ => watched.failed("the run was stopped".to_owned(), now),
            }
        }
    }

    /// Looks whether anything came, without reading it.
    fn mark(&mut self, now: Timestamp) -> Result<(), Failure> {
        for kept in self.tables.values_mut() {
            for (shard, watched) in kept.shards.iter_mut().enumerate() {
                let folder = kept.table.log_folder(u32::try_from(shard).unwrap_or(u32::MAX));
                let folder = folder.map_err(|error| failure(&error))?;
                let mark = Mark::of(&folder, watched.mark()).map_err(|error| {
                    Failure::transient("disk", format!("look at the log {}: {error}", folder.display()))
                })?;
                watched.see(mark, now);
            }
        }
        Ok(())
    }

    /// Reads what has to be read to know what waits; whether more is to be read.
    async fn look(
        &mut self,
        keep: &Keep,
        cx: &ReconcileContext,
        now: Timestamp,
        figures: &Figures,
    ) -> Result<bool, Failure> {
        let (mut looks, mut more) = (0, false);
        let mut around = Around::new(cx.clock().clone(), cx.entropy().clone(), cx.work_dir().join("look"));
        let cancelled = cx.cancelled().clone();
        around.go_on = Arc::new(move || if cancelled.is_cancelled() { Err(TableError::Cancelled) } else { Ok(()) });
        for kept in self.tables.values_mut() {
            for shard in 0..kept.shards.len() {
                let rules = keep.rules(kept.limits);
                if !kept.shards[shard].wants_look(&rules, now) {
                    continue;
                }
                if looks == LOOKS {
                    more = true;
                    continue;
                }
                looks += 1;
                let number = u32::try_from(shard).unwrap_or(u32::MAX);
                match look(&kept.table, number, &around).await {
                    Ok((found, limits)) => {
                        kept.limits = Some(limits);
                        let age = found.oldest.map_or(0, |oldest| now.as_second() - oldest.as_second());
                        figures.pending(&kept.table.descriptor().name, number, found.bytes, limits.1, age);
                        kept.shards[shard].found(found, now);
                    }
                    Err(TableError::Cancelled) => return Err(Failure::interrupted()),
                    Err(error) => {
                        if error.code() == "damaged" {
                            figures.ended(&kept.table.descriptor().name, number, "damaged");
                        }
                        kept.shards[shard].failed(error.to_string(), now);
                        kept.trouble = Some(error.to_string());
                    }
                }
            }
        }
        Ok(more)
    }

    /// Which runs are due and have a place, those that have waited longest first; and how many have none.
    fn due(&self, keep: &Keep, cx: &ReconcileContext, now: Timestamp) -> (Vec<(String, u32, Due)>, usize) {
        let running: Vec<&str> = cx.in_flight().iter().map(|flight| flight.task.resource.as_str()).collect();
        let mut due = Vec::new();
        for (name, kept) in &self.tables {
            let rules = keep.rules(kept.limits);
            for (shard, watched) in kept.shards.iter().enumerate() {
                if running.contains(&format!("{name}/{shard}").as_str()) {
                    continue;
                }
                if let Some(found) = watched.due(&rules, now) {
                    due.push((name.clone(), u32::try_from(shard).unwrap_or(u32::MAX), found));
                }
            }
        }
        due.sort_by_key(|(name, shard, due)| (Reverse(due.overdue_ms), name.clone(), *shard));
        let places = keep.at_a_time().saturating_sub(running.len());
        let left = due.len().saturating_sub(places);
        due.truncate(places);
        (due, left)
    }

    fn status(&self, now: Timestamp, running: usize, left: usize) -> (String, Value) {
        let all = || {
            self.tables.iter().flat_map(|(name, kept)| {
                kept.shards.iter().enumerate().map(move |(shard, watched)| (name, shard, watched, &kept.trouble))
            })
        };
        let waiting = all().filter(|(_, _, watched, _)| watched.pending() > 0).count();
        let bytes: u64 = all().map(|(_, _, watched, _)| watched.pending()).sum();
        let mut shown: Vec<_> =
            all().filter(|(_, _, watched, _)| watched.pending() > 0 || watched.trouble().is_some()).collect();
        shown.sort_by_key(|(name, shard, watched, _)| (Reverse(watched.pending()), *name, *shard));
        let logs: Vec<Value> = shown
            .into_iter()
            .take(SHOWN)
            .map(|(name, shard, watched, trouble)| {
                json!({
                    "table": name,
                    "shard": shard,
                    "pending_bytes": watched.pending(),
                    "age_seconds": watched.age(now),
                    "trouble": watched.trouble().or(trouble.as_deref()),
                })
            })
            .collect();
        let count = all().count();
        let troubled = all().filter(|(_, _, watched, _)| watched.trouble().is_some()).count();
        let mut summary =
            format!("{waiting} of {count} log(s) have rows that wait, {bytes} bytes; {running} run(s) under way");
        if left > 0 {
            summary += &format!(", {left} more are due");
        }
        if troubled > 0 {
            summary += &format!("; {troubled} log(s) have trouble");
        }
        let status = json!({
            "tables": self.tables.len(),
            "logs": count,
            "waiting": waiting,
            "pending_bytes": bytes,
            "running": running,
            "due": left,
            "troubled": troubled,
            "settled": running == 0 && left == 0 && all().all(|(_, _, watched, _)| watched.is_settled()),
            "shown": logs,
        });
        (summary, status)
    }
}

/// The homes in a folder.
fn homes(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let fault =
        |error: std::io::Error| Failure::transient("disk", format!("list the tables in {}: {error}", folder.display()));
    let mut homes = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        let entry = entry.map_err(fault)?;
        if !entry.file_name().to_string_lossy().starts_with('.') && entry.file_type().map_err(fault)?.is_dir() {
            homes.push(entry.path());
        }
    }
    homes.sort();
    Ok(homes)
}

/// What waits in a log, and the table's limits.
async fn look(table: &Table, shard: u32, around: &Around) -> Result<(Found, (u64, u64)), TableError> {
    let definition = table.snapshot().await?.definition()?;
    let waits = waiting(table, shard, around).await?;
    let found = Found {
        bytes: waits.bytes,
        oldest: waits.oldest.and_then(|micros| Timestamp::from_microsecond(micros).ok()),
        // Live rows are merged by nobody before they are archived.
        urgent: waits.rows.rows_in > waits.rows.rows_live,
    };
    Ok((found, (definition.soft_limit_bytes, definition.hard_limit_bytes)))
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Self::Size => "so much waits that a backfill is due",
            Self::Age => "late rows have waited as long as they may",
            Self::Checkpoint => "the checkpoint lies far behind",
            Self::Archive => "it is time to archive",
        }
    }
}

impl Keep {
    fn rules(&self, limits: Option<(u64, u64)>) -> Rules {
        Rules {
            soft_bytes: self.soft.map_or_else(|| limits.map_or(u64::MAX, |(soft, _)| soft), |size| size.0),
            max_age: self.max_age(),
            checkpoint_every: self.checkpoint_every(),
            archive_every: self.archive_every.map(|span| span.0),
        }
    }
}
