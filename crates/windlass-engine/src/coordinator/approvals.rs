//! Tasks that ask a person first. They wait without a place; the answer is stored with who gave it and when.

use windlass_model::log::Level;
use windlass_model::task::{Approval, TaskEvent, TaskState};

use super::Coordinator;
use crate::EngineError;

impl Coordinator {
    /// Says yes to the question of a task, also before it is its turn and while the job is paused. Returns why it
    /// does not, if it does not. Saying yes twice changes nothing.
    pub(super) fn approve(
        &mut self,
        given: &str,
        by: String,
        note: Option<String>,
    ) -> Result<Option<String>, EngineError> {
        let id = match self.image.named(given) {
            Ok(id) => id,
            Err(why) => return Ok(Some(why)),
        };
        let task = &self.image.tasks[&id];
        let name = task.spec.name();
        if task.spec.needs_approval.is_none() {
            return Ok(Some(format!("{name} asks nobody")));
        }
        if task.status.approval.is_some() {
            return Ok(None);
        }
        if by.trim().is_empty() {
            return Ok(Some(format!("an approval of {name} names who gives it")));
        }
        if !matches!(task.status.state, TaskState::Waiting { .. }) {
            return Ok(Some(format!("{name} does not wait any more: it is {}", task.status.state.name())));
        }
        let now = self.now();
        let said = note.as_deref().map(|note| format!(": {note}")).unwrap_or_default();
        self.image.log(&mut self.batch, now, Level::Info, "task.approved", Some(id), |name| {
            format!("{by} lets {name} run{said}")
        });
        self.image.move_task(&mut self.batch, id, TaskEvent::Approved(Approval { by, at: now, note }), now)?;
        Ok(None)
    }
}
