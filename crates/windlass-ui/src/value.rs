//! JSON as people read it: members as lists, equal objects as tables, and the text itself behind a fold.

use maud::{Markup, html};
use serde_json::{Map, Value};

use crate::figures::{count, shortened};

/// Elements of a list or members of an object that are shown.
const SHOWN: usize = 60;

/// How deep objects are unfolded; below it they are text.
const DEPTH: usize = 4;

/// Characters of a text that are shown.
const TEXT: usize = 2000;

/// Bytes of JSON text that are shown.
const JSON: usize = 64 * 1024;

/// A value as lists and tables.
pub(crate) fn tree(value: &Value) -> Markup {
    part(value, 0)
}

fn part(value: &Value, depth: usize) -> Markup {
    match value {
        Value::Object(members) if members.is_empty() => html! { span .none { "nothing" } },
        Value::Array(elements) if elements.is_empty() => html! { span .none { "none" } },
        Value::Object(_) | Value::Array(_) if depth >= DEPTH => {
            html! { code { (shortened(&value.to_string(), 200)) } }
        }
        Value::Object(members) => html! {
            dl .members {
                @for (name, member) in members.iter().take(SHOWN) {
                    div { dt { (label(name)) } dd { (part(member, depth + 1)) } }
                }
            }
            (more(members.len()))
        },
        Value::Array(elements) => match columns(elements) {
            Some(columns) => table(&columns, elements),
            None => html! {
                ul .values { @for element in elements.iter().take(SHOWN) { li { (part(element, depth + 1)) } } }
                (more(elements.len()))
            },
        },
        Value::Null => html! { span .none { "–" } },
        Value::Bool(flag) => html! { (if *flag { "yes" } else { "no" }) },
        Value::Number(number) => html! { span .number { (digits(number)) } },
        Value::String(text) => html! { bdi { (shortened(text, TEXT)) } },
    }
}

fn more(len: usize) -> Markup {
    html! { @if len > SHOWN { p .note { "and " (count((len - SHOWN) as u64)) " more" } } }
}

fn digits(number: &serde_json::Number) -> String {
    match (number.as_u64(), number.as_f64()) {
        (Some(n), _) => count(n),
        (None, Some(f)) if f.fract() != 0.0 => format!("{f:.3}"),
        _ => number.to_string(),
    }
}

/// `still_to_do` as `still to do`.
fn label(name: &str) -> String {
    shortened(name, 80).replace('_', " ")
}

/// The members that objects of a list have, when all are objects of plain values and few members.
fn columns(elements: &[Value]) -> Option<Vec<String>> {
    let mut columns: Vec<String> = Vec::new();
    if elements.len() < 2 {
        return None;
    }
    for element in elements.iter().take(SHOWN) {
        let members: &Map<String, Value> = element.as_object()?;
        for (name, member) in members {
            if member.is_object() || member.is_array() {
                return None;
            }
            if !columns.contains(name) {
                columns.push(name.clone());
            }
        }
    }
    (columns.len() <= 12).then_some(columns)
}

fn table(columns: &[String], elements: &[Value]) -> Markup {
    html! {
        div .table-scroll tabindex="0" role="region" aria-label="Table" {
            table {
                caption .unseen { "Values" }
                thead { tr { @for column in columns { th scope="col" { (label(column)) } } } }
                tbody {
                    @for element in elements.iter().take(SHOWN) {
                        tr {
                            @for column in columns { td { (part(element.get(column).unwrap_or(&Value::Null), DEPTH)) } }
                        }
                    }
                }
            }
        }
        (more(elements.len()))
    }
}

/// The JSON text.
pub(crate) fn json(value: &Value) -> Markup {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let end = (0..=JSON.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    html! {
        pre .json tabindex="0" { (&text[..end]) }
        @if end < text.len() { p .note { "The first " (count(end as u64)) " of " (count(text.len() as u64)) " bytes." } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_objects_are_a_table_and_others_a_list() {
        let text = tree(&json!([{"a": 1, "b": "x"}, {"a": 20000}])).into_string();
        assert!(text.contains("<th scope=\"col\">a</th>") && text.contains("20\u{202f}000"), "{text}");
        let text = tree(&json!([{"a": {"b": 1}}, 2])).into_string();
        assert!(text.contains("<ul") && !text.contains("<table"));
    }

    #[test]
    fn hostile_values_are_escaped_and_bounded() {
        let mut deep = json!("<script>");
        for _ in 0..12 {
            deep = json!({"<b>": deep, "list": vec!["y".repeat(5000); 500]});
        }
        let text = tree(&deep).into_string() + &json(&deep).into_string();
        assert!(!text.contains("<script") && !text.contains("<b>"));
        assert!(text.len() < 900_000, "{}", text.len());
    }
}
