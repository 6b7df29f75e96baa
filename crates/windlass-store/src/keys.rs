//! The key layout: every key that the engine stores, in one place.
//!
//! | key | value | written | bound to |
//! |---|---|---|---|
//! | `jobs/<job>` | what was submitted; never changes | once | the job |
//! | `state/<job>` | the job's status | each move of the job | the job |
//! | `active/<job>` | empty; present while a coordinator has something to do | submit, end | the job |
//! | `claim/<job>` | the worker that coordinates the job | claim | the worker's lease |
//! | `worker/<worker>` | presence of a worker process: name, labels, task types, places | start | the worker's lease |
//! | `slot/<name>` | the job that holds an exclusive name | activation, end | the job |
//! | `slot/<pool>/<n>` | the job, or the task of it, that holds a place in a pool | activation or claim, end | the job |
//! | `queue/<pool>/<order>/<job>` | a job that waits for a place in a pool | when none is free, with the place | the job |
//! | `shared/<key>` | a shared resource: its state, its output, the set of its holders | each acquire and release | its holders |
//! | `gone/<job>` | the mark of a job whose records are being deleted | delete, end of it | the job |
//! | `retention/last` | when old jobs were last looked for | at most hourly | |
//! | `retention/claim` | the worker that looks for old jobs | at most hourly | the worker's lease |
//! | `standing/<id>` | a standing job: its schedule, when it is due next, its last runs | each run, each change | |
//! | `standing-request/<id>` | what a standing job submits | create, edit | its standing job |
//! | `scheduler` | the worker that takes care of standing jobs | claim | the worker's lease |
//! | `job/<job>/head` | the number of the next log entry | each batch | the job |
//! | `job/<job>/round` | of a job that reconciles: its rounds, what the last one said, what is pruned | each round that changes it | the job |
//! | `job/<job>/t/<task>` | a task as planned; never changes once active | staging | the job |
//! | `job/<job>/s/<task>` | a task's status; absent means waiting and never claimed | each move of the task | the job |
//! | `job/<job>/e/<task>/<n>` | an entry of the effect ledger | before and after the effect | the job |
//! | `job/<job>/c/<task>` | a task's checkpoint | whenever the task says so | the job |
//! | `job/<job>/p/<task>` | a task's progress | at most once a second | the job |
//! | `job/<job>/h/<digest>` | the index of a shared resource that the job holds | with its record | the job |
//! | `job/<job>/log/<n>` | a log entry | with the change it describes | the job |
//! | `job/<job>/v/<digest>/<n>` | a chunk of a value too large for its record | before the record | the job |
//! | `job/<job>/w/<task>/a` | a worker's claim on a task, apart from the coordinator | claim, each write | the worker's lease |
//! | `job/<job>/w/<task>/m/<n>` | what the attempt wants in the log | with the attempt's writes | folded into the log |
//! | `job/<job>/w/<task>/p` | progress of the attempt | its claim, then at most once a second | the end of the attempt |
//! | `job/<job>/w/<task>/r` | how the attempt ended | its end | folded into the status |
//! | `mail/ask/<job>/<request>` | a command for whoever coordinates the job | the asker | the asker's lease; the cancel of a run that a newer one replaces: nothing |
//! | `mail/offer/<job>/<task>` | a task that any able worker may claim | a coordinator without a place | claimed or withdrawn |
//! | `mail/stop/<job>/<task>` | the wish that an attempt elsewhere stops | pause, cancel | the end of the attempt |
//! | `answer/<job>/<request>` | the answer to a command | the coordinator | the asker's lease |
//!
//! What is told to workers that may be anybody lies under one prefix, `mail/`, so that each follows it with one
//! watch. What an attempt elsewhere tells lies under one prefix of its job, which the job's coordinator follows
//! only while there is such an attempt.

use windlass_model::{Digest, JobId, TaskId, WorkerId};

/// Prefix of all submitted jobs.
pub const JOBS: &str = "jobs/";
/// Prefix of all job states.
pub const STATES: &str = "state/";
/// Prefix of all jobs that need a coordinator.
pub const ACTIVE: &str = "active/";
/// Prefix of all coordinator claims.
pub const CLAIMS: &str = "claim/";
/// Prefix of the presence of all workers.
pub const WORKERS: &str = "worker/";
/// Prefix of everything that is told to workers: asks, offers, wishes to stop.
pub const MAIL: &str = "mail/";
/// Prefix of all commands that wait for a coordinator.
pub const ASKS: &str = "mail/ask/";
/// Prefix of all offered tasks.
pub const OFFERS: &str = "mail/offer/";
/// Prefix of all wishes that an attempt stops.
pub const STOPS: &str = "mail/stop/";
/// Prefix of all answers to commands.
pub const ANSWERS: &str = "answer/";
/// Prefix of all exclusive names and all places in pools.
pub const SLOTS: &str = "slot/";
/// Prefix of all jobs that wait for places in pools.
pub const QUEUES: &str = "queue/";
/// Prefix of all shared resources.
pub const SHARED: &str = "shared/";
/// Prefix of the marks of all jobs that are being deleted.
pub const GONE: &str = "gone/";
/// When old jobs were last looked for.
pub const RETENTION_LAST: &str = "retention/last";
/// Whoever looks for old jobs.
pub const RETENTION_CLAIM: &str = "retention/claim";

/// Prefix of all standing jobs.
pub const STANDING: &str = "standing/";
/// Whoever takes care of standing jobs.
pub const SCHEDULER: &str = "scheduler";

/// A standing job.
#[must_use]
pub fn standing(id: &str) -> String {
    format!("{STANDING}{id}")
}

/// What a standing job submits.
#[must_use]
pub fn standing_request(id: &str) -> String {
    format!("standing-request/{id}")
}

/// What was submitted.
#[must_use]
pub fn job(job: JobId) -> String {
    format!("{JOBS}{job}")
}

/// The status of a job.
#[must_use]
pub fn state(job: JobId) -> String {
    format!("{STATES}{job}")
}

/// The mark of a job that needs a coordinator.
#[must_use]
pub fn active(job: JobId) -> String {
    format!("{ACTIVE}{job}")
}

/// The coordinator's claim on a job.
#[must_use]
pub fn claim(job: JobId) -> String {
    format!("{CLAIMS}{job}")
}

/// The presence of a worker.
#[must_use]
pub fn worker(worker: WorkerId) -> String {
    format!("{WORKERS}{worker}")
}

/// Prefix of the commands that wait for the job's coordinator.
#[must_use]
pub fn asks(job: JobId) -> String {
    format!("{ASKS}{job}/")
}

/// A command that waits for the job's coordinator.
#[must_use]
pub fn ask(job: JobId, request: &str) -> String {
    format!("{ASKS}{job}/{}", request_part(request))
}

/// The answer to a command.
#[must_use]
pub fn answer(job: JobId, request: &str) -> String {
    format!("{ANSWERS}{job}/{}", request_part(request))
}

/// People choose request ids; what does not fit into a key stands there by its digest.
fn request_part(request: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&request.len()) && request.chars().all(plain) {
        return request.to_owned();
    }
    Digest::of(request.as_bytes()).hex()
}

/// Prefix of the job's offered tasks.
#[must_use]
pub fn offers(job: JobId) -> String {
    format!("{OFFERS}{job}/")
}

/// An offered task.
#[must_use]
pub fn offer(job: JobId, task: TaskId) -> String {
    format!("{OFFERS}{job}/{task}")
}

/// Prefix of the wishes that attempts of the job stop.
#[must_use]
pub fn stops(job: JobId) -> String {
    format!("{STOPS}{job}/")
}

/// The wish that an attempt elsewhere stops.
#[must_use]
pub fn stop(job: JobId, task: TaskId) -> String {
    format!("{STOPS}{job}/{task}")
}

/// Prefix of what attempts tell that run elsewhere than the job's coordinator.
#[must_use]
pub fn attempts_elsewhere(job: JobId) -> String {
    format!("job/{job}/w/")
}

/// A worker's claim on a task of a job that another worker coordinates.
#[must_use]
pub fn task_claim(job: JobId, task: TaskId) -> String {
    format!("job/{job}/w/{task}/a")
}

/// What an attempt elsewhere wants in the log.
#[must_use]
pub fn attempt_message(job: JobId, task: TaskId, n: u64) -> String {
    format!("job/{job}/w/{task}/m/{n:09}")
}

/// The progress of an attempt elsewhere.
#[must_use]
pub fn attempt_progress(job: JobId, task: TaskId) -> String {
    format!("job/{job}/w/{task}/p")
}

/// How an attempt elsewhere ended.
#[must_use]
pub fn attempt_end(job: JobId, task: TaskId) -> String {
    format!("job/{job}/w/{task}/r")
}

/// The job and the task of an offer or of a wish to stop.
#[must_use]
pub fn job_and_task(key: &str) -> Option<(JobId, TaskId)> {
    let mut parts = key.rsplit('/');
    let task = parts.next()?.parse().ok()?;
    Some((parts.next()?.parse().ok()?, task))
}

/// An exclusive name.
#[must_use]
pub fn slot(name: &str) -> String {
    format!("{SLOTS}{name}")
}

/// Prefix of the places in a pool. Pools whose names begin alike lie below it too; see [`pool_of_slot`].
#[must_use]
pub fn pool_slots(pool: &str) -> String {
    format!("{SLOTS}{pool}/")
}

/// A place in a pool.
#[must_use]
pub fn pool_slot(pool: &str, n: u32) -> String {
    format!("{SLOTS}{pool}/{n:06}")
}

/// The pool and the number of a key below [`SLOTS`]; `None` for exclusive names.
#[must_use]
pub fn pool_of_slot(key: &str) -> Option<(&str, u32)> {
    let (pool, n) = key.strip_prefix(SLOTS)?.rsplit_once('/')?;
    (n.len() == 6).then(|| n.parse().ok().map(|n| (pool, n)))?
}

/// Prefix of the jobs that wait for a place in a pool, in their order.
#[must_use]
pub fn queue(pool: &str) -> String {
    format!("{QUEUES}{pool}/")
}

/// A job that waits for a place in a pool: larger priorities first, then older jobs.
#[must_use]
pub fn queued(pool: &str, priority: i32, job: JobId) -> String {
    let order = i64::from(i32::MAX) - i64::from(priority);
    format!("{QUEUES}{pool}/{order:010}/{job}")
}

/// A shared resource.
#[must_use]
pub fn shared(key: &str) -> String {
    format!("{SHARED}{key}")
}

/// Prefix of the index of the shared resources that a job holds.
#[must_use]
pub fn holds(job: JobId) -> String {
    format!("job/{job}/h/")
}

/// The index entry of a shared resource that a job holds.
#[must_use]
pub fn hold(job: JobId, key: &str) -> String {
    format!("job/{job}/h/{}", Digest::of(key.as_bytes()).hex())
}

/// The mark of a job that is being deleted.
#[must_use]
pub fn gone(job: JobId) -> String {
    format!("{GONE}{job}")
}

/// Everything of a job but its record, state and marks.
#[must_use]
pub fn job_prefix(job: JobId) -> String {
    format!("job/{job}/")
}

/// The number of the job's next log entry.
#[must_use]
pub fn head(job: JobId) -> String {
    format!("job/{job}/head")
}

/// What a job that reconciles knows of its rounds.
#[must_use]
pub fn round(job: JobId) -> String {
    format!("job/{job}/round")
}

/// Prefix of the job's tasks.
#[must_use]
pub fn tasks(job: JobId) -> String {
    format!("job/{job}/t/")
}

/// A task as planned.
#[must_use]
pub fn task(job: JobId, task: TaskId) -> String {
    format!("job/{job}/t/{task}")
}

/// Prefix of the statuses of the job's tasks.
#[must_use]
pub fn statuses(job: JobId) -> String {
    format!("job/{job}/s/")
}

/// The status of a task.
#[must_use]
pub fn status(job: JobId, task: TaskId) -> String {
    format!("job/{job}/s/{task}")
}

/// Prefix of the job's effect ledger.
#[must_use]
pub fn effects(job: JobId) -> String {
    format!("job/{job}/e/")
}

/// Prefix of a task's entries in the effect ledger.
#[must_use]
pub fn effects_of(job: JobId, task: TaskId) -> String {
    format!("job/{job}/e/{task}/")
}

/// An entry of the effect ledger.
#[must_use]
pub fn effect(job: JobId, task: TaskId, n: u32) -> String {
    format!("job/{job}/e/{task}/{n:06}")
}

/// Prefix of the job's checkpoints.
#[must_use]
pub fn checkpoints(job: JobId) -> String {
    format!("job/{job}/c/")
}

/// The checkpoint of a task.
#[must_use]
pub fn checkpoint(job: JobId, task: TaskId) -> String {
    format!("job/{job}/c/{task}")
}

/// Prefix of the progress of the job's tasks.
#[must_use]
pub fn progresses(job: JobId) -> String {
    format!("job/{job}/p/")
}

/// The progress of a task.
#[must_use]
pub fn progress(job: JobId, task: TaskId) -> String {
    format!("job/{job}/p/{task}")
}

/// Prefix of the job's log.
#[must_use]
pub fn logs(job: JobId) -> String {
    format!("job/{job}/log/")
}

/// A log entry. Twelve digits keep the order of text and of numbers the same.
#[must_use]
pub fn log(job: JobId, n: u64) -> String {
    format!("job/{job}/log/{n:012}")
}

/// A chunk of a large value.
#[must_use]
pub fn value_chunk(job: JobId, digest: Digest, n: usize) -> String {
    format!("job/{job}/v/{}/{n:06}", digest.hex())
}

/// The last part of a key, as an id.
#[must_use]
pub fn last_part<T: std::str::FromStr>(key: &str) -> Option<T> {
    key.rsplit('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_what_they_name() {
        let id = JobId::from_bits(1);
        assert!(log(id, 9) < log(id, 10));
        assert!(effect(id, TaskId::from_bits(1), 9) < effect(id, TaskId::from_bits(1), 10));
        assert_eq!(last_part(&status(id, TaskId::from_bits(5))), Some(TaskId::from_bits(5)));
        assert_eq!(last_part::<TaskId>("jobs/x"), None);
        assert!(queued("p", 5, id) < queued("p", 0, JobId::from_bits(0)));
        assert!(queued("p", i32::MAX, id) < queued("p", i32::MIN, id));
        assert!(queued("p", 0, id) < queued("p", 0, JobId::from_bits(2)));
        assert_eq!(pool_of_slot(&pool_slot("site/a", 7)), Some(("site/a", 7)));
        assert_eq!((pool_of_slot(&slot("site/a")), pool_of_slot(&slot("a"))), (None, None));
        assert_eq!(job_and_task(&offer(id, TaskId::from_bits(2))), Some((id, TaskId::from_bits(2))));
        assert_eq!(job_and_task(ASKS), None);
    }

    #[test]
    fn a_request_id_of_any_shape_gives_one_part_of_a_key() {
        let id = JobId::from_bits(1);
        assert!(ask(id, "r-1").ends_with("/r-1"));
        for odd in ["", "a/b", "ä", &"x".repeat(2000)] {
            let key = ask(id, odd);
            assert_eq!((key.matches('/').count(), key.len() < 200), (3, true), "{key}");
        }
    }
}
