//! The list of jobs.

use maud::{Markup, html};
use windlass_api::page::{Frame, JobsView};
use windlass_api::{JobQuery, JobState, JobSummary, Role};

use crate::figures::{ago, count, counted, link, name, percent, short_id, span_ms};
use crate::mark::{Mark, job_chip};
use crate::progress;
use crate::shell::{Live, Section, command, empty, may, page};

pub(crate) fn draw(view: &JobsView) -> String {
    let content = html! {
        div .page-head {
            h1 { "Jobs" }
            @if may(&view.frame, Role::Operator) { a .button .first href="/submit" { "Submit a job" } }
        }
        (states(view))
        (filter(view))
        @if !view.list.jobs.is_empty() { (table(view)) }
        @else if view.list.next.is_some() { p { "None of the jobs that were looked at fits this filter." } }
        @else { (nothing(view)) }
        (older(view))
    };
    let running = view.list.by_state.get(&JobState::Running).copied().unwrap_or(0);
    let title = if running > 0 { format!("{running} running · Jobs") } else { "Jobs".to_owned() };
    page(&view.frame, Section::Jobs, &title, &Live::follow("/api/v1/events"), &content)
}

fn with_state<'a>(query: &'a JobQuery, state: &'a str) -> String {
    let text = [("state", Some(state)), ("kind", query.kind.as_deref()), ("text", query.text.as_deref())];
    link("/", &text)
}

/// How many jobs are where; each leads to those.
fn states(view: &JobsView) -> Markup {
    let by_state = &view.list.by_state;
    let all: u64 = by_state.values().sum();
    let active: u64 = by_state.iter().filter(|(state, _)| state.is_active()).map(|(_, count)| count).sum();
    let chosen = view.query.state.as_deref().unwrap_or_default();
    let entry = |state: &str, word: &str, n: u64, mark: Option<Mark>| {
        html! {
            li {
                a href=(with_state(&view.query, state)) aria-current=[(chosen == state).then_some("true")] {
                    @if let Some(mark) = mark { (mark.shape()) " " }
                    (word)
                    // Pages after the first do not count.
                    @if all > 0 { " " strong { (count(n)) @if view.list.uncounted { "+" } } }
                }
            }
        }
    };
    html! {
        nav .states aria-label="Jobs by state" {
            ul {
                (entry("", "all", all, None))
                (entry("active", "not over", active, None))
                @for (state, n) in by_state {
                    @if *n > 0 {
                        (entry(state.as_str(), &state.as_str().replace('_', " "), *n, Some(Mark::of_job(*state, None, false))))
                    }
                }
            }
        }
    }
}

fn filter(view: &JobsView) -> Markup {
    let query = &view.query;
    html! {
        form .filter method="get" action="/" role="search" data-filter {
            @if let Some(state) = &query.state { input type="hidden" name="state" value=(state); }
            div {
                label for="text" { "Search" }
                input #text type="search" name="text" value=(query.text.as_deref().unwrap_or_default())
                    placeholder="name, id, label" autocomplete="off" maxlength="200";
            }
            div {
                label for="kind" { "Kind" }
                select #kind name="kind" {
                    option value="" { "all" }
                    @for kind in &view.kinds {
                        option value=(kind.name) selected[query.kind.as_deref() == Some(&kind.name)] { (kind.name) }
                    }
                }
            }
            button type="submit" { "Filter" }
        }
    }
}

fn nothing(view: &JobsView) -> Markup {
    let query = &view.query;
    let filtered = query.state.is_some() || query.kind.is_some() || query.text.is_some() || query.label.is_some();
    if filtered {
        return empty("No job fits this filter.", &html! { p { a href="/" { "Show all jobs" } } });
    }
    empty(
        "There are no jobs yet.",
        &html! {
            p { "Send a job file to this server:" }
            p { (command("windlass submit job.yaml")) }
            p { "See first what it would do:" }
            p { (command("windlass plan job.yaml")) }
            @if may(&view.frame, Role::Operator) { p { "Or " a href="/submit" { "paste one here" } "." } }
        },
    )
}

fn table(view: &JobsView) -> Markup {
    html! {
        table .cards #jobs {
            caption .unseen { "Jobs, newest first" }
            thead {
                tr {
                    th scope="col" { "State" }
                    th scope="col" { "Job" }
                    th scope="col" { "Kind" }
                    th scope="col" { "Progress" }
                    th scope="col" .number { "Worked" }
                    th scope="col" { "Submitted" }
                    th scope="col" { "Id" }
                }
            }
            tbody { @for job in &view.list.jobs { (row(job, &view.frame)) } }
        }
    }
}

/// The way to what is not on this page.
fn older(view: &JobsView) -> Markup {
    html! {
        @if let Some(next) = &view.list.next {
            @let query = &view.query;
            @let members = [
                ("state", query.state.as_deref()),
                ("kind", query.kind.as_deref()),
                ("text", query.text.as_deref()),
                ("label", query.label.as_deref()),
                ("cursor", Some(next.as_str())),
            ];
            p .pages { a rel="next" href=(link("/", &members)) { "Older jobs" } }
        }
    }
}

fn row(job: &JobSummary, frame: &Frame) -> Markup {
    let id = job.id.to_string();
    html! {
        tr id=(format!("job-{id}")) {
            td data-label="State" { (job_chip(job.state, job.result, job.needs_attention)) }
            th scope="row" data-label="Job" {
                a .row-link href=(format!("/jobs/{id}")) { (name(&job.name)) }
                @if !job.labels.is_empty() {
                    span .labels {
                        @for (label, value) in job.labels.iter().take(6) { span .label { (name(label)) "=" (name(value)) } }
                    }
                }
            }
            td data-label="Kind" { (job.kind) }
            td data-label="Progress" {
                @match (progress::fraction(job.work.as_ref(), job.counts.as_ref()), &job.counts) {
                    (Some(fraction), counts) => {
                        span .with-bar {
                            (progress::small(fraction, &format!("{} of {}", percent(fraction), job.kind)))
                            span {
                                (percent(fraction))
                                @if let Some(counts) = counts {
                                    span .fine { " " (count(counts.ended())) "/" (counted(counts.total(), "task")) }
                                }
                            }
                        }
                    }
                    // What has ended is not counted anew for a list.
                    (None, _) => span .none { (if job.state.is_active() { "–" } else { "ended" }) },
                }
            }
            td .number data-label="Worked" { (span_ms(job.elapsed_ms)) }
            td data-label="Submitted" { (ago(job.created, frame.now)) }
            td data-label="Id" { (short_id(&id)) }
        }
    }
}
