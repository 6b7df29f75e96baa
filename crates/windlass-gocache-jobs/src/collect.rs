//! `collect`: deletes from a remote what no young manifest names.
//!
//! A survey lists everything and plans; without a complete listing there is no plan and nothing is deleted. Each step of
//! the plan is a task, and they run one after the other, because their order is what keeps readers safe. A step looks
//! again before it deletes: what has come into use since the plan stays.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_engine::TaskContext;
use windlass_engine::context::Intent;
use windlass_engine::kind::{Finished, TaskType};
use windlass_gocache_remote::{GcPlan, GcPolicy, GcStep, Name, plan_gc};
use windlass_model::effect::EffectEvent;
use windlass_model::plan::TaskSpec;
use windlass_model::{Digest, Failure};

use crate::place;
use crate::spec::GocacheSpec;

/// The task that looks.
pub(crate) const SURVEY: &str = "gocache.survey";
/// The task that deletes.
pub(crate) const STEP: &str = "gocache.collect";

/// Names in one step: what fits a record of the state store with room to spare.
const CHUNK: usize = 1000;

pub(crate) struct SurveyTask;
pub(crate) struct StepTask;

fn policy(spec: &GocacheSpec) -> GcPolicy {
    let default = GcPolicy::default();
    let span =
        |given: Option<windlass_model::quantity::Span>, otherwise: Duration| given.map_or(otherwise, |span| span.0);
    GcPolicy { keep_for: span(spec.keep, default.keep_for), grace: span(spec.grace, default.grace) }
}

/// The plan's steps, none too large to be stored.
fn steps(plan: GcPlan) -> Vec<GcStep> {
    fn pieces<T: Clone>(all: &[T], make: impl Fn(Vec<T>) -> GcStep) -> Vec<GcStep> {
        all.chunks(CHUNK).map(|chunk| make(chunk.to_vec())).collect()
    }
    let split = |step| match step {
        GcStep::Forget { packs } => pieces::<Name>(&packs, |packs| GcStep::Forget { packs }),
        GcStep::Condemn { packs } => pieces(&packs, |packs| GcStep::Condemn { packs }),
        GcStep::DeletePacks { packs } => pieces(&packs, |packs| GcStep::DeletePacks { packs }),
        GcStep::DeleteManifests { keys } => pieces(&keys, |keys| GcStep::DeleteManifests { keys }),
        GcStep::DeleteSegments { segments } => pieces(&segments, |segments| GcStep::DeleteSegments { segments }),
        GcStep::DeleteLists { keys } => pieces(&keys, |keys| GcStep::DeleteLists { keys }),
    };
    plan.steps.into_iter().flat_map(split).collect()
}

fn word(step: &GcStep) -> &'static str {
    match step {
        GcStep::Forget { .. } => "forget",
        GcStep::Condemn { .. } => "condemn",
        GcStep::DeletePacks { .. } => "delete-packs",
        GcStep::DeleteManifests { .. } => "delete-manifests",
        GcStep::DeleteSegments { .. } => "delete-segments",
        GcStep::DeleteLists { .. } => "delete-lists",
    }
}

#[async_trait]
impl TaskType for SurveyTask {
    fn name(&self) -> &'static str {
        SURVEY
    }

    fn changes_outside(&self) -> bool {
        false
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = GocacheSpec::parse(cx.job_spec())?;
        let url = place::url(spec.remote.as_ref(), "remote")?;
        let policy = policy(&spec);
        let remote = place::remote(cx, &url)?;
        let holdings = remote.survey(policy.keep_for).await.map_err(|error| place::of_remote(&error))?;
        let plan = plan_gc(&holdings, &policy);
        if let Some(why) = &plan.refused {
            return Err(Failure::permanent("incomplete", format!("nothing is deleted from {}: {why}", url.of_key("")))
                .hint("find out what is damaged with `windlass gocache doctor`, or submit the job again later"));
        }
        let all_bytes: u64 = holdings.packs.iter().map(|pack| pack.bytes).sum();
        let gone = |n: u64, bytes: u64| json!({ "objects": n, "bytes": bytes });
        let output = json!({
            "removed": gone(plan.deleted, plan.deleted_bytes),
            "condemned": gone(plan.condemned, plan.condemned_bytes),
            "kept": gone((holdings.packs.len() as u64).saturating_sub(plan.deleted), all_bytes.saturating_sub(plan.deleted_bytes)),
            "waiting": plan.waiting,
            "young": plan.young,
            "rescued": plan.rescued,
            "strangers": holdings.strangers,
        });
        let mut add: Vec<TaskSpec> = Vec::new();
        for (n, step) in steps(plan).into_iter().enumerate() {
            let input = serde_json::to_value(&step)
                .map_err(|error| Failure::permanent("not_storable", format!("the step cannot be stored: {error}")))?;
            let mut task = cx.new_task(STEP, format!("{n:04}-{}", word(&step))).input(input).requires(cx.spec().id);
            if let Some(before) = add.last() {
                task = task.requires(before.id);
            }
            add.push(task);
        }
        Ok(Finished { output, add })
    }
}

#[async_trait]
impl TaskType for StepTask {
    fn name(&self) -> &'static str {
        STEP
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = GocacheSpec::parse(cx.job_spec())?;
        let url = place::url(spec.remote.as_ref(), "remote")?;
        let step: GcStep = serde_json::from_value(cx.input().clone()).map_err(|error| {
            Failure::permanent("invalid_input", format!("the step of garbage collection cannot be read: {error}"))
        })?;
        let remote = place::remote(cx, &url)?;
        let intent = Intent {
            n: 0,
            action: word(&step).to_owned(),
            key: Digest::of(cx.input().to_string().as_bytes()).to_string(),
            target: url.of_key(""),
            parameters: cx.input().clone(),
        };
        cx.intend(vec![intent]).await?;
        let done = cx.outside(word(&step), remote.carry_out(&step)).await?;
        let done = done.map_err(|error| place::of_remote(&error))?;
        let receipt: Value = json!({ "deleted": done.deleted, "rescued": done.rescued, "written": done.written });
        cx.settle(0, EffectEvent::Made { external_id: None, receipt: Some(receipt.clone()) }).await?;
        Ok(Finished::with(receipt))
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Err(Failure::permanent("cannot_undo", "what was deleted from the cache is not made again by undoing")
            .hint("builds make it again when they need it"))
    }
}
