//! Where commands read jobs from: a state store, or a server. Both tell the same, in the types of the API.

mod remote;
mod stored;

use async_trait::async_trait;
use windlass_api::{JobQuery, ScheduleView, WholeJob, WholeReport, WholeSummary};
use windlass_engine::JobSnapshot;
use windlass_model::JobId;
use windlass_model::log::LogEntry;

pub(crate) use self::remote::Remote;
pub(crate) use self::stored::Stored;
use crate::app::App;
use crate::problem::Problem;
use crate::state::State;

/// Where commands read jobs from.
#[async_trait]
pub(crate) trait Source: Send + Sync {
    /// Jobs that fit, newest first. Some that do not fit may be among them.
    async fn jobs(&self, query: &JobQuery) -> anyhow::Result<Vec<WholeSummary>>;

    /// The job that a person means.
    async fn find(&self, given: &str) -> anyhow::Result<JobId>;

    /// A job with all its tasks.
    async fn job(&self, job: JobId) -> anyhow::Result<WholeJob>;

    /// Entries of its log with numbers above `after`, at most `limit`.
    async fn log(&self, job: JobId, after: u64, limit: usize) -> anyhow::Result<Vec<LogEntry>>;

    /// What it did so far.
    async fn report(&self, job: JobId) -> anyhow::Result<WholeReport>;

    /// Follows a job from after the log entry `after`.
    async fn follow(&self, job: JobId, after: u64, detail: Detail) -> anyhow::Result<Box<dyn Follow>>;

    /// All schedules, by name.
    async fn schedules(&self) -> anyhow::Result<Vec<ScheduleView>>;

    /// The schedule that a person means.
    async fn schedule(&self, given: &str) -> anyhow::Result<ScheduleView>;
}

/// How much of a job is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Detail {
    /// Every entry of its log; else at least the warnings.
    pub(crate) every_entry: bool,
    /// Which tasks run.
    pub(crate) running: bool,
}

/// Follows one job.
#[async_trait]
pub(crate) trait Follow: Send {
    /// What is to be seen next. Before a job that rests, all its entries come.
    async fn next(&mut self) -> anyhow::Result<Seen>;
}

/// What is to be seen of a job.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// An entry of its log.
    Entry(Box<LogEntry>),
    /// How it now is.
    Job(Box<JobSnapshot>),
}

/// Opens what `--state` or `--server` names, for reading the job `given`.
pub(crate) async fn open_for(app: &App, given: &str) -> anyhow::Result<Box<dyn Source>> {
    match open(app).await? {
        Some(source) => Ok(source),
        None => Err(Problem::usage(format!("there is no job {given}: {} holds no state", app.state()?))
            .hint("name the folder with --state or WINDLASS_STATE")
            .into()),
    }
}

/// As [`open_for`], for the schedule `given`.
pub(crate) async fn open_for_schedule(app: &App, given: &str) -> anyhow::Result<Box<dyn Source>> {
    match open(app).await? {
        Some(source) => Ok(source),
        None => Err(Problem::usage(format!("there is no schedule {given}: {} holds no state", app.state()?))
            .hint("name the folder with --state or WINDLASS_STATE")
            .into()),
    }
}

/// Opens what `--state` or `--server` names, for reading; `None` when nothing was ever stored in it.
pub(crate) async fn open(app: &App) -> anyhow::Result<Option<Box<dyn Source>>> {
    let state = app.state()?;
    if let State::Server(server) = &state {
        let client = server.client(&app.setting)?;
        return Ok(Some(Box::new(Remote::new(client))));
    }
    let store = state.read(&app.setting.clock).await?;
    Ok(store.map(|store| Box::new(Stored::new(store, &app.setting)) as Box<dyn Source>))
}
