//! What a job did, with receipts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use windlass_model::effect::EffectState;
use windlass_model::job::JobStatus;
use windlass_model::log::{Level, LogEntry};
use windlass_model::task::Outcome;
use windlass_model::{Failure, JobId};
use windlass_store::Store;

use crate::EngineError;
use crate::coordinator::image::Counts;
use crate::kind::Kinds;
use crate::view;

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
        warnings,
        summary: kind.map(|kind| kind.summarize(&image.record.spec, &ends)).unwrap_or_default(),
        status: image.status.clone(),
    })
}
