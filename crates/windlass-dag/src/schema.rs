//! The JSON Schemas: of a whole spec, and of `with` for each type.

use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::spec::{ApproveWith, CopyWith, DagSpec, ExecWith, HttpWith, NoopWith, StepType, WaitWith};

fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
    }
    schema
}

/// The schema of a spec, without what is in `with`.
pub(crate) static FRAME: LazyLock<Value> = LazyLock::new(of::<DagSpec>);

static WITHS: LazyLock<[(StepType, Value); 6]> = LazyLock::new(|| {
    [
        (StepType::Noop, of::<NoopWith>()),
        (StepType::Wait, of::<WaitWith>()),
        (StepType::Approve, of::<ApproveWith>()),
        (StepType::Exec, of::<ExecWith>()),
        (StepType::Http, of::<HttpWith>()),
        (StepType::Copy, of::<CopyWith>()),
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
