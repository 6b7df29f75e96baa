//! What jobs hold together: shared resources and places in pools, as people see them.

use jiff::Timestamp;
use serde::Serialize;
use windlass_model::plan::PoolUse;
use windlass_model::{JobId, TaskId};
use windlass_store::{Store, keys};

use super::Wait;
use crate::EngineError;
use crate::coordinator::image::JobImage;
use crate::coordinator::load;
use crate::holders::{Acquire, SharedRecord, SharedState, acquire};
use crate::records::{SlotHolder, decode};

/// A shared resource as people see it.
#[derive(Clone, Debug, Serialize)]
pub struct SharedView {
    /// What all jobs call it.
    pub key: String,
    /// The type of the tasks that make it.
    pub task_type: String,
    /// Where it is.
    pub state: SharedState,
    /// How often it was begun to be made.
    pub generation: u64,
    /// The jobs that hold it.
    pub holders: Vec<JobId>,
    /// The job that makes or removes it, or that made it.
    pub owner: Option<JobId>,
    /// Whether it stays whoever lets go of it.
    pub permanent: bool,
    /// Why it could not be removed.
    pub error: Option<String>,
    /// Since when it is so.
    pub since: Timestamp,
}

/// All shared resources, by key.
///
/// # Errors
///
/// A failing store, or a record that cannot be read.
pub async fn shared(store: &dyn Store) -> Result<Vec<SharedView>, EngineError> {
    let mut all = Vec::new();
    load::each(store, keys::SHARED, |entry| {
        let record: SharedRecord = decode(entry)?;
        all.push(SharedView {
            key: record.key,
            task_type: record.task_type,
            state: record.state,
            generation: record.generation,
            holders: record.holders.into_keys().collect(),
            owner: record.owner.map(|owner| owner.job),
            permanent: record.permanent,
            error: record.error,
            since: record.since,
        });
        Ok(())
    })
    .await?;
    Ok(all)
}

/// What a task that could be claimed waits for besides a place on a worker.
pub(super) async fn waits(store: &dyn Store, image: &JobImage, id: TaskId) -> Result<Vec<Wait>, EngineError> {
    let spec = &image.tasks[&id].spec;
    let mut waits = Vec::new();
    if let Some(wanted) = &spec.shared
        && let Some(entry) = store.get(&keys::shared(&wanted.key)).await?
    {
        let record: SharedRecord = decode(&entry)?;
        if acquire(Some(&record), image.id(), id, wanted.definition) == Acquire::Wait {
            let holders = record.holders.into_keys().collect();
            waits.push(Wait::Shared { key: record.key, state: record.state.as_str(), holders });
        }
    }
    for pool in &spec.pools {
        waits.extend(full_pool(store, image, pool).await?);
    }
    Ok(waits)
}

/// Who is in the way of a place in a pool; `None` when one is free for this job.
pub(super) async fn full_pool(
    store: &dyn Store,
    image: &JobImage,
    PoolUse { pool, size }: &PoolUse,
) -> Result<Option<Wait>, EngineError> {
    let mut holders = Vec::new();
    load::each(store, &keys::pool_slots(pool), |entry| {
        if keys::pool_of_slot(&entry.key).is_some_and(|(name, _)| name == pool) {
            let holder: SlotHolder = decode(entry)?;
            let task = holder.task.map(|task| format!(" (task {task})")).unwrap_or_default();
            holders.push(format!("job {}{task}", holder.job));
        }
        Ok(())
    })
    .await?;
    let prefix = keys::queue(pool);
    let mine = keys::queued(pool, image.record.priority, image.id());
    let mut before = 0;
    load::each(store, &prefix, |entry| {
        before += usize::from(entry.key[prefix.len()..].matches('/').count() == 1 && entry.key < mine);
        Ok(())
    })
    .await?;
    let free = usize::try_from(*size).unwrap_or(usize::MAX).saturating_sub(holders.len());
    Ok((free <= before).then(|| Wait::Pool { pool: pool.clone(), size: *size, holders, before }))
}
