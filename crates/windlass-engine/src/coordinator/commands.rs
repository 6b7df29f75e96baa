//! What people may ask of a job.

use windlass_model::job::{JobEvent, JobState, PauseReason};
use windlass_model::task::TaskEvent;
use windlass_model::{Failure, TaskId};
use windlass_store::keys;

use super::Coordinator;
use crate::EngineError;
use crate::command::{Command, CommandReply};

impl Coordinator {
    /// Carries out a command. The same request id twice gets the same answer and changes nothing the second time.
    pub(super) async fn command(
        &mut self,
        command: Command,
        request: Option<String>,
    ) -> Result<CommandReply, EngineError> {
        if request.is_some() && self.image.status.last_request == request {
            return Ok(CommandReply::Done(Box::new(self.image.status.clone())));
        }
        let now = self.now();
        let event = match command {
            Command::Pause { until } => JobEvent::Pause { reason: PauseReason::Person, until },
            Command::Resume => JobEvent::Resume,
            Command::Cancel { undo } => JobEvent::Cancel { undo },
            Command::Undo => JobEvent::Undo,
            Command::Confirm => JobEvent::Confirm,
            Command::IgnoreLeftovers => JobEvent::IgnoreLeftovers,
            Command::Retry => JobEvent::Retry,
        };
        // Tried on a copy first: a command that does not fit is refused and changes nothing.
        if let Err(illegal) = self.image.status.clone().apply(event.clone(), now) {
            return Ok(CommandReply::refused(illegal.to_string()));
        }
        let was = self.image.status.state;
        match command {
            Command::Undo => {
                if let CommandReply::Refused(why) = self.begin_undo().await? {
                    return Ok(CommandReply::Refused(why));
                }
            }
            Command::Retry => {
                if let Some(refusal) = self.begin_retry().await? {
                    return Ok(refusal);
                }
            }
            Command::Pause { .. }
            | Command::Resume
            | Command::Cancel { .. }
            | Command::Confirm
            | Command::IgnoreLeftovers => self.image.move_job(&mut self.batch, event, now)?,
        }
        match self.image.status.state {
            // Asking a second time does not wait for what runs.
            JobState::Cancelling if was == JobState::Cancelling => {
                for (task, epoch) in self.attempts.abort_all() {
                    self.ended(task, epoch, Err(Failure::interrupted())).await?;
                }
            }
            JobState::Pausing | JobState::Cancelling => self.attempts.interrupt_all(),
            _ => {}
        }
        self.image.status.last_request = request;
        self.batch.put(keys::state(self.image.id()), crate::records::encode(&self.image.status));
        Ok(CommandReply::Done(Box::new(self.image.status.clone())))
    }

    /// Lets every task wait again that had ended without success. A crash in the middle leaves a completed job,
    /// some of whose tasks wait; the command is then given once more.
    async fn begin_retry(&mut self) -> Result<Option<CommandReply>, EngineError> {
        if let Some((name, holder)) = self.held_name().await? {
            let why = format!("{name} is held by job {holder}; retry when that job has ended");
            return Ok(Some(CommandReply::refused(why)));
        }
        let mut again: Vec<TaskId> = self
            .image
            .tasks
            .values()
            .filter(|task| task.spec.undoes.is_none())
            .filter(|task| task.status.outcome().is_some_and(|outcome| !outcome.is_success()))
            .map(|task| task.spec.id)
            .collect();
        again.sort_unstable();
        for id in again {
            let now = self.now();
            self.image.move_task(&mut self.batch, id, TaskEvent::Reset, now)?;
            if self.batch.is_full() {
                self.flush(false).await?;
            }
        }
        self.image.rebuild();
        // The verdict on the new run is about the new run.
        self.image.head.warnings = 0;
        self.take_names().await?;
        let now = self.now();
        self.image.move_job(&mut self.batch, JobEvent::Retry, now)?;
        self.batch.put(keys::active(self.image.id()), bytes::Bytes::new());
        Ok(None)
    }
}
