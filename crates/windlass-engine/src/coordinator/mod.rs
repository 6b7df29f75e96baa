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
mod commit;
mod conclude;
mod guarded;
pub(crate) mod image;
pub(crate) mod load;
mod looked;
mod messages;
mod pools;
mod remote;
pub(crate) mod removal;
mod rest;
mod rounds;
mod shared;
mod stage;
mod sweep;

pub(crate) use attempt::{Stopped, run};
pub(crate) use commit::claim;
pub(crate) use messages::Message;
pub(crate) use shared::gone;
pub(crate) use stage::{check_sizes, plan_failure};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use windlass_model::effect::Leftover;
use windlass_model::job::{JobEvent, JobState, JobStatus};
use windlass_model::log::Level;
use windlass_model::plan::{Plan, TaskSpec};
use windlass_model::policy::Policy;
use windlass_model::progress::Meter;
use windlass_model::task::Output;
use windlass_model::{Failure, JobId, TaskId};
use windlass_store::{Revision, StoreError};

use self::attempt::Attempts;
use self::beside::Beside;
use self::image::{Batch, JobImage};
use self::remote::Remote;
use self::rounds::RoundsHere;
use crate::EngineError;
use crate::asks::Answered;
use crate::bell::Bell;
use crate::engine::Shared;
use crate::lease::Session;
use crate::records::{Head, JobRecord};
use crate::snapshot::JobSnapshot;

/// Requests that wait for a coordinator before those who ask have to wait too.
pub(crate) const MESSAGES: usize = 1024;
/// How often progress is written at most.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How long after an undo that failed a job that undoes itself tries again, in milliseconds.
const UNDO_AGAIN_MS: u64 = 5 * 60_000;

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
    /// Places that the job's own tasks have given back to pools since tasks were last claimed for those.
    given_back: BTreeMap<String, usize>,
    /// Waiting for a place: tasks that need more than that.
    guarded_wants_place: bool,
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
            given_back: BTreeMap::new(),
            guarded_wants_place: false,
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
            let shared = self.share_ended().await? | self.claim_guarded_first().await?;
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
            if self.batch.is_full() {
                self.flush(false).await?;
            }
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
}
