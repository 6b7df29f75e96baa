//! The kind itself: what the engine and the binary see.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_engine::kind::{Kind, PlanContext, SpecFault, TaskEnd, TaskType};
use windlass_model::Failure;
use windlass_model::plan::Plan;

use crate::config::DagConfig;
use crate::plan;
use crate::schema;
use crate::spec::{DagSpec, StepType};
use crate::step::StepTask;

/// Runs the tasks that a job file lists.
#[derive(Clone, Debug)]
pub struct DagKind {
    config: Arc<DagConfig>,
}

impl DagKind {
    /// The kind, in a process that allows what `config` says.
    #[must_use]
    pub fn new(config: DagConfig) -> Self {
        Self { config: Arc::new(config) }
    }
}

#[async_trait]
impl Kind for DagKind {
    fn name(&self) -> &'static str {
        "dag"
    }

    fn about(&self) -> &'static str {
        "runs a runbook: commands, requests, copies, waits and approvals, in the order that they need each other"
    }

    fn schema(&self) -> Value {
        schema::schema()
    }

    fn check(&self, spec: &Value) -> Vec<SpecFault> {
        crate::check(spec, &self.config)
    }

    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure> {
        let spec: DagSpec = serde_json::from_value(spec.clone()).map_err(|error| {
            Failure::permanent("invalid_spec", format!("the spec of the dag job cannot be read: {error}"))
        })?;
        plan::build(cx, &spec)
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        // A process that starts no commands has no code for it either: no coordinator offers it such a task.
        let here = StepType::ALL.into_iter().filter(|step| match step {
            StepType::Exec => self.config.allow_exec.is_some(),
            StepType::Http => self.config.allow_http.is_some(),
            StepType::Copy | StepType::Wait | StepType::Approve | StepType::Noop => true,
        });
        here.map(|step| Arc::new(StepTask::new(step, self.config.clone())) as Arc<dyn TaskType>).collect()
    }

    fn summarize(&self, _: &Value, ends: &[TaskEnd]) -> Value {
        let mut bytes = 0;
        let tasks: Vec<Value> = ends
            .iter()
            .map(|end| {
                let output = end.output.as_ref();
                bytes += output.and_then(|output| output.get("bytes")).and_then(Value::as_u64).unwrap_or(0);
                let outcome = end.outcome.as_ref().map_or("not_ended", windlass_model::task::Outcome::name);
                let figure = |name: &str| output.and_then(|output| output.get(name)).cloned();
                let mut row = json!({ "name": end.task.resource, "type": end.task.task_type, "outcome": outcome });
                for name in ["exit_code", "status", "bytes", "sha256", "took_ms"] {
                    if let Some(value) = figure(name).filter(|_| end.task.task_type != StepType::Noop.task_type()) {
                        row[name] = value;
                    }
                }
                row
            })
            .collect();
        json!({ "tasks": tasks, "bytes_copied": bytes })
    }
}
