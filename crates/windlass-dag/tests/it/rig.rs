//! A folder, an engine on a store in memory, and the kind with everything allowed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::{Seeded, SharedClock, SystemClock};
use windlass_dag::{DagConfig, DagKind};
use windlass_engine::view::JobView;
use windlass_engine::{Engine, EngineConfig, EngineError, JobRequest, Kinds, view};
use windlass_model::JobId;
use windlass_store::memory::MemoryStore;

pub(crate) struct Rig {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: SharedClock,
    pub(crate) store: MemoryStore,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let clock = SystemClock::real();
        Self { folder: tempfile::tempdir().unwrap(), store: MemoryStore::new(clock.clone()), clock }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    pub(crate) async fn engine(&self, config: DagConfig) -> Engine {
        self.engine_with(config, |config| config).await
    }

    /// With other settings than the usual ones.
    pub(crate) async fn engine_with(
        &self,
        config: DagConfig,
        change: impl FnOnce(EngineConfig) -> EngineConfig,
    ) -> Engine {
        let config = EngineConfig::new(
            Arc::new(self.store.clone()),
            self.clock.clone(),
            Seeded::shared(7),
            Kinds::new().with(DagKind::new(config)),
            self.path("jobs"),
        );
        Engine::open(change(config)).await.unwrap()
    }

    /// Runs tasks to the end.
    pub(crate) async fn run(&self, tasks: Value) -> (Engine, JobId, JobView) {
        let engine = self.engine(DagConfig::foreground()).await;
        let job = engine.submit(request(tasks)).await.unwrap();
        let view = self.rest(&engine, job).await;
        (engine, job, view)
    }

    pub(crate) async fn rest(&self, engine: &Engine, job: JobId) -> JobView {
        windlass_clock::deadline(&*self.clock, Duration::from_secs(60), engine.wait(job)).await.unwrap().unwrap();
        view::job(&self.store, engine.kinds(), job, engine.now()).await.unwrap()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the callers write the tasks where they are used")]
pub(crate) fn request(tasks: Value) -> JobRequest {
    JobRequest { kind: "dag".into(), name: "test".into(), spec: json!({ "tasks": tasks }), ..JobRequest::default() }
}

/// The faults of a spec, as `pointer: message`.
pub(crate) fn faults_of(error: &EngineError) -> Vec<String> {
    match error {
        EngineError::InvalidSpec { faults, .. } => {
            faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect()
        }
        other => vec![other.to_string()],
    }
}

/// How a task ended, in words.
pub(crate) fn end_of(view: &JobView, name: &str) -> String {
    let task = view.tasks.iter().find(|task| task.name.ends_with(&format!("[{name}]"))).unwrap();
    match task.status.outcome() {
        Some(windlass_model::task::Outcome::Failed { failure }) => format!("failed: {}: {failure}", failure.code),
        Some(outcome) => outcome.name().to_owned(),
        None => "not ended".to_owned(),
    }
}

/// The output of a task.
pub(crate) async fn output(rig: &Rig, engine: &Engine, job: JobId, name: &str) -> Value {
    let view = view::job(&rig.store, engine.kinds(), job, engine.now()).await.unwrap();
    let task = view.tasks.iter().find(|task| task.name.ends_with(&format!("[{name}]"))).unwrap();
    match task.status.outcome() {
        Some(windlass_model::task::Outcome::Succeeded { output: windlass_model::task::Output::Inline(value) }) => {
            value.clone()
        }
        other => panic!("{name}: {other:?}"),
    }
}
