//! What must hold at every moment, checked from the store alone.
//!
//! The numbers are those of the engine's list of invariants; each is written once, here, and used by the
//! simulation, the crash matrix and the engine's own tests.

use std::collections::{BTreeMap, BTreeSet};

use windlass_engine::holders::SharedRecord;
use windlass_engine::records::{AddedBy, Hold, JobRecord, SlotHolder, TaskRecord, decode};
use windlass_engine::{RoundRecord, TaskClaim};
use windlass_model::effect::{Effect, EffectState};
use windlass_model::job::{JobState, JobStatus};
use windlass_model::log::LogEntry;
use windlass_model::plan::Need;
use windlass_model::task::{Outcome, TaskState, TaskStatus};
use windlass_model::{JobId, TaskId};
use windlass_store::{Entry, Store, budget, keys, read_all};

use crate::world::World;

/// What a moment looked like, to be compared with the next one.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    tasks: BTreeMap<(JobId, TaskId), TaskStatus>,
}

struct Job {
    status: JobStatus,
    tasks: BTreeMap<TaskId, TaskRecord>,
    statuses: BTreeMap<TaskId, TaskStatus>,
    effects: Vec<Effect>,
    log: Vec<LogEntry>,
    rounds: Option<RoundRecord>,
}

/// Everything that is wrong at this moment, in words; empty when nothing is.
///
/// # Panics
///
/// When the store cannot be read: the store given here must not be a hostile one.
pub async fn check(store: &dyn Store, seen: &mut Seen) -> Vec<String> {
    let mut wrong = Vec::new();
    let entries = read_all(store, "").await.expect("the store under test can be read");
    for entry in &entries {
        if entry.value.len() > budget::VALUE_BYTES || entry.key.len() > budget::KEY_BYTES {
            wrong.push(format!("8: {} exceeds the budget", entry.key));
        }
    }
    let jobs = jobs(&entries);
    let present: BTreeSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    for (id, job) in &jobs {
        check_job(*id, job, &present, &mut wrong);
        check_elsewhere(*id, job, &entries, &mut wrong);
        for (task, status) in &job.statuses {
            if let Some(before) = seen.tasks.get(&(*id, *task)) {
                check_step(*id, *task, before, status, &mut wrong);
            }
            seen.tasks.insert((*id, *task), status.clone());
        }
    }
    check_shared(&entries, &jobs, &mut wrong);
    check_pools(&entries, &jobs, &mut wrong);
    for entry in entries.iter().filter(|entry| entry.key.starts_with(keys::SLOTS)) {
        if keys::pool_of_slot(&entry.key).is_some() {
            continue;
        }
        let holder = String::from_utf8_lossy(&entry.value).parse::<JobId>().ok();
        let over = holder.and_then(|id| jobs.get(&id)).is_none_or(|job| !job.status.state.is_active());
        if over {
            wrong.push(format!("7: {} is held by a job that is over", entry.key));
        }
    }
    wrong
}

/// Holder sets and the index of each job say the same, and only jobs that are not over hold anything.
fn check_shared(entries: &[Entry], jobs: &BTreeMap<JobId, Job>, wrong: &mut Vec<String>) {
    let indexed: BTreeSet<(JobId, String)> = entries
        .iter()
        .filter(|entry| entry.key.starts_with("job/") && entry.key.contains("/h/"))
        .filter_map(|entry| Some((entry.key.split('/').nth(1)?.parse().ok()?, decode::<Hold>(entry).ok()?.key)))
        .collect();
    let going = |job: &JobId| entries.iter().any(|entry| entry.key == keys::gone(*job));
    let mut held = BTreeSet::new();
    for entry in entries.iter().filter(|entry| entry.key.starts_with(keys::SHARED)) {
        let Ok(record) = decode::<SharedRecord>(entry) else {
            wrong.push(format!("{} cannot be read", entry.key));
            continue;
        };
        if record.holders.is_empty() && !record.permanent {
            wrong.push(format!("4: nobody holds {}, which is {}", record.key, record.state.as_str()));
        }
        for job in record.holders.keys().filter(|job| !going(job)) {
            if jobs.get(job).is_none_or(|job| job.status.state == JobState::Finished) {
                wrong.push(format!("5: {} is held by job {job}, which is over", record.key));
            }
            held.insert((*job, record.key.clone()));
        }
    }
    for (job, key) in held.symmetric_difference(&indexed).filter(|(job, _)| !going(job)) {
        wrong.push(format!("5: the record of {key} and the index of job {job} do not say the same"));
    }
    for (job, key) in &indexed {
        if jobs.get(job).is_some_and(|job| job.status.state == JobState::Finished) {
            wrong.push(format!("7: {job} is over and still holds {key}"));
        }
    }
}

/// No pool has more holders than places, and every place is held by what says so itself.
fn check_pools(entries: &[Entry], jobs: &BTreeMap<JobId, Job>, wrong: &mut Vec<String>) {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for pool in jobs.values().flat_map(|job| job.tasks.values()).flat_map(|record| &record.spec.pools) {
        let size = sizes.entry(&pool.pool).or_default();
        *size = (*size).max(usize::try_from(pool.size).unwrap_or(usize::MAX));
    }
    let mut held: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in entries {
        let Some((pool, _)) = keys::pool_of_slot(&entry.key) else { continue };
        *held.entry(pool).or_default() += 1;
        let Ok(holder) = decode::<SlotHolder>(entry) else {
            wrong.push(format!("{} cannot be read", entry.key));
            continue;
        };
        let slots = jobs.get(&holder.job).and_then(|job| match holder.task {
            None => Some(&job.status.slots),
            Some(task) => job.statuses.get(&task).map(|status| &status.slots),
        });
        if !slots.is_some_and(|slots| slots.contains(&entry.key)) {
            wrong.push(format!("7: {} is held by job {}, which does not know of it", entry.key, holder.job));
        }
    }
    for (pool, held) in held {
        if sizes.get(pool).is_some_and(|size| held > *size) {
            wrong.push(format!("10: {held} hold a place in the pool {pool} of {}", sizes[pool]));
        }
    }
}

fn jobs(entries: &[Entry]) -> BTreeMap<JobId, Job> {
    let mut jobs = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.key.starts_with(keys::STATES)) {
        let Some(id) = keys::last_part::<JobId>(&entry.key) else { continue };
        let Ok(status) = decode::<JobStatus>(entry) else { continue };
        let job = Job {
            status,
            tasks: BTreeMap::new(),
            statuses: BTreeMap::new(),
            effects: Vec::new(),
            log: Vec::new(),
            rounds: None,
        };
        jobs.insert(id, job);
    }
    for entry in entries {
        let mut parts = entry.key.split('/');
        let (Some("job"), Some(id), Some(what)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let Some(job) = id.parse().ok().and_then(|id: JobId| jobs.get_mut(&id)) else { continue };
        match what {
            "t" => {
                if let Ok(record) = decode::<TaskRecord>(entry) {
                    job.tasks.insert(record.spec.id, record);
                }
            }
            "s" => {
                if let (Some(task), Ok(status)) = (keys::last_part(&entry.key), decode(entry)) {
                    job.statuses.insert(task, status);
                }
            }
            "e" => job.effects.extend(decode::<Effect>(entry)),
            "log" => job.log.extend(decode::<LogEntry>(entry)),
            "round" => job.rounds = decode(entry).ok(),
            _ => {}
        }
    }
    jobs
}

fn check_job(id: JobId, job: &Job, present: &BTreeSet<&str>, wrong: &mut Vec<String>) {
    let waiting_or_done = |task: &TaskId| job.statuses.get(task);
    for (task, status) in &job.statuses {
        if let TaskState::Running { claim } = &status.state {
            if claim.epoch != status.epoch {
                wrong.push(format!("1: task {task} of {id} runs in epoch {} of {}", claim.epoch, status.epoch));
            }
            let dependencies = job.tasks.get(task).map(|record| record.spec.dependencies.as_slice());
            for edge in dependencies.unwrap_or_default() {
                let outcome = waiting_or_done(&edge.task).and_then(TaskStatus::outcome);
                let fine = match edge.need {
                    Need::Requires => outcome.is_some_and(Outcome::is_success),
                    Need::After => outcome.is_some(),
                };
                if !fine {
                    wrong.push(format!("3: task {task} of {id} runs before {}", edge.task));
                }
            }
        }
    }
    if job.status.state == JobState::Finished || job.status.state == JobState::Completed {
        // A claim may be there for as long as a command to a completed job takes.
        if present.contains(keys::active(id).as_str()) && job.status.undo_at.is_none() {
            wrong.push(format!("7: {id} is over and still marked as active"));
        }
        let is_part = |record: &TaskRecord| match record.added_by {
            AddedBy::Generation(generation) => generation <= job.status.generation,
            AddedBy::Round(n) => job.rounds.as_ref().is_some_and(|rounds| n <= rounds.n),
            AddedBy::Task(task, epoch) => job
                .statuses
                .get(&task)
                .is_some_and(|status| status.epoch == epoch && status.outcome().is_some_and(Outcome::is_success)),
        };
        for (task, record) in &job.tasks {
            let ended = job.statuses.get(task).is_some_and(|status| status.outcome().is_some());
            // A job whose retry was broken off is completed with waiting tasks; the simulation gives each
            // retry again until it is answered.
            if is_part(record) && !ended && job.status.failure.is_none() && job.status.result.is_some() {
                let retried = job.statuses.get(task).is_some_and(|status| status.epoch.0 > 0);
                if !retried {
                    wrong.push(format!("9: task {task} of {id} has not ended in a job that has"));
                }
            }
        }
    }
    check_rounds(id, job, wrong);
    let first = job.rounds.as_ref().map_or(1, |rounds| rounds.log_from.max(1));
    for (expected, entry) in (first..).zip(&job.log) {
        if entry.n != expected {
            wrong.push(format!("11: log entry {} of {id} stands where {expected} belongs", entry.n));
            break;
        }
    }
}

/// A standing job has one task for each thing at a time, and what it keeps belongs to tasks that it has.
fn check_rounds(id: JobId, job: &Job, wrong: &mut Vec<String>) {
    let Some(rounds) = &job.rounds else { return };
    let mut open = BTreeSet::new();
    for (task, record) in &job.tasks {
        let is_part = matches!(record.added_by, AddedBy::Round(n) if n <= rounds.n);
        let ended = job.statuses.get(task).is_some_and(|status| status.outcome().is_some());
        if is_part && !ended && !open.insert(record.spec.name()) {
            wrong.push(format!("12: {} is in flight twice in job {id}", record.spec.name()));
        }
    }
    for task in job.statuses.keys().chain(job.effects.iter().map(|effect| &effect.task)) {
        if !job.tasks.contains_key(task) {
            wrong.push(format!("12: records of task {task} of job {id} are left, and the task is gone"));
        }
    }
}

/// Attempts on other workers than the coordinator's: at most one claim per task, of the epoch that is due, and
/// nothing left once the job is over.
fn check_elsewhere(id: JobId, job: &Job, entries: &[Entry], wrong: &mut Vec<String>) {
    let prefix = keys::attempts_elsewhere(id);
    let over = !job.status.state.is_active();
    for entry in entries.iter().filter(|entry| entry.key.starts_with(&prefix)) {
        if over {
            wrong.push(format!("7: {} is left of a job that is over", entry.key));
        }
        let Some(task) = entry.key.strip_suffix("/a").and_then(keys::last_part::<TaskId>) else { continue };
        let Ok(claim) = decode::<TaskClaim>(entry) else { continue };
        let epoch = job.statuses.get(&task).map_or(0, |status| status.epoch.0);
        let fits = match job.statuses.get(&task).map(|status| &status.state) {
            None | Some(TaskState::Waiting { .. }) => claim.epoch.0 == epoch + 1,
            Some(TaskState::Running { claim: stored }) => stored.epoch == claim.epoch && stored.worker == claim.worker,
            Some(TaskState::Done { .. }) => false,
        };
        if !fits {
            wrong.push(format!(
                "1: task {task} of {id} is claimed by {} in epoch {}, its status says {:?} in epoch {epoch}",
                claim.worker,
                claim.epoch.0,
                job.statuses.get(&task).map(|status| status.state.name())
            ));
        }
    }
    let (offers, stops) = (keys::offers(id), keys::stops(id));
    let marks = |entry: &&Entry| entry.key.starts_with(&offers) || entry.key.starts_with(&stops);
    for entry in entries.iter().filter(marks).filter(|_| over) {
        let task = keys::last_part::<TaskId>(&entry.key);
        let name = task.and_then(|task| job.tasks.get(&task)).map(|record| record.spec.name());
        let status = task.and_then(|task| job.statuses.get(&task));
        wrong.push(format!(
            "7: {} ({}) is left of a job that is {}, its status is {status:?}",
            entry.key,
            name.unwrap_or_default(),
            job.status.state.as_str()
        ));
    }
}

fn check_step(id: JobId, task: TaskId, before: &TaskStatus, now: &TaskStatus, wrong: &mut Vec<String>) {
    if now.epoch < before.epoch {
        wrong.push(format!("1: the epoch of task {task} of {id} went from {} to {}", before.epoch, now.epoch));
    }
    if let Some(outcome) = before.outcome()
        && outcome.is_success()
        && now.generation == before.generation
        && now.outcome() != Some(outcome)
    {
        wrong.push(format!("2: the result of task {task} of {id} has changed"));
    }
}

/// What must hold once everything has come to rest: the world holds exactly what the ledgers say.
///
/// # Panics
///
/// When the store cannot be read.
pub async fn check_at_rest(store: &dyn Store, world: &World) -> Vec<String> {
    let mut wrong = world.faults();
    let entries = read_all(store, "").await.expect("the store under test can be read");
    let mut expected = BTreeSet::new();
    for (id, job) in jobs(&entries) {
        if job.status.state.is_active() && job.status.state != JobState::Paused {
            let count = |name| job.statuses.values().filter(|status| status.state.name() == name).count();
            let held = entries.iter().find(|entry| entry.key == keys::claim(id));
            wrong.push(format!(
                "liveness: job {id} is still {} ({} tasks, {} running, {} done; claimed by {:?})",
                job.status.state.as_str(),
                job.tasks.len(),
                count("running"),
                count("done"),
                held.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()),
            ));
        }
        for effect in &job.effects {
            match effect.state {
                EffectState::Made => {
                    expected.insert(effect.key.clone());
                }
                // May or may not exist: a task that failed, or was cancelled, in the middle.
                EffectState::Intended if world.exists(&effect.key) => {
                    expected.insert(effect.key.clone());
                }
                EffectState::Kept if world.exists(&effect.key) => {
                    expected.insert(effect.key.clone());
                }
                EffectState::Intended | EffectState::Gone | EffectState::Kept => {}
            }
        }
        let has = |code: &str| job.log.iter().any(|entry| entry.code == code);
        let left = job.effects.iter().filter(|effect| effect.may_exist()).count();
        if job.status.state == JobState::Finished && has("job.undoing") && !has("job.undo_failed") && left > 0 {
            wrong.push(format!("undo: {left} effects of job {id} are left"));
        }
    }
    let marks = [keys::CLAIMS, keys::ASKS, keys::OFFERS, keys::STOPS];
    for entry in entries.iter().filter(|entry| marks.iter().any(|mark| entry.key.starts_with(mark))) {
        wrong.push(format!("7: {} is left although nothing runs", entry.key));
    }
    let found: BTreeSet<String> = world.things().into_iter().collect();
    for missing in expected.difference(&found) {
        wrong.push(format!("6: the ledger names {missing}, which does not exist"));
    }
    for extra in found.difference(&expected) {
        wrong.push(format!("6: {extra} exists and is in no ledger"));
    }
    wrong
}

/// The jobs that the store holds, for callers that were not told which they submitted.
///
/// # Panics
///
/// When the store cannot be read.
pub async fn submitted(store: &dyn Store) -> Vec<JobId> {
    let entries = read_all(store, keys::JOBS).await.expect("the store under test can be read");
    entries.iter().filter_map(|entry| decode::<JobRecord>(entry).ok()).map(|record| record.id).collect()
}
