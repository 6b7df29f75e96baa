//! A cluster, a place for its backups, and a way to run a job against them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use windlass_clock::{Seeded, SystemClock};
use windlass_engine::kind::Kinds;
use windlass_engine::probe::{Point, Probe};
use windlass_engine::{Command, CommandReply, Engine, EngineConfig, JobRequest, Preview, report};
use windlass_model::JobId;
use windlass_model::job::{JobResult, JobStatus};
use windlass_rebalance::RebalanceKind;
use windlass_sim::vald::{Cluster, ClusterBuilder, Placement, Uploader};
use windlass_store::Store;
use windlass_store::memory::MemoryStore;

/// A cluster with its backups in a local folder.
pub(crate) struct Rig {
    pub(crate) cluster: Cluster,
    pub(crate) folder: tempfile::TempDir,
    store: Arc<dyn Store>,
    engines: AtomicU64,
}

/// Stops the world after a number of commits and changes.
struct Dying {
    left: AtomicI64,
    died: Notify,
}

#[async_trait::async_trait]
impl Probe for Dying {
    async fn at(&self, _: Point<'_>) {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

/// How a job came out.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: JobStatus,
    pub(crate) report: Value,
    pub(crate) summary: Value,
}

impl Rig {
    /// Starts the cluster and writes its backups. Saves go to the backups as they happen.
    pub(crate) async fn start(builder: ClusterBuilder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backups = folder.path().join("backups");
        std::fs::create_dir_all(&backups).unwrap();
        let cluster = builder.uploader(Uploader::to_directory(&backups)).start().await.unwrap();
        cluster.write_backups_to(&backups).unwrap();
        cluster.watch_copies(true);
        let store = Arc::new(MemoryStore::new(SystemClock::real()));
        Self { cluster, folder, store, engines: AtomicU64::new(1) }
    }

    pub(crate) fn backups(&self) -> PathBuf {
        self.folder.path().join("backups")
    }

    /// The shortest spec for this cluster, with `members` added or replaced.
    pub(crate) fn spec(&self, members: Value) -> Value {
        let agents: Vec<Value> = self
            .cluster
            .addresses()
            .agents
            .iter()
            .map(|agent| json!({ "name": agent.name, "address": agent.address }))
            .collect();
        let mut spec = json!({
            "index_replica": 2,
            "cluster": { "agents": agents },
            "backups": format!("file://{}", self.backups().display()),
            "call_timeout": "2s",
        });
        for (name, value) in members.as_object().unwrap() {
            spec[name.as_str()] = value.clone();
        }
        spec
    }

    fn config(&self) -> EngineConfig {
        let kinds = Kinds::new().with(RebalanceKind::new());
        let work = self.folder.path().join("work");
        // Another seed for each engine: two jobs of one millisecond must not share an id.
        let entropy = Seeded::shared(self.engines.fetch_add(1, Ordering::Relaxed));
        EngineConfig::new(self.store.clone(), SystemClock::real(), entropy, kinds, work)
    }

    /// Runs a job to its end.
    pub(crate) async fn run(&self, spec: Value) -> Run {
        let engine = Engine::open(self.config()).await.unwrap();
        let id = engine.submit(Self::request(spec)).await.unwrap();
        let status = engine.wait(id).await.unwrap();
        engine.shutdown().await.unwrap();
        self.reported(id, status).await
    }

    fn request(spec: Value) -> JobRequest {
        JobRequest { kind: "rebalance".into(), name: "test".into(), spec, ..JobRequest::default() }
    }

    async fn reported(&self, id: JobId, status: JobStatus) -> Run {
        let config = self.config();
        let made = report::make(&*config.store, &config.kinds, id, config.clock.wall()).await.unwrap();
        let report = serde_json::to_value(made).unwrap();
        Run { status, summary: report["summary"].clone(), report }
    }

    /// Runs a job to its end, which is a success, and undoes it.
    pub(crate) async fn run_and_undo(&self, spec: Value) -> Run {
        let engine = Engine::open(self.config()).await.unwrap();
        let id = engine.submit(Self::request(spec)).await.unwrap();
        let status = engine.wait(id).await.unwrap();
        self.reported(id, status).await.succeeded();
        let answer = engine.command(id, Command::Undo, None).await.unwrap();
        assert!(matches!(answer, CommandReply::Done(_)), "{answer:?}");
        let status = engine.wait(id).await.unwrap();
        let run = self.reported(id, status).await;
        engine.shutdown().await.unwrap();
        run
    }

    /// Runs a job, while its process dies `deaths` times, each time after another number of commits and changes. Few
    /// chunks run at a time, so that each life gets somewhere: three deaths in the same place are blamed on the chunk.
    pub(crate) async fn run_dying(&self, deaths: u64, spec: Value) -> Run {
        let mut job = None;
        for death in 0..=deaths {
            let probe = Arc::new(Dying { left: AtomicI64::new(150 + 37 * death as i64), died: Notify::new() });
            let mut config = EngineConfig { lease_ttl: Duration::from_secs(1), places: 2, ..self.config() };
            if death < deaths {
                config.probe = probe.clone();
            }
            let clock = config.clock.clone();
            let engine = Engine::open(config).await.unwrap();
            let id = match job {
                Some(id) => id,
                None => engine.submit(Self::request(spec.clone())).await.unwrap(),
            };
            job = Some(id);
            // The claim of the process that died vanishes with its lease; until then nothing runs here.
            let ended = async {
                loop {
                    let status = engine.wait(id).await.unwrap();
                    if status.result.is_some() {
                        break status;
                    }
                    clock.sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! {
                () = probe.died.notified() => drop(engine),
                status = ended => {
                    engine.shutdown().await.unwrap();
                    return self.reported(id, status).await;
                }
            }
        }
        unreachable!("the last process does not die");
    }

    pub(crate) async fn preview(&self, spec: Value) -> (Preview, String) {
        let config = EngineConfig { work_dir: self.folder.path().join("preview"), ..self.config() };
        let kinds = config.kinds.clone();
        let preview = Engine::preview(config, Self::request(spec.clone())).await.unwrap();
        let text = kinds.kind("rebalance").unwrap().describe_plan(&spec, &preview.looked).unwrap_or_default();
        (preview, text)
    }

    /// Copies per agent.
    pub(crate) fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.cluster.agents()];
        for (agent, _) in self.cluster.placement().values().flatten() {
            counts[*agent] += 1;
        }
        counts
    }

    /// Nothing was ever missing, and nothing came back.
    #[track_caller]
    pub(crate) fn assert_nothing_lost(&self, before: &Placement) {
        assert_eq!(self.cluster.violations(), []);
        assert_eq!(self.cluster.resurrected(), [] as [windlass_sim::vald::Id; 0]);
        let after = self.cluster.placement();
        let gone: Vec<_> = before.keys().filter(|id| !after.contains_key(*id)).collect();
        assert!(gone.is_empty(), "{} ids are gone: {gone:?}", gone.len());
    }

    /// Every id has `copies` copies, on different agents.
    #[track_caller]
    pub(crate) fn assert_copies(&self, copies: usize) {
        for (id, on) in self.cluster.placement() {
            assert_eq!(on.len(), copies, "{id} is on {on:?}");
        }
    }
}

impl Run {
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        let ok = matches!(self.status.result, Some(JobResult::Succeeded | JobResult::SucceededWithWarnings));
        assert!(ok, "{:#?}\n{:#}", self.status, self.report["unsuccessful"]);
        self.adds_up();
        self
    }

    #[track_caller]
    pub(crate) fn failed(self) -> Self {
        let failed = matches!(self.status.result, Some(JobResult::Failed | JobResult::Partial));
        assert!(failed, "{:#?}\n{:#}", self.status, self.summary);
        self
    }

    pub(crate) fn verdict(&self) -> &str {
        self.summary["verdict"].as_str().unwrap()
    }

    pub(crate) fn outcome(&self, name: &str) -> u64 {
        self.summary["moves"]["outcomes"][name].as_u64().unwrap_or(0)
    }

    /// The codes of all failures with the agents they name.
    pub(crate) fn failures(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = self.summary["failures"].as_array().unwrap();
        all.iter().map(|failure| (text(&failure["code"]), text(&failure["details"]["agent"]))).collect()
    }

    /// Planned = all outcomes together + still to do.
    #[track_caller]
    fn adds_up(&self) {
        let moves = &self.summary["moves"];
        let outcomes: u64 = moves["outcomes"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(moves["planned"].as_u64().unwrap(), outcomes + moves["still_to_do"].as_u64().unwrap(), "{moves:#}");
        assert_eq!(moves["still_to_do"], 0, "{moves:#}");
    }

    pub(crate) fn spread(&self, when: &str) -> f64 {
        self.summary["spread"][when].as_f64().unwrap_or_else(|| panic!("no spread {when}: {:#}", self.summary))
    }
}
