//! Seeded runs of the real engine against a hostile store and a hostile world.
//!
//! One seed decides everything: the jobs, when people give which command, which process crashes, is cut off or
//! comes back, how long each call takes and what becomes of it. Time is simulated, so a run of many minutes
//! takes milliseconds, and the same seed gives the same run. After each step the invariants are checked; at the
//! end everything is mended, and all jobs must come to rest with the world exactly as the ledgers say.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use windlass_clock::{Clock, Entropy, Seeded, SharedClock, SystemClock};
use windlass_engine::{Command, Engine, EngineConfig, JobRequest, Kinds};
use windlass_model::JobId;
use windlass_store::memory::MemoryStore;
use windlass_store::{keys, read_all};

use crate::hostile::{FreezableClock, HostileStore, Hostility, Sabotage};
use crate::invariants::{self, Seen};
use crate::world::{Mistake, Step, StepKind, StepSpec, Weather, World};

/// What a run is made of besides its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scenario {
    /// A protection that is missing.
    pub sabotage: Sabotage,
    /// A mistake in the task type.
    pub mistake: Mistake,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// What was wrong; empty when nothing was.
    pub wrong: Vec<String>,
    /// What happened, one line each: for comparing two runs and for reading.
    pub history: String,
}

struct Process {
    engine: Engine,
    store: HostileStore,
    cut_off: bool,
    frozen: bool,
}

struct Harness {
    seed: u64,
    scenario: Scenario,
    dice: Seeded,
    clock: Arc<SystemClock>,
    store: MemoryStore,
    world: World,
    hostility: Hostility,
    processes: Vec<Option<Process>>,
    jobs: Vec<JobId>,
    history: String,
    started: u64,
    /// Whether processes are frozen. Not together with calls that take longer than a lease: nothing protects a
    /// target that checks neither tokens nor preconditions from a request that is on its way that long.
    freezes: bool,
}

/// Runs one seed.
///
/// # Panics
///
/// When no runtime can be made.
#[must_use]
pub fn run(seed: u64, scenario: Scenario) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without input and output can be made");
    runtime.block_on(async {
        let mut harness = Harness::new(seed, scenario);
        let wrong = harness.live().await;
        Run { seed, wrong, history: harness.history }
    })
}

impl Harness {
    fn new(seed: u64, scenario: Scenario) -> Self {
        let start = "2026-01-01T00:00:00Z".parse().unwrap_or_default();
        let clock = SystemClock::starting_at(start);
        let shared: SharedClock = clock.clone();
        let dice = Seeded::new(seed);
        let calm = dice.next_u64().is_multiple_of(4);
        let hostility = if calm {
            Hostility { delay_ms: 5, ..Hostility::default() }
        } else {
            Hostility {
                delay_ms: 1 + dice.next_u64() % 60,
                unavailable: 0.03,
                unconfirmed: 0.02,
                lost: 0.02,
                late: 0.02,
            }
        };
        Self {
            seed,
            scenario,
            store: MemoryStore::new(shared.clone()),
            world: World::new(shared, seed ^ 0x5eed),
            clock,
            dice,
            hostility,
            processes: (0..3).map(|_| None).collect(),
            jobs: Vec::new(),
            history: String::new(),
            started: 0,
            freezes: false,
        }
    }

    fn note(&mut self, what: &str) {
        let _ = writeln!(self.history, "{:>8} ms  {what}", self.clock.monotonic().as_millis());
    }

    fn pick(&self, n: u64) -> u64 {
        self.dice.next_u64() % n.max(1)
    }

    async fn live(&mut self) -> Vec<String> {
        let shared: SharedClock = self.clock.clone();
        self.freezes = self.pick(2) == 0;
        self.world.set_weather(Weather {
            delay_ms: 1 + self.pick(400),
            slow: if self.pick(2) == 0 && !self.freezes { 0.1 } else { 0.0 },
            refused: if self.pick(2) == 0 { 0.1 } else { 0.0 },
            lost_answers: if self.pick(2) == 0 { 0.1 } else { 0.0 },
        });
        let mut seen = Seen::default();
        let steps = 25 + self.pick(30);
        for _ in 0..steps {
            self.act().await;
            shared.sleep(Duration::from_millis(self.pick(4_000))).await;
            let wrong = invariants::check(&self.store, &mut seen).await;
            if !wrong.is_empty() {
                return wrong;
            }
            if !self.world.faults().is_empty() {
                return self.world.faults();
            }
        }
        let gone = self.mend().await;
        if !gone.is_empty() {
            return gone;
        }
        for _ in 0..600 {
            shared.sleep(Duration::from_secs(2)).await;
            let wrong = invariants::check(&self.store, &mut seen).await;
            if !wrong.is_empty() {
                return wrong;
            }
            if read_all(&self.store, keys::ACTIVE).await.is_ok_and(|active| active.is_empty()) {
                break;
            }
        }
        self.note("at rest");
        invariants::check_at_rest(&self.store, &self.world).await
    }

    async fn start(&mut self, n: usize) {
        self.started += 1;
        let shared: SharedClock = self.clock.clone();
        let seed = self.seed.wrapping_mul(1_000_003) ^ self.started;
        let store = HostileStore::new(
            self.store.clone(),
            shared.clone(),
            Seeded::shared(seed),
            self.hostility,
            self.scenario.sabotage,
        );
        let kinds = Kinds::new().with(StepKind::with_mistake(self.world.clone(), self.scenario.mistake));
        let mut config = EngineConfig::new(
            Arc::new(store.clone()),
            FreezableClock::shared(shared, store.freezer().clone()),
            Seeded::shared(!seed),
            kinds,
            std::path::PathBuf::from("/nonexistent"),
        );
        config.places = 1 + usize::try_from(self.pick(6)).unwrap_or(0);
        config.worker_name = format!("process-{n}");
        config.labels.insert("process".into(), n.to_string());
        // A process whose store is away at the start is simply not there yet.
        if let Ok(engine) = Engine::open(config).await {
            self.note(&format!("process {n} starts"));
            self.processes[n] = Some(Process { engine, store, cut_off: false, frozen: false });
        }
    }

    async fn act(&mut self) {
        let n = usize::try_from(self.pick(3)).unwrap_or(0);
        match (self.pick(13), self.processes[n].is_some()) {
            (12, true) if self.freezes => {
                if let Some(process) = &mut self.processes[n] {
                    process.frozen = !process.frozen;
                    process.store.freezer().freeze(process.frozen);
                    let what = if process.frozen { "is frozen" } else { "goes on" };
                    self.note(&format!("process {n} {what}"));
                }
            }
            (_, false) => self.start(n).await,
            (0 | 1, true) => {
                self.note(&format!("process {n} crashes"));
                self.processes[n] = None;
            }
            (2 | 3, true) => {
                if let Some(process) = &mut self.processes[n] {
                    process.cut_off = !process.cut_off;
                    process.store.cut_off(process.cut_off);
                    let what = if process.cut_off { "is cut off" } else { "is back" };
                    self.note(&format!("process {n} {what}"));
                }
            }
            (4, true) => {
                let jump = i64::try_from(self.pick(600_000)).unwrap_or(0) - 300_000;
                self.clock.jump_wall(jump);
                self.note(&format!("the wall clock jumps by {jump} ms"));
            }
            (5, true) => {
                self.store.compact();
                self.note("the store forgets its history");
            }
            (6..=8, true) => self.command(n).await,
            (_, true) => self.submit(n).await,
        }
    }

    async fn submit(&mut self, n: usize) {
        let count = 1 + self.pick(8);
        let mut steps = Vec::new();
        for i in 0..count {
            let mut step = Step::new(format!("s{i}"), u32::try_from(self.pick(4)).unwrap_or(0));
            for other in 0..i {
                match self.pick(6) {
                    0 => step.requires.push(format!("s{other}")),
                    1 => step.after.push(format!("s{other}")),
                    _ => {}
                }
            }
            step.after.retain(|name| !step.requires.contains(name));
            step.fails = self.pick(15) == 0;
            if self.pick(4) == 0 {
                step.needs.insert("process".into(), self.pick(3).to_string());
            }
            step.takes_ms = if self.pick(3) == 0 { self.pick(5_000) } else { 0 };
            if self.pick(8) == 0 {
                step.adds = (0..1 + self.pick(40)).map(|x| Step::new(format!("{}x{x}", step.name), 1)).collect();
            }
            steps.push(step);
        }
        let exclusive = (self.pick(4) == 0).then(|| "only-one".to_owned());
        let request = JobRequest {
            kind: "step".into(),
            name: format!("job{}", self.jobs.len()),
            spec: StepSpec { steps, exclusive }.to_json(),
            deadline: (self.pick(10) == 0).then(|| Duration::from_secs(1 + self.pick(60))),
            ..JobRequest::default()
        };
        let shared: SharedClock = self.clock.clone();
        let Some(process) = &self.processes[n] else { return };
        // A person does not wait for ever either.
        let answer = windlass_clock::deadline(&*shared, Duration::from_secs(5), process.engine.submit(request)).await;
        if let Ok(Ok(job)) = answer {
            // Promise 1: an acknowledged job is in the store, whatever happens now.
            self.jobs.push(job);
            self.note(&format!("job {job} is submitted to process {n}"));
        }
    }

    async fn command(&mut self, n: usize) {
        if self.jobs.is_empty() {
            return;
        }
        let job = self.jobs[usize::try_from(self.pick(self.jobs.len() as u64)).unwrap_or(0)];
        let command = match self.pick(8) {
            0 => Command::Pause { until: None },
            1 | 2 => Command::Resume,
            3 => Command::Cancel { undo: self.pick(2) == 0 },
            4 | 5 => Command::Undo,
            6 => Command::Confirm,
            _ => Command::retry(),
        };
        let shared: SharedClock = self.clock.clone();
        let Some(process) = &self.processes[n] else { return };
        let call = process.engine.command(job, command.clone(), None);
        let answer = windlass_clock::deadline(&*shared, Duration::from_secs(5), call).await;
        let answer = match answer {
            Ok(Ok(windlass_engine::CommandReply::Done(status))) => status.state.as_str().to_owned(),
            Ok(Ok(windlass_engine::CommandReply::Refused(_))) => "refused".to_owned(),
            Ok(Ok(windlass_engine::CommandReply::Deleted { .. })) => "deleted".to_owned(),
            Ok(Err(_)) => "failed".to_owned(),
            Err(_) => "no answer".to_owned(),
        };
        self.note(&format!("{command:?} of {job} at process {n}: {answer}"));
    }

    /// Ends the hostility: what is left to do must now be done. Returns what is gone that was acknowledged.
    async fn mend(&mut self) -> Vec<String> {
        self.note("everything is mended");
        for process in &mut self.processes {
            *process = None;
        }
        self.hostility = Hostility::default();
        self.world.set_weather(Weather { delay_ms: 10, ..Weather::default() });
        for n in 0..3 {
            self.start(n).await;
        }
        // Leases of the processes that are gone run out; then paused jobs wait for a person: here is one.
        let shared: SharedClock = self.clock.clone();
        shared.sleep(Duration::from_secs(60)).await;
        for job in self.jobs.clone() {
            if let Some(process) = &self.processes[0] {
                let _ = process.engine.command(job, Command::Resume, None).await;
            }
        }
        let stored = invariants::submitted(&self.store).await;
        let gone = self.jobs.iter().filter(|job| !stored.contains(job));
        gone.map(|job| format!("promise 1: job {job} was acknowledged and is gone")).collect()
    }
}

/// The command that runs one seed again.
#[must_use]
pub fn replay_command(seed: u64) -> String {
    format!("WINDLASS_SEED={seed} cargo test -p windlass-sim --test it -- simulation --nocapture")
}
