//! From what is sent to a job request, with every fault at once.

use std::time::Duration;

use windlass_api::{Fault, SubmitRequest, span};
use windlass_engine::JobRequest;
use windlass_model::schedule::Schedule;

use crate::body::Whole;
use crate::refusal::{Answer, Refusal};
use crate::schedules;

/// Longest name of a job, in characters.
const LONGEST_NAME: usize = 128;
/// Most labels of a job, and the longest of their names and values.
const MOST_LABELS: usize = 64;
const LONGEST_LABEL: usize = 256;

/// Reads the text of a job file, as the command line does.
pub trait JobText: Send + Sync + 'static {
    /// The job that `text` describes.
    ///
    /// # Errors
    ///
    /// Every fault, with its line and column.
    fn parse(&self, text: &str) -> Result<SubmitRequest, Vec<Fault>>;
}

/// Reads what was sent: JSON, or a job file in YAML where the server can read those.
pub(crate) fn read(whole: &Whole, job_text: Option<&dyn JobText>) -> Answer<SubmitRequest> {
    let media_type = whole.media_type();
    let yaml = matches!(media_type.as_str(), "application/yaml" | "application/x-yaml" | "text/yaml");
    match job_text {
        Some(job_text) if yaml => text(&String::from_utf8_lossy(&whole.bytes), Some(job_text)),
        _ => whole.json(),
    }
}

/// Reads the text of a job file.
pub(crate) fn text(text: &str, job_text: Option<&dyn JobText>) -> Answer<SubmitRequest> {
    match job_text {
        None => crate::body::json(text.as_bytes()),
        Some(job_text) => job_text.parse(text).map_err(|faults| {
            let detail = format!("the job file has {} fault(s)", faults.len());
            Refusal::invalid("invalid_job_file", detail, faults)
        }),
    }
}

/// Checks what belongs to no kind. The job, and when it runs again by itself.
pub(crate) fn check(request: SubmitRequest) -> Answer<(JobRequest, Option<Schedule>)> {
    let mut faults = Vec::new();
    let mut fault = |pointer: &str, message: String| faults.push(Fault::new(pointer, message));
    let name = &request.name;
    if name.is_empty() || name.chars().count() > LONGEST_NAME {
        fault("/name", format!("a name has 1 to {LONGEST_NAME} characters"));
    }
    if name.chars().any(char::is_control) || name.trim() != name {
        fault("/name", "a name has no control characters and no space at its ends".to_owned());
    }
    if !request.spec.is_object() {
        fault("/spec", "`spec` must be an object".to_owned());
    }
    if request.labels.len() > MOST_LABELS {
        fault("/labels", format!("a job has at most {MOST_LABELS} labels"));
    }
    for (label, value) in &request.labels {
        let controls = label.chars().chain(value.chars()).any(char::is_control);
        if label.is_empty() || label.len() > LONGEST_LABEL || value.len() > LONGEST_LABEL || controls {
            let pointer = format!("/labels/{}", label.replace('~', "~0").replace('/', "~1"));
            fault(&pointer, format!("a label has 1 to {LONGEST_LABEL} bytes and no control characters"));
        }
    }
    let mut length = |pointer: &str, text: &Option<String>| match text.as_deref().map(span::parse)? {
        Ok(Duration::ZERO) => {
            fault(pointer, "a length of time of nothing leaves no time to run".to_owned());
            None
        }
        Ok(length) => Some(length),
        Err(why) => {
            fault(pointer, why);
            None
        }
    };
    let deadline = length("/deadline", &request.deadline);
    let undo_after = length("/undo_after", &request.undo_after);
    if request.limits.is_some() {
        fault("/limits", "`limits` bound a process of its own (`windlass run`): remove them".to_owned());
    }
    let schedule: Option<Schedule> = request.schedule.map(Into::into);
    if let Some(Err(wrong)) = schedule.as_ref().map(Schedule::timetable) {
        faults.extend(schedules::faults(wrong));
    }
    if !faults.is_empty() {
        return Err(Refusal::invalid("invalid_job", format!("the job has {} fault(s)", faults.len()), faults));
    }
    let job = JobRequest {
        kind: request.kind,
        name: request.name,
        spec: request.spec,
        labels: request.labels,
        priority: request.priority,
        deadline,
        undo_after,
    };
    Ok((job, schedule))
}
