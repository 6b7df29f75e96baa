//! Takes references out of `with`: only where the type of the task says that one may stand.
//!
//! Our own form is `{ ref: "task#/pointer" }`, an object with exactly that member. In a text it cannot be mistaken. In
//! the output of a `noop`, which is anybody's data, `{ literal: … }` says that what is in it is meant as it stands.
//! Everywhere else a value arrives unchanged, whatever it looks like.

use serde_json::Value;

use crate::shape::{has_mark, member, only_member, schema_of};

/// A reference that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// JSON pointer into `with`.
    pub(crate) at: String,
    /// As written.
    pub(crate) from: String,
}

/// Takes the references out of `with`, leaving nothing where they stood.
pub(crate) fn take(schema: &Value, with: &mut Value) -> Vec<Found> {
    let mut found = Vec::new();
    below(schema, with, "", &mut found);
    found
}

fn below(schema: &Value, value: &mut Value, pointer: &str, found: &mut Vec<Found>) {
    if has_mark(schema, "x-referable") {
        if has_mark(schema, "x-data") {
            deep(value, pointer, found);
        } else {
            text(value, pointer, found);
        }
        return;
    }
    if has_mark(schema, "x-data") {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(schema) = schema_of(schema, name) {
                    below(schema, value, &member(pointer, name), found);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return };
            for (n, item) in items.iter_mut().enumerate() {
                below(schema, item, &format!("{pointer}/{n}"), found);
            }
        }
        _ => {}
    }
}

/// The reference that a value is.
pub(crate) fn reference(value: &Value) -> Option<&str> {
    only_member(value).filter(|(name, _)| *name == "ref").and_then(|(_, from)| from.as_str())
}

fn text(value: &mut Value, pointer: &str, found: &mut Vec<Found>) {
    if let Some(from) = reference(value) {
        found.push(Found { at: pointer.to_owned(), from: from.to_owned() });
        *value = Value::Null;
    } else if let Some(parts) = value.get_mut("join").and_then(Value::as_array_mut) {
        for (n, part) in parts.iter_mut().enumerate() {
            text(part, &format!("{pointer}/join/{n}"), found);
        }
    }
}

fn deep(value: &mut Value, pointer: &str, found: &mut Vec<Found>) {
    if let Some(from) = reference(value) {
        found.push(Found { at: pointer.to_owned(), from: from.to_owned() });
        *value = Value::Null;
        return;
    }
    if only_member(value).is_some_and(|(name, _)| name == "literal") {
        *value = value.get_mut("literal").map(Value::take).unwrap_or_default();
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                deep(value, &member(pointer, name), found);
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter_mut().enumerate() {
                deep(item, &format!("{pointer}/{n}"), found);
            }
        }
        _ => {}
    }
}

/// What may be put at a place of `with`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    /// Anything: it is data.
    Data,
    /// A plain value, which becomes text. Never an object: what an answer says must not name a secret.
    Text,
}

/// What may be put at `at`; `None` when nothing may.
pub(crate) fn spot(schema: &Value, at: &str) -> Option<Spot> {
    let mut schema = schema;
    let mut names = at.split('/').skip(1);
    loop {
        if has_mark(schema, "x-data") {
            return Some(Spot::Data);
        }
        if has_mark(schema, "x-text") {
            // Below a text there are only the parts of one that is joined.
            return Some(Spot::Text);
        }
        let name = names.next()?.replace("~1", "/").replace("~0", "~");
        schema = schema_of(schema, &name).or_else(|| schema.get("items"))?;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::with;
    use crate::spec::StepType;

    #[test]
    fn references_are_taken_only_where_one_may_stand() {
        let mut exec = json!({
            "argv": ["echo", {"ref": "a#/x"}, {"join": ["--id=", {"ref": "a#/id"}]}],
            "env": {"A/B": {"ref": "b#"}},
            "exit": {"success": [0]},
        });
        let found = take(with(StepType::Exec), &mut exec);
        let found: Vec<_> = found.iter().map(|one| (one.at.as_str(), one.from.as_str())).collect();
        assert_eq!(found, [("/argv/1", "a#/x"), ("/argv/2/join/1", "a#/id"), ("/env/A~1B", "b#")]);
        assert_eq!(exec["argv"], json!(["echo", null, {"join": ["--id=", null]}]));

        let body = json!({"url": "http://x/", "json": {"user": {"ref": "a#/x"}, "s": {"$ref": "a#/x"}}});
        let mut http = body.clone();
        assert_eq!(take(with(StepType::Http), &mut http), []);
        assert_eq!(http, body);

        let mut noop = json!({"output": {"net": [{"ref": "a#/x"}], "ref": "b#", "same": {"literal": {"ref": "a#/x"}}}});
        assert_eq!(take(with(StepType::Noop), &mut noop), [Found { at: "/output/net/0".into(), from: "a#/x".into() }]);
        assert_eq!(noop, json!({"output": {"net": [null], "ref": "b#", "same": {"ref": "a#/x"}}}));
    }

    #[test]
    fn data_is_told_from_texts_and_from_settings() {
        let is = |step, at| spot(with(step), at);
        for at in ["/json/user/id", "/json"] {
            assert_eq!(is(StepType::Http, at), Some(Spot::Data));
        }
        assert_eq!(is(StepType::Noop, "/output/a/0"), Some(Spot::Data));
        for at in ["/headers/A", "/url", "/url/join/1", "/lookup/url"] {
            assert_eq!(is(StepType::Http, at), Some(Spot::Text), "{at}");
        }
        assert_eq!(is(StepType::Exec, "/argv/0"), Some(Spot::Text));
        for at in ["/timeout", "/headers", "", "/nope", "/expect/0"] {
            assert_eq!(is(StepType::Http, at), None, "{at}");
        }
    }
}
