//! Making tasks part of a plan: at activation, when a task brings more, and for undo.
//!
//! Few tasks go into the batch that makes them part of the plan. Many are written first, as drafts that count
//! for nothing until the one small change that activates them; a crash before it leaves drafts that the next
//! attempt overwrites, because their ids are a function of what they are.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::future::try_join_all;
use windlass_model::job::{Closing, JobEvent, JobState};
use windlass_model::log::Level;
use windlass_model::plan::{Plan, PlanFault, TaskSpec};
use windlass_model::{Failure, TaskId};
use windlass_store::{Compare, Txn, budget, keys};

use super::{Coordinator, End, Message};
use crate::EngineError;
use crate::kind::PlanContext;
use crate::records::{AddedBy, TaskRecord, encode};

/// Tasks that fit into a batch beside what a step adds.
const FEW: usize = 24;
/// Drafts per transaction; together with the bytes below within the store's budget.
const DRAFTS: usize = 90;
/// Bytes of drafts per transaction.
const DRAFT_BYTES: usize = 400 * 1024;
/// Transactions of drafts under way at once: enough to share commits, few enough to bound memory.
const UNDER_WAY: usize = 32;

/// Faults of a plan as one failure: the first in the message, all of them in the causes.
pub(crate) fn plan_failure(faults: &[PlanFault]) -> Failure {
    let mut failure =
        Failure::permanent("invalid_plan", format!("the plan has {} fault(s) and was not stored", faults.len()));
    failure.causes = faults.iter().take(50).map(ToString::to_string).collect();
    failure
}

/// Refuses a plan that could never be stored: a task whose record exceeds what one value may hold.
pub(crate) fn check_sizes(tasks: &[TaskSpec]) -> Result<(), Failure> {
    // What is stored beside the task's own text.
    const AROUND: usize = 512;
    let most = budget::VALUE_BYTES - AROUND;
    let large: Vec<String> = tasks
        .iter()
        .filter_map(|task| {
            let bytes = serde_json::to_vec(task).map_or(usize::MAX, |text| text.len());
            let edges = task.dependencies.len();
            (bytes > most)
                .then(|| format!("{} takes {bytes} bytes ({edges} dependencies), at most {most} are kept", task.name()))
        })
        .take(50)
        .collect();
    if large.is_empty() {
        return Ok(());
    }
    let text = format!("{} task(s) of the plan are too large to be stored, and nothing was", large.len());
    let mut failure = Failure::permanent("task_too_large", text)
        .hint("put large inputs into files or objects and name those; let tasks in between gather many dependencies");
    failure.causes = large;
    Err(failure)
}

impl Coordinator {
    /// Stores a new job: with its plan and its first claims when they fit into one batch, else by itself.
    pub(super) async fn submit(&mut self) -> Result<(), EngineError> {
        let small = self.errand.planned.as_ref().is_some_and(|plan| {
            plan.tasks.len() <= FEW && serde_json::to_vec(&plan.tasks).is_ok_and(|text| text.len() < DRAFT_BYTES / 8)
        });
        if small && self.needs_only_places() {
            self.activate().await?;
            self.step()?;
        } else {
            self.batch.put(keys::state(self.image.id()), encode(&self.image.status));
        }
        self.batch.label = "submit";
        self.flush(false).await?;
        Ok(())
    }

    /// The beginning of the transaction that stores a new job.
    pub(super) fn submission(&self) -> Txn {
        let job = self.image.id();
        Txn::new()
            .when(Compare::Absent(keys::job(job)))
            .put(keys::job(job), self.image.record.stored())
            .put(keys::active(job), bytes::Bytes::new())
            .put_leased(keys::claim(job), self.session.worker.to_string(), self.session.lease)
    }

    /// The revision of this coordinator's claim, when its commit was not confirmed.
    pub(super) async fn own_claim(&self) -> Result<windlass_store::Revision, EngineError> {
        let claim = self.shared.store.get(&keys::claim(self.image.id())).await?;
        let ours = claim.filter(|entry| entry.value == self.session.worker.to_string());
        ours.map(|entry| entry.created).ok_or(EngineError::ClaimLost)
    }

    /// Takes over what a worker that is gone has left running.
    pub(super) async fn adopt(&mut self) -> Result<(), EngineError> {
        self.leave_forgotten_queues();
        self.adopt_elsewhere().await?;
        self.remove_stale_drafts().await?;
        // What has ended elsewhere together with a shared resource is lined up for that.
        let ending: HashSet<TaskId> = self.image.to_end.iter().map(|(id, _)| *id).collect();
        let running = self.image.running.iter().copied();
        let running: Vec<TaskId> = running.filter(|id| !self.is_elsewhere(*id) && !ending.contains(id)).collect();
        for id in running {
            let poison_after = self.policy(id).poison_after;
            let now = self.now();
            self.bury(id, poison_after, now)?;
            self.batch.label = "adopt";
            if self.batch.is_full() {
                self.flush(false).await?;
            }
        }
        Ok(())
    }

    /// Plans a pending job and lets its tasks run. Returns an end when the session is over first.
    pub(super) async fn activate(&mut self) -> Result<Option<End>, EngineError> {
        let planned = match self.errand.planned.take() {
            Some(plan) => Ok(plan),
            None => self.plan().await,
        };
        let now = self.now();
        match planned {
            Err(failure) => {
                self.image.move_job(&mut self.batch, JobEvent::PlanFailed(Box::new(failure)), now)?;
            }
            Ok(plan) => {
                if let Some(end) = self.await_names().await? {
                    return Ok(Some(end));
                }
                if self.image.status.state != JobState::Pending || self.deleted {
                    return Ok(None);
                }
                let generation = AddedBy::Generation(self.image.status.generation + 1);
                for warning in plan.warnings {
                    self.image.log(&mut self.batch, now, Level::Warn, "plan.warning", None, |_| warning);
                    if self.batch.is_full() {
                        self.flush(false).await?;
                    }
                }
                self.add_checked(plan.tasks, generation).await?;
                let now = self.now();
                self.take_names().await?;
                if self.take_job_slots().await?.is_some() {
                    // Taken by another job in this very moment: everything is looked at afresh.
                    return Err(EngineError::NameTaken);
                }
                self.begin_rounds();
                self.image.move_job(&mut self.batch, JobEvent::Activated, now)?;
            }
        }
        Ok(None)
    }

    /// Whether the job needs neither exclusive names nor places in pools of its own.
    fn needs_only_places(&self) -> bool {
        self.shared.exclusive_names(&self.image.record).is_empty() && self.job_pools().is_empty()
    }

    async fn plan(&self) -> Result<Plan, Failure> {
        let record = &self.image.record;
        let kind = self.shared.kinds.kind(&record.kind).ok_or_else(|| {
            Failure::permanent("unknown_kind", format!("this program has no kind named {}", record.kind))
        })?;
        let context = PlanContext {
            job: record.id,
            generation: self.image.status.generation + 1,
            clock: self.shared.clock.clone(),
            entropy: self.shared.entropy.clone(),
        };
        let plan = kind.plan(&context, &record.spec).await?;
        plan.check(&HashMap::new(), &self.shared.kinds).map_err(|faults| plan_failure(&faults))?;
        check_sizes(&plan.tasks)?;
        Ok(plan)
    }

    /// Waits while another job holds a name that this one needs exclusively, and listens to commands meanwhile.
    async fn await_names(&mut self) -> Result<Option<End>, EngineError> {
        if self.needs_only_places() {
            return Ok(None);
        }
        loop {
            let revision = self.shared.store.revision().await?;
            let rung = self.woken.count();
            let key = match self.held_name().await? {
                Some((name, holder)) => {
                    tracing::info!(job = %self.image.id(), name, holder, "waits for a name that another job holds");
                    keys::slot(&name)
                }
                None => match self.free_slots(&self.job_pools()).await? {
                    Ok(_) => {
                        self.queue_for(BTreeSet::new());
                        return Ok(None);
                    }
                    Err(pool) => {
                        tracing::info!(job = %self.image.id(), pool, "waits for a place in a pool");
                        self.queue_for(BTreeSet::from([pool.clone()]));
                        keys::pool_slots(&pool)
                    }
                },
            };
            self.flush(false).await?;
            self.publish();
            let mut watch = self.shared.store.watch(&key, revision).await?;
            let woken = self.woken.clone();
            tokio::select! {
                biased;
                () = self.session.over.cancelled() => return Ok(Some(End::SessionOver)),
                () = self.shared.draining.cancelled() => {
                    self.release().await?;
                    return Ok(Some(End::SessionOver));
                }
                message = self.errand.inbox.recv() => match message {
                    Some(message @ (Message::Command { .. } | Message::Ask(_))) => {
                        self.take_in(message).await?;
                        if self.image.status.state != JobState::Pending || self.deleted {
                            return Ok(None);
                        }
                        self.flush(false).await?;
                    }
                    Some(_) => {}
                    None => return Ok(Some(End::SessionOver)),
                },
                // However the watch ends, looking again is right.
                _ = watch.next() => {}
                () = woken.after(rung) => {}
            }
        }
    }

    /// Which of the job's exclusive names another job holds, and which job.
    pub(super) async fn held_name(&self) -> Result<Option<(String, String)>, EngineError> {
        let job = self.image.id().to_string();
        for name in self.shared.exclusive_names(&self.image.record) {
            if let Some(entry) = self.shared.store.get(&keys::slot(&name)).await?
                && entry.value != job.as_bytes()
            {
                return Ok(Some((name, String::from_utf8_lossy(&entry.value).into_owned())));
            }
        }
        Ok(None)
    }

    /// Lets the batch take the job's exclusive names: together with the move that needs them, or not at all.
    /// Names that the job holds already stay as they are.
    pub(super) async fn take_names(&mut self) -> Result<(), EngineError> {
        let job = self.image.id().to_string();
        for name in self.shared.exclusive_names(&self.image.record) {
            let key = keys::slot(&name);
            if self.shared.store.get(&key).await?.is_none() {
                self.batch.absent.push(key.clone());
                self.batch.put(key, job.clone().into());
            }
        }
        Ok(())
    }

    /// Checks tasks that a task brings, and adds them to the batch or as drafts.
    pub(super) async fn add_tasks(
        &mut self,
        tasks: Vec<TaskSpec>,
        added_by: AddedBy,
    ) -> Result<Result<(), Failure>, EngineError> {
        let existing: HashMap<TaskId, String> =
            self.image.tasks.iter().map(|(id, task)| (*id, task.spec.name())).collect();
        let plan = Plan { tasks, warnings: Vec::new() };
        if let Err(faults) = plan.check(&existing, &self.shared.kinds) {
            return Ok(Err(plan_failure(&faults)));
        }
        if let Err(failure) = check_sizes(&plan.tasks) {
            return Ok(Err(failure));
        }
        self.add_checked(plan.tasks, added_by).await?;
        Ok(Ok(()))
    }

    async fn add_checked(&mut self, tasks: Vec<TaskSpec>, added_by: AddedBy) -> Result<(), EngineError> {
        let mut drafts = Vec::with_capacity(tasks.len());
        let mut bytes = 0;
        for task in &tasks {
            let record = encode(&TaskRecord { spec: task.clone(), added_by });
            bytes += record.len();
            drafts.push((keys::task(self.image.id(), task.id), record));
        }
        // What the batch holds already may leave less room than that. A job that is not in the store yet has no drafts,
        // and its batch is nearly empty.
        let most = if self.submitting.is_some() { FEW } else { FEW.min(self.batch.room()) };
        let staged = tasks.len() > most || bytes > DRAFT_BYTES / 4;
        if staged {
            self.stage(drafts).await?;
        }
        let now = self.now();
        self.image.add(&mut self.batch, tasks, added_by, staged, now);
        Ok(())
    }

    /// Writes drafts, several transactions at once.
    async fn stage(&self, drafts: Vec<(String, bytes::Bytes)>) -> Result<(), EngineError> {
        let fence = Compare::Created(keys::claim(self.image.id()), self.claim);
        let mut txns = vec![Txn::new().when(fence.clone())];
        let mut size = 0;
        for (key, value) in drafts {
            let full = txns.last().is_some_and(|txn| txn.ops.len() >= DRAFTS) || size + value.len() > DRAFT_BYTES;
            if full {
                txns.push(Txn::new().when(fence.clone()));
                size = 0;
            }
            size += key.len() + value.len();
            if let Some(txn) = txns.last_mut() {
                *txn = std::mem::take(txn).put(key, value);
            }
        }
        let mut txns = txns.into_iter();
        loop {
            let group: Vec<Txn> = txns.by_ref().take(UNDER_WAY).collect();
            if group.is_empty() {
                return Ok(());
            }
            // Drafts may be written twice: an unconfirmed commit is simply repeated.
            try_join_all(group.into_iter().map(|txn| self.commit_draft(txn))).await?;
        }
    }

    /// Begins to undo a job that has ended: all of it, or what a confirm does not keep. Returns why it does not,
    /// if it does not.
    pub(super) async fn begin_undo(&mut self, closing: Closing) -> Result<Option<String>, EngineError> {
        if let Some((name, holder)) = self.held_name().await? {
            return Ok(Some(format!("{name} is held by job {holder}; undo when that job has ended")));
        }
        let generation = self.image.status.generation + 1;
        let (event, keep) = match closing {
            Closing::Confirm => (JobEvent::Clear, self.kept_by_confirm().await?),
            Closing::Undo | Closing::Ignore => (JobEvent::Undo, HashSet::new()),
        };
        let mut tasks = self.image.undo_tasks(generation, &keep);
        tasks.iter_mut().for_each(|undo| self.name_undo(undo));
        self.add_checked(tasks, AddedBy::Generation(generation)).await?;
        let now = self.now();
        self.take_names().await?;
        self.image.move_job(&mut self.batch, event, now)?;
        self.batch.put(keys::active(self.image.id()), bytes::Bytes::new());
        Ok(None)
    }

    /// Gives a task that undoes the type that tasks of the type which it undoes are undone by.
    pub(super) fn name_undo(&self, undo: &mut TaskSpec) {
        let undone_by = self.shared.kinds.task_type(&undo.task_type).and_then(|undone| undone.undone_by());
        if let Some(name) = undone_by {
            undo.task_type = name.to_owned();
        }
    }

    /// The tasks whose effects a confirm keeps: those that the kind names, else all.
    async fn kept_by_confirm(&self) -> Result<HashSet<TaskId>, EngineError> {
        let all = || self.image.tasks.keys().copied().collect();
        let record = &self.image.record;
        let Some(kind) = self.shared.kinds.kind(&record.kind) else { return Ok(all()) };
        let ends = crate::view::ends(&*self.shared.store, &self.image).await?;
        Ok(kind.keep_on_confirm(&record.spec, &ends).map_or_else(all, |keep| keep.into_iter().collect()))
    }

    /// Whether a confirm has something to do besides saying so.
    pub(super) async fn has_to_be_cleared(&self) -> Result<bool, EngineError> {
        let keep = self.kept_by_confirm().await?;
        let clears = !self.image.undo_tasks(self.image.status.generation + 1, &keep).is_empty();
        Ok(clears || !self.image.holds.is_empty())
    }
}
