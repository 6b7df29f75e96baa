//! The tasks of a job as a table: filtered, paged, summed up by type.

use maud::{Markup, html};
use windlass_api::page::JobView;
use windlass_api::{TaskState, TaskSummary};

use crate::figures::{ago, count, counted, link, name, percent, shortened};
use crate::mark::task_chip;
use crate::{figures, progress};

pub(super) fn table(view: &JobView) -> Markup {
    let path = format!("/jobs/{}", view.job.id);
    let query = &view.query;
    html! {
        h2 .unseen { "Tasks" }
        (types(view, &path))
        form .filter method="get" action=(path) role="search" data-filter {
            input type="hidden" name="tab" value="tasks";
            div {
                label for="task-text" { "Search" }
                input #task-text type="search" name="text" value=(query.text.as_deref().unwrap_or_default()) maxlength="200"
                    placeholder="type, resource, id" autocomplete="off";
            }
            div {
                label for="task-state" { "State" }
                select #task-state name="state" {
                    option value="" { "all" }
                    option value="unsuccessful" selected[query.state.as_deref() == Some("unsuccessful")] { "unsuccessful" }
                    @for state in TaskState::ALL {
                        option value=(state.as_str()) selected[query.state.as_deref() == Some(state.as_str())] { (state.as_str()) }
                    }
                }
            }
            div {
                label for="task-type" { "Type" }
                select #task-type name="type" {
                    option value="" { "all" }
                    @for sum in &view.tasks.types {
                        option value=(sum.task_type) selected[query.task_type.as_deref() == Some(&sum.task_type)] { (shortened(&sum.task_type, 60)) }
                    }
                }
            }
            button type="submit" { "Filter" }
        }
        p .note { (counted(view.tasks.matching, "task")) @if view.tasks.matching != 1 { " fit" } @else { " fits" } }
        @if !view.tasks.tasks.is_empty() {
            table .cards #tasks {
                caption .unseen { "Tasks in an order in which they could run" }
                thead {
                    tr {
                        th scope="col" { "State" }
                        th scope="col" { "Task" }
                        th scope="col" { "Progress" }
                        th scope="col" .number { "Attempts" }
                        th scope="col" .number { "Effects" }
                        th scope="col" { "Since" }
                        th scope="col" { "Waits for" }
                    }
                }
                tbody { @for task in &view.tasks.tasks { (row(view, task)) } }
            }
        }
        @if let Some(next) = &view.tasks.next {
            @let members = [
                ("tab", Some("tasks")),
                ("state", query.state.as_deref()),
                ("type", query.task_type.as_deref()),
                ("text", query.text.as_deref()),
                ("cursor", Some(next.as_str())),
            ];
            p .pages { a rel="next" href=(link(&path, &members)) { "Further tasks" } }
        }
    }
}

fn types(view: &JobView, path: &str) -> Markup {
    html! {
        @if view.tasks.types.len() > 1 && view.job.counts.total() > 12 {
            details .types open[view.job.counts.total() > 100] {
                summary { "By type" }
                ul {
                    @for sum in &view.tasks.types {
                        li {
                            a href=(link(path, &[("tab", Some("tasks")), ("type", Some(&sum.task_type))])) { (name(&sum.task_type)) }
                            " "
                            @let ended = sum.counts.ended() as f64 / sum.counts.total().max(1) as f64;
                            (progress::small(ended, &percent(ended)))
                            " " span .fine {
                                (count(sum.counts.ended())) "/" (count(sum.counts.total()))
                                @if sum.counts.running > 0 { ", " (count(sum.counts.running)) " running" }
                                @if sum.counts.failed > 0 { ", " (count(sum.counts.failed)) " failed" }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn row(view: &JobView, task: &TaskSummary) -> Markup {
    html! {
        tr id=(format!("task-{}", task.id)) {
            td data-label="State" { (task_chip(task.state)) }
            th scope="row" data-label="Task" {
                a .row-link href=(format!("/jobs/{}/tasks/{}", view.job.id, task.id)) data-task=(task.id) {
                    (name(&task.resource))
                }
                span .fine { " " (name(&task.task_type)) }
            }
            td data-label="Progress" {
                @match (task.progress.fraction().filter(|_| task.state == TaskState::Running), figures::progress(&task.progress)) {
                    (Some(fraction), Some(words)) => span .with-bar { (progress::small(fraction, &percent(fraction))) span .fine { (words) } },
                    (_, Some(words)) => span .fine { (words) },
                    _ => span .none { "–" },
                }
            }
            td .number data-label="Attempts" { (task.epoch) @if task.failures > 0 { span .fine .warned { " (" (task.failures) " failed)" } } }
            td .number data-label="Effects" { (count(task.effects)) }
            td data-label="Since" { (ago(task.since, view.frame.now)) }
            td data-label="Waits for" .waits-for {
                @if let Some(question) = &task.needs_approval { "a person: " (name(question)) }
                @else if let Some(first) = task.waiting_on.first() {
                    (shortened(first, 120))
                    @if task.waiting_on.len() > 1 { span .fine { " and " (task.waiting_on.len() - 1) " more" } }
                }
                @else if let Some(failure) = task.failure.as_ref().filter(|_| task.state == TaskState::Failed) { (shortened(&failure.message, 160)) }
                @else if let Some(root) = task.because_of.first() { "because of " (name(root)) }
                @else { span .none { "–" } }
            }
        }
    }
}
