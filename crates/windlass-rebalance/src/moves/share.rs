//! What the chunks of one job, and the jobs of one cluster, have in common on this machine: connections, limits, the
//! turn to commit, and the count of failures.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use windlass_clock::SharedClock;
use windlass_model::{ErrorClass, Failure, JobId, TaskId};

use crate::agent::{AgentClient, ClientSettings};

use super::input::{AgentAddress, MoveInput, MoveSettings};

/// Jobs whose counts and connections are kept after their last chunk here ended.
const KEPT_JOBS: usize = 64;

/// Refusals of the same kind in a row that no single bad id explains.
pub(crate) const REJECTED_IN_A_ROW: u32 = 100;

/// Ids of a chunk below which a share of them says little about the backup.
const TELLING: u64 = 100;

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every value behind these locks is whole at all times; a panic elsewhere does not change that.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything shared in this process. One for all task types of the kind.
#[derive(Debug, Default)]
pub struct MoveShares {
    jobs: Mutex<VecDeque<(JobId, Arc<JobShare>)>>,
    commits: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl MoveShares {
    /// Nothing shared yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn job(&self, job: JobId, settings: &MoveSettings) -> Arc<JobShare> {
        let mut jobs = locked(&self.jobs);
        if let Some((_, share)) = jobs.iter().find(|(other, _)| *other == job) {
            return Arc::clone(share);
        }
        let share = Arc::new(JobShare::new(settings));
        jobs.push_back((job, Arc::clone(&share)));
        if jobs.len() > KEPT_JOBS {
            jobs.pop_front();
        }
        share
    }

    /// The turn to commit an agent of `cluster`.
    pub(crate) fn commit_turn(&self, cluster: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(locked(&self.commits).entry(cluster.to_owned()).or_default())
    }
}

/// What the chunks of a job share.
#[derive(Debug)]
pub(crate) struct JobShare {
    /// Ids under way.
    pub(crate) places: Semaphore,
    pub(crate) moves: Pace,
    pub(crate) bytes: Pace,
    clients: Mutex<BTreeMap<AgentAddress, Arc<AgentClient>>>,
    rejected: AtomicU32,
    budget: Mutex<Budget>,
}

/// What the chunks have come to, each counted once however often it was begun.
#[derive(Debug, Default)]
struct Budget {
    chunks: BTreeMap<TaskId, Tally>,
    /// Failures that a person has seen and let pass.
    excused: u64,
}

/// What one chunk has come to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) ids: u64,
    pub(crate) failed: u64,
    pub(crate) gone: u64,
}

impl JobShare {
    fn new(settings: &MoveSettings) -> Self {
        Self {
            places: Semaphore::new(settings.parallelism),
            moves: Pace::new(settings.moves_per_second),
            bytes: Pace::new(settings.bytes_per_second),
            clients: Mutex::default(),
            rejected: AtomicU32::new(0),
            budget: Mutex::default(),
        }
    }

    /// The client for an agent, the same one for all chunks.
    pub(crate) fn client(&self, agent: &AgentAddress, settings: &ClientSettings) -> Result<Arc<AgentClient>, Failure> {
        let mut clients = locked(&self.clients);
        if let Some(client) = clients.get(agent) {
            return Ok(Arc::clone(client));
        }
        let client = AgentClient::new(&agent.name, &agent.address, settings.clone())
            .map_err(|error| Failure::permanent("bad_address", error.to_string()).caused_by(&error))?;
        let client = Arc::new(client);
        clients.insert(agent.clone(), Arc::clone(&client));
        Ok(client)
    }

    /// Notes whether an agent took an id as such.
    pub(crate) fn note_rejection(&self, rejected: bool, why: &str) -> Result<(), Failure> {
        if !rejected {
            self.rejected.store(0, Ordering::Relaxed);
            return Ok(());
        }
        if self.rejected.fetch_add(1, Ordering::Relaxed) < REJECTED_IN_A_ROW {
            return Ok(());
        }
        let message = format!("more than {REJECTED_IN_A_ROW} ids in a row were refused as invalid, the last: {why}");
        Err(Failure::permanent("agent_rejected", message)
            .hint("do source and destination belong to the same cluster, and have the same dimension?"))
    }

    /// Notes what a chunk has come to and stops the job when it is too much.
    pub(crate) fn note(&self, task: TaskId, tally: Tally, input: &MoveInput) -> Result<(), Failure> {
        locked(&self.budget).note(task, tally, input.planned, input.max_failures())
    }
}

impl Budget {
    fn note(&mut self, task: TaskId, tally: Tally, planned: u64, max_failures: u64) -> Result<(), Failure> {
        self.chunks.insert(task, tally);
        let (mut failed, mut gone) = (0, 0);
        for tally in self.chunks.values() {
            failed += tally.failed;
            gone += tally.gone;
        }
        let share = |gone: u64, of: u64| gone > of / 4;
        if share(gone, planned.max(1)) && gone > 1 || (tally.ids >= TELLING && share(tally.gone, tally.ids)) {
            let message = format!(
                "{gone} of {planned} planned ids are not on their agents any more ({} of {} in this chunk): the \
                 backups are too old to move by",
                tally.gone, tally.ids
            );
            return Err(Failure::permanent("backup_stale", message)
                .hint("let the agents write new backups, or list the live agents, and start the job again"));
        }
        if failed - self.excused.min(failed) > max_failures {
            // Who resumes the job has seen these.
            self.excused = failed;
            let message = format!("{failed} ids failed, more than the {max_failures} allowed");
            return Err(Failure::new("too_many_failures", ErrorClass::NeedsAttention, message)
                .hint("look at the failed ids in the job's outcomes; resume the job to go on regardless"));
        }
        Ok(())
    }
}

/// Hands out so many units a second, evenly, in the order in which they are asked for.
#[derive(Debug)]
pub(crate) struct Pace {
    per_second: Option<f64>,
    free_at: Mutex<Duration>,
}

impl Pace {
    pub(crate) fn new(per_second: Option<f64>) -> Self {
        Self { per_second, free_at: Mutex::new(Duration::ZERO) }
    }

    /// Reserves `units` and says how long to wait before using them.
    pub(crate) fn reserve(&self, clock: &SharedClock, units: f64) -> Duration {
        let Some(per_second) = self.per_second else { return Duration::ZERO };
        let now = clock.monotonic();
        let mut free_at = locked(&self.free_at);
        let start = now.max(*free_at);
        // A limit of next to nothing must not overflow a duration.
        *free_at = start + Duration::from_secs_f64((units / per_second).clamp(0.0, 1e9));
        start - now
    }
}

#[cfg(test)]
mod tests {
    use windlass_clock::SystemClock;

    use super::*;

    fn task(n: u128) -> TaskId {
        TaskId::from_bits(n)
    }

    #[test]
    fn a_chunk_counts_once_and_excused_failures_do_not_pause_again() {
        let mut budget = Budget::default();
        let tally = |failed| Tally { ids: 5_000, failed, gone: 0 };
        budget.note(task(1), tally(900), 100_000, 1_000).unwrap();
        budget.note(task(1), tally(950), 100_000, 1_000).unwrap();
        let failure = budget.note(task(2), tally(51), 100_000, 1_000).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.class), ("too_many_failures", ErrorClass::NeedsAttention));
        budget.note(task(2), tally(60), 100_000, 1_000).unwrap();
        assert!(budget.note(task(3), tally(1_000), 100_000, 1_000).is_err());
    }

    #[test]
    fn more_than_a_quarter_gone_is_a_stale_backup() {
        let mut budget = Budget::default();
        let tally = |ids, gone| Tally { ids, failed: 0, gone };
        budget.note(task(1), tally(40, 10), 100, 1_000).unwrap();
        budget.note(task(2), tally(40, 15), 100, 1_000).unwrap();
        let failure = budget.note(task(3), tally(20, 1), 100, 1_000).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.class), ("backup_stale", ErrorClass::Permanent));
        // One telling chunk is enough.
        let mut budget = Budget::default();
        budget.note(task(1), tally(5_000, 1_250), 1_000_000, 1_000).unwrap();
        assert!(budget.note(task(1), tally(5_000, 1_251), 1_000_000, 1_000).is_err());
    }

    #[test]
    fn a_single_id_that_is_gone_is_no_stale_backup() {
        Budget::default().note(task(1), Tally { ids: 1, failed: 0, gone: 1 }, 1, 1_000).unwrap();
    }

    #[test]
    fn rejections_count_only_in_a_row() {
        let share = JobShare::new(&MoveSettings::default());
        for _ in 0..REJECTED_IN_A_ROW {
            share.note_rejection(true, "x").unwrap();
        }
        share.note_rejection(false, "").unwrap();
        for _ in 0..REJECTED_IN_A_ROW {
            share.note_rejection(true, "x").unwrap();
        }
        assert_eq!(share.note_rejection(true, "x").unwrap_err().code, "agent_rejected");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_spreads_units_evenly() {
        let clock: SharedClock = SystemClock::starting_at(windlass_clock_start());
        let pace = Pace::new(Some(10.0));
        let waits: Vec<u128> = (0..3).map(|_| pace.reserve(&clock, 1.0).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200]);
        clock.sleep(Duration::from_secs(10)).await;
        assert_eq!(pace.reserve(&clock, 5.0).as_millis(), 0);
        assert_eq!(pace.reserve(&clock, 1.0).as_millis(), 500);
        assert_eq!(Pace::new(None).reserve(&clock, 1e12), Duration::ZERO);
    }

    fn windlass_clock_start() -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
}
