//! Reads what an attempt needs from the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use windlass_model::effect::Effect;
use windlass_model::job::JobStatus;
use windlass_model::plan::TaskSpec;
use windlass_model::task::{Outcome, Output, SharedUse, TaskStatus};
use windlass_model::{Failure, TaskId, reference};
use windlass_store::{keys, read_all};

use super::{Host, Lost};
use crate::EngineError;
use crate::context::{TaskContext, UndoInput};
use crate::coordinator::image::Checkpoint;
use crate::coordinator::{Message, gone, load};
use crate::holders::{SharedRecord, SharedState};
use crate::records::{JobRecord, TaskRecord, decode};
use crate::values;

impl Host {
    /// What the task sees; a failure when it cannot begin.
    pub(super) async fn load(&mut self, messages: mpsc::Sender<Message>) -> Result<Result<TaskContext, Failure>, Lost> {
        loop {
            let session = self.session.clone();
            let loaded = tokio::select! {
                biased;
                () = session.over.cancelled() => return Err(Lost),
                loaded = self.try_load(messages.clone()) => loaded,
            };
            match loaded {
                Ok(loaded) => return Ok(loaded),
                Err(error) if error.may_pass() => self.pause().await?,
                Err(error) => {
                    let text = format!("the attempt could not begin on {}: {error}", self.shared.presence.name);
                    return Ok(Err(Failure::transient("cannot_load", text)));
                }
            }
        }
    }

    async fn try_load(&mut self, messages: mpsc::Sender<Message>) -> Result<Result<TaskContext, Failure>, EngineError> {
        let (job, task) = self.claim.id;
        let (record, state, spec, status) = futures::try_join!(
            self.record(),
            self.read::<JobStatus>(keys::state(job)),
            self.read::<TaskRecord>(keys::task(job, task)),
            self.status(task),
        )?;
        let spec = Arc::new(spec.spec);
        let began = status.started.map(|started| self.shared.clock.wall().as_millisecond() - started.as_millisecond());
        self.spent = Duration::from_millis(began.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0));
        let (effects, checkpoint) = futures::try_join!(self.effects_of(task), self.checkpoint_of(task))?;
        // Nobody coordinates the job at the moment: the next coordinator's term is higher in any case.
        let term = self.shared.store.get(&keys::claim(job)).await?.map_or(0, |claim| claim.created.0);
        let undo = match spec.undoes {
            Some(undone) => Some(self.undo_input(undone).await?),
            None => None,
        };
        let mut input = match &status.input {
            Some(replaced) => values::fetch(&*self.shared.store, job, replaced).await?,
            None => spec.input.clone(),
        };
        self.other_input = status.input.is_some();
        if let Err(failure) = self.resolve(&spec, &mut input).await? {
            return Ok(Err(failure));
        }
        let reuse = match status.shared.filter(|_| undo.is_none()) {
            Some(SharedUse::Reused) => match self.reuse(&spec).await? {
                Some(output) => Some(output),
                None => return Ok(Err(gone())),
            },
            _ => None,
        };
        let undone = undo.iter().flat_map(|undo| &undo.effects);
        for effect in effects.iter().chain(undone) {
            self.ledgers.entry(effect.task).or_default().insert(effect.n, effect.clone());
        }
        Ok(Ok(TaskContext {
            shared: status.shared,
            reuse,
            job,
            record: Arc::new(record),
            generation: state.generation,
            epoch: self.claim.epoch,
            term,
            attempt: status.failures,
            recovering: status.recover,
            died_before: status.last_worker_died(),
            input,
            checkpoint,
            effects,
            undo,
            clock: self.shared.clock.clone(),
            entropy: self.shared.entropy.clone(),
            work_dir: self.shared.work_dir(job),
            cancel: CancellationToken::new(),
            safe_until: self.session.safe_until.clone(),
            messages,
            probe: self.shared.probe.clone(),
            spec,
        }))
    }

    async fn record(&self) -> Result<JobRecord, EngineError> {
        let job = self.claim.id.0;
        load::record(&*self.shared.store, job).await?.ok_or_else(|| EngineError::NoSuchJob(job.to_string()))
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, key: String) -> Result<T, EngineError> {
        match self.shared.store.get(&key).await? {
            Some(entry) => decode(&entry),
            None => Err(EngineError::Record { key, why: "it is not there".into() }),
        }
    }

    async fn status(&self, task: TaskId) -> Result<TaskStatus, EngineError> {
        let entry = self.shared.store.get(&keys::status(self.claim.id.0, task)).await?;
        // Without a record it was never claimed.
        entry.map_or_else(|| Ok(TaskStatus::new(self.shared.clock.wall())), |entry| decode(&entry))
    }

    async fn effects_of(&self, task: TaskId) -> Result<Vec<Effect>, EngineError> {
        let entries = read_all(&*self.shared.store, &keys::effects_of(self.claim.id.0, task)).await?;
        entries.iter().map(decode).collect()
    }

    async fn checkpoint_of(&self, task: TaskId) -> Result<Option<serde_json::Value>, EngineError> {
        let job = self.claim.id.0;
        let Some(entry) = self.shared.store.get(&keys::checkpoint(job, task)).await? else { return Ok(None) };
        let checkpoint: Checkpoint = decode(&entry)?;
        values::fetch(&*self.shared.store, job, &checkpoint.value).await.map(Some)
    }

    async fn undo_input(&self, undone: TaskId) -> Result<UndoInput, EngineError> {
        let job = self.claim.id.0;
        let (task, status, effects, checkpoint) = futures::try_join!(
            self.read::<TaskRecord>(keys::task(job, undone)),
            self.status(undone),
            self.effects_of(undone),
            self.checkpoint_of(undone),
        )?;
        let output = match status.outcome() {
            Some(Outcome::Succeeded { output }) => Some(values::fetch(&*self.shared.store, job, output).await?),
            _ => None,
        };
        let effects = effects.into_iter().filter(Effect::may_exist).collect();
        Ok(UndoInput { task: Arc::new(task.spec), effects, output, checkpoint })
    }

    /// What a shared resource put out that the task is to reuse; `None` when it is not there any more.
    async fn reuse(&self, spec: &TaskSpec) -> Result<Option<serde_json::Value>, EngineError> {
        let Some(shared) = &spec.shared else { return Ok(None) };
        let Some(entry) = self.shared.store.get(&keys::shared(&shared.key)).await? else { return Ok(None) };
        let record: SharedRecord = decode(&entry)?;
        Ok((record.state == SharedState::Ready).then_some(record.output))
    }

    /// Fills the references of a task into its input.
    async fn resolve(
        &self,
        spec: &TaskSpec,
        input: &mut serde_json::Value,
    ) -> Result<Result<(), Failure>, EngineError> {
        let job = self.claim.id.0;
        for reference in &spec.references {
            let status = self.status(reference.task).await?;
            let Some(Outcome::Succeeded { output }) = status.outcome() else {
                let text = format!("{} has no output to refer to", reference.task);
                return Ok(Err(Failure::permanent("unresolved_reference", text)));
            };
            let fetched;
            let output = match output {
                Output::Inline(value) => value,
                stored @ Output::Stored { .. } => {
                    fetched = values::fetch(&*self.shared.store, job, stored).await?;
                    &fetched
                }
            };
            if let Err(error) = reference::resolve(input, reference, output) {
                let text = format!("a reference to {}: {error}", reference.task);
                return Ok(Err(Failure::permanent("unresolved_reference", text)));
            }
        }
        Ok(Ok(()))
    }
}
