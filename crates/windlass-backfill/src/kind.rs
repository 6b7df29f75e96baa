//! The kind itself: what the engine and the binary see.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_blob::{Environment, Settings};
use windlass_engine::kind::{Kind, PlanContext, SpecFault, TaskEnd, TaskType};
use windlass_engine::reconcile::{Reconcile, ReconcileContext, Reconciled};
use windlass_model::Failure;
use windlass_model::plan::{Plan, PoolUse};

use crate::shard::ShardTask;
use crate::spec::{self, BackfillSpec};
use crate::standing::{self, place};
use crate::tasks::{CommitTask, MergeTask, PLAN, PlanTask, TrimTask};
use crate::{Figures, Shared, summary};

/// Merges late rows into the archived days of a table, and archives what is old enough.
#[derive(Clone, Debug)]
pub struct BackfillKind {
    shared: Arc<Shared>,
}

impl Default for BackfillKind {
    fn default() -> Self {
        Self::with_stores(Environment::process(), Settings::default())
    }
}

impl BackfillKind {
    /// With credentials from elsewhere than the environment of this process, and with more or less patience with stores.
    #[must_use]
    pub fn with_stores(environment: Environment, settings: Settings) -> Self {
        Self { shared: Arc::new(Shared::new(Figures::of_process(), environment, settings)) }
    }
}

#[async_trait]
impl Kind for BackfillKind {
    fn name(&self) -> &'static str {
        "backfill"
    }

    fn about(&self) -> &'static str {
        "merges late rows into the archived days of a table, in one commit that carries the checkpoint"
    }

    fn schema(&self) -> Value {
        spec::schema()
    }

    fn check(&self, spec: &Value) -> Vec<SpecFault> {
        spec::check(spec)
    }

    fn exclusive(&self, spec: &Value) -> Vec<String> {
        // Two standing jobs would do the same twice.
        match BackfillSpec::parse(spec) {
            Ok(spec) if spec.keep.is_some() => {
                let what = spec.tables.as_deref().unwrap_or(&spec.table);
                vec![format!("tables/{}", what.trim_matches('/').replace('/', "."))]
            }
            _ => Vec::new(),
        }
    }

    fn pools(&self, spec: &Value) -> Vec<PoolUse> {
        // Two on one log would do no harm; one of them would work in vain. Runs of standing jobs take the same place.
        match BackfillSpec::parse(spec) {
            Ok(spec) if spec.keep.is_none() => vec![PoolUse::new(place(&spec.table, spec.shard), 1)],
            _ => Vec::new(),
        }
    }

    fn reconciles(&self, spec: &Value) -> Option<Reconcile> {
        let keep = BackfillSpec::parse(spec).ok()?.keep?;
        Some(Reconcile {
            at_most_every: Duration::from_millis(200),
            deadline: Duration::from_secs(300),
            ..Reconcile::every(keep.every())
        })
    }

    async fn reconcile(&self, cx: &ReconcileContext) -> Result<Reconciled, Failure> {
        standing::round(&self.shared, cx).await
    }

    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure> {
        if BackfillSpec::parse(spec)?.keep.is_some() {
            return Ok(Plan::default());
        }
        let first = cx.task(PLAN, "round-0000").input(json!({ "round": 0, "replans": 0 }));
        Ok(Plan { tasks: vec![first], warnings: Vec::new() })
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        let shared = || self.shared.clone();
        vec![
            Arc::new(PlanTask(shared())),
            Arc::new(MergeTask(shared())),
            Arc::new(CommitTask(shared())),
            Arc::new(TrimTask(shared())),
            Arc::new(ShardTask(shared())),
        ]
    }

    fn summarize(&self, spec: &Value, ends: &[TaskEnd]) -> Value {
        match spec.get("keep") {
            None => summary::summarize(ends),
            Some(_) => summary::standing(ends),
        }
    }

    fn describe_plan(&self, _: &Value, ends: &[TaskEnd]) -> Option<String> {
        let plan = ends.iter().find(|end| end.task.task_type == PLAN)?.output.as_ref()?;
        if plan.get("nothing").is_some() {
            return Some("nothing waits to be merged".to_owned());
        }
        let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64).unwrap_or(0);
        let rows = plan.get("rows")?;
        let mut lines = vec![format!(
            "would merge {} late row(s) of {} into {} day(s)",
            number(rows, "rows_late") + number(rows, "rows_archived"),
            number(rows, "rows_in"),
            number(plan, "days_affected")
        )];
        for day in plan.get("days").and_then(Value::as_array).into_iter().flatten().take(40) {
            let name = day.get("day").and_then(Value::as_str).unwrap_or_default();
            lines.push(format!("  {name}: {} row(s), {} file(s)", number(day, "rows"), number(day, "files")));
        }
        Some(lines.join("\n"))
    }
}
