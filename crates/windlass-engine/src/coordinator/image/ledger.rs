//! What attempts write down of the outside, and how far they have got.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_model::effect::{Effect, EffectEvent, EffectState};
use windlass_model::task::Output;
use windlass_model::{Epoch, TaskId};
use windlass_store::keys;

use super::{Batch, JobImage};
use crate::EngineError;
use crate::records::encode;

/// From here on the ledger counts effects that were made with an input which the task has no more.
const ASIDE: u32 = 900_000;

/// How far a task had got, and the attempt that said so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) epoch: Epoch,
    pub(crate) value: Output,
}

impl JobImage {
    /// Writes intended effects; answers how far each had got already.
    pub(crate) fn intend(&mut self, batch: &mut Batch, id: TaskId, effects: Vec<Effect>) -> Vec<EffectState> {
        let job = self.id();
        let Some(task) = self.tasks.get_mut(&id) else { return Vec::new() };
        batch.label("intend");
        let (states, changed) = intend(&mut task.effects, task.status.input.is_some(), effects);
        for effect in changed {
            batch.put(keys::effect(job, id, effect.n), encode(&effect));
        }
        states
    }

    /// Writes what became of an effect.
    pub(crate) fn settle(
        &mut self,
        batch: &mut Batch,
        of: TaskId,
        n: u32,
        event: EffectEvent,
        epoch: Epoch,
        at: Timestamp,
    ) -> Result<(), EngineError> {
        let job = self.id();
        let effect = self.tasks.get_mut(&of).and_then(|task| task.effects.get_mut(&n));
        let effect = effect.ok_or_else(|| EngineError::bug(format!("effect {n} of task {of} was never intended")))?;
        *effect = effect.clone().apply(event, epoch, at).map_err(|error| EngineError::bug(error.to_string()))?;
        batch.label("settle");
        batch.put(keys::effect(job, of, n), encode(&*effect));
        Ok(())
    }

    /// Stores a checkpoint.
    pub(crate) fn checkpoint(&mut self, batch: &mut Batch, id: TaskId, epoch: Epoch, value: Output) {
        let job = self.id();
        if let Some(task) = self.tasks.get_mut(&id) {
            let checkpoint = Checkpoint { epoch, value };
            batch.label("checkpoint");
            batch.put(keys::checkpoint(job, id), encode(&checkpoint));
            task.checkpoint = Some(checkpoint);
        }
    }
}

/// Enters intended effects into the ledger of a task. Answers how far each had got already, and which entries are
/// new or changed. `other_input`: the task has an input that it was given for a retry.
pub(crate) fn intend(
    ledger: &mut BTreeMap<u32, Effect>,
    other_input: bool,
    effects: Vec<Effect>,
) -> (Vec<EffectState>, Vec<Effect>) {
    let mut changed = Vec::new();
    let mut enter = |effect: Effect| match ledger.get(&effect.n) {
        Some(known) if known.may_exist() && !(other_input && known.parameters != effect.parameters) => known.state,
        known => {
            // What it made with its former input is still to be undone, under another number.
            if let Some(known) = known.filter(|known| known.may_exist()).cloned() {
                let last = ledger.last_key_value().map_or(0, |(n, _)| *n);
                let aside = Effect { n: last.max(ASIDE).saturating_add(1), ..known };
                changed.push(aside.clone());
                ledger.insert(aside.n, aside);
            }
            // New, or undone and now to be made again by a retry.
            changed.push(effect.clone());
            ledger.insert(effect.n, effect);
            EffectState::Intended
        }
    };
    let states = effects.into_iter().map(&mut enter).collect();
    (states, changed)
}
