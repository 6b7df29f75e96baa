//! Standing jobs in random weather: processes crash, freeze, are cut off; the store is slow and silent; what is wanted
//! changes, things get lost, the job is paused, woken and resumed. Whatever happens, no two tasks are about the same
//! thing, nothing is made that is there, what is kept stays small; and once everything is mended, exactly what is wanted
//! is there.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use windlass_clock::{Clock, Entropy, Seeded, SharedClock, SystemClock};
use windlass_engine::{Command, CommandReply, Engine, EngineConfig, JobRequest, Kinds, Reconcile, view};
use windlass_model::job::JobState;
use windlass_model::{ErrorClass, JobId};
use windlass_store::memory::MemoryStore;
use windlass_store::{keys, read_all};

use crate::hostile::{FreezableClock, HostileStore, Hostility, Sabotage};
use crate::invariants::{self, Seen};
use crate::keeper::{KeepKind, Mood, Wishes};
use crate::simulation::Run;
use crate::world::{Weather, World};

/// Things that may be wanted.
const THINGS: u64 = 24;
/// Ended tasks that are kept.
const KEPT: usize = 12;
/// Log entries that are kept.
const LOGGED: u64 = 60;

struct Process {
    engine: Engine,
    store: HostileStore,
    cut_off: bool,
    frozen: bool,
}

struct Harness {
    seed: u64,
    sabotage: Sabotage,
    dice: Seeded,
    clock: Arc<SystemClock>,
    store: MemoryStore,
    world: World,
    wishes: Wishes,
    hostility: Hostility,
    processes: Vec<Option<Process>>,
    started: u64,
    job: Option<JobId>,
    history: String,
}

/// Runs one seed.
///
/// # Panics
///
/// When no runtime can be made.
#[must_use]
pub fn run(seed: u64, sabotage: Sabotage) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without input and output can be made");
    runtime.block_on(async {
        let clock = SystemClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap_or_default());
        let shared: SharedClock = clock.clone();
        let dice = Seeded::new(seed);
        let mut harness = Harness {
            seed,
            sabotage,
            store: MemoryStore::new(shared.clone()),
            world: World::new(shared, seed ^ 0x5eed),
            clock,
            wishes: Wishes::default(),
            hostility: Hostility {
                delay_ms: 1 + dice.next_u64() % 40,
                unavailable: 0.02,
                unconfirmed: 0.02,
                lost: 0.01,
                late: 0.01,
            },
            dice,
            processes: (0..3).map(|_| None).collect(),
            started: 0,
            job: None,
            history: String::new(),
        };
        let wrong = harness.live().await;
        Run { seed, wrong, history: harness.history }
    })
}

/// The command that runs one seed again.
#[must_use]
pub fn replay_command(seed: u64) -> String {
    format!("WINDLASS_SEED={seed} cargo test -p windlass-sim --test it -- standing --nocapture")
}

impl Harness {
    fn note(&mut self, what: &str) {
        let _ = writeln!(self.history, "{:>9} ms  {what}", self.clock.monotonic().as_millis());
    }

    fn pick(&self, n: u64) -> u64 {
        self.dice.next_u64() % n.max(1)
    }

    async fn live(&mut self) -> Vec<String> {
        self.world.set_weather(Weather { delay_ms: 300, slow: 0.0, refused: 0.05, lost_answers: 0.05 });
        let mut seen = Seen::default();
        for _ in 0..40 + self.pick(40) {
            self.act().await;
            self.clock.sleep(Duration::from_millis(self.pick(4_000))).await;
            let wrong = self.wrong(&mut seen).await;
            if !wrong.is_empty() {
                return wrong;
            }
        }
        self.mend().await;
        for _ in 0..300 {
            self.clock.sleep(Duration::from_secs(1)).await;
            let wrong = self.wrong(&mut seen).await;
            if !wrong.is_empty() {
                return wrong;
            }
            if self.world.things() == self.wishes.wanted() {
                break;
            }
        }
        // Nothing more happens by itself, and what is kept is as small as it shall be.
        self.clock.sleep(Duration::from_secs(30)).await;
        let calls = self.world.calls();
        self.clock.sleep(Duration::from_secs(120)).await;
        let mut wrong = self.wrong(&mut seen).await;
        wrong.extend(self.at_rest(calls).await);
        wrong
    }

    async fn wrong(&self, seen: &mut Seen) -> Vec<String> {
        let mut wrong = invariants::check(&self.store, seen).await;
        wrong.extend(self.world.faults());
        wrong
    }

    async fn at_rest(&self, calls: u64) -> Vec<String> {
        let mut wrong = Vec::new();
        let (things, wanted) = (self.world.things(), self.wishes.wanted());
        if things != wanted {
            wrong.push(format!("standing: {wanted:?} is wanted, {things:?} is there"));
        }
        if self.world.calls() != calls {
            wrong.push("standing: something is still done although all is well".to_owned());
        }
        let Some(job) = self.job else { return wrong };
        let count = async |prefix: String| read_all(&self.store, &prefix).await.map_or(0, |entries| entries.len());
        let (tasks, statuses) = (count(keys::tasks(job)).await, count(keys::statuses(job)).await);
        let (effects, log) = (count(keys::effects(job)).await, count(keys::logs(job)).await);
        let small = tasks <= KEPT && statuses <= tasks && effects <= tasks;
        if !small || log as u64 > LOGGED + 60 {
            wrong.push(format!(
                "bounded: {tasks} tasks, {statuses} statuses, {effects} effects, {log} log entries are kept"
            ));
        }
        wrong
    }

    async fn start(&mut self, n: usize) {
        self.started += 1;
        let shared: SharedClock = self.clock.clone();
        let seed = self.seed.wrapping_mul(1_000_003) ^ self.started;
        let (store, dice) = (self.store.clone(), Seeded::shared(seed));
        let store = HostileStore::new(store, shared.clone(), dice, self.hostility, self.sabotage);
        let settings = Reconcile {
            keep_ended: KEPT,
            keep_log: LOGGED,
            deadline: Duration::from_secs(10),
            ..Reconcile::every(Duration::from_secs(20))
        };
        let kinds = Kinds::new().with(KeepKind::new(self.world.clone(), self.wishes.clone(), settings));
        let clock = FreezableClock::shared(shared, store.freezer().clone());
        let folder = std::path::PathBuf::from("/nonexistent");
        let mut config = EngineConfig::new(Arc::new(store.clone()), clock, Seeded::shared(!seed), kinds, folder);
        config.places = 1 + usize::try_from(self.pick(4)).unwrap_or(0);
        config.worker_name = format!("process-{n}");
        if let Ok(engine) = Engine::open(config).await {
            self.note(&format!("process {n} starts"));
            self.processes[n] = Some(Process { engine, store, cut_off: false, frozen: false });
        }
    }

    async fn act(&mut self) {
        let n = usize::try_from(self.pick(3)).unwrap_or(0);
        if self.processes[n].is_none() {
            return self.start(n).await;
        }
        if self.job.is_none() {
            return self.submit(n).await;
        }
        match self.pick(14) {
            0 => {
                self.note(&format!("process {n} crashes"));
                self.processes[n] = None;
            }
            1 | 2 => {
                if let Some(process) = &mut self.processes[n] {
                    process.cut_off = !process.cut_off;
                    process.store.cut_off(process.cut_off);
                    let what = if process.cut_off { "is cut off" } else { "is back" };
                    self.note(&format!("process {n} {what}"));
                }
            }
            3 | 4 => {
                if let Some(process) = &mut self.processes[n] {
                    process.frozen = !process.frozen;
                    process.store.freezer().freeze(process.frozen);
                    let what = if process.frozen { "is frozen" } else { "goes on" };
                    self.note(&format!("process {n} {what}"));
                }
            }
            5 => {
                let mood = match self.pick(4) {
                    0 => Mood::Fails(ErrorClass::Transient),
                    1 => Mood::Hangs,
                    _ => Mood::Well,
                };
                self.note(&format!("rounds are in this mood: {mood:?}"));
                self.wishes.mood(mood);
            }
            6..=9 => {
                let wanted: Vec<String> =
                    (0..THINGS).filter(|_| self.pick(2) == 0).map(|n| format!("thing-{n:02}")).collect();
                self.note(&format!("{} things are wanted", wanted.len()));
                self.wishes.want(wanted);
            }
            10 => self.store.compact(),
            11 => self.command(n, Command::Pause { until: None }).await,
            12 => self.command(n, Command::Resume).await,
            _ => self.command(n, Command::Wake).await,
        }
    }

    async fn submit(&mut self, n: usize) {
        let spec = json!({"takes_ms": self.pick(1_500)});
        let request = JobRequest { kind: "keep".into(), name: "keep".into(), spec, ..JobRequest::default() };
        let Some(process) = &self.processes[n] else { return };
        let submit = process.engine.submit(request);
        let answer = windlass_clock::deadline(&*self.clock, Duration::from_secs(5), submit).await;
        // One that was stored although nobody said so is as good.
        let stored = invariants::submitted(&self.store).await;
        self.job = answer.ok().and_then(Result::ok).or_else(|| stored.first().copied());
        if self.job.is_some() {
            self.note("the job is submitted");
        }
    }

    async fn command(&mut self, n: usize, command: Command) {
        let (Some(process), Some(job)) = (&self.processes[n], self.job) else { return };
        let call = process.engine.command(job, command.clone(), None);
        let answer = windlass_clock::deadline(&*self.clock, Duration::from_secs(5), call).await;
        let answer = match answer {
            Ok(Ok(CommandReply::Done(status))) => status.state.as_str(),
            Ok(Ok(_)) => "refused",
            Ok(Err(_)) => "failed",
            Err(_) => "no answer",
        };
        self.note(&format!("{} at process {n}: {answer}", command.name()));
    }

    /// Ends the hostility, and lets the job go on if it is paused.
    async fn mend(&mut self) {
        self.note("everything is mended");
        self.processes.iter_mut().for_each(|process| *process = None);
        self.hostility = Hostility::default();
        self.wishes.mood(Mood::Well);
        self.world.set_weather(Weather { delay_ms: 10, ..Weather::default() });
        for n in 0..3 {
            self.start(n).await;
        }
        if self.job.is_none() {
            self.submit(0).await;
        }
        self.clock.sleep(Duration::from_secs(90)).await;
        let Some(job) = self.job else { return };
        let state = view::status(&self.store, job).await.map(|status| status.state);
        if matches!(state, Ok(JobState::Paused | JobState::Pausing)) {
            self.command(0, Command::Resume).await;
        }
    }
}
