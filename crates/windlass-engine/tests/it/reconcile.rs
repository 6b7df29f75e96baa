//! Standing jobs: rounds, what wakes them, what they may not do, and what is kept of them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::{Seeded, SharedClock, SystemClock, deadline};
use windlass_engine::view::{self, Wait};
use windlass_engine::{
    Command, CommandReply, Engine, EngineConfig, EngineError, JobRequest, Kind, Kinds, PlanContext, Reconcile,
    SpecFault, TaskType,
};
use windlass_model::effect::{Effect, Leftover};
use windlass_model::job::{JobResult, JobState};
use windlass_model::plan::Plan;
use windlass_model::{ErrorClass, Failure, JobId};
use windlass_sim::hostile::{FreezableClock, HostileStore};
use windlass_sim::invariants::{self, Seen};
use windlass_sim::keeper::{KeepKind, Mood, Wishes};
use windlass_sim::world::{StepKind, Weather, World};
use windlass_store::memory::MemoryStore;
use windlass_store::{Store, keys, read_all};

use crate::bench::done;

/// Longest that anything may take before a test gives up; of the test's own time.
const PATIENCE: Duration = Duration::from_secs(600);
/// So rare that only signals matter.
const RARELY: Duration = Duration::from_secs(3600);

struct Ground {
    store: MemoryStore,
    world: World,
    wishes: Wishes,
    settings: Reconcile,
    clock: SharedClock,
    engines: std::sync::atomic::AtomicU64,
}

impl Ground {
    fn new(settings: Reconcile) -> Self {
        let clock: SharedClock = SystemClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        let (store, world) = (MemoryStore::new(clock.clone()), World::new(clock.clone(), 1));
        Self { store, world, wishes: Wishes::default(), settings, clock, engines: 0.into() }
    }

    fn kinds(&self) -> Kinds {
        let keep = KeepKind::new(self.world.clone(), self.wishes.clone(), self.settings.clone());
        Kinds::new().with(keep).with(StepKind::new(self.world.clone()))
    }

    fn config(&self) -> EngineConfig {
        let seed = self.engines.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (store, clock) = (Arc::new(self.store.clone()), self.clock.clone());
        EngineConfig::new(store, clock, Seeded::shared(seed), self.kinds(), std::env::temp_dir())
    }

    async fn engine(&self) -> Engine {
        Engine::open(self.config()).await.unwrap()
    }

    async fn view(&self, job: JobId) -> view::JobView {
        view::job(&self.store, &self.kinds(), job, self.clock.wall()).await.unwrap()
    }

    async fn until(&self, what: &str, mut is: impl AsyncFnMut() -> bool) {
        let looking = async {
            let mut looks = 0;
            while !is().await {
                looks += 1;
                self.clock.sleep(Duration::from_millis(if looks < 20 { 1 } else { 50 })).await;
            }
        };
        assert!(deadline(&*self.clock, PATIENCE, looking).await.is_ok(), "it never came to this: {what}");
    }

    /// Waits until exactly what is wanted is there, and the job knows.
    async fn settled(&self, job: JobId) {
        self.until("what is wanted is there", async || self.world.things() == self.wishes.wanted()).await;
        let wanted = self.wishes.wanted().len();
        let idle = async || {
            let view = self.view(job).await;
            let said = view.rounds.map(|rounds| rounds.status);
            view.counts.waiting + view.counts.running == 0 && said == Some(json!({"wanted": wanted, "there": wanted}))
        };
        self.until("nothing is in flight", idle).await;
        self.check().await;
    }

    async fn check(&self) {
        assert_eq!(self.world.faults(), Vec::<String>::new());
        assert_eq!(invariants::check(&self.store, &mut Seen::default()).await, Vec::<String>::new());
    }

    async fn records(&self, job: JobId) -> usize {
        read_all(&self.store, &keys::job_prefix(job)).await.unwrap().len()
    }

    async fn codes(&self, job: JobId) -> Vec<String> {
        view::log(&self.store, job, 0, 100_000).await.unwrap().into_iter().map(|entry| entry.code).collect()
    }
}

fn keep() -> JobRequest {
    JobRequest { kind: "keep".into(), name: "keep".into(), spec: json!({}), ..JobRequest::default() }
}

fn names(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("thing-{n:05}")).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_comes_about_and_is_kept() {
    let ground = Ground::new(Reconcile::every(Duration::from_secs(10)));
    ground.wishes.want(names(0..50));
    let engine = ground.engine().await;
    let job = engine.submit(keep()).await.unwrap();
    ground.settled(job).await;
    // Something is lost, and nobody says so: the timer finds it.
    ground.world.lose("thing-00007");
    let before = ground.clock.monotonic();
    ground.settled(job).await;
    assert!(ground.clock.monotonic() - before < Duration::from_secs(11));
    ground.wishes.want(names(20..30));
    ground.settled(job).await;
    let view = ground.view(job).await;
    assert_eq!(view.status.state, JobState::Running);
    assert_eq!(view.counts.succeeded, 50 + 1 + 40, "each thing was made and removed once");
    let rounds = view.rounds.unwrap();
    assert_eq!((rounds.status, rounds.failures), (json!({"wanted": 10, "there": 10}), 0));
    assert!(matches!(view.waits.as_slice(), [Wait::Rounds { .. }]), "{:?}", view.waiting_on);
    assert_eq!(ground.wishes.most_under_way(), 1);
    ground.until("rounds are told of all ends", async || ground.wishes.told() == 91).await;
}

#[tokio::test(start_paused = true)]
async fn a_wake_and_an_end_bring_the_next_round_within_milliseconds() {
    let ground = Ground::new(Reconcile::every(RARELY));
    let engine = ground.engine().await;
    let job = engine.submit(keep()).await.unwrap();
    ground.settled(job).await;
    ground.clock.sleep(Duration::from_secs(30)).await;
    let rounds = ground.wishes.rounds();
    ground.clock.sleep(Duration::from_secs(900)).await;
    assert_eq!(ground.wishes.rounds(), rounds, "nothing happened, and there was a round");

    ground.wishes.want(["a"]);
    let before = ground.clock.monotonic();
    done(engine.command(job, Command::Wake, None).await.unwrap());
    ground.until("the wake was heard", async || ground.wishes.rounds() > rounds).await;
    let heard = ground.clock.monotonic() - before;
    assert!(heard <= Duration::from_millis(5), "{heard:?}");
    // Its end brings a round that sees that all is well.
    ground.settled(job).await;
    let rounds = ground.wishes.rounds();
    ground.clock.sleep(Duration::from_secs(1)).await;
    ground.world.lose("a");
    let before = ground.clock.monotonic();
    for _ in 0..100 {
        ground.wishes.waker().unwrap().wake();
    }
    ground.until("the signal was heard", async || ground.wishes.rounds() > rounds).await;
    assert!(ground.clock.monotonic() - before <= Duration::from_millis(5));
    ground.settled(job).await;
    assert!(ground.wishes.rounds() <= rounds + 3, "a hundred signals are one");
}

#[tokio::test(start_paused = true)]
async fn a_wake_reaches_a_job_that_another_process_coordinates_and_others_are_refused() {
    let ground = Ground::new(Reconcile::every(RARELY));
    let engine = ground.engine().await;
    let job = engine.submit(keep()).await.unwrap();
    ground.settled(job).await;
    let other = ground.engine().await;
    ground.wishes.want(["a"]);
    done(other.command(job, Command::Wake, Some("r-1".into())).await.unwrap());
    ground.settled(job).await;
    assert!(read_all(&ground.store, keys::MAIL).await.unwrap().is_empty());

    let step =
        JobRequest { kind: "step".into(), name: "s".into(), spec: json!({"steps": []}), ..JobRequest::default() };
    let step = engine.submit(step).await.unwrap();
    engine.wait(step).await.unwrap();
    let reply = engine.command(step, Command::Wake, None).await.unwrap();
    assert!(matches!(&reply, CommandReply::Refused(why) if why.contains("no standing job")), "{reply:?}");
    for undo in [Command::Undo, Command::Cancel { undo: true }] {
        let reply = engine.command(job, undo, None).await.unwrap();
        assert!(matches!(&reply, CommandReply::Refused(why) if why.contains("cannot be undone")), "{reply:?}");
    }
    done(engine.command(job, Command::Cancel { undo: false }, None).await.unwrap());
    let status = engine.wait(job).await.unwrap();
    assert_eq!((status.state, status.result), (JobState::Completed, Some(JobResult::Cancelled)));
    let reply = engine.command(job, Command::Wake, None).await.unwrap();
    assert!(matches!(&reply, CommandReply::Refused(why) if why.contains("completed")), "{reply:?}");
}

#[tokio::test(start_paused = true)]
async fn rounds_that_fail_are_told_and_tried_again_while_tasks_go_on() {
    for mood in [Mood::Fails(ErrorClass::Transient), Mood::Panics, Mood::Hangs] {
        let ground = Ground::new(Reconcile { deadline: Duration::from_secs(5), ..Reconcile::every(RARELY) });
        ground.wishes.want(names(0..3));
        let engine = ground.engine().await;
        let job = engine.submit(JobRequest { spec: json!({"takes_ms": 8_000}), ..keep() }).await.unwrap();
        ground.until("tasks run", async || ground.view(job).await.counts.running == 3).await;
        ground.wishes.mood(mood.clone());
        done(engine.command(job, Command::Wake, None).await.unwrap());
        ground.until("the tasks end", async || ground.view(job).await.counts.succeeded == 3).await;
        let failed = async || ground.view(job).await.rounds.unwrap().failures >= 4;
        ground.until("rounds fail", failed).await;
        let view = ground.view(job).await;
        assert!(view.waiting_on[0].contains("failed, the last with: "), "{:?}", view.waiting_on);
        let hangs = mood == Mood::Hangs;
        assert_eq!(view.waiting_on[0].contains("longer than 5 s"), hangs, "{:?}", view.waiting_on);
        let began = ground.wishes.rounds();
        ground.clock.sleep(Duration::from_secs(600)).await;
        assert!(ground.wishes.rounds() - began <= 12, "it is tried too often");
        let told = ground.codes(job).await.iter().filter(|code| *code == "reconcile.failed").count();
        assert_eq!(told, 1, "a failure that stays is told once");
        ground.wishes.mood(Mood::Well);
        ground.wishes.want(names(0..5));
        // A person does not wait for the next try.
        done(engine.command(job, Command::Wake, None).await.unwrap());
        if hangs {
            ground.clock.sleep(Duration::from_secs(5)).await;
            done(engine.command(job, Command::Wake, None).await.unwrap());
        }
        ground.settled(job).await;
        assert!(ground.codes(job).await.contains(&"reconcile.works".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_round_that_needs_a_person_pauses_the_job() {
    let ground = Ground::new(Reconcile::every(RARELY));
    ground.wishes.mood(Mood::Fails(ErrorClass::NeedsAttention));
    let engine = ground.engine().await;
    let job = engine.submit(keep()).await.unwrap();
    ground.until("it is paused", async || ground.view(job).await.status.state == JobState::Paused).await;
    assert!(matches!(ground.view(job).await.waits.as_slice(), [Wait::Attention { .. }]));
    ground.wishes.mood(Mood::Well);
    ground.wishes.want(["a"]);
    done(engine.command(job, Command::Resume, None).await.unwrap());
    ground.settled(job).await;
}

#[tokio::test(start_paused = true)]
async fn commands_are_answered_at_once_while_a_round_hangs() {
    let ground = Ground::new(Reconcile { deadline: RARELY, ..Reconcile::every(RARELY) });
    ground.wishes.mood(Mood::Hangs);
    let engine = ground.engine().await;
    let job = engine.submit(keep()).await.unwrap();
    ground.until("a round hangs", async || ground.wishes.rounds() == 1).await;
    let before = ground.clock.monotonic();
    done(engine.command(job, Command::Pause { until: None }, None).await.unwrap());
    ground.until("it is paused", async || ground.view(job).await.status.state == JobState::Paused).await;
    // Nothing is looked at meanwhile, however often it is woken.
    done(engine.command(job, Command::Wake, None).await.unwrap());
    ground.wishes.waker().unwrap().wake();
    assert!(ground.clock.monotonic() - before < Duration::from_millis(50));
    ground.clock.sleep(Duration::from_secs(7200)).await;
    assert_eq!(ground.wishes.rounds(), 1);
    done(engine.command(job, Command::Resume, None).await.unwrap());
    ground.until("the next round hangs", async || ground.wishes.rounds() == 2).await;
    let before = ground.clock.monotonic();
    done(engine.command(job, Command::Cancel { undo: false }, None).await.unwrap());
    assert_eq!(engine.wait(job).await.unwrap().result, Some(JobResult::Cancelled));
    let reply = engine.command(job, Command::Delete { force: true }, None).await.unwrap();
    assert!(matches!(reply, CommandReply::Deleted { .. }), "{reply:?}");
    assert!(ground.clock.monotonic() - before < Duration::from_millis(50));
    assert_eq!((ground.wishes.most_under_way(), ground.records(job).await), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_standing_job_is_deleted_by_force_in_the_middle_of_a_round() {
    let ground = Ground::new(Reconcile::every(RARELY));
    ground.wishes.mood(Mood::Hangs);
    let engine = ground.engine().await;
    let job = engine.submit(keep()).await.unwrap();
    ground.until("a round hangs", async || ground.wishes.rounds() == 1).await;
    let reply = engine.command(job, Command::Delete { force: true }, None).await.unwrap();
    assert!(matches!(reply, CommandReply::Deleted { .. }), "{reply:?}");
    ground.until("its records are gone", async || read_all(&ground.store, "job/").await.unwrap().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_was_replaced_in_the_middle_of_a_round_adds_nothing() {
    let ground = Ground::new(Reconcile::every(Duration::from_secs(5)));
    ground.world.set_weather(Weather { delay_ms: 40, ..Weather::default() });
    let hostile = HostileStore::kind(ground.store.clone(), ground.clock.clone());
    let clock = FreezableClock::shared(ground.clock.clone(), hostile.freezer().clone());
    let frozen = EngineConfig { store: Arc::new(hostile.clone()), clock, ..ground.config() };
    let first = Engine::open(frozen).await.unwrap();
    let job = first.submit(keep()).await.unwrap();
    ground.settled(job).await;
    let second = ground.engine().await;
    ground.wishes.want(names(0..20));
    // It stands still in the middle of a round that is about to add twenty tasks.
    hostile.freezer().freeze(true);
    let n = ground.wishes.rounds();
    ground.until("another one takes over", async || ground.wishes.rounds() > n + 1).await;
    ground.settled(job).await;
    hostile.freezer().freeze(false);
    ground.clock.sleep(Duration::from_secs(30)).await;
    ground.settled(job).await;
    assert_eq!(ground.view(job).await.counts.succeeded, 20);
    drop((first, second));
}

#[tokio::test(start_paused = true)]
async fn thousands_of_tasks_in_flight_are_not_doubled_and_what_is_too_many_comes_later() {
    let settings = Reconcile { most_in_flight: 600, ..Reconcile::every(Duration::from_secs(1)) };
    let ground = Ground::new(settings);
    ground.wishes.want(names(0..1_500));
    let engine = Engine::open(EngineConfig { places: 64, ..ground.config() }).await.unwrap();
    let job = engine.submit(JobRequest { spec: json!({"takes_ms": 100}), ..keep() }).await.unwrap();
    let mut most = 0;
    let there = async || {
        let counts = ground.view(job).await.counts;
        most = most.max(counts.waiting + counts.running);
        ground.clock.sleep(Duration::from_millis(500)).await;
        ground.world.things().len() == 1_500
    };
    ground.until("all are there", there).await;
    assert!((400..=600).contains(&most), "{most} were in flight");
    ground.settled(job).await;
    assert_eq!(ground.view(job).await.counts.succeeded, 1_500);
    assert!(ground.codes(job).await.len() > 1_500);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_runs_for_a_year_stays_small_and_counts_everything() {
    let settings = Reconcile { keep_ended: 20, keep_log: 100, ..Reconcile::every(RARELY) };
    let ground = Ground::new(settings);
    let mut engine = ground.engine().await;
    let job = engine.submit(keep()).await.unwrap();
    let (mut most, mut all) = (0, 0);
    for round in 0..60_u32 {
        ground.wishes.want(names(round * 10..round * 10 + 10));
        done(engine.command(job, Command::Wake, None).await.unwrap());
        ground.settled(job).await;
        all += if round == 0 { 10 } else { 20 };
        most = most.max(ground.records(job).await);
        if round % 7 == 3 {
            // The next process goes on with what the one before has counted.
            engine.shutdown().await.unwrap();
            engine = ground.engine().await;
        }
        let view = ground.view(job).await;
        assert_eq!((view.counts.succeeded, view.counts.total()), (all, all));
    }
    // Of each task: what it is, its status, its ledger; of those of the round before too.
    assert!(most < 3 * (20 + 20 + 16) + 150, "{most} records");
    let view = ground.view(job).await;
    assert!(view.tasks.len() <= 40, "{}", view.tasks.len());
    assert!(view.rounds.unwrap().pruned.succeeded > 1_100);
    let log = view::log(&ground.store, job, 0, 100_000).await.unwrap();
    assert!((100..200).contains(&log.len()) && log[0].n > 1_000, "{} from {}", log.len(), log[0].n);
    done(engine.command(job, Command::Cancel { undo: false }, None).await.unwrap());
    engine.wait(job).await.unwrap();
    done(engine.command(job, Command::retry(), None).await.unwrap());
    ground.wishes.want(["one"]);
    done(engine.command(job, Command::Wake, None).await.unwrap());
    ground.settled(job).await;
}

#[tokio::test(start_paused = true)]
async fn a_preview_shows_what_the_first_round_would_add() {
    let ground = Ground::new(Reconcile::every(RARELY));
    ground.wishes.want(names(0..7));
    let preview = Engine::preview(ground.config(), keep()).await.unwrap();
    assert_eq!((preview.would_run.len(), ground.world.things().len()), (7, 0));
    ground.wishes.mood(Mood::Fails(ErrorClass::Transient));
    let preview = Engine::preview(ground.config(), keep()).await.unwrap();
    assert_eq!(preview.status.result, Some(JobResult::Failed));
    assert!(preview.log.iter().any(|entry| entry.code == "reconcile.failed"));
}

/// The kind `step`, whose last look after an undo never comes back.
struct LooksForEver(StepKind);

#[async_trait::async_trait]
impl Kind for LooksForEver {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn about(&self) -> &'static str {
        self.0.about()
    }

    fn schema(&self) -> Value {
        self.0.schema()
    }

    fn check(&self, spec: &Value) -> Vec<SpecFault> {
        self.0.check(spec)
    }

    async fn plan(&self, cx: &PlanContext, spec: &Value) -> Result<Plan, Failure> {
        self.0.plan(cx, spec).await
    }

    fn task_types(&self) -> Vec<Arc<dyn TaskType>> {
        self.0.task_types()
    }

    async fn sweep(&self, _: &PlanContext, _: &Value, _: &[Effect]) -> Result<Vec<Leftover>, Failure> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn commands_are_answered_while_the_last_look_after_an_undo_hangs() {
    let ground = Ground::new(Reconcile::every(RARELY));
    let kinds = Kinds::new().with(LooksForEver(StepKind::new(ground.world.clone())));
    let engine = Engine::open(EngineConfig { kinds, ..ground.config() }).await.unwrap();
    let spec = json!({"steps": [{"name": "a", "makes": 1}]});
    let request = |name: &str| JobRequest { kind: "step".into(), name: name.into(), spec: spec.clone(), ..keep() };
    let job = engine.submit(request("s")).await.unwrap();
    engine.wait(job).await.unwrap();
    done(engine.command(job, Command::Undo, None).await.unwrap());
    ground.until("it is undone", async || ground.world.things().is_empty()).await;
    let before = ground.clock.monotonic();
    let reply = engine.command(job, Command::Pause { until: None }, None).await.unwrap();
    assert!(matches!(reply, CommandReply::Refused(_)), "{reply:?}");
    assert!(ground.clock.monotonic() - before < Duration::from_millis(50));
    // It is given up after ten minutes, and said so.
    assert_eq!(engine.wait(job).await.unwrap().state, JobState::UndoFailed);
    assert!(ground.clock.monotonic() - before >= Duration::from_secs(500));
    assert!(ground.codes(job).await.contains(&"job.sweep_failed".to_owned()));
    // And a job is deleted in the middle of it.
    let job = engine.submit(request("t")).await.unwrap();
    engine.wait(job).await.unwrap();
    done(engine.command(job, Command::Undo, None).await.unwrap());
    ground.until("it is undone", async || ground.world.things().is_empty()).await;
    let reply = engine.command(job, Command::Delete { force: true }, None).await.unwrap();
    assert!(matches!(reply, CommandReply::Deleted { .. }), "{reply:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_standing_job() -> Result<(), EngineError> {
    let ground = Ground::new(Reconcile::every(Duration::from_secs(1)));
    ground.wishes.want(["a"]);
    let engine = ground.engine().await;
    let job = engine.submit(JobRequest { deadline: Some(Duration::from_secs(60)), ..keep() }).await?;
    ground.settled(job).await;
    let status = engine.wait(job).await?;
    assert_eq!(status.failure.unwrap().code, "deadline_passed");
    assert!(ground.store.get(&keys::active(job)).await.unwrap().is_none());
    Ok(())
}
