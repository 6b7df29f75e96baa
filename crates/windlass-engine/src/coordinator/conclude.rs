//! What follows the end of an attempt.

use std::time::Duration;

use jiff::Timestamp;
use windlass_model::job::{JobEvent, JobState, PauseReason};
use windlass_model::log::Level;
use windlass_model::policy::Verdict;
use windlass_model::task::TaskEvent;
use windlass_model::{Epoch, ErrorClass, Failure, TaskId};

use super::{Coordinator, Kept, shared};
use crate::EngineError;
use crate::kind::Finished;
use crate::records::AddedBy;
use crate::values;

impl Coordinator {
    /// An attempt has ended.
    pub(super) async fn ended(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        result: Result<Finished, Failure>,
    ) -> Result<(), EngineError> {
        let stopped = self.attempts.forget(id, epoch);
        self.progress_dirty.remove(&id);
        if !self.image.holds(id, epoch) {
            return Ok(());
        }
        // What was stopped for itself has failed for that reason, not because somebody wanted it to stop.
        let result = match (result, stopped) {
            (Err(failure), Some(stopped)) if failure.class == ErrorClass::Interrupted => Err(stopped.failure()),
            (result, _) => result,
        };
        let result = match result {
            Ok(Finished { output, add }) => match values::keep(&*self.shared.store, self.image.id(), output).await {
                Ok(output) => Ok(Kept { output, add }),
                Err(EngineError::ValueTooLarge { bytes, most }) => {
                    let text = format!("the output has {bytes} bytes, at most {most} are kept");
                    Err(Failure::permanent("output_too_large", text))
                }
                Err(error) => return Err(error),
            },
            Err(failure) => Err(failure),
        };
        // Those that hold shared resources are taken in together, before anything else is decided.
        if let Ok(kept) = &result
            && self.left_undone(id).is_none()
            && let Some(shared) = self.may_share(id, kept).await?
        {
            match shared {
                Ok(shared) => self.to_share.push(shared),
                Err(failure) => self.failed(id, failure, false)?,
            }
            return Ok(());
        }
        self.concluded(id, epoch, result, false).await
    }

    /// What an undo has left in place.
    fn left_undone(&self, id: TaskId) -> Option<String> {
        self.image.tasks[&id].spec.undoes.and_then(|undone| self.image.left_by(undone))
    }

    /// An attempt has ended, here or elsewhere. `asked`: it was told to stop by its worker.
    pub(super) async fn concluded(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        result: Result<Kept, Failure>,
        asked: bool,
    ) -> Result<(), EngineError> {
        if let Err(failure) = &result
            && failure.code == shared::GONE
            && self.made_absent(id).await?
        {
            return Ok(());
        }
        let accepted = match result {
            Ok(kept) => self.accept(id, epoch, kept).await?,
            Err(failure) => Err(failure),
        };
        match accepted {
            Ok(()) => Ok(()),
            Err(failure) => self.failed(id, failure, asked),
        }
    }

    /// Takes in a success: the output, and the tasks it brings.
    async fn accept(&mut self, id: TaskId, epoch: Epoch, kept: Kept) -> Result<Result<(), Failure>, EngineError> {
        if let Some(left) = self.left_undone(id) {
            return Ok(Err(Failure::permanent("undo_incomplete", format!("undoing left effect {left} in place"))));
        }
        if let Some(accepted) = self.accept_shared(id, &kept).await? {
            return Ok(accepted);
        }
        if !kept.add.is_empty() {
            let added_by = AddedBy::Task(id, epoch);
            if let Err(failure) = self.add_tasks(kept.add, added_by).await? {
                return Ok(Err(failure));
            }
        }
        let now = self.now();
        self.image.move_task(&mut self.batch, id, TaskEvent::Succeeded(kept.output), now)?;
        self.batch.label = "finish";
        self.image.log(&mut self.batch, now, Level::Info, "task.done", Some(id), |name| format!("{name} is done"));
        Ok(Ok(()))
    }

    /// Decides what follows a failed attempt.
    pub(super) fn failed(&mut self, id: TaskId, failure: Failure, asked: bool) -> Result<(), EngineError> {
        let now = self.now();
        let policy = self.policy(id);
        let status = &self.image.tasks[&id].status;
        let spent = status.started.map_or(Duration::ZERO, |started| {
            let ms = now.as_millisecond().saturating_sub(started.as_millisecond());
            Duration::from_millis(u64::try_from(ms).unwrap_or(0))
        });
        let asked_to_stop = asked
            || self.shutting_down
            || self.session.over.is_cancelled()
            || matches!(self.image.status.state, JobState::Pausing | JobState::Cancelling);
        // A task that stops although nobody asked it to is a fault like any other; it must not spin.
        let failure = if failure.class == ErrorClass::Interrupted && !asked_to_stop {
            Failure { class: ErrorClass::Transient, ..failure }
        } else {
            failure
        };
        let verdict = policy.verdict(&failure, status.failures + 1, spent, self.shared.entropy.fraction());
        self.batch.label = "fail";
        // What cleans up after a task is not cancelled with it.
        let cancelling = self.image.status.state == JobState::Cancelling && self.image.tasks[&id].spec.undoes.is_none();
        match verdict {
            Verdict::Release if cancelling => self.image.end_badly(&mut self.batch, id, TaskEvent::Cancelled, now),
            Verdict::Release => self.image.move_task(&mut self.batch, id, TaskEvent::Released, now),
            Verdict::Retry(_) if cancelling => self.image.end_badly(&mut self.batch, id, TaskEvent::Cancelled, now),
            Verdict::Retry(wait) => {
                let ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
                let retry_at = Timestamp::from_millisecond(now.as_millisecond().saturating_add(ms)).unwrap_or(now);
                self.image.log(&mut self.batch, now, Level::Info, "task.retry", Some(id), |name| {
                    format!("{name} failed and is tried again in {:.1} s: {failure}", wait.as_secs_f64())
                });
                let recover = failure.class == ErrorClass::UnknownOutcome || !self.image.tasks[&id].effects.is_empty();
                let event = TaskEvent::FailedAttempt { failure: Box::new(failure), retry_at, recover };
                self.image.move_task(&mut self.batch, id, event, now)
            }
            Verdict::Fail => {
                self.image.log(&mut self.batch, now, Level::Error, "task.failed", Some(id), |name| {
                    format!("{name} failed: {failure}")
                });
                let cancels = failure.cancels_the_job();
                self.image.end_badly(&mut self.batch, id, TaskEvent::Failed(Box::new(failure)), now)?;
                if cancels && self.image.status.state == JobState::Running {
                    self.image.move_job(&mut self.batch, JobEvent::Cancel { undo: false }, now)?;
                    self.interrupt_all();
                }
                Ok(())
            }
            Verdict::PauseJob => {
                self.image.log(&mut self.batch, now, Level::Error, "job.attention", Some(id), |name| {
                    format!("{name} needs a person: {failure}")
                });
                self.image.move_task(&mut self.batch, id, TaskEvent::Released, now)?;
                if self.image.status.state == JobState::Running {
                    let reason = PauseReason::Attention { failure: Box::new(failure) };
                    self.image.move_job(&mut self.batch, JobEvent::Pause { reason, until: None }, now)?;
                    self.interrupt_all();
                }
                Ok(())
            }
        }
    }
}
