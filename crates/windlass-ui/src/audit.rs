//! Who changed what.

use maud::{Markup, html};
use windlass_api::AuditEntry;
use windlass_api::page::{AuditView, Frame};

use crate::figures::{ago, link, name, short_id};
use crate::mark::Mark;
use crate::shell::{Live, Section, empty, page};
use crate::value;

pub(crate) fn draw(view: &AuditView) -> String {
    let query = &view.query;
    let field = |id: &'static str, word: &str, value: &Option<String>, hint: &str| {
        html! {
            div {
                label for=(format!("audit-{id}")) { (word) }
                input id=(format!("audit-{id}")) name=(id) value=(value.as_deref().unwrap_or_default()) placeholder=(hint) autocomplete="off" maxlength="200";
            }
        }
    };
    let members = [
        ("who", query.who.as_deref()),
        ("what", query.what.as_deref()),
        ("job", query.job.as_deref()),
        ("cursor", view.list.next.as_deref()),
    ];
    let content = html! {
        h1 { "Audit" }
        form .filter method="get" action="/audit" role="search" data-filter {
            (field("who", "Who", &query.who, "a name"))
            (field("what", "What", &query.what, "job.cancel"))
            (field("job", "Job", &query.job, "id"))
            button type="submit" { "Filter" }
        }
        @if view.list.entries.is_empty() {
            (empty("Nothing has been changed yet, as far as this filter looks.", &html! { p { "Every submission, every command and every access that is denied is written down here." } }))
        } @else {
            table .cards {
                caption .unseen { "Changes, newest first" }
                thead { tr { th scope="col" { "Outcome" } th scope="col" { "What" } th scope="col" { "Who" } th scope="col" { "Job" } th scope="col" { "When" } th scope="col" { "From" } } }
                tbody { @for entry in &view.list.entries { (row(entry, &view.frame)) } }
            }
            @if view.list.next.is_some() { p .pages { a rel="next" href=(link("/audit", &members)) { "Older entries" } } }
        }
    };
    page(&view.frame, Section::Audit, "Audit", &Live::still(), &content)
}

fn row(entry: &AuditEntry, frame: &Frame) -> Markup {
    let mark = match entry.outcome.as_str() {
        "done" => Mark::Succeeded,
        "begun" => Mark::Pending,
        "refused" => Mark::Cancelled,
        _ => Mark::Failed,
    };
    html! {
        tr id=(format!("audit-entry-{}", entry.id)) {
            td data-label="Outcome" { (mark.chip(&entry.outcome)) @if let Some(code) = &entry.code { br; code .fine { (code) } } }
            th scope="row" data-label="What" {
                (name(&entry.what))
                @if !entry.details.is_null() { details { summary { "details" } (value::tree(&entry.details)) } }
            }
            td data-label="Who" { @match &entry.who { Some(who) => (name(who)), None => span .none { "nobody known" } } @if let Some(role) = entry.role { span .fine { " " (role.as_str()) } } }
            td data-label="Job" { @match entry.job { Some(job) => a href=(format!("/jobs/{job}")) { (short_id(&job.to_string())) }, None => span .none { "–" } } }
            td data-label="When" { (ago(entry.at, frame.now)) }
            td data-label="From" { (name(&entry.from)) }
        }
    }
}
