//! Requests and answers of the HTTP API, `/api/v1`: one set of types for the server, the command line and the
//! pages.
//!
//! * Each type has a JSON Schema; [`openapi`] puts them and [`route::ROUTES`] together into the OpenAPI document.
//! * Times are RFC 3339 in UTC, lengths of time are milliseconds in members that end in `_ms`, ids are text.
//! * Members may be added to answers at any time: readers ignore what they do not know. Requests are strict: an
//!   unknown member is a fault that names it.
//! * Every error is a [`problem::Problem`].
//! * [`page`] holds what each page of the web interface shows.

pub mod audit;
#[cfg(feature = "client")]
pub mod client;
pub mod command;
pub mod event;
pub mod graph;
pub mod job;
pub mod kind;
pub mod log;
pub mod openapi;
pub mod page;
pub mod plan;
pub mod problem;
pub mod report;
pub mod role;
pub mod route;
pub mod rows;
pub mod schedule;
pub mod shared;
pub mod span;
pub mod task;
pub mod whole;
pub mod work;
pub mod worker;

pub use audit::{AuditEntry, AuditList, AuditQuery};
#[cfg(feature = "client")]
pub use client::{Client, ClientConfig, ClientError, Events};
pub use command::{CommandAnswer, CommandRequest};
pub use event::{Event, EventKind};
pub use graph::{Graph, GraphEdge, GraphNode};
pub use job::{
    JobDetail, JobList, JobQuery, JobResult, JobState, JobSummary, Limits, PausedBy, SubmitRequest, Submitted, WaitFor,
};
pub use kind::{KindInfo, KindList};
pub use log::{Level, LogEntry, LogList, LogQuery};
pub use plan::{ExpectedPlan, PlanFingerprint, PlanPreview, PlannedTask, PlannedType};
pub use problem::{ErrorClass, Failure, Fault, Problem};
pub use report::{EffectCounts, Report, Unsuccessful};
pub use role::{Role, Whoami};
pub use rows::{ROW_MEDIA_TYPES, RowsQuery, RowsTaken};
pub use schedule::{
    Misfire, Overlap, RunCause, Schedule, ScheduleAnswer, ScheduleCommand, ScheduleList, ScheduleRun, ScheduleView,
    Triggered,
};
pub use shared::{SharedHolder, SharedList, SharedResource};
pub use task::{
    Attempt, Dependency, Effect, EffectState, Leftover, LeftoverList, Output, TaskDetail, TaskList, TaskQuery,
    TaskReference, TaskState, TaskSummary, TypeSum,
};
pub use whole::{WholeJob, WholeList, WholeRecord, WholeReport, WholeSummary, WholeTask, WholeUnsuccessful};
pub use work::{Counts, Eta, Progress};
pub use worker::{ClaimView, WorkerList, WorkerView};

pub use windlass_model::{JobId, TaskId, WorkerId};

/// What every path of the API begins with.
pub const BASE: &str = "/api/v1";

/// The header that names a change, so that asking twice changes once.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The header that pages send with every change. A page of another site cannot send it unasked.
pub const REQUEST_MARK: &str = "x-windlass-request";
