//! A cluster, a place for its backups, and a way to run a job against them.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use windlass_clock::{Seeded, SystemClock};
use windlass_engine::kind::Kinds;
use windlass_engine::{Engine, EngineConfig, JobRequest, Preview, report};
use windlass_model::job::{JobResult, JobStatus};
use windlass_rebalance::RebalanceKind;
use windlass_sim::vald::{Cluster, ClusterBuilder, Placement, Uploader};
use windlass_store::Store;
use windlass_store::memory::MemoryStore;

/// A cluster with its backups in a local folder.
pub struct Rig {
    pub cluster: Cluster,
    pub folder: tempfile::TempDir,
    store: Arc<dyn Store>,
}

/// How a job came out.
#[derive(Debug)]
pub struct Run {
    pub status: JobStatus,
    pub report: Value,
    pub summary: Value,
}

impl Rig {
    /// Starts the cluster and writes its backups. Saves go to the backups as they happen.
    pub async fn start(builder: ClusterBuilder) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let backups = folder.path().join("backups");
        std::fs::create_dir_all(&backups).unwrap();
        let cluster = builder.uploader(Uploader::to_directory(&backups)).start().await.unwrap();
        cluster.write_backups_to(&backups).unwrap();
        cluster.watch_copies(true);
        let store = Arc::new(MemoryStore::new(SystemClock::real()));
        Self { cluster, folder, store }
    }

    pub fn backups(&self) -> PathBuf {
        self.folder.path().join("backups")
    }

    /// The shortest spec for this cluster, with `members` added or replaced.
    pub fn spec(&self, members: Value) -> Value {
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
        EngineConfig::new(self.store.clone(), SystemClock::real(), Seeded::shared(7), kinds, work)
    }

    /// Runs a job to its end.
    pub async fn run(&self, spec: Value) -> Run {
        let config = self.config();
        let (store, kinds) = (config.store.clone(), config.kinds.clone());
        // Another engine for each job: ids come from a seed that moves on with time only.
        let entropy = Seeded::shared(u64::try_from(config.clock.wall().as_nanosecond() & 0xffff_ffff).unwrap());
        let engine = Engine::open(EngineConfig { entropy, ..config }).await.unwrap();
        let request = JobRequest { kind: "rebalance".into(), name: "test".into(), spec, ..JobRequest::default() };
        let id = engine.submit(request).await.unwrap();
        let status = engine.wait(id).await.unwrap();
        let made = report::make(&*store, &kinds, id, engine.now()).await.unwrap();
        engine.shutdown().await.unwrap();
        let report = serde_json::to_value(made).unwrap();
        Run { status, summary: report["summary"].clone(), report }
    }

    pub async fn preview(&self, spec: Value) -> (Preview, String) {
        let config = EngineConfig { work_dir: self.folder.path().join("preview"), ..self.config() };
        let kinds = config.kinds.clone();
        let request =
            JobRequest { kind: "rebalance".into(), name: "test".into(), spec: spec.clone(), ..JobRequest::default() };
        let preview = Engine::preview(config, request).await.unwrap();
        let text = kinds.kind("rebalance").unwrap().describe_plan(&spec, &preview.looked).unwrap_or_default();
        (preview, text)
    }

    /// Copies per agent.
    pub fn counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.cluster.agents()];
        for (agent, _) in self.cluster.placement().values().flatten() {
            counts[*agent] += 1;
        }
        counts
    }

    /// Nothing was ever missing, and nothing came back.
    #[track_caller]
    pub fn assert_nothing_lost(&self, before: &Placement) {
        assert_eq!(self.cluster.violations(), []);
        assert_eq!(self.cluster.resurrected(), [] as [windlass_sim::vald::Id; 0]);
        let after = self.cluster.placement();
        let gone: Vec<_> = before.keys().filter(|id| !after.contains_key(*id)).collect();
        assert!(gone.is_empty(), "{} ids are gone: {gone:?}", gone.len());
    }

    /// Every id has `copies` copies, on different agents.
    #[track_caller]
    pub fn assert_copies(&self, copies: usize) {
        for (id, on) in self.cluster.placement() {
            assert_eq!(on.len(), copies, "{id} is on {on:?}");
        }
    }
}

impl Run {
    #[track_caller]
    pub fn succeeded(self) -> Self {
        let ok = matches!(self.status.result, Some(JobResult::Succeeded | JobResult::SucceededWithWarnings));
        assert!(ok, "{:#?}\n{:#}", self.status, self.report["unsuccessful"]);
        self.adds_up();
        self
    }

    #[track_caller]
    pub fn failed(self) -> Self {
        let failed = matches!(self.status.result, Some(JobResult::Failed | JobResult::Partial));
        assert!(failed, "{:#?}\n{:#}", self.status, self.summary);
        self
    }

    pub fn verdict(&self) -> &str {
        self.summary["verdict"].as_str().unwrap()
    }

    pub fn outcome(&self, name: &str) -> u64 {
        self.summary["moves"]["outcomes"][name].as_u64().unwrap_or(0)
    }

    /// The codes of all failures with the agents they name.
    pub fn failures(&self) -> Vec<(String, String)> {
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

    pub fn spread(&self, when: &str) -> f64 {
        self.summary["spread"][when].as_f64().unwrap_or_else(|| panic!("no spread {when}: {:#}", self.summary))
    }
}
