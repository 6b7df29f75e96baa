//! The other form of a dag: records as the older migrator kept them, with references inline in `input`.
//!
//! ```json
//! { "tasks": [
//!   { "recovery_job_task_id": "dump", "type_code": "dag.exec", "dependencies": ["ask"],
//!     "input": { "argv": ["pg_dump", { "$ref": "ask#/json/db" }] } },
//!   { "recovery_job_task_id": "dump-undo", "reverse_task_id": "dump", "type_code": "dag.exec",
//!     "dependencies": ["dump"], "input": { "argv": ["rm", { "$ref": "dump#/stdout" }] } } ] }
//! ```
//!
//! `{"$ref": "task#/pointer"}`, an object with exactly that member, is a reference only where the type lets one stand;
//! in bodies, descriptions and other data it is data. Where anybody's data and references share a place (the output of
//! a `noop`), `{"$literal": …}` says that what is in it is meant as it stands. What this form has no member for is
//! kept under `options`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use windlass_engine::kind::SpecFault;

use crate::schema;
use crate::shape::{has_mark, only_member, schema_of};
use crate::spec::{DagSpec, DagTask, RefEntry, StepType, UndoSpec};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dag {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    tasks: Vec<Record>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    recovery_job_task_id: String,
    type_code: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    resource_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reverse_task_id: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    shared_task_key: String,
    #[serde(default)]
    dependencies: Vec<String>,
    #[serde(default)]
    input: Value,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    options: Map<String, Value>,
}

/// Members of a task that stand in the record itself.
const IN_RECORD: [&str; 6] = ["name", "type", "description", "with", "needs", "undo"];

/// Which way a value is translated.
#[derive(Clone, Copy)]
struct Words {
    from: (&'static str, &'static str),
    to: (&'static str, &'static str),
}

const OUT: Words = Words { from: ("ref", "literal"), to: ("$ref", "$literal") };
const IN: Words = Words { from: ("$ref", "$literal"), to: ("ref", "literal") };

fn translate(schema: &Value, value: &Value, words: Words) -> Value {
    if has_mark(schema, "x-referable") {
        return if has_mark(schema, "x-data") { deep(value, words) } else { text(value, words) };
    }
    if has_mark(schema, "x-data") {
        return value.clone();
    }
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                let value =
                    schema_of(schema, name).map_or_else(|| value.clone(), |below| translate(below, value, words));
                (name.clone(), value)
            })
            .collect(),
        Value::Array(items) => match schema.get("items") {
            Some(below) => items.iter().map(|item| translate(below, item, words)).collect(),
            None => value.clone(),
        },
        _ => value.clone(),
    }
}

fn renamed(value: &Value, words: Words) -> Option<Value> {
    match only_member(value)? {
        (name, Value::String(place)) if name == words.from.0 => Some(json!({ words.to.0: place })),
        _ => None,
    }
}

fn text(value: &Value, words: Words) -> Value {
    if let Some(reference) = renamed(value, words) {
        return reference;
    }
    match only_member(value) {
        Some(("join", Value::Array(parts))) => {
            json!({ "join": parts.iter().map(|part| text(part, words)).collect::<Vec<_>>() })
        }
        _ => value.clone(),
    }
}

/// Data with references in it. What would read as a reference or an escape on the other side is escaped there.
fn deep(value: &Value, words: Words) -> Value {
    if let Some(reference) = renamed(value, words) {
        return reference;
    }
    match (only_member(value), value) {
        (Some((name, inner)), _) if name == words.from.1 => {
            if needs_escape(inner, words.to) {
                json!({ words.to.1: inner })
            } else {
                inner.clone()
            }
        }
        _ if is_word(value, words.to) => json!({ words.to.1: value }),
        (_, Value::Object(fields)) => fields.iter().map(|(name, value)| (name.clone(), deep(value, words))).collect(),
        (_, Value::Array(items)) => items.iter().map(|item| deep(item, words)).collect(),
        _ => value.clone(),
    }
}

/// Whether a value itself reads as a reference or an escape.
fn is_word(value: &Value, words: (&str, &str)) -> bool {
    only_member(value).is_some_and(|(name, inner)| (name == words.0 && inner.is_string()) || name == words.1)
}

/// Whether anything in a value does.
fn needs_escape(value: &Value, words: (&str, &str)) -> bool {
    is_word(value, words)
        || match value {
            Value::Object(fields) => fields.values().any(|value| needs_escape(value, words)),
            Value::Array(items) => items.iter().any(|item| needs_escape(item, words)),
            _ => false,
        }
}

/// Writes a spec in the other form. [`import`] gives back a spec that plans the same tasks.
#[must_use]
pub fn export(spec: &DagSpec) -> Value {
    let mut records = Vec::with_capacity(spec.tasks.len());
    for task in &spec.tasks {
        let whole = serde_json::to_value(task).unwrap_or_default();
        let options = whole.as_object().into_iter().flatten().filter(|(name, _)| !IN_RECORD.contains(&name.as_str()));
        records.push(Record {
            recovery_job_task_id: task.name.clone(),
            type_code: task.step.task_type().to_owned(),
            resource_name: task.description.clone().unwrap_or_default(),
            shared_task_key: task.shared.as_ref().map(|shared| shared.key.clone()).unwrap_or_default(),
            dependencies: task.needs.clone(),
            input: translate(schema::with(task.step), &task.with, OUT),
            options: options.map(|(name, value)| (name.clone(), value.clone())).collect(),
            ..Record::default()
        });
        if let Some(undo) = &task.undo {
            let mut options = Map::new();
            if !undo.refs.is_empty() {
                options.insert("refs".to_owned(), serde_json::to_value(&undo.refs).unwrap_or_default());
            }
            records.push(Record {
                recovery_job_task_id: format!("{}-undo", task.name),
                type_code: undo.step.task_type().to_owned(),
                reverse_task_id: task.name.clone(),
                dependencies: vec![task.name.clone()],
                input: translate(schema::with(undo.step), &undo.with, OUT),
                options,
                ..Record::default()
            });
        }
    }
    let dag = Dag { description: spec.description.clone(), tasks: records };
    serde_json::to_value(dag).unwrap_or_default()
}

/// Reads the other form. The spec is not checked; the faults are those of the form itself.
///
/// # Errors
///
/// Every fault, with its place in `seed`.
pub fn import(seed: &Value) -> Result<DagSpec, Vec<SpecFault>> {
    let dag: Dag = serde_json::from_value(seed.clone())
        .map_err(|error| vec![SpecFault::new("", format!("this is no list of task records: {error}"))])?;
    let mut faults = Vec::new();
    let mut tasks: BTreeMap<String, DagTask> = BTreeMap::new();
    let mut order = Vec::new();
    let mut undos = Vec::new();
    for (n, record) in dag.tasks.into_iter().enumerate() {
        let at = format!("/tasks/{n}");
        let Some(step) = StepType::named(&record.type_code) else {
            let known = StepType::ALL.map(StepType::task_type).join(", ");
            let message = format!("there is no type {:?}; known are {known}", record.type_code);
            faults.push(SpecFault::new(format!("{at}/type_code"), message));
            continue;
        };
        let with = translate(schema::with(step), &record.input, IN);
        if !record.reverse_task_id.is_empty() {
            let refs: Result<Vec<RefEntry>, _> =
                record.options.get("refs").map_or(Ok(Vec::new()), |refs| serde_json::from_value(refs.clone()));
            match refs {
                Ok(refs) => undos.push((at, record.reverse_task_id, UndoSpec { step, with, refs })),
                Err(error) => faults.push(SpecFault::new(format!("{at}/options/refs"), error.to_string())),
            }
            continue;
        }
        let mut members = record.options;
        if !record.shared_task_key.is_empty() {
            let shared = members.entry("shared").or_insert_with(|| json!({}));
            if let Some(shared) = shared.as_object_mut() {
                shared.insert("key".to_owned(), Value::from(record.shared_task_key));
            }
        }
        members.insert("name".to_owned(), Value::from(record.recovery_job_task_id.clone()));
        members.insert("type".to_owned(), Value::from(step.name()));
        members.insert("with".to_owned(), with);
        members.insert("needs".to_owned(), Value::from(record.dependencies));
        match serde_json::from_value::<DagTask>(Value::Object(members)) {
            Ok(mut task) => {
                task.description = Some(record.resource_name).filter(|name| !name.is_empty());
                order.push(task.name.clone());
                if tasks.insert(task.name.clone(), task).is_some() {
                    let message = format!("two tasks have the id {:?}", record.recovery_job_task_id);
                    faults.push(SpecFault::new(format!("{at}/recovery_job_task_id"), message));
                }
            }
            Err(error) => faults.push(SpecFault::new(format!("{at}/options"), error.to_string())),
        }
    }
    for (at, name, undo) in undos {
        match tasks.get_mut(&name) {
            Some(task) if task.undo.is_none() => task.undo = Some(undo),
            Some(_) => {
                faults.push(SpecFault::new(format!("{at}/reverse_task_id"), format!("{name:?} is undone twice")));
            }
            None => faults.push(SpecFault::new(format!("{at}/reverse_task_id"), format!("there is no task {name:?}"))),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let tasks = order.iter().filter_map(|name| tasks.remove(name)).collect();
    Ok(DagSpec { description: dag.description, tasks })
}
