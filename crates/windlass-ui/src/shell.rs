//! What surrounds every page: head, navigation, who looks, what went wrong.

use maud::{DOCTYPE, Markup, html};
use windlass_api::page::Frame;
use windlass_api::{Problem, Role};

use crate::assets::{ICON, SCRIPT, STYLE};
use crate::mark::{Mark, shapes};

/// Sections of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Jobs,
    Submit,
    Workers,
    Shared,
    Schedules,
    Audit,
    Nowhere,
}

const SECTIONS: [(Section, &str, &str); 6] = [
    (Section::Jobs, "/", "Jobs"),
    (Section::Submit, "/submit", "Submit"),
    (Section::Workers, "/workers", "Workers"),
    (Section::Shared, "/shared", "Shared"),
    (Section::Schedules, "/schedules", "Schedules"),
    (Section::Audit, "/audit", "Audit"),
];

/// How a page stays up to date.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    /// The stream of events that say that something changed; `None`: the page does not change.
    pub(crate) events: Option<String>,
    /// The event that the page has seen already.
    pub(crate) after: Option<u64>,
    /// Seconds after which the page is loaded anew where scripts are off or the stream cannot be had.
    pub(crate) every_s: u32,
}

impl Live {
    /// A page that does not change.
    pub(crate) fn still() -> Self {
        Self::default()
    }

    /// A page that follows job `id`, and shows what was written up to entry `after` of its log.
    pub(crate) fn job(id: impl std::fmt::Display, after: u64) -> Self {
        Self { after: Some(after), ..Self::follow(format!("/api/v1/jobs/{id}/events")) }
    }

    /// A page that follows `events`.
    pub(crate) fn follow(events: impl Into<String>) -> Self {
        Self { events: Some(events.into()), after: None, every_s: 5 }
    }
}

/// Whether whoever looks may do what needs `role`.
pub(crate) fn may(frame: &Frame, role: Role) -> bool {
    frame.who.as_ref().is_some_and(|who| who.role >= role)
}

/// A whole document.
pub(crate) fn page(frame: &Frame, section: Section, title: &str, live: &Live, content: &Markup) -> String {
    let title = crate::figures::shortened(title, 96);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="same-origin";
                title { (title) " · Windlass" }
                link rel="icon" type="image/svg+xml" href=(ICON.path());
                link rel="stylesheet" href=(STYLE.path());
                // Not deferred: it sets the chosen colours before anything is painted. It is small and kept for ever.
                script src=(SCRIPT.path()) {}
                @if live.events.is_some() {
                    noscript { meta http-equiv="refresh" content=(live.every_s); }
                }
            }
            body data-events=[live.events.as_deref()] data-after=[live.after] data-now=(format!("{:.3}", frame.now)) {
                a .skip href="#main" { "Skip to content" }
                (shapes())
                (bar(frame, section))
                main #main tabindex="-1" {
                    @if let Some(problem) = &frame.problem { (problem_box(problem)) }
                    (content)
                }
                footer .foot {
                    span { "Windlass " (frame.version) }
                    span #link-state role="status" {}
                    button #theme .quiet type="button" hidden { "Light or dark" }
                }
                dialog #drawer aria-label="Task" {
                    form .drawer-close method="dialog" { button type="submit" { "Close" } }
                    div .drawer-body {}
                }
                dialog #ask-back aria-label="Confirm" { div .ask-body {} }
            }
        }
    }
    .into_string()
}

fn bar(frame: &Frame, section: Section) -> Markup {
    html! {
        header .bar {
            a .brand href="/" {
                img src=(ICON.path()) alt="" width="24" height="24";
                span { "Windlass" }
            }
            @if frame.who.is_some() {
                nav aria-label="Pages" {
                    ul {
                        @for (its, path, name) in SECTIONS {
                            @let shown = match its {
                                Section::Audit => may(frame, Role::Admin),
                                Section::Submit => may(frame, Role::Operator),
                                _ => true,
                            };
                            @if shown {
                                li { a href=(path) aria-current=[(its == section).then_some("page")] { (name) } }
                            }
                        }
                    }
                }
            }
            @if let Some(who) = &frame.who {
                div .who {
                    span title=(format!("by {}", who.by)) { (crate::figures::name(&who.name)) " · " (who.role.as_str()) }
                    @if frame.may_log_out {
                        form method="post" action="/logout" { button .quiet type="submit" { "Sign out" } }
                    }
                }
            }
        }
    }
}

/// What went wrong, why, and what to do.
pub(crate) fn problem_box(problem: &Problem) -> Markup {
    html! {
        section .problem role="alert" aria-labelledby="problem-title" {
            h2 #problem-title { (Mark::Failed.shape()) " " (problem.title) }
            @if !problem.detail.is_empty() { p { (problem.detail) } }
            @if !problem.faults.is_empty() {
                ul .faults {
                    @for fault in problem.faults.iter().take(100) {
                        li {
                            @if let Some(line) = fault.line {
                                a href=(format!("#line-{line}")) {
                                    "line " (line) @if let Some(column) = fault.column { ", column " (column) }
                                }
                                " "
                            }
                            @if !fault.pointer.is_empty() { code { (crate::figures::shortened(&fault.pointer, 200)) } " " }
                            (fault.message)
                        }
                    }
                }
            }
            @if let Some(hint) = &problem.hint { p .hint { "What to do: " (hint) } }
            @if let Some(id) = &problem.request_id { p .fine { "request " code { (id) } } }
        }
    }
}

/// A page without content yet: what is missing and what to type.
pub(crate) fn empty(what: &str, then: &Markup) -> Markup {
    html! { div .empty { p .empty-what { (what) } (then) } }
}

/// A command to type.
pub(crate) fn command(text: &str) -> Markup {
    html! { code .command { (text) } }
}
