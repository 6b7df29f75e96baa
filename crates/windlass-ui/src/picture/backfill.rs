//! The picture of late rows: the days that a job touched as a map, how late the rows came, and what a standing job looks
//! after.

use maud::{Markup, html};
use serde_json::Value;

use crate::figures::{bytes, count, name, span_ms};

/// Days of the map.
const DAYS: usize = 400;
/// Rows of a table.
const ROWS: usize = 50;
/// Units of a day in the drawing, and days in a column.
const CELL: usize = 14;
const WEEK: usize = 7;

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn rows<'a>(value: &'a Value, name: &str, most: usize) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten().take(most)
}

/// Whatever parts the summary has; `None` when it has none of them.
pub(super) fn of(summary: &Value) -> Option<Markup> {
    let parts: Vec<Markup> =
        [days(summary), lateness(summary), stages(summary), logs(summary)].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| html! { @for part in &parts { (part) } })
}

/// The days as a map: the more keys changed, the darker.
fn days(summary: &Value) -> Option<Markup> {
    let days: Vec<(&str, u64, u64, bool)> = rows(summary, "days", DAYS)
        .filter_map(|day| {
            let done = day.get("done").and_then(Value::as_bool).unwrap_or(false);
            Some((day.get("day")?.as_str()?, number(day, "rows"), number(day, "changed"), done))
        })
        .collect();
    let most = days.iter().map(|(_, rows, changed, _)| *rows.max(changed)).max()?.max(1);
    // Few rows and many differ by orders of magnitude.
    let shade = |n: u64| if n == 0 { 0.08 } else { 0.2 + 0.8 * ((n + 1) as f64).ln() / ((most + 1) as f64).ln() };
    let width = days.len().div_ceil(WEEK) * CELL;
    let changed: u64 = days.iter().map(|(_, _, changed, _)| changed).sum();
    let done = days.iter().filter(|(.., done)| *done).count();
    let label = format!("{} days, {} keys changed", days.len(), changed);
    Some(html! {
        figure .days {
            figcaption {
                "Days with late rows, the oldest first, seven in a column; the more keys changed, the darker. "
                (count(done as u64)) " of " (count(days.len() as u64)) " are committed, " (count(changed)) " keys changed"
            }
            svg .columns viewBox=(format!("0 0 {width} {}", WEEK * CELL)) width=(width) height=(WEEK * CELL)
                role="img" aria-label=(label) {
                @for (n, (day, rows, changed, done)) in days.iter().enumerate() {
                    @let shown = if *done { *changed } else { *rows };
                    g {
                        title {
                            (day) ": " (count(*rows)) " rows, " (count(*changed)) " keys changed"
                            @if !done { ", not committed yet" }
                        }
                        rect .(if *done { "here" } else { "there" }) x=((n / WEEK) * CELL + 1) y=((n % WEEK) * CELL + 1)
                            width=(CELL - 2) height=(CELL - 2) fill-opacity=(format!("{:.2}", shade(shown))) {}
                    }
                }
            }
            @if let (Some(first), Some(last)) = (days.first(), days.last()) { p .fine { (first.0) " to " (last.0) } }
        }
    })
}

/// How late the rows came, as bars.
fn lateness(summary: &Value) -> Option<Markup> {
    let lateness = summary.get("lateness")?;
    let all: Vec<(Option<i64>, u64)> = rows(lateness, "below_seconds", ROWS)
        .zip(rows(lateness, "rows", ROWS))
        .map(|(bound, rows)| (bound.as_i64(), rows.as_u64().unwrap_or(0)))
        .collect();
    let most = all.iter().map(|(_, rows)| *rows).max().filter(|most| *most > 0)?;
    let span = |seconds: i64| {
        if seconds % 86_400 == 0 { format!("{} d", seconds / 86_400) } else { format!("{} h", seconds / 3600) }
    };
    let mut words = Vec::new();
    let mut before = None;
    for (bound, _) in &all {
        words.push(match (before, bound) {
            (None, Some(bound)) => format!("below {}", span(*bound)),
            (Some(before), Some(bound)) => format!("{} to {}", span(before), span(*bound)),
            (Some(before), None) => format!("over {}", span(before)),
            (None, None) => "any".to_owned(),
        });
        before = bound.or(before);
    }
    Some(html! {
        figure .branches {
            figcaption { "How late the rows came" }
            ul .bars {
                @for (word, (_, rows)) in words.iter().zip(&all) {
                    li {
                        div .bar-row {
                            span .bar-word { (word) }
                            svg .("bar-lane after") width="100%" height="14" aria-hidden="true" {
                                rect .lane width="100%" height="14" {}
                                rect .fill width=(format!("{:.2}%", *rows as f64 * 100.0 / most as f64)) height="14" {}
                            }
                            span .bar-number { (count(*rows)) }
                        }
                    }
                }
            }
        }
    })
}

/// What the stages took.
fn stages(summary: &Value) -> Option<Markup> {
    let stages = summary.get("duration_ms")?.as_object()?;
    let all: Vec<(&str, u64)> = ["plan", "merge", "commit", "trim"]
        .into_iter()
        .filter_map(|name| Some((name, stages.get(name)?.as_u64()?)))
        .collect();
    let memory = number(summary, "peak_reserved_bytes");
    (!all.is_empty()).then(|| {
        html! {
            p .fine {
                @for (name, ms) in &all { (name) " " (span_ms(*ms)) ", " }
                "memory set aside at most " (bytes(memory))
            }
        }
    })
}

/// The logs that a standing job looks after and in which something waits.
fn logs(summary: &Value) -> Option<Markup> {
    let now = summary.get("now").filter(|now| now.is_object())?;
    let shown: Vec<&Value> = rows(now, "shown", ROWS).collect();
    Some(html! {
        p {
            (count(number(now, "waiting"))) " of " (count(number(now, "logs"))) " logs have rows that wait, "
            (bytes(number(now, "pending_bytes"))) "; " (count(number(now, "running"))) " runs are under way, "
            (count(number(now, "due"))) " more are due"
        }
        @if !shown.is_empty() {
            div .table-scroll tabindex="0" role="region" aria-label="Logs with rows that wait" {
                table {
                    thead { tr { th { "table" } th { "log" } th { "waits" } th { "for" } th { "trouble" } } }
                    tbody {
                        @for log in &shown {
                            tr {
                                td { (name(log.get("table").and_then(Value::as_str).unwrap_or_default())) }
                                td { (count(number(log, "shard"))) }
                                td { (bytes(number(log, "pending_bytes"))) }
                                td {
                                    @if let Some(age) = log.get("age_seconds").and_then(Value::as_u64) {
                                        (span_ms(age.saturating_mul(1000)))
                                    }
                                }
                                td { (log.get("trouble").and_then(Value::as_str).unwrap_or_default()) }
                            }
                        }
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
    fn days_are_a_map_of_bounded_size_and_the_busiest_is_the_darkest() {
        let mut all: Vec<Value> =
            (0..1000).map(|n| json!({"day": format!("<{n}>"), "rows": 1, "changed": 0, "done": false})).collect();
        all[3] = json!({"day": "2025-11-18", "rows": 500, "changed": 400, "done": true});
        let text = of(&json!({ "days": all })).unwrap().into_string();
        assert_eq!(text.matches("<g>").count(), DAYS);
        assert!(!text.contains("<0>"), "{text}");
        assert!(text.contains("2025-11-18: 500 rows, 400 keys changed<"), "{text}");
        assert_eq!(text.matches("not committed yet").count(), DAYS - 1);
        assert!(text.contains("1 of 400 are committed"), "{text}");
    }

    #[test]
    fn lateness_stages_and_logs_are_drawn_where_they_are_known() {
        let summary = json!({
            "lateness": {"below_seconds": [3600, 86400, null], "rows": [10, 0, 5]},
            "duration_ms": {"plan": 10, "merge": 2000},
            "now": {"logs": 4000, "waiting": 1, "pending_bytes": 2048, "shown": [
                {"table": "<i>rides", "shard": 3, "pending_bytes": 2048, "age_seconds": 90, "trouble": "the disk is full"},
            ]},
        });
        let text = of(&summary).unwrap().into_string();
        for part in ["below 1 h", "1 h to 1 d", "over 1 d", "width=\"50.00%\"", "plan", "the disk is full"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("<i>"), "{text}");
    }

    #[test]
    fn nothing_known_is_no_picture() {
        assert!(of(&json!({})).is_none());
        assert!(of(&json!({"days": [], "lateness": {"below_seconds": [], "rows": []}, "duration_ms": {}})).is_none());
        assert!(of(&json!({"days": "x", "lateness": 3, "duration_ms": "x"})).is_none());
    }
}
