//! A small kind: steps in a row, the last of which may wait for a gate or fail.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::watch;
use windlass_engine::{Finished, Intent, Kind, PlanContext, SpecFault, TaskContext, TaskEnd, TaskType};
use windlass_model::effect::EffectEvent;
use windlass_model::plan::Plan;
use windlass_model::progress::Progress;
use windlass_model::{Digest, Failure};

#[derive(Clone)]
pub(crate) struct Tiny {
    pub(crate) gate: watch::Sender<bool>,
}

#[async_trait]
impl Kind for Tiny {
    fn name(&self) -> &'static str {
        "tiny"
    }

    fn about(&self) -> &'static str {
        "takes steps"
    }

    fn schema(&self) -> Value {
        json!({ "type": "object", "properties": { "steps": { "type": "integer" } } })
    }

    fn check(&self, spec: &Value) -> Vec<SpecFault> {
        match spec["steps"].as_u64() {
            Some(1..=100_000) => Vec::new(),
            _ => vec![SpecFault::new("/steps", "`steps` must be a whole number from 1")],
        }
    }

    fn exclusive(&self, spec: &Value) -> Vec<String> {
        spec["alone"].as_str().map(str::to_owned).into_iter().collect()
    }

    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure> {
        let steps = spec["steps"].as_u64().unwrap_or(1);
        let mut tasks = Vec::new();
        let mut before = None;
        for n in 0..steps {
            let mut task = cx.task("tiny.step", format!("{n:05}")).size(Progress::items(0, Some(10)));
            let last = n + 1 == steps;
            task = task.input(json!({
                "hold": last && spec["hold"] == true,
                "fail": last && spec["fail"] == true,
                "large": last && spec["large"] == true,
            }));
            if let Some(pool) = spec["pool"].as_str() {
                task = task.pool(pool, 1);
            }
            if let Some(key) = spec["shared"].as_str() {
                task = task.shared(key, Digest::of(b"as it is"));
            }
            if let Some(before) = before.filter(|_| spec["wide"] != true) {
                task = task.requires(before);
            }
            before = Some(task.id);
            tasks.push(task);
        }
        Ok(Plan { tasks, warnings: Vec::new() })
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        vec![Arc::new(Step { gate: self.gate.clone() })]
    }

    fn summarize(&self, _: &Value, ends: &[TaskEnd]) -> Value {
        json!({ "ended": ends.iter().filter(|end| end.outcome.is_some()).count() })
    }

    fn describe_plan(&self, spec: &Value, _: &[TaskEnd]) -> Option<String> {
        Some(format!("{} steps", spec["steps"]))
    }
}

struct Step {
    gate: watch::Sender<bool>,
}

#[async_trait]
impl TaskType for Step {
    fn name(&self) -> &'static str {
        "tiny.step"
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        if cx.input()["fail"] == true {
            return Err(Failure::permanent("step_failed", "take the last step: it is missing").hint("mend it"));
        }
        if cx.input()["hold"] == true {
            let intent = Intent {
                n: 0,
                action: "step".into(),
                key: cx.spec().resource.clone(),
                target: "ladder".into(),
                parameters: Value::Null,
            };
            cx.intend(vec![intent]).await?;
            cx.checkpoint(json!({ "at": "gate" })).await?;
            let mut gate = self.gate.subscribe();
            tokio::select! {
                open = gate.wait_for(|open| *open) => drop(open),
                () = cx.cancelled().cancelled() => return Err(Failure::interrupted()),
            }
            cx.settle(0, EffectEvent::Made { external_id: Some("rung".into()), receipt: None }).await?;
        }
        let text = if cx.input()["large"] == true { "x".repeat(50_000) } else { "done".to_owned() };
        Ok(Finished::with(json!({ "said": text })))
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        for effect in cx.undo().map(|undo| undo.effects.clone()).unwrap_or_default() {
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}
