//! How many tasks are in which state.

use serde::{Deserialize, Serialize};
use windlass_model::task::{Outcome, TaskState};

/// Tasks by state and outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Not claimed.
    pub waiting: u64,
    /// Claimed.
    pub running: u64,
    /// Ended well.
    pub succeeded: u64,
    /// Ended badly.
    pub failed: u64,
    /// Not tried, because something before them failed.
    pub ignored: u64,
    /// Not tried, or given up, because the job was cancelled.
    pub cancelled: u64,
}

impl Counts {
    /// All tasks.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.waiting + self.running + self.ended()
    }

    /// Tasks that have ended.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.succeeded + self.failed + self.ignored + self.cancelled
    }

    /// The sum of two.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            waiting: self.waiting + other.waiting,
            running: self.running + other.running,
            succeeded: self.succeeded + other.succeeded,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
            cancelled: self.cancelled + other.cancelled,
        }
    }

    pub(super) fn slot(&mut self, state: &TaskState) -> &mut u64 {
        match state {
            TaskState::Waiting { .. } => &mut self.waiting,
            TaskState::Running { .. } => &mut self.running,
            TaskState::Done { outcome } => match outcome {
                Outcome::Succeeded { .. } => &mut self.succeeded,
                Outcome::Failed { .. } => &mut self.failed,
                Outcome::Ignored { .. } => &mut self.ignored,
                Outcome::Cancelled => &mut self.cancelled,
            },
        }
    }
}
