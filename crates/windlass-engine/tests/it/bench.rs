//! A store, a world and a clock for the engine's tests.

use std::sync::Arc;

use windlass_clock::{Seeded, SharedClock, SystemClock};
use windlass_engine::{CommandReply, Engine, EngineConfig, JobRequest, Kinds, view};
use windlass_model::JobId;
use windlass_model::job::JobStatus;
use windlass_sim::world::{Step, StepKind, StepSpec, World};
use windlass_store::memory::MemoryStore;

pub(crate) struct Bench {
    pub(crate) store: MemoryStore,
    pub(crate) world: World,
    pub(crate) clock: SharedClock,
    pub(crate) seed: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let clock: SharedClock = SystemClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        Self { store: MemoryStore::new(clock.clone()), world: World::new(clock.clone(), 1), clock, seed: 0 }
    }

    pub(crate) fn kinds(&self) -> Kinds {
        Kinds::new().with(StepKind::new(self.world.clone()))
    }

    pub(crate) async fn engine(&mut self) -> Engine {
        self.seed += 1;
        let config = EngineConfig::new(
            Arc::new(self.store.clone()),
            self.clock.clone(),
            Seeded::shared(self.seed),
            self.kinds(),
            std::env::temp_dir(),
        );
        Engine::open(config).await.unwrap()
    }

    pub(crate) async fn outcomes(&self, job: JobId) -> String {
        let job = view::job(&self.store, &self.kinds(), job, self.clock.wall()).await.unwrap();
        let task = |task: &view::TaskView| {
            let outcome = task.status.outcome().map_or(task.status.state.name(), |outcome| outcome.name());
            format!("{} {outcome}\n", task.name)
        };
        job.tasks.iter().map(task).collect()
    }
}

pub(crate) fn request(steps: Vec<Step>) -> JobRequest {
    let spec = StepSpec { steps, exclusive: None };
    JobRequest { kind: "step".into(), name: "test".into(), spec: spec.to_json(), ..JobRequest::default() }
}

pub(crate) fn done(reply: CommandReply) -> JobStatus {
    match reply {
        CommandReply::Done(status) => *status,
        other => panic!("{other:?}"),
    }
}
