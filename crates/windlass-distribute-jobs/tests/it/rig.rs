//! A folder with inputs and an origin, an engine on a store in memory, and nodes that are played.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::{Seeded, SharedClock, SystemClock};
use windlass_distribute_jobs::DistributeKind;
use windlass_engine::records::decode;
use windlass_engine::{Engine, EngineConfig, JobRequest, Kinds, Presence, view};
use windlass_model::JobId;
use windlass_store::memory::MemoryStore;
use windlass_store::{Store, keys, read_all};

use crate::node::Nodes;

/// Nothing here takes longer on any machine.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    pub(crate) folder: Arc<tempfile::TempDir>,
    pub(crate) clock: SharedClock,
    pub(crate) store: MemoryStore,
    pub(crate) nodes: Nodes,
}

impl Rig {
    /// With these files on the origin and in the catalogue, best first.
    pub(crate) fn new(files: &[(&str, u64)]) -> Self {
        Self::on(SystemClock::real(), files)
    }

    /// The same on another clock.
    pub(crate) fn on(clock: SharedClock, files: &[(&str, u64)]) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        fs::create_dir(folder.path().join("origin")).unwrap();
        fs::create_dir(folder.path().join("events")).unwrap();
        fs::write(folder.path().join("origin/.marker"), "").unwrap();
        let rig = Self { store: MemoryStore::new(clock.clone()), nodes: Nodes::new(clock.clone()), clock, folder };
        for (name, size) in files {
            rig.on_origin(name, *size);
        }
        rig.catalogue(files);
        rig
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn on_origin(&self, name: &str, size: u64) {
        fs::File::create(self.path("origin").join(name)).unwrap().set_len(size).unwrap();
    }

    pub(crate) fn catalogue(&self, files: &[(&str, u64)]) {
        let mut grades = "filename\tweightcount\n".to_owned();
        let mut history = "historyheader:1\n".to_owned();
        for (name, size) in files {
            let _ = writeln!(grades, "{name}\t1");
            let _ = writeln!(history, "{name},1,1,{size},,1,0,0,1=0");
        }
        for (file, text) in [("grades", grades), ("history", history)] {
            let beside = self.path(&format!("{file}.beside"));
            fs::write(&beside, text).unwrap();
            fs::rename(beside, self.path(file)).unwrap();
        }
    }

    /// The spec with these nodes; the first one is the source, and no destination.
    pub(crate) fn spec(&self, source: &str, destinations: &[&String]) -> Value {
        let mut nodes = vec![json!({ "address": source, "source": true, "destination": false })];
        nodes.extend(destinations.iter().map(|address| json!({ "address": address })));
        json!({
            "inputs": {
                "grades": self.path("grades"), "history": self.path("history"), "events": self.path("events"),
                "origin": { "folders": [self.path("origin")], "marker": ".marker", "every": "100ms" },
                "settle": "20ms", "every": "20ms",
            },
            "nodes": nodes,
            "rules": { "limit_percent": 90, "watch": ["10.0.0.1"] },
            "watch": { "every": "100ms", "patience": "400ms", "listing": "1s" },
            "revoke_grace": "2s",
        })
    }

    pub(crate) fn kinds() -> Kinds {
        Kinds::new().with(DistributeKind::new().at_most_every(Duration::from_millis(20)))
    }

    pub(crate) async fn engine(&self) -> Engine {
        self.engine_of(Self::kinds()).await
    }

    pub(crate) async fn engine_of(&self, kinds: Kinds) -> Engine {
        let (store, clock) = (Arc::new(self.store.clone()), self.clock.clone());
        let seed = clock.monotonic().as_nanos() as u64;
        let config = EngineConfig::new(store, clock, Seeded::shared(seed), kinds, self.path("jobs"));
        Engine::open(config).await.unwrap()
    }

    /// The process dies: nothing of it goes on, and its lease runs out.
    pub(crate) async fn kill(&self, engine: Engine) {
        drop(engine);
        for entry in read_all(&self.store, keys::WORKERS).await.unwrap() {
            if let (Some(lease), Ok(_)) = (entry.lease, decode::<Presence>(&entry)) {
                let _ = self.store.revoke(lease).await;
            }
        }
    }

    pub(crate) async fn submit(&self, engine: &Engine, spec: Value) -> JobId {
        engine.submit(request(spec)).await.unwrap()
    }

    /// What the last round said.
    pub(crate) async fn status(&self, job: JobId) -> Value {
        let view = view::job(&self.store, &Self::kinds(), job, self.clock.wall()).await.unwrap();
        view.rounds.map(|rounds| rounds.status).unwrap_or_default()
    }

    pub(crate) async fn until(&self, what: &str, mut there: impl AsyncFnMut() -> bool) {
        let begun = self.clock.monotonic();
        while !there().await {
            assert!(self.clock.monotonic() - begun < LONGEST, "not in time: {what}; {}", self.nodes.picture());
            self.clock.sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing is left to do.
    pub(crate) async fn settled(&self, job: JobId) -> Value {
        let mut last = Value::Null;
        self.until("it is settled", async || {
            last = self.status(job).await;
            last["settled"] == true
        })
        .await;
        last
    }

    /// Waits until the job tells a line that holds `part`.
    pub(crate) async fn alarm(&self, job: JobId, part: &str) -> Vec<String> {
        let mut lines = Vec::new();
        self.until(part, async || {
            let status = self.status(job).await;
            let all = status["alarms"].as_array().cloned().unwrap_or_default();
            lines = all
                .iter()
                .filter_map(|line| line.as_str())
                .filter(|line| line.contains(part))
                .map(str::to_owned)
                .collect();
            !lines.is_empty()
        })
        .await;
        lines
    }
}

pub(crate) fn request(spec: Value) -> JobRequest {
    JobRequest { kind: "distribute".into(), name: "media".into(), spec, ..JobRequest::default() }
}
