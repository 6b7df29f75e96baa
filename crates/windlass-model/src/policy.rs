//! What follows a failed attempt.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ErrorClass, Failure};

/// What may happen to a task whose worker died in the middle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnWorkerDeath {
    /// Another attempt starts, in recover mode.
    #[default]
    Rerun,
    /// The job pauses and a person decides. For targets that can tell neither a repetition nor a stale caller.
    Ask,
}

/// How a task type is retried and bounded. All durations in milliseconds, so that the record says what it means.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Attempts that may fail before the task does. At least 1.
    pub attempts: u32,
    /// Wait after the first failure; doubles with each further one.
    pub backoff_ms: u64,
    /// The longest wait between attempts.
    pub backoff_cap_ms: u64,
    /// The longest time from a task's first claim to its end, waits included; `None`: unbounded.
    pub deadline_ms: Option<u64>,
    /// The longest one attempt may go without reporting progress, a checkpoint or an effect; then it is stopped
    /// and counts as failed with an unknown outcome.
    pub stall_ms: u64,
    /// Worker deaths after which the task is taken for the cause and fails as `poisoned`.
    pub poison_after: u32,
    /// What follows a worker's death.
    pub on_worker_death: OnWorkerDeath,
    /// Whether an attempt stops at its next safe point on cancel and pause; otherwise it runs to its end.
    pub interruptible: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attempts: 5,
            backoff_ms: 1_000,
            backoff_cap_ms: 60_000,
            deadline_ms: None,
            stall_ms: 30 * 60_000,
            poison_after: 3,
            on_worker_death: OnWorkerDeath::Rerun,
            interruptible: true,
        }
    }
}

/// What follows a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after this wait.
    Retry(Duration),
    /// The task has failed.
    Fail,
    /// Give the claim back without counting a failure: the attempt was told to stop.
    Release,
    /// Give the claim back and pause the job until a person resumes it.
    PauseJob,
}

impl Policy {
    /// The verdict on attempt number `failures` (1 for the first failure) that failed with `failure`, `spent`
    /// after the first claim. `jitter` is a random fraction in `[0, 1)`.
    #[must_use]
    pub fn verdict(&self, failure: &Failure, failures: u32, spent: Duration, jitter: f64) -> Verdict {
        let wait = self.wait(failure, failures, jitter);
        let late = self.deadline_ms.is_some_and(|limit| (spent + wait).as_millis() > u128::from(limit));
        match failure.class {
            ErrorClass::Permanent => Verdict::Fail,
            ErrorClass::Interrupted => Verdict::Release,
            ErrorClass::NeedsAttention => Verdict::PauseJob,
            ErrorClass::Transient | ErrorClass::UnknownOutcome if failures >= self.attempts || late => Verdict::Fail,
            // A conflict resolves itself or runs into the deadline; it does not use up attempts unless nothing
            // else bounds it.
            ErrorClass::Conflict if late || (self.deadline_ms.is_none() && failures >= self.attempts) => Verdict::Fail,
            ErrorClass::Transient | ErrorClass::UnknownOutcome | ErrorClass::Conflict => Verdict::Retry(wait),
        }
    }

    /// Full jitter: a random part of the exponential wait, so that many tasks that failed together do not come
    /// back together. What the other side asked for wins.
    fn wait(&self, failure: &Failure, failures: u32, jitter: f64) -> Duration {
        if let Some(asked) = failure.retry_after_ms {
            return Duration::from_millis(asked);
        }
        let doubled = self.backoff_ms.saturating_mul(1u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX));
        Duration::from_millis(doubled.min(self.backoff_cap_ms)).mul_f64(jitter.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(class: ErrorClass, failures: u32, policy: &Policy) -> Verdict {
        policy.verdict(&Failure::new("x", class, "x"), failures, Duration::from_secs(1), 0.5)
    }

    #[test]
    fn each_class_has_its_consequence() {
        let policy = Policy { attempts: 3, ..Policy::default() };
        assert_eq!(verdict(ErrorClass::Transient, 1, &policy), Verdict::Retry(Duration::from_millis(500)));
        assert_eq!(verdict(ErrorClass::Transient, 2, &policy), Verdict::Retry(Duration::from_millis(1000)));
        assert_eq!(verdict(ErrorClass::Transient, 3, &policy), Verdict::Fail);
        assert_eq!(verdict(ErrorClass::UnknownOutcome, 1, &policy), Verdict::Retry(Duration::from_millis(500)));
        assert_eq!(verdict(ErrorClass::Permanent, 1, &policy), Verdict::Fail);
        assert_eq!(verdict(ErrorClass::Interrupted, 9, &policy), Verdict::Release);
        assert_eq!(verdict(ErrorClass::NeedsAttention, 1, &policy), Verdict::PauseJob);
        let bounded = Policy { deadline_ms: Some(3_600_000), ..policy };
        assert!(matches!(verdict(ErrorClass::Conflict, 50, &bounded), Verdict::Retry(_)));
    }

    #[test]
    fn waits_are_capped_obey_the_other_side_and_the_deadline() {
        let policy = Policy { attempts: 100, ..Policy::default() };
        let failure = Failure::transient("x", "x");
        assert_eq!(policy.verdict(&failure, 90, Duration::ZERO, 1.0), Verdict::Retry(Duration::from_secs(60)));
        let asked = Failure { retry_after_ms: Some(7_000), ..failure.clone() };
        assert_eq!(policy.verdict(&asked, 1, Duration::ZERO, 0.1), Verdict::Retry(Duration::from_secs(7)));
        let short = Policy { deadline_ms: Some(5_000), ..policy };
        assert_eq!(short.verdict(&asked, 1, Duration::ZERO, 0.1), Verdict::Fail);
    }
}
