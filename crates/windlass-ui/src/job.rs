//! One job: how it is, why it is not done, and a tab for each question about it.

pub(crate) mod log;
mod report;
mod tasks;
mod timeline;
pub(crate) mod why;

pub(crate) use self::report::report_file;

use std::collections::HashMap;

use maud::{Markup, html};
use windlass_api::page::JobView;
use windlass_api::{JobDetail, PausedBy, Role, TaskId};

use crate::figures::{ago, count, name, percent, shortened, span_ms, time_left};
use crate::mark::job_chip;
use crate::shell::{Live, Section, may, page};
use crate::{figures, graph, progress, value};

/// Names of tasks by id, for what refers to them by id only.
pub(crate) type Names<'a> = HashMap<TaskId, String>;

const TABS: [(&str, &str); 7] = [
    ("plan", "Plan"),
    ("tasks", "Tasks"),
    ("timeline", "Timeline"),
    ("log", "Log"),
    ("effects", "Effects"),
    ("report", "Report"),
    ("spec", "Spec"),
];

pub(crate) fn draw(view: &JobView) -> String {
    let job = &view.job;
    let id = job.id.to_string();
    let asked = view.tab.as_deref().unwrap_or("plan");
    let (tab, rest) = asked.split_once('/').map_or((asked, None), |(tab, rest)| (tab, Some(rest)));
    let tab = TABS.iter().map(|(name, _)| *name).find(|name| *name == tab).unwrap_or("plan");
    let names: Names<'_> = view
        .graph
        .nodes
        .iter()
        .filter_map(|node| Some((node.id.parse().ok()?, format!("{}[{}]", node.task_type, node.resource.as_ref()?))))
        .collect();
    let content = html! {
        (head(view))
        (why::panel(view))
        nav .tabs aria-label="About this job" {
            ul {
                @for (its, word) in TABS {
                    li {
                        a href=(format!("/jobs/{id}?tab={its}")) aria-current=[(its == tab).then_some("page")] {
                            (word)
                            @match its {
                                "tasks" => { " " span .badge { (count(job.counts.total())) } }
                                "log" => { " " span .badge { (count(job.last_log)) } }
                                "effects" => { " " span .badge { (count(view.report.effects.values().map(|sum| sum.made).sum())) } }
                                _ => {}
                            }
                        }
                    }
                }
            }
        }
        section .tab #tab aria-label=(TABS.iter().find(|(its, _)| *its == tab).map_or("", |(_, word)| word)) {
            @match tab {
                "tasks" => (tasks::table(view)),
                "timeline" => (timeline::chart(view)),
                "log" => (log::list(&view.log, &names, &id, true)),
                "effects" => (report::effects(view)),
                "report" => (report::report(view)),
                "spec" => (spec(view)),
                _ => (plan(view, rest, &names)),
            }
        }
    };
    let live = Live::job(&id, job.last_log);
    let done = progress::fraction(Some(&job.work), Some(&job.counts)).filter(|_| job.state.is_active());
    let title = match done {
        Some(done) => format!("{} {} · {}", percent(done), job.state.as_str(), shortened(&job.name, 60)),
        None => format!(
            "{} · {}",
            job.result.map_or(job.state.as_str(), |result| result.as_str()),
            shortened(&job.name, 60)
        ),
    };
    page(&view.frame, Section::Jobs, &title.replace('_', " "), &live, &content)
}

fn head(view: &JobView) -> Markup {
    let job = &view.job;
    let id = job.id.to_string();
    let attention = matches!(job.paused, Some(PausedBy::Attention { .. }));
    let done = progress::fraction(Some(&job.work), Some(&job.counts));
    let words = [
        done.map(percent),
        Some(format!("{} of {} tasks ended", job.counts.ended(), job.counts.total())),
        job.eta.as_ref().map(|eta| format!("{} left", time_left(eta))),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    html! {
        header .job-head #job-head {
            div .job-title {
                p .crumb { a href="/" { "Jobs" } " / " (job.kind) }
                h1 { (name(&job.name)) }
                (job_chip(job.state, job.result, attention))
            }
            (actions(view))
            (progress::rack(done, &job.counts, &words.join(", ")))
            dl .figures {
                @if let Some(work) = figures::progress(&job.work) { div { dt { "Work" } dd { (work) } } }
                @if let Some(rate) = job.rate.filter(|_| job.state.is_active()) {
                    div { dt { "Rate" } dd { (figures::rate(rate, &job.work)) } }
                }
                @if let Some(eta) = job.eta.as_ref().filter(|_| job.state.is_active()) {
                    div .eta { dt { "Left" } dd { (time_left(eta)) } }
                }
                div { dt { "Worked" } dd { (span_ms(job.elapsed_ms)) } }
                div { dt { "Submitted" } dd { (ago(job.created, view.frame.now)) } }
                @if let Some(ended) = job.ended { div { dt { "Ended" } dd { (ago(ended, view.frame.now)) } } }
                @if job.warnings > 0 {
                    div .warned { dt { "Warnings" } dd { a href=(format!("/jobs/{id}?tab=log")) { (count(job.warnings)) } } }
                }
                div { dt { "Id" } dd { code .id { (id) } } }
            }
            @if !job.labels.is_empty() {
                p .labels { @for (label, value) in &job.labels { span .label { (name(label)) "=" (name(value)) } } }
            }
        }
    }
}

/// What can be done to a job, in the order in which it is offered, with how it is called.
pub(crate) const COMMANDS: [(&str, &str); 9] = [
    ("resume", "Resume"),
    ("pause", "Pause"),
    ("cancel", "Cancel"),
    ("retry", "Retry"),
    ("undo", "Undo"),
    ("confirm", "Confirm"),
    ("ignore_leftovers", "Leave leftovers"),
    ("extend", "Extend"),
    ("delete", "Delete"),
];

fn actions(view: &JobView) -> Markup {
    let job = &view.job;
    let fits: Vec<(&str, &str)> =
        COMMANDS.into_iter().filter(|(command, _)| job.commands.iter().any(|fits| fits == command)).collect();
    html! {
        @if may(&view.frame, Role::Operator) && !fits.is_empty() {
            ul .actions aria-label="Commands" {
                @for (command, word) in fits {
                    li { a .button.(command) href=(format!("/jobs/{}/ask/{command}", job.id)) data-ask { (word) } }
                }
            }
        }
    }
}

fn plan(view: &JobView, open: Option<&str>, names: &Names<'_>) -> Markup {
    let id = view.job.id.to_string();
    html! {
        h2 .unseen { "Plan" }
        @if view.graph.nodes.is_empty() {
            p .note { "There are no tasks yet: the plan is being made." }
        } @else {
            (graph::draw::plan(&id, &view.graph, open))
            p .fine { "The same as a table: " a href=(format!("/jobs/{id}?tab=tasks")) { "tasks" } "." }
        }
        h2 { "Latest" }
        (log::latest(&view.log, names, &id, 8))
    }
}

fn spec(view: &JobView) -> Markup {
    let job: &JobDetail = &view.job;
    html! {
        h2 { "Spec" }
        dl .members {
            div { dt { "kind" } dd { (job.kind) } }
            div { dt { "priority" } dd { (job.priority) } }
            @if let Some(deadline) = job.deadline_ms { div { dt { "deadline" } dd { (span_ms(deadline)) " after submission" } } }
            div { dt { "generation" } dd { (job.generation) } }
        }
        (value::json(&job.spec))
    }
}
