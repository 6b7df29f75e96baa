//! The marks of our schemas: `x-text` is a [text](crate::text), `x-secret` lets texts below it name secrets,
//! `x-referable` lets a reference stand there, and `x-data` is what nobody looks into.

use serde_json::Value;
use windlass_engine::kind::SpecFault;
use windlass_engine::shape::{self, Marks, branches, in_words, is_null, type_of};

pub(crate) use windlass_engine::shape::{member, nearest};

/// Whether a schema has one of our marks, itself or, for an optional value, in one of its alternatives.
pub(crate) fn has_mark(schema: &Value, mark: &str) -> bool {
    let marked = |schema: &Value| schema.get(mark).and_then(Value::as_bool) == Some(true);
    marked(schema) || branches(schema).is_some_and(|all| all.iter().any(marked))
}

/// The schema of a member of an object; of an optional object too.
pub(crate) fn schema_of<'s>(schema: &'s Value, name: &str) -> Option<&'s Value> {
    let known = schema.get("properties").and_then(|known| known.get(name));
    known
        .or_else(|| schema.get("additionalProperties").filter(|extra| extra.is_object()))
        .or_else(|| branches(schema)?.iter().find_map(|branch| schema_of(branch, name)))
}

/// The single member of an object that has one.
pub(crate) fn only_member(value: &Value) -> Option<(&str, &Value)> {
    let map = value.as_object().filter(|map| map.len() == 1)?;
    map.iter().next().map(|(name, value)| (name.as_str(), value))
}

/// Compares `value` with `schema`.
pub(crate) fn walk(schema: &Value, value: &Value, pointer: &str, faults: &mut Vec<SpecFault>) {
    shape::walk(schema, value, pointer, &mut Ours { secrets: 0 }, faults);
}

struct Ours {
    /// How many schemas around this place let texts name secrets.
    secrets: u32,
}

impl Marks for Ours {
    fn enter(&mut self, schema: &Value) {
        self.secrets += u32::from(has_mark(schema, "x-secret"));
    }

    fn leave(&mut self, schema: &Value) {
        self.secrets -= u32::from(has_mark(schema, "x-secret"));
    }

    fn judge(&mut self, schema: &Value, value: &Value, pointer: &str, faults: &mut Vec<SpecFault>) -> bool {
        if has_mark(schema, "x-data") {
            return true;
        }
        if !has_mark(schema, "x-text") {
            return false;
        }
        let optional = value.is_null() && branches(schema).is_some_and(|all| all.iter().any(is_null));
        if !optional {
            self.text(value, pointer, true, faults);
        }
        true
    }
}

impl Ours {
    fn text(&self, value: &Value, pointer: &str, may_join: bool, faults: &mut Vec<SpecFault>) {
        match (value, only_member(value)) {
            (Value::String(_) | Value::Number(_) | Value::Bool(_), _) => {}
            (_, Some(("ref", Value::String(_)))) => {}
            (_, Some(("join", Value::Array(parts)))) if may_join => {
                for (n, part) in parts.iter().enumerate() {
                    self.text(part, &format!("{pointer}/join/{n}"), false, faults);
                }
            }
            (_, Some((name @ ("env" | "file"), Value::String(_)))) if self.secrets > 0 => {
                if value[name].as_str().is_some_and(str::is_empty) {
                    faults.push(SpecFault::new(pointer, "the secret has no name"));
                }
            }
            (_, Some(("env" | "file", _))) => {
                faults.push(SpecFault::new(
                    pointer,
                    "a secret cannot stand here: what is written here is stored and shown",
                ));
            }
            _ => {
                let join = if may_join { ", { join: [...] }" } else { "" };
                let secret = if self.secrets > 0 { ", { env: NAME } or { file: PATH }" } else { "" };
                let found = in_words(type_of(value));
                let message = format!("expected a text, {{ ref: \"task#/member\" }}{join}{secret}, found {found}");
                faults.push(SpecFault::new(pointer, message));
            }
        }
    }
}
