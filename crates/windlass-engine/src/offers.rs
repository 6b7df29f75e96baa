//! Tasks that a coordinator offers to other workers, and how a worker claims them.
//!
//! A coordinator that has no place for a ready task, or cannot run it, puts an [`Offer`] under `mail/offer/`. Every
//! worker follows the offers on its [`Board`]; [`pull`] asks the [arbiter](crate::arbiter) for places and claims as
//! many offers as it got places for in one transaction: it compares the version of each offer, deletes it and puts
//! the claim, bound to the worker's lease. Of two workers that want the same offer one is told of a conflict.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_model::progress::Progress;
use windlass_model::task::Output;
use windlass_model::{Epoch, Failure, JobId, TaskId, WorkerId};
use windlass_store::{Change, Committed, Compare, Entry, Revision, StoreError, Txn, keys};

use crate::EngineError;
use crate::arbiter::{Asker, NoPlace, Place, Wants};
use crate::bell::Bell;
use crate::engine::Shared;
use crate::host::{self, Hosting};
use crate::lease::Session;
use crate::records::{decode, encode};

/// Offers claimed in one transaction: three changes each.
const AT_ONCE: usize = 24;

/// A task that any worker may claim that can run it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// The worker that coordinates the job. It does not claim its own offers.
    pub(crate) by: WorkerId,
    /// The epoch that the attempt will have.
    pub(crate) epoch: Epoch,
    #[serde(rename = "type")]
    pub(crate) task_type: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) needs: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) rank: i32,
    /// The job's priority.
    #[serde(default)]
    pub(crate) priority: i32,
    pub(crate) since: Timestamp,
}

/// A claim on a task by a worker that does not coordinate its job. Put again with each write of the attempt, so
/// that each write compares the one before it: what arrives late, or twice, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskClaim {
    /// Who holds it.
    pub worker: WorkerId,
    /// The epoch of the attempt.
    pub epoch: Epoch,
    /// Counts the attempt's writes.
    #[serde(default)]
    pub seq: u64,
}

/// How far an attempt elsewhere has got. Put with its claim, but bound to no lease: an attempt whose worker died
/// before anybody saw the claim leaves this, and counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProgressNote {
    pub(crate) worker: WorkerId,
    pub(crate) epoch: Epoch,
    pub(crate) progress: Progress,
}

/// What an attempt elsewhere wants in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogNote {
    pub(crate) epoch: Epoch,
    pub(crate) level: windlass_model::log::Level,
    pub(crate) code: String,
    pub(crate) message: String,
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub(crate) fields: serde_json::Map<String, serde_json::Value>,
}

/// How an attempt elsewhere ended. It stands even when the worker is gone by the time that it is read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RemoteEnd {
    pub(crate) worker: WorkerId,
    pub(crate) epoch: Epoch,
    /// Whether the attempt had been told to stop: by the coordinator, or because its worker shuts down.
    #[serde(default)]
    pub(crate) asked: bool,
    /// Whether it wrote to the ledger or left a checkpoint.
    #[serde(default)]
    pub(crate) wrote: bool,
    pub(crate) end: AttemptEnd,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AttemptEnd {
    Finished {
        output: Output,
        /// The tasks that it brings, as a value.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        add: Option<Output>,
    },
    Failed {
        failure: Box<Failure>,
    },
}

/// The wish that an attempt elsewhere stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StopWish {
    pub(crate) epoch: Epoch,
    pub(crate) how: How,
}

/// How an attempt shall stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// At its next safe point.
    Interrupt,
    /// Where it stands.
    Abort,
}

#[derive(Clone, Debug)]
struct Posted {
    offer: Offer,
    version: Revision,
}

#[derive(Debug, Default)]
struct Posts {
    offers: BTreeMap<(JobId, TaskId), Posted>,
    stops: BTreeMap<(JobId, TaskId), StopWish>,
}

/// The offers and the wishes to stop, as this worker knows them.
#[derive(Debug, Default)]
pub(crate) struct Board {
    posts: Mutex<Posts>,
    /// Rings when there is a new offer.
    changed: Bell,
}

impl Board {
    fn posts(&self) -> MutexGuard<'_, Posts> {
        // Each use is one insert, remove or look-up.
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything, to be listed afresh.
    pub(crate) fn clear(&self) {
        *self.posts() = Posts::default();
    }

    /// Takes in an offer, or its end.
    pub(crate) fn offer(&self, key: &str, entry: Option<&Entry>) {
        let Some(id) = keys::job_and_task(key) else { return };
        match entry.and_then(|entry| Some((entry.version, decode::<Offer>(entry).ok()?))) {
            Some((version, offer)) => {
                self.posts().offers.insert(id, Posted { offer, version });
                self.changed.ring();
            }
            None => {
                self.posts().offers.remove(&id);
            }
        }
    }

    /// Takes in a wish to stop, or its end. Returns the wish.
    pub(crate) fn stop(&self, key: &str, entry: Option<&Entry>) -> Option<((JobId, TaskId), StopWish)> {
        let id = keys::job_and_task(key)?;
        let wish = entry.and_then(|entry| decode::<StopWish>(entry).ok());
        match wish {
            Some(wish) => self.posts().stops.insert(id, wish),
            None => self.posts().stops.remove(&id),
        };
        wish.map(|wish| (id, wish))
    }

    /// The wish to stop an attempt, if there is one.
    pub(crate) fn wish(&self, id: (JobId, TaskId), epoch: Epoch) -> Option<How> {
        self.posts().stops.get(&id).filter(|wish| wish.epoch == epoch).map(|wish| wish.how)
    }

    /// Forgets an offer unless it is a newer one.
    fn strike(&self, id: (JobId, TaskId), version: Revision) {
        let mut posts = self.posts();
        if posts.offers.get(&id).is_some_and(|posted| posted.version <= version) {
            posts.offers.remove(&id);
        }
    }
}

/// Applies a change under `mail/offer/` or `mail/stop/`; hands wishes to the attempts that run here.
pub(crate) fn take_in(shared: &Shared, change: &Change) {
    let entry = change.entry.as_ref();
    if change.key.starts_with(keys::OFFERS) {
        shared.board.offer(&change.key, entry);
    } else if let Some((id, wish)) = shared.board.stop(&change.key, entry) {
        shared.hosting.stop(id, wish.epoch, wish.how);
    }
}

struct Picked {
    id: (JobId, TaskId),
    posted: Posted,
    place: Place,
}

/// Claims offered tasks whenever this process has places for them, until the session is over or the process shuts
/// down.
pub(crate) async fn pull(shared: Arc<Shared>, session: Arc<Session>) {
    let mut wants = Wants::new(&shared.arbiter);
    let grants = wants.grants.clone();
    loop {
        let seen = (shared.board.changed.count(), grants.count(), shared.arbiter.type_freed.count());
        if shared.draining.is_cancelled() {
            return;
        }
        let able = able(&shared, &session);
        wants.only(|asker| matches!(asker, Asker::Offers(job) if able.contains_key(job)));
        for (job, offers) in &able {
            let priority = offers.iter().map(|(_, posted)| posted.offer.priority).max().unwrap_or(0);
            wants.want(Asker::Offers(*job), priority, offers.len());
        }
        let picked = pick(&shared, able, &grants);
        if !picked.is_empty() {
            claim(&shared, &session, picked).await;
            continue;
        }
        tokio::select! {
            biased;
            () = session.over.cancelled() => return,
            () = shared.draining.cancelled() => {}
            () = shared.board.changed.after(seen.0) => {}
            () = grants.after(seen.1) => {}
            () = shared.arbiter.type_freed.after(seen.2) => {}
        }
    }
}

type Able = BTreeMap<JobId, Vec<((JobId, TaskId), Posted)>>;

/// The offers that this worker could claim now but for a place: larger rank first, and among equals in an order of
/// its own, so that workers who look at the same offers do not all reach for the same ones.
fn able(shared: &Shared, session: &Session) -> Able {
    let mut able = Able::new();
    for (id, posted) in &shared.board.posts().offers {
        let offer = &posted.offer;
        if offer.by != session.worker
            && shared.presence.can_run_type(&offer.task_type, &offer.needs)
            && !shared.arbiter.is_full(&offer.task_type)
            && !shared.hosting.has(*id)
        {
            able.entry(id.0).or_default().push((*id, posted.clone()));
        }
    }
    for offers in able.values_mut() {
        let own =
            |id: TaskId| (id.bits() ^ session.worker.bits()).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        offers.sort_by_key(|(id, posted)| (std::cmp::Reverse(posted.offer.rank), own(id.1)));
    }
    able
}

/// Takes the places that were granted.
fn pick(shared: &Shared, able: Able, grants: &Arc<Bell>) -> Vec<Picked> {
    let mut picked = Vec::new();
    for (job, offers) in able {
        let asker = Asker::Offers(job);
        for (id, posted) in offers {
            if picked.len() >= AT_ONCE || shared.arbiter.granted(asker) == 0 {
                break;
            }
            match shared.arbiter.take(asker, posted.offer.priority, &posted.offer.task_type, grants) {
                Ok(place) => picked.push(Picked { id, posted, place }),
                Err(NoPlace::OfType) => {}
                Err(NoPlace::AtAll) => break,
            }
        }
    }
    picked
}

/// Claims what was picked and starts the attempts. What others were faster with is let go.
async fn claim(shared: &Arc<Shared>, session: &Arc<Session>, mut picked: Vec<Picked>) {
    let mut unconfirmed = false;
    while !picked.is_empty() && !session.over.is_cancelled() {
        let mut txn = Txn::new();
        for Picked { id: (job, task), posted, .. } in &picked {
            let offer = keys::offer(*job, *task);
            let claim = TaskClaim { worker: session.worker, epoch: posted.offer.epoch, seq: 0 };
            txn = txn.when(Compare::Version(offer.clone(), posted.version)).delete(offer);
            let note = ProgressNote { worker: claim.worker, epoch: claim.epoch, progress: Progress::default() };
            txn = txn.put_leased(keys::task_claim(*job, *task), encode(&claim), session.lease);
            txn = txn.put(keys::attempt_progress(*job, *task), encode(&note));
        }
        let answer = tokio::select! {
            biased;
            () = session.over.cancelled() => return,
            answer = shared.commit(txn, "pull") => answer,
        };
        match answer {
            Ok(Committed::At(revision)) => {
                for picked in picked {
                    begin(shared, session, picked, revision);
                }
                return;
            }
            Ok(Committed::Conflict(found)) => {
                let mut left = Vec::new();
                for (picked, found) in picked.into_iter().zip(found) {
                    if found.is_some_and(|entry| entry.version == picked.posted.version) {
                        left.push(picked);
                        continue;
                    }
                    shared.board.strike(picked.id, picked.posted.version);
                    if unconfirmed && let Some(revision) = claimed(shared, session, &picked).await {
                        begin(shared, session, picked, revision);
                    }
                }
                picked = left;
            }
            Err(EngineError::Store(StoreError::Unavailable(_))) => pause(shared, session).await,
            // Repeated until it is refused or confirmed: a claim that nobody knows of would hold its task for as
            // long as this worker lives.
            Err(EngineError::Store(StoreError::Unknown(_))) => {
                unconfirmed = true;
                pause(shared, session).await;
            }
            Err(error) => {
                tracing::warn!(%error, "offered tasks could not be claimed");
                for picked in &picked {
                    shared.board.strike(picked.id, picked.posted.version);
                }
                return;
            }
        }
    }
}

/// Whether a claim that was not confirmed is ours.
async fn claimed(shared: &Shared, session: &Session, picked: &Picked) -> Option<Revision> {
    let (job, task) = picked.id;
    loop {
        match shared.store.get(&keys::task_claim(job, task)).await {
            Ok(entry) => {
                let entry = entry?;
                let claim = decode::<TaskClaim>(&entry).ok()?;
                let ours = claim.worker == session.worker && claim.epoch == picked.posted.offer.epoch;
                return (ours && !shared.hosting.has(picked.id)).then_some(entry.version);
            }
            Err(_) if session.over.is_cancelled() => return None,
            Err(_) => pause(shared, session).await,
        }
    }
}

fn begin(shared: &Arc<Shared>, session: &Arc<Session>, picked: Picked, revision: Revision) {
    shared.board.strike(picked.id, picked.posted.version);
    let claim = host::Held::new(picked.id, picked.posted.offer.epoch, revision);
    Hosting::begin(shared, session, claim, picked.posted.offer.task_type, picked.place);
}

async fn pause(shared: &Shared, session: &Session) {
    tokio::select! {
        biased;
        () = session.over.cancelled() => {}
        () = shared.clock.sleep(Duration::from_millis(200)) => {}
    }
}
