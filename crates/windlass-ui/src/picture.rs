//! Pictures of the kinds: what a job of a kind did to its data, drawn from the kind's part of the report.

mod backfill;
mod distribute;
mod gocache;
mod recover;

use maud::{Markup, html};
use serde_json::Value;

use crate::figures::{count, name};

/// Rows of a picture.
const ROWS: usize = 200;

/// The picture of a kind, where there is one and the report has what it needs.
pub(crate) fn of_kind(kind: &str, summary: &Value) -> Option<Markup> {
    match kind {
        "backfill" => backfill::of(summary),
        "distribute" => distribute::of(summary),
        "gocache" => gocache::of(summary),
        "rebalance" => vectors(summary),
        "recover" => recover::of(summary),
        _ => None,
    }
}

struct Agent<'a> {
    name: &'a str,
    before: Option<u64>,
    target: Option<u64>,
    after: Option<u64>,
    trouble: Option<&'a str>,
}

/// Vectors per agent before and after, as bars, with the target as a line.
fn vectors(summary: &Value) -> Option<Markup> {
    let agents: Vec<Agent<'_>> = summary
        .get("agents")?
        .as_array()?
        .iter()
        .take(ROWS)
        .filter_map(|agent| {
            let number = |name: &str| agent.get(name).and_then(Value::as_u64);
            Some(Agent {
                name: agent.get("name")?.as_str()?,
                before: number("before"),
                target: number("target"),
                after: number("after"),
                trouble: agent.get("trouble").and_then(Value::as_str),
            })
        })
        .collect();
    let most = agents.iter().flat_map(|agent| [agent.before, agent.target, agent.after]).flatten().max()?;
    let share = |n: u64| if most == 0 { 0.0 } else { n as f64 * 100.0 / most as f64 };
    let bar = |word: &str, n: Option<u64>, target: Option<u64>| {
        html! {
            div .bar-row {
                span .bar-word { (word) }
                svg .(format!("bar-lane {word}")) width="100%" height="14" aria-hidden="true" {
                    rect .lane width="100%" height="14" {}
                    @if let Some(n) = n { rect .fill width=(format!("{:.2}%", share(n))) height="14" {} }
                    @if let Some(target) = target {
                        @let x = format!("{:.2}%", share(target));
                        line .target x1=(x) x2=(x) y1="0" y2="14" {}
                    }
                }
                span .bar-number { @match n { Some(n) => (count(n)), None => span .none { "not yet known" } } }
            }
        }
    };
    Some(html! {
        figure .vectors {
            figcaption { "Vectors per agent, before and after; the line is the target" }
            ul .bars {
                @for agent in &agents {
                    li {
                        div .bars-name {
                            (name(agent.name))
                            @if let Some(target) = agent.target { span .fine { " target " (count(target)) } }
                            @if let Some(trouble) = agent.trouble { span .fine { " " (trouble) } }
                        }
                        (bar("before", agent.before, agent.target))
                        (bar("after", agent.after, agent.target))
                    }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rebalance_is_drawn_before_and_after() {
        let summary = json!({"agents": [
            {"name": "agent-0", "before": 900, "target": 500, "after": 500},
            {"name": "agent-1", "before": 100, "target": 500, "after": null},
        ]});
        let text = of_kind("rebalance", &summary).unwrap().into_string();
        assert!(text.contains("width=\"55.56%\"") && text.contains("not yet known"), "{text}");
        assert!(of_kind("rebalance", &json!({})).is_none());
        assert!(of_kind("rebalance", &json!({"agents": [{"name": 3}]})).is_none());
    }
}
