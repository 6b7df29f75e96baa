//! The engine on the embedded store, in real time.

use std::path::Path;
use std::sync::Arc;

use windlass_clock::{SharedClock, SystemClock, SystemEntropy};
use windlass_engine::{Command, Engine, EngineConfig, JobRequest, Kinds, view};
use windlass_model::job::{JobResult, JobState};
use windlass_sim::world::{Step, StepKind, StepSpec, Weather, World};
use windlass_store::{Store, StoreError};
use windlass_store_embedded::{EmbeddedStore, Options};

async fn engine(dir: &Path, clock: &SharedClock, world: &World) -> (Engine, Arc<EmbeddedStore>) {
    let store = Arc::new(EmbeddedStore::open(dir, Options::new(clock.clone())).unwrap());
    let shared: Arc<dyn Store> = store.clone();
    let kinds = Kinds::new().with(StepKind::new(world.clone()));
    let config = EngineConfig::new(shared, clock.clone(), SystemEntropy::real(), kinds, dir.join("work"));
    (Engine::open(config).await.unwrap(), store)
}

fn request(steps: Vec<Step>) -> JobRequest {
    let spec = StepSpec { steps, exclusive: None };
    JobRequest { kind: "step".into(), name: "test".into(), spec: spec.to_json(), ..JobRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_dropped_in_the_middle_goes_on_with_the_next_process_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SystemClock::real();
    let world = World::new(clock.clone(), 1);
    world.set_weather(Weather { delay_ms: 10, ..Weather::default() });
    let (first, store) = engine(dir.path(), &clock, &world).await;
    let job = first.submit(request((0..40).map(|n| Step::new(format!("s{n}"), 5)).collect())).await.unwrap();
    let mut watch = first.watch(job).unwrap();
    watch.wait_for(|snapshot| snapshot.counts.succeeded >= 5).await.unwrap();
    drop(first);
    drop(watch);
    // Aborted tasks let go of the store as the runtime comes round to them.
    while Arc::strong_count(&store) > 1 {
        tokio::task::yield_now().await;
    }
    Arc::into_inner(store).unwrap().close().await;
    assert!(world.calls() < 200, "it was dropped in the middle");
    let (second, _store) = engine(dir.path(), &clock, &world).await;
    let status = second.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Succeeded));
    assert_eq!((world.things().len(), world.faults()), (200, vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_holder_is_refused_by_name_and_may_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SystemClock::real();
    let world = World::new(clock.clone(), 1);
    let (engine, _store) = engine(dir.path(), &clock, &world).await;
    let job = engine.submit(request(vec![Step::new("a", 1)])).await.unwrap();
    engine.wait(job).await.unwrap();
    match EmbeddedStore::open(dir.path(), Options::new(clock.clone())) {
        Err(StoreError::Held(text)) => assert!(text.contains(&std::process::id().to_string()), "{text}"),
        other => panic!("{other:?}"),
    }
    let reader = EmbeddedStore::read_only(dir.path()).unwrap();
    let jobs = view::jobs(&reader).await.unwrap();
    assert_eq!((jobs.len(), jobs[0].status.state), (1, JobState::Completed));
    assert_eq!(view::find(&reader, "test").await.unwrap(), job);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_plans_are_staged_and_a_thousand_tasks_are_undone() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SystemClock::real();
    let world = World::new(clock.clone(), 1);
    let (engine, _store) = engine(dir.path(), &clock, &world).await;
    let job = engine.submit(request((0..1000).map(|n| Step::new(format!("s{n}"), 1)).collect())).await.unwrap();
    assert_eq!(engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
    assert_eq!(world.things().len(), 1000);
    engine.command(job, Command::Undo, None).await.unwrap();
    assert_eq!(engine.wait(job).await.unwrap().state, JobState::Finished);
    assert_eq!(world.things().len(), 0);
}
