//! The coordinator of a job: the only writer of the job's records while it holds the job's claim.
//!
//! It is one loop. It gathers what running tasks and people ask for, lets the [image](image::JobImage) turn it
//! into a batch of changes, adds claims for whatever became runnable, commits the batch, and only then answers
//! and starts attempts. While a commit is under way the next requests pile up: that is the group commit, and why
//! a thousand tasks that finish together cost a few durable writes.
//!
//! Each batch compares the coordinator's claim, which is bound to the worker's lease: a coordinator that lost
//! its lease cannot write. That is the fence. What it cannot fence, the outside, is kept by
//! [`TaskContext::may_go_on`](crate::context::TaskContext::may_go_on) and by the ledger.
//!
//! Cancel safety: the loop is never dropped in the middle except on purpose, by a session that is over or by a
//! simulated crash; both load the job afresh afterwards.

mod approvals;
mod attempt;
mod beside;
mod commands;
mod conclude;
mod guarded;
pub(crate) mod image;
pub(crate) mod load;
mod pools;
mod remote;
pub(crate) mod removal;
mod rounds;
mod shared;
mod stage;
mod sweep;

pub(crate) use attempt::{Stopped, run};
pub(crate) use shared::gone;
pub(crate) use stage::{check_sizes, plan_failure};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use windlass_model::effect::{Effect, EffectEvent, EffectState, Leftover};
use windlass_model::job::{Closing, JobEvent, JobResult, JobState, JobStatus};
use windlass_model::log::Level;
use windlass_model::plan::{Plan, TaskSpec};
use windlass_model::policy::Policy;
use windlass_model::progress::{Meter, Progress};
use windlass_model::task::Output;
use windlass_model::{Epoch, Failure, JobId, TaskId};
use windlass_store::{Committed, Compare, Revision, StoreError, Txn, keys};

use self::attempt::Attempts;
use self::beside::Beside;
use self::image::{Batch, JobImage};
use self::remote::Remote;
use self::rounds::RoundsHere;
use crate::EngineError;
use crate::asks::{Answered, Asked};
use crate::bell::Bell;
use crate::command::{Command, CommandReply};
use crate::engine::Shared;
use crate::kind::Finished;
use crate::lease::Session;
use crate::records::{Head, JobRecord, encode};
use crate::snapshot::JobSnapshot;
use crate::values;

/// Requests that wait for a coordinator before those who ask have to wait too.
pub(crate) const MESSAGES: usize = 1024;
/// How often progress is written at most.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How long after an undo that failed a job that undoes itself tries again, in milliseconds.
const UNDO_AGAIN_MS: u64 = 5 * 60_000;

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

/// Why a coordinator ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The job has come to rest.
    AtRest,
    /// Another worker holds the job.
    HeldElsewhere,
    /// The session is over or the process shuts down.
    SessionOver,
    /// Something is wrong that trying again does not mend.
    Broken(EngineError),
}

/// What a coordinator is given when it starts.
pub(crate) struct Errand {
    pub(crate) inbox: mpsc::Receiver<Message>,
    /// For the attempts.
    pub(crate) messages: mpsc::Sender<Message>,
    pub(crate) snapshots: watch::Sender<JobSnapshot>,
    /// A job that is not in the store yet.
    pub(crate) submission: Option<Submission>,
    /// The plan that submission has made and checked already.
    pub(crate) planned: Option<Plan>,
}

/// A new job. Its coordinator's first batch stores it: a small one together with its plan and its first claims,
/// in one commit.
pub(crate) struct Submission {
    pub(crate) record: JobRecord,
    pub(crate) status: JobStatus,
    /// Told once the job is durable.
    pub(crate) reply: oneshot::Sender<()>,
}

/// What a successful attempt leaves: an output that is kept already, and tasks to add.
pub(crate) struct Kept {
    pub(crate) output: Output,
    pub(crate) add: Vec<TaskSpec>,
}

/// Claims a job; `None` when somebody else holds it. A commit that was not confirmed is looked after: our own
/// claim is told by the worker's name, which is never used twice.
pub(crate) async fn claim(shared: &Shared, session: &Session, job: JobId) -> Result<Option<Revision>, EngineError> {
    let key = keys::claim(job);
    let txn = Txn::new().when(Compare::Absent(key.clone())).put_leased(
        key.clone(),
        session.worker.to_string(),
        session.lease,
    );
    loop {
        match shared.commit(txn.clone(), "take").await {
            Ok(Committed::At(revision)) => return Ok(Some(revision)),
            Ok(Committed::Conflict(found)) => {
                let ours = found.into_iter().flatten().find(|entry| entry.value == session.worker.to_string());
                return Ok(ours.map(|entry| entry.created));
            }
            Err(EngineError::Store(StoreError::Unavailable(_) | StoreError::Unknown(_)))
                if !session.over.is_cancelled() =>
            {
                shared.clock.sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// An answer that is given once the batch is durable.
type Answer = Box<dyn FnOnce() + Send + Sync>;

pub(crate) struct Coordinator {
    shared: Arc<Shared>,
    session: Arc<Session>,
    pub(crate) image: JobImage,
    claim: Revision,
    /// Until the job is in the store: who waits for that.
    submitting: Option<oneshot::Sender<()>>,
    errand: Errand,
    /// How often a place had been granted, a type had become free and a worker had come or gone when places were
    /// last looked for.
    seen: (u64, u64, u64),
    attempts: Attempts,
    remote: Remote,
    batch: Batch,
    answers: Vec<Answer>,
    /// Commands from the store that the batch carries out.
    answered: Vec<Answered>,
    meter: Meter,
    /// Progress that is not stored yet, and when the last was.
    progress_dirty: BTreeSet<TaskId>,
    progress_stored: Duration,
    /// Waiting for a place: set when something could be claimed but for that.
    wants_place: bool,
    /// Waiting for tasks of a type to become fewer, likewise.
    wants_type: bool,
    /// Waiting for a worker that can run what this process cannot, with all that it needs besides.
    wants_worker: bool,
    shutting_down: bool,
    /// Rings when something changed that a task waits for.
    woken: Arc<Bell>,
    woken_seen: u64,
    /// Ended tasks that hold shared resources, to be taken in together with those.
    to_share: Vec<shared::Sharing>,
    /// Changes that rest on records of others and go into one transaction.
    together: usize,
    /// What shared resources put out that claimed tasks are about to reuse.
    reuse: BTreeMap<TaskId, Value>,
    /// Pools in whose queues the job stands.
    queued: BTreeSet<String>,
    /// The job's records are marked to be deleted: nothing may be written to them any more.
    deleted: bool,
    rounds: RoundsHere,
    /// The last look outside after an undo, and what it has come to.
    sweep: Beside<Vec<Leftover>>,
    swept: Option<bool>,
}

impl Coordinator {
    /// Claims the job and coordinates it until it comes to rest or the session is over. Gives the errand back,
    /// so that a store that was away can be tried again with the same queue.
    pub(crate) async fn run(
        shared: Arc<Shared>,
        session: Arc<Session>,
        job: JobId,
        mut errand: Errand,
    ) -> (End, Errand) {
        let mut submitting = None;
        let (claim, image) = match errand.submission.take() {
            Some(Submission { record, status, reply }) => {
                submitting = Some(reply);
                (Revision::default(), JobImage::new(record, status, Head::default()))
            }
            None => match Self::take(&shared, &session, job).await {
                Ok(Some(taken)) => taken,
                Ok(None) => return (End::HeldElsewhere, errand),
                Err(error) => return (Self::end_of(&session, error), errand),
            },
        };
        let mut coordinator = Self {
            meter: Meter::new(Duration::from_secs(30)),
            attempts: Attempts::new(&shared, job),
            seen: (0, 0, 0),
            remote: Remote::new(&shared),
            rounds: RoundsHere::new(&shared, &image.record),
            shared,
            session,
            image,
            claim,
            submitting,
            errand,
            batch: Batch::default(),
            answers: Vec::new(),
            answered: Vec::new(),
            progress_dirty: BTreeSet::new(),
            progress_stored: Duration::ZERO,
            wants_place: false,
            wants_type: false,
            wants_worker: false,
            shutting_down: false,
            woken: Arc::default(),
            woken_seen: 0,
            to_share: Vec::new(),
            together: guarded::TOGETHER,
            reuse: BTreeMap::new(),
            queued: BTreeSet::new(),
            deleted: false,
            sweep: Beside::new("sweep"),
            swept: None,
        };
        let end = match coordinator.work().await {
            Ok(end) => end,
            Err(error) => Self::end_of(&coordinator.session, error),
        };
        if let End::Broken(error) = &end
            && !error.may_pass()
        {
            // Whoever can make more of the job shall be able to take it.
            let _ = coordinator.release().await;
        }
        match &end {
            End::HeldElsewhere => coordinator.shared.attempts.lose(|(of, _)| of == job),
            _ if coordinator.session.over.is_cancelled() => {}
            _ => coordinator.shared.attempts.forget(job),
        }
        (end, coordinator.errand)
    }

    fn end_of(session: &Session, error: EngineError) -> End {
        if session.over.is_cancelled() || matches!(error, EngineError::Store(StoreError::Closed)) {
            return End::SessionOver;
        }
        match error {
            EngineError::ClaimLost => End::HeldElsewhere,
            error => End::Broken(error),
        }
    }

    async fn take(shared: &Shared, session: &Session, job: JobId) -> Result<Option<(Revision, JobImage)>, EngineError> {
        let Some(claim) = claim(shared, session, job).await? else { return Ok(None) };
        match load::load(&*shared.store, job).await? {
            Some(image) => Ok(Some((claim, image))),
            // Deleted, perhaps not to the end.
            None => {
                removal::sweep(shared, job, claim).await?;
                Ok(None)
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.wall()
    }

    /// The loop.
    async fn work(&mut self) -> Result<End, EngineError> {
        if self.submitting.is_some() {
            self.submit().await?;
        } else {
            self.adopt().await?;
        }
        self.publish();
        if self.image.status.state == JobState::Pending
            && let Some(end) = self.activate().await?
        {
            return Ok(end);
        }
        // Whoever woke a job that was at rest has left a message.
        self.drain_inbox().await?;
        for asked in self.shared.asks.of(self.image.id()) {
            self.asked(asked).await?;
        }
        loop {
            if self.deleted {
                return self.end_deleted().await;
            }
            self.keep_rounds().await?;
            let shared = self.share_ended().await?;
            let more = shared | self.step()? | self.end_holding().await? | self.claim_guarded().await?;
            let rests = !more && self.comes_to_rest().await?;
            let began = self.flush(rests).await?;
            self.begin_round();
            if rests && !self.image.status.state.is_active() {
                return Ok(End::AtRest);
            }
            let settled = self.settle_elsewhere().await?;
            if self.shutting_down && self.attempts.is_empty() && self.image.offered.is_empty() && !rests && !settled {
                // What runs elsewhere goes on under the next coordinator.
                self.release().await?;
                return Ok(End::SessionOver);
            }
            if more || began || settled {
                self.drain_inbox().await?;
                continue;
            }
            if let Some(end) = self.wait().await? {
                return Ok(end);
            }
            self.drain_inbox().await?;
        }
    }

    /// One round of what follows from what is known: time, propagation, claims. Returns whether the batch was
    /// full before everything was done.
    fn step(&mut self) -> Result<bool, EngineError> {
        let now = self.now();
        self.image.wake(now);
        // What changes from here on wakes the loop again.
        let shared = &self.shared;
        self.seen =
            (self.remote.wants.grants.count(), shared.arbiter.type_freed.count(), shared.roster.changed.count());
        if let Some(until) = self.image.status.resume_at
            && until <= now
            && matches!(self.image.status.state, JobState::Paused | JobState::Pausing)
        {
            self.image.move_job(&mut self.batch, JobEvent::Resume, now)?;
        }
        if let Some(at) = self.deadline()
            && at <= now
            && matches!(self.image.status.state, JobState::Running | JobState::Pausing | JobState::Paused)
        {
            let failure = Failure::permanent(
                "deadline_passed",
                format!("the job's deadline passed at {at}; what runs is stopped, what waits is cancelled"),
            );
            self.image.move_job(&mut self.batch, JobEvent::DeadlinePassed(Box::new(failure)), now)?;
            self.interrupt_all();
        }
        let mut more = self.image.propagate(&mut self.batch, now)?;
        more |= self.prune();
        if !self.batch.is_full() && !self.shutting_down {
            let attempts = &mut self.attempts;
            let job = self.image.record.clone();
            let (mut wants_place, mut wants_type) = (false, false);
            let grants = &self.remote.wants.grants;
            self.image.claim_ready(&mut self.batch, self.session.worker, now, |spec| {
                let place = attempts.place(spec, &job, grants);
                wants_place |= place == image::Place::None;
                wants_type |= place == image::Place::NoneOfType && !job.preview;
                place
            })?;
            (self.wants_place, self.wants_type) = (wants_place, wants_type);
        }
        more |= self.look_elsewhere()?;
        Ok(more)
    }

    /// Moves the job on when nothing is left to do in its state. Returns whether it thereby comes to rest.
    async fn comes_to_rest(&mut self) -> Result<bool, EngineError> {
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

    /// Makes the batch durable, then answers and starts what was claimed. Returns whether there was a batch.
    async fn flush(&mut self, rests: bool) -> Result<bool, EngineError> {
        self.add_progress();
        if rests {
            self.batch.delete(keys::active(self.image.id()));
            for name in self.shared.exclusive_names(&self.image.record) {
                self.batch.delete(keys::slot(&name));
            }
            if !self.image.status.slots.is_empty() {
                self.give_job_slots_back();
            }
            self.queue_for(BTreeSet::new());
            self.batch.delete(keys::claim(self.image.id()));
        }
        if self.batch.is_empty() {
            self.answer();
            return Ok(false);
        }
        let mut batch = std::mem::take(&mut self.batch);
        let starts = std::mem::take(&mut batch.starts);
        let label = batch.label;
        self.image.head.batch += 1;
        batch.put(keys::head(self.image.id()), encode(&self.image.head));
        let mut txn = match &self.submitting {
            None => Txn::new().when(Compare::Created(keys::claim(self.image.id()), self.claim)),
            Some(_) => self.submission(),
        };
        txn.compares.extend(batch.absent.drain(..).map(Compare::Absent));
        txn.ops.extend(batch.into_ops());
        let revision = self.commit_surely(txn, label).await?;
        if let Some(reply) = self.submitting.take() {
            self.claim = match revision {
                Some(revision) => revision,
                None => self.own_claim().await?,
            };
            // Whoever submitted may have gone away; the job is there all the same.
            let _ = reply.send(());
        }
        self.answer();
        for answered in std::mem::take(&mut self.answered) {
            answered.send(&self.shared).await;
        }
        for id in starts {
            self.start(id).await?;
        }
        self.publish();
        Ok(true)
    }

    fn answer(&mut self) {
        for answer in self.answers.drain(..) {
            answer();
        }
    }

    /// Commits a batch, through a store that is away for a while, and through a commit that was not confirmed.
    /// Returns the revision, unless it is only known that the batch is there.
    async fn commit_surely(&mut self, txn: Txn, label: &'static str) -> Result<Option<Revision>, EngineError> {
        let mut wait = Duration::from_millis(50);
        loop {
            match self.shared.commit(txn.clone(), label).await {
                Ok(Committed::At(revision)) => return Ok(Some(revision)),
                Ok(Committed::Conflict(found)) => {
                    let ours = found.first().and_then(Option::as_ref).is_some_and(|entry| entry.created == self.claim);
                    return Err(if ours { EngineError::NameTaken } else { EngineError::ClaimLost });
                }
                Err(EngineError::Store(StoreError::Unavailable(why))) => {
                    tracing::warn!(job = %self.image.id(), %why, "the state store is away, trying again");
                }
                Err(EngineError::Store(StoreError::Unknown(why))) => {
                    tracing::warn!(job = %self.image.id(), %why, "a commit was not confirmed, looking whether it is there");
                    if self.is_applied().await? {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error),
            }
            if self.session.over.is_cancelled() {
                return Err(EngineError::ClaimLost);
            }
            self.shared.clock.sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(5));
        }
    }

    /// Commits one transaction of drafts, which may be written any number of times.
    async fn commit_draft(&self, txn: Txn) -> Result<(), EngineError> {
        self.commit_draft_as(txn, "stage").await
    }

    /// Commits a transaction that may be repeated.
    async fn commit_draft_as(&self, txn: Txn, label: &'static str) -> Result<(), EngineError> {
        let mut wait = Duration::from_millis(50);
        loop {
            match self.shared.commit(txn.clone(), label).await {
                Ok(Committed::At(_)) => return Ok(()),
                Ok(Committed::Conflict(_)) => return Err(EngineError::ClaimLost),
                Err(EngineError::Store(StoreError::Unavailable(_) | StoreError::Unknown(_)))
                    if !self.session.over.is_cancelled() =>
                {
                    self.shared.clock.sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the head in the store is the one of the batch that was not confirmed.
    async fn is_applied(&self) -> Result<bool, EngineError> {
        loop {
            match self.shared.store.get(&keys::head(self.image.id())).await {
                Ok(entry) => {
                    let head: Option<Head> = entry.as_ref().map(crate::records::decode).transpose()?;
                    return Ok(head.is_some_and(|head| head.batch >= self.image.head.batch));
                }
                Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) if !self.session.over.is_cancelled() => {
                    self.shared.clock.sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for something to happen. Returns an end when the session is over.
    async fn wait(&mut self) -> Result<Option<End>, EngineError> {
        let timer = self.next_moment();
        let clock = self.shared.clock.clone();
        let (wants_type, others) = (self.wants_type, self.depends_on_others());
        let (shared, grants, seen) = (self.shared.clone(), self.remote.wants.grants.clone(), self.seen);
        let place = async move {
            tokio::select! {
                biased;
                () = grants.after(seen.0) => {}
                () = shared.arbiter.type_freed.after(seen.1), if wants_type => {}
                () = shared.roster.changed.after(seen.2), if others => {}
            }
        };
        let (woken, woken_seen) = (self.woken.clone(), self.woken_seen);
        let (signal, signal_seen) = self.rounds.signal();
        let wakes = self.listens();
        let mut heard = None;
        let (mut round, mut swept) = (None, None);
        let shutting_down = self.shutting_down;
        let draining = self.shared.draining.clone();
        let message = tokio::select! {
            biased;
            () = self.session.over.cancelled() => return Ok(Some(End::SessionOver)),
            () = draining.cancelled(), if !shutting_down => {
                self.shutting_down = true;
                // What runs elsewhere goes on under the next coordinator.
                self.attempts.interrupt_all();
                None
            }
            message = self.errand.inbox.recv() => match message {
                Some(message) => Some(message),
                // The engine is gone, and with it everybody who could ask.
                None => return Ok(Some(End::SessionOver)),
            },
            changes = self.remote.hear() => {
                heard = Some(changes);
                None
            }
            () = place => None,
            () = woken.after(woken_seen) => None,
            () = signal.after(signal_seen), if wakes => None,
            ended = self.rounds.call.ended() => {
                round = Some(ended);
                None
            }
            ended = self.sweep.ended() => {
                swept = Some(ended);
                None
            }
            () = async {
                match timer {
                    Some(duration) => clock.sleep(duration).await,
                    None => std::future::pending().await,
                }
            } => None,
        };
        if let Some(message) = message {
            self.take_in(message).await?;
        }
        if let Some(changes) = heard {
            self.heard(changes).await?;
        }
        if let Some(result) = round {
            self.end_round(result).await?;
        }
        if let Some(result) = swept {
            self.looked_for_leftovers(result);
        }
        self.stop_overdue().await?;
        self.stop_overdue_elsewhere().await?;
        Ok(None)
    }

    /// Stops attempts that are overdue: first by asking, then where they stand.
    async fn stop_overdue(&mut self) -> Result<(), EngineError> {
        for (task, epoch, why, aborted) in self.attempts.overdue(self.shared.clock.monotonic()) {
            if aborted {
                self.ended(task, epoch, Err(Failure::interrupted())).await?;
            } else {
                let now = self.now();
                self.image.log(&mut self.batch, now, Level::Warn, "task.overdue", Some(task), |name| {
                    format!("{name} is asked to stop: {}", why.failure())
                });
            }
        }
        Ok(())
    }

    /// Takes in what is waiting, as long as the batch has room.
    async fn drain_inbox(&mut self) -> Result<(), EngineError> {
        while !self.batch.is_full() {
            match self.errand.inbox.try_recv() {
                Ok(message) => self.take_in(message).await?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// The time until the next thing that happens by itself.
    fn next_moment(&mut self) -> Option<Duration> {
        let now = self.now();
        let wall = [
            self.image.wake(now),
            self.image.status.resume_at.filter(|_| self.image.status.state.is_active()),
            self.image.status.undo_at,
            self.deadline(),
        ];
        let wall = wall.into_iter().flatten().min().map(|at| {
            let left = at.as_millisecond().saturating_sub(now.as_millisecond());
            Duration::from_millis(u64::try_from(left).unwrap_or(0)).max(Duration::from_millis(1))
        });
        let mono = self.shared.clock.monotonic();
        let stored = (!self.progress_dirty.is_empty())
            .then(|| (self.progress_stored + PROGRESS_EVERY).saturating_sub(mono).max(Duration::from_millis(1)));
        [wall, stored, self.attempts.next_overdue(mono), self.next_overdue_elsewhere(mono), self.next_round(mono)]
            .into_iter()
            .flatten()
            .min()
    }

    fn deadline(&self) -> Option<Timestamp> {
        let limit = i64::try_from(self.image.record.deadline_ms?).ok()?;
        if !matches!(self.image.status.state, JobState::Running | JobState::Pausing | JobState::Paused) {
            return None;
        }
        Timestamp::from_millisecond(self.image.record.created.as_millisecond().saturating_add(limit)).ok()
    }

    async fn take_in(&mut self, message: Message) -> Result<(), EngineError> {
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
    fn add_progress(&mut self) {
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

    fn publish(&mut self) {
        let now = self.shared.clock.monotonic();
        let work = self.image.work();
        let (done, total) = match work.total_bytes {
            Some(total) => (work.done_bytes, Some(total)),
            None => (work.done_items, work.total_items),
        };
        self.meter.note(now, done);
        let eta = total.and_then(|total| self.meter.eta(total.saturating_sub(done)));
        let snapshot = JobSnapshot::of(&self.image, work, self.meter.rate(), eta);
        self.errand.snapshots.send_replace(snapshot);
    }

    fn policy(&self, id: TaskId) -> Policy {
        let Some(task) = self.image.tasks.get(&id) else { return Policy::default() };
        task.spec.policy.clone().unwrap_or_else(|| self.attempts.policy_of(&task.spec.task_type))
    }

    /// Gives the job back for another worker, or for this machine's next process.
    async fn release(&mut self) -> Result<(), EngineError> {
        let key = keys::claim(self.image.id());
        let txn = Txn::new().when(Compare::Created(key.clone(), self.claim)).delete(key);
        self.shared.commit(txn, "release").await?;
        Ok(())
    }
}
