//! What a job did, with receipts.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use windlass_model::effect::{Effect, EffectState, Leftover};
use windlass_model::job::{Closing, JobState, JobStatus};
use windlass_model::log::{Level, LogEntry};
use windlass_model::task::Outcome;
use windlass_model::{Failure, JobId};
use windlass_store::Store;

use crate::EngineError;
use crate::coordinator::image::{Counts, JobImage, Task};
use crate::coordinator::load;
use crate::kind::{Earlier, Kind, Kinds, TaskType};
use crate::view;

/// Earlier jobs of a series that a report goes back to, the tasks that they may have together, and the jobs that are
/// looked at to find them.
const EARLIER: usize = 30;
const EARLIER_TASKS: usize = 20_000;
const EARLIER_LOOKED: usize = 300;

/// Warnings and errors that a report lists; the log has them all.
const LISTED: usize = 200;

/// A task that did not succeed.
#[derive(Clone, Debug, Serialize)]
pub struct Unsuccessful {
    /// Type and resource.
    pub task: String,
    /// `failed`, `ignored` or `cancelled`.
    pub outcome: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// For ignored tasks: what failed before them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<String>,
}

/// Effects of one action, counted.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct EffectCounts {
    /// Written down, but not known to have happened.
    pub intended: u64,
    /// Done.
    pub made: u64,
    /// Undone.
    pub gone: u64,
    /// Left to others who hold them, or made permanent.
    pub kept: u64,
}

/// What a job did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The job.
    pub job: JobId,
    /// Its kind.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// Where it is, with the verdict and the times.
    pub status: JobStatus,
    /// When it was submitted.
    pub created: Timestamp,
    /// Milliseconds it has worked.
    pub elapsed_ms: u64,
    /// Its tasks by state.
    pub tasks: Counts,
    /// Attempts that failed or were broken off, over all tasks.
    pub repeated_attempts: u64,
    /// The effect ledger, counted by action.
    pub effects: BTreeMap<String, EffectCounts>,
    /// Tasks that did not succeed.
    pub unsuccessful: Vec<Unsuccessful>,
    /// What it has left outside and what nobody undoes by itself any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<Leftover>,
    /// Warnings and errors of the log.
    pub warnings: Vec<LogEntry>,
    /// The kind's own part.
    pub summary: Value,
}

/// Makes the report of a job, whatever state it is in.
///
/// # Errors
///
/// [`EngineError::NoSuchJob`], or a failing store.
pub async fn make(store: &dyn Store, kinds: &Kinds, id: JobId, now: Timestamp) -> Result<Report, EngineError> {
    let image = view::image(store, id).await?;
    let ends = view::ends(store, &image).await?;
    let mut effects: BTreeMap<String, EffectCounts> = BTreeMap::new();
    let mut repeated_attempts = 0;
    for task in image.tasks.values() {
        for effect in task.effects.values() {
            let counts = effects.entry(effect.action.clone()).or_default();
            match effect.state {
                EffectState::Intended => counts.intended += 1,
                EffectState::Made => counts.made += 1,
                EffectState::Gone => counts.gone += 1,
                EffectState::Kept => counts.kept += 1,
            }
        }
        repeated_attempts += task.status.attempts.iter().filter(|attempt| attempt.failure.is_some()).count() as u64;
    }
    let unsuccessful = ends
        .iter()
        .filter_map(|end| {
            let outcome = end.outcome.as_ref().filter(|outcome| !outcome.is_success())?;
            Some(Unsuccessful {
                task: end.task.name(),
                outcome: outcome.name(),
                failure: match outcome {
                    Outcome::Failed { failure } => Some((**failure).clone()),
                    _ => None,
                },
                roots: match outcome {
                    Outcome::Ignored { roots } => roots.iter().map(|root| image.name(*root)).collect(),
                    _ => Vec::new(),
                },
            })
        })
        .collect();
    let log = view::log(store, id, 0, usize::MAX).await?;
    let mut leftovers = if has_given_up(&image.status) { leftovers(&image, kinds) } else { Vec::new() };
    leftovers.extend(log.iter().filter(|entry| entry.code == FOUND_LEFT).filter_map(found_left));
    let warnings = log.into_iter().filter(|entry| entry.level >= Level::Warn).take(LISTED).collect();
    let kind = kinds.kind(&image.record.kind);
    Ok(Report {
        job: id,
        kind: image.record.kind.clone(),
        name: image.record.name.clone(),
        created: image.record.created,
        elapsed_ms: u64::try_from(image.status.elapsed(now).as_millis()).unwrap_or(u64::MAX),
        tasks: image.counts,
        repeated_attempts,
        effects,
        unsuccessful,
        leftovers,
        warnings,
        summary: match kind {
            None => with_last_round(Value::Null, &image),
            Some(kind) => {
                let summary = with_last_round(kind.summarize(&image.record.spec, &ends), &image);
                match kind.series(&image.record.spec) {
                    None => summary,
                    Some(series) => {
                        let earlier = earlier(store, &**kind, &image, &series).await?;
                        kind.compare(summary, &earlier)
                    }
                }
            }
        },
        status: image.status.clone(),
    })
}

/// The jobs of a series before this one, the latest first. Those that did not come to an end by themselves count too.
async fn earlier(
    store: &dyn Store,
    kind: &dyn Kind,
    image: &JobImage,
    series: &str,
) -> Result<Vec<Earlier>, EngineError> {
    let (mut found, mut tasks, mut looked) = (Vec::new(), 0, 0);
    let before = view::jobs(store).await?.into_iter().filter(|job| {
        job.kind == kind.name()
            && job.id < image.id()
            && matches!(job.status.state, JobState::Completed | JobState::Finished)
    });
    for job in before {
        if found.len() >= EARLIER || tasks > EARLIER_TASKS || looked >= EARLIER_LOOKED {
            break;
        }
        looked += 1;
        let Some(record) = load::record(store, job.id).await? else { continue };
        if kind.series(&record.spec).as_deref() != Some(series) {
            continue;
        }
        let Some(other) = load::load(store, job.id).await? else { continue };
        let ends = view::ends(store, &other).await?;
        tasks += ends.len();
        found.push(Earlier { job: job.id, created: job.created, summary: kind.summarize(&record.spec, &ends) });
    }
    Ok(found)
}

/// A kind's summary, with what the last round of a standing job said under `now`.
fn with_last_round(mut summary: Value, image: &JobImage) -> Value {
    if let (Value::Object(members), Some(rounds)) = (&mut summary, &image.rounds) {
        members.entry("now").or_insert_with(|| rounds.record.status.clone());
    }
    summary
}

/// The code of log entries about things that were found outside and are in no ledger. Their fields are a
/// [`Leftover`].
pub const FOUND_LEFT: &str = "job.leftover";

fn found_left(entry: &LogEntry) -> Option<Leftover> {
    serde_json::from_value(Value::Object(entry.fields.clone())).ok()
}

/// Whether what the job has outside stays there unless a person does something.
pub(crate) fn has_given_up(status: &JobStatus) -> bool {
    match status.state {
        JobState::UndoFailed => true,
        JobState::Finished => status.closing != Some(Closing::Confirm),
        _ => false,
    }
}

/// What of the job may exist outside and is the job's to undo.
pub(crate) fn leftovers(image: &JobImage, kinds: &Kinds) -> Vec<Leftover> {
    let mut tasks: Vec<_> = image.tasks.values().collect();
    tasks.sort_unstable_by_key(|task| task.spec.id);
    let left = tasks.into_iter().flat_map(|task| {
        let task_type = kinds.task_type(&task.spec.task_type);
        task.effects.values().filter(|effect| effect.may_exist()).map(move |effect| leftover(task, task_type, effect))
    });
    left.collect()
}

/// An effect as something that is left.
pub(crate) fn leftover(task: &Task, task_type: Option<&Arc<dyn TaskType>>, effect: &Effect) -> Leftover {
    Leftover {
        task: task.spec.name(),
        action: effect.action.clone(),
        key: effect.key.clone(),
        target: effect.target.clone(),
        state: effect.state,
        external_id: effect.external_id.clone(),
        shared: task.spec.shared.as_ref().map(|shared| shared.key.clone()),
        command: task_type.and_then(|task_type| task_type.clean_up_command(effect)),
    }
}

/// A shell script that removes what a job has left. Lines that no task type knows how to write are comments which
/// name the thing.
#[must_use]
pub fn clean_up_script(job: JobId, leftovers: &[Leftover]) -> String {
    let mut script = format!(
        "#!/bin/sh\n# Removes what job {job} has left outside. Each line may be run again.\nset -u\nfailed=0\n"
    );
    for left in leftovers {
        let id = left.external_id.as_deref().map(|id| format!(", there called {id}")).unwrap_or_default();
        let what = format!("{} {} ({}) on {}{id}", left.action, left.key, left.state.as_str(), left.target);
        // A name with a line break in it must not become a command.
        script.push_str(&format!("\n# {}\n", what.replace(char::is_control, " ")));
        match &left.command {
            Some(command) => script.push_str(&format!("{{ {command}\n}} || failed=1\n")),
            None => script.push_str("# windlass knows no command for it: please remove it by hand\n"),
        }
    }
    script.push_str("\nexit \"$failed\"\n");
    script
}
