//! The picture of file placement: servers by disk and heat, what is wrong, what waits.

use maud::{Markup, html};
use serde_json::Value;

use crate::figures::{bytes, count, name};

/// Rows of the picture.
const ROWS: usize = 200;

/// Drawn from what the last round said.
pub(super) fn of(summary: &Value) -> Option<Markup> {
    let now = summary.get("now")?;
    let nodes: Vec<&Value> = now.get("nodes")?.as_array()?.iter().take(ROWS).collect();
    let number = |of: &Value, key: &str| of.get(key).and_then(Value::as_u64).unwrap_or(0);
    let hottest = nodes.iter().map(|node| number(node, "heat")).max().unwrap_or(0);
    let lane = |word: &str, part: f64, mark: Option<f64>| {
        html! {
            svg .(format!("bar-lane {word}")) width="100%" height="14" aria-hidden="true" {
                rect .lane width="100%" height="14" {}
                rect .fill width=(format!("{:.2}%", part.clamp(0.0, 1.0) * 100.0)) height="14" {}
                @if let Some(mark) = mark {
                    @let x = format!("{:.2}%", mark.clamp(0.0, 1.0) * 100.0);
                    line .target x1=(x) x2=(x) y1="0" y2="14" {}
                }
            }
        }
    };
    let share = |part: u64, of: u64| if of == 0 { 0.0 } else { part as f64 / of as f64 };
    let text = |of: &Value, key: &str| of.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let lines = |key: &str| -> Vec<String> {
        let all = now.get(key).and_then(Value::as_array).into_iter().flatten().take(ROWS);
        all.filter_map(|line| line.as_str().map(str::to_owned)).collect()
    };
    Some(html! {
        figure .vectors {
            figcaption { "Disk and heat of the servers; the line is the limit, heat is recent requests for the rising files there" }
            ul .bars {
                @for node in &nodes {
                    @let (used, size) = (number(node, "used"), number(node, "size"));
                    li {
                        div .bars-name {
                            (name(&text(node, "address")))
                            span .fine { " " (count(number(node, "files"))) " files" }
                            @if node.get("trusted") == Some(&Value::Bool(false)) { span .fine { " not trusted " (text(node, "fault")) } }
                            @if number(node, "inbound") > 0 { span .fine { " takes a copy" } }
                            @for word in ["drain", "read_only"] { @if node.get(word) == Some(&Value::Bool(true)) { span .fine { " " (word) } } }
                        }
                        div .bar-row {
                            span .bar-word { "disk" }
                            (lane("after", share(used, size), Some(share(number(node, "limit"), size))))
                            span .bar-number { @if size > 0 { (bytes(used)) } @else { span .none { "not known" } } }
                        }
                        div .bar-row {
                            span .bar-word { "heat" }
                            (lane("before", share(number(node, "heat"), hottest), None))
                            span .bar-number { (count(number(node, "heat"))) }
                        }
                    }
                }
            }
        }
        @for (title, key) in [("What people should know", "alarms"), ("Would be deleted", "would_delete"), ("Would be copied", "would_copy")] {
            @let lines = lines(key);
            @if !lines.is_empty() { h3 { (title) } ul { @for line in &lines { li { (line) } } } }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn servers_are_drawn_and_names_are_escaped() {
        let summary = json!({ "now": { "nodes": [
            { "address": "<b>10.0.0.1:1", "used": 50, "size": 100, "limit": 90, "files": 3, "heat": 7, "trusted": false, "fault": "away" },
            { "address": "10.0.0.2:1", "files": 0, "trusted": true },
        ], "alarms": ["node <x> is away"] } });
        let text = of(&summary).unwrap().into_string();
        assert!(text.contains("50.00%") && text.contains("90.00%") && text.contains("not trusted"), "{text}");
        assert!(!text.contains("<b>10") && !text.contains("<x>"), "{text}");
        assert!(of(&json!({})).is_none() && of(&json!({ "now": null })).is_none());
    }
}
