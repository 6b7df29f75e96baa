//! The picture of a recovery: goals and what was reached of them, when instances, volumes and networks came up, what kept
//! it waiting, what is different from the last one, and how ready the group was each time.

use maud::{Markup, html};
use serde_json::Value;

use crate::figures::{count, name, span_ms};

/// Rows of a table or a timeline.
const ROWS: usize = 200;
/// Recoveries in the history.
const HISTORY: usize = 30;

fn text<'v>(of: &'v Value, key: &str) -> &'v str {
    of.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(of: &Value, place: &str) -> Option<u64> {
    of.pointer(place).and_then(Value::as_u64)
}

fn list<'v>(of: &'v Value, key: &str) -> &'v [Value] {
    of.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Drawn from the kind's part of the report.
pub(super) fn of(summary: &Value) -> Option<Markup> {
    let planned = number(summary, "/planned")?;
    let end =
        rows(summary).filter_map(|row| list(row, "spans").iter().filter_map(|span| number(span, "/to_ms")).max()).max();
    Some(html! {
        figure .vectors {
            figcaption { "How ready " (name(text(summary, "group"))) " is" }
            ul .bars {
                (goal("Instances seen to work", Some(planned), number(summary, "/recovered"), &count, false))
                (goal("Time to recover (RTO)", number(summary, "/rto/goal_ms"), number(summary, "/rto/reached_ms"), &span_ms, true))
                (goal("Age of the data (RPO)", number(summary, "/rpo/goal_ms"), number(summary, "/rpo/reached_ms"), &span_ms, true))
                @if let Some(score) = number(summary, "/score") { (goal("Readiness", Some(100), Some(score), &count, false)) }
            }
        }
        @if let Some(end) = end { (timeline(summary, end.max(1))) }
        (path(summary))
        (since_last(summary))
        (history(summary))
    })
}

/// A goal and what was reached. `less`: the less the better.
fn goal(what: &str, goal: Option<u64>, reached: Option<u64>, figure: &dyn Fn(u64) -> String, less: bool) -> Markup {
    let most = goal.into_iter().chain(reached).max().unwrap_or(0).max(1);
    let share = |n: u64| format!("{:.2}%", n as f64 * 100.0 / most as f64);
    let met = goal.map(|goal| reached.is_some_and(|reached| if less { reached <= goal } else { reached >= goal }));
    html! {
        li {
            div .bars-name {
                (what)
                @if let Some(goal) = goal { span .fine { " of " (figure(goal)) } }
                @match met { Some(true) => span .fine { " reached" }, Some(false) => span .fine.warned { " not reached" }, None => span .fine { " no goal" } }
            }
            div .bar-row {
                span .bar-word { "" }
                svg .bar-lane.after width="100%" height="14" aria-hidden="true" {
                    rect .lane width="100%" height="14" {}
                    @if let Some(reached) = reached { rect .fill width=(share(reached)) height="14" {} }
                    @if let Some(goal) = goal { line .target x1=(share(goal)) x2=(share(goal)) y1="0" y2="14" {} }
                }
                span .bar-number { @match reached { Some(reached) => (figure(reached)), None => span .none { "not known" } } }
            }
        }
    }
}

fn rows(summary: &Value) -> impl Iterator<Item = &Value> {
    ["instances", "volumes", "networks"].into_iter().flat_map(|sort| list(summary, sort).iter().take(ROWS))
}

/// A row for each instance, volume and network, in the colours of what was done.
fn timeline(summary: &Value, end: u64) -> Markup {
    let share = |ms: u64| ms as f64 * 100.0 / end as f64;
    html! {
        h3 { "When it came up" }
        div .timeline role="table" aria-label="When instances, volumes and networks came up" {
            div .span-row .axis role="row" {
                span role="columnheader" { "What" }
                span .lane role="columnheader" {
                    @for part in 0..5_u64 { span .tick.(format!("at-{}", part * 25)) { (span_ms(end * part / 4)) } }
                }
                span .number role="columnheader" { "After" }
            }
            @for (sort, member) in [("instances", "instance"), ("volumes", "volume"), ("networks", "network")] {
                @for row in list(summary, sort).iter().take(ROWS) {
                    div .span-row role="row" {
                        span role="cell" { (name(text(row, member))) span .fine { " " (text(row, "state").replace('_', " ")) } }
                        span .lane.phases role="cell" {
                            svg width="100%" height="14" aria-hidden="true" {
                                @for span in list(row, "spans") {
                                    @let from = number(span, "/from_ms").unwrap_or(0);
                                    @let to = number(span, "/to_ms").unwrap_or(end).max(from);
                                    rect .(phase(text(span, "phase"))) x=(format!("{:.2}%", share(from).min(99.6)))
                                        width=(format!("{:.2}%", share(to - from).max(0.4))) height="14" rx="2" {}
                                }
                            }
                        }
                        span .number role="cell" {
                            @match number(row, "/took_ms") { Some(took) => (span_ms(took)), None => span .none { "–" } }
                        }
                    }
                }
                @let all = list(summary, sort).len();
                @if all > ROWS { p .fine { "and " (count((all - ROWS) as u64)) " " (sort) " more: they are in the document" } }
            }
        }
        p .fine.phases {
            @for (class, word) in [("create", "made"), ("boot", "booting"), ("diagnose", "being looked at"), ("copy", "copied"), ("import", "handed over"), ("network", "network parts")] {
                svg width="12" height="12" aria-hidden="true" { rect .(class) width="12" height="12" rx="2" {} } " " (word) "  "
            }
        }
    }
}

/// The class of a phase: nothing that a report says becomes one.
fn phase(word: &str) -> &'static str {
    match word {
        "create" => "create",
        "boot" => "boot",
        "diagnose" => "diagnose",
        "stop" => "stop",
        "copy" => "copy",
        "import" => "import",
        _ => "network",
    }
}

/// What kept the last instance waiting.
fn path(summary: &Value) -> Markup {
    let steps = list(summary, "critical_path");
    html! {
        @if !steps.is_empty() {
            h3 { "What it waited for" }
            @if let (Some(took), Some(least)) = (number(summary, "/took_ms"), number(summary, "/at_least_ms")) {
                p .note { "It took " (span_ms(took)) "; with all these tasks and pools it takes at least " (span_ms(least)) "." }
            }
            div .table-scroll tabindex="0" role="region" aria-label="Critical path" {
                table {
                    thead { tr { th scope="col" { "Task" } th scope="col" .number { "Waited" } th scope="col" .number { "Took" } } }
                    tbody {
                        @for step in steps.iter().take(ROWS) {
                            tr {
                                th scope="row" { (name(text(step, "task"))) }
                                td .number { (span_ms(number(step, "/waited_ms").unwrap_or(0))) }
                                td .number { (span_ms(number(step, "/took_ms").unwrap_or(0))) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn since_last(summary: &Value) -> Markup {
    let last = summary.get("since_last").filter(|last| last.is_object());
    html! {
        @if let Some(last) = last {
            h3 { "Since the last one" }
            @let lines = list(last, "differences");
            @if lines.is_empty() { p .note { "Nothing is different." } }
            ul { @for line in lines.iter().take(ROWS).filter_map(Value::as_str) { li { (line) } } }
        }
    }
}

/// The readiness over time, oldest first.
fn history(summary: &Value) -> Markup {
    let all = list(summary, "history");
    let shown = &all[all.len().saturating_sub(HISTORY)..];
    html! {
        @if shown.len() > 1 {
            h3 { "Readiness over time" }
            div .table-scroll tabindex="0" role="region" aria-label="Readiness over time" {
                table {
                    thead { tr { th scope="col" { "When" } th scope="col" { "Readiness" } th scope="col" .number { "Instances" } th scope="col" .number { "RTO" } th scope="col" .number { "RPO" } } }
                    tbody {
                        @for one in shown {
                            @let score = number(one, "/score").unwrap_or(0).min(100);
                            tr {
                                th scope="row" { (name(text(one, "at"))) span .fine { " " (text(one, "mode")) } }
                                td {
                                    svg .bar-lane.after width="120" height="12" aria-hidden="true" {
                                        rect .lane width="100%" height="12" {}
                                        rect .fill width=(format!("{score}%")) height="12" {}
                                    }
                                    " " (score)
                                }
                                td .number { (count(number(one, "/recovered").unwrap_or(0))) " of " (count(number(one, "/planned").unwrap_or(0))) }
                                td .number { @match number(one, "/rto_ms") { Some(ms) => (span_ms(ms)), None => span .none { "–" } } }
                                td .number { @match number(one, "/rpo_ms") { Some(ms) => (span_ms(ms)), None => span .none { "–" } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_recovery_is_drawn_with_its_goals_rows_and_history_and_names_are_escaped() {
        let summary = json!({
            "group": "shop", "planned": 2, "recovered": 1, "score": 55, "took_ms": 4_000, "at_least_ms": 3_000,
            "rto": { "goal_ms": 1_000, "reached_ms": 4_000 }, "rpo": { "goal_ms": null, "reached_ms": null },
            "instances": [{ "instance": "<b>db", "state": "success", "took_ms": 4_000, "spans": [
                { "phase": "create", "from_ms": 1_000, "to_ms": 2_000 }, { "phase": "<x>", "from_ms": 2_000, "to_ms": 4_000 }] }],
            "volumes": [{ "volume": "data", "state": "not_ended", "spans": [{ "phase": "copy", "from_ms": 0, "to_ms": null }] }],
            "critical_path": [{ "task": "recover.copy.volume[data]", "waited_ms": 10, "took_ms": 1_000 }],
            "since_last": { "differences": ["the instance <i>app is new"] },
            "history": [{ "at": "2026-01-01", "score": 90, "recovered": 2, "planned": 2 }, { "at": "2026-01-02", "score": 55 }],
        });
        let text = of(&summary).unwrap().into_string();
        for part in ["25.00%", "not reached", "no goal", "3.0 s", "not ended", "Readiness over time", "width=\"55%\""] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("<b>db") && !text.contains("<i>app") && !text.contains("<x>"), "{text}");
        assert!(of(&json!({})).is_none() && of(&json!({ "planned": "x" })).is_none());
    }
}
