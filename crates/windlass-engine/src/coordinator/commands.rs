//! What people may ask of a job.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use windlass_model::job::{Closing, JobEvent, JobState, PauseReason};
use windlass_model::log::Level;
use windlass_model::{Epoch, Failure, TaskId};
use windlass_store::keys;

use super::Coordinator;
use crate::EngineError;
use crate::asks::{Answered, Asked, What};
use crate::command::{Command, CommandReply};
use crate::offers::How;
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
        // The withdrawal of what is offered goes with the command: nothing of the job starts after the answer.
        if !self.image.offered.is_empty() {
            self.flush(false).await?;
        }
        let was = self.image.status.state;
        let undoes = matches!(command, Command::Undo | Command::Cancel { undo: true });
        if undoes && self.is_standing() {
            return Ok(CommandReply::refused(
                "a standing job cannot be undone: it does not keep the ledger of what it did long ago; cancel it, and \
                 what it did stays",
            ));
        }
        let refused = match command {
            // Nothing to store: whoever coordinates the job next begins with a round.
            Command::Wake => {
                let reply = CommandReply::Done(Box::new(self.image.status.clone()));
                return Ok(self.wake().map_or(reply, CommandReply::Refused));
            }
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
                self.remote.wish_all(How::Abort);
                for (task, epoch) in self.attempts.abort_all() {
                    self.ended(task, epoch, Err(Failure::interrupted())).await?;
                }
            }
            JobState::Pausing | JobState::Cancelling => self.interrupt_all(),
            _ => {}
        }
        self.image.status.last_request = request;
        self.batch.put(keys::state(self.image.id()), crate::records::encode(&self.image.status));
        Ok(CommandReply::Done(Box::new(self.image.status.clone())))
    }

    /// Carries out a command that came through the store. The batch that stores the effect deletes the ask.
    pub(super) async fn asked(&mut self, asked: Asked) -> Result<(), EngineError> {
        if self.answered.iter().any(|answered| answered.asked.key == asked.key)
            || self.shared.store.get(&asked.key).await?.is_none()
        {
            // Carried out already, or withdrawn.
            return Ok(());
        }
        let command = match asked.ask.what.clone() {
            What::Command(command) => command,
            What::Late { task, epoch, worker } => {
                self.batch.delete(asked.key.clone());
                self.note_late(task, epoch, &worker);
                return Ok(());
            }
        };
        let reply = self.command(command, Some(asked.ask.request.clone())).await?;
        // Nothing is written to a job that was deleted; its end answers.
        if !self.deleted {
            self.batch.delete(asked.key.clone());
        }
        self.answered.push(Answered { asked, reply });
        Ok(())
    }

    /// Writes to the log that a worker has come back whose attempt was taken over.
    fn note_late(&mut self, task: TaskId, epoch: Epoch, worker: &str) {
        let Some(status) = self.image.tasks.get(&task).map(|task| &task.status) else { return };
        let now_in = status.epoch;
        if status.claim().is_some_and(|claim| claim.epoch == epoch) {
            return;
        }
        let text = format!(
            "the worker {worker} is back after it had lost its lease: its attempt at {} in epoch {} is refused \
             whatever it still writes (the task is in epoch {})",
            self.image.name(task),
            epoch.0,
            now_in.0
        );
        let mut fields = serde_json::Map::new();
        fields.insert("worker_name".into(), worker.into());
        fields.insert("epoch".into(), epoch.0.into());
        fields.insert("now_in_epoch".into(), now_in.0.into());
        let now = self.now();
        self.image.log_entry(&mut self.batch, now, Level::Info, "task.late_write", Some(task), text, fields);
    }

    /// Asks every attempt to stop at its next safe point, wherever it runs.
    pub(super) fn interrupt_all(&mut self) {
        self.attempts.interrupt_all();
        self.remote.wish_all(How::Interrupt);
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
