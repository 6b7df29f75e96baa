//! How a batch becomes durable, through a store that is away for a while; and the claim under which it does.

use std::collections::BTreeSet;
use std::time::Duration;

use windlass_model::{JobId, TaskId};
use windlass_store::{Committed, Compare, Revision, StoreError, Txn, keys};

use super::Coordinator;
use super::guarded::count_pools;
use crate::EngineError;
use crate::engine::Shared;
use crate::lease::Session;
use crate::records::{Head, encode};

/// Claims a job; `None` when somebody else holds it. A commit that was not confirmed is looked after: our own
/// claim is told by the worker's name, which is never used twice.
pub(crate) async fn claim(shared: &Shared, session: &Session, job: JobId) -> Result<Option<Revision>, EngineError> {
    let key = keys::claim(job);
    let txn = Txn::new().when(Compare::Absent(key.clone())).put_leased(
        key.clone(),
        session.worker.to_string(),
        session.lease,
    );
    loop {
        match shared.commit(txn.clone(), "take").await {
            Ok(Committed::At(revision)) => return Ok(Some(revision)),
            Ok(Committed::Conflict(found)) => {
                let ours = found.into_iter().flatten().find(|entry| entry.value == session.worker.to_string());
                return Ok(ours.map(|entry| entry.created));
            }
            Err(EngineError::Store(StoreError::Unavailable(_) | StoreError::Unknown(_)))
                if !session.over.is_cancelled() =>
            {
                shared.clock.sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

impl Coordinator {
    /// Makes the batch durable, then answers and starts what was claimed. Returns whether there was a batch.
    pub(super) async fn flush(&mut self, rests: bool) -> Result<bool, EngineError> {
        self.add_progress();
        if rests {
            self.batch.delete(keys::active(self.image.id()));
            for name in self.shared.exclusive_names(&self.image.record) {
                self.batch.delete(keys::slot(&name));
            }
            if !self.image.status.slots.is_empty() {
                self.give_job_slots_back();
            }
            self.queue_for(BTreeSet::new());
            self.batch.delete(keys::claim(self.image.id()));
        }
        if self.batch.is_empty() {
            self.answer();
            return Ok(false);
        }
        let mut batch = std::mem::take(&mut self.batch);
        count_pools(&mut self.given_back, batch.places_given_back());
        let starts = std::mem::take(&mut batch.starts);
        let label = batch.label;
        self.image.head.batch += 1;
        batch.put(keys::head(self.image.id()), encode(&self.image.head));
        let mut txn = match &self.submitting {
            None => Txn::new().when(Compare::Created(keys::claim(self.image.id()), self.claim)),
            Some(_) => self.submission(),
        };
        txn.compares.extend(batch.absent.drain(..).map(Compare::Absent));
        txn.ops.extend(batch.into_ops());
        let revision = self.commit_surely(txn, label).await?;
        if let Some(reply) = self.submitting.take() {
            self.claim = match revision {
                Some(revision) => revision,
                None => self.own_claim().await?,
            };
            // Whoever submitted may have gone away; the job is there all the same.
            let _ = reply.send(());
        }
        self.follow_up(starts).await?;
        Ok(true)
    }

    /// What is said and begun once a batch is durable.
    pub(super) async fn follow_up(&mut self, starts: Vec<TaskId>) -> Result<(), EngineError> {
        self.answer();
        for answered in std::mem::take(&mut self.answered) {
            answered.send(&self.shared).await;
        }
        for id in starts {
            self.start(id).await?;
        }
        self.publish();
        Ok(())
    }

    pub(super) fn answer(&mut self) {
        for answer in self.answers.drain(..) {
            answer();
        }
    }

    /// Commits a batch, through a store that is away for a while, and through a commit that was not confirmed.
    /// Returns the revision, unless it is only known that the batch is there.
    async fn commit_surely(&mut self, txn: Txn, label: &'static str) -> Result<Option<Revision>, EngineError> {
        let mut wait = Duration::from_millis(50);
        loop {
            match self.shared.commit(txn.clone(), label).await {
                Ok(Committed::At(revision)) => return Ok(Some(revision)),
                Ok(Committed::Conflict(found)) => {
                    let ours = found.first().and_then(Option::as_ref).is_some_and(|entry| entry.created == self.claim);
                    return Err(if ours { EngineError::NameTaken } else { EngineError::ClaimLost });
                }
                Err(EngineError::Store(StoreError::Unavailable(why))) => {
                    tracing::warn!(job = %self.image.id(), %why, "the state store is away, trying again");
                }
                Err(EngineError::Store(StoreError::Unknown(why))) => {
                    tracing::warn!(job = %self.image.id(), %why, "a commit was not confirmed, looking whether it is there");
                    if self.is_applied().await? {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
            if self.session.over.is_cancelled() {
                return Err(EngineError::ClaimLost);
            }
            self.shared.clock.sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(5));
        }
    }

    /// Commits one transaction of drafts, which may be written any number of times.
    pub(super) async fn commit_draft(&self, txn: Txn) -> Result<(), EngineError> {
        self.commit_draft_as(txn, "stage").await
    }

    /// Commits a transaction that may be repeated.
    pub(super) async fn commit_draft_as(&self, txn: Txn, label: &'static str) -> Result<(), EngineError> {
        let mut wait = Duration::from_millis(50);
        loop {
            match self.shared.commit(txn.clone(), label).await {
                Ok(Committed::At(_)) => return Ok(()),
                Ok(Committed::Conflict(_)) => return Err(EngineError::ClaimLost),
                Err(EngineError::Store(StoreError::Unavailable(_) | StoreError::Unknown(_)))
                    if !self.session.over.is_cancelled() =>
                {
                    self.shared.clock.sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the head in the store is the one of the batch that was not confirmed.
    pub(super) async fn is_applied(&self) -> Result<bool, EngineError> {
        loop {
            match self.shared.store.get(&keys::head(self.image.id())).await {
                Ok(entry) => {
                    let head: Option<Head> = entry.as_ref().map(crate::records::decode).transpose()?;
                    return Ok(head.is_some_and(|head| head.batch >= self.image.head.batch));
                }
                Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) if !self.session.over.is_cancelled() => {
                    self.shared.clock.sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives the job back for another worker, or for this machine's next process.
    pub(super) async fn release(&mut self) -> Result<(), EngineError> {
        let key = keys::claim(self.image.id());
        let txn = Txn::new().when(Compare::Created(key.clone(), self.claim)).delete(key);
        self.shared.commit(txn, "release").await?;
        Ok(())
    }
}
