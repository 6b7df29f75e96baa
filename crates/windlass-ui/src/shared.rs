//! What several jobs hold together, names that only one may hold, and pools with places.

use maud::{Markup, html};
use windlass_api::SharedResource;
use windlass_api::page::{Frame, SharedView};

use crate::figures::{ago, count, counted, name};
use crate::mark::Mark;
use crate::shell::{Live, Section, command, empty, page};
use crate::{progress, value};

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
            }
            td data-label="Held by" {
                @if resource.holders.is_empty() { span .none { "nobody" } }
                @else {
                    ul .holders {
                        @for holder in resource.holders.iter().take(50) {
                            @let job = holder.job.to_string();
                            li { a href=(format!("/jobs/{job}")) { (name(if holder.name.is_empty() { &job } else { &holder.name })) } " " span .fine { (holder.kind) } }
                        }
                    }
                    @if held > 50 { span .fine { "and " (held - 50) " more" } }
                }
            }
            td data-label="Since" { @match resource.since { Some(since) => (ago(since, frame.now)), None => span .none { "–" } } }
        }
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
