//! What a job or a task waits for. Whatever has not ended has at least one reason, and each is one of these.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use windlass_model::JobId;

/// What a job or a task waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "on", rename_all = "snake_case")]
pub enum Wait {
    /// A task that comes first.
    Task {
        /// Its type and resource.
        task: String,
        /// `waiting` or `running`.
        state: &'static str,
    },
    /// A person's yes.
    Approval {
        /// To what.
        question: String,
    },
    /// The end of its delay.
    Delay {
        /// When that is.
        until: Timestamp,
    },
    /// The next attempt.
    Backoff {
        /// When that is.
        until: Timestamp,
        /// What the last one failed with.
        after: String,
    },
    /// The end of a pause.
    Pause {
        /// When it ends by itself, if it does.
        until: Option<Timestamp>,
    },
    /// A person, because a task cannot go on.
    Attention {
        /// What it failed with.
        failure: String,
    },
    /// The moment at which it is undone by itself.
    Undo {
        /// When that is.
        at: Timestamp,
    },
    /// Nothing: it is a standing job, which is looked after in rounds.
    Rounds {
        /// When the last one was that is written down.
        last: Option<Timestamp>,
        /// When the next one is due, if nothing wakes the job before.
        next: Option<Timestamp>,
        /// What the last one said.
        summary: String,
    },
    /// Its kind, whose rounds fail.
    FailedRounds {
        /// How many in a row.
        failures: u32,
        /// What the last one failed with.
        failure: String,
        /// When the next one comes.
        next: Option<Timestamp>,
    },
    /// An exclusive name that another job holds.
    Name {
        /// The name.
        name: String,
        /// The job.
        holder: String,
    },
    /// A shared resource that another job makes or removes.
    Shared {
        /// What all jobs call it.
        key: String,
        /// `creating` or `deleting`.
        state: &'static str,
        /// The jobs that hold it.
        holders: Vec<JobId>,
    },
    /// A place in a pool.
    Pool {
        /// The pool.
        pool: String,
        /// Its places.
        size: u32,
        /// Who holds them: jobs, and tasks of jobs by their id.
        holders: Vec<String>,
        /// Jobs that come first.
        before: usize,
    },
    /// The job as a whole.
    Job {
        /// What it is.
        state: &'static str,
    },
    /// A worker that can run it: none is present.
    Worker {
        /// What it must have: `type T with site=b`.
        demand: String,
    },
    /// A free place on a worker.
    Place,
    /// A process that runs the job.
    Process,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task { task, state } => write!(f, "{task} ({state})"),
            Self::Approval { question } => write!(f, "a person's answer to: {question} (`windlass approve`)"),
            Self::Delay { until } => write!(f, "the end of its delay at {until}"),
            Self::Backoff { until, after } => write!(f, "the next attempt at {until} after: {after}"),
            Self::Pause { until: Some(until) } => write!(f, "the end of the pause at {until}, or `windlass resume`"),
            Self::Pause { until: None } => f.write_str("`windlass resume`: it was paused by a person"),
            Self::Attention { failure } => write!(f, "a person: {failure}"),
            Self::Undo { at } => {
                write!(f, "nothing; it is undone by itself at {at} (`windlass extend`, `windlass confirm`)")
            }
            Self::Rounds { last: None, .. } => f.write_str("the first look at what there is to do"),
            Self::Rounds { last: Some(last), next, summary } => {
                write!(f, "nothing; it goes on for ever, last looked at what there is to do at {last}")?;
                next.map_or(Ok(()), |next| write!(f, " and does again at {next} at the latest"))?;
                if !summary.is_empty() {
                    write!(f, ": {summary}")?;
                }
                Ok(())
            }
            Self::FailedRounds { failures, failure, next } => {
                write!(f, "a look at what there is to do that succeeds; {failures} failed, the last with: {failure}")?;
                next.map_or(Ok(()), |next| write!(f, "; the next is at {next} at the latest"))
            }
            Self::Name { name, holder } => write!(f, "the name {name}, which job {holder} holds"),
            Self::Shared { key, state, holders } => {
                let jobs: Vec<String> = holders.iter().map(JobId::to_string).collect();
                write!(f, "the shared resource {key}, which is {state} (job {})", jobs.join(", "))
            }
            Self::Pool { pool, size, holders, before } => {
                write!(f, "a place in the pool {pool} of {size}, held by {}", holders.join(", "))?;
                if *before > 0 {
                    write!(f, "; {before} job(s) come first")?;
                }
                Ok(())
            }
            Self::Job { state } => write!(f, "the job, which is {state}"),
            Self::Worker { demand } => write!(f, "a worker for {demand}: none is present"),
            Self::Place => f.write_str("a free place on the worker"),
            Self::Process => {
                f.write_str("a worker: no process runs this job at the moment (`windlass run` or `windlass resume`)")
            }
        }
    }
}
