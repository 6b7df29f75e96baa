//! A job's log.

use maud::{Markup, html};
use windlass_api::{Level, LogEntry, LogList};

use super::Names;
use crate::figures::{clock_time, count, name, shortened};
use crate::mark::Mark;
use crate::value;

/// Characters of a message that are shown.
const MESSAGE: usize = 4000;

/// The whole list, with a choice of levels that works without a script.
pub(crate) fn list(log: &LogList, names: &Names<'_>, job: &str, follow: bool) -> Markup {
    html! {
        @if follow { h2 .unseen { "Log" } }
        div .log-box {
            fieldset .levels {
                legend { "Show" }
                @for (value, word) in [("info", "everything"), ("warn", "warnings and errors"), ("error", "errors")] {
                    label { input type="radio" name="level" value=(value) id=(format!("level-{value}")) checked[value == "info"]; " " (word) }
                }
                @if follow { label .follow { input #follow type="checkbox" checked; " follow" } }
            }
            @if log.entries.first().is_some_and(|first| first.n > 1) {
                p .fine {
                    "From entry " (log.entries.first().map_or(0, |first| first.n)) " on. "
                    a href=(format!("/api/v1/jobs/{job}/log?limit=5000")) { "The beginning" }
                    ", or on the command line: " code .command { "windlass log " (job) }
                }
            }
            @if log.entries.is_empty() { p .note { "Nothing has been written yet." } }
            div .log-scroll #log tabindex="0" role="region" aria-label="Log" {
                ol .log { @for entry in &log.entries { (line(entry, names, job)) } }
            }
            @if log.more { p .fine { "There are more than the " (count(log.entries.len() as u64)) " shown." } }
        }
    }
}

/// The last few entries, newest first.
pub(crate) fn latest(log: &LogList, names: &Names<'_>, job: &str, most: usize) -> Markup {
    html! {
        @if log.entries.is_empty() {
            p .note { "Nothing has been written yet." }
        } @else {
            ol .log .latest { @for entry in log.entries.iter().rev().take(most) { (line(entry, names, job)) } }
        }
    }
}

pub(crate) fn line(entry: &LogEntry, names: &Names<'_>, job: &str) -> Markup {
    html! {
        li .(entry.level.as_str()) id=(format!("entry-{}", entry.n)) {
            (clock_time(entry.at))
            @match Mark::of_level(entry.level) {
                Some(mark) => span .level { (mark.shape()) span .unseen { (if entry.level == Level::Warn { "warning" } else { "error" }) } },
                None => span .level {},
            }
            span .message {
                (shortened(&entry.message, MESSAGE))
                @if let Some(task) = entry.task {
                    @let known = names.get(&task).filter(|name| !entry.message.contains(name.as_str()));
                    @if let Some(known) = known {
                        " " a .of-task href=(format!("/jobs/{job}/tasks/{task}")) data-task=(task) { (name(known)) }
                    }
                }
                @if !entry.fields.is_empty() {
                    details { summary { (entry.code) } (value::tree(&serde_json::Value::Object(entry.fields.clone()))) }
                }
            }
        }
    }
}
