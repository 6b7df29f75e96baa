//! Dags of any size, for benchmarks and tests.

use serde_json::Value;

use crate::spec::{DagSpec, DagTask, StepType};
use windlass_model::quantity::Span;

/// A dag of `count` tasks that do nothing, in layers of up to 50: each needs two tasks of the layer before and comes
/// after a third, and takes a value from the first. The same for the same number.
#[must_use]
pub fn sample(count: usize) -> DagSpec {
    let width = count.clamp(1, 50);
    let name = |n: usize| format!("t{n:05}");
    let tasks = (0..count).map(|n| {
        let mut task = DagTask::new(name(n), StepType::Noop);
        let output = |value: Value| serde_json::json!({ "output": value });
        if n < width {
            task.with = output(serde_json::json!({ "n": n }));
            return task;
        }
        let layer = (n / width - 1) * width;
        let place = n % width;
        task.needs = vec![name(layer + place), name(layer + (place + 1) % width)];
        if width > 2 {
            task.after = vec![name(layer + (place + 2) % width)];
        }
        task.with = output(serde_json::json!({ "n": { "ref": format!("{}#/n", task.needs[0]) } }));
        task.needs.dedup();
        task
    });
    DagSpec { description: None, tasks: tasks.collect() }
}

impl DagTask {
    /// A task of this name and type, and nothing else.
    #[must_use]
    pub fn new(name: impl Into<String>, step: StepType) -> Self {
        Self {
            name: name.into(),
            step,
            description: None,
            with: Value::Null,
            needs: Vec::new(),
            after: Vec::new(),
            refs: Vec::new(),
            shared: None,
            retry: None,
            timeout: None::<Span>,
            stall: None,
            interruptible: None,
            undo: None,
            labels: std::collections::BTreeMap::new(),
            pools: Vec::new(),
            rank: 0,
        }
    }
}

impl DagSpec {
    /// As JSON, for a submission.
    #[must_use]
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}
