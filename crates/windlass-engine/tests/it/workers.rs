//! Several workers over one store: tasks of one job on all of them, commands through the store, and what happens
//! when one of them dies, is cut off, or stands still.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use windlass_clock::{Seeded, SharedClock, SystemClock};
use windlass_engine::{Command, CommandReply, Engine, EngineConfig, EngineError, JobRequest, Kinds, view};
use windlass_model::JobId;
use windlass_model::job::{JobResult, JobState, JobStatus};
use windlass_model::task::TaskState;
use windlass_sim::hostile::{FreezableClock, HostileStore};
use windlass_sim::invariants::{self, Seen};
use windlass_sim::world::{Step, StepKind, StepSpec, Weather, World};
use windlass_store::memory::MemoryStore;
use windlass_store::{Store, read_all};

struct Cluster {
    store: MemoryStore,
    world: World,
    clock: SharedClock,
    seed: u64,
}

struct Worker {
    engine: Engine,
    store: HostileStore,
}

impl Cluster {
    fn new() -> Self {
        let clock: SharedClock = SystemClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap());
        Self { store: MemoryStore::new(clock.clone()), world: World::new(clock.clone(), 1), clock, seed: 0 }
    }

    fn kinds(&self) -> Kinds {
        Kinds::new().with(StepKind::new(self.world.clone()))
    }

    async fn start(&mut self, change: impl FnOnce(&mut EngineConfig)) -> Worker {
        self.seed += 1;
        let store = HostileStore::kind(self.store.clone(), self.clock.clone());
        let mut config = EngineConfig::new(
            Arc::new(store.clone()),
            FreezableClock::shared(self.clock.clone(), store.freezer().clone()),
            Seeded::shared(self.seed),
            self.kinds(),
            std::env::temp_dir(),
        );
        config.places = 2;
        change(&mut config);
        Worker { engine: Engine::open(config).await.unwrap(), store }
    }

    async fn worker(&mut self, name: &str) -> Worker {
        self.start(|config| config.worker_name = name.into()).await
    }

    async fn at_site(&mut self, name: &str, site: &str) -> Worker {
        self.start(|config| {
            config.worker_name = name.into();
            config.labels.insert("site".into(), site.into());
        })
        .await
    }

    async fn client(&mut self) -> Worker {
        self.start(|config| config.take_up = false).await
    }

    async fn view(&self, job: JobId) -> view::JobView {
        view::job(&self.store, &self.kinds(), job, self.clock.wall()).await.unwrap()
    }

    async fn log(&self, job: JobId) -> Vec<String> {
        let log = view::log(&self.store, job, 0, 100_000).await.unwrap();
        assert!(log.iter().map(|entry| entry.n).eq(1..=log.len() as u64), "numbers have gaps: {log:?}");
        log.into_iter().map(|entry| format!("{}: {}", entry.code, entry.message)).collect()
    }

    /// Waits until `what` is so, looking every 100 ms of the cluster's time.
    async fn until(&self, job: JobId, what: impl Fn(&view::JobView) -> bool) -> view::JobView {
        for _ in 0..6000 {
            let view = self.view(job).await;
            if what(&view) {
                return view;
            }
            self.clock.sleep(Duration::from_millis(100)).await;
        }
        panic!("it did not come to it: {:#?}", self.view(job).await);
    }

    /// Once nothing runs: nothing is left, nothing is wrong.
    async fn check_at_rest(&self) {
        let mut wrong = invariants::check(&self.store, &mut Seen::default()).await;
        wrong.extend(invariants::check_at_rest(&self.store, &self.world).await);
        assert_eq!(wrong, Vec::<String>::new());
        for entry in read_all(&self.store, "").await.unwrap() {
            let left = entry.key.starts_with("mail/") || entry.key.starts_with("answer/") || entry.key.contains("/w/");
            assert!(!left, "{} is left", entry.key);
        }
    }
}

fn request(steps: Vec<Step>) -> JobRequest {
    let spec = StepSpec { steps, exclusive: None };
    JobRequest { kind: "step".into(), name: "test".into(), spec: spec.to_json(), ..JobRequest::default() }
}

fn slow(name: impl Into<String>, makes: u32, takes_ms: u64) -> Step {
    Step { takes_ms, ..Step::new(name, makes) }
}

fn done(reply: CommandReply) -> JobStatus {
    match reply {
        CommandReply::Done(status) => *status,
        other => panic!("{other:?}"),
    }
}

fn runs_on(view: &view::JobView, task: &str, worker: &str) -> bool {
    let name = format!("step.make[{task}]");
    let task = view.tasks.iter().find(|task| task.name == name);
    task.is_some_and(|task| {
        matches!(task.status.state, TaskState::Running { .. }) && task.worker.as_deref() == Some(worker)
    })
}

#[tokio::test(start_paused = true)]
async fn tasks_of_one_job_run_on_all_workers_with_places() {
    let mut cluster = Cluster::new();
    let (a, _b, _c) = (cluster.worker("a").await, cluster.worker("b").await, cluster.worker("c").await);
    cluster.clock.sleep(Duration::from_secs(1)).await;
    let began = cluster.clock.monotonic();
    let steps = (0..30).map(|n| slow(format!("s{n}"), 2, 1_000)).collect();
    let job = a.engine.submit(request(steps)).await.unwrap();
    let busy = cluster.until(job, |view| view.counts.running == 6).await;
    let mut names: Vec<&str> = busy.tasks.iter().filter_map(|task| task.worker.as_deref()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names, busy.coordinator.as_deref()), (vec!["a", "b", "c"], Some("a")));
    let status = a.engine.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Succeeded));
    let took = cluster.clock.monotonic() - began;
    assert!(took < Duration::from_secs(8), "two places alone would take 15 s, six 5 s; it took {took:?}");
    assert_eq!((cluster.world.things().len(), cluster.world.calls()), (60, 60));
    cluster.check_at_rest().await;
    let workers = view::workers(&cluster.store).await.unwrap();
    let listed: Vec<(&str, usize, bool)> =
        workers.iter().map(|worker| (worker.name.as_str(), worker.places, worker.takes_up)).collect();
    assert_eq!(listed, [("a", 2, true), ("b", 2, true), ("c", 2, true)]);
    assert!(workers[0].task_types.contains("step.make") && workers[0].pid > 0);
    cluster.log(job).await;
}

#[tokio::test(start_paused = true)]
async fn one_process_alone_uses_none_of_the_keys_for_several() {
    let mut cluster = Cluster::new();
    let a = cluster.worker("a").await;
    let steps = (0..10).map(|n| Step::new(format!("s{n}"), 1)).collect();
    let before = cluster.store.revision().await.unwrap();
    let job = a.engine.submit(request(steps)).await.unwrap();
    a.engine.wait(job).await.unwrap();
    let mut changes = cluster.store.watch("", before).await.unwrap();
    let mut seen = 0;
    // The job's end deletes its mark.
    loop {
        let next = changes.next().await.unwrap();
        for change in &next {
            let key = &change.key;
            assert!(!key.starts_with("mail/") && !key.starts_with("answer/") && !key.contains("/w/"), "{key}");
            seen += 1;
        }
        if next.iter().any(|change| change.key.starts_with("active/") && change.entry.is_none()) {
            break;
        }
    }
    assert!(seen > 40, "{seen} changes were looked at");
}

#[tokio::test(start_paused = true)]
async fn a_client_submits_and_commands_and_workers_do_it() {
    let mut cluster = Cluster::new();
    let client = cluster.client().await;
    let job = client.engine.submit(request(vec![slow("a", 2, 20_000), Step::new("b", 1).requires("a")])).await.unwrap();
    let alone = client.engine.command(job, Command::Cancel { undo: false }, None).await;
    assert!(matches!(alone, Err(EngineError::NoWorker { .. })), "{alone:?}");
    assert!(read_all(&cluster.store, "mail/").await.unwrap().is_empty(), "what nobody took is withdrawn");
    let _worker = cluster.worker("w").await;
    cluster.until(job, |view| runs_on(view, "a", "w")).await;
    let pause = Command::Pause { until: None };
    let status = done(client.engine.command(job, pause.clone(), Some("p1".into())).await.unwrap());
    assert_eq!(status.state, JobState::Pausing);
    let again = done(client.engine.command(job, pause, Some("p1".into())).await.unwrap());
    assert!(matches!(again.state, JobState::Pausing | JobState::Paused), "the same request has no second effect");
    cluster.until(job, |view| view.status.state == JobState::Paused).await;
    let refused = client.engine.command(job, Command::Undo, None).await.unwrap();
    assert!(matches!(refused, CommandReply::Refused(why) if why.contains("paused")));
    done(client.engine.command(job, Command::Resume, None).await.unwrap());
    assert_eq!(client.engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
    // At rest nobody coordinates it; whoever is there takes the command up.
    done(client.engine.command(job, Command::Undo, None).await.unwrap());
    assert_eq!(client.engine.wait(job).await.unwrap().state, JobState::Finished);
    assert_eq!(cluster.world.things(), Vec::<String>::new());
    let missing = client.engine.command(JobId::from_bits(7), Command::Resume, None).await;
    assert!(matches!(missing, Err(EngineError::NoSuchJob(_))));
    cluster.clock.sleep(Duration::from_secs(1)).await;
    cluster.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_waits_for_a_worker_with_its_labels_and_the_view_says_so() {
    let mut cluster = Cluster::new();
    let a = cluster.at_site("a", "a").await;
    let steps =
        vec![Step::new("here", 1), Step::new("there", 1).needs("site", "b"), Step::new("end", 1).requires("there")];
    let job = a.engine.submit(request(steps)).await.unwrap();
    let stuck = cluster.until(job, |view| view.counts.succeeded == 1).await;
    let there = stuck.tasks.iter().find(|task| task.name.contains("there")).unwrap();
    assert_eq!(there.waiting_on, ["a worker for type step.make with site=b: none is present"]);
    let _b = cluster.at_site("b", "b").await;
    let status = a.engine.wait(job).await.unwrap();
    assert_eq!(status.result, Some(JobResult::Succeeded));
    // Undoing has the same needs.
    done(a.engine.command(job, Command::Undo, None).await.unwrap());
    assert_eq!(a.engine.wait(job).await.unwrap().state, JobState::Finished);
    assert_eq!(cluster.world.things(), Vec::<String>::new());
    cluster.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_whose_worker_dies_goes_on_elsewhere_in_the_next_epoch() {
    let mut cluster = Cluster::new();
    cluster.world.set_weather(Weather { delay_ms: 2_000, ..Weather::default() });
    let (a, b) = (cluster.at_site("a", "a").await, cluster.at_site("b", "b").await);
    let job = a.engine.submit(request(vec![Step::new("x", 10).needs("site", "b")])).await.unwrap();
    cluster.until(job, |view| runs_on(view, "x", "b") && view.tasks[0].effects.len() > 2).await;
    drop(b);
    let _c = cluster.at_site("c", "b").await;
    assert_eq!(a.engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
    let view = cluster.view(job).await;
    assert_eq!((view.tasks[0].status.epoch.0, view.tasks[0].status.deaths), (2, 1));
    assert_eq!((cluster.world.things().len(), cluster.world.faults()), (10, vec![]));
    let log = cluster.log(job).await;
    assert!(log.iter().any(|line| line.contains("the worker b that ran step.make[x] in epoch 1 is gone")), "{log:?}");
    cluster.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_outlives_the_coordinator_of_its_job() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.at_site("a", "a").await, cluster.at_site("b", "b").await);
    let steps = vec![
        slow("short", 1, 5_000).needs("site", "b"),
        slow("long", 3, 60_000).needs("site", "b"),
        slow("own", 1, 60_000).needs("site", "a"),
    ];
    let job = a.engine.submit(request(steps)).await.unwrap();
    cluster
        .until(job, |view| runs_on(view, "long", "b") && runs_on(view, "short", "b") && runs_on(view, "own", "a"))
        .await;
    drop(a);
    // "short" ends while nobody coordinates the job.
    cluster.until(job, |view| view.coordinator.as_deref() == Some("b")).await;
    let _c = cluster.at_site("c", "a").await;
    assert_eq!(b.engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
    let view = cluster.view(job).await;
    let epochs: BTreeMap<&str, u64> = view.tasks.iter().map(|task| (task.name.as_str(), task.status.epoch.0)).collect();
    assert_eq!(epochs["step.make[short]"], 1);
    assert_eq!(epochs["step.make[long]"], 1, "it went on under the next coordinator");
    assert_eq!(epochs["step.make[own]"], 2, "it died with its process");
    assert_eq!((cluster.world.things().len(), cluster.world.calls()), (5, 5));
    cluster.log(job).await;
    cluster.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_frozen_worker_still_writes_is_refused_and_the_effect_is_made_once() {
    for coordinates in [false, true] {
        let mut cluster = Cluster::new();
        cluster.world.set_weather(Weather { delay_ms: 3_000, ..Weather::default() });
        let (a, b) = (cluster.at_site("a", "a").await, cluster.at_site("b", "b").await);
        let c = cluster.at_site("c", "b").await;
        let from = if coordinates { &b } else { &a };
        let job = from.engine.submit(request(vec![Step::new("x", 6).needs("site", "b")])).await.unwrap();
        let view = cluster.until(job, |view| view.tasks[0].effects.len() > 2).await;
        let (frozen, other) = if runs_on(&view, "x", "b") { (&b, "c") } else { (&c, "b") };
        // In the middle of a call to the outside: it arrives, the answer does not.
        frozen.store.freezer().freeze(true);
        let after = cluster.until(job, |view| runs_on(view, "x", other)).await;
        assert_eq!(after.tasks[0].status.epoch.0, 2);
        frozen.store.freezer().freeze(false);
        assert_eq!(a.engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
        assert_eq!((cluster.world.things().len(), cluster.world.calls()), (6, 6), "each was made once");
        assert_eq!(cluster.world.faults(), Vec::<String>::new());
        let view = cluster.view(job).await;
        assert_eq!((view.tasks[0].status.epoch.0, view.tasks[0].status.attempts.len()), (2, 2));
        cluster.clock.sleep(Duration::from_secs(5)).await;
        let log = cluster.log(job).await;
        let told = log.iter().filter(|line| line.starts_with("task.late_write")).count();
        assert_eq!(told, 1, "{log:#?}");
        cluster.check_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_cut_off_stops_before_another_takes_its_task() {
    let mut cluster = Cluster::new();
    cluster.world.set_weather(Weather { delay_ms: 1_000, ..Weather::default() });
    let (a, b) = (cluster.at_site("a", "a").await, cluster.at_site("b", "b").await);
    let job = a.engine.submit(request(vec![Step::new("x", 40).needs("site", "b")])).await.unwrap();
    cluster.until(job, |view| runs_on(view, "x", "b") && view.tasks[0].effects.len() > 2).await;
    b.store.cut_off(true);
    let _c = cluster.at_site("c", "b").await;
    cluster.until(job, |view| runs_on(view, "x", "c")).await;
    b.store.cut_off(false);
    assert_eq!(a.engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
    assert_eq!((cluster.world.calls(), cluster.world.faults()), (40, vec![]));
    cluster.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn cancel_and_pause_reach_a_task_on_another_worker_within_a_second() {
    let mut cluster = Cluster::new();
    let (a, _b) = (cluster.at_site("a", "a").await, cluster.at_site("b", "b").await);
    let steps = (0..8).map(|n| slow(format!("s{n}"), 1, 3_600_000).needs("site", "b")).collect();
    let job = a.engine.submit(request(steps)).await.unwrap();
    cluster.until(job, |view| view.counts.running == 2).await;
    done(a.engine.command(job, Command::Pause { until: None }, None).await.unwrap());
    cluster.clock.sleep(Duration::from_secs(1)).await;
    let view = cluster.view(job).await;
    assert_eq!((view.status.state, view.counts.running, view.counts.waiting), (JobState::Paused, 0, 8));
    assert!(view.tasks.iter().all(|task| task.status.failures == 0), "stopping on request is no failure");
    done(a.engine.command(job, Command::Resume, None).await.unwrap());
    cluster.until(job, |view| view.counts.running == 2).await;
    done(a.engine.command(job, Command::Cancel { undo: true }, None).await.unwrap());
    let began = cluster.clock.monotonic();
    let status = a.engine.wait(job).await.unwrap();
    assert!(cluster.clock.monotonic() - began < Duration::from_secs(1));
    assert_eq!((status.state, status.result), (JobState::Finished, Some(JobResult::Cancelled)));
    cluster.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_shuts_down_gives_its_tasks_back_without_a_failure() {
    let mut cluster = Cluster::new();
    cluster.world.set_weather(Weather { delay_ms: 1_000, ..Weather::default() });
    let (a, b) = (cluster.at_site("a", "a").await, cluster.at_site("b", "b").await);
    let job = a.engine.submit(request(vec![Step::new("x", 30).needs("site", "b")])).await.unwrap();
    cluster.until(job, |view| runs_on(view, "x", "b") && view.tasks[0].effects.len() > 2).await;
    b.engine.shutdown().await.unwrap();
    let _c = cluster.at_site("c", "b").await;
    assert_eq!(a.engine.wait(job).await.unwrap().result, Some(JobResult::Succeeded));
    let view = cluster.view(job).await;
    let status = &view.tasks[0].status;
    assert_eq!((status.epoch.0, status.failures, status.deaths), (2, 0, 0));
    assert_eq!((cluster.world.calls(), cluster.world.faults()), (30, vec![]));
    cluster.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn tasks_on_other_workers_fail_add_tasks_and_hand_over_outputs_as_here() {
    let mut cluster = Cluster::new();
    let (a, _b) = (cluster.at_site("a", "a").await, cluster.at_site("b", "b").await);
    let many = (0..300).map(|n| Step::new(format!("x{n}"), 1).requires("root")).collect();
    let steps = vec![
        Step { adds: many, ..Step::new("root", 2) }.needs("site", "b"),
        Step::new("next", 1).requires("root").needs("site", "b"),
        Step { fails: true, ..Step::new("bad", 1) }.needs("site", "b"),
        Step::new("after-bad", 1).requires("bad"),
    ];
    let job = a.engine.submit(request(steps)).await.unwrap();
    assert_eq!(a.engine.wait(job).await.unwrap().result, Some(JobResult::Partial));
    let view = cluster.view(job).await;
    assert_eq!((view.counts.succeeded, view.counts.failed, view.counts.ignored), (302, 1, 1));
    assert_eq!(cluster.world.things().len(), 304);
    cluster.log(job).await;
    done(a.engine.command(job, Command::Undo, None).await.unwrap());
    assert_eq!(a.engine.wait(job).await.unwrap().state, JobState::Finished);
    assert_eq!(cluster.world.things(), Vec::<String>::new());
    cluster.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_kills_its_workers_is_given_up() {
    let mut cluster = Cluster::new();
    let a = cluster.at_site("a", "a").await;
    let job = a.engine.submit(request(vec![slow("x", 1, 3_600_000).needs("site", "b")])).await.unwrap();
    // The step's own limit is 20 deaths.
    for n in 0..20 {
        let b = cluster.at_site("b", "b").await;
        cluster.until(job, |view| runs_on(view, "x", "b") && view.tasks[0].status.epoch.0 == n + 1).await;
        drop(b);
        cluster.until(job, |view| view.tasks[0].status.claim().is_none()).await;
    }
    assert_eq!(a.engine.wait(job).await.unwrap().result, Some(JobResult::Failed));
    let log = cluster.log(job).await;
    assert!(log.iter().any(|line| line.starts_with("task.poisoned")), "{log:?}");
    cluster.check_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_waiting_tasks_on_three_workers_cost_next_to_nothing() {
    let mut cluster = Cluster::new();
    let (a, b, c) = (cluster.at_site("a", "a").await, cluster.at_site("b", "b").await, cluster.at_site("c", "c").await);
    // One task runs for an hour, some wait for it, some for a worker that is not there.
    let mut steps = vec![slow("long", 0, 3_600_000).needs("site", "b")];
    steps.extend((0..500).map(|n| Step::new(format!("d{n}"), 1).requires("long")));
    steps.extend((0..500).map(|n| Step::new(format!("n{n}"), 1).needs("site", "nowhere")));
    let job = a.engine.submit(request(steps)).await.unwrap();
    cluster.until(job, |view| runs_on(view, "long", "b")).await;
    cluster.clock.sleep(Duration::from_secs(20)).await;
    let calls = || a.store.calls() + b.store.calls() + c.store.calls();
    let before = calls();
    cluster.clock.sleep(Duration::from_secs(60)).await;
    let spent = calls() - before;
    println!("1 000 waiting tasks, three workers: {spent} store calls in 60 s ({:.2} per second)", spent as f64 / 60.0);
    // 36 keep three leases; the rest are the listings every 30 s of what each engine follows, and one look for old jobs.
    assert!(spent <= 130, "{spent} calls in 60 s");
}
