//! What several jobs hold together, names that only one may hold, and pools with places.

use maud::{Markup, html};
use windlass_api::page::{Frame, SharedView};
use windlass_api::{SharedHolder, SharedResource};

use crate::figures::{ago, count, counted, name, short_id};
use crate::mark::Mark;
use crate::shell::{Live, Section, command, empty, page};
use crate::{progress, value};

/// Jobs that are named in one place.
const LISTED: usize = 50;

const SORTS: [(&str, &str, &str); 3] = [
    ("shared", "Shared resources", "Each exists as long as a job that is not over, or is confirmed, needs it."),
    ("exclusive", "Names held by one job", "Whoever wants one of these waits for its holder."),
    ("pool", "Pools", "So many may hold one at a time; the others wait."),
];

pub(crate) fn draw(view: &SharedView) -> String {
    let of = |sort: &'static str| view.list.resources.iter().filter(move |resource| resource.sort == sort);
    let content = html! {
        h1 { "Shared" }
        @if view.list.resources.is_empty() {
            (empty("No job holds anything that others could want.", &html! {
                p { "A task of a job file holds something with others when it says " code { "shared: KEY" } "; a job holds a name alone as its kind asks." }
                p { (command("windlass submit job.yaml")) }
            }))
        }
        @for (sort, title, about) in SORTS {
            @if of(sort).next().is_some() {
                section {
                    h2 { (title) }
                    p .note { (about) }
                    table .cards {
                        caption .unseen { (title) }
                        thead { tr { th scope="col" { "Key" } th scope="col" { "State" } th scope="col" { "Held by" } th scope="col" { "Since" } } }
                        tbody { @for resource in of(sort) { (row(resource, &view.frame)) } }
                    }
                }
            }
        }
    };
    page(&view.frame, Section::Shared, "Shared", &Live::follow("/api/v1/events"), &content)
}

fn row(resource: &SharedResource, frame: &Frame) -> Markup {
    let held = resource.holders.len() as u64;
    html! {
        tr {
            th scope="row" data-label="Key" {
                (name(&resource.key))
                @if !resource.details.is_null() { details { summary { "details" } (value::tree(&resource.details)) } }
            }
            td data-label="State" {
                @match (&resource.state, resource.size) {
                    (Some(state), _) => (state_chip(state)),
                    (None, Some(size)) => span .with-bar {
                        (progress::small(held as f64 / size.max(1) as f64, &format!("{held} of {size} places taken")))
                        span { (count(held)) " of " (counted(size, "place")) }
                    },
                    (None, None) => (Mark::Settled.chip("held")),
                }
                @if let Some(error) = &resource.error { p .fine { (name(error)) } }
            }
            td data-label="Held by" {
                @if resource.holders.is_empty() { span .none { "nobody" } }
                @else { (jobs(&resource.holders, frame)) }
                @if let Some(owner) = &resource.owner { p .fine { "made by " a href=(format!("/jobs/{}", owner.job)) { (title(owner)) } } }
                @if !resource.waiting.is_empty() {
                    p .fine { (counted(resource.waiting.len() as u64, "job")) " waiting, the first one first:" }
                    (jobs(&resource.waiting, frame))
                }
            }
            td data-label="Since" { @match resource.since { Some(since) => (ago(since, frame.now)), None => span .none { "–" } } }
        }
    }
}

fn title(holder: &SharedHolder) -> Markup {
    if holder.name.is_empty() { short_id(&holder.job.to_string()) } else { name(&holder.name) }
}

/// Jobs that hold something, or wait for it.
fn jobs(all: &[SharedHolder], frame: &Frame) -> Markup {
    html! {
        ul .holders {
            @for holder in all.iter().take(LISTED) {
                li {
                    a href=(format!("/jobs/{}", holder.job)) { (title(holder)) } " " span .fine { (holder.kind) }
                    @if let Some(task) = holder.task { " " a .fine href=(format!("/jobs/{}/tasks/{task}", holder.job)) { "a task of it" } }
                    @if let Some(since) = holder.since { " " span .fine { (ago(since, frame.now)) } }
                }
            }
        }
        @if all.len() > LISTED { span .fine { "and " (count((all.len() - LISTED) as u64)) " more" } }
    }
}

fn state_chip(state: &str) -> Markup {
    let mark = match state {
        "ready" => Mark::Succeeded,
        "creating" => Mark::Running,
        "deleting" => Mark::Undoing,
        "failed" => Mark::Failed,
        _ => Mark::Waiting,
    };
    mark.chip(&state.replace('_', " "))
}
