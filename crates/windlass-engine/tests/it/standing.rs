//! Standing jobs: one run per due time, whatever dies; what overlaps, what was missed, what people ask for.

use std::sync::Arc;
use std::time::Duration;

use windlass_clock::{Clock, Seeded, SharedClock, SystemClock};
use windlass_engine::standing::{Cause, Run};
use windlass_engine::{Command, Engine, EngineConfig, EngineError, JobRequest, Kinds, Triggered, view};
use windlass_model::job::JobResult;
use windlass_model::schedule::{Misfire, Overlap, Schedule};
use windlass_sim::world::{Step, StepKind, StepSpec, World};
use windlass_store::memory::MemoryStore;
use windlass_store::{keys, read_all};

struct Rig {
    clock: Arc<SystemClock>,
    store: MemoryStore,
    world: World,
}

impl Rig {
    fn new() -> Self {
        let clock = SystemClock::starting_at("2026-11-01T00:00:00Z".parse().unwrap());
        let shared: SharedClock = clock.clone();
        Self { store: MemoryStore::new(shared.clone()), world: World::new(shared, 1), clock }
    }

    async fn engine(&self, seed: u64) -> Engine {
        let kinds = Kinds::new().with(StepKind::new(self.world.clone()));
        let clock: SharedClock = self.clock.clone();
        let config =
            EngineConfig::new(Arc::new(self.store.clone()), clock, Seeded::shared(seed), kinds, "/nonexistent".into());
        Engine::open(config).await.unwrap()
    }

    async fn pass(&self, seconds: u64) {
        self.clock.sleep(Duration::from_secs(seconds)).await;
    }

    async fn jobs(&self) -> usize {
        view::jobs(&self.store).await.unwrap().len()
    }
}

/// A job that makes one thing and takes so long.
fn request(name: &str, seconds: u64) -> JobRequest {
    let mut step = Step::new("a", 1);
    step.takes_ms = seconds * 1_000;
    let spec = StepSpec { steps: vec![step], exclusive: None }.to_json();
    JobRequest { kind: "step".into(), name: name.into(), spec, ..JobRequest::default() }
}

fn every(seconds: u64, overlap: Overlap) -> Schedule {
    Schedule { every_ms: Some(seconds * 1_000), overlap, catch_up: 10, ..Schedule::default() }
}

async fn history(engine: &Engine, id: &str) -> Vec<Run> {
    engine.standing_history(id).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_run_begins_at_each_due_time_and_its_end_is_remembered() {
    let rig = Rig::new();
    let engine = rig.engine(1).await;
    let id = engine.standing_create(request("tick", 1), every(3_600, Overlap::Skip)).await.unwrap();
    rig.pass(3 * 3_600 + 60).await;
    let runs = history(&engine, &id).await;
    let dues: Vec<String> = runs.iter().map(|run| run.due.to_string()).collect();
    assert_eq!(dues, ["2026-11-01T03:00:00Z", "2026-11-01T02:00:00Z", "2026-11-01T01:00:00Z"]);
    assert!(runs.iter().all(|run| run.end.unwrap().result == Some(JobResult::Succeeded)), "{runs:#?}");
    assert!(runs.iter().all(|run| run.began.unwrap().duration_since(run.due).as_secs() < 2), "{runs:#?}");
    assert_eq!((rig.jobs().await, rig.world.things().len()), (3, 3));
    let jobs = view::jobs(&rig.store).await.unwrap();
    assert!(jobs.iter().all(|job| job.labels["standing"] == id && job.name == "tick"));
}

#[tokio::test(start_paused = true)]
async fn two_engines_that_die_in_turn_begin_each_run_once() {
    let rig = Rig::new();
    let first = rig.engine(1).await;
    let id = first.standing_create(request("tick", 2), every(60, Overlap::Allow)).await.unwrap();
    let mut engines = [Some(first), Some(rig.engine(2).await)];
    for round in 0..20 {
        rig.pass(37 + round).await;
        let n = usize::try_from(round % 2).unwrap();
        // Killed where it stands; a new one comes a moment later.
        engines[n] = None;
        rig.pass(5).await;
        engines[n] = Some(rig.engine(10 + round).await);
    }
    rig.pass(120).await;
    let engine = engines[0].as_ref().unwrap();
    let record = engine.standing_find(&id).await.unwrap().record;
    let mut dues: Vec<i64> =
        record.history.iter().filter(|run| run.job.is_some()).map(|run| run.due.as_second()).collect();
    dues.sort_unstable();
    let distances: Vec<i64> = dues.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(distances.iter().all(|distance| *distance == 60), "{distances:?}");
    assert_eq!(rig.jobs().await as u64, record.runs);
    assert!(rig.world.faults().is_empty(), "{:?}", rig.world.faults());
    assert_eq!(rig.world.things().len() as u64, record.runs);
}

#[tokio::test(start_paused = true)]
async fn a_newer_run_cancels_one_that_another_process_coordinates() {
    let rig = Rig::new();
    let first = rig.engine(1).await;
    let id = first.standing_create(request("long", 100_000), every(86_400, Overlap::CancelRunning)).await.unwrap();
    let Triggered::Began(run) = first.standing_trigger(&id, None).await.unwrap() else { panic!("nothing runs yet") };
    rig.pass(1).await;
    assert!(first.watch(run).is_some(), "the first engine coordinates the run");
    // A second process decides that a newer one takes its place, and dies at once.
    let second = rig.engine(2).await;
    assert_eq!(second.standing_trigger(&id, Some("now".into())).await.unwrap(), Triggered::Waits);
    drop(second);
    rig.pass(5).await;
    let runs = history(&first, &id).await;
    let [newer, older] = runs.as_slice() else { panic!("{runs:#?}") };
    assert_eq!((older.job, older.end.unwrap().result), (Some(run), Some(JobResult::Cancelled)));
    assert!(newer.end.is_none() && newer.job.is_some(), "{newer:#?}");
    assert!(read_all(&rig.store, keys::MAIL).await.unwrap().is_empty(), "what was asked is carried out");

    // What is asked of a job that is gone by then goes too.
    let newer = newer.job.unwrap();
    let third = rig.engine(3).await;
    third.standing_trigger(&id, None).await.unwrap();
    first.command(newer, Command::Delete { force: true }, None).await.unwrap();
    rig.pass(60).await;
    assert!(read_all(&rig.store, keys::MAIL).await.unwrap().is_empty(), "nobody is left to carry it out");
}

#[tokio::test(start_paused = true)]
async fn after_days_of_downtime_the_misfire_policy_decides() {
    for (misfire, made_up) in [(Misfire::Skip, 0), (Misfire::RunOnce, 1), (Misfire::RunAll, 10)] {
        let rig = Rig::new();
        let engine = rig.engine(1).await;
        let schedule = Schedule { misfire, ..every(3_600, Overlap::Queue) };
        let id = engine.standing_create(request("tick", 1), schedule).await.unwrap();
        rig.pass(3_700).await;
        drop(engine);
        rig.pass(3 * 86_400).await;
        let engine = rig.engine(2).await;
        rig.pass(60).await;
        let runs = history(&engine, &id).await;
        let begun = runs.iter().filter(|run| run.by == Cause::MadeUp && run.job.is_some()).count();
        assert_eq!(begun, made_up, "{misfire:?} {runs:#?}");
        assert_eq!(rig.jobs().await, made_up + 1, "{misfire:?}");
        assert!(runs.iter().any(|run| run.note.as_ref().is_some_and(|note| note.contains("left out"))), "{misfire:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_due_too_early_is_left_out_waits_replaces_or_runs_beside() {
    for (overlap, begun, results) in [
        (Overlap::Skip, 2, vec![None, Some(JobResult::Succeeded)]),
        (Overlap::Queue, 2, vec![None, Some(JobResult::Succeeded)]),
        (Overlap::CancelRunning, 3, vec![None, Some(JobResult::Cancelled), Some(JobResult::Cancelled)]),
        (Overlap::Allow, 3, vec![None, None, Some(JobResult::Succeeded)]),
    ] {
        let rig = Rig::new();
        let engine = rig.engine(1).await;
        let id = engine.standing_create(request("slow", 110), every(60, overlap)).await.unwrap();
        rig.pass(60 + 125).await;
        let runs: Vec<Run> = history(&engine, &id).await.into_iter().filter(|run| run.job.is_some()).collect();
        assert_eq!(runs.len(), begun, "{overlap:?} {runs:#?}");
        let ends: Vec<Option<JobResult>> = runs.iter().map(|run| run.end.and_then(|end| end.result)).collect();
        assert_eq!(ends, results, "{overlap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn people_hold_trigger_edit_and_delete() {
    let rig = Rig::new();
    let engine = rig.engine(1).await;
    let id = engine.standing_create(request("tick", 1), every(60, Overlap::Skip)).await.unwrap();
    let taken = engine.standing_create(request("tick", 1), every(60, Overlap::Skip)).await;
    assert!(matches!(taken, Err(EngineError::StandingName(_))), "{taken:?}");
    let wrong = engine.standing_create(request("other", 1), Schedule { catch_up: 1, ..Schedule::default() }).await;
    assert!(matches!(wrong, Err(EngineError::Schedule(_))), "{wrong:?}");

    engine.standing_pause(&id).await.unwrap();
    rig.pass(600).await;
    assert_eq!(rig.jobs().await, 0);
    let once = engine.standing_trigger(&id, Some("r1".into())).await.unwrap();
    let twice = engine.standing_trigger(&id, Some("r1".into())).await.unwrap();
    assert!(matches!(once, Triggered::Began(_)));
    assert_eq!(once, twice);
    let busy = engine.standing_trigger(&id, None).await.unwrap();
    assert!(matches!(busy, Triggered::LeftOut(_)), "{busy:?}");
    rig.pass(10).await;
    assert_eq!((rig.jobs().await, rig.world.things().len()), (1, 1));

    engine.standing_resume(&id).await.unwrap();
    let seen = engine.standing_find("tick").await.unwrap();
    assert!(seen.record.next.unwrap() > engine.now());
    engine.standing_edit(&id, seen.version, None, Some(every(7_200, Overlap::Skip))).await.unwrap();
    let stale = engine.standing_edit(&id, seen.version, None, Some(every(60, Overlap::Skip))).await;
    assert!(matches!(stale, Err(EngineError::StandingChanged(_))), "{stale:?}");
    rig.pass(3_600).await;
    assert_eq!(rig.jobs().await, 1);

    engine.standing_delete(&id).await.unwrap();
    rig.pass(86_400).await;
    assert_eq!(rig.jobs().await, 1);
    assert!(read_all(&rig.store, "standing").await.unwrap().is_empty());
    assert!(matches!(engine.standing_find("tick").await, Err(EngineError::NoSuchStanding(_))));
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_doubles_nothing() {
    let rig = Rig::new();
    let engine = rig.engine(1).await;
    let id = engine.standing_create(request("tick", 1), every(3_600, Overlap::Allow)).await.unwrap();
    rig.pass(3_700).await;
    rig.clock.jump_wall(-1_800_000);
    rig.pass(900).await;
    assert_eq!(rig.jobs().await, 1, "back: what has run does not run again");
    rig.clock.jump_wall(5_400_000);
    rig.pass(120).await;
    let runs = history(&engine, &id).await;
    assert_eq!(rig.jobs().await, 2, "{runs:#?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_store_has_nobody_in_charge() {
    let rig = Rig::new();
    let _engine = rig.engine(1).await;
    rig.pass(600).await;
    assert!(read_all(&rig.store, keys::SCHEDULER).await.unwrap().is_empty());
}
