//! Jobs read from a state store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use windlass_api::whole::mirror;
use windlass_api::{JobQuery, ScheduleView, WholeJob, WholeReport, WholeSummary};
use windlass_clock::SharedClock;
use windlass_engine::{JobSnapshot, Kinds, report, standing, view};
use windlass_model::JobId;
use windlass_model::log::LogEntry;
use windlass_store::{Revision, Store, keys};

use super::{Detail, Follow, Seen, Source};
use crate::state::Setting;

/// A job that changes all the time is looked at this often at most.
const BETWEEN: Duration = Duration::from_millis(250);
/// A job whose worker is gone changes nothing until another takes it up; it is looked at all the same.
const AT_LEAST: Duration = Duration::from_secs(5);
/// New log entries that are looked at in one go.
const ENTRIES: usize = 10_000;

/// A state store.
pub(crate) struct Stored {
    store: Arc<dyn Store>,
    kinds: Kinds,
    clock: SharedClock,
}

impl Stored {
    /// Reads `store`.
    pub(crate) fn new(store: Arc<dyn Store>, setting: &Setting) -> Self {
        Self { store, kinds: setting.kinds.clone(), clock: setting.clock.clone() }
    }
}

#[async_trait]
impl Source for Stored {
    async fn jobs(&self, _query: &JobQuery) -> anyhow::Result<Vec<WholeSummary>> {
        Ok(mirror(&view::jobs(&*self.store).await?)?)
    }

    async fn find(&self, given: &str) -> anyhow::Result<JobId> {
        Ok(view::find(&*self.store, given).await?)
    }

    async fn job(&self, job: JobId) -> anyhow::Result<WholeJob> {
        Ok(mirror(&view::job(&*self.store, &self.kinds, job, self.clock.wall()).await?)?)
    }

    async fn log(&self, job: JobId, after: u64, limit: usize) -> anyhow::Result<Vec<LogEntry>> {
        Ok(view::log(&*self.store, job, after, limit).await?)
    }

    async fn report(&self, job: JobId) -> anyhow::Result<WholeReport> {
        Ok(mirror(&report::make(&*self.store, &self.kinds, job, self.clock.wall()).await?)?)
    }

    async fn follow(&self, job: JobId, after: u64, detail: Detail) -> anyhow::Result<Box<dyn Follow>> {
        Ok(Box::new(Follower {
            store: self.store.clone(),
            clock: self.clock.clone(),
            job,
            detail,
            looked: None,
            seen: after,
            warnings: 0,
            ready: VecDeque::new(),
        }))
    }

    async fn schedules(&self) -> anyhow::Result<Vec<ScheduleView>> {
        let all = standing::list(&*self.store).await?;
        Ok(all.into_iter().map(windlass_server::schedule_view).collect())
    }

    async fn schedule(&self, given: &str) -> anyhow::Result<ScheduleView> {
        Ok(windlass_server::schedule_view(standing::find(&*self.store, given).await?))
    }
}

struct Follower {
    store: Arc<dyn Store>,
    clock: SharedClock,
    job: JobId,
    detail: Detail,
    /// Where the store was when the job was last read.
    looked: Option<Revision>,
    /// The number of the last entry that was told.
    seen: u64,
    warnings: u64,
    ready: VecDeque<Seen>,
}

impl Follower {
    /// Waits until the job may have changed. However the watch ends, looking again is right: a folder that another
    /// process holds is only looked at.
    async fn changed(&self, since: Revision) {
        let watched = async {
            if let Ok(mut watch) = self.store.watch(&keys::job_prefix(self.job), since).await {
                drop(watch.next().await);
            }
            self.clock.sleep(BETWEEN).await;
        };
        tokio::select! {
            () = watched => {}
            () = self.clock.sleep(AT_LEAST) => {}
        }
    }
}

#[async_trait]
impl Follow for Follower {
    async fn next(&mut self) -> anyhow::Result<Seen> {
        loop {
            if let Some(seen) = self.ready.pop_front() {
                return Ok(seen);
            }
            if let Some(since) = self.looked {
                self.changed(since).await;
            }
            // The revision first: what changes while the job is read is seen by the watch.
            self.looked = Some(self.store.revision().await?);
            let snapshot = JobSnapshot::read(&*self.store, self.job).await?;
            let news =
                if self.detail.every_entry { snapshot.last_log > self.seen } else { snapshot.warnings > self.warnings };
            if news {
                let entries = view::log(&*self.store, self.job, self.seen, ENTRIES).await?;
                self.seen = entries.last().map_or(self.seen, |entry| entry.n);
                self.ready.extend(entries.into_iter().map(|entry| Seen::Entry(Box::new(entry))));
                // The job is told when all that it has said so far is.
                if self.detail.every_entry && self.seen < snapshot.last_log {
                    self.looked = None;
                    continue;
                }
            }
            self.warnings = snapshot.warnings;
            self.ready.push_back(Seen::Job(Box::new(snapshot)));
        }
    }
}
