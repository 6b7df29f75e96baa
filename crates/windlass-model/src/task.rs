//! The state machine of a task.
//!
//! ```text
//!              Claimed                    Succeeded / Failed (no attempt left)
//!   Waiting ──────────────▶ Running ─────────────────────────────────────────▶ Done
//!    ▲  │ ▲                   │                                                 │
//!    │  │ └───────────────────┘ FailedAttempt, Released, OwnerDied              │
//!    │  └─────────────────── Ignored, Cancelled, Poisoned, Refused ────────────▶│
//!    └───────────────────────── Reset, Rerun (a new generation) ────────────────┘
//! ```
//!
//! [`TaskStatus::apply`] is the only place where a task changes its state; the live engine and recovery both go
//! through it. A result, once written, never changes within a generation.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Digest, Epoch, Failure, TaskId, WorkerId};

/// Attempts that are remembered per task.
pub const ATTEMPTS_KEPT: usize = 20;

/// The code of what an attempt ends with whose worker is gone.
const WORKER_DIED: &str = "worker_died";

/// A worker's hold on a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Who holds it.
    pub worker: WorkerId,
    /// The fencing token: every write of the attempt carries it.
    pub epoch: Epoch,
    /// Since when.
    pub since: Timestamp,
}

/// The output of a task: in the record when small, else in the value store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The value itself.
    Inline(serde_json::Value),
    /// A value kept by digest.
    Stored {
        /// Names the value.
        digest: Digest,
        /// Its size as JSON text, in bytes.
        size: u64,
    },
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "result")]
pub enum Outcome {
    /// It did what it was for.
    Succeeded {
        /// What it gives to tasks that refer to it.
        output: Output,
    },
    /// It was tried and failed for good.
    Failed {
        /// Why.
        failure: Box<Failure>,
    },
    /// It was not tried because a task that it requires did not succeed.
    Ignored {
        /// The tasks at the root of it.
        roots: Vec<TaskId>,
    },
    /// It was not tried, or given up, because the job is being cancelled.
    Cancelled,
}

impl Outcome {
    /// The name as stored and shown.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
            Self::Ignored { .. } => "ignored",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether tasks that require this one may run.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self, Self::Succeeded { .. })
    }
}

/// Where a task is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum TaskState {
    /// Not claimed: dependencies, a slot or a backoff are awaited.
    Waiting {
        /// Not before this moment.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<Timestamp>,
    },
    /// A worker holds it.
    Running {
        /// The hold.
        claim: Claim,
    },
    /// It has ended.
    Done {
        /// How.
        outcome: Outcome,
    },
}

impl TaskState {
    /// The name as stored and shown.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "waiting",
            Self::Running { .. } => "running",
            Self::Done { .. } => "done",
        }
    }
}

/// Who let a task run that asks first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// What they had to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// How a task came by its shared resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharedUse {
    /// It made it.
    Created,
    /// It found it made by another job.
    Reused,
    /// It made one of its own, because the shared one was defined otherwise.
    Private,
}

impl SharedUse {
    /// The name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Reused => "reused",
            Self::Private => "private",
        }
    }
}

/// One attempt, for people who ask what happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its claim.
    pub claim: Claim,
    /// When it ended.
    pub ended: Timestamp,
    /// What it ended with; `None` when it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Box<Failure>>,
}

/// A task's record that changes: the state, and what is counted over all attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Where the task is.
    #[serde(flatten)]
    pub state: TaskState,
    /// Claims so far. Never goes down.
    #[serde(default)]
    pub epoch: Epoch,
    /// Attempts of this generation that failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Workers that died holding it, in this generation.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub deaths: u32,
    /// Whether the next attempt must look before it repeats: an earlier one may have left half-made effects.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recover: bool,
    /// How often it was made to run again after it had ended. A result never changes within a generation.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u32,
    /// Who let it run, if it asks first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// The end of its delay, set when its dependencies had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delayed_until: Option<Timestamp>,
    /// How it came by its shared resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedUse>,
    /// Keys of the slots that it holds while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<String>,
    /// What it runs with instead of its planned input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Output>,
    /// When it was first claimed, in this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When the state last changed.
    pub since: Timestamp,
    /// The last [`ATTEMPTS_KEPT`] attempts, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What happens to a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// A worker takes it.
    Claimed(WorkerId),
    /// The attempt succeeded.
    Succeeded(Output),
    /// The attempt failed, another follows.
    FailedAttempt {
        /// Why.
        failure: Box<Failure>,
        /// Not before this moment.
        retry_at: Timestamp,
        /// Whether effects may be half made.
        recover: bool,
    },
    /// The attempt failed and the task with it.
    Failed(Box<Failure>),
    /// The worker gave it back at a safe point.
    Released,
    /// The worker is gone.
    OwnerDied {
        /// Whether the attempt had left durable progress: a checkpoint or a ledger entry. Deaths count towards
        /// poison only while a task gets nowhere.
        progressed: bool,
    },
    /// Too many workers died holding it.
    Poisoned(Box<Failure>),
    /// A task that it requires did not succeed.
    Ignored(Vec<TaskId>),
    /// The job is being cancelled.
    Cancelled,
    /// A person lets it run.
    Approved(Approval),
    /// Its dependencies have ended; it is not claimed before this moment.
    Delayed(Timestamp),
    /// What it needs besides a place was found for it; it is claimed in the same transaction.
    Granted {
        /// How it comes by its shared resource, if it has one.
        shared: Option<SharedUse>,
        /// The slots that it takes.
        slots: Vec<String>,
    },
    /// It cannot run at all: what it needs is not to be had.
    Refused(Box<Failure>),
    /// It shall run again although it had ended without success.
    Reset {
        /// What it shall run with instead of its input.
        input: Option<Output>,
    },
    /// Somebody asked for it to run again although it had succeeded.
    Rerun {
        /// What it shall run with instead of its input.
        input: Option<Output>,
    },
}

impl TaskEvent {
    /// The name as shown.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Claimed(_) => "claimed",
            Self::Succeeded(_) => "succeeded",
            Self::FailedAttempt { .. } => "failed_attempt",
            Self::Failed(_) => "failed",
            Self::Released => "released",
            Self::OwnerDied { .. } => "owner_died",
            Self::Poisoned(_) => "poisoned",
            Self::Ignored(_) => "ignored",
            Self::Cancelled => "cancelled",
            Self::Approved(_) => "approved",
            Self::Delayed(_) => "delayed",
            Self::Granted { .. } => "granted",
            Self::Refused(_) => "refused",
            Self::Reset { .. } => "reset",
            Self::Rerun { .. } => "rerun",
        }
    }
}

/// A move that the state machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {from} cannot be {event}")]
pub struct IllegalMove {
    /// The state it was in.
    pub from: &'static str,
    /// The event that does not fit.
    pub event: &'static str,
}

impl TaskStatus {
    /// Whether the last attempt ended with the death of its worker.
    #[must_use]
    pub fn last_worker_died(&self) -> bool {
        let last = self.attempts.last().and_then(|attempt| attempt.failure.as_ref());
        last.is_some_and(|failure| failure.code == WORKER_DIED)
    }

    /// A task that has just been planned.
    #[must_use]
    pub fn new(at: Timestamp) -> Self {
        Self {
            state: TaskState::Waiting { not_before: None },
            epoch: Epoch::default(),
            failures: 0,
            deaths: 0,
            recover: false,
            generation: 0,
            approval: None,
            delayed_until: None,
            shared: None,
            slots: Vec::new(),
            input: None,
            started: None,
            since: at,
            attempts: Vec::new(),
        }
    }

    /// The outcome, once there is one.
    #[must_use]
    pub const fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            TaskState::Done { outcome } => Some(outcome),
            TaskState::Waiting { .. } | TaskState::Running { .. } => None,
        }
    }

    /// The claim, while there is one.
    #[must_use]
    pub const fn claim(&self) -> Option<&Claim> {
        match &self.state {
            TaskState::Running { claim } => Some(claim),
            TaskState::Waiting { .. } | TaskState::Done { .. } => None,
        }
    }

    /// The only place where a task changes its state.
    ///
    /// # Errors
    ///
    /// [`IllegalMove`] names the state and the event; the status is then unusable and the caller keeps its copy.
    pub fn apply(mut self, event: TaskEvent, at: Timestamp) -> Result<Self, IllegalMove> {
        use TaskState::{Done, Running, Waiting};
        let illegal = IllegalMove { from: self.state.name(), event: event.name() };
        let was_running = matches!(self.state, Running { .. });
        let before = std::mem::replace(&mut self.state, Waiting { not_before: None });
        self.state = match (before, event) {
            (Waiting { .. }, TaskEvent::Claimed(worker)) => {
                self.epoch = self.epoch.next();
                self.started.get_or_insert(at);
                Running { claim: Claim { worker, epoch: self.epoch, since: at } }
            }
            (Waiting { .. }, TaskEvent::Ignored(roots)) => Done { outcome: Outcome::Ignored { roots } },
            (Waiting { .. }, TaskEvent::Cancelled) => Done { outcome: Outcome::Cancelled },
            (Waiting { .. }, TaskEvent::Poisoned(failure) | TaskEvent::Refused(failure)) => {
                Done { outcome: Outcome::Failed { failure } }
            }
            (Waiting { not_before }, TaskEvent::Approved(approval)) => {
                self.approval = Some(approval);
                Waiting { not_before }
            }
            (Waiting { .. }, TaskEvent::Delayed(until)) => {
                self.delayed_until = Some(until);
                Waiting { not_before: Some(until) }
            }
            (Waiting { not_before }, TaskEvent::Granted { shared, slots }) => {
                self.shared = shared;
                self.slots = slots;
                Waiting { not_before }
            }
            (Running { claim }, TaskEvent::Succeeded(output)) => {
                push_attempt(&mut self.attempts, claim, at, None);
                self.recover = false;
                Done { outcome: Outcome::Succeeded { output } }
            }
            (Running { claim }, TaskEvent::Failed(failure)) => {
                push_attempt(&mut self.attempts, claim, at, Some(failure.clone()));
                self.failures += 1;
                Done { outcome: Outcome::Failed { failure } }
            }
            (Running { claim }, TaskEvent::FailedAttempt { failure, retry_at, recover }) => {
                push_attempt(&mut self.attempts, claim, at, Some(failure));
                self.failures += 1;
                self.recover |= recover;
                Waiting { not_before: Some(retry_at) }
            }
            (Running { claim }, TaskEvent::Released) => {
                push_attempt(&mut self.attempts, claim, at, Some(Box::new(Failure::interrupted())));
                // What was made stays made; the next attempt starts from the checkpoint and the ledger.
                self.recover = true;
                Waiting { not_before: None }
            }
            (Running { claim }, TaskEvent::OwnerDied { progressed }) => {
                let failure = Failure::new(WORKER_DIED, crate::ErrorClass::UnknownOutcome, "the worker is gone");
                push_attempt(&mut self.attempts, claim, at, Some(Box::new(failure)));
                self.deaths = if progressed { 1 } else { self.deaths + 1 };
                self.recover = true;
                Waiting { not_before: None }
            }
            (Running { claim }, TaskEvent::Cancelled) => {
                push_attempt(&mut self.attempts, claim, at, Some(Box::new(Failure::interrupted())));
                Done { outcome: Outcome::Cancelled }
            }
            (Done { outcome }, TaskEvent::Reset { input }) if !outcome.is_success() => {
                self.again(input);
                Waiting { not_before: None }
            }
            (Done { outcome }, TaskEvent::Rerun { input }) if outcome.is_success() => {
                self.again(input);
                // A gate that was passed once asks and waits again.
                self.approval = None;
                self.delayed_until = None;
                Waiting { not_before: None }
            }
            _ => return Err(illegal),
        };
        if was_running || matches!(self.state, Done { .. }) {
            self.slots.clear();
        }
        self.since = at;
        Ok(self)
    }

    fn again(&mut self, input: Option<Output>) {
        self.generation += 1;
        self.failures = 0;
        self.deaths = 0;
        self.recover = self.epoch != Epoch::default();
        self.started = None;
        if input.is_some() {
            self.input = input;
        }
    }
}

fn push_attempt(attempts: &mut Vec<Attempt>, claim: Claim, ended: Timestamp, failure: Option<Box<Failure>>) {
    // A first attempt that succeeds says nothing that the status does not say; not storing it halves the record
    // of the usual task.
    if failure.is_none() && attempts.is_empty() {
        return;
    }
    attempts.push(Attempt { claim, ended, failure });
    if attempts.len() > ATTEMPTS_KEPT {
        attempts.remove(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn failure() -> Box<Failure> {
        Box::new(Failure::transient("x", "x"))
    }

    fn states() -> Vec<TaskStatus> {
        let new = TaskStatus::new(at(0));
        let running = new.clone().apply(TaskEvent::Claimed(WorkerId::from_bits(1)), at(1)).unwrap();
        let done = |event| running.clone().apply(event, at(2)).unwrap();
        vec![
            new.clone(),
            running.clone(),
            done(TaskEvent::Succeeded(Output::Inline(1.into()))),
            done(TaskEvent::Failed(failure())),
            new.apply(TaskEvent::Ignored(vec![TaskId::from_bits(9)]), at(2)).unwrap(),
            done(TaskEvent::Cancelled),
        ]
    }

    fn events() -> Vec<TaskEvent> {
        vec![
            TaskEvent::Claimed(WorkerId::from_bits(2)),
            TaskEvent::Succeeded(Output::Inline(2.into())),
            TaskEvent::FailedAttempt { failure: failure(), retry_at: at(9), recover: true },
            TaskEvent::Failed(failure()),
            TaskEvent::Released,
            TaskEvent::OwnerDied { progressed: false },
            TaskEvent::Poisoned(failure()),
            TaskEvent::Ignored(vec![]),
            TaskEvent::Cancelled,
            TaskEvent::Approved(Approval { by: "eve".into(), at: at(3), note: None }),
            TaskEvent::Delayed(at(9)),
            TaskEvent::Granted { shared: Some(SharedUse::Reused), slots: vec!["slot/a/000000".into()] },
            TaskEvent::Refused(failure()),
            TaskEvent::Reset { input: None },
            TaskEvent::Rerun { input: Some(Output::Inline(3.into())) },
        ]
    }

    #[test]
    fn the_transition_table_is_exactly_this() {
        let mut table = String::new();
        for from in states() {
            let name = |status: &TaskStatus| status.outcome().map_or(status.state.name(), Outcome::name).to_owned();
            for event in events() {
                let event_name = event.name();
                if let Ok(to) = from.clone().apply(event, at(3)) {
                    table += &format!("{} + {event_name} -> {}\n", name(&from), name(&to));
                }
            }
        }
        let expected = "\
waiting + claimed -> running
waiting + poisoned -> failed
waiting + ignored -> ignored
waiting + cancelled -> cancelled
waiting + approved -> waiting
waiting + delayed -> waiting
waiting + granted -> waiting
waiting + refused -> failed
running + succeeded -> succeeded
running + failed_attempt -> waiting
running + failed -> failed
running + released -> waiting
running + owner_died -> waiting
running + cancelled -> cancelled
succeeded + rerun -> waiting
failed + reset -> waiting
ignored + reset -> waiting
cancelled + reset -> waiting
";
        assert_eq!(table, expected);
    }

    #[test]
    fn the_epoch_never_goes_down_and_a_result_never_changes() {
        for from in states() {
            for event in events() {
                let epoch = from.epoch;
                if let Ok(to) = from.clone().apply(event, at(3)) {
                    assert!(to.epoch >= epoch);
                    assert!(!from.outcome().is_some_and(Outcome::is_success) || to.generation > from.generation);
                }
            }
        }
    }

    #[test]
    fn only_the_last_attempts_are_kept() {
        let mut status = TaskStatus::new(at(0));
        for n in 0..50 {
            status = status.apply(TaskEvent::Claimed(WorkerId::from_bits(1)), at(n)).unwrap();
            status = status
                .apply(TaskEvent::FailedAttempt { failure: failure(), retry_at: at(n), recover: false }, at(n))
                .unwrap();
        }
        assert_eq!(status.attempts.len(), ATTEMPTS_KEPT);
        assert_eq!(status.epoch, Epoch(50));
        assert_eq!(status.attempts.last().unwrap().claim.epoch, Epoch(50));
    }

    #[test]
    fn slots_are_held_from_the_claim_to_its_end_and_no_longer() {
        let granted = TaskEvent::Granted { shared: None, slots: vec!["slot/a/000000".into()] };
        let waiting = TaskStatus::new(at(0)).apply(granted, at(1)).unwrap();
        let running = waiting.apply(TaskEvent::Claimed(WorkerId::from_bits(1)), at(1)).unwrap();
        assert_eq!(running.slots.len(), 1);
        let ends = [
            TaskEvent::Released,
            TaskEvent::Cancelled,
            TaskEvent::OwnerDied { progressed: false },
            TaskEvent::Failed(failure()),
            TaskEvent::FailedAttempt { failure: failure(), retry_at: at(9), recover: true },
            TaskEvent::Succeeded(Output::Inline(1.into())),
        ];
        for end in ends {
            assert!(running.clone().apply(end.clone(), at(2)).unwrap().slots.is_empty(), "{end:?}");
        }
    }

    #[test]
    fn the_record_survives_its_stored_form() {
        for status in states() {
            let text = serde_json::to_string(&status).unwrap();
            assert_eq!(serde_json::from_str::<TaskStatus>(&text).unwrap(), status, "{text}");
        }
    }
}
