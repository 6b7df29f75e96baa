//! Removing a job's records: marked first, then deleted in chunks under the mark.
//!
//! The mark and the end of everything by which the job is found are one transaction: from then on there is no such
//! job. What is left are keys under its own prefixes, which whoever sees the mark deletes; doing so twice is
//! harmless. The mark goes last.

use windlass_model::JobId;
use windlass_model::effect::{Effect, Leftover};
use windlass_model::job::JobState;
use windlass_store::{Committed, Compare, Revision, StoreError, Txn, budget, keys};

use super::{Coordinator, End, load};
use crate::EngineError;
use crate::command::CommandReply;
use crate::engine::Shared;
use crate::holders::SharedRecord;
use crate::lease::Session;
use crate::records::{Hold, decode, encode};
use crate::report;

/// Places in pools, and queues, that are left together with the mark; more than a worker has places.
const MOST_SLOTS: usize = 64;
const MOST_QUEUES: usize = 16;
/// Keys deleted in one transaction.
const CHUNK: usize = 90;

impl Coordinator {
    /// Removes the job. Without `force` only one that has nothing outside which somebody might still want undone.
    pub(super) async fn delete(&mut self, force: bool) -> Result<CommandReply, EngineError> {
        let status = &self.image.status;
        let at_rest = matches!(status.state, JobState::Completed | JobState::Finished);
        let left = !self.image.holds.is_empty()
            || self.image.tasks.values().flat_map(|task| task.effects.values()).any(Effect::may_exist);
        if !force && (!at_rest || (status.state == JobState::Completed && left)) {
            let why = match status.state {
                JobState::Completed => "what it has made can still be undone; undo or confirm it first, or use force",
                _ => "only finished jobs are deleted without force",
            };
            return Ok(CommandReply::refused(format!("the job is {}: {why}", status.state.as_str())));
        }
        // Whatever runs is stopped where it stands; its records are about to go.
        self.attempts.abort_all();
        self.flush(false).await?;
        let leftovers = self.left_behind().await?;
        self.mark().await?;
        self.deleted = true;
        if !leftovers.is_empty() {
            tracing::warn!(job = %self.image.id(), left = leftovers.len(), "a deleted job has left things outside");
        }
        Ok(CommandReply::Deleted { status: Box::new(self.image.status.clone()), leftovers })
    }

    /// What nobody removes any more once the job is gone: not what others hold too.
    async fn left_behind(&self) -> Result<Vec<Leftover>, EngineError> {
        let mut left = report::leftovers(&self.image, &self.shared.kinds);
        for (key, task) in self.image.holds.iter() {
            left.retain(|left| left.shared.as_ref() != Some(key));
            let Some(entry) = self.shared.store.get(&keys::shared(key)).await? else { continue };
            let record: SharedRecord = decode(&entry)?;
            let task = &self.image.tasks[task];
            let task_type = self.shared.kinds.task_type(&record.task_type);
            if record.clone().abandoned(self.image.id(), record.since).is_none() {
                let own = task.effects.values().filter(|effect| effect.may_exist());
                let theirs = record.effects.iter().filter(|effect| !task.effects.contains_key(&effect.n));
                left.extend(own.chain(theirs).map(|effect| report::leftover(task, task_type, effect)));
            }
        }
        Ok(left)
    }

    async fn mark(&mut self) -> Result<(), EngineError> {
        let job = self.image.id();
        let mut txn = Txn::new()
            .when(Compare::Created(keys::claim(job), self.claim))
            .put(keys::gone(job), "")
            .delete(keys::job(job))
            .delete(keys::state(job))
            .delete(keys::active(job));
        for name in self.shared.exclusive_names(&self.image.record) {
            let key = keys::slot(&name);
            // Only if it is this job that holds it.
            let held = self.shared.store.get(&key).await?;
            if held.is_some_and(|entry| entry.value == job.to_string().as_bytes()) {
                txn = txn.delete(key);
            }
        }
        // Of tasks that run, and of those that are offered.
        let running = self.image.tasks.values().flat_map(|task| &task.status.slots);
        for slot in self.image.status.slots.iter().chain(running).take(MOST_SLOTS) {
            txn = txn.delete(slot.clone());
        }
        for pool in self.queued.iter().take(MOST_QUEUES) {
            txn = txn.delete(keys::queued(pool, self.image.record.priority, job));
        }
        self.commit_draft_as(txn, "mark").await
    }

    /// Answers, then deletes what is left of a job that is marked.
    pub(super) async fn end_deleted(&mut self) -> Result<End, EngineError> {
        self.answer();
        for answered in std::mem::take(&mut self.answered) {
            self.commit_draft_as(Txn::new().delete(answered.asked.key.clone()), "erase").await?;
            answered.send(&self.shared).await;
        }
        sweep(&self.shared, self.image.id(), self.claim).await?;
        Ok(End::AtRest)
    }
}

/// Deletes everything of a marked job, and the mark. The caller holds the job's claim.
pub(crate) async fn sweep(shared: &Shared, job: JobId, claim: Revision) -> Result<(), EngineError> {
    let fence = Compare::Created(keys::claim(job), claim);
    leave_shared(shared, job, &fence).await?;
    for prefix in [keys::offers(job), keys::stops(job), keys::job_prefix(job)] {
        loop {
            let page = shared.store.scan(&prefix).await?.next_page(budget::PAGE_ENTRIES).await?;
            if page.is_empty() {
                break;
            }
            for chunk in page.chunks(CHUNK) {
                let txn = chunk.iter().fold(Txn::new().when(fence.clone()), |txn, entry| txn.delete(entry.key.clone()));
                erase(shared, txn).await?;
            }
        }
    }
    let dir = shared.work_dir(job);
    if dir.exists()
        && let Err(error) = tokio::fs::remove_dir_all(&dir).await
    {
        tracing::warn!(%job, dir = %dir.display(), %error, "the folder of a deleted job could not be removed");
    }
    erase(shared, Txn::new().when(fence).delete(keys::gone(job)).delete(keys::claim(job))).await
}

/// Takes the job out of the holder sets that its index names.
async fn leave_shared(shared: &Shared, job: JobId, fence: &Compare) -> Result<(), EngineError> {
    let mut holds = Vec::new();
    load::each(&*shared.store, &keys::holds(job), |entry| {
        holds.push((entry.key.clone(), decode::<Hold>(entry)?));
        Ok(())
    })
    .await?;
    for (index, hold) in holds {
        loop {
            let key = keys::shared(&hold.key);
            let mut txn = Txn::new().when(fence.clone()).delete(index.clone());
            if let Some(entry) = shared.store.get(&key).await? {
                let record: SharedRecord = decode(&entry)?;
                txn = txn.when(Compare::Version(key.clone(), entry.version));
                txn = match record.abandoned(job, shared.clock.wall()) {
                    Some(record) => txn.put(key, encode(&record)),
                    None => txn.delete(key),
                };
            }
            match shared.commit(txn, "leave").await? {
                Committed::At(_) => break,
                Committed::Conflict(found) if found.first().is_some_and(Option::is_some) => {}
                Committed::Conflict(_) => return Err(EngineError::ClaimLost),
            }
        }
    }
    Ok(())
}

async fn erase(shared: &Shared, txn: Txn) -> Result<(), EngineError> {
    match shared.commit(txn, "erase").await {
        Ok(Committed::At(_)) => Ok(()),
        Ok(Committed::Conflict(_)) => Err(EngineError::ClaimLost),
        // Whoever sees the mark next goes on.
        Err(EngineError::Store(StoreError::Unknown(why))) => Err(EngineError::Store(StoreError::Unavailable(why))),
        Err(error) => Err(error),
    }
}

/// Goes on with deletions that were broken off.
pub(crate) async fn take_up(shared: &Shared, session: &Session) -> Result<(), EngineError> {
    let mut marked = Vec::new();
    load::each(&*shared.store, keys::GONE, |entry| {
        marked.extend(keys::last_part::<JobId>(&entry.key));
        Ok(())
    })
    .await?;
    for job in marked {
        if shared.store.get(&keys::claim(job)).await?.is_none()
            && let Some(claim) = super::claim(shared, session, job).await?
        {
            sweep(shared, job, claim).await?;
        }
    }
    Ok(())
}
