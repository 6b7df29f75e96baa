//! One task: attempts, inputs, effects, checkpoint, output, log. Also what the drawer of a job shows.

use maud::{Markup, html};
use windlass_api::page::TaskView;
use windlass_api::{Attempt, Output, Role, TaskId, TaskState};

use crate::failure::told;
use crate::figures::{ago, between_ms, bytes, clock_time, counted, link, name, percent, short_id, shortened, span_ms};
use crate::job::{Names, log};
use crate::mark::{Mark, effect_chip, task_chip};
use crate::shell::{Live, Section, may, page};
use crate::{figures, progress, value};

/// Entries of the ledger that are shown.
const LEDGER: usize = 200;

pub(crate) fn draw(view: &TaskView) -> String {
    let task = &view.task.summary;
    let job = view.job.id.to_string();
    let content = html! {
        p .crumb { a href="/" { "Jobs" } " / " a href=(format!("/jobs/{job}")) { (name(&view.job.name)) } }
        article #task {
            h1 { (name(&task.resource)) }
            p .under-title { (task_chip(task.state)) " " code { (name(&task.task_type)) } " " (short_id(&task.id.to_string())) }
            (state(view))
            (neighbours(view))
            (attempts(view))
            (ledger(view))
            (data(view))
            section #task-log {
                h2 { "Log" }
                @if view.log.entries.is_empty() { p .note { "The log says nothing about it." } }
                @else { ol .log { @for entry in view.log.entries.iter().rev().take(100) { (log::line(entry, &Names::new(), &job)) } } }
            }
        }
    };
    let live = Live::job(&job, view.job.last_log);
    page(&view.frame, Section::Jobs, &format!("{} · {}", task.state.as_str(), task.name()), &live, &content)
}

fn state(view: &TaskView) -> Markup {
    let task = &view.task.summary;
    html! {
        dl .figures {
            @if let Some(words) = figures::progress(&task.progress) {
                div {
                    dt { "Progress" }
                    dd { @if let Some(done) = task.progress.fraction() { (progress::small(done, &percent(done))) " " } (words) }
                }
            }
            div { dt { "Attempts" } dd { (task.epoch) @if task.failures > 0 { ", " (task.failures) " failed" } } }
            @if view.task.deaths > 0 { div { dt { "Workers lost" } dd { (view.task.deaths) } } }
            @if let Some(worker) = task.worker { div { dt { "Worker" } dd { (short_id(&worker.to_string())) } } }
            @if let Some(by) = &task.approved_by {
                div { dt { "Approved by" } dd { (name(by)) @if let Some(note) = &task.approval_note { ": " (shortened(note, 1000)) } } }
            }
            @if let Some(started) = task.started { div { dt { "Started" } dd { (ago(started, view.frame.now)) } } }
            div { dt { "In this state" } dd { (ago(task.since, view.frame.now)) } }
        }
        @if task.state == TaskState::Waiting || task.failure.is_some() || !task.because_of.is_empty() {
            section .why .urgent[task.failure.is_some()] {
                h2 { (Mark::Attention.shape()) " " (if task.state == TaskState::Waiting { "Why is it not running?" } else { "Why did it not succeed?" }) }
                @if let Some(question) = &task.needs_approval {
                    p { "It asks: " strong { (name(question)) } " "
                        @if may(&view.frame, Role::Operator) && task.state == TaskState::Waiting {
                            @let path = format!("/jobs/{}/ask/approve", view.job.id);
                            a .button href=(link(&path, &[("task", Some(&task.id.to_string()))])) data-ask { "Approve" }
                        }
                    }
                }
                @if !task.waiting_on.is_empty() { ul .waits { @for reason in task.waiting_on.iter().take(50) { li { "It waits for " (shortened(reason, 400)) } } } }
                @for root in task.because_of.iter().take(20) { p { "It was not tried, because " (name(root)) " did not succeed." } }
                @if let Some(at) = view.task.not_before { p { "Not before " (figures::moment(at)) "." } }
                @if let Some(failure) = &task.failure { (told(failure)) }
            }
        }
    }
}

fn neighbours(view: &TaskView) -> Markup {
    let job = view.job.id;
    let link = |id: TaskId| {
        let near = view.near.tasks.iter().find(|near| near.id == id);
        html! {
            li {
                @match near {
                    Some(near) => { (Mark::of_task(near.state).shape()) " " a href=(format!("/jobs/{job}/tasks/{id}")) data-task=(id) { (name(&near.name())) } span .unseen { " " (near.state.as_str()) } }
                    None => a href=(format!("/jobs/{job}/tasks/{id}")) data-task=(id) { (short_id(&id.to_string())) },
                }
            }
        }
    };
    let before = &view.task.summary.dependencies;
    html! {
        @if !before.is_empty() || !view.task.dependants.is_empty() {
            div .neighbours {
                @if !before.is_empty() { section { h2 { "Comes after" } ul { @for edge in before.iter().take(40) { (link(edge.task)) } } (rest(before.len())) } }
                @if !view.task.dependants.is_empty() {
                    section { h2 { "Comes before" } ul { @for id in view.task.dependants.iter().take(40) { (link(*id)) } } (rest(view.task.dependants.len())) }
                }
            }
        }
    }
}

fn rest(len: usize) -> Markup {
    html! { @if len > 40 { p .fine { "and " (len - 40) " more" } } }
}

fn attempts(view: &TaskView) -> Markup {
    let attempts: &[Attempt] = &view.task.attempts;
    html! {
        section #attempts {
            h2 { "Attempts" }
            @if attempts.is_empty() { p .note { "None has ended yet." } }
            @else {
                ol .attempts {
                    @for attempt in attempts.iter().rev() {
                        li {
                            p {
                                (if attempt.failure.is_some() { Mark::Failed } else { Mark::Succeeded }.shape())
                                " epoch " (attempt.epoch) " on worker " (short_id(&attempt.worker.to_string())) ", "
                                (clock_time(attempt.since)) " for " (span_ms(between_ms(attempt.since, attempt.ended)))
                            }
                            @if let Some(failure) = &attempt.failure { (told(failure)) }
                        }
                    }
                }
            }
        }
    }
}

fn ledger(view: &TaskView) -> Markup {
    let ledger = &view.task.ledger;
    html! {
        section #ledger {
            h2 { "Effects" }
            @if ledger.is_empty() { p .note { "It has changed nothing outside." } }
            @else {
                div .table-scroll tabindex="0" role="region" aria-label="Ledger" {
                    table {
                        caption .unseen { "Ledger" }
                        thead { tr { th scope="col" { "State" } th scope="col" { "Action" } th scope="col" { "Target" } th scope="col" { "Key" } th scope="col" { "When" } th scope="col" { "Receipt" } } }
                        tbody {
                            @for effect in ledger.iter().take(LEDGER) {
                                tr {
                                    td { (effect_chip(effect.state)) }
                                    th scope="row" { (name(&effect.action)) }
                                    td { (name(&effect.target)) @if let Some(id) = &effect.external_id { br; span .fine { (name(id)) } } }
                                    td { code { (name(&effect.key)) } }
                                    td { (clock_time(effect.at)) }
                                    td { @if let Some(receipt) = &effect.receipt { details { summary { "receipt" } (value::tree(receipt)) } } }
                                }
                            }
                        }
                    }
                }
                @if ledger.len() > LEDGER { p .fine { "The first " (LEDGER) " of " (counted(ledger.len() as u64, "effect")) "." } }
            }
        }
    }
}

fn data(view: &TaskView) -> Markup {
    let task = &view.task;
    html! {
        @if !task.input.is_null() || !task.references.is_empty() {
            section #input {
                h2 { "Input" }
                @if !task.input.is_null() { (value::json(&task.input)) }
                @if !task.references.is_empty() {
                    ul .references {
                        @for reference in &task.references {
                            li { code { (name(&reference.at)) } " from " code { (name(&reference.pointer)) } " of "
                                a href=(format!("/jobs/{}/tasks/{}", task.job, reference.task)) data-task=(reference.task) { (short_id(&reference.task.to_string())) } }
                        }
                    }
                }
            }
        }
        @if let Some(checkpoint) = &task.checkpoint { section #checkpoint { h2 { "Checkpoint" } (value::json(checkpoint)) } }
        @if let Some(output) = &task.output {
            section #output {
                h2 { "Output" }
                @match output {
                    Output::Value(value) => (value::json(value)),
                    Output::Stored { digest, size } => p { (bytes(*size)) ", kept as " code .id { (shortened(digest, 20)) } ": "
                        a href=(format!("/api/v1/jobs/{}/tasks/{}/output", task.job, task.summary.id)) { "show" } },
                }
            }
        }
    }
}
