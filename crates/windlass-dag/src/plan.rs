//! From a spec to tasks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use windlass_engine::kind::PlanContext;
use windlass_model::plan::{Plan, TaskSpec};
use windlass_model::policy::Policy;
use windlass_model::reference::Reference;
use windlass_model::{Digest, Failure, TaskId};

use crate::positions;
use crate::schema;
use crate::spec::{DagSpec, DagTask, OutputPlace, RefEntry, StepType, WaitWith};

/// A deadline that is none: waits for a moment must not use up attempts.
const CENTURY_MS: u64 = 100 * 366 * 86_400_000;

/// The input of a task, as planned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Input {
    /// `with`, references left out.
    #[serde(default)]
    pub(crate) with: Value,
    /// What undoes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) undo: Option<UndoInput>,
    /// Whether only output counts as a sign of life.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) watched: bool,
}

/// What undoes a task, as planned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct UndoInput {
    #[serde(rename = "type")]
    pub(crate) step: StepType,
    /// References to other tasks left out; the engine fills them in when the task itself runs.
    #[serde(default)]
    pub(crate) with: Value,
    /// Values from the task's own output, filled in when it is undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) own: Vec<Own>,
}

/// A value from the task's own output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Own {
    pub(crate) at: String,
    pub(crate) pointer: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) optional: bool,
}

/// The retries and bounds of a type.
pub(crate) fn usual_policy(step: StepType) -> Policy {
    let usual = Policy::default();
    match step {
        StepType::Exec => Policy { attempts: 1, ..usual },
        StepType::Wait => Policy { deadline_ms: Some(CENTURY_MS), ..usual },
        StepType::Noop | StepType::Approve | StepType::Http | StepType::Copy => usual,
    }
}

/// Builds the plan of a spec without faults.
pub(crate) fn build(cx: &PlanContext, spec: &DagSpec) -> Result<Plan, Failure> {
    let ids: BTreeMap<&str, TaskId> = spec
        .tasks
        .iter()
        .map(|task| (task.name.as_str(), TaskId::derive(cx.job, cx.generation, task.step.task_type(), &task.name)))
        .collect();
    let tasks: Result<Vec<TaskSpec>, Failure> = spec.tasks.iter().map(|task| one(cx, task, &ids)).collect();
    Ok(Plan { tasks: tasks?, warnings: Vec::new() })
}

fn wrong(task: &DagTask, why: &str) -> Failure {
    Failure::permanent("invalid_spec", format!("task {:?}: {why}", task.name))
}

/// A reference, as written: where it goes, where it comes from, whether it may be missing.
type Written = (String, String, bool);

/// The references of a step, of both forms, and what is left of `with`.
fn written(step: StepType, with: &Value, refs: &[RefEntry]) -> (Vec<Written>, Value) {
    let mut with = if with.is_null() { json!({}) } else { with.clone() };
    let found = positions::take(schema::with(step), &mut with);
    let mut all: Vec<Written> = found.into_iter().map(|found| (found.at, found.from, false)).collect();
    all.extend(refs.iter().map(|entry| (entry.at.clone(), entry.from.clone(), entry.optional)));
    (all, with)
}

fn one(cx: &PlanContext, task: &DagTask, ids: &BTreeMap<&str, TaskId>) -> Result<TaskSpec, Failure> {
    let id_of = |name: &str| ids.get(name).copied().ok_or_else(|| wrong(task, &format!("there is no task {name:?}")));
    let mut planned = cx.task(task.step.task_type(), &task.name).rank(task.rank);
    for name in &task.needs {
        planned = planned.requires(id_of(name)?);
    }
    for name in &task.after {
        planned = planned.after(id_of(name)?);
    }
    let mut references = Vec::new();
    let (found, with) = written(task.step, &task.with, &task.refs);
    for (at, from, optional) in found {
        let place = OutputPlace::parse(&from).map_err(|why| wrong(task, &why))?;
        let (at, pointer) = (format!("/with{at}"), place.pointer.to_owned());
        references.push(Reference { at, task: id_of(place.task)?, pointer, optional });
    }
    let mut undo = None;
    if let Some(given) = &task.undo {
        let (found, with) = written(given.step, &given.with, &given.refs);
        let mut own = Vec::new();
        for (at, from, optional) in found {
            let place = OutputPlace::parse(&from).map_err(|why| wrong(task, &why))?;
            let pointer = place.pointer.to_owned();
            if place.task == task.name {
                own.push(Own { at, pointer, optional });
            } else {
                references.push(Reference {
                    at: format!("/undo/with{at}"),
                    task: id_of(place.task)?,
                    pointer,
                    optional,
                });
            }
        }
        undo = Some(UndoInput { step: given.step, with, own });
    }
    planned.references = references;
    planned = requirements(planned, task, &with)?;
    planned.policy = policy(task);
    let input = Input { with, undo, watched: task.stall.is_some() };
    Ok(planned.input(serde_json::to_value(input).unwrap_or_default()))
}

/// What a task needs besides tasks before it and a place.
fn requirements(mut planned: TaskSpec, task: &DagTask, with: &Value) -> Result<TaskSpec, Failure> {
    if let Some(shared) = &task.shared {
        // References are not part of it: what they bring is not known before the task runs.
        let definition = shared.definition.as_ref().unwrap_or(with);
        planned = planned.shared(&shared.key, Digest::of(format!("{} {definition}", task.step.name()).as_bytes()));
        if shared.private_on_conflict {
            planned = planned.private_on_conflict();
        }
    }
    for pool in &task.pools {
        planned = planned.pool(&pool.name, pool.size);
    }
    planned.needs.clone_from(&task.labels);
    match task.step {
        StepType::Approve => {
            let question = with.get("question").and_then(Value::as_str).unwrap_or_default();
            planned = planned.needs_approval(question);
        }
        StepType::Wait => {
            let wait: WaitWith =
                serde_json::from_value(with.clone()).map_err(|error| wrong(task, &error.to_string()))?;
            if let Some(span) = wait.span {
                planned = planned.delay_ms(u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX));
            }
        }
        StepType::Noop | StepType::Exec | StepType::Http | StepType::Copy => {}
    }
    Ok(planned)
}

fn policy(task: &DagTask) -> Option<Policy> {
    let retry = task.retry.unwrap_or_default();
    let mut policy = usual_policy(task.step);
    let ms = |span: windlass_model::quantity::Span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
    policy.attempts = retry.attempts.unwrap_or(policy.attempts);
    policy.backoff_ms = retry.backoff.map_or(policy.backoff_ms, ms);
    policy.backoff_cap_ms = retry.max_backoff.map_or(policy.backoff_cap_ms, ms);
    policy.poison_after = retry.deaths.unwrap_or(policy.poison_after);
    policy.deadline_ms = task.timeout.map(ms).or(policy.deadline_ms);
    policy.stall_ms = task.stall.map_or(policy.stall_ms, ms).max(1);
    policy.interruptible = task.interruptible.unwrap_or(policy.interruptible);
    (policy != usual_policy(task.step)).then_some(policy)
}
