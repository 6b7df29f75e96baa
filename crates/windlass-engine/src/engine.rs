//! What a process opens to run jobs.

mod config;
mod submit;
mod supervise;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use windlass_clock::{SharedClock, SharedEntropy};
use windlass_model::job::JobStatus;
use windlass_model::plan::Plan;
use windlass_model::{JobId, WorkerId};
use windlass_store::{Committed, Store, Txn, keys};

pub use self::config::EngineConfig;
pub use self::submit::{JobRequest, Preview};
use self::supervise::{begin_session, supervise};
use crate::EngineError;
use crate::arbiter::Arbiter;
use crate::asks::{self, Asks, AttemptsHere};
use crate::bell::Bell;
use crate::command::{Command, CommandReply};
use crate::coordinator::{Coordinator, End, Errand, MESSAGES, Message, Submission, load};
use crate::follow;
use crate::host::Hosting;
use crate::kind::Kinds;
use crate::lease::Session;
use crate::offers::Board;
use crate::presence::{self, Presence, Roster};
use crate::probe::{Moment, Point, SharedProbe};
use crate::records::{JobRecord, decode};
use crate::retention::Retention;
use crate::snapshot::JobSnapshot;
use crate::view;
use crate::wakers::Wakers;

struct JobHandle {
    messages: mpsc::Sender<Message>,
    snapshots: watch::Receiver<JobSnapshot>,
    abort: AbortHandle,
}

/// What all parts of one engine share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: SharedClock,
    pub(crate) entropy: SharedEntropy,
    pub(crate) kinds: Kinds,
    work_dir: PathBuf,
    lease_ttl: Duration,
    pub(crate) probe: SharedProbe,
    pub(crate) retention: Retention,
    /// Who gets which place.
    pub(crate) arbiter: Arc<Arbiter>,
    /// How this process announces itself; each session does so under an id of its own.
    pub(crate) presence: Presence,
    pub(crate) take_up: bool,
    /// Who else is there.
    pub(crate) roster: Roster,
    /// What is offered by coordinators elsewhere.
    pub(crate) board: Board,
    /// What runs here for coordinators elsewhere.
    pub(crate) hosting: Hosting,
    /// What is asked of jobs through the store.
    pub(crate) asks: Asks,
    /// What runs here.
    pub(crate) attempts: AttemptsHere,
    /// Fires when the process shuts down: tasks stop at safe points and are given back.
    pub(crate) draining: CancellationToken,
    session: Mutex<Option<Arc<Session>>>,
    /// Rings when a session begins.
    begun: Bell,
    /// Ordered, so that simulated runs replay.
    jobs: Mutex<BTreeMap<JobId, JobHandle>>,
    /// Jobs that cannot go on in this process, and why.
    broken: Mutex<HashMap<JobId, String>>,
    /// Owns the coordinators.
    coordinators: Mutex<JoinSet<()>>,
    /// Changes when a coordinator ends.
    pub(crate) ended: Bell,
    /// Who waits for shared resources and pools.
    pub(crate) wakers: Wakers,
}

impl Shared {
    /// Commits through the probe.
    pub(crate) async fn commit(&self, txn: Txn, label: &str) -> Result<Committed, EngineError> {
        self.probe.at(Point { moment: Moment::BeforeCommit, label }).await;
        let committed = self.store.commit(txn).await?;
        self.probe.at(Point { moment: Moment::AfterCommit, label }).await;
        Ok(committed)
    }

    pub(crate) fn exclusive_names(&self, record: &JobRecord) -> Vec<String> {
        if record.preview {
            return Vec::new();
        }
        self.kinds.kind(&record.kind).map(|kind| kind.exclusive(&record.spec)).unwrap_or_default()
    }

    pub(crate) fn work_dir(&self, job: JobId) -> PathBuf {
        self.work_dir.join(job.to_string())
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, BTreeMap<JobId, JobHandle>> {
        // A panic while the map was held left it whole: each use is one insert, remove or look-up.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Option<Arc<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn begin(&self, session: Arc<Session>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        self.begun.ring();
    }

    fn broken(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, String>> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_broken(&self, job: JobId) -> bool {
        self.broken().contains_key(&job)
    }

    /// Whether a coordinator of the job runs here.
    pub(crate) fn coordinates(&self, job: JobId) -> bool {
        self.jobs().contains_key(&job)
    }

    /// Hands something to the coordinator that runs here, if there is one and its queue has room.
    pub(crate) fn tell(&self, job: JobId, message: Message) {
        if let Some(handle) = self.jobs().get(&job) {
            let _ = handle.messages.try_send(message);
        }
    }

    fn check_not_broken(&self, job: JobId) -> Result<(), EngineError> {
        match self.broken().get(&job) {
            Some(why) => Err(EngineError::JobBroken { job, why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Starts a coordinator for a job unless one runs here, and hands it `first`. `false`: its queue is full.
    pub(crate) fn ensure(
        self: &Arc<Self>,
        session: &Arc<Session>,
        seed: JobSnapshot,
        job: JobId,
        first: Option<Message>,
        new: Option<(Submission, Plan)>,
    ) -> bool {
        let mut jobs = self.jobs();
        if let Some(handle) = jobs.get(&job) {
            return first.is_none_or(|message| handle.messages.try_send(message).is_ok());
        }
        let (messages, inbox) = mpsc::channel(MESSAGES);
        let (snapshot_sender, snapshots) = watch::channel(seed);
        if let Some(message) = first {
            // The queue is new and empty.
            let _ = messages.try_send(message);
        }
        let (submission, planned) = new.unzip();
        let errand = Errand { inbox, messages: messages.clone(), snapshots: snapshot_sender, submission, planned };
        let (shared, session) = (self.clone(), session.clone());
        let work = async move {
            let mut errand = errand;
            let end = loop {
                let (end, back) = Coordinator::run(shared.clone(), session.clone(), job, errand).await;
                match end {
                    End::Broken(error) if error.may_pass() && !session.over.is_cancelled() => {
                        tracing::warn!(%job, %error, "the job is loaded afresh");
                        errand = back;
                        shared.clock.sleep(Duration::from_secs(1)).await;
                    }
                    end => break end,
                }
            };
            match end {
                End::AtRest | End::SessionOver => tracing::debug!(%job, ?end, "the coordinator has ended"),
                End::HeldElsewhere => tracing::debug!(%job, "another worker coordinates the job"),
                End::Broken(error) => {
                    tracing::error!(%job, %error, "the job cannot go on");
                    shared.broken().insert(job, error.to_string());
                }
            }
            shared.wakers.forget(job);
            shared.jobs().remove(&job);
            shared.ended.ring();
        };
        let mut coordinators = self.coordinators.lock().unwrap_or_else(PoisonError::into_inner);
        while coordinators.try_join_next().is_some() {}
        let abort = coordinators.spawn(work);
        jobs.insert(job, JobHandle { messages, snapshots, abort });
        true
    }
}

/// Runs jobs. Dropping it stops everything where it stands, as a crash would; [`Engine::shutdown`] lets running
/// tasks reach a safe point first.
pub struct Engine {
    shared: Arc<Shared>,
    supervisor: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("store", &self.shared.store).finish_non_exhaustive()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.supervisor.abort();
        self.shared.coordinators.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        self.shared.hosting.abort_all();
        self.shared.jobs().clear();
    }
}

impl Engine {
    /// Takes a lease and carries on with every job that needs a coordinator.
    ///
    /// # Errors
    ///
    /// When the store cannot be reached.
    pub async fn open(config: EngineConfig) -> Result<Self, EngineError> {
        let types: Vec<_> = config.kinds.iter().flat_map(|kind| kind.task_types()).collect();
        let places = if config.take_up { config.places.max(1) } else { 0 };
        let limits = types.iter().filter_map(|task_type| Some((task_type.name(), task_type.concurrency()?)));
        let (host, pid) = (presence::host_name(), std::process::id());
        let presence = Presence {
            id: WorkerId::from_bits(0),
            name: if config.worker_name.is_empty() { format!("{host}-{pid}") } else { config.worker_name },
            host,
            pid,
            started: config.clock.wall(),
            labels: config.labels,
            task_types: types.iter().map(|task_type| task_type.name().to_owned()).collect(),
            places,
            takes_up: config.take_up,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let shared = Arc::new(Shared {
            arbiter: Arbiter::new(places, limits, config.clock.clone()),
            presence,
            take_up: config.take_up,
            roster: Roster::default(),
            board: Board::default(),
            hosting: Hosting::default(),
            asks: Asks::default(),
            attempts: AttemptsHere::default(),
            draining: CancellationToken::new(),
            session: Mutex::default(),
            begun: Bell::default(),
            jobs: Mutex::default(),
            broken: Mutex::default(),
            coordinators: Mutex::default(),
            ended: Bell::default(),
            wakers: Wakers::default(),
            store: config.store,
            clock: config.clock,
            entropy: config.entropy,
            kinds: config.kinds,
            work_dir: config.work_dir,
            lease_ttl: config.lease_ttl,
            probe: config.probe,
            retention: config.retention,
        });
        let session = begin_session(&shared).await?;
        shared.begin(session.clone());
        // The lease is kept from the first moment, and an engine that cannot be opened stops what it has begun:
        // it is dropped on the way out.
        let supervisor = tokio::spawn(supervise(shared.clone(), session.clone()));
        let engine = Self { shared, supervisor };
        follow::recover(&engine.shared, &session).await?;
        Ok(engine)
    }

    /// The kinds it runs.
    #[must_use]
    pub fn kinds(&self) -> &Kinds {
        &self.shared.kinds
    }

    /// The id of the worker that it is at present: another one after a lost lease.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        self.shared.current().map(|session| session.worker)
    }

    /// The store it runs on.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) async fn session(&self) -> Result<Arc<Session>, EngineError> {
        loop {
            let seen = self.shared.begun.count();
            if let Some(session) = self.shared.current().filter(|session| !session.over.is_cancelled()) {
                return Ok(session);
            }
            tokio::select! {
                biased;
                () = self.shared.draining.cancelled() => return Err(EngineError::ShuttingDown),
                () = self.shared.begun.after(seen) => {}
            }
        }
    }

    /// Gives a command to a job. The same `request` id twice has the effect of once.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoSuchJob`]; [`EngineError::NoWorker`] when nobody is there to carry it out.
    pub async fn command(
        &self,
        job: JobId,
        command: Command,
        request: Option<String>,
    ) -> Result<CommandReply, EngineError> {
        // A coordinator may end at the very moment that it is asked; the next one answers.
        for _ in 0..8 {
            let session = self.session().await?;
            let elsewhere = async || {
                let claim = self.shared.store.get(&keys::claim(job)).await?;
                Ok::<bool, EngineError>(claim.is_some_and(|claim| claim.value != session.worker.to_string()))
            };
            if !self.shared.coordinates(job) && (!self.shared.take_up || elsewhere().await?) {
                if self.shared.store.get(&keys::job(job)).await?.is_none() {
                    return Err(EngineError::NoSuchJob(job.to_string()));
                }
                let request = request.unwrap_or_else(|| format!("{:032x}", self.shared.entropy.next_u128()));
                return asks::ask(&self.shared, &session, job, &command, &request).await;
            }
            self.shared.check_not_broken(job)?;
            let image = load::outline(&*self.shared.store, job).await?;
            let image = image.ok_or_else(|| EngineError::NoSuchJob(job.to_string()))?;
            let seed = JobSnapshot::of(&image, image.work(), None, None);
            let (reply, answer) = oneshot::channel();
            let message = Message::Command { command: command.clone(), request: request.clone(), reply };
            let seen = self.shared.ended.count();
            if self.shared.ensure(&session, seed, job, Some(message), None)
                && let Ok(answer) = answer.await
            {
                return Ok(answer);
            }
            if self.shared.draining.is_cancelled() {
                return Err(EngineError::ShuttingDown);
            }
            // Either its coordinator has just ended, or it is busy taking up a full queue.
            let pause = self.shared.clock.sleep(Duration::from_millis(20));
            tokio::select! {
                biased;
                () = self.shared.ended.after(seen) => {}
                () = pause => {}
            }
        }
        Err(EngineError::HeldElsewhere)
    }

    /// Follows a job that runs here; `None` when it does not.
    #[must_use]
    pub fn watch(&self, job: JobId) -> Option<watch::Receiver<JobSnapshot>> {
        self.shared.jobs().get(&job).map(|handle| handle.snapshots.clone())
    }

    /// Waits until a job has come to rest, wherever it is coordinated, or the engine shuts down. Returns its status
    /// as stored.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoSuchJob`], or a failing store.
    pub async fn wait(&self, job: JobId) -> Result<JobStatus, EngineError> {
        loop {
            let seen = self.shared.ended.count();
            if !self.shared.jobs().contains_key(&job) {
                break;
            }
            self.shared.ended.after(seen).await;
        }
        loop {
            self.shared.check_not_broken(job)?;
            let revision = self.shared.store.revision().await?;
            let entry = self.shared.store.get(&keys::state(job)).await?;
            let status: JobStatus = decode(&entry.ok_or_else(|| EngineError::NoSuchJob(job.to_string()))?)?;
            let rests = !status.state.is_active() && status.undo_at.is_none();
            if rests || self.shared.draining.is_cancelled() {
                return Ok(status);
            }
            // Coordinated elsewhere, or about to be.
            let mut watch = self.shared.store.watch(&keys::state(job), revision).await?;
            let seen = self.shared.ended.count();
            tokio::select! {
                biased;
                () = self.shared.draining.cancelled() => {}
                () = self.shared.ended.after(seen) => {}
                // However the watch ends, looking again is right; a store that is away answers with an error.
                _ = watch.next() => {}
            }
        }
    }

    /// Lets running tasks reach a safe point, gives every job back, and ends. What was running goes on with the
    /// next process that opens the store.
    ///
    /// # Errors
    ///
    /// When the lease cannot be given back; it then expires by itself.
    pub async fn shutdown(self) -> Result<(), EngineError> {
        self.shared.draining.cancel();
        loop {
            let seen = self.shared.ended.count();
            if self.shared.jobs().is_empty() {
                break;
            }
            self.shared.ended.after(seen).await;
        }
        self.shared.hosting.idle().await;
        if let Some(session) = self.shared.current() {
            session.over.cancel();
            self.shared.store.revoke(session.lease).await?;
        }
        Ok(())
    }

    /// Submits a job that is already known under `id`, or finds it: for commands that may be repeated. Returns
    /// the jobs of this name and kind that are not over.
    ///
    /// # Errors
    ///
    /// A failing store.
    pub async fn unfinished(&self, kind: &str, name: &str) -> Result<Vec<view::JobSummary>, EngineError> {
        let jobs = view::jobs(&*self.shared.store).await?;
        Ok(jobs
            .into_iter()
            .filter(|job| job.kind == kind && job.name == name && job.status.state.is_active())
            .collect())
    }

    /// The time, for callers that print it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.wall()
    }
}
