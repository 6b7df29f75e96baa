//! Many jobs that share few resources, in random rounds: created, failing, cancelled, undone, confirmed, deleted by
//! force, their processes killed. In the end a resource exists if and only if a job needs it that is not finished or
//! that was confirmed.
//!
//! What a job that was deleted by force has left outside is nobody's: such a resource may be there until somebody
//! makes, and thereby adopts, it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use windlass_clock::{Entropy, Seeded, SharedClock, SystemClock};
use windlass_engine::{Command, CommandReply, Engine, EngineConfig, JobRequest, Kinds, view};
use windlass_model::JobId;
use windlass_model::job::{Closing, JobState};
use windlass_model::task::SharedUse;
use windlass_store::memory::MemoryStore;
use windlass_store::{keys, read_all};

use crate::hostile::{HostileStore, Hostility, Sabotage};
use crate::invariants::{self, Seen};
use crate::simulation::Run;
use crate::world::{Step, StepKind, StepSpec, Weather, World};

/// Jobs at a time.
const JOBS: usize = 20;
/// Resources that they share.
const RESOURCES: u64 = 5;
/// Things that each resource consists of.
const THINGS: u32 = 2;
/// Rounds per run.
pub const ROUNDS: u64 = 500;

struct Harness {
    seed: u64,
    sabotage: Sabotage,
    dice: Seeded,
    clock: SharedClock,
    store: MemoryStore,
    world: World,
    engines: Vec<Option<Engine>>,
    hostility: Hostility,
    started: u64,
    /// Jobs that are not known to be over.
    jobs: Vec<JobId>,
    /// Counts the times at which everything came to rest: each time five other resources are shared.
    era: u64,
    /// All resources so far.
    keys: BTreeSet<String>,
    /// Resources that nobody may need any more and that may be there all the same.
    abandoned: BTreeSet<String>,
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
        let clock: SharedClock = SystemClock::starting_at("2026-01-01T00:00:00Z".parse().unwrap_or_default());
        let mut harness = Harness {
            seed,
            sabotage,
            dice: Seeded::new(seed),
            store: MemoryStore::new(clock.clone()),
            world: World::new(clock.clone(), seed ^ 0x5eed),
            clock,
            engines: vec![None, None],
            hostility: Hostility { delay_ms: 8, unavailable: 0.01, unconfirmed: 0.01, lost: 0.005, late: 0.0 },
            started: 0,
            jobs: Vec::new(),
            era: 0,
            keys: BTreeSet::new(),
            abandoned: BTreeSet::new(),
            history: String::new(),
        };
        let wrong = harness.live().await;
        Run { seed, wrong, history: harness.history }
    })
}

/// The command that runs one seed again.
#[must_use]
pub fn replay_command(seed: u64) -> String {
    format!("WINDLASS_SEED={seed} cargo test -p windlass-sim --test it -- sharing --nocapture")
}

impl Harness {
    fn note(&mut self, what: &str) {
        let _ = writeln!(self.history, "{:>9} ms  {what}", self.clock.monotonic().as_millis());
    }

    fn pick(&self, n: u64) -> u64 {
        self.dice.next_u64() % n.max(1)
    }

    async fn live(&mut self) -> Vec<String> {
        self.world.set_weather(Weather { delay_ms: 300, slow: 0.01, refused: 0.05, lost_answers: 0.05 });
        let mut seen = Seen::default();
        for round in 0..ROUNDS {
            self.act().await;
            self.clock.sleep(Duration::from_millis(self.pick(3_000))).await;
            let mut wrong = invariants::check(&self.store, &mut seen).await;
            wrong.extend(self.world.faults());
            if !wrong.is_empty() {
                self.note(&format!("round {round}"));
                return wrong;
            }
            // Now and then everything may come to rest, and what is there is compared with what is needed.
            if round % 50 == 49 {
                let wrong = self.rest(&mut seen).await;
                if !wrong.is_empty() {
                    self.note(&format!("at rest after round {round}"));
                    return wrong;
                }
            }
        }
        Vec::new()
    }

    async fn start(&mut self, n: usize) {
        self.started += 1;
        let seed = self.seed.wrapping_mul(1_000_003) ^ self.started;
        let (store, dice) = (self.store.clone(), Seeded::shared(seed));
        let store = HostileStore::new(store, self.clock.clone(), dice, self.hostility, self.sabotage);
        let kinds = Kinds::new().with(StepKind::new(self.world.clone()));
        let mut config = EngineConfig::new(
            Arc::new(store),
            self.clock.clone(),
            Seeded::shared(!seed),
            kinds,
            std::path::PathBuf::from("/nonexistent"),
        );
        config.labels.insert("process".into(), n.to_string());
        // A process whose store is away at the start is simply not there yet.
        if let Ok(engine) = Engine::open(config).await {
            self.note(&format!("process {n} starts"));
            self.engines[n] = Some(engine);
        }
    }

    async fn act(&mut self) {
        let n = usize::try_from(self.pick(2)).unwrap_or(0);
        if self.engines[n].is_none() {
            return self.start(n).await;
        }
        match self.pick(20) {
            0 => {
                self.note(&format!("process {n} is killed"));
                self.engines[n] = None;
            }
            1..=8 if self.jobs.len() < JOBS => self.submit(n).await,
            _ => self.command(n).await,
        }
    }

    async fn submit(&mut self, n: usize) {
        let mut steps = Vec::new();
        for r in 0..RESOURCES {
            if self.pick(2) == 0 {
                let fails = self.pick(8) == 0;
                let key = format!("e{}r{r}", self.era);
                self.keys.insert(key.clone());
                let mut step = Step { fails, ..Step::sharing(key, THINGS) };
                // Some wait for another of the resources first.
                if let Some(before) = steps.last().filter(|_| self.pick(3) == 0) {
                    let before: &Step = before;
                    step = step.requires(before.name.clone());
                }
                if self.pick(3) == 0 {
                    step.pool = Some(("makers".into(), 2));
                }
                // Some can be made at one of the two processes only, whichever coordinates the job.
                if self.pick(3) == 0 {
                    step = step.needs("process", self.pick(2).to_string());
                }
                steps.push(step);
            }
        }
        let mut own = Step { fails: self.pick(10) == 0, ..Step::new("own", 1) };
        own.requires = steps.iter().map(|step| step.name.clone()).collect();
        steps.push(own);
        let priority = i32::try_from(self.pick(3)).unwrap_or(0);
        let spec = StepSpec { steps, exclusive: None }.to_json();
        let request = JobRequest { kind: "step".into(), name: "share".into(), spec, priority, ..JobRequest::default() };
        let Some(engine) = &self.engines[n] else { return };
        let answer = windlass_clock::deadline(&*self.clock, Duration::from_secs(5), engine.submit(request)).await;
        if let Ok(Ok(job)) = answer {
            self.jobs.push(job);
            self.note(&format!("job {job} is submitted to process {n}"));
        }
    }

    async fn command(&mut self, n: usize) {
        if self.jobs.is_empty() {
            return;
        }
        let job = self.jobs[usize::try_from(self.pick(self.jobs.len() as u64)).unwrap_or(0)];
        let command = match self.pick(32) {
            0..=3 => Command::Cancel { undo: false },
            4..=7 => Command::Cancel { undo: true },
            8..=20 => Command::Undo,
            21 => Command::Confirm,
            22..=25 => Command::retry(),
            26 => Command::Delete { force: true },
            27 => Command::Pause { until: None },
            _ => Command::Resume,
        };
        let needs = if matches!(command, Command::Delete { .. }) { self.needed_by(job).await } else { BTreeSet::new() };
        let Some(engine) = &self.engines[n] else { return };
        let call = engine.command(job, command.clone(), None);
        let answer = windlass_clock::deadline(&*self.clock, Duration::from_secs(5), call).await;
        let said = match answer {
            Ok(Ok(CommandReply::Done(status))) => status.state.as_str(),
            Ok(Ok(CommandReply::Refused(_))) => "refused",
            Ok(Ok(CommandReply::Deleted { status, leftovers })) => {
                self.abandoned.extend(leftovers.into_iter().filter_map(|left| left.shared));
                // What it was confirmed for stays for good, and no job is left that tells.
                if status.closing == Some(Closing::Confirm) {
                    self.abandoned.extend(needs);
                }
                "deleted"
            }
            // It may have happened or not, or happens later.
            Ok(Err(_)) | Err(_) => {
                self.abandoned.extend(needs);
                "no answer"
            }
        };
        self.note(&format!("{} of {job} at process {n}: {said}", command.name()));
    }

    /// The resources that a job is about.
    async fn needed_by(&self, job: JobId) -> BTreeSet<String> {
        let kinds = Kinds::new().with(StepKind::new(self.world.clone()));
        let view = view::job(&self.store, &kinds, job, self.clock.wall()).await;
        view.map(|view| view.tasks.into_iter().filter_map(|task| task.shared).collect()).unwrap_or_default()
    }

    /// Lets everything come to rest and compares what is there with what is needed.
    async fn rest(&mut self, seen: &mut Seen) -> Vec<String> {
        self.note("everything comes to rest");
        let hostility = std::mem::take(&mut self.hostility);
        self.engines = vec![None, None];
        self.start(0).await;
        self.start(1).await;
        self.clock.sleep(Duration::from_secs(60)).await;
        for job in self.jobs.clone() {
            if let Some(engine) = &self.engines[0] {
                let _ = engine.command(job, Command::Resume, None).await;
            }
        }
        let mut wrong = self.settle(seen).await;
        wrong.extend(self.compare().await);
        // Whoever is left lets go: only what confirmed jobs need may stay.
        for job in self.jobs.clone() {
            if let Some(engine) = &self.engines[0] {
                let _ = engine.command(job, Command::Undo, None).await;
            }
        }
        wrong.extend(self.settle(seen).await);
        wrong.extend(self.compare().await);
        self.era += 1;
        self.hostility = hostility;
        self.engines = vec![None, None];
        // The lease of the process that brought everything to rest runs out.
        self.clock.sleep(Duration::from_secs(20)).await;
        wrong
    }

    /// Waits until nothing is left to do.
    async fn settle(&mut self, seen: &mut Seen) -> Vec<String> {
        let mut left = Vec::new();
        for _ in 0..900 {
            self.clock.sleep(Duration::from_secs(2)).await;
            let wrong = invariants::check(&self.store, seen).await;
            if !wrong.is_empty() {
                return wrong;
            }
            let going = [keys::ACTIVE, keys::GONE, keys::CLAIMS];
            left.clear();
            for prefix in going {
                left.extend(read_all(&self.store, prefix).await.unwrap_or_default().into_iter().map(|entry| entry.key));
            }
            if left.is_empty() {
                break;
            }
        }
        left.iter().map(|key| format!("liveness: {key} does not come to rest")).collect()
    }

    async fn compare(&mut self) -> Vec<String> {
        let kinds = Kinds::new().with(StepKind::new(self.world.clone()));
        let (mut needed, mut wrong) = (BTreeSet::new(), self.world.faults());
        self.jobs.clear();
        for job in view::jobs(&self.store).await.unwrap_or_default() {
            let finished = job.status.state == JobState::Finished;
            if !finished {
                self.jobs.push(job.id);
            }
            if finished && job.status.closing != Some(Closing::Confirm) {
                continue;
            }
            let Ok(view) = view::job(&self.store, &kinds, job.id, self.clock.wall()).await else { continue };
            for task in view.tasks {
                let succeeded = task.status.outcome().is_some_and(windlass_model::task::Outcome::is_success);
                if succeeded && task.status.shared != Some(SharedUse::Private) {
                    needed.extend(task.shared);
                }
            }
        }
        let mut there_are = 0;
        for key in self.keys.clone() {
            let there = (0..THINGS).filter(|n| self.world.exists(&format!("shared/{key}/{n}"))).count();
            there_are += usize::from(there > 0);
            let all = usize::try_from(THINGS).unwrap_or(0);
            match (needed.contains(&key), there) {
                (true, n) if n < all => wrong.push(format!("{key} is needed, and {n} of {all} parts of it exist")),
                (false, 0) => drop(self.abandoned.remove(&key)),
                (false, n) if !self.abandoned.contains(&key) => {
                    wrong.push(format!("{key} is needed by nobody, and {n} of {all} parts of it exist"));
                }
                _ => {}
            }
        }
        self.note(&format!(
            "{} of {} resources are needed, {there_are} are there; deleted jobs may have left {:?}",
            needed.len(),
            self.keys.len(),
            self.abandoned
        ));
        wrong
    }
}
