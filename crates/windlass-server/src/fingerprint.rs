//! What a plan is recognised by.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use windlass_api::PlanFingerprint;
use windlass_engine::{JobRequest, Preview};
use windlass_model::TaskId;
use windlass_model::plan::TaskSpec;
use windlass_model::task::Outcome;

fn digest(value: &impl Serialize) -> String {
    // Maps of these values are in the order of their keys, so equal values have equal texts.
    let text = serde_json::to_vec(value).unwrap_or_default();
    let hex: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The fingerprint of the plan that `preview` shows for `request`. Nothing in it depends on who planned, where, and
/// when: a task is named by its type and resource, not by its id.
#[must_use]
pub fn of(request: &JobRequest, preview: &Preview) -> PlanFingerprint {
    let looked = preview.looked.iter().map(|end| &end.task);
    let names: HashMap<TaskId, String> = looked.chain(&preview.would_run).map(|task| (task.id, task.name())).collect();
    let mut tasks: BTreeMap<String, String> = BTreeMap::new();
    for end in &preview.looked {
        let outcome = end.outcome.as_ref().map(Outcome::name);
        let found = json!({ "task": content(&end.task, &names), "outcome": outcome });
        tasks.insert(end.task.name(), digest(&found));
    }
    for task in &preview.would_run {
        tasks.insert(task.name(), digest(&content(task, &names)));
    }
    let job = digest(&json!({
        "kind": request.kind, "name": request.name, "spec": request.spec, "labels": request.labels,
        "priority": request.priority, "deadline": request.deadline, "undo_after": request.undo_after,
    }));
    PlanFingerprint {
        windlass_plan: PlanFingerprint::VERSION,
        kind: request.kind.clone(),
        name: request.name.clone(),
        digest: digest(&json!({ "job": job, "tasks": tasks })),
        job,
        tasks: if tasks.len() <= PlanFingerprint::MOST_TASKS { tasks } else { BTreeMap::new() },
    }
}

/// Everything of a task that decides what it does, with names instead of ids.
fn content(task: &Arc<TaskSpec>, names: &HashMap<TaskId, String>) -> Value {
    let mut content = serde_json::to_value(&**task).unwrap_or_default();
    if let Some(members) = content.as_object_mut() {
        members.remove("id");
    }
    rename(&mut content, names);
    content
}

fn rename(value: &mut Value, names: &HashMap<TaskId, String>) {
    match value {
        Value::String(text) => {
            if let Some(name) = text.parse::<TaskId>().ok().and_then(|id| names.get(&id)) {
                text.clone_from(name);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        Value::Object(members) => members.values_mut().for_each(|member| rename(member, names)),
        _ => {}
    }
}
