//! Reads a job from the store. The one way into memory, for a new job as for one that a crash left behind.

use std::collections::HashMap;

use windlass_model::effect::Effect;
use windlass_model::job::JobStatus;
use windlass_model::progress::Progress;
use windlass_model::task::{Outcome, TaskStatus};
use windlass_model::{JobId, TaskId};
use windlass_store::{Entry, Store, budget, keys};

use super::image::{Checkpoint, JobImage, Rounds};
use crate::EngineError;
use crate::records::{AddedBy, Head, Hold, JobRecord, TaskRecord, decode};
use crate::values;

/// Reads what `job` is and where it is, without its tasks; `None` when there is no such job.
pub(crate) async fn outline(store: &dyn Store, job: JobId) -> Result<Option<JobImage>, EngineError> {
    let Some(record) = record(store, job).await? else { return Ok(None) };
    let status: JobStatus = match store.get(&keys::state(job)).await? {
        Some(entry) => decode(&entry)?,
        None => return Ok(None),
    };
    let head = match store.get(&keys::head(job)).await? {
        Some(entry) => decode(&entry)?,
        None => Head::default(),
    };
    let mut image = JobImage::new(record, status, head);
    if let Some(entry) = store.get(&keys::round(job)).await? {
        image.rounds = Some(Rounds::new(decode(&entry)?));
    }
    Ok(Some(image))
}

/// Reads everything of `job`; `None` when there is no such job.
pub(crate) async fn load(store: &dyn Store, job: JobId) -> Result<Option<JobImage>, EngineError> {
    let Some(mut image) = outline(store, job).await? else { return Ok(None) };
    let (status, created) = (image.status.clone(), image.record.created);
    let mut statuses: HashMap<TaskId, TaskStatus> = HashMap::new();
    each(store, &keys::statuses(job), |entry| {
        if let Some(id) = keys::last_part(&entry.key) {
            statuses.insert(id, decode(entry)?);
        }
        Ok(())
    })
    .await?;
    let mut tasks = Vec::new();
    let mut drafts: Vec<TaskRecord> = Vec::new();
    each(store, &keys::tasks(job), |entry| {
        drafts.push(decode(entry)?);
        Ok(())
    })
    .await?;
    let mut brought = Vec::new();
    let round = image.rounds.as_ref().map_or(0, |rounds| rounds.record.n);
    for draft in drafts {
        if is_part_of_plan(&draft.added_by, &status, &statuses, round) {
            if let AddedBy::Task(task, _) = draft.added_by {
                brought.push((task, draft.spec.id));
            }
            let task_status = statuses.get(&draft.spec.id).cloned().unwrap_or_else(|| TaskStatus::new(created));
            tasks.push((draft.spec, task_status));
        } else if image.rounds.is_some() {
            image.stale_drafts.push(draft.spec.id);
        }
    }
    // Before the tasks: which of them need more than a place hangs on it.
    each(store, &keys::holds(job), |entry| {
        let hold: Hold = decode(entry)?;
        image.holds.insert(hold.key, hold.task);
        Ok(())
    })
    .await?;
    image.insert(tasks);
    brought.into_iter().for_each(|(adder, task)| image.note_brought(adder, task));
    image.line_up_ended();
    each(store, &keys::effects(job), |entry| {
        let effect: Effect = decode(entry)?;
        if let Some(task) = image.tasks.get_mut(&effect.task) {
            task.effects.insert(effect.n, effect);
        }
        Ok(())
    })
    .await?;
    each(store, &keys::checkpoints(job), |entry| {
        let checkpoint: Checkpoint = decode(entry)?;
        if let Some(task) = keys::last_part(&entry.key).and_then(|id: TaskId| image.tasks.get_mut(&id)) {
            task.checkpoint = Some(checkpoint);
        }
        Ok(())
    })
    .await?;
    each(store, &keys::progresses(job), |entry| {
        let progress: Progress = decode(entry)?;
        if let Some(task) = keys::last_part(&entry.key).and_then(|id: TaskId| image.tasks.get_mut(&id)) {
            task.progress = progress;
        }
        Ok(())
    })
    .await?;
    Ok(Some(image))
}

/// Reads what was submitted, a large spec with it; `None` when there is no such job.
pub(crate) async fn record(store: &dyn Store, job: JobId) -> Result<Option<JobRecord>, EngineError> {
    let Some(entry) = store.get(&keys::job(job)).await? else { return Ok(None) };
    let mut record: JobRecord = decode(&entry)?;
    if let Some(large) = &record.large_spec {
        record.spec = values::fetch(store, job, large).await?;
    }
    Ok(Some(record))
}

/// Whether what adds the task has happened. Drafts of a plan that was never activated, or of an attempt that
/// did not succeed, are not part of it.
fn is_part_of_plan(added_by: &AddedBy, job: &JobStatus, statuses: &HashMap<TaskId, TaskStatus>, round: u64) -> bool {
    match added_by {
        AddedBy::Round(n) => *n <= round,
        AddedBy::Generation(generation) => *generation <= job.generation,
        AddedBy::Task(task, epoch) => statuses.get(task).is_some_and(|status| {
            status.epoch == *epoch && matches!(status.outcome(), Some(Outcome::Succeeded { .. }))
        }),
    }
}

/// Reads everything under `prefix`, a page at a time.
pub(crate) async fn each(
    store: &dyn Store,
    prefix: &str,
    mut take: impl FnMut(&Entry) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let mut scan = store.scan(prefix).await?;
    loop {
        let page = scan.next_page(budget::PAGE_ENTRIES).await?;
        if page.is_empty() {
            return Ok(());
        }
        page.iter().try_for_each(&mut take)?;
    }
}
