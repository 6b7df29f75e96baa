//! The durable job engine of Windlass.
//!
//! * [`Engine`] is what a process opens: it takes a lease, carries on with every job that needs it, takes in new
//!   ones and passes commands to them.
//! * `coordinator` is the one writer of a job's records; see there for how a change becomes durable.
//! * [`kind`] is what a kind of job implements, [`context`] what its tasks see.
//! * `follow` is how a worker learns what there is to do, `asks` how commands reach a coordinator elsewhere, `offers`
//!   and `host` how a task runs on another worker than its coordinator's.
//! * [`view`] and [`report`] read jobs from any store, also while another process runs them.
//! * [`standing`] keeps jobs that run again by a schedule.
//! * [`shape`] compares specs with their schemas.
//! * [`probe`] is where tests stop the world.
//!
//! The engine knows no kind and no store product. It takes time, randomness and the store through interfaces,
//! so that simulated runs drive this very code.

mod arbiter;
mod asks;
mod bell;
pub mod command;
pub mod context;
mod coordinator;
mod engine;
mod follow;
pub mod holders;
mod host;
pub mod kind;
mod lease;
mod offers;
pub mod presence;
pub mod probe;
pub mod reconcile;
pub mod records;
pub mod report;
mod retention;
pub mod shape;
pub mod snapshot;
pub mod standing;
mod values;
pub mod view;
mod wakers;

pub use command::{Command, CommandReply};
pub use context::{Intent, ProgressHandle, TaskContext, UndoInput};
pub use coordinator::image::Counts;
pub use engine::{Engine, EngineConfig, JobRequest, Preview};
pub use kind::{Earlier, Finished, Kind, Kinds, PlanContext, SpecFault, TaskEnd, TaskType};
pub use offers::TaskClaim;
pub use presence::Presence;
pub use reconcile::{Cause, Ended, InFlight, Reconcile, ReconcileContext, Reconciled, RoundRecord, Waker};
pub use retention::Retention;
pub use snapshot::{JobSnapshot, RunningTask};
pub use standing::{StandingView, Triggered};

use windlass_model::job::IllegalMove;
use windlass_model::{Failure, JobId};
use windlass_store::StoreError;

/// Why the engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The state store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The spec is not one of its kind: every fault that was found.
    #[error("the spec of kind {kind} has {} fault(s)", .faults.len())]
    InvalidSpec {
        /// The kind.
        kind: String,
        /// The faults.
        faults: Vec<SpecFault>,
    },
    /// No kind has this name.
    #[error("there is no kind named {name}; known are: {}", .known.join(", "))]
    UnknownKind {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<&'static str>,
    },
    /// The plan cannot be stored or could not be made.
    #[error("{0}")]
    Plan(Box<Failure>),
    /// There is no such job.
    #[error("there is no job {0}")]
    NoSuchJob(String),
    /// There is no such standing job.
    #[error("there is no standing job {0}")]
    NoSuchStanding(String),
    /// There is a standing job of this name.
    #[error("there is a standing job named {0:?} already; edit it, delete it, or choose another name")]
    StandingName(String),
    /// A standing job has changed since it was looked at.
    #[error("standing job {0} has changed since it was looked at; look again, then edit")]
    StandingChanged(String),
    /// A schedule that cannot be kept: every fault that was found.
    #[error("the schedule has {} fault(s): {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Schedule(Vec<windlass_model::schedule::ScheduleFault>),
    /// More than one job is meant.
    #[error("{given} may be {}; give more of the id", .candidates.join(" or "))]
    Ambiguous {
        /// What was given.
        given: String,
        /// What it may mean.
        candidates: Vec<String>,
    },
    /// The command does not fit the state of the job.
    #[error(transparent)]
    Command(IllegalMove),
    /// Another process coordinates the job.
    #[error("another worker holds the job at the moment; try again")]
    HeldElsewhere,
    /// Nobody carries out a command.
    #[error(
        "no worker took up the command for job {job} within {waited} s; start one with `windlass worker`, or `windlass workers` shows which there are"
    )]
    NoWorker {
        /// The job.
        job: JobId,
        /// How long it was waited, in seconds.
        waited: u64,
    },
    /// The claim on a job was lost; another worker goes on.
    #[error("the claim on the job was lost")]
    ClaimLost,
    /// Another job took an exclusive name at the same moment.
    #[error("another job took a name that this one needs")]
    NameTaken,
    /// A stored record cannot be read.
    #[error("the record {key} cannot be read: {why}")]
    Record {
        /// Its key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A value is beyond what is kept in the state store.
    #[error("a value of {bytes} bytes is more than the {most} that are kept; write it to a file or an object")]
    ValueTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// A job cannot go on in this process.
    #[error("job {job} cannot go on: {why}")]
    JobBroken {
        /// The job.
        job: JobId,
        /// Why.
        why: String,
    },
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
    /// A mistake in the engine or in a kind: please report it.
    #[error("this is a mistake in windlass, please report it: {0}")]
    Bug(String),
}

impl EngineError {
    /// Whether doing the same again later may succeed: the store was away or silent.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::NameTaken
                | Self::Store(StoreError::Unavailable(_) | StoreError::Unknown(_) | StoreError::Compacted { .. })
        )
    }

    pub(crate) fn bug(what: impl Into<String>) -> Self {
        Self::Bug(what.into())
    }
}
