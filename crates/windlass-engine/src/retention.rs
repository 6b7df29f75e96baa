//! How long jobs that are over are kept.
//!
//! Any engine looks, at most hourly over all of them, under a claim of its own. A job goes by the same way as one
//! that a person deletes: marked, then deleted in chunks. What may still be undone is never deleted for its age.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_model::JobId;
use windlass_model::job::{JobState, JobStatus};
use windlass_store::{Committed, Compare, Revision, Txn, keys};

use crate::EngineError;
use crate::coordinator::{claim, load, removal};
use crate::engine::Shared;
use crate::lease::Session;
use crate::records::{decode, encode};

/// How often old jobs are looked for, over all engines of a store.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// How long after its start an engine looks first: what it has to carry on with goes first.
const LOOK_FIRST: Duration = Duration::from_secs(60);

/// How long jobs that are over are kept. Both limits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Time from their end; `None`: for ever.
    pub age: Option<Duration>,
    /// How many, the newest; `None`: all.
    pub count: Option<usize>,
}

impl Default for Retention {
    /// 30 days, and not more than 10 000.
    fn default() -> Self {
        Self { age: Some(Duration::from_secs(30 * 24 * 3600)), count: Some(10_000) }
    }
}

impl Retention {
    /// Which of these ended jobs, each with the moment of its end, are kept no longer.
    fn expired(&self, mut ended: Vec<(Timestamp, JobId)>, now: Timestamp) -> Vec<JobId> {
        ended.sort_unstable();
        ended.reverse();
        let is_old = |end: Timestamp| {
            let age = now.as_millisecond().saturating_sub(end.as_millisecond());
            self.age.is_some_and(|limit| u128::try_from(age).is_ok_and(|age| age > limit.as_millis()))
        };
        let is_many = |n: usize| self.count.is_some_and(|count| n >= count);
        let gone = ended.iter().enumerate().filter(|(n, (end, _))| is_many(*n) || is_old(*end));
        gone.map(|(_, (_, job))| *job).collect()
    }
}

/// When old jobs were last looked for.
#[derive(Serialize, Deserialize)]
struct Look {
    at: Timestamp,
}

/// Looks for old jobs until the session is over.
pub(crate) async fn keep_looking(shared: &Shared, session: &Session) {
    let mut wait = LOOK_FIRST;
    loop {
        tokio::select! {
            biased;
            () = session.over.cancelled() => return,
            () = shared.draining.cancelled() => {
                session.over.cancelled().await;
                return;
            }
            () = shared.clock.sleep(wait) => {}
        }
        wait = LOOK_EVERY;
        if let Err(error) = look(shared, session).await {
            tracing::warn!(%error, "old jobs could not be looked for; the next try is in an hour");
        }
    }
}

/// Looks once, unless somebody did or does.
async fn look(shared: &Shared, session: &Session) -> Result<(), EngineError> {
    let now = shared.clock.wall();
    let last = shared.store.get(keys::RETENTION_LAST).await?;
    let last: Option<Look> = last.as_ref().map(decode).transpose()?;
    // Wall clocks decide only how often, never whether what is deleted may be.
    let recently = u64::try_from((LOOK_EVERY - LOOK_FIRST).as_millis()).unwrap_or(u64::MAX);
    if last.is_some_and(|last| now.as_millisecond().abs_diff(last.at.as_millisecond()) < recently) {
        return Ok(());
    }
    let taken = Txn::new().when(Compare::Absent(keys::RETENTION_CLAIM.into())).put_leased(
        keys::RETENTION_CLAIM,
        session.worker.to_string(),
        session.lease,
    );
    let Committed::At(claimed) = shared.commit(taken, "retention").await? else { return Ok(()) };
    let gone = expire(shared, session, now).await;
    let done = Txn::new()
        .when(Compare::Created(keys::RETENTION_CLAIM.into(), claimed))
        .put(keys::RETENTION_LAST, encode(&Look { at: now }))
        .delete(keys::RETENTION_CLAIM);
    shared.commit(done, "retention").await?;
    let gone = gone?;
    if gone > 0 {
        tracing::info!(jobs = gone, "jobs that were over for long enough are deleted");
    }
    Ok(())
}

async fn expire(shared: &Shared, session: &Session, now: Timestamp) -> Result<usize, EngineError> {
    let mut ended = Vec::new();
    load::each(&*shared.store, keys::STATES, |entry| {
        let status: JobStatus = decode(entry)?;
        if let (JobState::Finished | JobState::Completed, Some(job)) = (status.state, keys::last_part(&entry.key)) {
            ended.push((status.ended.unwrap_or(status.since), job));
        }
        Ok(())
    })
    .await?;
    let mut gone = 0;
    for job in shared.retention.expired(ended, now) {
        if shared.store.get(&keys::claim(job)).await?.is_some() {
            continue;
        }
        let Some(claimed) = claim(shared, session, job).await? else { continue };
        if mark(shared, job, claimed).await? {
            removal::sweep(shared, job, claimed).await?;
            gone += 1;
        } else {
            let key = keys::claim(job);
            shared.commit(Txn::new().when(Compare::Created(key.clone(), claimed)).delete(key), "release").await?;
        }
    }
    Ok(gone)
}

/// Marks a job as deleted, if there is nothing about it that somebody might still want.
async fn mark(shared: &Shared, job: JobId, claimed: Revision) -> Result<bool, EngineError> {
    let Some(state) = shared.store.get(&keys::state(job)).await? else { return Ok(false) };
    let status: JobStatus = decode(&state)?;
    let mut txn = Txn::new()
        .when(Compare::Created(keys::claim(job), claimed))
        .when(Compare::Version(keys::state(job), state.version))
        .when(Compare::NoneUnder(keys::holds(job)));
    match status.state {
        JobState::Finished => {}
        // Nobody has said what shall become of what it made; only when it made nothing is that no question.
        JobState::Completed if status.undo_at.is_none() => txn = txn.when(Compare::NoneUnder(keys::effects(job))),
        _ => return Ok(false),
    }
    let txn = txn.put(keys::gone(job), "").delete(keys::job(job)).delete(keys::state(job)).delete(keys::active(job));
    Ok(matches!(shared.commit(txn, "mark").await?, Committed::At(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_go_by_age_and_by_number_oldest_first() {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let ended: Vec<_> = (1..=5u8).map(|n| (at(i64::from(n) * 100), JobId::from_bits(n.into()))).collect();
        let gone = |age, count| {
            let retention = Retention { age, count };
            let jobs = retention.expired(ended.clone(), at(600));
            jobs.into_iter().map(JobId::bits).collect::<Vec<_>>()
        };
        assert_eq!(gone(None, None), Vec::<u128>::new());
        assert_eq!(gone(Some(Duration::from_secs(250)), None), [3, 2, 1]);
        assert_eq!(gone(None, Some(4)), [1]);
        assert_eq!(gone(Some(Duration::from_secs(450)), Some(2)), [3, 2, 1]);
    }
}
