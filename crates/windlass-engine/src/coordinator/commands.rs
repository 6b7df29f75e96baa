//! What people may ask of a job.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use windlass_model::Failure;
use windlass_model::job::{Closing, JobEvent, JobState, PauseReason};
use windlass_store::keys;

use super::Coordinator;
use crate::EngineError;
use crate::command::{Command, CommandReply};
use crate::values;

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
        let was = self.image.status.state;
        let refused = match command {
            Command::Pause { until } => self.order(JobEvent::Pause { reason: PauseReason::Person, until })?,
            Command::Resume => self.order(JobEvent::Resume)?,
            Command::Extend { by_ms } => self.extend(by_ms)?,
            Command::Cancel { undo } => self.order(JobEvent::Cancel { undo })?,
            Command::Undo => match self.fits(&JobEvent::Undo) {
                Err(why) => Some(why),
                Ok(()) => self.begin_undo(Closing::Undo).await?,
            },
            Command::Confirm => self.confirm().await?,
            Command::IgnoreLeftovers => match self.fits(&JobEvent::IgnoreLeftovers) {
                Err(why) => Some(why),
                Ok(()) => {
                    self.abandon_all().await?;
                    self.order(JobEvent::IgnoreLeftovers)?
                }
            },
            Command::Retry { failed_only, from, inputs } => match self.fits(&JobEvent::Retry) {
                Err(why) => Some(why),
                Ok(()) => self.begin_retry(failed_only, from, inputs).await?,
            },
            Command::Approve { task, by, note } => self.approve(&task, by, note)?,
            Command::Delete { force } => return self.delete(force).await,
        };
        if let Some(why) = refused {
            return Ok(CommandReply::refused(why));
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

    /// Tries an event on a copy: a command that does not fit is refused and changes nothing.
    fn fits(&self, event: &JobEvent) -> Result<(), String> {
        let tried = self.image.status.clone().apply(event.clone(), self.now());
        tried.map(drop).map_err(|illegal| illegal.to_string())
    }

    /// Moves the job. Returns why it does not, if it does not.
    fn order(&mut self, event: JobEvent) -> Result<Option<String>, EngineError> {
        if let Err(why) = self.fits(&event) {
            return Ok(Some(why));
        }
        let now = self.now();
        self.image.move_job(&mut self.batch, event, now)?;
        Ok(None)
    }

    fn extend(&mut self, by_ms: u64) -> Result<Option<String>, EngineError> {
        let status = &self.image.status;
        let end = match status.state {
            JobState::Pausing | JobState::Paused => status.resume_at,
            JobState::Completed | JobState::UndoFailed => status.undo_at,
            _ => None,
        };
        let Some(end) = end else {
            let state = status.state.as_str();
            return Ok(Some(format!("the job is {state} and waits for no moment that could be moved")));
        };
        let until = later(end, by_ms);
        self.order(JobEvent::Extend { until })
    }

    /// Makes the outcome permanent: at once, or by way of undoing what it does not need.
    async fn confirm(&mut self) -> Result<Option<String>, EngineError> {
        if self.image.status.state == JobState::UndoFailed || self.has_to_be_cleared().await? {
            return match self.fits(&JobEvent::Clear) {
                Err(_) => Ok(self.fits(&JobEvent::Confirm).err()),
                Ok(()) => self.begin_undo(Closing::Confirm).await,
            };
        }
        self.order(JobEvent::Confirm)
    }

    /// Lets tasks wait again. A crash in the middle leaves a completed job, some of whose tasks wait; the command
    /// is then given once more. Returns why it does not, if it does not.
    async fn begin_retry(
        &mut self,
        failed_only: bool,
        from: Option<String>,
        inputs: BTreeMap<String, Value>,
    ) -> Result<Option<String>, EngineError> {
        if let Some((name, holder)) = self.held_name().await? {
            return Ok(Some(format!("{name} is held by job {holder}; retry when that job has ended")));
        }
        if let Err(pool) = self.free_slots(&self.job_pools()).await? {
            return Ok(Some(format!("the pool {pool} is full; retry when a place in it is free")));
        }
        let chosen = from.as_deref().map(|from| self.image.named(from)).transpose();
        let chosen = chosen.and_then(|from| self.image.to_run_again(failed_only, from)).and_then(|again| {
            let inputs = self.image.replaced_inputs(&again, inputs)?;
            Ok((again, inputs))
        });
        let (again, mut inputs) = match chosen {
            Ok(chosen) => chosen,
            Err(why) => return Ok(Some(why)),
        };
        for id in again {
            let input = match inputs.remove(&id) {
                Some(input) => Some(values::keep(&*self.shared.store, self.image.id(), input).await?),
                None => None,
            };
            let now = self.now();
            self.image.run_again(&mut self.batch, id, input, now)?;
            if self.batch.is_full() {
                self.flush(false).await?;
            }
        }
        self.image.rebuild();
        // The verdict on the new run is about the new run.
        self.image.head.warnings = 0;
        self.take_names().await?;
        if self.take_job_slots().await?.is_some() {
            // Taken by another job in this very moment: everything is looked at afresh.
            return Err(EngineError::NameTaken);
        }
        let now = self.now();
        self.image.move_job(&mut self.batch, JobEvent::Retry, now)?;
        self.batch.put(keys::active(self.image.id()), bytes::Bytes::new());
        Ok(None)
    }
}

/// The moment `ms` milliseconds after `at`.
pub(super) fn later(at: Timestamp, ms: u64) -> Timestamp {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(at.as_millisecond().saturating_add(ms)).unwrap_or(Timestamp::MAX)
}
