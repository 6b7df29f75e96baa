//! When a job comes to rest.

use windlass_model::job::{Closing, JobEvent, JobResult, JobState};

use super::{Coordinator, UNDO_AGAIN_MS, commands};
use crate::EngineError;

impl Coordinator {
    /// Moves the job on when nothing is left to do in its state. Returns whether it thereby comes to rest.
    pub(super) async fn comes_to_rest(&mut self) -> Result<bool, EngineError> {
        let now = self.now();
        let verdict = self.image.verdict();
        match self.image.status.state {
            JobState::Pausing
                if self.image.running.is_empty()
                    && self.image.offered.is_empty()
                    && (verdict.is_none() || self.is_standing()) =>
            {
                self.image.move_job(&mut self.batch, JobEvent::Drained, now)?;
                Ok(false)
            }
            // Only a cancel, a deadline and a preview bring it to an end.
            JobState::Running | JobState::Pausing | JobState::Paused
                if self.is_standing() && (!self.image.record.preview || self.awaits_round()) =>
            {
                Ok(false)
            }
            JobState::Running | JobState::Pausing | JobState::Paused | JobState::Cancelling => {
                let verdict = self.failed_preview().or(verdict).or_else(|| self.preview_verdict());
                let Some(verdict) = verdict else { return Ok(false) };
                self.image.move_job(&mut self.batch, JobEvent::AllDone(verdict), now)?;
                if self.image.status.undo_after_cancel {
                    // In one batch: a crash must not leave a cancelled job that was to be undone.
                    self.begin_undo(Closing::Undo).await?;
                    return Ok(!self.image.status.state.is_active());
                }
                if let Some(ms) = self.image.record.undo_after_ms.filter(|_| !self.is_standing()) {
                    self.image.move_job(&mut self.batch, JobEvent::UndoAt(commands::later(now, ms)), now)?;
                }
                Ok(self.image.status.undo_at.is_none())
            }
            JobState::Undoing if verdict.is_some() => {
                let mut undone = self.image.undo_is_complete();
                if undone && self.image.status.closing == Some(Closing::Undo) {
                    // The look runs beside the loop; it brings the job here again.
                    let Some(found_nothing) = self.look_for_leftovers() else { return Ok(false) };
                    undone = found_nothing;
                }
                if undone && self.image.status.closing == Some(Closing::Confirm) {
                    self.make_permanent().await?;
                }
                let event = if undone { JobEvent::Undone } else { JobEvent::UndoIncomplete };
                self.image.move_job(&mut self.batch, event, now)?;
                // What undid itself tries again by itself.
                if !undone
                    && self.image.record.undo_after_ms.is_some()
                    && self.image.status.closing == Some(Closing::Undo)
                {
                    self.image.move_job(&mut self.batch, JobEvent::UndoAt(commands::later(now, UNDO_AGAIN_MS)), now)?;
                }
                Ok(self.image.status.undo_at.is_none())
            }
            JobState::Completed | JobState::UndoFailed => {
                let Some(at) = self.image.status.undo_at else { return Ok(true) };
                if at > now {
                    return Ok(false);
                }
                if let Some(why) = self.begin_undo(Closing::Undo).await? {
                    tracing::info!(job = %self.image.id(), why, "the job cannot be undone yet");
                    self.image.move_job(&mut self.batch, JobEvent::UndoAt(commands::later(now, UNDO_AGAIN_MS)), now)?;
                }
                Ok(false)
            }
            JobState::Finished => Ok(true),
            JobState::Undoing | JobState::Pending => Ok(false),
        }
    }

    /// A preview is over when nothing runs and nothing that changes nothing is left.
    fn preview_verdict(&self) -> Option<JobResult> {
        let over = self.image.record.preview
            && self.image.running.is_empty()
            && !self.image.ready_tasks().any(|task| self.attempts.changes_nothing(&task.spec))
            && self.image.wake_moment().is_none();
        over.then_some(if self.image.counts.failed > 0 { JobResult::Failed } else { JobResult::Succeeded })
    }
}
