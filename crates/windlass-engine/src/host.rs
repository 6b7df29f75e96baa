//! Attempts that run here for a job that another worker coordinates.
//!
//! The task sees the same [`TaskContext`](crate::context::TaskContext) as in the coordinator's own process. What it asks for is carried out by a
//! host instead: each write is a transaction of its own that compares the attempt's claim and puts it again. A
//! claim that is gone, because the lease was lost or the coordinator gave the attempt up, thereby refuses
//! everything that still comes from it, and a write that arrives twice or late is refused as well.
//!
//! The end is one transaction too: it deletes the claim and leaves the result for the coordinator, who folds it
//! into the job.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_model::effect::{Effect, EffectEvent};
use windlass_model::log::Level;
use windlass_model::plan::TaskSpec;
use windlass_model::policy::Policy;
use windlass_model::progress::Progress;
use windlass_model::{Epoch, ErrorClass, Failure, JobId, TaskId};
use windlass_store::{Committed, Compare, Op, Revision, StoreError, Txn, keys};

use crate::EngineError;
use crate::arbiter::Place;
use crate::bell::Bell;
use crate::coordinator::image::{Checkpoint, intend};
use crate::coordinator::{Message, PROGRESS_EVERY, Stopped};
use crate::engine::Shared;
use crate::kind::Finished;
use crate::lease::Session;
use crate::offers::{AttemptEnd, How, LogNote, ProgressNote, RemoteEnd, TaskClaim};
use crate::records::encode;
use crate::values;

mod load;

/// Requests of one attempt that wait for its host.
const MESSAGES: usize = 64;
/// Changes per transaction, claim not counted.
const OPS: usize = 80;
/// Bytes per transaction after which no more is added.
const BYTES: usize = 200 * 1024;

/// What stops an attempt that runs here.
#[derive(Clone, Debug)]
struct Signals {
    epoch: Epoch,
    interrupt: CancellationToken,
    abort: CancellationToken,
}

/// The attempts that run here for jobs coordinated elsewhere.
#[derive(Debug, Default)]
pub(crate) struct Hosting {
    attempts: Mutex<BTreeMap<(JobId, TaskId), Signals>>,
    /// Owns them.
    tasks: Mutex<JoinSet<()>>,
    /// Rings when one ends.
    ended: Bell,
}

impl Hosting {
    fn attempts(&self) -> MutexGuard<'_, BTreeMap<(JobId, TaskId), Signals>> {
        // Each use is one insert, remove or look-up.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has(&self, id: (JobId, TaskId)) -> bool {
        self.attempts().contains_key(&id)
    }

    /// Hands a wish to stop to the attempt that it is meant for.
    pub(crate) fn stop(&self, id: (JobId, TaskId), epoch: Epoch, how: How) {
        if let Some(signals) = self.attempts().get(&id).filter(|signals| signals.epoch == epoch) {
            match how {
                How::Interrupt => signals.interrupt.cancel(),
                How::Abort => signals.abort.cancel(),
            }
        }
    }

    /// Stops everything where it stands, as a crash would.
    pub(crate) fn abort_all(&self) {
        self.tasks().abort_all();
    }

    /// Stops everything and waits until nothing runs.
    pub(crate) async fn clear(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks());
        tasks.shutdown().await;
        self.attempts().clear();
        self.ended.ring();
    }

    /// Waits until nothing runs here.
    pub(crate) async fn idle(&self) {
        loop {
            let seen = self.ended.count();
            if self.attempts().is_empty() {
                return;
            }
            self.ended.after(seen).await;
        }
    }

    /// Starts an attempt whose claim is durable.
    pub(crate) fn begin(shared: &Arc<Shared>, session: &Arc<Session>, claim: Held, task_type: String, place: Place) {
        let id = claim.id;
        let signals =
            Signals { epoch: claim.epoch, interrupt: CancellationToken::new(), abort: CancellationToken::new() };
        let hosting = &shared.hosting;
        hosting.attempts().insert(id, signals.clone());
        shared.attempts.begin(id, claim.epoch);
        // A wish that came before the attempt was known here.
        if let Some(how) = shared.board.wish(id, claim.epoch) {
            hosting.stop(id, claim.epoch, how);
        }
        let (shared, session) = (shared.clone(), session.clone());
        let work = async move {
            let host = Host {
                shared: shared.clone(),
                session,
                claim,
                signals,
                ledgers: BTreeMap::new(),
                other_input: false,
                ops: Vec::new(),
                bytes: 0,
                answers: Vec::new(),
                notes: 0,
                wrote: false,
                progress: None,
                progress_stored: Duration::ZERO,
                last_sign: shared.clock.monotonic(),
                spent: Duration::ZERO,
                stopped: None,
            };
            if let Err(Lost) = host.run(&task_type).await {
                tracing::warn!(
                    job = %id.0, task = %id.1, code = "task.late_write",
                    "the claim on a task was lost: what its attempt still writes is refused"
                );
                shared.attempts.lose(|lost| lost == id);
            } else {
                shared.attempts.end(id);
            }
            drop(place);
            shared.hosting.attempts().remove(&id);
            shared.hosting.ended.ring();
        };
        let mut tasks = hosting.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    }
}

/// A claim that this worker holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    id: (JobId, TaskId),
    epoch: Epoch,
    created: Revision,
    version: Revision,
    seq: u64,
}

impl Held {
    pub(crate) fn new(id: (JobId, TaskId), epoch: Epoch, revision: Revision) -> Self {
        Self { id, epoch, created: revision, version: revision, seq: 0 }
    }
}

/// The claim is lost, or the session over.
struct Lost;

/// An attempt shows no sign of life, or is past its deadline.
enum Overdue {
    First,
    Again,
}

type Answer = Box<dyn FnOnce() + Send + Sync>;

struct Host {
    shared: Arc<Shared>,
    session: Arc<Session>,
    claim: Held,
    signals: Signals,
    /// The ledger of the task, and of the one that it undoes.
    ledgers: BTreeMap<TaskId, BTreeMap<u32, Effect>>,
    /// Whether the task has another input than it was planned with.
    other_input: bool,
    /// What the next transaction writes.
    ops: Vec<Op>,
    bytes: usize,
    answers: Vec<Answer>,
    /// Log entries so far.
    notes: u64,
    wrote: bool,
    /// Progress that is not stored yet.
    progress: Option<Progress>,
    progress_stored: Duration,
    last_sign: Duration,
    /// Time from the task's first claim to the beginning of this attempt.
    spent: Duration,
    stopped: Option<Stopped>,
}

impl Host {
    fn put(&mut self, key: String, value: bytes::Bytes) {
        // A later value of the same key replaces the earlier one: a transaction has each key once.
        self.ops.retain(|op| op.key() != key);
        self.bytes += key.len() + value.len();
        self.ops.push(Op::Put { key, value, lease: None });
    }

    /// Runs the attempt to its end.
    async fn run(mut self, task_type: &str) -> Result<(), Lost> {
        let (messages, mut inbox) = mpsc::channel(MESSAGES);
        let context = match self.load(messages.clone()).await? {
            Ok(context) => context,
            Err(failure) => return self.end(Err(failure)).await,
        };
        let policy = self.policy(&context.spec, task_type);
        let mut ends_by = self.ends_by(&policy);
        let cancel = context.cancel.clone();
        let mut attempt = JoinSet::new();
        let code = self.shared.kinds.task_type(&context.spec.task_type).cloned();
        let abort = attempt.spawn(async move {
            let result = match code {
                Some(code) => crate::coordinator::run(&*code, &context).await,
                None => Err(Failure::transient("unknown_task_type", "this worker has no code for the task")),
            };
            let (task, epoch) = (context.spec.id, context.epoch);
            // Ends unheard only when the host is gone.
            let _ = messages.send(Message::Ended { task, epoch, result }).await;
        });
        let stall = Duration::from_millis(policy.stall_ms.max(1));
        let draining = self.shared.draining.clone();
        loop {
            let wait = self.next_moment(stall, ends_by);
            let asked = cancel.is_cancelled();
            let message = tokio::select! {
                biased;
                () = self.session.over.cancelled() => return Err(Lost),
                () = self.signals.abort.cancelled() => {
                    abort.abort();
                    return self.end(Err(Failure::interrupted())).await;
                }
                () = self.signals.interrupt.cancelled(), if !asked && policy.interruptible => {
                    cancel.cancel();
                    None
                }
                () = draining.cancelled(), if !asked && policy.interruptible => {
                    cancel.cancel();
                    None
                }
                message = inbox.recv() => message,
                () = self.shared.clock.sleep(wait) => None,
            };
            let mut next = message;
            while let Some(message) = next {
                if let Message::Ended { result, .. } = message {
                    return self.end(result).await;
                }
                self.take_in(message).await?;
                next = if self.ops.len() < OPS / 2 && self.bytes < BYTES { inbox.try_recv().ok() } else { None };
            }
            match self.overdue(stall, &mut ends_by) {
                None => {}
                Some(Overdue::First) => cancel.cancel(),
                Some(Overdue::Again) => {
                    abort.abort();
                    return self.end(Err(Failure::interrupted())).await;
                }
            }
            self.add_progress();
            self.write().await?;
        }
    }

    fn policy(&self, spec: &TaskSpec, task_type: &str) -> Policy {
        let own = || self.shared.kinds.task_type(task_type).map(|code| code.policy()).unwrap_or_default();
        spec.policy.clone().unwrap_or_else(own)
    }

    /// The end of the task's deadline on the monotonic clock.
    fn ends_by(&self, policy: &Policy) -> Option<Duration> {
        let left = Duration::from_millis(policy.deadline_ms?).saturating_sub(self.spent);
        Some(self.shared.clock.monotonic() + left)
    }

    fn next_moment(&self, stall: Duration, ends_by: Option<Duration>) -> Duration {
        let now = self.shared.clock.monotonic();
        let stalled = self.last_sign + stall;
        let stored = self.progress.map(|_| self.progress_stored + PROGRESS_EVERY);
        let next = [Some(stalled), ends_by, stored].into_iter().flatten().min().unwrap_or(stalled);
        next.saturating_sub(now).max(Duration::from_millis(1))
    }

    /// Whether the attempt is overdue, for the first time or still.
    fn overdue(&mut self, stall: Duration, ends_by: &mut Option<Duration>) -> Option<Overdue> {
        let now = self.shared.clock.monotonic();
        let late = ends_by.is_some_and(|end| now >= end);
        if !late && now.saturating_sub(self.last_sign) < stall {
            return None;
        }
        self.last_sign = now;
        *ends_by = None;
        if self.stopped.is_some() {
            return Some(Overdue::Again);
        }
        let why = if late { Stopped::Late } else { Stopped::Stalled };
        self.stopped = Some(why);
        let text = format!("it is asked to stop: {}", why.failure());
        self.note(Level::Warn, "task.overdue".to_owned(), text, serde_json::Map::new());
        Some(Overdue::First)
    }

    async fn take_in(&mut self, message: Message) -> Result<(), Lost> {
        let (job, task) = self.claim.id;
        self.last_sign = self.shared.clock.monotonic();
        match message {
            Message::Intend { effects, reply, .. } => {
                let ledger = self.ledgers.entry(task).or_default();
                let (states, changed) = intend(ledger, self.other_input, effects);
                self.wrote |= !changed.is_empty();
                for effect in changed {
                    self.put(keys::effect(job, task, effect.n), encode(&effect));
                    if self.ops.len() >= OPS {
                        self.write_only().await?;
                    }
                }
                self.answers.push(Box::new(move || drop(reply.send(Some(states)))));
            }
            Message::Settle { of, n, event, reply, .. } => {
                let done = self.settle(of, n, event);
                self.answers.push(Box::new(move || {
                    // Nobody waits any more when the attempt was stopped meanwhile.
                    let _ = reply.send(done);
                }));
            }
            Message::Checkpoint { value, reply, .. } => {
                let answer = match self.keep(value).await? {
                    Ok(value) => {
                        let checkpoint = Checkpoint { epoch: self.claim.epoch, value };
                        self.put(keys::checkpoint(job, task), encode(&checkpoint));
                        self.wrote = true;
                        Some(())
                    }
                    Err(failure) => {
                        self.note(Level::Error, failure.code.clone(), failure.to_string(), serde_json::Map::new());
                        None
                    }
                };
                self.answers.push(Box::new(move || {
                    // Nobody waits any more when the attempt was stopped meanwhile.
                    let _ = reply.send(answer);
                }));
            }
            Message::Progress { progress, .. } => self.progress = Some(progress),
            Message::Log { level, code, message, fields, .. } => self.note(level, code, message, fields),
            // Meant for coordinators.
            Message::Ended { .. } | Message::Command { .. } | Message::Ask(_) => {}
        }
        Ok(())
    }

    fn settle(&mut self, of: TaskId, n: u32, event: EffectEvent) -> Option<()> {
        let effect = self.ledgers.get(&of)?.get(&n)?.clone();
        match effect.apply(event, self.claim.epoch, self.shared.clock.wall()) {
            Ok(effect) => {
                self.put(keys::effect(self.claim.id.0, of, n), encode(&effect));
                self.ledgers.entry(of).or_default().insert(n, effect);
                self.wrote = true;
                Some(())
            }
            Err(illegal) => {
                tracing::error!(%illegal, "an effect cannot be settled so");
                None
            }
        }
    }

    fn note(
        &mut self,
        level: Level,
        code: String,
        message: String,
        fields: serde_json::Map<String, serde_json::Value>,
    ) {
        self.notes += 1;
        let note = LogNote { epoch: self.claim.epoch, level, code, message, fields };
        let (job, task) = self.claim.id;
        self.put(keys::attempt_message(job, task, self.notes), encode(&note));
    }

    fn add_progress(&mut self) {
        let now = self.shared.clock.monotonic();
        if now >= self.progress_stored + PROGRESS_EVERY
            && let Some(progress) = self.progress.take()
        {
            self.progress_stored = now;
            let note = ProgressNote { worker: self.session.worker, epoch: self.claim.epoch, progress };
            let (job, task) = self.claim.id;
            self.put(keys::attempt_progress(job, task), encode(&note));
        }
    }

    /// Stores a value that may be too large for its record.
    async fn keep(&self, value: serde_json::Value) -> Result<Result<windlass_model::task::Output, Failure>, Lost> {
        loop {
            match values::keep(&*self.shared.store, self.claim.id.0, value.clone()).await {
                Ok(output) => return Ok(Ok(output)),
                Err(EngineError::ValueTooLarge { bytes, most }) => {
                    let text = format!("the output has {bytes} bytes, at most {most} are kept");
                    return Ok(Err(Failure::permanent("output_too_large", text)));
                }
                Err(error) if error.may_pass() => self.pause().await?,
                Err(error) => return Ok(Err(Failure::transient("not_kept", error.to_string()))),
            }
        }
    }

    async fn pause(&self) -> Result<(), Lost> {
        tokio::select! {
            biased;
            () = self.session.over.cancelled() => Err(Lost),
            () = self.shared.clock.sleep(Duration::from_millis(200)) => Ok(()),
        }
    }

    /// Makes what was asked for durable, then answers.
    async fn write(&mut self) -> Result<(), Lost> {
        self.write_only().await?;
        for answer in self.answers.drain(..) {
            answer();
        }
        Ok(())
    }

    async fn write_only(&mut self) -> Result<(), Lost> {
        if self.ops.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let ops = std::mem::take(&mut self.ops);
        let (job, task) = self.claim.id;
        let key = keys::task_claim(job, task);
        let seq = self.claim.seq + 1;
        let claim = TaskClaim { worker: self.session.worker, epoch: self.claim.epoch, seq };
        let mut txn = Txn::new().when(Compare::Version(key.clone(), self.claim.version)).put_leased(
            key,
            encode(&claim),
            self.session.lease,
        );
        txn.ops.extend(ops);
        loop {
            let answer = tokio::select! {
                biased;
                () = self.session.over.cancelled() => return Err(Lost),
                answer = self.shared.commit(txn.clone(), "attempt") => answer,
            };
            match answer {
                Ok(Committed::At(version)) => {
                    self.claim.version = version;
                    break;
                }
                Ok(Committed::Conflict(found)) => {
                    // Ours, when a commit that was not confirmed had been applied.
                    let found = found.into_iter().flatten().next().ok_or(Lost)?;
                    let there = crate::records::decode::<TaskClaim>(&found).ok();
                    if found.created != self.claim.created || there != Some(claim) {
                        return Err(Lost);
                    }
                    self.claim.version = found.version;
                    break;
                }
                Err(error) if error.may_pass() => self.pause().await?,
                Err(error) => {
                    tracing::warn!(%error, "an attempt cannot write, its claim is given up");
                    return Err(Lost);
                }
            }
        }
        self.claim.seq = seq;
        Ok(())
    }

    /// Stores how the attempt ended and gives the claim back, in one transaction.
    async fn end(mut self, result: Result<Finished, Failure>) -> Result<(), Lost> {
        let asked = self.signals.interrupt.is_cancelled()
            || self.signals.abort.is_cancelled()
            || self.shared.draining.is_cancelled();
        let result = match (result, self.stopped) {
            (Err(failure), Some(stopped)) if failure.class == ErrorClass::Interrupted => Err(stopped.failure()),
            (result, _) => result,
        };
        let end = match result {
            Ok(finished) => self.finished(finished).await?,
            Err(failure) => AttemptEnd::Failed { failure: Box::new(failure) },
        };
        // Large batches of log entries and effects go first: the last transaction stays small.
        if self.ops.len() > OPS / 2 || self.bytes > BYTES {
            self.write().await?;
        }
        let (job, task) = self.claim.id;
        let (worker, epoch) = (self.session.worker, self.claim.epoch);
        let record = encode(&RemoteEnd { worker, epoch, asked, wrote: self.wrote, end });
        let claim = keys::task_claim(job, task);
        let mut txn = Txn::new().when(Compare::Version(claim.clone(), self.claim.version));
        txn.ops.append(&mut self.ops);
        txn = txn.put(keys::attempt_end(job, task), record).delete(claim);
        let mut unconfirmed = false;
        loop {
            let answer = tokio::select! {
                biased;
                () = self.session.over.cancelled() => return Err(Lost),
                answer = self.shared.commit(txn.clone(), "end") => answer,
            };
            match answer {
                Ok(Committed::At(_)) => break,
                // The claim is gone: by our own commit, or because it was lost. Either way nothing is left to do.
                Ok(Committed::Conflict(_)) if unconfirmed => break,
                Ok(Committed::Conflict(_)) => return Err(Lost),
                Err(error) if error.may_pass() => {
                    unconfirmed |= matches!(error, EngineError::Store(StoreError::Unknown(_)));
                    self.pause().await?;
                }
                Err(error) => {
                    tracing::warn!(%error, "the end of an attempt could not be stored, its claim is given up");
                    return Err(Lost);
                }
            }
        }
        for answer in self.answers.drain(..) {
            answer();
        }
        Ok(())
    }

    async fn finished(&self, finished: Finished) -> Result<AttemptEnd, Lost> {
        let output = match self.keep(finished.output).await? {
            Ok(output) => output,
            Err(failure) => return Ok(AttemptEnd::Failed { failure: Box::new(failure) }),
        };
        let add = if finished.add.is_empty() {
            None
        } else {
            let tasks = serde_json::to_value(&finished.add).unwrap_or_default();
            match self.keep(tasks).await? {
                Ok(add) => Some(add),
                Err(failure) => return Ok(AttemptEnd::Failed { failure: Box::new(failure) }),
            }
        };
        Ok(AttemptEnd::Finished { output, add })
    }
}
