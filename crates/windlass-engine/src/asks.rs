//! Commands for jobs that another worker coordinates, passed through the store.
//!
//! Who gives the command puts an [`Ask`] under `mail/ask/`, bound to its own lease. The job's coordinator carries it
//! out and deletes it in the batch that stores the effect; then it puts the answer, bound to the asker's lease too.
//! So neither outlives an asker that is gone. A coordinator that dies in between leaves either the ask, which the
//! next one carries out, or the effect without an answer: the asker then asks again under the same request id and
//! is given the answer of the first time.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use windlass_model::{Epoch, JobId, TaskId, WorkerId};
use windlass_store::{Change, Committed, Compare, Entry, LeaseId, StoreError, Txn, keys};

use crate::EngineError;
use crate::command::{Command, CommandReply};
use crate::engine::Shared;
use crate::lease::Session;
use crate::records::{decode, encode};

/// How long an ask may wait while there are workers: a dead coordinator's lease, and time to take over.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long it may wait while there is none.
const ALONE: Duration = Duration::from_secs(5);
/// How long the answer may take once the ask was carried out.
const ANSWERED: Duration = Duration::from_secs(2);

/// A command that waits for the job's coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) request: String,
    pub(crate) what: What,
    /// Who asks.
    pub(crate) by: WorkerId,
}

/// What is asked of a job's coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// To carry out a command.
    Command(Command),
    /// To note that a worker had lost its lease and, now that it is back, has dropped an attempt.
    Late {
        task: TaskId,
        epoch: Epoch,
        /// What people call the worker.
        worker: String,
    },
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Reply {
    reply: CommandReply,
}

/// An ask as a coordinator gets it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) job: JobId,
    pub(crate) key: String,
    pub(crate) ask: Ask,
    pub(crate) lease: Option<LeaseId>,
}

/// What is put once the batch that carried out an ask is durable.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) asked: Asked,
    pub(crate) reply: CommandReply,
}

impl Answered {
    /// Puts the answer. An asker that is gone gets none.
    pub(crate) async fn send(self, shared: &Shared) {
        let Some(lease) = self.asked.lease else { return };
        let key = keys::answer(self.asked.job, &self.asked.ask.request);
        let txn = Txn::new().put_leased(key, encode(&Reply { reply: self.reply }), lease);
        match shared.commit(txn, "answer").await {
            // Without an answer the asker asks again.
            Err(error) => tracing::debug!(%error, "an answer could not be given"),
            Ok(_) => tracing::debug!(job = %self.asked.job, by = %self.asked.ask.by, "a command was answered"),
        }
    }
}

/// The asks that wait, as this worker knows them.
#[derive(Debug, Default)]
pub(crate) struct Asks(Mutex<BTreeMap<(JobId, String), Asked>>);

impl Asks {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<(JobId, String), Asked>> {
        // Each use is one insert, remove or look-up.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn clear(&self) {
        self.waiting().clear();
    }

    /// Takes in an ask.
    pub(crate) fn add(&self, entry: &Entry) -> Option<JobId> {
        let job = entry.key.strip_prefix(keys::ASKS)?.split('/').next()?.parse().ok()?;
        let ask = decode::<Ask>(entry).inspect_err(|error| tracing::warn!(%error, "a command cannot be read")).ok()?;
        let asked = Asked { job, key: entry.key.clone(), ask, lease: entry.lease };
        self.waiting().insert((job, entry.key.clone()), asked);
        Some(job)
    }

    /// Takes in that an ask came or went. Returns the job of a new one.
    pub(crate) fn apply(&self, change: &Change) -> Option<JobId> {
        if let Some(entry) = &change.entry {
            return self.add(entry);
        }
        let job = change.key.strip_prefix(keys::ASKS)?.split('/').next()?.parse().ok()?;
        self.waiting().remove(&(job, change.key.clone()));
        None
    }

    /// The asks that wait for a job's coordinator.
    pub(crate) fn of(&self, job: JobId) -> Vec<Asked> {
        let waiting = self.waiting();
        waiting
            .range((job, String::new())..)
            .take_while(|((of, _), _)| *of == job)
            .map(|(_, asked)| asked.clone())
            .collect()
    }

    /// The jobs with asks that wait.
    pub(crate) fn jobs(&self) -> Vec<JobId> {
        let mut jobs: Vec<JobId> = self.waiting().keys().map(|(job, _)| *job).collect();
        jobs.dedup();
        jobs
    }
}

/// The attempts that run in this process, and those that it dropped because their claim was lost.
#[derive(Debug, Default)]
pub(crate) struct AttemptsHere(Mutex<RunningAndDropped>);

#[derive(Debug, Default)]
struct RunningAndDropped {
    running: BTreeMap<(JobId, TaskId), Epoch>,
    dropped: BTreeMap<(JobId, TaskId), Epoch>,
}

impl AttemptsHere {
    fn both(&self) -> MutexGuard<'_, RunningAndDropped> {
        // Nothing below panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, id: (JobId, TaskId), epoch: Epoch) {
        self.both().running.insert(id, epoch);
    }

    pub(crate) fn end(&self, id: (JobId, TaskId)) {
        self.both().running.remove(&id);
    }

    /// The claims on the attempts that `lost` names are lost.
    pub(crate) fn lose(&self, lost: impl Fn((JobId, TaskId)) -> bool) {
        let mut both = self.both();
        let gone: Vec<_> = both.running.extract_if(.., |id, _| lost(*id)).collect();
        both.dropped.extend(gone);
    }

    /// A coordinator has ended with its claim in hand: whatever it ran is accounted for.
    pub(crate) fn forget(&self, job: JobId) {
        self.both().running.retain(|id, _| id.0 != job);
    }

    fn take_dropped(&self) -> BTreeMap<(JobId, TaskId), Epoch> {
        std::mem::take(&mut self.both().dropped)
    }
}

/// Gives a command to whoever coordinates the job, and waits for the answer.
///
/// Errors: [`EngineError::NoWorker`] when nobody carries it out in time; the command is then withdrawn.
pub(crate) async fn ask(
    shared: &Shared,
    session: &Session,
    job: JobId,
    command: &Command,
    request: &str,
) -> Result<CommandReply, EngineError> {
    let began = shared.clock.monotonic();
    let what = What::Command(command.clone());
    let ask = Ask { request: request.to_owned(), what, by: session.worker };
    let (ask_key, answer_key) = (keys::ask(job, request), keys::answer(job, request));
    loop {
        let over = tokio::select! {
            biased;
            () = session.over.cancelled() => return Err(EngineError::HeldElsewhere),
            answer = attempt(shared, session, &ask, &ask_key, &answer_key, began) => match answer {
                Ok(Some(reply)) => {
                    // What is left goes with the lease.
                    let _ = shared.commit(Txn::new().delete(answer_key), "answered").await;
                    return Ok(reply);
                }
                Ok(None) => shared.clock.monotonic() >= began + patience(shared, session),
                Err(error) if error.may_pass() => {
                    shared.clock.sleep(Duration::from_millis(200)).await;
                    shared.clock.monotonic() >= began + patience(shared, session)
                }
                Err(error) => return Err(error),
            },
        };
        if over {
            return withdraw(shared, job, ask_key, &answer_key, began).await;
        }
    }
}

/// The cancel of a run whose place a newer one takes, for the transaction that says that the newer one waits. Bound to
/// nobody's lease: whoever coordinates the run carries it out, and nobody waits for an answer.
pub(crate) fn cancel_for_newer(session: &Session, job: JobId) -> (String, Bytes) {
    let request = "newer-run".to_owned();
    let key = keys::ask(job, &request);
    let what = What::Command(Command::Cancel { undo: false });
    (key, encode(&Ask { request, what, by: session.worker }))
}

/// Removes what is asked of a job that is gone, and that is bound to nobody's lease.
pub(crate) async fn forget(shared: &Shared, job: JobId) -> Result<(), EngineError> {
    for asked in shared.asks.of(job).into_iter().filter(|asked| asked.lease.is_none()) {
        let txn = Txn::new().when(Compare::Absent(keys::job(job))).delete(asked.key);
        shared.commit(txn, "forget").await?;
    }
    Ok(())
}

/// Tells the coordinators of attempts that this process dropped because it had lost its lease. People who wonder
/// about a worker that stood still find it in the job's log.
pub(crate) async fn tell_late(shared: &Shared, session: &Session) {
    for ((job, task), epoch) in shared.attempts.take_dropped() {
        let request = format!("late-{task}-{}", epoch.0);
        let what = What::Late { task, epoch, worker: shared.presence.name.clone() };
        let key = keys::ask(job, &request);
        let ask = Ask { request, what, by: session.worker };
        if let Err(error) = shared.commit(Txn::new().put_leased(key, encode(&ask), session.lease), "late").await {
            tracing::debug!(%job, %task, %error, "a dropped attempt could not be told of");
        }
    }
}

fn patience(shared: &Shared, session: &Session) -> Duration {
    let alone = !shared.take_up && !shared.roster.has_others(session.worker);
    if alone { ALONE } else { PATIENCE }
}

/// Puts the ask unless it is there, and waits: for the answer, for its being carried out, or until it is time to
/// look at the clock. `None`: not answered yet.
async fn attempt(
    shared: &Shared,
    session: &Session,
    ask: &Ask,
    ask_key: &str,
    answer_key: &str,
    began: Duration,
) -> Result<Option<CommandReply>, EngineError> {
    if let Some(reply) = read_answer(shared, answer_key).await? {
        return Ok(Some(reply));
    }
    let txn = Txn::new().when(Compare::Absent(ask_key.to_owned())).put_leased(ask_key, encode(ask), session.lease);
    let revision = match shared.commit(txn, "ask").await? {
        Committed::At(revision) => revision,
        // Asked already: by an earlier try, or by somebody else under the same request id.
        Committed::Conflict(_) => shared.store.revision().await?,
    };
    let mut answers = shared.store.watch(answer_key, revision).await?;
    let mut asks = shared.store.watch(ask_key, revision).await?;
    if let Some(reply) = read_answer(shared, answer_key).await? {
        return Ok(Some(reply));
    }
    let mut until = began + patience(shared, session);
    let seen = shared.roster.changed.count();
    loop {
        let left = until.saturating_sub(shared.clock.monotonic());
        tokio::select! {
            biased;
            changes = answers.next() => {
                // From the change itself: whoever else waits for it may have removed it by now.
                if let Some(entry) = changes?.into_iter().rev().find_map(|change| change.entry) {
                    return decode::<Reply>(&entry).map(|answer| Some(answer.reply));
                }
            }
            changes = asks.next() => {
                if changes?.iter().any(|change| change.entry.is_none()) {
                    until = until.min(shared.clock.monotonic() + ANSWERED);
                }
            }
            () = shared.roster.changed.after(seen) => return Ok(None),
            () = shared.clock.sleep(left) => return Ok(None),
        }
    }
}

async fn read_answer(shared: &Shared, key: &str) -> Result<Option<CommandReply>, EngineError> {
    let Some(entry) = shared.store.get(key).await? else { return Ok(None) };
    decode::<Reply>(&entry).map(|answer| Some(answer.reply))
}

/// Takes an ask back that nobody carried out; whoever was about to is too late, or the answer is there.
async fn withdraw(
    shared: &Shared,
    job: JobId,
    ask_key: String,
    answer_key: &str,
    began: Duration,
) -> Result<CommandReply, EngineError> {
    let waited = (shared.clock.monotonic().saturating_sub(began)).as_secs();
    match shared.commit(Txn::new().delete(ask_key), "withdraw").await {
        Ok(_) => {}
        Err(EngineError::Store(StoreError::Closed)) => return Err(StoreError::Closed.into()),
        Err(error) => tracing::debug!(%error, "an ask could not be withdrawn: it goes with the lease"),
    }
    match read_answer(shared, answer_key).await {
        Ok(Some(reply)) => Ok(reply),
        _ => Err(EngineError::NoWorker { job, waited }),
    }
}
