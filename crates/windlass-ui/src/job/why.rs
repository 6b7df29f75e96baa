//! Why a job is not running, or not done: everything about it in one place.

use std::collections::BTreeMap;

use maud::{Markup, html};
use windlass_api::page::JobView;
use windlass_api::{JobState, PausedBy, Role, TaskState, TaskSummary};

use crate::failure::told;
use crate::figures::{count, counted, link, name, shortened};
use crate::mark::{Mark, task_chip};
use crate::shell::may;

/// Tasks that are named per reason.
const NAMED: usize = 4;

/// Reasons that are listed.
const REASONS: usize = 12;

/// Failures that are told in full.
const FAILURES: usize = 6;

pub(crate) fn panel(view: &JobView) -> Markup {
    let job = &view.job;
    let attention = match &job.paused {
        Some(PausedBy::Attention { failure }) => Some(&**failure),
        _ => None,
    };
    let questions: Vec<&TaskSummary> = view
        .stuck
        .tasks
        .iter()
        .filter(|task| task.needs_approval.is_some() && task.state == TaskState::Waiting)
        .collect();
    let failed: Vec<&TaskSummary> = view
        .stuck
        .tasks
        .iter()
        .filter(|task| task.failure.is_some() && (task.state == TaskState::Failed || job.state.is_active()))
        .collect();
    let reasons = reasons(view);
    let said = attention.is_some() || job.failure.is_some() || !job.waiting_on.is_empty();
    if !said && questions.is_empty() && failed.is_empty() && (reasons.is_empty() || job.state == JobState::Finished) {
        return html! {};
    }
    // That tasks wait for others is how plans are; it is there to be unfolded, but nothing to act on.
    let urgent = said || !questions.is_empty() || !failed.is_empty();
    html! {
        section .why .urgent[urgent] .quietly[!urgent] #why aria-label=(title(view, urgent)) {
            @if urgent { h2 { (Mark::Attention.shape()) " " (title(view, urgent)) } }
            @if let Some(failure) = attention { (told(failure)) }
            @if let Some(failure) = &job.failure { (told(failure)) }
            @if !job.waiting_on.is_empty() && attention.is_none() {
                ul .waits { @for reason in &job.waiting_on { li { "It waits for " (shortened(reason, 600)) } } }
            }
            @if !questions.is_empty() {
                ul .questions {
                    @for task in questions {
                        li {
                            (task_link(view, task)) " asks: "
                            strong { (name(task.needs_approval.as_deref().unwrap_or_default())) } " "
                            @if may(&view.frame, Role::Operator) {
                                @let path = format!("/jobs/{}/ask/approve", job.id);
                                a .button href=(link(&path, &[("task", Some(&task.id.to_string()))])) data-ask { "Approve" }
                            }
                        }
                    }
                }
            }
            @if !failed.is_empty() {
                ul .failed-tasks {
                    @for tasks in by_failure(&failed).iter().take(FAILURES) { (failure(view, tasks)) }
                }
                @if failed.len() > NAMED {
                    p { a href=(format!("/jobs/{}?tab=tasks&state=unsuccessful", job.id)) { "All tasks that did not succeed" } }
                }
            }
            @if !reasons.is_empty() {
                details open[urgent && failed.is_empty() && job.waiting_on.is_empty()] #waiting-tasks {
                    summary { (if urgent { "What tasks wait for" } else { title(view, urgent) }) }
                    ul .reasons {
                        @for (reason, tasks) in reasons.iter().take(REASONS) {
                            li {
                                strong { (shortened(reason, 300)) }
                                " – " (counted(tasks.len() as u64, "task")) ": "
                                @for (n, task) in tasks.iter().take(NAMED).enumerate() {
                                    @if n > 0 { ", " }
                                    (task_link(view, task))
                                }
                                @if tasks.len() > NAMED { " …" }
                            }
                        }
                    }
                    @if view.stuck.matching > view.stuck.tasks.len() as u64 {
                        p .fine {
                            "From the first " (view.stuck.tasks.len()) " of " (count(view.stuck.matching)) " tasks; "
                            a href=(format!("/jobs/{}?tab=tasks&state=waiting", job.id)) { "all that wait" } "."
                        }
                    }
                }
            }
        }
    }
}

/// Tasks with the same failure, most first: a store that is down fails everything that needs it with one sentence.
fn by_failure<'a>(failed: &[&'a TaskSummary]) -> Vec<Vec<&'a TaskSummary>> {
    let mut groups: Vec<Vec<&TaskSummary>> = Vec::new();
    for task in failed {
        match groups.iter_mut().find(|group| group[0].failure == task.failure && group[0].state == task.state) {
            Some(group) => group.push(task),
            None => groups.push(vec![task]),
        }
    }
    groups.sort_by_key(|group| (group[0].state != TaskState::Failed, std::cmp::Reverse(group.len())));
    groups
}

/// One failure and the tasks that have it.
fn failure(view: &JobView, tasks: &[&TaskSummary]) -> Markup {
    let first = tasks[0];
    html! {
        li {
            p {
                @if first.state == TaskState::Failed { (task_chip(first.state)) } @else { (Mark::Warned.chip("last attempt failed")) }
                " "
                @for (n, task) in tasks.iter().take(NAMED).enumerate() {
                    @if n > 0 { ", " }
                    (task_link(view, task))
                }
                @if tasks.len() > NAMED { " and " (counted((tasks.len() - NAMED) as u64, "other")) }
                @if tasks.len() == 1 && first.failures > 1 { ", " (counted(first.failures.into(), "failed attempt")) }
            }
            @if let Some(failure) = &first.failure { (told(failure)) }
            @if tasks.len() == 1 && first.state == TaskState::Waiting {
                @for reason in first.waiting_on.iter().take(3) { p .fine { "It waits for " (shortened(reason, 300)) } }
            }
        }
    }
}

fn title(view: &JobView, urgent: bool) -> &'static str {
    match view.job.state {
        JobState::Pending => "Why is it not running?",
        JobState::Paused | JobState::Pausing => "Why is it paused?",
        JobState::UndoFailed => "Why could it not be undone?",
        JobState::Completed | JobState::Finished => "Why did it not succeed?",
        JobState::Running | JobState::Undoing | JobState::Cancelling if urgent => "Why does it not get on?",
        JobState::Running | JobState::Undoing | JobState::Cancelling => "What is it waiting for?",
    }
}

/// Tasks by what they wait for, the most common reason first; for tasks that were not tried: what failed.
fn reasons(view: &JobView) -> Vec<(String, Vec<&TaskSummary>)> {
    let mut by_reason: BTreeMap<String, Vec<&TaskSummary>> = BTreeMap::new();
    for task in &view.stuck.tasks {
        for reason in &task.waiting_on {
            by_reason.entry(reason.clone()).or_default().push(task);
        }
        for root in &task.because_of {
            by_reason.entry(format!("not tried, because {root} did not succeed")).or_default().push(task);
        }
    }
    let mut reasons: Vec<_> = by_reason.into_iter().collect();
    reasons.sort_by_key(|(_, tasks)| std::cmp::Reverse(tasks.len()));
    reasons
}

fn task_link(view: &JobView, task: &TaskSummary) -> Markup {
    html! { a href=(format!("/jobs/{}/tasks/{}", view.job.id, task.id)) data-task=(task.id) { (name(&task.name())) } }
}
