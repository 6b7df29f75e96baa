//! The picture of the build cache: how often lookups hit over time, what was saved, what was slow, and what a build of
//! each branch would find.

use maud::{Markup, html};
use serde_json::Value;

use crate::figures::{bytes, count, name, percent, span_ms};

/// Columns of the picture; more are put together by whoever makes the summary.
const COLUMNS: usize = 240;
/// Rows of each table.
const ROWS: usize = 50;
/// Units of the drawing; the page stretches it.
const HEIGHT: f64 = 100.0;
const WIDTH: f64 = 10.0;

/// Builds of one stretch of time.
struct Column<'a> {
    at: &'a str,
    local: u64,
    remote: u64,
    miss: u64,
}

impl Column<'_> {
    fn all(&self) -> u64 {
        self.local.saturating_add(self.remote).saturating_add(self.miss)
    }

    fn share(&self, part: u64) -> f64 {
        let all = self.all();
        if all == 0 { 0.0 } else { part as f64 / all as f64 }
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn rows<'a>(summary: &'a Value, name: &str, most: usize) -> impl Iterator<Item = &'a Value> {
    summary.get(name).and_then(Value::as_array).into_iter().flatten().take(most)
}

/// Whatever parts the summary has; `None` when it has none of them.
pub(super) fn of(summary: &Value) -> Option<Markup> {
    let parts: Vec<Markup> =
        [removed(summary), hits(summary), branches(summary), slowest(summary)].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| html! { @for part in &parts { (part) } })
}

/// What a job that collects garbage or brings outputs somewhere has come to.
fn removed(summary: &Value) -> Option<Markup> {
    let part = |word: &str, of: &Value| {
        html! { li { span .bars-name { (word) " " } (count(number(of, "objects"))) " objects, " (bytes(number(of, "bytes"))) } }
    };
    let parts: Vec<Markup> =
        [("removed", "removed"), ("kept", "kept"), ("brought", "brought"), ("already there", "present")]
            .into_iter()
            .filter_map(|(word, key)| Some(part(word, summary.get(key).filter(|value| value.is_object())?)))
            .collect();
    (!parts.is_empty()).then(|| html! { ul .bars { @for part in &parts { (part) } } })
}

/// Lookups over time as columns: found here, found in the remote, not found.
fn hits(summary: &Value) -> Option<Markup> {
    let columns: Vec<Column<'_>> = rows(summary, "buckets", COLUMNS)
        .filter_map(|bucket| {
            Some(Column {
                at: bucket.get("at")?.as_str()?,
                local: number(bucket, "local"),
                remote: number(bucket, "remote"),
                miss: number(bucket, "miss"),
            })
        })
        .collect();
    let (first, last) = (columns.first()?, columns.last()?);
    let all_of: fn(&Column<'_>) -> u64 = |c| Column::all(c);
    let sum = |part: fn(&Column<'_>) -> u64| columns.iter().map(part).fold(0_u64, u64::saturating_add);
    let (local, remote, all) = (sum(|c| c.local), sum(|c| c.remote), sum(all_of));
    let rate = if all == 0 { 0.0 } else { (local + remote) as f64 / all as f64 };
    let width = columns.len() as f64 * WIDTH;
    Some(html! {
        figure .hits {
            figcaption {
                "Lookups that were answered, over time: " (percent(rate)) " of " (count(all)) ", "
                (count(local)) " from the disk and " (count(remote)) " from the remote"
            }
            svg .columns viewBox=(format!("0 0 {width:.0} {HEIGHT:.0}")) preserveAspectRatio="none" width="100%" height="140"
                role="img" aria-label=(format!("From {} to {}: {} of the lookups were answered", first.at, last.at, percent(rate))) {
                rect .lane width=(format!("{width:.0}")) height=(format!("{HEIGHT:.0}")) {}
                @for (n, column) in columns.iter().enumerate() {
                    @let x = format!("{:.1}", n as f64 * WIDTH + 0.5);
                    @let wide = format!("{:.1}", WIDTH - 1.0);
                    @let here = column.share(column.local) * HEIGHT;
                    @let there = column.share(column.remote) * HEIGHT;
                    g {
                        title {
                            (column.at) ": " (count(column.local)) " from the disk, " (count(column.remote))
                            " from the remote, " (count(column.miss)) " not found"
                        }
                        rect .here x=(x) width=(wide) y=(format!("{:.2}", HEIGHT - here)) height=(format!("{here:.2}")) {}
                        rect .there x=(x) width=(wide) y=(format!("{:.2}", HEIGHT - here - there)) height=(format!("{there:.2}")) {}
                    }
                }
            }
            p .fine { (first.at) " to " (last.at) @if let Some(text) = saved(summary) { "; " (text) } }
        }
    })
}

/// What the builds did without.
fn saved(summary: &Value) -> Option<String> {
    let saved = summary.get("saved").filter(|saved| saved.is_object())?;
    Some(format!(
        "saved {} of downloads and {} requests, waited {} for the remote",
        bytes(number(saved, "bytes")),
        count(number(saved, "requests")),
        span_ms(number(saved, "waited_ms"))
    ))
}

/// What a build of each branch would find in the remote, as bars.
fn branches(summary: &Value) -> Option<Markup> {
    let all: Vec<(&str, u64, u64, u64)> = rows(summary, "branches", ROWS)
        .filter_map(|branch| {
            let (actions, present) = (number(branch, "actions"), number(branch, "present"));
            Some((branch.get("namespace")?.as_str()?, actions, present.min(actions), number(branch, "bytes")))
        })
        .collect();
    (!all.is_empty()).then(|| {
        html! {
            figure .branches {
                figcaption { "What a build of each branch would find" }
                ul .bars {
                    @for (branch, actions, present, size) in all {
                        @let share = if actions == 0 { 0.0 } else { present as f64 / actions as f64 };
                        li {
                            div .bars-name { (name(branch)) span .fine { " " (bytes(size)) } }
                            div .bar-row {
                                span .bar-word { "found" }
                                svg .("bar-lane after") width="100%" height="14" aria-hidden="true" {
                                    rect .lane width="100%" height="14" {}
                                    rect .fill width=(format!("{:.2}%", share * 100.0)) height="14" {}
                                }
                                span .bar-number { (count(present)) " of " (count(actions)) }
                            }
                        }
                    }
                }
            }
        }
    })
}

/// The builds in which a lookup took longest.
fn slowest(summary: &Value) -> Option<Markup> {
    let all: Vec<_> = rows(summary, "slowest", ROWS)
        .filter_map(|run| {
            Some((run.get("at")?.as_str()?, number(run, "ms"), number(run, "waited_ms"), number(run, "gets")))
        })
        .collect();
    (!all.is_empty()).then(|| {
        html! {
            h3 { "Slowest lookups" }
            div .table-scroll tabindex="0" role="region" aria-label="Slowest lookups" {
                table {
                    thead { tr { th { "build of" } th { "slowest lookup" } th { "all waiting" } th { "lookups" } } }
                    tbody {
                        @for (at, ms, waited, gets) in all {
                            tr { td { (name(at)) } td { (span_ms(ms)) } td { (span_ms(waited)) } td { (count(gets)) } }
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
    fn lookups_are_drawn_as_columns_of_two_parts() {
        let summary = json!({
            "buckets": [
                {"at": "2026-11-20T10:00:00Z", "local": 50, "remote": 25, "miss": 25},
                {"at": "2026-11-20T11:00:00Z"},
                {"local": 3},
            ],
            "saved": {"bytes": 1_048_576, "requests": 2000, "waited_ms": 1500},
        });
        let text = of(&summary).unwrap().into_string();
        assert!(text.contains("75 %") && text.contains("y=\"50.00\" height=\"50.00\""), "{text}");
        assert!(text.contains("y=\"25.00\" height=\"25.00\""), "{text}");
        assert_eq!(text.matches("<g>").count(), 2, "a bucket without a moment is left out: {text}");
        assert!(text.contains("saved 1"), "{text}");
    }

    #[test]
    fn branches_and_slow_lookups_are_escaped_and_bounded() {
        let many: Vec<_> = (0..500).map(|n| json!({"at": "<b>", "ms": n})).collect();
        let summary = json!({
            "branches": [{"namespace": "<script>", "actions": 10, "present": 90, "bytes": 5}],
            "slowest": many,
        });
        let text = of(&summary).unwrap().into_string();
        assert!(!text.contains("<script>") && !text.contains("<b>"), "{text}");
        assert!(text.contains("width=\"100.00%\"") && text.contains("10 of 10"), "{text}");
        assert_eq!(text.matches("<tr>").count(), 1 + ROWS);
    }

    #[test]
    fn nothing_known_is_no_picture() {
        assert!(of(&json!({})).is_none());
        assert!(of(&json!({"buckets": [], "branches": "x", "removed": 3})).is_none());
        assert!(of(&json!({"removed": {"objects": 3, "bytes": 10}})).unwrap().into_string().contains("3 objects"));
    }
}
