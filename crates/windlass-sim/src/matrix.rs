//! The crash matrix: a run is repeated once for every point at which it can be killed, and must end the same.
//!
//! A clean run passes a number of [points](windlass_engine::probe::Point): before and after each commit to the
//! state store, before and after each change to the outside. For each of them the run is made again from the
//! start; when it comes to that point everything in memory is dropped, as by `kill -9`, another engine opens the
//! same store and goes on, and what is there in the end is compared with the clean run. A kill after an effect
//! also makes the step happen twice.
//!
//! The harness knows no kind: a [`Case`] says what to run and what to compare. Real processes are killed at the
//! same points by the binary's own tests.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use windlass_clock::{Seeded, SharedClock};
use windlass_engine::probe::{Moment, Point, Probe};
use windlass_engine::records::decode;
use windlass_engine::{Command, CommandReply, Engine, EngineConfig, JobRequest, Kinds, Presence, view};
use windlass_model::JobId;
use windlass_model::job::JobState;
use windlass_store::memory::MemoryStore;
use windlass_store::{Store, keys, read_all};

/// One fresh world with a job to run in it.
pub struct Case {
    /// Time. Paused for worlds in memory, real for worlds behind sockets.
    pub clock: SharedClock,
    /// The kinds, over the case's own world.
    pub kinds: Kinds,
    /// The job.
    pub request: JobRequest,
    /// Jobs of other names that are run after it, one after the other.
    pub others: Vec<JobRequest>,
    /// Given to each job when all are completed: `Undo` makes the matrix cover undoing too.
    pub then: Option<Command>,
    /// Whether the last job is given the command first.
    pub reversed: bool,
    /// The folder for files of jobs. Survives the kill.
    pub work_dir: std::path::PathBuf,
    /// What is there in the end, as text that is compared: the same for runs that end the same.
    pub fingerprint: Box<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case").field("request", &self.request).finish_non_exhaustive()
    }
}

/// One row of the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The number of the point, from 1.
    pub n: usize,
    /// Which side of what.
    pub moment: Moment,
    /// What is committed or done there.
    pub label: String,
    /// What differs from the clean run; `None` when nothing does.
    pub difference: Option<String>,
    /// Whether the run came to the point: one that runs tasks side by side may pass fewer.
    pub reached: bool,
}

/// The matrix of one case.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// What the clean run ended in.
    pub clean: String,
    /// One row for each point.
    pub rows: Vec<Row>,
}

impl Matrix {
    /// The rows that differ.
    #[must_use]
    pub fn different(&self) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.difference.is_some()).collect()
    }

    /// The matrix as a table for people.
    #[must_use]
    pub fn to_table(&self) -> String {
        let mut table = String::from("   n  killed          at           ends as the clean run\n");
        for row in &self.rows {
            let moment = words(row.moment);
            let verdict = match (&row.difference, row.reached) {
                (Some(difference), _) => format!("NO: {difference}"),
                (None, true) => "yes".to_owned(),
                (None, false) => "yes (ended before it)".to_owned(),
            };
            let _ = writeln!(table, "{:>4}  {moment:<14}  {:<12} {verdict}", row.n, row.label);
        }
        table
    }
}

const fn words(moment: Moment) -> &'static str {
    match moment {
        Moment::BeforeCommit => "before commit",
        Moment::AfterCommit => "after commit",
        Moment::BeforeEffect => "before effect",
        Moment::AfterEffect => "after effect",
    }
}

/// Matrices of one case on several stores, as one table with a column per store: how many of the kills at each kind of
/// point ended as the clean run. The points are numbered otherwise on each store, as tasks run side by side there.
#[must_use]
pub fn side_by_side(columns: &[(&str, &Matrix)]) -> String {
    let mut rows = BTreeMap::<_, Vec<_>>::new();
    for (column, (_, matrix)) in columns.iter().enumerate() {
        for row in &matrix.rows {
            let cells =
                rows.entry((&row.label, Reverse(words(row.moment)))).or_insert_with(|| vec![(0, 0); columns.len()]);
            cells[column].0 += usize::from(row.difference.is_none());
            cells[column].1 += 1;
        }
    }
    let head: String = columns.iter().map(|(store, _)| format!("{store:<12}")).collect();
    let mut table = format!("{:<16}{:<16}{head}\n", "killed", "at");
    for ((label, Reverse(moment)), cells) in rows {
        let cells: String =
            cells.into_iter().map(|(same, all)| format!("{:<12}", format!("{same} of {all}"))).collect();
        let _ = writeln!(table, "{moment:<16}{label:<16}{cells}");
    }
    table
}

/// Who is there besides the process that is killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cast {
    /// Nobody.
    #[default]
    Alone,
    /// A worker with the label `site` = `b`; the process that submits and coordinates is killed.
    CoordinatorDies,
    /// A coordinator with one place; a worker with the label `site` = `b` is killed, and another one comes.
    HostDies,
}

/// Counts points, and stops the world at one of them.
struct Stopper {
    passed: AtomicUsize,
    stop_at: usize,
    seen: Mutex<Vec<(Moment, String)>>,
    stopped: Notify,
    has_stopped: std::sync::atomic::AtomicBool,
}

impl Stopper {
    fn new(stop_at: usize) -> Arc<Self> {
        Arc::new(Self {
            passed: AtomicUsize::new(0),
            stop_at,
            seen: Mutex::default(),
            stopped: Notify::new(),
            has_stopped: std::sync::atomic::AtomicBool::new(false),
        })
    }
}

#[async_trait]
impl Probe for Stopper {
    async fn at(&self, point: Point<'_>) {
        if self.has_stopped.load(Ordering::SeqCst) {
            // The world has ended; nobody passes any more.
            std::future::pending::<()>().await;
        }
        let n = self.passed.fetch_add(1, Ordering::SeqCst) + 1;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push((point.moment, point.label.to_owned()));
        if n == self.stop_at {
            self.has_stopped.store(true, Ordering::SeqCst);
            self.stopped.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

/// Makes the matrix: runs `make()`'s case once cleanly and once for each `every`th point (1: for each). The first point
/// of each label on each side is always among them, so that a matrix of samples leaves nothing out entirely.
///
/// # Panics
///
/// When the clean run does not come to rest within an hour of the case's time.
pub async fn make<F>(make: impl Fn() -> F, every: usize) -> Matrix
where
    F: Future<Output = Case>,
{
    make_with(make, every, Cast::Alone).await
}

/// As [`make`], with more than one process.
///
/// # Panics
///
/// When the clean run does not come to rest within an hour of the case's time.
pub async fn make_with<F>(make: impl Fn() -> F, every: usize, cast: Cast) -> Matrix
where
    F: Future<Output = Case>,
{
    let memory = |clock: SharedClock| async { Arc::new(MemoryStore::new(clock)) as Arc<dyn Store> };
    make_on(memory, make, every, cast, 1).await
}

/// As [`make_with`], each run on a store of its own that `stores` makes, so many runs at a time. Runs on paused time
/// go one after the other: together they would move one clock.
///
/// # Panics
///
/// When the clean run does not come to rest within an hour of the case's time.
pub async fn make_on<S, F>(
    stores: impl Fn(SharedClock) -> S,
    make: impl Fn() -> F,
    every: usize,
    cast: Cast,
    at_a_time: usize,
) -> Matrix
where
    S: Future<Output = Arc<dyn Store>>,
    F: Future<Output = Case>,
{
    let run = async |stopper: &Arc<Stopper>| {
        let case = make().await;
        let store = stores(case.clock.clone()).await;
        run(case, store, stopper, cast).await
    };
    let clean_stopper = Stopper::new(usize::MAX);
    let clean = run(&clean_stopper).await;
    let points = clean_stopper.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut wanted = Vec::new();
    let mut met: Vec<(Moment, String)> = Vec::new();
    for (i, point) in points.into_iter().enumerate() {
        let is_new = !met.contains(&point);
        if is_new {
            met.push(point.clone());
        }
        if is_new || i % every.max(1) == 0 {
            wanted.push((i + 1, point));
        }
    }
    let (run, clean_end) = (&run, clean.as_str());
    let rows = futures::stream::iter(wanted).map(|(n, (moment, label))| async move {
        let stopper = Stopper::new(n);
        let end = run(&stopper).await;
        let reached = stopper.has_stopped.load(Ordering::SeqCst);
        let difference = (end != clean_end).then(|| format!("{end}\n      clean run: {clean_end}"));
        Row { n, moment, label, difference, reached }
    });
    let rows = rows.buffered(at_a_time.max(1)).collect().await;
    Matrix { clean, rows }
}

/// Runs a case to its end, through at most one kill.
async fn run(case: Case, store: Arc<dyn Store>, stopper: &Arc<Stopper>, cast: Cast) -> String {
    let life = play(&case, store, stopper, cast);
    let outcome = tokio::select! {
        biased;
        outcome = life => outcome,
        () = case.clock.sleep(Duration::from_secs(3600)) => Err("it did not come to rest".into()),
    };
    let fingerprint = (case.fingerprint)().await;
    match outcome {
        Ok(end) => format!("{end}; {fingerprint}"),
        Err(error) => format!("error: {error}; {fingerprint}"),
    }
}

/// The name of the worker that is killed.
const VICTIM: &str = "victim";

async fn play(case: &Case, store: Arc<dyn Store>, stopper: &Arc<Stopper>, cast: Cast) -> Result<String, String> {
    let text = |error: windlass_engine::EngineError| error.to_string();
    let config = |seed: u64| {
        let work_dir = case.work_dir.clone();
        EngineConfig::new(store.clone(), case.clock.clone(), Seeded::shared(seed), case.kinds.clone(), work_dir)
    };
    let victim = |config: EngineConfig| EngineConfig { probe: stopper.clone(), worker_name: VICTIM.into(), ..config };
    let at_b = |mut config: EngineConfig| {
        config.labels.insert("site".into(), "b".into());
        config
    };
    match cast {
        Cast::Alone | Cast::CoordinatorDies => {
            let _helper = match cast {
                Cast::CoordinatorDies => Some(Engine::open(at_b(config(3))).await.map_err(text)?),
                Cast::Alone | Cast::HostDies => None,
            };
            let life = async {
                let engine = Engine::open(victim(config(1))).await.map_err(text)?;
                live(&engine, &*store, case).await
            };
            tokio::select! {
                biased;
                () = stopper.stopped.notified() => {}
                outcome = life => return outcome,
            }
            end_leases(&*store).await;
            let engine = Engine::open(config(2)).await.map_err(text)?;
            live(&engine, &*store, case).await
        }
        Cast::HostDies => {
            let engine = Engine::open(EngineConfig { places: 1, ..config(1) }).await.map_err(text)?;
            let host = Engine::open(victim(at_b(config(3)))).await.map_err(text)?;
            let mut life = std::pin::pin!(live(&engine, &*store, case));
            tokio::select! {
                biased;
                () = stopper.stopped.notified() => {}
                outcome = &mut life => return outcome,
            }
            drop(host);
            end_leases(&*store).await;
            let _host = Engine::open(at_b(config(2))).await.map_err(text)?;
            life.await
        }
    }
}

/// The lease of the process that is gone runs out. Revoking it spares runs on real time the wait.
async fn end_leases(store: &dyn Store) {
    for entry in read_all(store, keys::WORKERS).await.unwrap_or_default() {
        let name = decode::<Presence>(&entry).map(|presence| presence.name);
        if let (Some(lease), Ok(VICTIM)) = (entry.lease, name.as_deref()) {
            let _ = store.revoke(lease).await;
        }
    }
}

/// What a person does: submits the jobs unless they are there, waits, gives the commands unless they were given.
async fn live(engine: &Engine, store: &dyn Store, case: &Case) -> Result<String, String> {
    let text = |error: windlass_engine::EngineError| error.to_string();
    let mut jobs: Vec<JobId> = Vec::new();
    for request in std::iter::once(&case.request).chain(&case.others) {
        let there = view::jobs(store).await.map_err(text)?;
        let job = match there.iter().find(|job| job.name == request.name) {
            Some(job) => job.id,
            None => engine.submit(request.clone()).await.map_err(text)?,
        };
        match is_standing(engine, request) {
            true => settles(engine, store, job, case).await.map_err(text)?,
            false => drop(engine.wait(job).await.map_err(text)?),
        }
        jobs.push(job);
    }
    if let Some(command) = &case.then {
        let mut order = jobs.clone();
        if case.reversed {
            order.reverse();
        }
        for job in order {
            let standing = is_standing(engine, &case.request);
            let status = match standing {
                true => view::status(store, job).await.map_err(text)?,
                false => engine.wait(job).await.map_err(text)?,
            };
            if status.state != if standing { JobState::Running } else { JobState::Completed } {
                continue;
            }
            match engine.command(job, command.clone(), Some("then".into())).await.map_err(text)? {
                CommandReply::Done(_) | CommandReply::Deleted { .. } => {}
                CommandReply::Refused(why) => return Err(why),
            }
            engine.wait(job).await.map_err(text)?;
        }
    }
    let mut ends = Vec::with_capacity(jobs.len());
    for job in jobs {
        ends.push(end_of(engine, store, job).await.map_err(text)?);
    }
    Ok(ends.join(" | "))
}

fn is_standing(engine: &Engine, request: &JobRequest) -> bool {
    engine.kinds().kind(&request.kind).is_some_and(|kind| kind.reconciles(&request.spec).is_some())
}

/// A standing job never comes to rest. It has settled when its status says so (`"settled": true`) and nothing of it is
/// in flight, or when it was ended.
async fn settles(
    engine: &Engine,
    store: &dyn Store,
    job: JobId,
    case: &Case,
) -> Result<(), windlass_engine::EngineError> {
    loop {
        let view = view::job(store, engine.kinds(), job, engine.now()).await?;
        let settled = view.rounds.is_some_and(|rounds| rounds.status["settled"] == true);
        if !view.status.state.is_active() || (settled && view.counts.waiting + view.counts.running == 0) {
            return Ok(());
        }
        case.clock.sleep(Duration::from_millis(20)).await;
    }
}

async fn end_of(engine: &Engine, store: &dyn Store, job: JobId) -> Result<String, windlass_engine::EngineError> {
    let status = engine.wait(job).await?;
    let view = view::job(store, engine.kinds(), job, engine.now()).await?;
    let mut tasks: Vec<String> = view
        .tasks
        .iter()
        .map(|task| {
            let outcome = task.status.outcome().map_or("not ended", windlass_model::task::Outcome::name);
            let mut effects: Vec<String> =
                task.effects.iter().map(|effect| format!("{}:{:?}", effect.action, effect.state)).collect();
            effects.sort();
            format!("{} {outcome} [{}]", task.name, effects.join(" "))
        })
        .collect();
    tasks.sort();
    if let Some(rounds) = view.rounds {
        // Which of its tasks are still listed hangs on when they ended.
        let (counts, status) = (view.counts, rounds.status);
        tasks = vec![format!("{} succeeded of {}, {status}", counts.succeeded, counts.total())];
    }
    let result = status.result.map_or("none", windlass_model::job::JobResult::as_str);
    Ok(format!("{} {result}; {}", status.state.as_str(), tasks.join(", ")))
}
