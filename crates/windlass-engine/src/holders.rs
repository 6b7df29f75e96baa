//! Shared resources: who holds one, and what follows from that. The rules, as values; nothing here reads or writes.
//!
//! A record holds the *set* of the jobs that need the resource, by job and never as a number: entering or leaving
//! twice changes nothing, so each happens exactly once whatever is repeated after a crash.
//!
//! ```text
//!  (no record) ──create──▶ creating ──ready──▶ ready ──deleting──▶ deleting ──▶ (no record)
//!                            ▲  │ failed: undone first ──────────▶ deleting
//!                            │  └ the job's next attempt takes over, in a new generation
//!                          absent ◀── ready, but found to be gone outside
//! ```

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_model::effect::Effect;
use windlass_model::plan::TaskSpec;
use windlass_model::{Digest, Epoch, JobId, TaskId};

/// Where a shared resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharedState {
    /// It is not there, although jobs hold it: it was removed behind their backs. Who needs it next makes it.
    Absent,
    /// Its owner makes it.
    Creating,
    /// It is there.
    Ready,
    /// Its last holder removes it.
    Deleting,
}

impl SharedState {
    /// The name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Creating => "creating",
            Self::Ready => "ready",
            Self::Deleting => "deleting",
        }
    }
}

/// Who makes or removes a shared resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The job.
    pub job: JobId,
    /// Its task.
    pub task: TaskId,
    /// The epoch of the task's attempt.
    pub epoch: Epoch,
}

/// A shared resource as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedRecord {
    /// What all jobs call it.
    pub key: String,
    /// The type of the tasks that make it.
    pub task_type: String,
    /// Where it is.
    pub state: SharedState,
    /// Counts the attempts to make it.
    pub generation: u64,
    /// Digest of how it is.
    pub definition: Digest,
    /// What making it put out, while it is ready.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub output: Value,
    /// The ledger entries by which it can be removed, while it is ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<Effect>,
    /// The jobs that need it, and the task of each that stands for that.
    pub holders: BTreeMap<JobId, TaskId>,
    /// Who makes or removes it, or who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// A job that needed it was confirmed: it is never removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub permanent: bool,
    /// Why it could not be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When the state last changed.
    pub since: Timestamp,
}

/// What a task does that needs the resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Acquire {
    /// Makes it.
    Create,
    /// Takes it as it is.
    Reuse,
    /// Waits until the record changes.
    Wait,
    /// It is there, and defined otherwise, for these jobs.
    Conflict(Vec<JobId>),
}

/// What a job does that needs the resource no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// It is no holder (any more).
    NotHeld,
    /// Leaves it to these.
    Others(Vec<JobId>),
    /// Leaves it where it is, for good.
    Keep,
    /// There is nothing to remove but the record.
    Nothing,
    /// Removes it: it is the last.
    Delete,
}

/// What `task` of `job` does with the resource as it is.
pub(crate) fn acquire(record: Option<&SharedRecord>, job: JobId, task: TaskId, definition: Digest) -> Acquire {
    let Some(record) = record else { return Acquire::Create };
    let mine = record.owner.is_some_and(|owner| (owner.job, owner.task) == (job, task));
    match record.state {
        SharedState::Absent => Acquire::Create,
        // Only the job that makes it may go on: its next coordinator has its ledger, nobody else has.
        SharedState::Creating if mine => Acquire::Create,
        SharedState::Creating | SharedState::Deleting => Acquire::Wait,
        SharedState::Ready if record.definition == definition => Acquire::Reuse,
        SharedState::Ready => Acquire::Conflict(record.holders.keys().copied().collect()),
    }
}

/// What `job` does when it needs the resource no more.
pub(crate) fn release(record: Option<&SharedRecord>, job: JobId) -> Release {
    let Some(record) = record.filter(|record| record.holders.contains_key(&job)) else { return Release::NotHeld };
    let others: Vec<JobId> = record.holders.keys().copied().filter(|holder| *holder != job).collect();
    let mine = record.owner.is_some_and(|owner| owner.job == job);
    match record.state {
        // Half made, or half removed, by this very job: nobody else can clean that up.
        SharedState::Creating | SharedState::Deleting if mine => Release::Delete,
        _ if !others.is_empty() => Release::Others(others),
        _ if record.permanent => Release::Keep,
        SharedState::Absent => Release::Nothing,
        SharedState::Creating | SharedState::Ready | SharedState::Deleting => Release::Delete,
    }
}

impl SharedRecord {
    /// `spec` begins to make it, also for jobs that hold it and lost it.
    pub(crate) fn creating(before: Option<Self>, spec: &TaskSpec, owner: Owner, at: Timestamp) -> Option<Self> {
        let shared = spec.shared.as_ref()?;
        let (generation, mut holders) = before.map(|record| (record.generation, record.holders)).unwrap_or_default();
        holders.insert(owner.job, owner.task);
        Some(Self {
            key: shared.key.clone(),
            task_type: spec.task_type.clone(),
            state: SharedState::Creating,
            generation: generation + 1,
            definition: shared.definition,
            output: Value::Null,
            effects: Vec::new(),
            holders,
            owner: Some(owner),
            permanent: false,
            error: None,
            since: at,
        })
    }

    /// It is made.
    pub(crate) fn ready(mut self, output: Value, effects: Vec<Effect>, at: Timestamp) -> Self {
        self.state = SharedState::Ready;
        self.output = output;
        self.effects = effects;
        self.since = at;
        self
    }

    /// `job` needs it too.
    pub(crate) fn joined(mut self, job: JobId, task: TaskId) -> Self {
        self.holders.insert(job, task);
        self
    }

    /// It was found to be gone outside. What a person removed is not permanent either.
    pub(crate) fn gone(mut self, at: Timestamp) -> Self {
        self.state = SharedState::Absent;
        self.output = Value::Null;
        self.effects = Vec::new();
        self.owner = None;
        self.permanent = false;
        self.since = at;
        self
    }

    /// Its last holder begins to remove it.
    pub(crate) fn deleting(mut self, owner: Owner, at: Timestamp) -> Self {
        if self.state != SharedState::Deleting {
            self.since = at;
        }
        self.state = SharedState::Deleting;
        self.owner = Some(owner);
        self
    }

    /// It could not be removed.
    pub(crate) fn failed(mut self, error: String) -> Self {
        self.error = Some(error);
        self
    }

    /// `job` needs it no more, and leaves it as it is.
    pub(crate) fn left(mut self, job: JobId) -> Self {
        self.holders.remove(&job);
        self
    }

    /// `job` is confirmed: the resource stays, whatever others do.
    pub(crate) fn confirmed(mut self, job: JobId) -> Self {
        self.permanent = true;
        self.left(job)
    }

    /// `job` has removed it. `None`: nobody needs it, and the record goes too.
    pub(crate) fn removed(self, job: JobId, at: Timestamp) -> Option<Self> {
        let record = self.left(job).gone(at);
        (!record.holders.is_empty()).then_some(record)
    }

    /// `job` is gone and cannot remove anything. `None`: nobody needs it, and the record goes.
    pub(crate) fn abandoned(self, job: JobId, at: Timestamp) -> Option<Self> {
        let half_done = self.state != SharedState::Ready && self.owner.is_some_and(|owner| owner.job == job);
        let record = self.left(job);
        let record = if half_done { record.gone(at) } else { record };
        (!record.holders.is_empty() || record.permanent).then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const J: JobId = JobId::from_bits(1);
    const K: JobId = JobId::from_bits(2);
    const T: TaskId = TaskId::from_bits(3);

    fn record(state: SharedState, holders: &[JobId], owner: Option<JobId>, permanent: bool) -> SharedRecord {
        SharedRecord {
            key: "net".into(),
            task_type: "make".into(),
            state,
            generation: 1,
            definition: Digest::of(b"a"),
            output: Value::Null,
            effects: Vec::new(),
            holders: holders.iter().map(|job| (*job, T)).collect(),
            owner: owner.map(|job| Owner { job, task: T, epoch: Epoch(1) }),
            permanent,
            error: None,
            since: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn acquiring_goes_by_this_table() {
        use SharedState::{Absent, Creating, Deleting, Ready};
        let same = Digest::of(b"a");
        let seen = |record: SharedRecord| acquire(Some(&record), J, T, same);
        assert_eq!(acquire(None, J, T, same), Acquire::Create);
        assert_eq!(seen(record(Absent, &[K], None, false)), Acquire::Create);
        assert_eq!(seen(record(Creating, &[K], Some(K), false)), Acquire::Wait);
        assert_eq!(seen(record(Creating, &[J], Some(J), false)), Acquire::Create);
        assert_eq!(seen(record(Ready, &[K], Some(K), false)), Acquire::Reuse);
        assert_eq!(seen(record(Ready, &[J, K], Some(K), false)), Acquire::Reuse);
        assert_eq!(seen(record(Ready, &[], None, true)), Acquire::Reuse);
        assert_eq!(seen(record(Deleting, &[K], Some(K), false)), Acquire::Wait);
        let other = acquire(Some(&record(Ready, &[K], Some(K), false)), J, T, Digest::of(b"b"));
        assert_eq!(other, Acquire::Conflict(vec![K]));
    }

    #[test]
    fn releasing_goes_by_this_table() {
        use SharedState::{Absent, Creating, Deleting, Ready};
        let seen = |record: SharedRecord| release(Some(&record), J);
        assert_eq!(release(None, J), Release::NotHeld);
        assert_eq!(seen(record(Ready, &[K], Some(J), false)), Release::NotHeld);
        assert_eq!(seen(record(Ready, &[J, K], Some(J), false)), Release::Others(vec![K]));
        assert_eq!(seen(record(Ready, &[J, K], Some(J), true)), Release::Others(vec![K]));
        assert_eq!(seen(record(Ready, &[J], Some(K), true)), Release::Keep);
        assert_eq!(seen(record(Ready, &[J], Some(K), false)), Release::Delete);
        assert_eq!(seen(record(Deleting, &[J], Some(J), false)), Release::Delete);
        assert_eq!(seen(record(Creating, &[J], Some(J), false)), Release::Delete);
        assert_eq!(seen(record(Creating, &[J, K], Some(J), false)), Release::Delete);
        assert_eq!(seen(record(Creating, &[J, K], Some(K), false)), Release::Others(vec![K]));
        assert_eq!(seen(record(Absent, &[J], None, false)), Release::Nothing);
        assert_eq!(seen(record(Absent, &[J, K], None, false)), Release::Others(vec![K]));
    }

    #[test]
    fn entering_and_leaving_twice_is_harmless() {
        let ready = record(SharedState::Ready, &[K], Some(K), false);
        let once = ready.clone().joined(J, T);
        assert_eq!(once.clone().joined(J, T), once);
        assert_eq!(once.clone().left(J).left(J), ready);
        assert_eq!(once.clone().left(K).removed(J, Timestamp::UNIX_EPOCH), None);
        assert_eq!(once.clone().left(K).abandoned(J, Timestamp::UNIX_EPOCH), None);
        let kept = once.confirmed(J).left(K);
        assert!(kept.permanent && kept.holders.is_empty());
        assert!(kept.abandoned(J, Timestamp::UNIX_EPOCH).is_some());
    }
}
