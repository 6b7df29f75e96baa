//! The JSON Schemas: of a whole spec, and of `with` for each type.

use std::sync::LazyLock;

use serde_json::{Value, json};
use windlass_engine::shape::schema_of;

use crate::spec::{ApproveWith, CopyWith, DagSpec, ExecWith, HttpWith, NoopWith, StepType, WaitWith};

/// The schema of a spec, without what is in `with`.
pub(crate) static FRAME: LazyLock<Value> = LazyLock::new(schema_of::<DagSpec>);

static WITHS: LazyLock<[(StepType, Value); 6]> = LazyLock::new(|| {
    [
        (StepType::Noop, schema_of::<NoopWith>()),
        (StepType::Wait, schema_of::<WaitWith>()),
        (StepType::Approve, schema_of::<ApproveWith>()),
        (StepType::Exec, schema_of::<ExecWith>()),
        (StepType::Http, schema_of::<HttpWith>()),
        (StepType::Copy, schema_of::<CopyWith>()),
    ]
});

/// The schema of `with` for a type.
pub(crate) fn with(step: StepType) -> &'static Value {
    WITHS.iter().find(|(one, _)| *one == step).map_or(&Value::Bool(true), |(_, schema)| schema)
}

/// The schema of a spec, for people and editors.
#[must_use]
pub fn schema() -> Value {
    let mut schema = FRAME.clone();
    let cases: Vec<Value> = StepType::ALL
        .into_iter()
        .map(|step| {
            json!({
                "if": { "properties": { "type": { "const": step.name() } } },
                "then": { "properties": { "with": with(step) } },
            })
        })
        .collect();
    for place in ["/properties/tasks/items", "/properties/tasks/items/properties/undo/anyOf/0"] {
        if let Some(task) = schema.pointer_mut(place).and_then(Value::as_object_mut) {
            task.insert("allOf".to_owned(), Value::from(cases.clone()));
        }
    }
    schema
}
