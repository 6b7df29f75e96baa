//! One suite for every store, in real time: what the engine promises does not depend on where its records are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use windlass_clock::{SharedClock, SystemClock, SystemEntropy, deadline};
use windlass_engine::{Command, Engine, EngineConfig, JobRequest, Kinds, Reconcile, report, view};
use windlass_model::JobId;
use windlass_model::job::{JobResult, JobState, JobStatus};
use windlass_sim::etcd::EtcdServer;
use windlass_sim::invariants::{self, Seen};
use windlass_sim::keeper::{KeepKind, Wishes};
use windlass_sim::matrix::{self, Case, Cast, Matrix};
use windlass_sim::world::{Step, StepKind, StepSpec, Weather, World};
use windlass_store::memory::MemoryStore;
use windlass_store::{Store, read_all};
use windlass_store_embedded::{EmbeddedStore, Options};
use windlass_store_etcd::{EtcdConfig, EtcdStore};

use crate::bench::{done, request};

/// Longest that anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// The lease of workers that shall be replaced soon.
const SHORT: Duration = Duration::from_secs(2);

/// Makes empty stores of one sort.
enum Stores {
    Memory,
    Embedded { folder: tempfile::TempDir, made: AtomicU64 },
    Etcd { server: EtcdServer, made: AtomicU64 },
}

impl Stores {
    fn embedded() -> Self {
        Self::Embedded { folder: tempfile::tempdir().unwrap(), made: AtomicU64::new(0) }
    }

    async fn etcd() -> Self {
        Self::Etcd { server: EtcdServer::start(1).await.unwrap(), made: AtomicU64::new(0) }
    }

    async fn make(&self, clock: SharedClock) -> Arc<dyn Store> {
        match self {
            Self::Memory => Arc::new(MemoryStore::new(clock)),
            Self::Embedded { folder, made } => {
                let dir = folder.path().join(made.fetch_add(1, Ordering::Relaxed).to_string());
                Arc::new(EmbeddedStore::open(&dir, Options::new(clock)).unwrap())
            }
            Self::Etcd { server, made } => {
                let prefix = format!("store-{}/", made.fetch_add(1, Ordering::Relaxed));
                let config = EtcdConfig { prefix, keep: None, ..EtcdConfig::new(server.endpoints()) };
                Arc::new(EtcdStore::connect(config, clock).await.unwrap())
            }
        }
    }
}

/// An empty store and an empty world.
struct Ground {
    store: Arc<dyn Store>,
    world: World,
    clock: SharedClock,
}

impl Ground {
    async fn new(stores: &Stores) -> Self {
        let clock = SystemClock::real();
        Self { store: stores.make(clock.clone()).await, world: World::new(clock.clone(), 1), clock }
    }

    fn kinds(&self) -> Kinds {
        Kinds::new().with(StepKind::new(self.world.clone()))
    }

    async fn engine(&self, change: impl FnOnce(&mut EngineConfig)) -> Engine {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let mut config = EngineConfig::new(store, clock, SystemEntropy::real(), self.kinds(), std::env::temp_dir());
        change(&mut config);
        Engine::open(config).await.unwrap()
    }

    async fn view(&self, job: JobId) -> view::JobView {
        view::job(&*self.store, &self.kinds(), job, self.clock.wall()).await.unwrap()
    }

    async fn wait(&self, engine: &Engine, job: JobId) -> JobStatus {
        deadline(&*self.clock, PATIENCE, engine.wait(job)).await.expect("the job comes to rest").unwrap()
    }

    async fn until(&self, job: JobId, mut what: impl FnMut(&view::JobView) -> bool) {
        let looking = async {
            while !what(&self.view(job).await) {
                self.clock.sleep(Duration::from_millis(20)).await;
            }
        };
        deadline(&*self.clock, PATIENCE, looking).await.expect("the job comes to it");
    }

    async fn check(&self) {
        assert_eq!(invariants::check(&*self.store, &mut Seen::default()).await, Vec::<String>::new());
        for prefix in ["active/", "claim/", "mail/", "answer/"] {
            assert!(read_all(&*self.store, prefix).await.unwrap().is_empty(), "{prefix} is not empty");
        }
    }
}

async fn a_diamond_runs_in_order_and_is_reported(ground: Ground) {
    let engine = ground.engine(|_| {}).await;
    let steps = vec![
        Step::new("a", 2),
        Step::new("b", 1).requires("a"),
        Step::new("c", 0).requires("a"),
        Step::new("d", 1).requires("b").requires("c"),
    ];
    let job = engine.submit(request(steps)).await.unwrap();
    let status = ground.wait(&engine, job).await;
    assert_eq!((status.state, status.result), (JobState::Completed, Some(JobResult::Succeeded)));
    assert_eq!((ground.world.things().len(), ground.world.calls()), (4, 4));
    let report = report::make(&*ground.store, &ground.kinds(), job, ground.clock.wall()).await.unwrap();
    assert_eq!(report.effects["make"].made, 4);
    let log = view::log(&*ground.store, job, 0, 1000).await.unwrap();
    assert!(log.iter().map(|entry| entry.n).eq(1..=log.len() as u64), "{log:?}");
    ground.check().await;
}

async fn what_requires_a_failed_task_is_ignored_and_undo_leaves_nothing(ground: Ground) {
    let engine = ground.engine(|_| {}).await;
    let steps = vec![
        Step { fails: true, ..Step::new("a", 2) },
        Step::new("b", 1).requires("a"),
        Step::new("free", 3),
        Step { after: vec!["a".into()], ..Step::new("soft", 1) },
    ];
    let job = engine.submit(request(steps)).await.unwrap();
    assert_eq!(ground.wait(&engine, job).await.result, Some(JobResult::Partial));
    let counts = ground.view(job).await.counts;
    assert_eq!((counts.succeeded, counts.failed, counts.ignored), (2, 1, 1));
    assert_eq!(ground.world.things().len(), 6);
    done(engine.command(job, Command::Undo, None).await.unwrap());
    assert_eq!(ground.wait(&engine, job).await.state, JobState::Finished);
    assert_eq!(ground.world.things(), Vec::<String>::new());
    ground.check().await;
}

async fn a_retry_from_a_task_runs_it_and_what_follows(ground: Ground) {
    let engine = ground.engine(|_| {}).await;
    let steps = vec![Step::new("a", 1), Step::new("b", 1).requires("a"), Step::new("c", 1).requires("b")];
    let job = engine.submit(request(steps)).await.unwrap();
    ground.wait(&engine, job).await;
    let retry = Command::Retry { failed_only: true, from: Some("b".into()), inputs: BTreeMap::new() };
    done(engine.command(job, retry, None).await.unwrap());
    assert_eq!(ground.wait(&engine, job).await.result, Some(JobResult::Succeeded));
    let epochs: Vec<u64> = ground.view(job).await.tasks.iter().map(|task| task.status.epoch.0).collect();
    assert_eq!((epochs, ground.world.things().len(), ground.world.faults()), (vec![1, 2, 2], 3, vec![]));
    ground.check().await;
}

async fn a_paused_job_goes_on_where_it_stopped(ground: Ground) {
    ground.world.set_weather(Weather { delay_ms: 40, ..Weather::default() });
    let engine = ground.engine(|_| {}).await;
    let job = engine.submit(request(vec![Step::new("a", 20), Step::new("b", 1).requires("a")])).await.unwrap();
    ground.until(job, |_| ground.world.calls() > 2).await;
    done(engine.command(job, Command::Pause { until: None }, None).await.unwrap());
    ground.until(job, |view| view.status.state == JobState::Paused).await;
    assert!(ground.world.calls() < 21, "it was paused in the middle");
    done(engine.command(job, Command::Resume, None).await.unwrap());
    assert_eq!(ground.wait(&engine, job).await.result, Some(JobResult::Succeeded));
    assert_eq!(ground.world.calls(), 21, "nothing was made twice, nothing was left out");
    ground.check().await;
}

async fn two_workers_share_a_job(ground: Ground) {
    let worker = |name: &'static str| {
        ground.engine(move |config| {
            config.worker_name = name.into();
            config.places = 2;
        })
    };
    let (a, _b) = (worker("a").await, worker("b").await);
    let steps = (0..16).map(|n| Step { takes_ms: 300, ..Step::new(format!("s{n}"), 1) }).collect();
    let job = a.submit(request(steps)).await.unwrap();
    let mut at = BTreeSet::new();
    ground
        .until(job, |view| {
            at.extend(view.tasks.iter().filter_map(|task| task.worker.clone()));
            view.status.result.is_some()
        })
        .await;
    assert_eq!(at, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    assert_eq!(ground.wait(&a, job).await.result, Some(JobResult::Succeeded));
    assert_eq!((ground.world.things().len(), ground.world.calls()), (16, 16));
    ground.check().await;
}

async fn what_is_shared_or_pooled_runs_on_another_worker(ground: Ground) {
    ground.world.set_weather(Weather { delay_ms: 20, ..Weather::default() });
    // The first cannot run any of it, the second nothing else.
    let first = ground.engine(|config| config.worker_name = "first".into()).await;
    let steps = |name: &str| {
        let pooled = |n: u32| Step { pool: Some(("copies".into(), 2)), ..Step::new(format!("{name}{n}"), 1) };
        let mut steps = vec![Step::sharing("net", 2)];
        steps.extend((0..4).map(pooled).map(|step| step.requires("net")));
        steps.into_iter().map(|step| step.needs("site", "b")).collect()
    };
    let a = first.submit(request(steps("a"))).await.unwrap();
    ground.until(a, |view| view.tasks.iter().any(|task| task.waiting_on.iter().any(|on| on.contains("site=b")))).await;
    assert!(read_all(&*ground.store, "slot/").await.unwrap().is_empty(), "nobody can run it, and it holds a place");
    let second = ground
        .engine(|config| {
            config.worker_name = "second".into();
            config.labels.insert("site".into(), "b".into());
        })
        .await;
    let b = first.submit(request(steps("b"))).await.unwrap();
    let mut at = BTreeSet::new();
    let mut most = 0;
    for job in [a, b] {
        let looking = async {
            loop {
                let view = ground.view(job).await;
                at.extend(view.tasks.iter().filter_map(|task| task.worker.clone()));
                most = most.max(read_all(&*ground.store, "slot/copies/").await.unwrap().len());
                if view.status.result.is_some() {
                    break;
                }
                ground.clock.sleep(Duration::from_millis(10)).await;
            }
        };
        deadline(&*ground.clock, PATIENCE, looking).await.expect("the job comes to rest");
        assert_eq!(ground.wait(&first, job).await.result, Some(JobResult::Succeeded));
    }
    assert_eq!((at, most), (BTreeSet::from(["second".to_owned()]), 2));
    // The resource was made once, and goes with the last that needs it.
    assert_eq!((ground.world.things().len(), ground.world.calls(), ground.world.faults()), (10, 10, vec![]));
    done(first.command(a, Command::Undo, None).await.unwrap());
    ground.wait(&first, a).await;
    assert_eq!(ground.world.things().iter().filter(|name| name.starts_with("shared/")).count(), 2);
    done(first.command(b, Command::Undo, None).await.unwrap());
    ground.wait(&first, b).await;
    assert_eq!(ground.world.things(), Vec::<String>::new());
    drop(second);
    ground.check().await;
}

#[expect(clippy::print_stdout, reason = "the test prints what it measured")]
async fn a_standing_job_hears_a_wake_and_an_end_at_once(ground: Ground) {
    let wishes = Wishes::default();
    let kind = KeepKind::new(ground.world.clone(), wishes.clone(), Reconcile::every(Duration::from_secs(3600)));
    let kinds = Kinds::new().with(kind);
    let engine = ground.engine(|config| config.kinds = kinds.clone()).await;
    let request = JobRequest { kind: "keep".into(), name: "keep".into(), ..JobRequest::default() };
    let job = engine.submit(JobRequest { spec: serde_json::json!({}), ..request }).await.unwrap();
    let (mut heard, mut made) = (Vec::new(), Vec::new());
    for n in 0..20 {
        // Longer than the shortest time between two rounds, so that none of it is waited for.
        ground.clock.sleep(Duration::from_millis(60)).await;
        wishes.want((0..=n).map(|n| format!("thing-{n:02}")));
        let (rounds, began) = (wishes.rounds(), ground.clock.monotonic());
        done(engine.command(job, Command::Wake, None).await.unwrap());
        let waiting = async {
            while wishes.rounds() == rounds {
                ground.clock.sleep(Duration::from_micros(200)).await;
            }
            heard.push(ground.clock.monotonic() - began);
            while ground.world.things().len() <= n {
                ground.clock.sleep(Duration::from_micros(200)).await;
            }
            made.push(ground.clock.monotonic() - began);
            let round = wishes.rounds();
            while wishes.rounds() == round && ground.view(job).await.counts.running > 0 {
                ground.clock.sleep(Duration::from_millis(1)).await;
            }
        };
        deadline(&*ground.clock, PATIENCE, waiting).await.expect("the wake is heard");
    }
    heard.sort_unstable();
    made.sort_unstable();
    println!(
        "{:?}: a wake is heard after {:?}, its thing made after {:?} (medians)",
        ground.store, heard[10], made[10]
    );
    assert!(heard[10] < Duration::from_millis(500), "{heard:?}");
    assert_eq!(ground.world.faults(), Vec::<String>::new());
    done(engine.command(job, Command::Cancel { undo: false }, None).await.unwrap());
    ground.wait(&engine, job).await;
    ground.check().await;
}

async fn a_dead_workers_job_is_taken_over_when_its_lease_has_run_out(ground: Ground) {
    ground.world.set_weather(Weather { delay_ms: 40, ..Weather::default() });
    let first = ground.engine(|config| config.lease_ttl = SHORT).await;
    let job = first.submit(request((0..10).map(|n| Step::new(format!("s{n}"), 8)).collect())).await.unwrap();
    ground.until(job, |_| ground.world.calls() > 10).await;
    drop(first);
    assert!(ground.world.calls() < 80, "it died in the middle");
    let second = ground.engine(|config| config.lease_ttl = SHORT).await;
    assert_eq!(ground.wait(&second, job).await.result, Some(JobResult::Succeeded));
    assert_eq!((ground.world.things().len(), ground.world.faults()), (80, vec![]));
    ground.check().await;
}

async fn suite(stores: Stores) {
    a_diamond_runs_in_order_and_is_reported(Ground::new(&stores).await).await;
    what_requires_a_failed_task_is_ignored_and_undo_leaves_nothing(Ground::new(&stores).await).await;
    a_retry_from_a_task_runs_it_and_what_follows(Ground::new(&stores).await).await;
    a_paused_job_goes_on_where_it_stopped(Ground::new(&stores).await).await;
    two_workers_share_a_job(Ground::new(&stores).await).await;
    what_is_shared_or_pooled_runs_on_another_worker(Ground::new(&stores).await).await;
    a_standing_job_hears_a_wake_and_an_end_at_once(Ground::new(&stores).await).await;
    a_dead_workers_job_is_taken_over_when_its_lease_has_run_out(Ground::new(&stores).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_on_memory() {
    suite(Stores::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_on_the_embedded_store() {
    suite(Stores::embedded()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_passes_on_etcd() {
    suite(Stores::etcd().await).await;
}

/// A job that makes, adds and fails, and is undone.
fn undone(folder: &Path) -> Case {
    let clock = SystemClock::real();
    let world = World::new(clock.clone(), 1);
    let steps = vec![
        Step::new("network", 2),
        Step { adds: vec![Step::new("disk", 1).requires("server")], ..Step::new("server", 2) }.requires("network"),
        Step { fails: true, ..Step::new("broken", 1) },
        Step::new("never", 1).requires("broken"),
    ];
    let spec = StepSpec { steps, exclusive: Some("site/a".into()) };
    let request = JobRequest { kind: "step".into(), name: "m".into(), spec: spec.to_json(), ..JobRequest::default() };
    Case {
        clock,
        kinds: Kinds::new().with(StepKind::new(world.clone())),
        request,
        then: Some(Command::Undo),
        others: Vec::new(),
        reversed: false,
        work_dir: folder.to_owned(),
        fingerprint: Box::new(move || {
            let world = world.clone();
            Box::pin(async move { format!("{} things, {} faults", world.things().len(), world.faults().len()) })
        }),
    }
}

async fn matrix_on(stores: &Stores) -> Matrix {
    let folder = tempfile::tempdir().unwrap();
    let matrix =
        matrix::make_on(|clock| stores.make(clock), || async { undone(folder.path()) }, 1, Cast::Alone, 4).await;
    assert!(matrix.clean.contains("0 things, 0 faults"), "{}", matrix.clean);
    matrix
}

/// A standing job that is to bring about two states of the world one after the other, and is cancelled then.
fn standing(folder: &Path) -> Case {
    let clock = SystemClock::real();
    let world = World::new(clock.clone(), 1);
    let settings = Reconcile { keep_ended: 2, keep_log: 10, ..Reconcile::every(Duration::from_secs(2)) };
    let spec = serde_json::json!({"phases": [["a", "b", "c"], ["c", "d"]]});
    Case {
        clock,
        kinds: Kinds::new().with(KeepKind::new(world.clone(), Wishes::default(), settings)),
        request: JobRequest { kind: "keep".into(), name: "m".into(), spec, ..JobRequest::default() },
        then: Some(Command::Cancel { undo: false }),
        others: Vec::new(),
        reversed: false,
        work_dir: folder.to_owned(),
        fingerprint: Box::new(move || {
            let world = world.clone();
            Box::pin(async move { format!("{:?}, {:?}", world.things(), world.faults()) })
        }),
    }
}

async fn standing_matrix_on(stores: &Stores) -> Matrix {
    let folder = tempfile::tempdir().unwrap();
    let matrix =
        matrix::make_on(|clock| stores.make(clock), || async { standing(folder.path()) }, 1, Cast::Alone, 4).await;
    assert!(matrix.clean.contains("6 succeeded of 6"), "{}", matrix.clean);
    assert!(matrix.clean.ends_with(r#"["c", "d"], []"#), "{}", matrix.clean);
    matrix
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standing_job_killed_anywhere_brings_about_the_same_on_any_store() {
    let memory = standing_matrix_on(&Stores::Memory).await;
    let embedded = standing_matrix_on(&Stores::embedded()).await;
    let etcd = standing_matrix_on(&Stores::etcd().await).await;
    let columns = [("memory", &memory), ("embedded", &embedded), ("etcd", &etcd)];
    println!("{}", matrix::side_by_side(&columns));
    for (store, matrix) in columns {
        assert!(matrix.rows.iter().any(|row| row.label == "reconcile"), "{store}: {}", matrix.to_table());
        assert!(matrix.rows.len() > 25, "{store}: a run with few points proves little: {}", matrix.rows.len());
        assert!(matrix.different().is_empty(), "{store}: {:#?}", matrix.different());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_killed_anywhere_leaves_nothing_on_any_store() {
    let memory = matrix_on(&Stores::Memory).await;
    let embedded = matrix_on(&Stores::embedded()).await;
    let etcd = matrix_on(&Stores::etcd().await).await;
    let columns = [("memory", &memory), ("embedded", &embedded), ("etcd", &etcd)];
    println!("{}", matrix::side_by_side(&columns));
    for (store, matrix) in columns {
        assert!(matrix.rows.len() > 30, "{store}: a run with few points proves little: {}", matrix.rows.len());
        assert!(matrix.different().is_empty(), "{store}: {:#?}", matrix.different());
    }
}
