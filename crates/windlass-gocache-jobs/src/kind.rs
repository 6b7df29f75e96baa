//! The kind itself: what the engine and the binary see.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use windlass_engine::kind::{Kind, PlanContext, SpecFault, TaskEnd, TaskType};
use windlass_model::Failure;
use windlass_model::plan::Plan;

use crate::collect::{STEP, SURVEY, StepTask, SurveyTask};
use crate::copy::{COMPARE, CompareTask, CopyTask};
use crate::report::{READ, ReadTask};
use crate::spec::{self, Action, GocacheSpec};
use crate::warm::{FETCH, FetchTask, LOOK, LookTask};

/// Keeps the remote of the Go build cache small, fills local folders from it, copies it, reports on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct GocacheKind;

#[async_trait]
impl Kind for GocacheKind {
    fn name(&self) -> &'static str {
        "gocache"
    }

    fn about(&self) -> &'static str {
        "collects garbage in the Go build cache's remote, warms folders from it, copies it, reports how builds fare"
    }

    fn schema(&self) -> Value {
        spec::schema()
    }

    fn check(&self, spec: &Value) -> Vec<SpecFault> {
        spec::check(spec)
    }

    fn exclusive(&self, spec: &Value) -> Vec<String> {
        // Two collections of one remote would plan from the same listing.
        match GocacheSpec::parse(spec) {
            Ok(GocacheSpec { action: Action::Collect, remote: Some(remote), .. }) => {
                let place = remote.split('?').next().unwrap_or_default();
                vec![format!("gocache/{place}")]
            }
            _ => Vec::new(),
        }
    }

    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure> {
        let spec = GocacheSpec::parse(spec)?;
        let first = match spec.action {
            Action::Collect => cx.task(SURVEY, "remote"),
            Action::Warm => cx.task(LOOK, "remote"),
            Action::Copy => cx.task(COMPARE, "remotes"),
            Action::Report => cx.task(READ, "runs"),
        };
        Ok(Plan { tasks: vec![first], warnings: Vec::new() })
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        vec![
            Arc::new(SurveyTask),
            Arc::new(StepTask),
            Arc::new(CompareTask),
            Arc::new(CopyTask),
            Arc::new(LookTask),
            Arc::new(FetchTask),
            Arc::new(ReadTask),
        ]
    }

    fn summarize(&self, _: &Value, ends: &[TaskEnd]) -> Value {
        summarize(ends)
    }

    fn describe_plan(&self, _: &Value, ends: &[TaskEnd]) -> Option<String> {
        let summary = summarize(ends);
        let amount = |name: &str| {
            let part = summary.get(name)?;
            let number = |name: &str| part.get(name).and_then(Value::as_u64);
            Some(format!("{} objects, {} bytes", number("objects")?, number("bytes")?))
        };
        let words = [
            ("removed", "would delete now"),
            ("condemned", "would condemn, to be deleted by a later job"),
            ("kept", "would stay"),
            ("brought", "would bring"),
            ("present", "already there"),
            ("there", "in the remote, of which what the last builds used would be fetched"),
        ];
        let lines: Vec<String> =
            words.iter().filter_map(|(name, words)| Some(format!("{words}: {}", amount(name)?))).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

/// What the tasks that look have found, and what those that act have done.
fn summarize(ends: &[TaskEnd]) -> Value {
    let mut summary = Map::new();
    let (mut steps, mut deleted, mut rescued) = (0_u64, 0_u64, 0_u64);
    for end in ends {
        let Some(output) = &end.output else { continue };
        match end.task.task_type.as_str() {
            SURVEY | COMPARE | LOOK | READ => {
                summary.extend(output.as_object().cloned().unwrap_or_default());
            }
            STEP => {
                let number = |name: &str| output.get(name).and_then(Value::as_u64).unwrap_or(0);
                steps += 1;
                deleted += number("deleted");
                rescued += number("rescued");
            }
            FETCH => {
                summary.insert("fetched".to_owned(), output.clone());
            }
            _ => {}
        }
    }
    if steps > 0 {
        summary.insert("done".to_owned(), json!({ "steps": steps, "deleted": deleted, "rescued": rescued }));
    }
    Value::Object(summary)
}
