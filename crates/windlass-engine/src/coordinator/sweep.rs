//! The last look outside after an undo: for what carries the job's mark and is in no ledger.

use std::time::Duration;

use serde_json::{Map, Value};
use windlass_model::Failure;
use windlass_model::effect::{Effect, Leftover};
use windlass_model::log::Level;

use super::Coordinator;
use crate::kind::PlanContext;
use crate::report;

/// The longest that a look may take.
const LONGEST: Duration = Duration::from_secs(600);

impl Coordinator {
    /// Lets the kind look, beside the loop. Returns whether it found nothing once it has looked; what it found is in the
    /// log.
    pub(super) fn look_for_leftovers(&mut self) -> Option<bool> {
        if let Some(swept) = self.swept.take() {
            return Some(swept);
        }
        if self.sweep.is_busy() {
            return None;
        }
        let record = self.image.record.clone();
        let Some(kind) = self.shared.kinds.kind(&record.kind).cloned() else { return Some(true) };
        let mut effects: Vec<Effect> =
            self.image.tasks.values().flat_map(|task| task.effects.values()).cloned().collect();
        effects.sort_unstable_by_key(|effect| (effect.task, effect.n));
        let context = PlanContext {
            job: record.id,
            generation: self.image.status.generation,
            clock: self.shared.clock.clone(),
            entropy: self.shared.entropy.clone(),
        };
        self.sweep.begin(self.shared.clock.clone(), LONGEST, move |_| async move {
            kind.sweep(&context, &record.spec, &effects).await
        });
        None
    }

    /// The look has ended.
    pub(super) fn looked_for_leftovers(&mut self, found: Result<Vec<Leftover>, Failure>) {
        let now = self.now();
        self.swept = Some(match found {
            Ok(found) => {
                for left in &found {
                    let text = format!("{} {} on {} is left and in no ledger", left.action, left.key, left.target);
                    let fields = match serde_json::to_value(left) {
                        Ok(Value::Object(fields)) => fields,
                        _ => Map::new(),
                    };
                    self.image.log_entry(&mut self.batch, now, Level::Warn, report::FOUND_LEFT, None, text, fields);
                }
                found.is_empty()
            }
            Err(failure) => {
                self.image.log(&mut self.batch, now, Level::Warn, "job.sweep_failed", None, |_| {
                    format!("whether anything is left could not be seen: {failure}")
                });
                false
            }
        });
    }
}
