//! One task that brings a shard's log to its end: for standing jobs, which have many of them.
//!
//! It does what the tasks of a single job do, one after the other: plan, merge each day, commit, trim, and again while
//! more waits. A pool of one place makes it the only one that merges the log, on whatever worker; safety rests on the
//! commit alone, as always. The name of each run follows from the task and from its checkpoint, so that an attempt that
//! follows a death goes on with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use windlass_engine::TaskContext;
use windlass_engine::context::Intent;
use windlass_engine::kind::{Finished, TaskType};
use windlass_model::Failure;
use windlass_model::effect::{EffectEvent, EffectState};
use windlass_model::progress::Progress;
use windlass_table::TableError;
use windlass_table::plan::{DayPlan, RunPlan};
use windlass_table::run::{self, Around, Order};

use crate::Shared;
use crate::tasks::{MOST_REPLANS, Work, failure, until_told};

/// The task that brings a shard's log to its end.
pub(crate) const SHARD: &str = "backfill.shard";
/// Days of one run that are merged at a time, if there is memory for them.
const AT_A_TIME: usize = 2;
/// Runs of this process's standing jobs at a time.
const RUNS: usize = 8;

pub(crate) struct ShardTask(pub(crate) Arc<Shared>);

/// Where an attempt is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Place {
    /// Which run of the task it is.
    n: u64,
    replans: u64,
    /// Up to when to archive, in seconds since 1970, until that is done.
    archive_to: Option<i64>,
    archived_to: Option<i64>,
    sums: Sums,
}

/// What the runs of a task came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sums {
    commits: u64,
    conflicts: u64,
    committed_version: Option<i64>,
    counters: BTreeMap<String, u64>,
    stages_ms: BTreeMap<String, u64>,
    peak: u64,
}

impl Sums {
    fn add(&mut self, metrics: &Value) {
        for group in ["rows", "keys"] {
            for (name, value) in metrics.get(group).and_then(Value::as_object).into_iter().flatten() {
                self.count(name, value.as_u64().unwrap_or(0));
            }
        }
        for name in ["days_affected", "bytes_read", "bytes_written", "files_added", "files_removed"] {
            self.count(name, metrics.get(name).and_then(Value::as_u64).unwrap_or(0));
        }
        let rewritten = metrics.get("days_rewritten").and_then(Value::as_array).map_or(0, Vec::len);
        self.count("days_rewritten", rewritten as u64);
    }

    fn count(&mut self, name: &str, more: u64) {
        if more > 0 {
            *self.counters.entry(name.to_owned()).or_default() += more;
        }
    }
}

/// Takes the time of a stage, and looks how much memory the job has set aside at most until its end.
async fn stage<T>(
    shared: &Shared,
    cx: &TaskContext,
    work: &Work,
    sums: &mut Sums,
    name: &'static str,
    doing: impl Future<Output = Result<T, TableError>>,
) -> Result<T, Failure> {
    let begun = cx.clock().monotonic();
    let done = cx.outside(name, doing).await?;
    let took = cx.clock().monotonic().saturating_sub(begun);
    shared.figures.stage(&work.table.descriptor().name, work.shard, name, took.as_secs_f64());
    *sums.stages_ms.entry(name.to_owned()).or_default() += u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    sums.peak = sums.peak.max(work.memory.peak());
    done.map_err(|error| failure(&error))
}

#[async_trait]
impl TaskType for ShardTask {
    fn name(&self) -> &'static str {
        SHARD
    }

    fn concurrency(&self) -> Option<usize> {
        Some(RUNS)
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::of(cx, &self.0)?;
        let name = work.table.descriptor().name.clone();
        let done = self.drain(cx, &work).await;
        if let Err(failure) = &done
            && !cx.cancelled().is_cancelled()
        {
            self.0.figures.ended(&name, work.shard, if failure.code == "damaged" { "damaged" } else { "failed" });
        }
        let place = done?;
        let mut output = Map::new();
        output.insert("table".to_owned(), name.into());
        output.insert("shard".to_owned(), work.shard.into());
        output.insert("commits".to_owned(), place.sums.commits.into());
        output.insert("conflicts".to_owned(), place.sums.conflicts.into());
        output.insert("committed_version".to_owned(), place.sums.committed_version.into());
        output.insert("archived_to".to_owned(), place.archived_to.into());
        output.insert("stages_ms".to_owned(), json!(place.sums.stages_ms));
        output.insert("peak_reserved_bytes".to_owned(), place.sums.peak.into());
        output.insert("counters".to_owned(), json!(place.sums.counters));
        Ok(Finished::with(Value::Object(output)))
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        // What was committed is part of the table, and what was not is deleted by whoever trims.
        Ok(Finished::default())
    }
}

impl ShardTask {
    async fn drain(&self, cx: &TaskContext, work: &Work) -> Result<Place, Failure> {
        let kept = cx.last_checkpoint().and_then(|kept| serde_json::from_value::<Place>(kept.clone()).ok());
        let run_of = |n: u64| format!("{}-{}-{n}", cx.job(), cx.spec().id).to_lowercase();
        let mut place = match kept {
            Some(mut place) => {
                // Whether it was committed is known from the table: what is left of it goes, or belongs to it, before the
                // same name stands for what comes next.
                let run = run_of(place.n);
                let cleaning = run::clean(&work.table, &run, work.shard, &work.around);
                stage(&self.0, cx, work, &mut place.sums, "trim", cleaning).await?;
                place
            }
            None => {
                let archive = cx.input().get("archive").and_then(Value::as_bool).unwrap_or(false);
                let archive_to = if archive { Some(work.archive_to(cx).await?) } else { None };
                Place { archive_to, ..Place::default() }
            }
        };
        let ledger = Ledger::of(cx);
        loop {
            cx.may_go_on()?;
            cx.checkpoint(json!(place)).await?;
            let run = run_of(place.n);
            let order = Order {
                run: run.clone(),
                shard: work.shard,
                archive_to: place.archive_to,
                most_bytes: work.spec.most_bytes(),
            };
            let planned = {
                let share = work.memory.share(crate::plan_needs(&order)).await;
                let around = Around { memory: share.bytes(), ..work.around.clone() };
                let planning = until_told(cx, run::plan(&work.table, &order, &around));
                stage(&self.0, cx, work, &mut place.sums, "plan", planning).await?
            };
            place.n += 1;
            let Some(plan) = planned else {
                if place.archive_to.take().is_some() {
                    // Nothing is to be archived any more; late rows may wait all the same.
                    continue;
                }
                ledger.settle(cx, &BTreeSet::new()).await?;
                return Ok(place);
            };
            let more = plan.more;
            let again = self.one(cx, work, plan, &mut place, &ledger).await?;
            if !more && !again {
                return Ok(place);
            }
        }
    }

    /// One run that is planned. Says whether to look again at once.
    async fn one(
        &self,
        cx: &TaskContext,
        work: &Work,
        plan: RunPlan,
        place: &mut Place,
        ledger: &Ledger,
    ) -> Result<bool, Failure> {
        let (name, shard) = (work.table.descriptor().name.clone(), work.shard);
        let total = plan.days.len() as u64;
        let (done, plan_ref) = (AtomicU32::new(0), &plan);
        cx.progress(Progress::items(0, Some(total)));
        // Put together first: nothing runs before it is polled, two at a time.
        let all: Vec<_> = plan.days.iter().map(|day| merge(cx, work, plan_ref, day, ledger, &done)).collect();
        let merges = futures::stream::iter(all).buffer_unordered(AT_A_TIME).try_collect::<Vec<_>>();
        let merges = until_told(cx, merges);
        let objects = stage(&self.0, cx, work, &mut place.sums, "merge", merges).await?;
        let n = ledger.number();
        let intent = Intent {
            n,
            action: "commit".to_owned(),
            key: plan.run.clone(),
            target: work.table.descriptor().url.clone(),
            parameters: json!({ "run": plan.run, "to_lsn": plan.window.to }),
        };
        cx.intend(vec![intent]).await?;
        let committing = run::commit(&work.table, &plan, &work.around);
        let finished = stage(&self.0, cx, work, &mut place.sums, "commit", committing).await?;
        let event = match finished.committed_version {
            Some(version) => EffectEvent::Made {
                external_id: Some(version.to_string()),
                receipt: Some(json!({ "version": version, "already": finished.already })),
            },
            None => EffectEvent::Gone,
        };
        cx.settle(n, event).await?;
        let cleaning = run::clean(&work.table, &plan.run, shard, &work.around);
        let trimmed = stage(&self.0, cx, work, &mut place.sums, "trim", cleaning).await?;
        self.0.figures.log(&name, shard, trimmed.log.segments, trimmed.log.bytes);
        if let Err(error) = run::checkpoint(&work.table, &work.around).await {
            cx.warn("checkpoint", format!("the table's own checkpoint was not written: {error}")).await;
        }
        let objects = objects.into_iter().flatten();
        let committed = if finished.replan.is_none() { objects.collect() } else { BTreeSet::new() };
        ledger.settle(cx, &committed).await?;
        if let Some(why) = finished.replan {
            self.0.figures.ended(&name, shard, "conflict");
            place.sums.conflicts += 1;
            place.replans += 1;
            if place.replans >= MOST_REPLANS {
                return Err(Failure::transient(
                    "conflict",
                    format!("{MOST_REPLANS} runs in a row met changes of others, the last one: {why}"),
                ));
            }
            return Ok(true);
        }
        place.replans = 0;
        place.archived_to = place.archive_to.take().or(place.archived_to);
        place.sums.committed_version = finished.committed_version;
        if finished.already {
            return Ok(true);
        }
        self.0.figures.committed(&name, shard, &finished.metrics);
        place.sums.commits += 1;
        place.sums.add(&finished.metrics);
        Ok(false)
    }
}

/// Merges one day, and says which objects it made.
async fn merge(
    cx: &TaskContext,
    work: &Work,
    plan: &RunPlan,
    day: &DayPlan,
    ledger: &Ledger,
    done: &AtomicU32,
) -> Result<Vec<String>, TableError> {
    let share = work.memory.share(crate::merge_needs(day.bytes)).await;
    let around = Around { memory: share.bytes(), ..work.around.clone() };
    let announce = |keys: Vec<String>| async move {
        let intents = keys.into_iter().map(|key| Intent {
            n: ledger.open("write", &key),
            action: "write".to_owned(),
            target: key.clone(),
            parameters: json!({ "key": key }),
            key,
        });
        // Cut short here, the attempt has made nothing yet.
        cx.intend(intents.collect()).await.map(drop).map_err(|_| TableError::Cancelled)
    };
    let result = run::merge_day(&work.table, plan, day.day, &around, announce).await?;
    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
    cx.progress(Progress::items(u64::from(done), Some(plan.days.len() as u64)));
    Ok(result.objects.into_iter().map(|object| object.key).collect())
}

/// What this task has said it would do, and has not said yet what became of it.
#[derive(Debug)]
struct Ledger {
    next: AtomicU32,
    open: Mutex<Vec<(u32, String, String)>>,
}

impl Ledger {
    fn of(cx: &TaskContext) -> Self {
        let open = cx.effects().iter().filter(|effect| effect.state == EffectState::Intended);
        Self {
            next: AtomicU32::new(cx.effects().iter().map(|effect| effect.n + 1).max().unwrap_or(0)),
            open: Mutex::new(open.map(|effect| (effect.n, effect.action.clone(), effect.key.clone())).collect()),
        }
    }

    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn open(&self, action: &str, key: &str) -> u32 {
        let n = self.number();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push((n, action.to_owned(), key.to_owned()));
        n
    }

    /// After what was not committed is deleted: files that were about to be written, by this attempt or one before it, are
    /// part of the table, or nobody's.
    async fn settle(&self, cx: &TaskContext, committed: &BTreeSet<String>) -> Result<(), Failure> {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for (n, action, key) in open {
            // A commit whose answer was lost was found out about by the one that repeated it.
            let made = action == "commit" || committed.contains(&key);
            let event = match made {
                true => EffectEvent::Made { external_id: None, receipt: Some(json!({ "key": key })) },
                false => EffectEvent::Gone,
            };
            cx.settle(n, event).await?;
        }
        Ok(())
    }
}
