//! Jobs as a server tells of them.

use async_trait::async_trait;
use windlass_api::whole::mirror;
use windlass_api::{
    Client, EventKind, Events, JobDetail, JobQuery, LogQuery, ScheduleView, TaskQuery, WholeJob, WholeReport,
    WholeSummary,
};
use windlass_engine::{EngineError, JobSnapshot, RunningTask};
use windlass_model::JobId;
use windlass_model::log::LogEntry;

use super::{Detail, Follow, Seen, Source};
use crate::problem::Problem;

/// Jobs of one page.
const JOBS: u32 = 500;
/// Log entries of one page.
const ENTRIES: usize = 5000;
/// Running tasks that are asked for.
const RUNNING: u32 = 16;

/// A server.
pub(crate) struct Remote {
    client: Client,
}

impl Remote {
    /// Asks the server of `client`.
    pub(crate) const fn new(client: Client) -> Self {
        Self { client }
    }
}

#[async_trait]
impl Source for Remote {
    async fn jobs(&self, query: &JobQuery) -> anyhow::Result<Vec<WholeSummary>> {
        let mut jobs = Vec::new();
        let mut query = JobQuery { limit: Some(JOBS), ..query.clone() };
        loop {
            let page = self.client.whole_jobs(&query).await?;
            jobs.extend(page.jobs);
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => return Ok(jobs),
            }
        }
    }

    async fn find(&self, given: &str) -> anyhow::Result<JobId> {
        Ok(self.client.job(given).await?.id)
    }

    async fn job(&self, job: JobId) -> anyhow::Result<WholeJob> {
        Ok(self.client.whole_job(&job.to_string()).await?)
    }

    async fn log(&self, job: JobId, after: u64, limit: usize) -> anyhow::Result<Vec<LogEntry>> {
        let (mut entries, mut after) = (Vec::new(), after);
        while entries.len() < limit {
            let wanted = (limit - entries.len()).min(ENTRIES);
            let query = LogQuery { after: Some(after), limit: u32::try_from(wanted).ok(), ..LogQuery::default() };
            let page = self.client.log(&job.to_string(), &query).await?;
            after = page.last;
            entries.extend(mirror::<Vec<LogEntry>>(&page.entries)?);
            if !page.more {
                break;
            }
        }
        Ok(entries)
    }

    async fn report(&self, job: JobId) -> anyhow::Result<WholeReport> {
        Ok(self.client.whole_report(&job.to_string()).await?)
    }

    async fn follow(&self, job: JobId, after: u64, detail: Detail) -> anyhow::Result<Box<dyn Follow>> {
        let events = self.client.follow(&job.to_string(), after);
        Ok(Box::new(Follower { client: self.client.clone(), events, job, detail, seen: after, held: None }))
    }

    async fn schedules(&self) -> anyhow::Result<Vec<ScheduleView>> {
        Ok(self.client.schedules().await?.schedules)
    }

    async fn schedule(&self, given: &str) -> anyhow::Result<ScheduleView> {
        Ok(self.client.schedule(given).await?)
    }
}

struct Follower {
    client: Client,
    events: Events,
    job: JobId,
    detail: Detail,
    /// The number of the last entry that was told.
    seen: u64,
    /// How the job is, until all that it has said by then has come.
    held: Option<Box<JobDetail>>,
}

impl Follower {
    async fn snapshot(&mut self, detail: JobDetail) -> anyhow::Result<JobSnapshot> {
        let mut running = Vec::new();
        if self.detail.running && detail.counts.running > 0 {
            let query = TaskQuery { state: Some("running".into()), limit: Some(RUNNING), ..TaskQuery::default() };
            let tasks = self.client.tasks(&self.job.to_string(), &query).await?.tasks;
            running.extend(tasks.into_iter().map(|task| RunningTask {
                name: task.name(),
                id: task.id,
                progress: task.progress.into(),
                since: task.since,
            }));
        }
        let status = detail.status.ok_or_else(|| {
            Problem::unreachable("the server is of an older version and does not say all that is asked for")
        })?;
        Ok(JobSnapshot {
            id: detail.id,
            name: detail.name,
            kind: detail.kind,
            status: *status,
            counts: mirror(&detail.counts)?,
            work: detail.work.into(),
            rate: detail.rate,
            eta: detail.eta.map(|eta| mirror(&eta)).transpose()?,
            running,
            last_log: detail.last_log,
            warnings: detail.warnings,
        })
    }
}

#[async_trait]
impl Follow for Follower {
    async fn next(&mut self) -> anyhow::Result<Seen> {
        loop {
            if let Some(detail) = self.held.take_if(|held| held.state.is_active() || held.last_log <= self.seen) {
                return Ok(Seen::Job(Box::new(self.snapshot(*detail).await?)));
            }
            let event = self.events.next().await?;
            match event.kind {
                EventKind::Log => {
                    if let Some(entry) = event.entry {
                        self.seen = entry.n;
                        return Ok(Seen::Entry(Box::new(mirror(&entry)?)));
                    }
                }
                EventKind::Status => self.held = event.status,
                EventKind::Deleted => return Err(EngineError::NoSuchJob(self.job.to_string()).into()),
                EventKind::Reset => self.seen = 0,
                EventKind::Bye => {}
            }
        }
    }
}
