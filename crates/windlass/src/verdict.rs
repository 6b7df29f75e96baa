//! What came of a job, as text and as exit code.

use std::fmt::Write as _;

use serde_json::Value;
use windlass_api::WholeReport;
use windlass_model::job::{JobResult, JobState, JobStatus};

use crate::exit::Exit;
use crate::figures;
use crate::output::Palette;

/// Failures that a short report lists.
const LISTED: usize = 10;

/// The exit code of a job that rests.
pub(crate) fn exit(status: &JobStatus) -> Exit {
    match (status.state, status.result) {
        // Undone or confirmed: what was asked for was done.
        (JobState::Finished, _) => Exit::Done,
        (JobState::Completed, Some(result)) if result.is_success() => Exit::Done,
        _ => Exit::Failed,
    }
}

/// Where a job is, in a few words: `completed (succeeded)`.
pub(crate) fn state(status: &JobStatus) -> String {
    let state = status.state.as_str().replace('_', " ");
    match status.result {
        Some(result) => format!("{state} ({})", result.as_str().replace('_', " ")),
        None => state,
    }
}

fn painted(status: &JobStatus, palette: Palette) -> String {
    let text = state(status);
    match status.result {
        Some(JobResult::Succeeded) => palette.good(&text),
        Some(JobResult::SucceededWithWarnings | JobResult::Cancelled) => palette.warning(&text),
        Some(JobResult::Partial | JobResult::Failed) => palette.error(&text),
        None => text,
    }
}

/// The report of a job for people; the short one leaves out what only an auditor reads.
pub(crate) fn report(report: &WholeReport, palette: Palette, short: bool) -> String {
    let mut text = String::new();
    let elapsed = std::time::Duration::from_millis(report.elapsed_ms);
    let _ = writeln!(
        text,
        "{} {} {} in {}",
        report.kind,
        palette.strong(&report.name),
        painted(&report.status, palette),
        figures::span(elapsed)
    );
    let _ = writeln!(text, "job        {}", report.job);
    if !short {
        let _ = writeln!(text, "submitted  {}", figures::moment(report.created));
        if let Some(ended) = report.status.ended {
            let _ = writeln!(text, "ended      {}", figures::moment(ended));
        }
    }
    let tasks = &report.tasks;
    let mut parts = vec![format!("{} succeeded", figures::count(tasks.succeeded))];
    for (count, name) in [
        (tasks.failed, "failed"),
        (tasks.ignored, "not tried"),
        (tasks.cancelled, "cancelled"),
        (tasks.running, "running"),
        (tasks.waiting, "waiting"),
    ] {
        if count > 0 {
            parts.push(format!("{} {name}", figures::count(count)));
        }
    }
    if report.repeated_attempts > 0 {
        parts.push(format!("{} attempts repeated", figures::count(report.repeated_attempts)));
    }
    let _ = writeln!(text, "tasks      {}", parts.join(", "));
    for (action, counts) in &report.effects {
        let mut parts = vec![format!("{} made", figures::count(counts.made))];
        if counts.gone > 0 {
            parts.push(format!("{} undone", figures::count(counts.gone)));
        }
        if counts.intended > 0 {
            parts.push(format!("{} open", figures::count(counts.intended)));
        }
        let _ = writeln!(text, "effects    {action}: {}", parts.join(", "));
    }
    if let Some(failure) = &report.status.failure {
        let _ = writeln!(text, "{}  {failure} ({})", palette.error("failed"), failure.code);
        if let Some(hint) = &failure.hint {
            let _ = writeln!(text, "  {} {hint}", palette.hint("hint:"));
        }
    }
    let listed = if short { LISTED } else { usize::MAX };
    for task in report.unsuccessful.iter().take(listed) {
        let why = match (&task.failure, task.roots.is_empty()) {
            (Some(failure), _) => format!(": {failure} ({})", failure.code),
            (None, false) => format!(" because of {}", task.roots.join(", ")),
            (None, true) => String::new(),
        };
        let _ = writeln!(text, "  {} {}{why}", task.task, task.outcome);
        if let Some(hint) = task.failure.as_ref().and_then(|failure| failure.hint.as_ref()) {
            let _ = writeln!(text, "    {} {hint}", palette.hint("hint:"));
        }
    }
    if report.unsuccessful.len() > listed {
        let _ = writeln!(text, "  … and {} more: `windlass report {}`", report.unsuccessful.len() - listed, report.job);
    }
    for warning in report.warnings.iter().take(listed) {
        let _ = writeln!(text, "{} {}", palette.warning("warning:"), warning.message);
    }
    if report.warnings.len() > listed {
        let _ = writeln!(text, "  … and {} more: `windlass log {}`", report.warnings.len() - listed, report.job);
    }
    if !short && !report.summary.is_null() {
        let _ = write!(text, "\n{}", figures::value(&report.summary, 0));
    } else if let Value::Object(summary) = &report.summary {
        // Of the kind's part, what fits on a line.
        let plain = summary.iter().filter(|(_, value)| value.is_string() || value.is_number() || value.is_boolean());
        let plain: serde_json::Map<String, Value> = plain.map(|(name, value)| (name.clone(), value.clone())).collect();
        let _ = write!(text, "{}", figures::value(&Value::Object(plain), 0));
    }
    text
}
