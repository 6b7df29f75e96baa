//! A JSON Schema as people read it: members, what they take, what they mean.

use std::fmt::Write as _;

use maud::{Markup, html};
use serde_json::Value;

use crate::figures::shortened;

/// How deep members of members are shown.
const DEPTH: usize = 4;

/// Members per object.
const MEMBERS: usize = 80;

/// The members of an object.
pub(crate) fn members(schema: &Value) -> Markup {
    object(schema, schema, 0)
}

/// Follows a reference inside the document.
fn resolved<'a>(root: &'a Value, part: &'a Value) -> &'a Value {
    let target = part.get("$ref").and_then(Value::as_str).and_then(|at| root.pointer(at.strip_prefix('#')?));
    target.unwrap_or(part)
}

fn object(root: &Value, part: &Value, depth: usize) -> Markup {
    let part = resolved(root, part);
    let required: Vec<&str> =
        part.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(properties) = part.get("properties").and_then(Value::as_object) else { return html! {} };
    html! {
        dl .schema {
            @for (name, member) in properties.iter().take(MEMBERS) {
                div {
                    dt {
                        code { (shortened(name, 80)) }
                        " " span .fine { (takes(root, member)) }
                        @if required.contains(&name.as_str()) { " " span .label { "required" } }
                    }
                    dd {
                        @if let Some(text) = description(root, member) { p { (shortened(text, 600)) } }
                        @if depth < DEPTH {
                            @for inner in inner(root, member) { (object(root, inner, depth + 1)) }
                        }
                    }
                }
            }
        }
    }
}

fn description<'a>(root: &'a Value, part: &'a Value) -> Option<&'a str> {
    part.get("description").or_else(|| resolved(root, part).get("description")).and_then(Value::as_str)
}

/// Objects that a member is, holds a list of, or may be.
fn inner<'a>(root: &'a Value, part: &'a Value) -> Vec<&'a Value> {
    let part = resolved(root, part);
    let mut found = Vec::new();
    if part.get("properties").is_some() {
        found.push(part);
    }
    found.extend(part.get("items"));
    for choice in ["anyOf", "oneOf"] {
        let choices = part.get(choice).and_then(Value::as_array).into_iter().flatten();
        found.extend(choices.take(8).filter(|choice| resolved(root, choice).get("properties").is_some()));
    }
    found
}

/// What a member takes, in a word or two.
fn takes(root: &Value, part: &Value) -> String {
    let part = resolved(root, part);
    if let Some(values) = part.get("enum").and_then(Value::as_array) {
        let values: Vec<String> = values
            .iter()
            .take(8)
            .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            .collect();
        return values.join(" | ");
    }
    if let Some(value) = part.get("const") {
        return value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(choices) = part.get(choice).and_then(Value::as_array) {
            let mut words: Vec<String> =
                choices.iter().take(8).map(|choice| takes(root, choice)).filter(|word| word != "null").collect();
            words.dedup();
            return words.join(" | ");
        }
    }
    match part.get("type") {
        Some(Value::String(name)) if name == "array" => {
            format!("list of {}", part.get("items").map_or_else(|| "anything".to_owned(), |items| takes(root, items)))
        }
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect();
            names.join(" | ")
        }
        _ => "anything".to_owned(),
    }
}

/// A job file to begin with: what has to be there, with what each member takes.
pub(crate) fn skeleton(kind: &str, schema: Option<&Value>) -> String {
    let mut text = format!("kind: {kind}\nname: my-{kind}\nspec:\n");
    let before = text.len();
    if let Some(schema) = schema {
        required(schema, schema, 1, &mut text);
    }
    if text.len() == before {
        text.truncate(text.trim_end().len());
        text += " {}\n";
    }
    text
}

/// The members that an object must have, as YAML.
fn required(root: &Value, part: &Value, depth: usize, text: &mut String) {
    let part = resolved(root, part);
    let names = part.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    for name in names.take(MEMBERS) {
        let Some(member) = part.get("properties").and_then(|all| all.get(name)) else { continue };
        let indent = "  ".repeat(depth);
        let target = resolved(root, member);
        let takes = takes(root, member);
        let object = target.get("properties").is_some() && depth < DEPTH;
        let _ = if object {
            writeln!(text, "{indent}{name}:")
        } else {
            let value = match target.get("default").or_else(|| target.get("enum").and_then(|values| values.get(0))) {
                Some(value) => value.to_string(),
                None => match target.get("type").and_then(Value::as_str) {
                    Some("integer" | "number") => "0".to_owned(),
                    Some("boolean") => "false".to_owned(),
                    Some("array") => "[]".to_owned(),
                    Some("object") => "{}".to_owned(),
                    _ => "\"\"".to_owned(),
                },
            };
            writeln!(text, "{indent}{name}: {value}  # {}", takes.replace(['\n', '\r'], " "))
        };
        if object {
            required(root, target, depth + 1, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_are_told_with_what_they_take_and_circles_end() {
        let schema = json!({
            "type": "object",
            "required": ["mode"],
            "properties": {
                "mode": {"enum": ["drain", "deviation"], "description": "What to do."},
                "size": {"type": ["integer", "null"]},
                "agents": {"type": "array", "items": {"$ref": "#/$defs/Agent"}},
            },
            "$defs": {"Agent": {"type": "object", "properties": {"name": {"type": "string"}, "next": {"$ref": "#/$defs/Agent"}}}},
        });
        let text = members(&schema).into_string();
        for part in ["drain | deviation", "What to do.", "required", "list of object", "integer"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(text.len() < 10_000);
    }

    #[test]
    fn a_skeleton_has_what_must_be_there() {
        let schema = json!({
            "required": ["mode", "cluster"],
            "properties": {
                "mode": {"enum": ["drain", "deviation"]},
                "cluster": {"required": ["name"], "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}},
                "force": {"type": "boolean"},
            },
        });
        let text = skeleton("rebalance", Some(&schema));
        assert_eq!(
            text,
            "kind: rebalance\nname: my-rebalance\nspec:\n  mode: \"drain\"  # drain | deviation\n  cluster:\n    name: \"\"  # string\n"
        );
        assert_eq!(skeleton("x", None), "kind: x\nname: my-x\nspec: {}\n");
    }
}
