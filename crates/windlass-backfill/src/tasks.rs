//! The tasks of a run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use windlass_engine::TaskContext;
use windlass_engine::context::Intent;
use windlass_engine::kind::{Finished, TaskType};
use windlass_model::effect::{EffectEvent, EffectState};
use windlass_model::plan::TaskSpec;
use windlass_model::{ErrorClass, Failure};
use windlass_table::late::{self, LATENESS};
use windlass_table::run::{self, Around, Object, Order};
use windlass_table::{Day, Table, TableError};

use crate::memory::Memory;
use crate::spec::{Action, BackfillSpec};
use crate::{Shared, merge_needs, plan_needs};

/// The task that looks what waits.
pub(crate) const PLAN: &str = "backfill.plan";
/// The task that merges a day.
pub(crate) const MERGE: &str = "backfill.merge";
/// The task that changes the table.
pub(crate) const COMMIT: &str = "backfill.commit";
/// The task that deletes what nobody needs any more.
pub(crate) const TRIM: &str = "backfill.trim";

/// The code of failures of which the cause is that the table was dropped.
const DROPPED: &str = "dropped";
/// Runs that one job makes when others change the table all the time.
pub(crate) const MOST_REPLANS: u64 = 20;

pub(crate) struct PlanTask(pub(crate) Arc<Shared>);
pub(crate) struct MergeTask(pub(crate) Arc<Shared>);
pub(crate) struct CommitTask(pub(crate) Arc<Shared>);
pub(crate) struct TrimTask(pub(crate) Arc<Shared>);

/// What a task works with.
pub(crate) struct Work {
    pub(crate) spec: BackfillSpec,
    pub(crate) table: Table,
    pub(crate) shard: u32,
    pub(crate) around: Around,
    pub(crate) memory: Memory,
    shared: Arc<Shared>,
    begun: Duration,
}

impl Work {
    pub(crate) fn of(cx: &TaskContext, shared: &Arc<Shared>) -> Result<Self, Failure> {
        let spec = BackfillSpec::parse(cx.job_spec())?;
        // Tasks of standing jobs say themselves which log they are for.
        let home = cx.input().get("table").and_then(Value::as_str).map_or_else(|| spec.home(), PathBuf::from);
        let shard = cx.input().get("shard").and_then(Value::as_u64).and_then(|shard| u32::try_from(shard).ok());
        let context = shared.context(cx.clock().clone(), cx.entropy().clone());
        let table = Table::open(&home, &context).map_err(|error| failure(&error))?;
        let mut around = Around::new(cx.clock().clone(), cx.entropy().clone(), cx.work_dir().clone());
        let cancelled = cx.cancelled().clone();
        around.go_on = Arc::new(move || if cancelled.is_cancelled() { Err(TableError::Cancelled) } else { Ok(()) });
        let memory = shared.memory(cx.job(), spec.memory.map(|size| size.0));
        let (shard, begun) = (shard.unwrap_or(spec.shard), cx.clock().monotonic());
        Ok(Self { spec, table, shard, around, memory, shared: shared.clone(), begun })
    }

    /// Counts the time of a stage that has ended, and says how long it took and how much memory the job has had at most.
    fn ended(&self, cx: &TaskContext, stage: &'static str, output: &mut Value) {
        let took = cx.clock().monotonic().saturating_sub(self.begun);
        self.shared.figures.stage(&self.table.descriptor().name, self.shard, stage, took.as_secs_f64());
        output["ms"] = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).into();
        output["peak_reserved_bytes"] = self.memory.peak().into();
    }

    /// Up to when to archive now, in seconds since 1970.
    pub(crate) async fn archive_to(&self, cx: &TaskContext) -> Result<i64, Failure> {
        let snapshot = self.table.snapshot().await.map_err(|error| failure(&error))?;
        let definition = snapshot.definition().map_err(|error| failure(&error))?;
        let delay = self.spec.delay.map_or(definition.delay_seconds, |delay| delay.0.as_secs());
        Ok(cx.clock().wall().as_second().saturating_sub_unsigned(delay))
    }

    fn run(cx: &TaskContext) -> Result<String, Failure> {
        let run = cx.input().get("run").and_then(Value::as_str);
        run.map(str::to_owned)
            .ok_or_else(|| Failure::permanent("invalid_input", "the task does not say of which run it is"))
    }
}

/// What an error of the table is to a job.
pub(crate) fn failure(error: &TableError) -> Failure {
    let class = match error {
        TableError::Cancelled => return Failure::interrupted(),
        error if error.may_pass() => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    };
    Failure::new(error.code(), class, error.to_string())
}

/// What a task of a job for one table ended with. A table that was dropped meanwhile ends the whole job, and what its run
/// had made is deleted.
async fn ending(cx: &TaskContext, shared: &Shared, done: Result<Finished, Failure>) -> Result<Finished, Failure> {
    let Err(failure) = done else { return done };
    if failure.code != DROPPED {
        return Err(failure);
    }
    // What was about to be done is not done, or is undone here.
    for effect in cx.effects().iter().filter(|effect| effect.state == EffectState::Intended) {
        cx.settle(effect.n, EffectEvent::Gone).await?;
    }
    let run = Work::run(cx).unwrap_or_else(|_| run_of(cx, round(cx)));
    let home = BackfillSpec::parse(cx.job_spec())?.home();
    let context = shared.context(cx.clock().clone(), cx.entropy().clone());
    if let Err(error) = run::abandon(&home, &run, &context).await {
        cx.warn("abandon", format!("what run {run} had made was not deleted: {error}")).await;
    }
    Err(failure.hint("nothing was merged into it; rows that waited went with it").cancelling_the_job())
}

/// Does something that may be cut short anywhere, and is when the task is told to stop: a store may take long to answer.
pub(crate) fn until_told<'a, T: Send + 'a>(
    cx: &'a TaskContext,
    doing: impl Future<Output = Result<T, TableError>> + Send + 'a,
) -> BoxFuture<'a, Result<T, TableError>> {
    Box::pin(async move {
        tokio::select! {
            biased;
            () = cx.cancelled().cancelled() => Err(TableError::Cancelled),
            done = doing => done,
        }
    })
}

/// The name of the run that a round makes.
fn run_of(cx: &TaskContext, round: u64) -> String {
    format!("{}-{round}", cx.job()).to_lowercase()
}

fn round(cx: &TaskContext) -> u64 {
    cx.input().get("round").and_then(Value::as_u64).unwrap_or(0)
}

fn replans(cx: &TaskContext) -> u64 {
    cx.input().get("replans").and_then(Value::as_u64).unwrap_or(0)
}

/// The first task of round `round`.
fn plan_task(cx: &TaskContext, round: u64, replans: u64) -> TaskSpec {
    cx.new_task(PLAN, format!("round-{round:04}"))
        .input(json!({ "round": round, "replans": replans }))
        .requires(cx.spec().id)
}

impl PlanTask {
    async fn go(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::of(cx, &self.0)?;
        let round = round(cx);
        // Who looks for a preview, or for the first time, also says how late the rows are.
        let waits = if round == 0 { Some(late::waiting(&work.table, work.shard, &work.around).await) } else { None };
        let waits = waits.transpose().map_err(|error| failure(&error))?;
        let order = Order {
            run: run_of(cx, round),
            shard: work.shard,
            archive_to: archive_to(&work, cx).await?,
            most_bytes: work.spec.most_bytes(),
        };
        let planned = {
            let share = work.memory.share(plan_needs(&order)).await;
            let around = Around { memory: share.bytes(), ..work.around.clone() };
            until_told(cx, run::plan(&work.table, &order, &around)).await.map_err(|error| failure(&error))?
        };
        let Some(plan) = planned else {
            return Ok(Finished::with(json!({ "round": round, "nothing": true })));
        };
        let days: Vec<Value> = plan
            .days
            .iter()
            .take(400)
            .map(|day| json!({ "day": day.day, "rows": day.rows, "bytes": day.bytes, "files": day.base.len() }))
            .collect();
        let mut output = json!({
            "round": round,
            "run": plan.run,
            "rows": plan.counts,
            "days": days,
            "days_affected": plan.days.len(),
            "base_version": plan.base_version,
            "from_lsn": plan.window.from,
            "to_lsn": plan.window.to,
            "log_bytes": plan.log_bytes,
            "more": plan.more,
        });
        if let Some(waits) = waits {
            let bounds: Vec<Option<i64>> = LATENESS.iter().map(|bound| (*bound < i64::MAX).then_some(*bound)).collect();
            output["lateness"] = json!({ "below_seconds": bounds, "rows": waits.lateness });
        }
        work.ended(cx, "plan", &mut output);
        let mut commit = cx
            .new_task(COMMIT, format!("round-{round:04}"))
            .input(json!({ "run": plan.run, "round": round, "replans": replans(cx), "more": plan.more }))
            .requires(cx.spec().id);
        let mut add = Vec::with_capacity(plan.days.len() + 1);
        for day in &plan.days {
            let merge = cx
                .new_task(MERGE, format!("{}/round-{round:04}", day.day))
                .input(json!({ "run": plan.run, "day": day.day }))
                .requires(cx.spec().id);
            commit = commit.requires(merge.id);
            add.push(merge);
        }
        add.push(commit);
        Ok(Finished { output, add })
    }
}

#[async_trait]
impl TaskType for PlanTask {
    fn name(&self) -> &'static str {
        PLAN
    }

    fn changes_outside(&self) -> bool {
        // It writes what its followers read, under a name of its own beside the table, which nobody else looks at.
        false
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        ending(cx, &self.0, self.go(cx).await).await
    }
}

/// Up to when to archive. A later round goes on to where the first one wanted to.
async fn archive_to(work: &Work, cx: &TaskContext) -> Result<Option<i64>, Failure> {
    // What is archived in the first round needs no archiving in those that only catch up with the log.
    if work.spec.action == Action::Backfill || round(cx) > replans(cx) {
        return Ok(None);
    }
    if let Some(cutoff) = work.spec.cutoff {
        return Ok(Some(cutoff));
    }
    work.archive_to(cx).await.map(Some)
}

impl MergeTask {
    async fn go(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let mut work = Work::of(cx, &self.0)?;
        let run = Work::run(cx)?;
        let day = cx.input().get("day").and_then(|day| serde_json::from_value::<Day>(day.clone()).ok());
        let day =
            day.ok_or_else(|| Failure::permanent("invalid_input", "the task does not say which day it merges"))?;
        let plan = run::load_plan(&work.table, &run).await.map_err(|error| failure(&error))?;
        // Each attempt makes objects of new names, and numbers of their own in the ledger.
        let first = cx.effects().iter().map(|effect| effect.n + 1).max().unwrap_or(0);
        let number = |n: usize| first.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        let announced = AtomicBool::new(false);
        let announce = |keys: Vec<String>| {
            announced.store(true, Ordering::Relaxed);
            async move {
                let intents = keys.into_iter().enumerate().map(|(n, key)| Intent {
                    n: number(n),
                    action: "write".to_owned(),
                    target: key.clone(),
                    parameters: json!({ "key": key }),
                    key,
                });
                // Cut short here, the attempt has made nothing yet.
                cx.intend(intents.collect()).await.map(drop).map_err(|_| TableError::Cancelled)
            }
        };
        let patch = plan.days.iter().find(|planned| planned.day == day).map_or(0, |planned| planned.bytes);
        let share = work.memory.share(merge_needs(patch)).await;
        work.around.memory = share.bytes();
        // Waiting for others is no part of it.
        work.begun = cx.clock().monotonic();
        let merging = until_told(cx, run::merge_day(&work.table, &plan, day, &work.around, announce));
        let result = cx.outside("merge", merging).await?.map_err(|error| failure(&error))?;
        let receipt = |object: &Object| Some(json!({ "key": object.key, "bytes": object.bytes }));
        if announced.load(Ordering::Relaxed) {
            for (n, object) in result.objects.iter().enumerate() {
                cx.settle(number(n), EffectEvent::Made { external_id: None, receipt: receipt(object) }).await?;
            }
        }
        // What earlier attempts were about to make is part of the result, or nobody's.
        for effect in cx.effects().iter().filter(|effect| effect.state == EffectState::Intended) {
            let event = match result.objects.iter().find(|object| object.key == effect.key) {
                Some(object) => EffectEvent::Made { external_id: None, receipt: receipt(object) },
                None => {
                    work.table.store().delete(&effect.key).await.map_err(|error| failure(&error.into()))?;
                    EffectEvent::Gone
                }
            };
            cx.settle(effect.n, event).await?;
        }
        let mut output = json!({
            "day": result.day,
            "keys": result.effects,
            "rewritten": result.changes(),
            "files": result.objects.len(),
            "bytes_read": result.bytes_read,
            "bytes_written": result.bytes_written(),
        });
        work.ended(cx, "merge", &mut output);
        Ok(Finished::with(output))
    }
}

#[async_trait]
impl TaskType for MergeTask {
    fn name(&self) -> &'static str {
        MERGE
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        ending(cx, &self.0, self.go(cx).await).await
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        // What was committed is part of the table, and what was not is deleted by the task that trims.
        Ok(Finished::default())
    }
}

impl CommitTask {
    async fn go(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::of(cx, &self.0)?;
        let run = Work::run(cx)?;
        let plan = run::load_plan(&work.table, &run).await.map_err(|error| failure(&error))?;
        let intent = Intent {
            n: 0,
            action: "commit".to_owned(),
            key: run.clone(),
            target: work.table.descriptor().url.clone(),
            parameters: json!({ "run": run, "to_lsn": plan.window.to }),
        };
        cx.intend(vec![intent]).await?;
        let done = cx.outside("commit", run::commit(&work.table, &plan, &work.around)).await?;
        let done = done.map_err(|error| failure(&error))?;
        let event = match &done.replan {
            None => EffectEvent::Made {
                external_id: done.committed_version.map(|version| version.to_string()),
                receipt: Some(json!({ "version": done.committed_version, "already": done.already })),
            },
            Some(_) => EffectEvent::Gone,
        };
        cx.settle(0, event).await?;
        let (round, replans) = (round(cx), replans(cx));
        let (name, figures) = (&work.table.descriptor().name, &self.0.figures);
        match (&done.replan, done.already) {
            (Some(_), _) => figures.ended(name, work.shard, "conflict"),
            (None, true) => figures.ended(name, work.shard, "already"),
            (None, false) => figures.committed(name, work.shard, &done.metrics),
        }
        if let Some(why) = &done.replan {
            cx.warn(
                "conflict",
                format!("the table changed while round {round} was merged, which is planned anew: {why}"),
            )
            .await;
            if replans + 1 >= MOST_REPLANS {
                return Err(Failure::permanent(
                    "conflict",
                    format!("{MOST_REPLANS} runs in a row met changes of others, the last one: {why}"),
                )
                .hint("find out who changes the table all the time, or submit the job again later"));
            }
        }
        let more = cx.input().get("more").and_then(Value::as_bool).unwrap_or(false);
        let next = done.replan.is_some() || more || done.already;
        let trim = cx
            .new_task(TRIM, format!("round-{round:04}"))
            .input(json!({
                "run": run,
                "round": round,
                "replans": if done.replan.is_some() { replans + 1 } else { replans },
                "next": next,
            }))
            .requires(cx.spec().id);
        let mut output = json!({
            "round": round,
            "committed_version": done.committed_version,
            "already": done.already,
            "replan": done.replan,
            "metrics": small(done.metrics),
        });
        work.ended(cx, "commit", &mut output);
        Ok(Finished { output, add: vec![trim] })
    }
}

#[async_trait]
impl TaskType for CommitTask {
    fn name(&self) -> &'static str {
        COMMIT
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        ending(cx, &self.0, self.go(cx).await).await
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Err(Failure::permanent(
            "cannot_undo",
            "a version of a table is not taken back, because others may have read it",
        )
        .hint("earlier versions can be read with `windlass table scan --version N` until vacuum deletes their files"))
    }
}

/// Counters without what grows with the number of days.
fn small(mut metrics: Value) -> Value {
    if let Some(metrics) = metrics.as_object_mut() {
        let too_many = metrics.get("by_day").and_then(Value::as_object).is_some_and(|days| days.len() > 400);
        if too_many {
            metrics.remove("by_day");
            metrics.remove("days_rewritten");
        }
    }
    metrics
}

impl TrimTask {
    async fn go(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let work = Work::of(cx, &self.0)?;
        let run = Work::run(cx)?;
        let intent = Intent {
            n: 0,
            action: "trim".to_owned(),
            key: run.clone(),
            target: work.table.home().display().to_string(),
            parameters: json!({ "run": run }),
        };
        cx.intend(vec![intent]).await?;
        let cleaning = run::clean(&work.table, &run, work.shard, &work.around);
        let cleaned = cx.outside("trim", cleaning).await?;
        if let Err(TableError::Dropped(_)) = &cleaned {
            // There is nothing to trim any more.
            cx.settle(0, EffectEvent::Gone).await?;
        }
        let trimmed = cleaned.map_err(|error| failure(&error))?;
        cx.settle(0, EffectEvent::Made { external_id: None, receipt: None }).await?;
        // Reading the table becomes quicker by it, and nothing else.
        if let Err(error) = run::checkpoint(&work.table, &work.around).await {
            cx.warn("checkpoint", format!("the table's own checkpoint was not written: {error}")).await;
        }
        let next = cx.input().get("next").and_then(Value::as_bool).unwrap_or(false);
        let add = if next { vec![plan_task(cx, round(cx) + 1, replans(cx))] } else { Vec::new() };
        self.0.figures.log(&work.table.descriptor().name, work.shard, trimmed.log.segments, trimmed.log.bytes);
        let mut output = json!({ "log": trimmed.log, "deleted_outputs": trimmed.deleted_outputs });
        work.ended(cx, "trim", &mut output);
        Ok(Finished { output, add })
    }
}

#[async_trait]
impl TaskType for TrimTask {
    fn name(&self) -> &'static str {
        TRIM
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        ending(cx, &self.0, self.go(cx).await).await
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Err(Failure::permanent("cannot_undo", "what is merged is no longer in the log, and need not be there again"))
    }
}
