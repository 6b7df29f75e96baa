//! Measures the engine with tasks that do nothing, and prints one JSON document.
//!
//! `cargo run --release -p windlass-engine --example bench_engine -- MEASUREMENT FOLDER [ARGUMENT…]`
//!
//! The store is the embedded one under FOLDER, or, with `BENCH_STORE=etcd`, an etcd of one member that is started for
//! the measurement with its data under FOLDER.
//!
//! | measurement | arguments | what |
//! |---|---|---|
//! | `floor` | milliseconds | bare SQLite and the disk: what the other figures are compared with |
//! | `raw_etcd` | callers, milliseconds | bare transactions of etcd, of the size of a transition |
//! | `tasks` | jobs, tasks of all jobs | tasks done per second |
//! | `steps` | jobs | time of jobs of three tasks in a chain, one after another |
//! | `jobs` | jobs, callers | such jobs per second with several callers |
//! | `dispatch` | tasks | from the end of a task to the start of the one that requires it |
//! | `accept` | tasks | from submitting a plan to its first task being claimable |
//! | `idle` | seconds | processor time with a job that waits |
//!
//! One process takes one measurement, so that its peak of memory is that of the measurement. `cargo xtask bench
//! engine` runs all of them and compares.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use windlass_clock::{Seeded, SharedClock, SystemClock};
use windlass_engine::probe::{Moment, NoProbe, Point, Probe, SharedProbe};
use windlass_engine::{
    Engine, EngineConfig, Finished, JobRequest, Kind, Kinds, PlanContext, SpecFault, TaskContext, TaskType,
};
use windlass_model::Failure;
use windlass_model::job::{JobResult, JobState};
use windlass_model::plan::{Plan, TaskSpec};
use windlass_sim::etcd::EtcdServer;
use windlass_store::{Store, Txn};
use windlass_store_embedded::probe::{Latency, RawStore, fdatasync_latency};
use windlass_store_embedded::{EmbeddedStore, Options};
use windlass_store_etcd::{EtcdConfig, EtcdStore};

/// Tasks at a time.
const PLACES: usize = 256;
/// Transitions per commit of bare SQLite.
const BATCHES: [u32; 3] = [1, 16, 128];

type Failed = Box<dyn Error + Send + Sync>;

/// When tasks began and ended, in the order in which it happened.
#[derive(Debug, Default)]
struct Moments {
    began: Vec<Duration>,
    ended: Vec<Duration>,
}

/// A job of `tasks` tasks that do nothing, side by side or in a chain; the last may wait for ever.
#[derive(Debug)]
struct Nothing {
    moments: Arc<Mutex<Moments>>,
}

#[async_trait]
impl Kind for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn about(&self) -> &'static str {
        "does nothing, durably"
    }

    fn schema(&self) -> Value {
        json!({ "type": "object" })
    }

    fn check(&self, _spec: &Value) -> Vec<SpecFault> {
        Vec::new()
    }

    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure> {
        let count = spec["tasks"].as_u64().unwrap_or(0);
        let chain = spec["chain"].as_bool().unwrap_or(false);
        let mut tasks: Vec<TaskSpec> = Vec::new();
        for number in 0..count {
            let task = cx.task("nothing", format!("task-{number:06}")).input(spec["input"].clone());
            let before = tasks.last().filter(|_| chain).map(|before| before.id);
            tasks.push(match before {
                Some(before) => task.requires(before),
                None => task,
            });
        }
        Ok(Plan { tasks, warnings: Vec::new() })
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        vec![Arc::new(DoNothing { moments: self.moments.clone() })]
    }
}

#[derive(Debug)]
struct DoNothing {
    moments: Arc<Mutex<Moments>>,
}

#[async_trait]
impl TaskType for DoNothing {
    fn name(&self) -> &'static str {
        "nothing"
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        match cx.input().as_str() {
            Some("wait") => {
                cx.cancelled().cancelled().await;
                return Err(Failure::interrupted());
            }
            Some("note") => {
                let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
                let now = cx.clock().monotonic();
                moments.began.push(now);
                moments.ended.push(now);
            }
            _ => {}
        }
        Ok(Finished::default())
    }
}

/// Times every commit to the state store.
#[derive(Debug)]
struct Stopwatch {
    clock: SharedClock,
    began: Mutex<Option<Duration>>,
    commits: Mutex<Vec<Duration>>,
}

#[async_trait]
impl Probe for Stopwatch {
    async fn at(&self, point: Point<'_>) {
        let now = self.clock.monotonic();
        let mut began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        match point.moment {
            Moment::BeforeCommit => *began = Some(now),
            Moment::AfterCommit => {
                if let Some(began) = began.take() {
                    self.commits.lock().unwrap_or_else(PoisonError::into_inner).push(now.saturating_sub(began));
                }
            }
            Moment::BeforeEffect | Moment::AfterEffect => {}
        }
    }
}

struct Bench {
    engine: Engine,
    clock: SharedClock,
    moments: Arc<Mutex<Moments>>,
    folder: PathBuf,
    /// Killed when the measurement is over.
    _etcd: Option<EtcdServer>,
}

/// An etcd for one measurement.
async fn etcd(clock: &SharedClock) -> Result<(EtcdServer, Arc<EtcdStore>), Failed> {
    let server = EtcdServer::start(1).await?;
    let store = EtcdStore::connect(EtcdConfig::new(server.endpoints()), clock.clone()).await?;
    Ok((server, Arc::new(store)))
}

impl Bench {
    async fn open(folder: &Path) -> Result<Self, Failed> {
        Self::open_with(folder, SystemClock::real(), Arc::new(NoProbe)).await
    }

    async fn open_with(folder: &Path, clock: SharedClock, probe: SharedProbe) -> Result<Self, Failed> {
        let (server, store): (_, Arc<dyn Store>) = if std::env::var("BENCH_STORE").is_ok_and(|name| name == "etcd") {
            let (server, store) = etcd(&clock).await?;
            (Some(server), store)
        } else {
            (None, Arc::new(EmbeddedStore::open(&folder.join("state"), Options::new(clock.clone()))?))
        };
        let moments = Arc::<Mutex<Moments>>::default();
        let kinds = Kinds::new().with(Nothing { moments: moments.clone() });
        let work = folder.join("work");
        let config = EngineConfig {
            places: PLACES,
            probe,
            ..EngineConfig::new(store, clock.clone(), Seeded::shared(1), kinds, work)
        };
        Ok(Self { engine: Engine::open(config).await?, clock, moments, folder: folder.to_owned(), _etcd: server })
    }

    fn request(spec: Value) -> JobRequest {
        JobRequest { kind: "nothing".into(), name: "bench".into(), spec, ..JobRequest::default() }
    }

    async fn run(&self, spec: Value) -> Result<(), Failed> {
        let job = self.engine.submit(Self::request(spec)).await?;
        let status = self.engine.wait(job).await?;
        if status.result != Some(JobResult::Succeeded) {
            return Err(format!("the job ended {:?}", status.result).into());
        }
        Ok(())
    }

    fn state_bytes(&self) -> u64 {
        let files = std::fs::read_dir(self.folder.join("state")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|data| data.len()).sum()
    }

    fn since(&self, start: Duration) -> f64 {
        self.clock.monotonic().saturating_sub(start).as_secs_f64()
    }
}

#[tokio::main(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the document is the program's output")]
async fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [measurement, folder, rest @ ..] = arguments.as_slice() else {
        return Err("usage: bench_engine MEASUREMENT FOLDER [ARGUMENT…]".into());
    };
    let numbers = rest.iter().map(|number| number.parse::<u64>()).collect::<Result<Vec<u64>, _>>()?;
    let number = |index: usize, usual: u64| numbers.get(index).copied().unwrap_or(usual);
    std::fs::create_dir_all(folder)?;
    let dir = tempfile::tempdir_in(folder)?;
    let mut result = match measurement.as_str() {
        "floor" => floor(dir.path(), Duration::from_millis(number(0, 700)))?,
        "raw_etcd" => raw_etcd(number(0, 64), Duration::from_millis(number(1, 3000))).await?,
        "tasks" => tasks(dir.path(), number(0, 1), number(1, 50_000)).await?,
        "steps" => steps(dir.path(), number(0, 200)).await?,
        "jobs" => jobs(dir.path(), number(0, 2000), number(1, 64)).await?,
        "dispatch" => dispatch(dir.path(), number(0, 1000)).await?,
        "accept" => accept(dir.path(), number(0, 100_000)).await?,
        "idle" => idle(dir.path(), Duration::from_secs(number(0, 20))).await?,
        other => return Err(format!("there is no measurement named {other}").into()),
    };
    result["measurement"] = json!(measurement);
    result["peak_mib"] = json!(peak_mib());
    println!("{result}");
    Ok(())
}

/// What the disk and bare SQLite give.
fn floor(dir: &Path, turn: Duration) -> Result<Value, Failed> {
    let sync = fdatasync_latency(dir, 200)?;
    let mut raw = RawStore::create(dir)?;
    let mut rates = serde_json::Map::new();
    for batch in BATCHES {
        rates.insert(batch.to_string(), json!(raw.run(batch, turn)?.per_second));
    }
    Ok(json!({ "fdatasync": sync, "raw_per_second": rates }))
}

/// Transactions of etcd that compare one key, put three and delete one, with values of 300 bytes.
async fn raw_etcd(callers: u64, time: Duration) -> Result<Value, Failed> {
    let clock = SystemClock::real();
    let (_server, store) = etcd(&clock).await?;
    let value = vec![7_u8; 300];
    let began = clock.monotonic();
    let caller = async |caller: u64| {
        let mut times = Vec::new();
        let mut number = 1_u64;
        while clock.monotonic().saturating_sub(began) < time {
            let task = format!("task/{caller}/{}", number % 1000);
            let txn = Txn::new()
                .when(windlass_store::Compare::Absent("claim".into()))
                .put(task, value.clone())
                .put(format!("ready/{caller}/{number}"), "")
                .put(format!("event/{caller}/{number}"), value[..120].to_vec())
                .delete(format!("ready/{caller}/{}", number - 1));
            let sent = clock.monotonic();
            store.commit(txn).await?;
            times.push(clock.monotonic().saturating_sub(sent));
            number += 1;
        }
        Ok::<_, Failed>(times)
    };
    let times = futures::future::try_join_all((0..callers.max(1)).map(caller)).await?;
    let seconds = clock.monotonic().saturating_sub(began).as_secs_f64();
    let times: Vec<Duration> = times.into_iter().flatten().collect();
    let per_second = times.len() as f64 / seconds;
    Ok(json!({ "callers": callers, "per_second": per_second, "commit": Latency::of(times) }))
}

/// Tasks side by side, in one or several jobs at once.
async fn tasks(dir: &Path, jobs: u64, total: u64) -> Result<Value, Failed> {
    let bench = Bench::open(dir).await?;
    let jobs = jobs.max(1);
    let cpu = cpu_seconds();
    let began = bench.clock.monotonic();
    let spec = json!({ "tasks": total / jobs });
    let runs = (0..jobs).map(|_| bench.run(spec.clone()));
    futures::future::try_join_all(runs).await?;
    let seconds = bench.since(began);
    let done = total / jobs * jobs;
    Ok(json!({
        "jobs": jobs,
        "tasks": done,
        "seconds": seconds,
        "per_second": done as f64 / seconds,
        "cpu_us_per_task": (cpu_seconds() - cpu) * 1e6 / done as f64,
        "state_bytes": bench.state_bytes(),
        "state_bytes_per_task": bench.state_bytes() / done.max(1),
    }))
}

/// Jobs of three tasks in a chain, one after another, with the disk measured in between.
async fn steps(dir: &Path, jobs: u64) -> Result<Value, Failed> {
    let clock = SystemClock::real();
    let watch = Arc::new(Stopwatch { clock: clock.clone(), began: Mutex::default(), commits: Mutex::default() });
    let bench = Bench::open_with(dir, clock, watch.clone()).await?;
    let spec = json!({ "tasks": 3, "chain": true });
    let (mut times, mut syncs) = (Vec::new(), Vec::new());
    for number in 0..jobs {
        if number % 20 == 0 {
            let folder = dir.to_owned();
            let sync = tokio::task::spawn_blocking(move || fdatasync_latency(&folder, 40)).await??;
            syncs.push(Duration::from_secs_f64(sync.p50_us / 1e6));
        }
        let began = bench.clock.monotonic();
        bench.run(spec.clone()).await?;
        times.push(bench.clock.monotonic().saturating_sub(began));
    }
    let commits = std::mem::take(&mut *watch.commits.lock().unwrap_or_else(PoisonError::into_inner));
    let per_job = commits.len() as f64 / jobs.max(1) as f64;
    let committing: Duration = commits.iter().sum();
    let all: Duration = times.iter().sum();
    let (job, sync) = (Latency::of(times), Latency::of(syncs));
    Ok(json!({
        "job": job,
        "commits_per_job": per_job,
        "commit": Latency::of(commits),
        "part_of_time_in_commits": committing.as_secs_f64() / all.as_secs_f64(),
        "fdatasync_p50_us": sync.p50_us,
        "allowed_p50_us": 12.0 * sync.p50_us + 500.0,
    }))
}

/// Jobs of three tasks in a chain, several at a time.
async fn jobs(dir: &Path, jobs: u64, callers: u64) -> Result<Value, Failed> {
    let bench = Bench::open(dir).await?;
    let left = std::sync::atomic::AtomicU64::new(jobs);
    let caller = async || {
        let take = || {
            left.fetch_update(std::sync::atomic::Ordering::Relaxed, std::sync::atomic::Ordering::Relaxed, |n| {
                n.checked_sub(1)
            })
        };
        while take().is_ok() {
            bench.run(json!({ "tasks": 3, "chain": true })).await?;
        }
        Ok::<(), Failed>(())
    };
    let began = bench.clock.monotonic();
    futures::future::try_join_all((0..callers.max(1)).map(|_| caller())).await?;
    let seconds = bench.since(began);
    Ok(json!({
        "jobs": jobs,
        "callers": callers,
        "seconds": seconds,
        "jobs_per_second": jobs as f64 / seconds,
        "steps_per_second": 3.0 * jobs as f64 / seconds,
    }))
}

/// From the end of a task to the start of the next one in the chain.
async fn dispatch(dir: &Path, tasks: u64) -> Result<Value, Failed> {
    let bench = Bench::open(dir).await?;
    bench.run(json!({ "tasks": tasks, "chain": true, "input": "note" })).await?;
    let moments = bench.moments.lock().unwrap_or_else(PoisonError::into_inner);
    let gaps = moments.ended.iter().zip(moments.began.iter().skip(1));
    Ok(json!({ "gap": Latency::of(gaps.map(|(ended, began)| began.saturating_sub(*ended)).collect()) }))
}

/// From submitting a plan to the job being active.
async fn accept(dir: &Path, tasks: u64) -> Result<Value, Failed> {
    let bench = Bench::open(dir).await?;
    let began = bench.clock.monotonic();
    let job = bench.engine.submit(Bench::request(json!({ "tasks": tasks, "input": "wait" }))).await?;
    let acknowledged = bench.since(began);
    let mut snapshots = bench.engine.watch(job).ok_or("the job does not run here")?;
    snapshots.wait_for(|snapshot| snapshot.status.state == JobState::Running).await?;
    Ok(json!({
        "tasks": tasks,
        "acknowledged_seconds": acknowledged,
        "active_seconds": bench.since(began),
        "state_bytes": bench.state_bytes(),
    }))
}

/// Processor time while a job waits for something that does not come.
async fn idle(dir: &Path, time: Duration) -> Result<Value, Failed> {
    let bench = Bench::open(dir).await?;
    let job = bench.engine.submit(Bench::request(json!({ "tasks": 1, "input": "wait" }))).await?;
    let mut snapshots = bench.engine.watch(job).ok_or("the job does not run here")?;
    snapshots.wait_for(|snapshot| snapshot.counts.running == 1).await?;
    bench.clock.sleep(Duration::from_secs(1)).await;
    let (cpu, began) = (cpu_seconds(), bench.clock.monotonic());
    bench.clock.sleep(time).await;
    let (cpu, seconds) = (cpu_seconds() - cpu, bench.since(began));
    Ok(json!({ "seconds": seconds, "cpu_seconds": cpu, "percent_of_a_processor": cpu / seconds * 100.0 }))
}

/// The most memory that this process has held, in MiB; 0 where the system does not tell.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Processor time of this process so far; 0 where the system does not tell.
fn cpu_seconds() -> f64 {
    let schedule = |path: &Path| std::fs::read_to_string(path).ok();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    // Nanoseconds of each thread: the sum in `stat` counts in hundredths of a second.
    let nanos = tasks
        .filter_map(|task| schedule(&task.path().join("schedstat"))?.split_whitespace().next()?.parse::<u64>().ok());
    nanos.sum::<u64>() as f64 / 1e9
}
