//! The last look outside after an undo: for what carries the job's mark and is in no ledger.

use std::time::Duration;

use serde_json::{Map, Value};
use windlass_model::Failure;
use windlass_model::effect::Effect;
use windlass_model::log::Level;

use super::Coordinator;
use crate::kind::PlanContext;
use crate::report;

/// The longest that a look may take.
const LONGEST: Duration = Duration::from_secs(600);

impl Coordinator {
    /// Lets the kind look. Returns whether it found nothing; what it found is in the log.
    pub(super) async fn finds_nothing_left(&mut self) -> bool {
        let record = self.image.record.clone();
        let Some(kind) = self.shared.kinds.kind(&record.kind).cloned() else { return true };
        let mut effects: Vec<Effect> =
            self.image.tasks.values().flat_map(|task| task.effects.values()).cloned().collect();
        effects.sort_unstable_by_key(|effect| (effect.task, effect.n));
        let context = PlanContext {
            job: record.id,
            generation: self.image.status.generation,
            clock: self.shared.clock.clone(),
            entropy: self.shared.entropy.clone(),
        };
        let look = kind.sweep(&context, &record.spec, &effects);
        let found = windlass_clock::deadline(&*self.shared.clock, LONGEST, look).await;
        let late = || Err(Failure::transient("sweep_late", "looking for leftovers took longer than ten minutes"));
        let now = self.now();
        match found.unwrap_or_else(|_| late()) {
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
        }
    }
}
