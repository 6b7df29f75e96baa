//! The state machine of a job.
//!
//! ```text
//!  Pending ─Activated▶ Running ─AllDone▶ Completed ─Undo, Clear▶ Undoing ─Undone▶ Finished
//!     │                 │ ▲ │               │ ▲              │ ▲
//!     │           Pause │ │ │ Cancel        │ │Retry         │ │ Undo, Clear (again)
//!     │                 ▼ │ ▼               │ └─▶ Running    ▼ │
//!     │           Pausing │ Cancelling      │          UndoFailed ─IgnoreLeftovers▶ Finished
//!     │                 │ │ ▲  │            └─Confirm▶ Finished
//!     │                 ▼ │ │  └─AllDone▶ Completed
//!     │              Paused─┘
//!     └─PlanFailed▶ Completed      Pending ─Cancel▶ Completed
//! ```
//!
//! `Clear` is a confirm that has work to do: what the outcome does not need is undone first, the rest becomes
//! permanent. A confirm whose clearing failed can be given again (`Clear`) or turned into an undo of everything
//! (`Undo`).
//!
//! [`JobStatus::apply`] is the only place where a job changes its state.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Failure;

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Being planned, or waiting for a place.
    Pending,
    /// Its tasks run.
    Running,
    /// Told to pause: no task starts any more, running ones finish or reach a safe point.
    Pausing,
    /// Nothing of it runs; `resume` goes on where it was.
    Paused,
    /// Told to cancel: waiting tasks are cancelled, running ones reach a safe point.
    Cancelling,
    /// All tasks have ended. It can be undone, retried or confirmed.
    Completed,
    /// Its effects are being undone.
    Undoing,
    /// Some effects could not be undone.
    UndoFailed,
    /// Over for good.
    Finished,
}

impl JobState {
    /// The name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Completed => "completed",
            Self::Undoing => "undoing",
            Self::UndoFailed => "undo_failed",
            Self::Finished => "finished",
        }
    }

    /// Whether a coordinator has something to do for it.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Pending | Self::Running | Self::Pausing | Self::Paused | Self::Cancelling | Self::Undoing)
    }

    /// Whether tasks may be claimed.
    #[must_use]
    pub const fn may_claim(self) -> bool {
        matches!(self, Self::Running | Self::Undoing)
    }
}

/// The verdict on a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobResult {
    /// Every task succeeded.
    Succeeded,
    /// Every task succeeded, and somebody should read the warnings.
    SucceededWithWarnings,
    /// Some tasks succeeded, some did not.
    Partial,
    /// Nothing of use was done, or the plan failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl JobResult {
    /// The name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::SucceededWithWarnings => "succeeded_with_warnings",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the job did what it was for.
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Succeeded | Self::SucceededWithWarnings)
    }
}

/// Why a job is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum PauseReason {
    /// A person asked.
    Person,
    /// A task needs a person's attention.
    Attention {
        /// What for.
        failure: Box<Failure>,
    },
}

/// How a job is brought to its end for good, and in the end: how it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closing {
    /// Everything is undone.
    Undo,
    /// The outcome is permanent; only what it does not need is undone.
    Confirm,
    /// What could not be undone is left where it is.
    Ignore,
}

/// A job's record that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Where it is.
    pub state: JobState,
    /// When the state last changed.
    pub since: Timestamp,
    /// When tasks could first run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When the last task ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// When the running pause began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_at: Option<Timestamp>,
    /// Milliseconds of all finished pauses.
    #[serde(default)]
    pub paused_total_ms: u64,
    /// When the pause ends by itself. Absolute, so that it outlives every process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_at: Option<Timestamp>,
    /// Why it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_reason: Option<PauseReason>,
    /// The verdict, once completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
    /// Why it failed as a whole: a plan that could not be made, a deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Box<Failure>>,
    /// Whether cancelling shall be followed by undoing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undo_after_cancel: bool,
    /// When the job is undone by itself. Absolute, so that it outlives every process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_at: Option<Timestamp>,
    /// What undoing is for, and how the job ended for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing: Option<Closing>,
    /// Counts how often the plan was activated: 1 at first, more with each undo or retry with new tasks.
    #[serde(default)]
    pub generation: u32,
    /// Keys of the places in pools that the job as a whole holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<String>,
    /// The last command id and what it led to, so that repeating a command repeats the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_request: Option<String>,
}

/// What happens to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// The plan is stored and its tasks may run.
    Activated,
    /// No plan could be made.
    PlanFailed(Box<Failure>),
    /// Stop claiming, let running tasks reach a safe point.
    Pause {
        /// Why.
        reason: PauseReason,
        /// When to go on without being told; `None`: not before somebody says so.
        until: Option<Timestamp>,
    },
    /// Nothing runs any more.
    Drained,
    /// Go on.
    Resume,
    /// Give up; `undo` says whether to undo afterwards.
    Cancel {
        /// Whether the effects shall be undone as soon as nothing runs.
        undo: bool,
    },
    /// The job's deadline passed: as a cancel, with the result `failed`.
    DeadlinePassed(Box<Failure>),
    /// Every task has ended.
    AllDone(JobResult),
    /// Undo the effects, all of them.
    Undo,
    /// Confirm, after having undone what the outcome does not need.
    Clear,
    /// Be undone by itself at this moment.
    UndoAt(Timestamp),
    /// Move the end of the pause, or the moment of the undo, to a later moment.
    Extend {
        /// The new moment.
        until: Timestamp,
    },
    /// Every effect that was to be undone is undone.
    Undone,
    /// Some effects are still there.
    UndoIncomplete,
    /// Leave the rest as it is.
    IgnoreLeftovers,
    /// The outcome is permanent.
    Confirm,
    /// Run tasks again.
    Retry,
}

impl JobEvent {
    /// The name as shown.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Activated => "activated",
            Self::PlanFailed(_) => "plan_failed",
            Self::Pause { .. } => "pause",
            Self::Drained => "drained",
            Self::Resume => "resume",
            Self::Cancel { .. } => "cancel",
            Self::DeadlinePassed(_) => "deadline_passed",
            Self::AllDone(_) => "all_done",
            Self::Undo => "undo",
            Self::Clear => "clear",
            Self::UndoAt(_) => "undo_at",
            Self::Extend { .. } => "extend",
            Self::Undone => "undone",
            Self::UndoIncomplete => "undo_incomplete",
            Self::IgnoreLeftovers => "ignore_leftovers",
            Self::Confirm => "confirm",
            Self::Retry => "retry",
        }
    }
}

/// A move that the state machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {} cannot take {event}", .from.as_str())]
pub struct IllegalMove {
    /// The state it was in.
    pub from: JobState,
    /// The event that does not fit.
    pub event: &'static str,
}

impl JobStatus {
    /// A job that has just been submitted.
    #[must_use]
    pub fn new(at: Timestamp) -> Self {
        Self {
            state: JobState::Pending,
            since: at,
            started: None,
            ended: None,
            paused_at: None,
            paused_total_ms: 0,
            resume_at: None,
            pause_reason: None,
            result: None,
            failure: None,
            undo_after_cancel: false,
            undo_at: None,
            closing: None,
            generation: 0,
            slots: Vec::new(),
            last_request: None,
        }
    }

    /// Time that the job has worked: pauses do not count. Wall time, for people.
    #[must_use]
    pub fn elapsed(&self, now: Timestamp) -> Duration {
        let Some(started) = self.started else { return Duration::ZERO };
        let end = self.ended.or(self.paused_at).unwrap_or(now);
        let gross = end.as_millisecond().saturating_sub(started.as_millisecond());
        let net = gross.saturating_sub(i64::try_from(self.paused_total_ms).unwrap_or(i64::MAX));
        Duration::from_millis(u64::try_from(net).unwrap_or(0))
    }

    /// The only place where a job changes its state.
    ///
    /// # Errors
    ///
    /// [`IllegalMove`] names the state and the event.
    pub fn apply(mut self, event: JobEvent, at: Timestamp) -> Result<Self, IllegalMove> {
        use JobState::{Cancelling, Completed, Finished, Paused, Pausing, Pending, Running, UndoFailed, Undoing};
        let before = self.state;
        let illegal = IllegalMove { from: before, event: event.name() };
        self.state = match (self.state, event) {
            (Pending, JobEvent::Activated) => {
                self.generation += 1;
                self.started.get_or_insert(at);
                Running
            }
            (Pending, JobEvent::PlanFailed(failure)) => {
                self.complete(at, JobResult::Failed);
                self.failure = Some(failure);
                Completed
            }
            (Pending, JobEvent::Cancel { .. }) => {
                self.complete(at, JobResult::Cancelled);
                Completed
            }
            (Running, JobEvent::Pause { reason, until }) => {
                self.pause_reason = Some(reason);
                self.resume_at = until;
                Pausing
            }
            (Pausing, JobEvent::Drained) => {
                self.paused_at = Some(at);
                Paused
            }
            // A pause that has nothing left to wait for is over at once.
            (Running | Pausing | Paused | Cancelling, JobEvent::AllDone(result)) => {
                self.end_pause(at);
                self.complete(at, result);
                Completed
            }
            (Paused | Pausing, JobEvent::Resume) => {
                self.end_pause(at);
                Running
            }
            (Running | Pausing | Paused, JobEvent::Cancel { undo }) => {
                self.end_pause(at);
                self.undo_after_cancel = undo;
                Cancelling
            }
            // A second cancel may ask for more, never for less.
            (Cancelling, JobEvent::Cancel { undo }) => {
                self.undo_after_cancel |= undo;
                Cancelling
            }
            (Running | Pausing | Paused, JobEvent::DeadlinePassed(failure)) => {
                self.end_pause(at);
                self.failure = Some(failure);
                Cancelling
            }
            (Pausing | Paused, JobEvent::Extend { until }) if self.resume_at.is_some() => {
                self.resume_at = Some(until);
                before
            }
            (Completed | UndoFailed, JobEvent::Extend { until }) if self.undo_at.is_some() => {
                self.undo_at = Some(until);
                before
            }
            (Completed | UndoFailed, JobEvent::UndoAt(moment)) => {
                self.undo_at = Some(moment);
                before
            }
            (Completed | UndoFailed, JobEvent::Undo) => {
                self.close(Closing::Undo);
                Undoing
            }
            (Completed, JobEvent::Clear) => {
                self.close(Closing::Confirm);
                Undoing
            }
            (UndoFailed, JobEvent::Clear) if self.closing == Some(Closing::Confirm) => {
                self.close(Closing::Confirm);
                Undoing
            }
            (Undoing, JobEvent::Undone) => {
                self.ended.get_or_insert(at);
                Finished
            }
            (UndoFailed, JobEvent::IgnoreLeftovers) => self.finish(Closing::Ignore, at),
            (Completed, JobEvent::Confirm) => self.finish(Closing::Confirm, at),
            (Undoing, JobEvent::UndoIncomplete) => {
                self.ended = Some(at);
                UndoFailed
            }
            (Completed, JobEvent::Retry) => {
                self.generation += 1;
                self.ended = None;
                self.result = None;
                self.failure = None;
                self.undo_after_cancel = false;
                self.undo_at = None;
                Running
            }
            _ => return Err(illegal),
        };
        if self.state != before {
            self.since = at;
        }
        Ok(self)
    }

    /// Begins to undo, for good.
    fn close(&mut self, closing: Closing) {
        self.generation += 1;
        self.ended = None;
        self.undo_at = None;
        self.closing = Some(closing);
    }

    fn finish(&mut self, closing: Closing, at: Timestamp) -> JobState {
        self.ended.get_or_insert(at);
        self.undo_at = None;
        self.closing = Some(closing);
        JobState::Finished
    }

    fn complete(&mut self, at: Timestamp, result: JobResult) {
        self.ended = Some(at);
        // A deadline that passed makes a failure of whatever the tasks said.
        self.result = Some(if self.failure.is_some() { JobResult::Failed } else { result });
    }

    fn end_pause(&mut self, at: Timestamp) {
        if let Some(since) = self.paused_at.take() {
            let paused = at.as_millisecond().saturating_sub(since.as_millisecond());
            self.paused_total_ms += u64::try_from(paused).unwrap_or(0);
        }
        self.pause_reason = None;
        self.resume_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_table_is_exactly_this() {
        use JobState::*;
        let failure = || Box::new(Failure::permanent("x", "x"));
        let mut table = String::new();
        let plain = |state| (state, JobStatus { state, ..JobStatus::new(at(0)) });
        let states = [Pending, Running, Pausing, Paused, Cancelling, Completed, Undoing, UndoFailed, Finished];
        let mut froms: Vec<(String, JobStatus)> =
            states.map(plain).map(|(state, status)| (state.as_str().to_owned(), status)).into();
        // What hangs on more than the state: moments that can be moved, and a confirm that failed.
        for (_, status) in states.map(plain) {
            let timed = JobStatus { resume_at: Some(at(9)), undo_at: Some(at(9)), ..status.clone() };
            froms.push((format!("timed {}", status.state.as_str()), timed));
            let confirming = JobStatus { closing: Some(Closing::Confirm), ..status.clone() };
            froms.push((format!("confirming {}", status.state.as_str()), confirming));
        }
        for (name, from) in froms {
            for event in [
                JobEvent::Activated,
                JobEvent::PlanFailed(failure()),
                JobEvent::Pause { reason: PauseReason::Person, until: None },
                JobEvent::Drained,
                JobEvent::Resume,
                JobEvent::Cancel { undo: false },
                JobEvent::DeadlinePassed(failure()),
                JobEvent::AllDone(JobResult::Succeeded),
                JobEvent::Undo,
                JobEvent::Clear,
                JobEvent::UndoAt(at(9)),
                JobEvent::Extend { until: at(9) },
                JobEvent::Undone,
                JobEvent::UndoIncomplete,
                JobEvent::IgnoreLeftovers,
                JobEvent::Confirm,
                JobEvent::Retry,
            ] {
                let line = |to: &JobStatus| format!("{} + {} -> {}\n", name, event.name(), to.state.as_str());
                let usual = JobStatus { state: from.state, ..JobStatus::new(at(0)) }.apply(event.clone(), at(1));
                if let Ok(to) = from.clone().apply(event.clone(), at(1)) {
                    // Of the special ones only what the plain state does not have.
                    if usual.is_err() || !name.contains(' ') {
                        table += &line(&to);
                    }
                }
            }
        }
        let expected = "\
pending + activated -> running
pending + plan_failed -> completed
pending + cancel -> completed
running + pause -> pausing
running + cancel -> cancelling
running + deadline_passed -> cancelling
running + all_done -> completed
pausing + drained -> paused
pausing + resume -> running
pausing + cancel -> cancelling
pausing + deadline_passed -> cancelling
pausing + all_done -> completed
paused + resume -> running
paused + cancel -> cancelling
paused + deadline_passed -> cancelling
paused + all_done -> completed
cancelling + cancel -> cancelling
cancelling + all_done -> completed
completed + undo -> undoing
completed + clear -> undoing
completed + undo_at -> completed
completed + confirm -> finished
completed + retry -> running
undoing + undone -> finished
undoing + undo_incomplete -> undo_failed
undo_failed + undo -> undoing
undo_failed + undo_at -> undo_failed
undo_failed + ignore_leftovers -> finished
timed pausing + extend -> pausing
timed paused + extend -> paused
timed completed + extend -> completed
timed undo_failed + extend -> undo_failed
confirming undo_failed + clear -> undoing
";
        assert_eq!(table, expected);
    }

    #[test]
    fn pauses_do_not_count_as_work_at_any_moment() {
        let job = JobStatus::new(at(0)).apply(JobEvent::Activated, at(10)).unwrap();
        assert_eq!(job.elapsed(at(15)).as_secs(), 5);
        let job = job.apply(JobEvent::Pause { reason: PauseReason::Person, until: None }, at(20)).unwrap();
        let job = job.apply(JobEvent::Drained, at(22)).unwrap();
        assert_eq!(job.elapsed(at(22)).as_secs(), 12);
        assert_eq!(job.elapsed(at(500)).as_secs(), 12);
        let job = job.apply(JobEvent::Resume, at(122)).unwrap();
        assert_eq!(job.elapsed(at(122)).as_secs(), 12);
        let job = job.apply(JobEvent::AllDone(JobResult::Succeeded), at(130)).unwrap();
        assert_eq!(job.elapsed(at(9999)).as_secs(), 20);
    }

    #[test]
    fn a_moment_that_is_moved_is_no_change_of_the_state() {
        let job = JobStatus { state: JobState::Completed, undo_at: Some(at(60)), ..JobStatus::new(at(0)) };
        let job = job.apply(JobEvent::Extend { until: at(90) }, at(50)).unwrap();
        assert_eq!((job.undo_at, job.since), (Some(at(90)), at(0)));
        let job = job.apply(JobEvent::Undo, at(90)).unwrap();
        assert_eq!((job.undo_at, job.closing, job.generation), (None, Some(Closing::Undo), 1));
    }

    #[test]
    fn a_confirm_that_failed_can_become_an_undo_of_everything() {
        let job = JobStatus { state: JobState::Completed, ..JobStatus::new(at(0)) };
        let job = job.apply(JobEvent::Clear, at(1)).unwrap().apply(JobEvent::UndoIncomplete, at(2)).unwrap();
        assert_eq!(job.closing, Some(Closing::Confirm));
        let undo = job.clone().apply(JobEvent::Undo, at(3)).unwrap();
        assert_eq!(undo.closing, Some(Closing::Undo));
        assert!(undo.apply(JobEvent::UndoIncomplete, at(4)).unwrap().apply(JobEvent::Clear, at(5)).is_err());
        let ignored = job.apply(JobEvent::IgnoreLeftovers, at(3)).unwrap();
        assert_eq!((ignored.state, ignored.closing), (JobState::Finished, Some(Closing::Ignore)));
    }

    #[test]
    fn a_passed_deadline_makes_the_result_a_failure() {
        let job = JobStatus::new(at(0)).apply(JobEvent::Activated, at(0)).unwrap();
        let job = job.apply(JobEvent::DeadlinePassed(Box::new(Failure::permanent("x", "x"))), at(1)).unwrap();
        let job = job.apply(JobEvent::AllDone(JobResult::Cancelled), at(2)).unwrap();
        assert_eq!(job.result, Some(JobResult::Failed));
    }
}
