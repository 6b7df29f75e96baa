//! When tasks ran: a row per task, or, where there are too many, how many of each type ran at a time.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};
use windlass_api::GraphNode;
use windlass_api::page::JobView;

use crate::figures::{between_ms, count, name, shortened, span_ms};
use crate::mark::Mark;

/// Rows that are drawn one by one.
const ROWS: usize = 150;

/// Columns of the sums.
const COLUMNS: usize = 100;

struct Span<'a> {
    node: &'a GraphNode,
    from: Timestamp,
    to: Timestamp,
}

pub(super) fn chart(view: &JobView) -> Markup {
    let now = view.frame.now;
    let mut spans: Vec<Span<'_>> = view
        .graph
        .nodes
        .iter()
        .filter_map(|node| {
            let from = node.started?;
            Some(Span { node, from, to: node.ended.unwrap_or(now).max(from) })
        })
        .collect();
    spans.sort_by_key(|span| (span.from, span.to));
    let Some(begin) = spans.first().map(|span| span.from) else {
        return html! { h2 .unseen { "Timeline" } p .note { "No task has been started yet." } };
    };
    let end = spans.iter().map(|span| span.to).max().unwrap_or(begin);
    let total = between_ms(begin, end).max(1);
    html! {
        h2 .unseen { "Timeline" }
        p .note {
            "From " (crate::figures::moment(begin)) ", " (span_ms(total)) " in all."
            @if spans.len() > ROWS { " " (count(spans.len() as u64)) " tasks: the height is how many of a type ran at a time." }
        }
        div .timeline role="table" aria-label="When tasks ran" {
            div .span-row .axis role="row" {
                span role="columnheader" { "Task" }
                span .lane role="columnheader" {
                    @for part in 0..5_u64 {
                        span .tick.(format!("at-{}", part * 25)) { (span_ms(total * part / 4)) }
                    }
                }
                span .number role="columnheader" { "Took" }
            }
            @if spans.len() <= ROWS {
                @for span in &spans { (row(view, span, begin, total)) }
            } @else {
                @for (task_type, of_type) in by_type(&spans) { (sum(view, task_type, &of_type, begin, total)) }
            }
        }
    }
}

fn part(ms: u64, total: u64) -> f64 {
    ms as f64 * 100.0 / total as f64
}

fn row(view: &JobView, span: &Span<'_>, begin: Timestamp, total: u64) -> Markup {
    let mark = Mark::of_task(span.node.state);
    let took = between_ms(span.from, span.to);
    let resource = span.node.resource.as_deref().unwrap_or(&span.node.task_type);
    let (x, width) = (part(between_ms(begin, span.from), total), part(took, total));
    html! {
        div .span-row role="row" {
            span role="cell" {
                (mark.shape()) " "
                a href=(format!("/jobs/{}/tasks/{}", view.job.id, span.node.id)) data-task=(span.node.id)
                    title=(shortened(&span.node.task_type, 80)) { (name(resource)) }
                span .unseen { " " (span.node.state.as_str()) }
            }
            span .lane role="cell" {
                svg width="100%" height="14" aria-hidden="true" {
                    rect .(mark.name()) x=(format!("{:.2}%", x.min(99.6))) width=(format!("{:.2}%", width.max(0.4))) height="14" rx="2" {}
                }
            }
            span .number role="cell" { (span_ms(took)) }
        }
    }
}

fn by_type<'a, 's>(spans: &'s [Span<'a>]) -> BTreeMap<&'a str, Vec<&'s Span<'a>>> {
    let mut types: BTreeMap<&str, Vec<&Span<'_>>> = BTreeMap::new();
    for span in spans {
        types.entry(&span.node.task_type).or_default().push(span);
    }
    types
}

/// How many ran at a time, column by column.
fn sum(view: &JobView, task_type: &str, spans: &[&Span<'_>], begin: Timestamp, total: u64) -> Markup {
    let mut busy = [0.0_f64; COLUMNS];
    let width = total as f64 / COLUMNS as f64;
    for span in spans {
        let (from, to) = (between_ms(begin, span.from) as f64, between_ms(begin, span.to) as f64);
        let first = ((from / width) as usize).min(COLUMNS - 1);
        let last = ((to / width) as usize).min(COLUMNS - 1);
        for (column, busy) in busy.iter_mut().enumerate().take(last + 1).skip(first) {
            let (left, right) = (column as f64 * width, (column + 1) as f64 * width);
            *busy += ((to.min(right) - from.max(left)) / width).max(0.02);
        }
    }
    let most = busy.iter().copied().fold(0.0, f64::max).max(1.0);
    let all: SignedDuration = spans.iter().map(|span| span.to.duration_since(span.from)).sum();
    let query = [("tab", Some("tasks")), ("type", Some(task_type))];
    html! {
        div .span-row .summed role="row" {
            span role="cell" {
                a href=(crate::figures::link(&format!("/jobs/{}", view.job.id), &query)) { (name(task_type)) }
                span .fine { " " (count(spans.len() as u64)) " tasks, at most " (format!("{:.0}", most.ceil())) " at a time" }
            }
            span .lane role="cell" {
                svg width="100%" height="34" aria-hidden="true" {
                    @for (column, busy) in busy.iter().enumerate().filter(|(_, busy)| **busy > 0.0) {
                        @let height = (busy / most * 34.0).max(1.0);
                        rect .running x=(format!("{column}%")) width="1.05%" y=(format!("{:.1}", 34.0 - height)) height=(format!("{height:.1}")) {}
                    }
                }
            }
            span .number role="cell" title="added up over all tasks" { (span_ms(u64::try_from(all.as_millis()).unwrap_or(0))) }
        }
    }
}
