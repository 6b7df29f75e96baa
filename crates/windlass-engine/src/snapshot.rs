//! A job as it is right now, for whoever watches.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_model::job::JobStatus;
use windlass_model::progress::{Eta, Progress};
use windlass_model::{JobId, TaskId};

use windlass_store::Store;

use crate::EngineError;
use crate::coordinator::image::{Counts, JobImage};

/// Running tasks that a snapshot lists.
const LISTED: usize = 64;

/// A task that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningTask {
    /// The task.
    pub id: TaskId,
    /// Type and resource.
    pub name: String,
    /// How far it has got.
    pub progress: Progress,
    /// Since when it runs.
    pub since: Timestamp,
}

/// A job as it is right now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSnapshot {
    /// The job.
    pub id: JobId,
    /// What people call it.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Its status.
    pub status: JobStatus,
    /// Its tasks by state.
    pub counts: Counts,
    /// Its work: items and bytes.
    pub work: Progress,
    /// Units per second over the last half minute: bytes where they are known, else items.
    pub rate: Option<f64>,
    /// Time left.
    pub eta: Option<Eta>,
    /// The first of the running tasks.
    pub running: Vec<RunningTask>,
    /// The number of the last log entry.
    pub last_log: u64,
    /// Warnings so far.
    pub warnings: u64,
}

impl JobSnapshot {
    /// A job as the store holds it, for whoever watches it from another process. Rate and time left are unknown.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoSuchJob`], or a failing store.
    pub async fn read(store: &dyn Store, job: JobId) -> Result<Self, EngineError> {
        let image = crate::view::image(store, job).await?;
        Ok(Self::of(&image, image.work(), None, None))
    }

    pub(crate) fn of(image: &JobImage, work: Progress, rate: Option<f64>, eta: Option<Eta>) -> Self {
        let running = image.running.iter().take(LISTED).filter_map(|id| image.tasks.get(id)).filter_map(|task| {
            Some(RunningTask {
                id: task.spec.id,
                name: task.spec.name(),
                progress: task.progress,
                since: task.status.claim()?.since,
            })
        });
        Self {
            id: image.id(),
            name: image.record.name.clone(),
            kind: image.record.kind.clone(),
            status: image.status.clone(),
            counts: image.all_counts(),
            work,
            rate,
            eta,
            running: running.collect(),
            last_log: image.head.next_log.saturating_sub(1),
            warnings: image.head.warnings,
        }
    }
}
