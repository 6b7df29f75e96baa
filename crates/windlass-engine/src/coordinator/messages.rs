//! What running tasks and people ask of a coordinator.

use serde_json::{Map, Value};
use tokio::sync::oneshot;
use windlass_model::effect::{Effect, EffectEvent, EffectState};
use windlass_model::log::Level;
use windlass_model::progress::Progress;
use windlass_model::{Epoch, Failure, TaskId};
use windlass_store::keys;

use super::{Coordinator, PROGRESS_EVERY};
use crate::EngineError;
use crate::asks::Asked;
use crate::command::{Command, CommandReply};
use crate::kind::Finished;
use crate::records::encode;
use crate::values;

/// What running tasks and people ask of a coordinator. A reply of `None` refuses: the claim is not held.
pub(crate) enum Message {
    Ended {
        task: TaskId,
        epoch: Epoch,
        result: Result<Finished, Failure>,
    },
    Intend {
        task: TaskId,
        epoch: Epoch,
        effects: Vec<Effect>,
        reply: oneshot::Sender<Option<Vec<EffectState>>>,
    },
    Settle {
        task: TaskId,
        epoch: Epoch,
        of: TaskId,
        n: u32,
        event: EffectEvent,
        reply: oneshot::Sender<Option<()>>,
    },
    Checkpoint {
        task: TaskId,
        epoch: Epoch,
        value: Value,
        reply: oneshot::Sender<Option<()>>,
    },
    Progress {
        task: TaskId,
        epoch: Epoch,
        progress: Progress,
    },
    Log {
        task: TaskId,
        level: Level,
        code: String,
        message: String,
        fields: Map<String, Value>,
    },
    Command {
        command: Command,
        request: Option<String>,
        reply: oneshot::Sender<CommandReply>,
    },
    /// A command that came through the store.
    Ask(Box<Asked>),
}

impl Coordinator {
    /// Takes in what is waiting, as long as the batch has room.
    pub(super) async fn drain_inbox(&mut self) -> Result<(), EngineError> {
        while !self.batch.is_full() {
            match self.errand.inbox.try_recv() {
                Ok(message) => self.take_in(message).await?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    pub(super) async fn take_in(&mut self, message: Message) -> Result<(), EngineError> {
        let now = self.now();
        match message {
            Message::Ended { task, epoch, result } => self.ended(task, epoch, result).await?,
            Message::Intend { task, epoch, effects, reply } => {
                let answer = self.image.holds(task, epoch).then(|| {
                    self.attempts.seen(task, self.shared.clock.monotonic());
                    self.image.intend(&mut self.batch, task, effects)
                });
                self.answers.push(Box::new(move || drop(reply.send(answer))));
            }
            Message::Settle { task, epoch, of, n, event, reply } => {
                let holds = self.image.holds(task, epoch);
                if holds {
                    self.attempts.seen(task, self.shared.clock.monotonic());
                    self.image.settle(&mut self.batch, of, n, event, epoch, now)?;
                }
                self.answers.push(Box::new(move || {
                    // Nobody waits any more when the attempt was stopped meanwhile.
                    let _ = reply.send(holds.then_some(()));
                }));
            }
            Message::Checkpoint { task, epoch, value, reply } => {
                let holds = self.image.holds(task, epoch);
                if holds {
                    self.attempts.seen(task, self.shared.clock.monotonic());
                    let value = values::keep(&*self.shared.store, self.image.id(), value).await?;
                    self.image.checkpoint(&mut self.batch, task, epoch, value);
                }
                self.answers.push(Box::new(move || {
                    // Nobody waits any more when the attempt was stopped meanwhile.
                    let _ = reply.send(holds.then_some(()));
                }));
            }
            Message::Progress { task, epoch, progress } => {
                if self.image.holds(task, epoch) {
                    self.attempts.seen(task, self.shared.clock.monotonic());
                    if let Some(task) = self.image.tasks.get_mut(&task) {
                        task.progress = progress;
                    }
                    self.progress_dirty.insert(task);
                    self.publish();
                }
            }
            Message::Log { task, level, code, message, fields } => {
                self.image.log_entry(&mut self.batch, now, level, &code, Some(task), message, fields);
            }
            Message::Command { command, request, reply } => {
                let answer = self.command(command, request).await?;
                self.answers.push(Box::new(move || drop(reply.send(answer))));
            }
            Message::Ask(asked) => self.asked(*asked).await?,
        }
        Ok(())
    }

    /// Puts progress that is due into the batch.
    pub(super) fn add_progress(&mut self) {
        let mono = self.shared.clock.monotonic();
        if self.progress_dirty.is_empty() || mono < self.progress_stored + PROGRESS_EVERY {
            return;
        }
        self.progress_stored = mono;
        for id in std::mem::take(&mut self.progress_dirty) {
            // What does not fit is shown live all the same, and written by the next report.
            if self.batch.is_full() {
                break;
            }
            if let Some(task) = self.image.tasks.get(&id)
                && task.status.claim().is_some()
            {
                self.batch.put(keys::progress(self.image.id(), id), encode(&task.progress));
            }
        }
    }
}
