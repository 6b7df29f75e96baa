//! What a process opens to run jobs.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use windlass_clock::{SharedClock, SharedEntropy};
use windlass_model::job::JobStatus;
use windlass_model::plan::{Plan, TaskSpec};
use windlass_model::{JobId, WorkerId};
use windlass_store::memory::MemoryStore;
use windlass_store::{Committed, Compare, Store, StoreError, Txn, budget, keys};

use crate::EngineError;
use crate::arbiter::Arbiter;
use crate::asks::{self, Asks, AttemptsHere};
use crate::bell::Bell;
use crate::command::{Command, CommandReply};
use crate::coordinator::{Coordinator, End, Errand, MESSAGES, Message, Submission, load};
use crate::follow::{self, OPEN};
use crate::host::Hosting;
use crate::kind::{Kind, Kinds, PlanContext, TaskEnd};
use crate::lease::Session;
use crate::offers::{self, Board};
use crate::presence::{self, Presence, Roster};
use crate::probe::{Moment, NoProbe, Point, SharedProbe};
use crate::records::{Head, JobRecord, decode, encode};
use crate::retention::{self, Retention};
use crate::snapshot::JobSnapshot;
use crate::standing::scheduler;
use crate::values;
use crate::view;
use crate::wakers::{self, Wakers};

/// Records larger than this keep their spec apart: they share a transaction with the plan.
const LARGEST_RECORD: usize = 32 * 1024;

/// What an engine is made of.
#[derive(Clone)]
pub struct EngineConfig {
    /// Where jobs live.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: SharedClock,
    /// Randomness.
    pub entropy: SharedEntropy,
    /// The kinds it runs.
    pub kinds: Kinds,
    /// The folder under which each job gets one for its files.
    pub work_dir: PathBuf,
    /// Tasks that run at a time in this process. At least 1.
    pub places: usize,
    /// Time to live of the worker's lease.
    pub lease_ttl: Duration,
    /// How long jobs that are over are kept.
    pub retention: Retention,
    /// Where tests stop the world.
    pub probe: SharedProbe,
    /// What people call this worker. Empty: its machine and process.
    pub worker_name: String,
    /// What tasks can ask of a worker: `site` = `b`.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes up jobs and runs tasks. Else it submits and gives commands, which workers carry out.
    pub take_up: bool,
}

impl std::fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineConfig").field("store", &self.store).field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

impl EngineConfig {
    /// The usual settings: 16 places, a lease of 15 s.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: SharedClock,
        entropy: SharedEntropy,
        kinds: Kinds,
        work_dir: PathBuf,
    ) -> Self {
        Self {
            store,
            clock,
            entropy,
            kinds,
            work_dir,
            places: 16,
            lease_ttl: Duration::from_secs(15),
            retention: Retention::default(),
            probe: Arc::new(NoProbe),
            worker_name: String::new(),
            labels: BTreeMap::new(),
            take_up: true,
        }
    }
}

/// A job to submit.
#[derive(Clone, Debug, Default)]
pub struct JobRequest {
    /// Which kind runs it.
    pub kind: String,
    /// What people call it.
    pub name: String,
    /// What it shall do.
    pub spec: Value,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// Larger goes first.
    pub priority: i32,
    /// Time from submission after which it is given up.
    pub deadline: Option<Duration>,
    /// Time from completion after which it is undone by itself: for drills. Can be extended.
    pub undo_after: Option<Duration>,
}

/// What a job would do.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The job of the preview; it exists nowhere else.
    pub status: JobStatus,
    /// The tasks that change nothing and were run, with what they put out.
    pub looked: Vec<TaskEnd>,
    /// The tasks that a real run would go on with, in an order in which they could run.
    pub would_run: Vec<Arc<TaskSpec>>,
    /// The log: warnings and failures.
    pub log: Vec<windlass_model::log::LogEntry>,
}

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

    /// Checks a job, stores it and lets it run. Durable when it returns: the job survives any crash.
    ///
    /// # Errors
    ///
    /// [`EngineError::InvalidSpec`] with all faults, or [`EngineError::Plan`], and nothing is stored.
    pub async fn submit(&self, request: JobRequest) -> Result<JobId, EngineError> {
        self.submit_as(self.new_job_id(), request, false).await
    }

    /// As [`Engine::submit`], under an id from [`Engine::new_job_id`]: whoever wrote it down before can find out after
    /// a crash whether the job was stored, and submit it again under the same id. It is never stored twice.
    ///
    /// # Errors
    ///
    /// As [`Engine::submit`]; [`StoreError::Unknown`] also when a job of this id is there.
    pub async fn submit_under(&self, id: JobId, request: JobRequest) -> Result<JobId, EngineError> {
        self.submit_as(id, request, false).await
    }

    /// An id for a job.
    #[must_use]
    pub fn new_job_id(&self) -> JobId {
        let unix_ms = u64::try_from(self.shared.clock.wall().as_millisecond()).unwrap_or(0);
        JobId::new(unix_ms, self.shared.entropy.next_u128())
    }

    async fn submit_as(&self, id: JobId, request: JobRequest, preview: bool) -> Result<JobId, EngineError> {
        if self.shared.draining.is_cancelled() {
            return Err(EngineError::ShuttingDown);
        }
        let kind = self.checked_kind(&request)?;
        let now = self.shared.clock.wall();
        let context = PlanContext {
            job: id,
            generation: 1,
            clock: self.shared.clock.clone(),
            entropy: self.shared.entropy.clone(),
        };
        let plan = kind.plan(&context, &request.spec).await.map_err(|failure| EngineError::Plan(Box::new(failure)))?;
        plan.check(&HashMap::new(), &self.shared.kinds)
            .map_err(|faults| EngineError::Plan(Box::new(crate::coordinator::plan_failure(&faults))))?;
        crate::coordinator::check_sizes(&plan.tasks).map_err(|failure| EngineError::Plan(Box::new(failure)))?;
        let mut record = JobRecord {
            id,
            kind: request.kind,
            name: request.name,
            spec: request.spec,
            large_spec: None,
            labels: request.labels,
            priority: request.priority,
            deadline_ms: request.deadline.map(in_ms),
            // A preview is over when it is made: nobody confirms it.
            undo_after_ms: request.undo_after.filter(|_| !preview).map(in_ms),
            created: now,
            preview,
        };
        if encode(&record).len() > LARGEST_RECORD {
            // Stored before the job: a crash in between leaves chunks that nobody finds, and no job.
            record.large_spec = Some(values::keep(&*self.shared.store, id, record.spec.clone()).await?);
        }
        let bytes = record.stored().len();
        if bytes > budget::VALUE_BYTES {
            return Err(EngineError::ValueTooLarge { bytes, most: budget::VALUE_BYTES });
        }
        let status = JobStatus::new(now);
        if !self.shared.take_up {
            self.store_open(&record, &status).await?;
            return Ok(id);
        }
        let session = self.session().await?;
        let image = crate::coordinator::image::JobImage::new(record.clone(), status.clone(), Head::default());
        let seed = JobSnapshot::of(&image, image.work(), None, None);
        let (reply, stored) = oneshot::channel();
        let submission = Submission { record, status, reply };
        self.shared.ensure(&session, seed, id, None, Some((submission, plan)));
        // The coordinator goes on trying for as long as its session lasts; then nobody can tell.
        stored.await.map_err(|_| {
            EngineError::Store(StoreError::Unknown(format!(
                "job {id} may have been stored or not: `windlass jobs` tells"
            )))
        })?;
        Ok(id)
    }

    /// Stores a job for whichever worker takes it up.
    async fn store_open(&self, record: &JobRecord, status: &JobStatus) -> Result<(), EngineError> {
        let job = record.id;
        let txn = Txn::new()
            .when(Compare::Absent(keys::job(job)))
            .put(keys::job(job), record.stored())
            .put(keys::state(job), encode(status))
            .put(keys::active(job), OPEN);
        loop {
            match self.shared.commit(txn.clone(), "submit").await {
                // In conflict only with itself, when it had not been confirmed: the id is used once.
                Ok(Committed::At(_) | Committed::Conflict(_)) => return Ok(()),
                Err(EngineError::Store(StoreError::Unknown(why))) => {
                    tracing::warn!(%job, %why, "a submission was not confirmed, trying again");
                    self.shared.clock.sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn checked_kind(&self, request: &JobRequest) -> Result<Arc<dyn Kind>, EngineError> {
        let kind = self.shared.kinds.kind(&request.kind).ok_or_else(|| EngineError::UnknownKind {
            name: request.kind.clone(),
            known: self.shared.kinds.iter().map(|kind| kind.name()).collect(),
        })?;
        let faults = kind.check(&request.spec);
        if faults.is_empty() {
            Ok(kind.clone())
        } else {
            Err(EngineError::InvalidSpec { kind: request.kind.clone(), faults })
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

    /// What `request` would do: runs the tasks that change nothing, on a store of its own in memory, and lists
    /// the rest. Files go under `work_dir`, which the caller removes.
    ///
    /// # Errors
    ///
    /// As [`Engine::submit`].
    pub async fn preview(config: EngineConfig, request: JobRequest) -> Result<Preview, EngineError> {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(config.clock.clone()));
        let engine = Self::open(EngineConfig { store: store.clone(), ..config }).await?;
        let job = engine.submit_as(engine.new_job_id(), request, true).await?;
        let status = engine.wait(job).await?;
        let image = load::load(&*store, job).await?.ok_or_else(|| EngineError::NoSuchJob(job.to_string()))?;
        let looked = view::ends(&*store, &image).await?;
        let mut would_run: Vec<Arc<TaskSpec>> = Vec::new();
        for task in image.tasks.values().filter(|task| task.status.outcome().is_none()) {
            would_run.push(task.spec.clone());
        }
        view::sort_by_dependencies(&mut would_run);
        let log = view::log(&*store, job, 0, usize::MAX).await?;
        engine.shutdown().await?;
        Ok(Preview { status, looked: looked.into_iter().filter(|end| end.outcome.is_some()).collect(), would_run, log })
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

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn begin_session(shared: &Arc<Shared>) -> Result<Arc<Session>, EngineError> {
    let id = WorkerId::from_bits(shared.entropy.next_u128());
    let presence = Presence { id, started: shared.clock.wall(), ..shared.presence.clone() };
    Ok(Arc::new(Session::begin(&*shared.store, &shared.clock, &presence, shared.lease_ttl).await?))
}

/// Keeps a session alive, and begins another when it is lost.
async fn supervise(shared: Arc<Shared>, mut session: Arc<Session>) {
    loop {
        let keep = session.keep(&*shared.store, &shared.clock, shared.lease_ttl);
        let work = async {
            if shared.take_up {
                tokio::join!(
                    biased;
                    follow::follow(&shared, &session),
                    offers::pull(shared.clone(), session.clone()),
                    asks::tell_late(&shared, &session),
                    scheduler::run(&shared, &session),
                    wakers::follow(&shared, &session),
                    retention::keep_looking(&shared, &session)
                );
            } else {
                follow::follow(&shared, &session).await;
            }
        };
        tokio::select! {
            biased;
            () = keep => {}
            () = work => {}
        }
        session.over.cancel();
        if shared.draining.is_cancelled() {
            return;
        }
        shared.attempts.lose(|_| true);
        // Nothing of the old session may run beside the new one.
        let running: Vec<AbortHandle> = shared.jobs().values().map(|handle| handle.abort.clone()).collect();
        for handle in running {
            handle.abort();
        }
        {
            let mut coordinators =
                std::mem::take(&mut *shared.coordinators.lock().unwrap_or_else(PoisonError::into_inner));
            while coordinators.join_next().await.is_some() {}
        }
        shared.hosting.clear().await;
        shared.jobs().clear();
        shared.ended.ring();
        session = loop {
            match begin_session(&shared).await {
                Ok(session) => break session,
                Err(error) => tracing::warn!(%error, "no new lease yet, trying again"),
            }
            shared.clock.sleep(Duration::from_secs(1)).await;
        };
        shared.begin(session.clone());
    }
}
