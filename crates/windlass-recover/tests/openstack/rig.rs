//! An engine for recoveries at the lab.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use windlass_clock::{Seeded, SharedClock};
use windlass_engine::view::{self, JobView};
use windlass_engine::{Command, CommandReply, Engine, EngineConfig, Kinds};
use windlass_model::JobId;
use windlass_model::task::Outcome;
use windlass_recover::{RecoverConfig, RecoverKind};
use windlass_store::memory::MemoryStore;

/// How long a job may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(900);

pub(crate) struct Rig {
    clock: SharedClock,
    store: MemoryStore,
    folder: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new(clock: &SharedClock) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { clock: clock.clone(), store: MemoryStore::new(clock.clone()), folder }
    }

    pub(crate) async fn engine(&self) -> Engine {
        let kinds = Kinds::new().with(RecoverKind::new(RecoverConfig::foreground(BTreeMap::new())));
        let store = Arc::new(self.store.clone());
        let config =
            EngineConfig::new(store, self.clock.clone(), Seeded::shared(7), kinds, self.folder.path().join("jobs"));
        Engine::open(config).await.unwrap()
    }

    pub(crate) async fn rest(&self, engine: &Engine, job: JobId) -> JobView {
        windlass_clock::deadline(&*self.clock, PATIENCE, engine.wait(job)).await.unwrap().unwrap();
        view::job(&self.store, engine.kinds(), job, engine.now()).await.unwrap()
    }

    pub(crate) async fn command(&self, engine: &Engine, job: JobId, command: Command) -> JobView {
        match engine.command(job, command, None).await.unwrap() {
            CommandReply::Done(_) | CommandReply::Deleted { .. } => {}
            CommandReply::Refused(why) => panic!("refused: {why}"),
        }
        self.rest(engine, job).await
    }
}

/// What did not succeed.
pub(crate) fn troubles(view: &JobView) -> Vec<String> {
    let unwell = view.tasks.iter().filter_map(|task| match task.status.outcome() {
        Some(Outcome::Succeeded { .. }) => None,
        Some(Outcome::Failed { failure }) => Some(format!("{}: {}: {failure}", task.name, failure.code)),
        other => Some(format!("{}: {:?}", task.name, other.map(Outcome::name))),
    });
    unwell.collect()
}
