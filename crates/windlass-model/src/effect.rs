//! The effect ledger: every change to the outside world, written down before and after.
//!
//! An entry is `intended` before the call, `made` after it, `gone` once undone. Undo works from the ledger and
//! never from results: what is `intended` may exist outside, whatever the task's result was.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Digest, Epoch, TaskId};

/// How far an effect has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectState {
    /// Written before the call: it may or may not exist outside.
    Intended,
    /// The call succeeded.
    Made,
    /// Undone, or found never to have happened.
    Gone,
    /// It exists and is no longer this job's to undo: others hold it, or it was made permanent.
    Kept,
}

impl EffectState {
    /// The name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Made => "made",
            Self::Gone => "gone",
            Self::Kept => "kept",
        }
    }
}

/// What happens to an effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EffectEvent {
    /// The call succeeded, or recover mode found its result.
    Made {
        /// What the outside calls the thing, if it has a name.
        external_id: Option<String>,
        /// What undo needs besides: the previous value, what was done per item.
        receipt: Option<serde_json::Value>,
    },
    /// It was undone, or recover mode found that it never happened and it will not be repeated.
    Gone,
    /// It was left to the others who hold it.
    Kept,
}

/// One entry of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// The task that made it.
    pub task: TaskId,
    /// Counts the effects of the task from 0. Repeating an attempt repeats the numbers.
    pub n: u32,
    /// The epoch of the attempt that wrote the last change.
    pub epoch: Epoch,
    /// What is done: `insert`, `delete`, `rename`.
    pub action: String,
    /// What the outside can recognise a repetition by.
    pub key: String,
    /// Where: the system, and the place in it.
    pub target: String,
    /// Digest of the parameters, to tell a repetition from a different call.
    pub parameters: Digest,
    /// How far it has got.
    pub state: EffectState,
    /// What the outside calls the thing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// What undo needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<serde_json::Value>,
    /// When the entry last changed.
    pub at: Timestamp,
}

/// A move that the ledger does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("effect {n} of task {task} is {from:?} and cannot become {to:?}")]
pub struct IllegalEffect {
    task: TaskId,
    n: u32,
    from: EffectState,
    to: EffectState,
}

impl Effect {
    /// The only place where an effect changes its state. Repeating a move is allowed and changes nothing else.
    ///
    /// # Errors
    ///
    /// [`IllegalEffect`]: what is gone does not come back.
    pub fn apply(mut self, event: EffectEvent, epoch: Epoch, at: Timestamp) -> Result<Self, IllegalEffect> {
        let to = match event {
            EffectEvent::Made { .. } => EffectState::Made,
            EffectEvent::Gone => EffectState::Gone,
            EffectEvent::Kept => EffectState::Kept,
        };
        if self.state == EffectState::Gone && to != EffectState::Gone {
            return Err(IllegalEffect { task: self.task, n: self.n, from: self.state, to });
        }
        if let EffectEvent::Made { external_id, receipt } = event {
            self.external_id = external_id;
            self.receipt = receipt;
        }
        self.state = to;
        self.epoch = epoch;
        self.at = at;
        Ok(self)
    }

    /// Whether the effect may exist outside and is this job's to undo.
    #[must_use]
    pub fn may_exist(&self) -> bool {
        matches!(self.state, EffectState::Intended | EffectState::Made)
    }
}

/// Something outside that a job has left there and that nobody undoes any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// The task that made it, as people read it; empty when it was found outside and is in no ledger.
    pub task: String,
    /// What was done: `insert`, `create`.
    pub action: String,
    /// What the outside can recognise it by.
    pub key: String,
    /// Where: the system, and the place in it.
    pub target: String,
    /// Whether it surely exists (`made`) or only may (`intended`).
    pub state: EffectState,
    /// What the outside calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// The shared resource that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<String>,
    /// A line of shell that removes it, when its task type knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_stays_gone_and_repeating_is_harmless() {
        let effect = Effect {
            task: TaskId::from_bits(1),
            n: 0,
            epoch: Epoch(1),
            action: "insert".into(),
            key: "k".into(),
            target: "agent-0".into(),
            parameters: Digest::of(b""),
            state: EffectState::Intended,
            external_id: None,
            receipt: None,
            at: Timestamp::UNIX_EPOCH,
        };
        let made = EffectEvent::Made { external_id: Some("x".into()), receipt: None };
        let once = effect.apply(made.clone(), Epoch(1), Timestamp::UNIX_EPOCH).unwrap();
        let twice = once.clone().apply(made.clone(), Epoch(1), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(once, twice);
        let gone = twice.apply(EffectEvent::Gone, Epoch(2), Timestamp::UNIX_EPOCH).unwrap();
        assert!(!gone.may_exist());
        assert!(gone.clone().apply(EffectEvent::Gone, Epoch(2), Timestamp::UNIX_EPOCH).is_ok());
        assert!(gone.clone().apply(made, Epoch(3), Timestamp::UNIX_EPOCH).is_err());
        assert!(gone.apply(EffectEvent::Kept, Epoch(3), Timestamp::UNIX_EPOCH).is_err());
        let kept = once.apply(EffectEvent::Kept, Epoch(1), Timestamp::UNIX_EPOCH).unwrap();
        assert!(!kept.may_exist());
    }
}
