//! What a job did: the report with its receipts, and the ledger of effects.

use maud::{Markup, html};
use windlass_api::page::JobView;
use windlass_api::{JobState, Report};

use crate::failure::told;
use crate::figures::{count, counted, name, shortened, span_ms};
use crate::mark::{Mark, job_chip};
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
    let report = &view.report;
    let id = view.job.id.to_string();
    let attempts = report.repeated_attempts;
    html! {
        h2 { "Report" }
        p .verdict {
            (job_chip(report.state, report.result, false)) " in " (span_ms(report.elapsed_ms)) ", "
            (counted(report.tasks.ended(), "task")) " of " (count(report.tasks.total())) " ended, "
            (counted(attempts, "attempt")) " repeated"
        }
        @if let Some(failure) = &report.failure { (told(failure)) }
        @if let Some(picture) = picture::of_kind(&report.kind, &report.summary) { (picture) }
        @if !report.summary.is_null() {
            section #summary { h3 { "What the kind says" } (value::tree(&report.summary)) }
        }
        h3 { "Receipts" }
        (effect_sums(report))
        (leftovers(view))
        @if !report.unsuccessful.is_empty() {
            h3 { "Tasks that did not succeed" }
            ul .failed-tasks {
                @for task in report.unsuccessful.iter().take(LISTED) {
                    li {
                        p { strong { (name(&task.task)) } " " span .fine { (task.outcome) } }
                        @if let Some(failure) = &task.failure { (told(failure)) }
                        @if let Some(root) = task.roots.first() { p .fine { "because of " (name(root)) } }
                    }
                }
            }
            @if report.unsuccessful.len() > LISTED { p .note { "and " (count((report.unsuccessful.len() - LISTED) as u64)) " more" } }
        }
        @if !report.warnings.is_empty() {
            h3 { "Warnings" }
            ol .log {
                @for entry in report.warnings.iter().take(LISTED) {
                    li .(entry.level.as_str()) {
                        (figures::clock_time(entry.at))
                        span .level { @if let Some(mark) = Mark::of_level(entry.level) { (mark.shape()) } }
                        span .message { (shortened(&entry.message, 2000)) }
                    }
                }
            }
        }
        p .fine { "The whole report as JSON: " a href=(format!("/api/v1/jobs/{id}/report")) { "/api/v1/jobs/" (id) "/report" } }
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
