//! The kind itself: what the engine and the binary see.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use windlass_engine::kind::{Kind, PlanContext, SpecFault, TaskEnd, TaskType};
use windlass_model::Failure;
use windlass_model::plan::Plan;

use crate::spec::{self, BackfillSpec};
use crate::tasks::{COMMIT, CommitTask, MERGE, MergeTask, PLAN, PlanTask, TRIM, TrimTask};

/// Merges late rows into the archived days of a table, and archives what is old enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackfillKind;

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
        // Two would do no harm; one of them would work in vain.
        match BackfillSpec::parse(spec) {
            Ok(spec) => vec![format!("table/{}/{}", spec.table.trim_matches('/').replace('/', "."), spec.shard)],
            Err(_) => Vec::new(),
        }
    }

    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure> {
        BackfillSpec::parse(spec)?;
        let first = cx.task(PLAN, "round-0000").input(json!({ "round": 0, "replans": 0 }));
        Ok(Plan { tasks: vec![first], warnings: Vec::new() })
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        vec![Arc::new(PlanTask), Arc::new(MergeTask), Arc::new(CommitTask), Arc::new(TrimTask)]
    }

    fn summarize(&self, _: &Value, ends: &[TaskEnd]) -> Value {
        summarize(ends)
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

/// Counters that a summary has even if they are 0.
const ALWAYS: [&str; 4] = ["rows_in", "rows_late", "inserted", "updated"];

/// What the rounds of a job came to.
fn summarize(ends: &[TaskEnd]) -> Value {
    let mut summary = Map::new();
    let outputs = |task: &'static str| {
        ends.iter().filter(move |end| end.task.task_type == task).filter_map(|end| end.output.as_ref())
    };
    let nothing = outputs(PLAN).any(|output| output.get("nothing").is_some());
    let stage = if nothing || outputs(TRIM).next().is_some() {
        "complete"
    } else if outputs(COMMIT).next().is_some() {
        "trim"
    } else if outputs(PLAN).next().is_some() {
        "merge"
    } else {
        "plan"
    };
    summary.insert("stage".to_owned(), stage.into());
    summary.insert("current".to_owned(), outputs(MERGE).count().into());
    summary.insert("total".to_owned(), ends.iter().filter(|end| end.task.task_type == MERGE).count().into());
    summary
        .insert("conflicts".to_owned(), outputs(COMMIT).filter(|output| output["replan"].is_string()).count().into());
    let committed: Vec<&Value> = outputs(COMMIT).filter(|output| output["committed_version"].is_i64()).collect();
    summary.insert("commits".to_owned(), committed.len().into());
    if let Some(last) = committed.iter().max_by_key(|output| output["round"].as_u64()) {
        summary.insert("committed_version".to_owned(), last["committed_version"].clone());
        summary.insert("to_lsn".to_owned(), last["metrics"]["to_lsn"].clone());
    }
    if let Some(first) = committed.iter().min_by_key(|output| output["round"].as_u64()) {
        summary.insert("from_lsn".to_owned(), first["metrics"]["from_lsn"].clone());
    }
    // Side by side with the rest, because reports show what is flat.
    for group in ["rows", "keys"] {
        for counters in
            committed.iter().filter(|output| output["already"] == false).map(|output| &output["metrics"][group])
        {
            for (name, value) in counters.as_object().into_iter().flatten() {
                let sum = summary.get(name).and_then(Value::as_u64).unwrap_or(0) + value.as_u64().unwrap_or(0);
                // What hardly ever happens is not listed as often.
                if sum > 0 || ALWAYS.contains(&name.as_str()) {
                    summary.insert(name.clone(), sum.into());
                }
            }
        }
    }
    for name in ["days_affected", "bytes_read", "bytes_written", "files_added", "files_removed"] {
        let sum: u64 = committed.iter().filter_map(|output| output["metrics"][name].as_u64()).sum();
        summary.insert(name.to_owned(), sum.into());
    }
    let rewritten: usize =
        committed.iter().filter_map(|output| output["metrics"]["days_rewritten"].as_array().map(Vec::len)).sum();
    summary.insert("days_rewritten".to_owned(), rewritten.into());
    Value::Object(summary)
}
