//! Jobs as people see them, read from any store, also while another process runs them.

mod held;
mod wait;

pub use held::{SharedView, shared};
pub use wait::Wait;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use windlass_model::effect::{Effect, Leftover};
use windlass_model::job::{JobState, JobStatus, PauseReason};
use windlass_model::log::LogEntry;
use windlass_model::plan::TaskSpec;
use windlass_model::progress::Progress;
use windlass_model::task::{Attempt, Outcome, TaskState, TaskStatus};
use windlass_model::{JobId, TaskId, WorkerId};
use windlass_store::{Store, budget, keys};

use crate::EngineError;
use crate::coordinator::image::{Counts, JobImage};
use crate::coordinator::load;
use crate::kind::{Kinds, TaskEnd};
use crate::offers::{ProgressNote, TaskClaim};
use crate::presence::{self, Presence};
use crate::reconcile::RoundRecord;
use crate::records::{JobRecord, decode};
use crate::{report, values};

/// A job in a list.
#[derive(Clone, Debug, Serialize)]
pub struct JobSummary {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// When it was submitted.
    pub created: Timestamp,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where it is.
    pub status: JobStatus,
}

/// All jobs, newest first.
///
/// # Errors
///
/// A failing store, or a record that cannot be read.
pub async fn jobs(store: &dyn Store) -> Result<Vec<JobSummary>, EngineError> {
    let mut statuses: HashMap<JobId, JobStatus> = HashMap::new();
    load::each(store, keys::STATES, |entry| {
        if let Some(id) = keys::last_part(&entry.key) {
            statuses.insert(id, decode(entry)?);
        }
        Ok(())
    })
    .await?;
    let mut jobs = Vec::new();
    load::each(store, keys::JOBS, |entry| {
        let record: JobRecord = decode(entry)?;
        if let Some(status) = statuses.remove(&record.id) {
            jobs.push(JobSummary {
                id: record.id,
                kind: record.kind,
                name: record.name,
                created: record.created,
                labels: record.labels,
                status,
            });
        }
        Ok(())
    })
    .await?;
    jobs.sort_by_key(|job| std::cmp::Reverse(job.id));
    Ok(jobs)
}

/// The status of a job.
///
/// # Errors
///
/// [`EngineError::NoSuchJob`], or a failing store.
pub async fn status(store: &dyn Store, job: JobId) -> Result<JobStatus, EngineError> {
    let entry = store.get(&keys::state(job)).await?;
    decode(&entry.ok_or_else(|| EngineError::NoSuchJob(job.to_string()))?)
}

/// What was submitted as a job, its spec with it.
///
/// # Errors
///
/// [`EngineError::NoSuchJob`], a failing store, or a record that cannot be read.
pub async fn record(store: &dyn Store, job: JobId) -> Result<JobRecord, EngineError> {
    load::record(store, job).await?.ok_or_else(|| EngineError::NoSuchJob(job.to_string()))
}

/// Finds the job that a person means: its id, the beginning of its id, or its name (the newest of that name).
///
/// # Errors
///
/// [`EngineError::NoSuchJob`] or [`EngineError::Ambiguous`].
pub async fn find(store: &dyn Store, given: &str) -> Result<JobId, EngineError> {
    let jobs = jobs(store).await?;
    if let Some(job) = jobs.iter().find(|job| job.name == given) {
        return Ok(job.id);
    }
    let given_lower = given.to_ascii_lowercase();
    let matches: Vec<&JobSummary> =
        jobs.iter().filter(|job| given.len() >= 4 && job.id.to_string().starts_with(&given_lower)).collect();
    // The first characters of an id are its time; people more often give the last ones.
    let matches = if matches.is_empty() && given.len() >= 4 {
        jobs.iter().filter(|job| job.id.to_string().ends_with(&given_lower)).collect()
    } else {
        matches
    };
    match matches.as_slice() {
        [] => Err(EngineError::NoSuchJob(given.to_owned())),
        [job] => Ok(job.id),
        many => Err(EngineError::Ambiguous {
            given: given.to_owned(),
            candidates: many.iter().take(5).map(|job| job.id.to_string()).collect(),
        }),
    }
}

/// A task as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct TaskView {
    /// The task.
    pub id: TaskId,
    /// Type and resource.
    pub name: String,
    /// Where it is.
    pub status: TaskStatus,
    /// What people call the worker that runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// How far it has got.
    pub progress: Progress,
    /// What it waits for, in words; empty when it does not wait.
    pub waiting_on: Vec<String>,
    /// What it waits for.
    pub waits: Vec<Wait>,
    /// The shared resource that it makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<String>,
    /// Its effects.
    pub effects: Vec<Effect>,
}

/// A job as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct JobView {
    /// What was submitted.
    pub record: JobRecord,
    /// Where it is.
    pub status: JobStatus,
    /// Milliseconds it has worked.
    pub elapsed_ms: u64,
    /// Its tasks by state.
    pub counts: Counts,
    /// Its work.
    pub work: Progress,
    /// Warnings in its log.
    pub warnings: u64,
    /// What the job as a whole waits for, in words.
    pub waiting_on: Vec<String>,
    /// What the job as a whole waits for.
    pub waits: Vec<Wait>,
    /// What it has left outside and what nobody undoes by itself any more.
    pub leftovers: Vec<Leftover>,
    /// What people call the worker that coordinates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<String>,
    /// Of a job that reconciles: what its rounds say, and how they go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<RoundRecord>,
    /// Its tasks, in an order in which they could run.
    pub tasks: Vec<TaskView>,
}

/// The workers that are present, by name; also those that only submit and give commands.
///
/// # Errors
///
/// A failing store.
pub async fn workers(store: &dyn Store) -> Result<Vec<Presence>, EngineError> {
    let mut workers: Vec<Presence> = Vec::new();
    load::each(store, keys::WORKERS, |entry| {
        // A presence that an older program wrote says nothing.
        workers.extend(decode::<Presence>(entry).ok());
        Ok(())
    })
    .await?;
    workers.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    Ok(workers)
}

/// The claims on tasks of a job that workers hold besides its coordinator, and the progress that they report.
async fn elsewhere(
    store: &dyn Store,
    job: JobId,
) -> Result<(HashMap<TaskId, TaskClaim>, HashMap<TaskId, Progress>), EngineError> {
    let (mut claims, mut progress) = (HashMap::new(), HashMap::new());
    load::each(store, &keys::attempts_elsewhere(job), |entry| {
        let mut parts = entry.key.rsplit('/');
        let (what, task) = (parts.next(), parts.next().and_then(|part| part.parse::<TaskId>().ok()));
        match (what, task) {
            (Some("a"), Some(task)) => {
                claims.insert(task, decode::<TaskClaim>(entry)?);
            }
            (Some("p"), Some(task)) => {
                progress.insert(task, decode::<ProgressNote>(entry)?.progress);
            }
            _ => {}
        }
        Ok(())
    })
    .await?;
    Ok((claims, progress))
}

/// Reads a job.
///
/// # Errors
///
/// [`EngineError::NoSuchJob`], or a failing store.
pub async fn job(store: &dyn Store, kinds: &Kinds, id: JobId, now: Timestamp) -> Result<JobView, EngineError> {
    let image = image(store, id).await?;
    let mut specs: Vec<Arc<TaskSpec>> = image.tasks.values().map(|task| task.spec.clone()).collect();
    sort_by_dependencies(&mut specs);
    let holder = store.get(&keys::claim(id)).await?;
    let held = holder.is_some();
    let workers = workers(store).await?;
    let (claims, progress) = elsewhere(store, id).await?;
    let name = |id: WorkerId| {
        workers.iter().find(|worker| worker.id == id).map_or_else(|| id.to_string(), |worker| worker.name.clone())
    };
    let mut tasks: Vec<TaskView> = specs
        .iter()
        .map(|spec| {
            let task = &image.tasks[&spec.id];
            let claimed = claims.contains_key(&spec.id);
            let waits = if claimed { Vec::new() } else { why_waiting(&image, spec, held, &workers, now) };
            TaskView {
                id: spec.id,
                name: spec.name(),
                status: task.status.clone(),
                worker: task
                    .status
                    .claim()
                    .map(|claim| claim.worker)
                    .or_else(|| claims.get(&spec.id).map(|claim| claim.worker))
                    .map(name),
                progress: progress.get(&spec.id).copied().unwrap_or(task.progress),
                waiting_on: waits.iter().map(Wait::to_string).collect(),
                waits,
                shared: spec.shared.as_ref().map(|shared| shared.key.clone()),
                effects: task.effects.values().cloned().collect(),
            }
        })
        .collect();
    for task in &mut tasks {
        if task.waits == [Wait::Place] {
            let found = held::waits(store, &image, task.id).await?;
            if !found.is_empty() {
                task.waiting_on = found.iter().map(Wait::to_string).collect();
                task.waits = found;
            }
        }
    }
    let mut waits = Vec::new();
    match image.status.state {
        JobState::Pending => {
            if let Some(kind) = kinds.kind(&image.record.kind) {
                for pool in kind.pools(&image.record.spec) {
                    waits.extend(held::full_pool(store, &image, &pool).await?);
                }
                for name in kind.exclusive(&image.record.spec) {
                    if let Some(entry) = store.get(&keys::slot(&name)).await?
                        && entry.value != id.to_string().as_bytes()
                    {
                        let holder = String::from_utf8_lossy(&entry.value).into_owned();
                        waits.push(Wait::Name { name, holder });
                    }
                }
            }
        }
        JobState::Paused | JobState::Pausing => {
            waits.push(match &image.status.pause_reason {
                Some(PauseReason::Attention { failure }) => Wait::Attention { failure: failure.to_string() },
                _ => Wait::Pause { until: image.status.resume_at },
            });
        }
        JobState::Running => {
            let rounds = image.rounds.as_ref().map(|rounds| &rounds.record);
            waits.extend(rounds.map(|record| match &record.failure {
                Some(failure) => {
                    Wait::FailedRounds { failures: record.failures, failure: failure.to_string(), next: record.next }
                }
                None => {
                    let summary = record.summary.clone();
                    Wait::Rounds { last: record.last, next: record.next, summary }
                }
            }));
        }
        JobState::Completed | JobState::UndoFailed => {
            waits.extend(image.status.undo_at.map(|at| Wait::Undo { at }));
        }
        _ => {}
    }
    if (image.status.state.is_active() || image.status.undo_at.is_some()) && !held {
        waits.push(Wait::Process);
    }
    Ok(JobView {
        elapsed_ms: u64::try_from(image.status.elapsed(now).as_millis()).unwrap_or(u64::MAX),
        counts: image.all_counts(),
        work: image.work(),
        warnings: image.head.warnings,
        waiting_on: waits.iter().map(Wait::to_string).collect(),
        waits,
        leftovers: if report::has_given_up(&image.status) { report::leftovers(&image, kinds) } else { Vec::new() },
        coordinator: holder.and_then(|entry| String::from_utf8_lossy(&entry.value).parse::<WorkerId>().ok()).map(name),
        rounds: image.rounds.as_ref().map(|rounds| rounds.record.clone()),
        tasks,
        status: image.status.clone(),
        record: (*image.record).clone(),
    })
}

fn why_waiting(image: &JobImage, spec: &TaskSpec, held: bool, workers: &[Presence], now: Timestamp) -> Vec<Wait> {
    let task = &image.tasks[&spec.id];
    let TaskState::Waiting { not_before } = task.status.state else { return Vec::new() };
    let open: Vec<Wait> = spec
        .dependencies
        .iter()
        .filter_map(|edge| image.tasks.get(&edge.task))
        .filter(|other| other.status.outcome().is_none())
        .map(|other| Wait::Task { task: other.spec.name(), state: other.status.state.name() })
        .collect();
    if !open.is_empty() {
        return open;
    }
    let mut waits = Vec::new();
    if let Some(question) = spec.needs_approval.clone().filter(|_| task.awaits_approval()) {
        waits.push(Wait::Approval { question });
    }
    if let Some(at) = not_before.filter(|at| *at > now) {
        let last = task.status.attempts.last().and_then(|attempt: &Attempt| attempt.failure.as_ref());
        waits.push(match last {
            Some(failure) => Wait::Backoff { until: at, after: failure.to_string() },
            None => Wait::Delay { until: at },
        });
    }
    if !waits.is_empty() {
        return waits;
    }
    let is_able = workers.iter().any(|worker| worker.can_run(spec));
    vec![match image.status.state {
        JobState::Running | JobState::Undoing if held && !is_able => Wait::Worker { demand: presence::demand(spec) },
        JobState::Running | JobState::Undoing if held => Wait::Place,
        JobState::Running | JobState::Undoing => Wait::Process,
        state => Wait::Job { state: state.as_str() },
    }]
}

/// Entries of a job's log with numbers above `after`, at most `limit`.
///
/// # Errors
///
/// A failing store.
pub async fn log(store: &dyn Store, job: JobId, after: u64, limit: usize) -> Result<Vec<LogEntry>, EngineError> {
    let mut entries = Vec::new();
    let mut scan = store.scan(&keys::logs(job)).await?;
    loop {
        let page = scan.next_page(budget::PAGE_ENTRIES).await?;
        if page.is_empty() {
            return Ok(entries);
        }
        for entry in page {
            let entry: LogEntry = decode(&entry)?;
            if entry.n > after {
                entries.push(entry);
            }
            if entries.len() >= limit {
                return Ok(entries);
            }
        }
    }
}

pub(crate) async fn image(store: &dyn Store, id: JobId) -> Result<JobImage, EngineError> {
    load::load(store, id).await?.ok_or_else(|| EngineError::NoSuchJob(id.to_string()))
}

/// How the tasks of a job ended, in an order in which they could have run.
pub(crate) async fn ends(store: &dyn Store, image: &JobImage) -> Result<Vec<TaskEnd>, EngineError> {
    let mut specs: Vec<Arc<TaskSpec>> = image.tasks.values().map(|task| task.spec.clone()).collect();
    sort_by_dependencies(&mut specs);
    let mut ends = Vec::with_capacity(specs.len());
    for spec in specs {
        let status = &image.tasks[&spec.id].status;
        let outcome = status.outcome().cloned();
        let output: Option<Value> = match &outcome {
            Some(Outcome::Succeeded { output }) => Some(values::fetch(store, image.id(), output).await?),
            _ => None,
        };
        let failures = status.attempts.iter().filter(|attempt| attempt.failure.is_some()).count();
        ends.push(TaskEnd {
            task: spec,
            started: status.started,
            ended: outcome.is_some().then_some(status.since),
            failures: u32::try_from(failures).unwrap_or(u32::MAX),
            deaths: status.deaths,
            shared: status.shared,
            outcome,
            output,
        });
    }
    Ok(ends)
}

/// Sorts tasks so that each comes after its dependencies; among equals by rank, then by name.
pub(crate) fn sort_by_dependencies(specs: &mut Vec<Arc<TaskSpec>>) {
    let by_id: HashMap<TaskId, Arc<TaskSpec>> = specs.iter().map(|spec| (spec.id, spec.clone())).collect();
    let mut open: HashMap<TaskId, usize> = HashMap::new();
    let mut dependants: HashMap<TaskId, Vec<TaskId>> = HashMap::new();
    for spec in by_id.values() {
        let inner = spec.dependencies.iter().filter(|edge| by_id.contains_key(&edge.task));
        open.insert(spec.id, inner.clone().count());
        for edge in inner {
            dependants.entry(edge.task).or_default().push(spec.id);
        }
    }
    let order = |id: &TaskId| {
        let spec = &by_id[id];
        (std::cmp::Reverse(spec.rank), spec.task_type.clone(), spec.resource.clone(), *id)
    };
    let mut free: BTreeSet<_> = open.iter().filter(|(_, n)| **n == 0).map(|(id, _)| order(id)).collect();
    let mut sorted = Vec::with_capacity(by_id.len());
    while let Some((.., id)) = free.pop_first() {
        sorted.push(by_id[&id].clone());
        for dependant in dependants.get(&id).into_iter().flatten() {
            if let Some(n) = open.get_mut(dependant) {
                *n -= 1;
                if *n == 0 {
                    free.insert(order(dependant));
                }
            }
        }
    }
    *specs = sorted;
}
