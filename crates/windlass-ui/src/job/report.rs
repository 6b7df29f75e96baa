//! What a job did: the report with its receipts, and the ledger of effects.

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use windlass_api::page::JobView;
use windlass_api::{JobState, Report};

use crate::assets::STYLE;
use crate::failure::told;
use crate::figures::{count, counted, name, shortened, span_ms};
use crate::mark::{Mark, job_chip, shapes};
use crate::{figures, picture, value};

/// Tasks that are listed.
const LISTED: usize = 100;

/// Effects, summed up by action, and the tasks that made them.
pub(super) fn effects(view: &JobView) -> Markup {
    let id = view.job.id.to_string();
    html! {
        h2 .unseen { "Effects" }
        p .note { "Every change to the outside world, written down before and after it is made. Undo goes by this ledger." }
        (effect_sums(&view.report))
        @let with: Vec<_> = view.tasks.tasks.iter().filter(|task| task.effects > 0).take(LISTED).collect();
        @if !with.is_empty() {
            h3 { "By task" }
            ul .ledger-tasks {
                @for task in with {
                    li {
                        a href=(format!("/jobs/{id}/tasks/{}#ledger", task.id)) data-task=(task.id) { (name(&task.name())) }
                        " " span .fine { (counted(task.effects, "effect")) }
                    }
                }
            }
            @if view.tasks.next.is_some() { p .fine { "Of the first " (count(view.tasks.tasks.len() as u64)) " tasks; the " a href=(format!("/jobs/{id}?tab=tasks")) { "table of tasks" } " has all." } }
        }
    }
}

fn effect_sums(report: &Report) -> Markup {
    html! {
        @if report.effects.is_empty() {
            p .note { "Nothing outside has been changed." }
        } @else {
            div .table-scroll tabindex="0" role="region" aria-label="Effects by action" {
                table .sums {
                    caption .unseen { "Effects by action" }
                    thead { tr { th scope="col" { "Action" } th scope="col" .number { "Intended" } th scope="col" .number { "Made" } th scope="col" .number { "Gone" } } }
                    tbody {
                        @for (action, sum) in &report.effects {
                            tr {
                                th scope="row" { (name(action)) }
                                td .number .warned[sum.intended > 0] { (count(sum.intended)) }
                                td .number { (count(sum.made)) }
                                td .number { (count(sum.gone)) }
                            }
                        }
                    }
                }
            }
            p .fine { "Intended: may or may not exist outside. Made: it exists. Gone: undone, or never happened." }
        }
    }
}

/// The report.
pub(super) fn report(view: &JobView) -> Markup {
    let id = view.job.id.to_string();
    html! {
        h2 { "Report" }
        (result(&view.report))
        (receipts(&view.report))
        (leftovers(view))
        (troubles(&view.report, LISTED))
        p .fine {
            "To keep: " a href=(format!("/jobs/{id}/report.html")) download { "one HTML file" }
            ", or " a href=(format!("/api/v1/jobs/{id}/report")) { "all of it as JSON" }
        }
    }
}

/// The report as one file that needs nothing else: no script, and the styles in it.
pub(crate) fn report_file(report: &Report, version: &str, now: Timestamp) -> String {
    let title = shortened(&report.name, 96);
    // The style sheet is text of ours.
    let style = String::from_utf8_lossy(STYLE.asset.bytes);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(format!("windlass {version}"));
                title { "Report on " (title) }
                style { (PreEscaped(style)) }
            }
            body {
                (shapes())
                main #main {
                    h1 { (name(&report.name)) }
                    dl .facts {
                        div { dt { "Kind" } dd { (report.kind) } }
                        div { dt { "Job" } dd { code { (report.job) } } }
                        div { dt { "Submitted" } dd { (figures::moment(report.created)) } }
                        @if let Some(started) = report.started { div { dt { "Started" } dd { (figures::moment(started)) } } }
                        @if let Some(ended) = report.ended { div { dt { "Ended" } dd { (figures::moment(ended)) } } }
                    }
                    (result(report))
                    (receipts(report))
                    (left(report))
                    (troubles(report, usize::MAX))
                }
                footer .foot { span { "Written by Windlass " (version) " on " (figures::moment(now)) } }
            }
        }
    }
    .into_string()
}

/// The verdict, the figures, and the kind's own part.
fn result(report: &Report) -> Markup {
    html! {
        p .verdict {
            (job_chip(report.state, report.result, false)) " in " (span_ms(report.elapsed_ms)) ", "
            (counted(report.tasks.ended(), "task")) " of " (count(report.tasks.total())) " ended, "
            (counted(report.repeated_attempts, "attempt")) " repeated"
        }
        @if let Some(failure) = &report.failure { (told(failure)) }
        @if let Some(picture) = picture::of_kind(&report.kind, &report.summary) { (picture) }
        @if !report.summary.is_null() {
            section #summary { h3 { "What the kind says" } (value::tree(&report.summary)) }
        }
    }
}

fn receipts(report: &Report) -> Markup {
    html! {
        h3 { "Receipts" }
        (effect_sums(report))
    }
}

/// What is left outside, one by one.
fn left(report: &Report) -> Markup {
    html! {
        @if !report.leftovers.is_empty() {
            h3 { "Left outside" }
            ul .ledger-tasks {
                @for one in &report.leftovers {
                    li {
                        (name(&one.action)) " " (name(one.external_id.as_ref().unwrap_or(&one.key))) " on " (name(&one.target))
                        @if !one.task.is_empty() { " " span .fine { "made by " (name(&one.task)) } }
                        @if let Some(command) = &one.command { pre { code { (command) } } }
                    }
                }
            }
        }
    }
}

/// Tasks that did not succeed, and warnings; at most `listed` of each.
fn troubles(report: &Report, listed: usize) -> Markup {
    html! {
        @if !report.unsuccessful.is_empty() {
            h3 { "Tasks that did not succeed" }
            ul .failed-tasks {
                @for task in report.unsuccessful.iter().take(listed) {
                    li {
                        p { strong { (name(&task.task)) } " " span .fine { (task.outcome) } }
                        @if let Some(failure) = &task.failure { (told(failure)) }
                        @if let Some(root) = task.roots.first() { p .fine { "because of " (name(root)) } }
                    }
                }
            }
            @if report.unsuccessful.len() > listed { p .note { "and " (count((report.unsuccessful.len() - listed) as u64)) " more" } }
        }
        @if !report.warnings.is_empty() {
            h3 { "Warnings" }
            ol .log {
                @for entry in report.warnings.iter().take(listed) {
                    li .(entry.level.as_str()) {
                        (figures::clock_time(entry.at))
                        span .level { @if let Some(mark) = Mark::of_level(entry.level) { (mark.shape()) } }
                        span .message { (shortened(&entry.message, 2000)) }
                    }
                }
            }
        }
    }
}

/// What an undo could not take back.
fn leftovers(view: &JobView) -> Markup {
    let left: u64 = view.report.effects.values().map(|sum| sum.intended + sum.made).sum();
    html! {
        @if view.job.state == JobState::UndoFailed && left > 0 {
            h3 { "Leftovers" }
            p { (counted(left, "effect")) " may still exist outside. Undo again when the cause is mended, or leave them as they are." }
            ul .ledger-tasks {
                @for task in view.tasks.tasks.iter().filter(|task| task.effects > 0).take(LISTED) {
                    li { a href=(format!("/jobs/{}/tasks/{}#ledger", view.job.id, task.id)) data-task=(task.id) { (name(&task.name())) } }
                }
            }
        }
    }
}
