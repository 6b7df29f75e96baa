//! How a job comes into the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use windlass_model::JobId;
use windlass_model::job::JobStatus;
use windlass_model::plan::TaskSpec;
use windlass_store::memory::MemoryStore;
use windlass_store::{Committed, Compare, Store, StoreError, Txn, budget, keys};

use super::{Engine, EngineConfig};
use crate::EngineError;
use crate::coordinator::{Submission, load};
use crate::follow::OPEN;
use crate::kind::{Kind, PlanContext, TaskEnd};
use crate::records::{Head, JobRecord, encode};
use crate::snapshot::JobSnapshot;
use crate::{values, view};

/// Records larger than this keep their spec apart: they share a transaction with the plan.
const LARGEST_RECORD: usize = 32 * 1024;

/// A job to submit.
#[derive(Clone, Debug, Default)]
pub struct JobRequest {
    /// Which kind runs it.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// What it shall do.
    pub spec: Value,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// Larger goes first.
    pub priority: i32,
    /// Time from submission after which it is given up.
    pub deadline: Option<Duration>,
    /// Time from completion after which it is undone by itself: for drills. Can be extended.
    pub undo_after: Option<Duration>,
}

/// What a job would do.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The job of the preview; it exists nowhere else.
    pub status: JobStatus,
    /// The tasks that change nothing and were run, with what they put out.
    pub looked: Vec<TaskEnd>,
    /// The tasks that a real run would go on with, in an order in which they could run.
    pub would_run: Vec<Arc<TaskSpec>>,
    /// The log: warnings and failures.
    pub log: Vec<windlass_model::log::LogEntry>,
}

impl Engine {
    /// Checks a job, stores it and lets it run. Durable when it returns: the job survives any crash.
    ///
    /// # Errors
    ///
    /// [`EngineError::InvalidSpec`] with all faults, or [`EngineError::Plan`], and nothing is stored.
    pub async fn submit(&self, request: JobRequest) -> Result<JobId, EngineError> {
        self.submit_as(self.new_job_id(), request, false).await
    }

    /// As [`Engine::submit`], under an id from [`Engine::new_job_id`]: whoever wrote it down before can find out after
    /// a crash whether the job was stored, and submit it again under the same id. It is never stored twice.
    ///
    /// # Errors
    ///
    /// As [`Engine::submit`]; [`StoreError::Unknown`] also when a job of this id is there.
    pub async fn submit_under(&self, id: JobId, request: JobRequest) -> Result<JobId, EngineError> {
        self.submit_as(id, request, false).await
    }

    /// An id for a job.
    #[must_use]
    pub fn new_job_id(&self) -> JobId {
        let unix_ms = u64::try_from(self.shared.clock.wall().as_millisecond()).unwrap_or(0);
        JobId::new(unix_ms, self.shared.entropy.next_u128())
    }

    async fn submit_as(&self, id: JobId, request: JobRequest, preview: bool) -> Result<JobId, EngineError> {
        if self.shared.draining.is_cancelled() {
            return Err(EngineError::ShuttingDown);
        }
        let kind = self.checked_kind(&request)?;
        let now = self.shared.clock.wall();
        let context = PlanContext {
            job: id,
            generation: 1,
            clock: self.shared.clock.clone(),
            entropy: self.shared.entropy.clone(),
        };
        let plan = kind.plan(&context, &request.spec).await.map_err(|failure| EngineError::Plan(Box::new(failure)))?;
        plan.check(&HashMap::new(), &self.shared.kinds)
            .map_err(|faults| EngineError::Plan(Box::new(crate::coordinator::plan_failure(&faults))))?;
        crate::coordinator::check_sizes(&plan.tasks).map_err(|failure| EngineError::Plan(Box::new(failure)))?;
        let mut record = JobRecord {
            id,
            kind: request.kind,
            name: request.name,
            spec: request.spec,
            large_spec: None,
            labels: request.labels,
            priority: request.priority,
            deadline_ms: request.deadline.map(in_ms),
            // A preview is over when it is made: nobody confirms it.
            undo_after_ms: request.undo_after.filter(|_| !preview).map(in_ms),
            created: now,
            preview,
        };
        if encode(&record).len() > LARGEST_RECORD {
            // Stored before the job: a crash in between leaves chunks that nobody finds, and no job.
            record.large_spec = Some(values::keep(&*self.shared.store, id, record.spec.clone()).await?);
        }
        let bytes = record.stored().len();
        if bytes > budget::VALUE_BYTES {
            return Err(EngineError::ValueTooLarge { bytes, most: budget::VALUE_BYTES });
        }
        let status = JobStatus::new(now);
        if !self.shared.take_up {
            self.store_open(&record, &status).await?;
            return Ok(id);
        }
        let session = self.session().await?;
        let image = crate::coordinator::image::JobImage::new(record.clone(), status.clone(), Head::default());
        let seed = JobSnapshot::of(&image, image.work(), None, None);
        let (reply, stored) = oneshot::channel();
        let submission = Submission { record, status, reply };
        self.shared.ensure(&session, seed, id, None, Some((submission, plan)));
        // The coordinator goes on trying for as long as its session lasts; then nobody can tell.
        stored.await.map_err(|_| {
            EngineError::Store(StoreError::Unknown(format!(
                "job {id} may have been stored or not: `windlass jobs` tells"
            )))
        })?;
        Ok(id)
    }

    /// Stores a job for whichever worker takes it up.
    async fn store_open(&self, record: &JobRecord, status: &JobStatus) -> Result<(), EngineError> {
        let job = record.id;
        let txn = Txn::new()
            .when(Compare::Absent(keys::job(job)))
            .put(keys::job(job), record.stored())
            .put(keys::state(job), encode(status))
            .put(keys::active(job), OPEN);
        loop {
            match self.shared.commit(txn.clone(), "submit").await {
                // In conflict only with itself, when it had not been confirmed: the id is used once.
                Ok(Committed::At(_) | Committed::Conflict(_)) => return Ok(()),
                Err(EngineError::Store(StoreError::Unknown(why))) => {
                    tracing::warn!(%job, %why, "a submission was not confirmed, trying again");
                    self.shared.clock.sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn checked_kind(&self, request: &JobRequest) -> Result<Arc<dyn Kind>, EngineError> {
        let kind = self.shared.kinds.kind(&request.kind).ok_or_else(|| EngineError::UnknownKind {
            name: request.kind.clone(),
            known: self.shared.kinds.iter().map(|kind| kind.name()).collect(),
        })?;
        let faults = kind.check(&request.spec);
        if faults.is_empty() {
            Ok(kind.clone())
        } else {
            Err(EngineError::InvalidSpec { kind: request.kind.clone(), faults })
        }
    }

    /// What `request` would do: runs the tasks that change nothing, on a store of its own in memory, and lists
    /// the rest. Files go under `work_dir`, which the caller removes.
    ///
    /// # Errors
    ///
    /// As [`Engine::submit`].
    pub async fn preview(config: EngineConfig, request: JobRequest) -> Result<Preview, EngineError> {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(config.clock.clone()));
        let engine = Self::open(EngineConfig { store: store.clone(), ..config }).await?;
        let job = engine.submit_as(engine.new_job_id(), request, true).await?;
        let status = engine.wait(job).await?;
        let image = load::load(&*store, job).await?.ok_or_else(|| EngineError::NoSuchJob(job.to_string()))?;
        let looked = view::ends(&*store, &image).await?;
        let mut would_run: Vec<Arc<TaskSpec>> = Vec::new();
        for task in image.tasks.values().filter(|task| task.status.outcome().is_none()) {
            would_run.push(task.spec.clone());
        }
        view::sort_by_dependencies(&mut would_run);
        let log = view::log(&*store, job, 0, usize::MAX).await?;
        engine.shutdown().await?;
        Ok(Preview { status, looked: looked.into_iter().filter(|end| end.outcome.is_some()).collect(), would_run, log })
    }
}

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
