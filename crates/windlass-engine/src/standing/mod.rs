//! Standing jobs: requests that run again by themselves, by a [schedule](windlass_model::schedule).
//!
//! A standing job is two records: `standing/<id>`, which changes with each run, and `standing-request/<id>`, which
//! changes when a person edits it. `advance` is the one place where the first changes because of time: it begins the
//! runs that are due in the transaction that moves `next` on. That transaction compares the version of the record, and
//! the id of the job is a function of the standing job and of the due time; so two processes that believe to be in
//! charge, or one that was not told of its own commit, begin a run once.
//!
//! `scheduler` decides who is in charge, and wakes up when something is due.

mod advance;
mod read;
mod record;
pub(crate) mod scheduler;

use std::collections::HashMap;

use jiff::Timestamp;
use windlass_model::JobId;
use windlass_model::schedule::Schedule;
use windlass_store::{Committed, Compare, Entry, Txn, budget, keys};

pub use self::read::{find, list};
pub use self::record::{Cause, Run, RunEnd, StandingRecord, StandingRequest};

use self::advance::{Ordered, advance};
use crate::EngineError;
use crate::coordinator::plan_failure;
use crate::engine::{Engine, JobRequest};
use crate::kind::PlanContext;
use crate::records::{decode, encode};

/// A standing job as people see it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct StandingView {
    /// What changes with each run.
    #[serde(flatten)]
    pub record: StandingRecord,
    /// Its request.
    pub request: StandingRequest,
    /// Names this state of it; an edit tells which one it was made from.
    pub version: u64,
}

/// What a trigger has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Triggered {
    /// A run has begun.
    Began(JobId),
    /// A run waits for the end of the one before it.
    Waits,
    /// The run before it has not ended, and the schedule says to leave such runs out.
    LeftOut(JobId),
}

fn too_large(bytes: usize) -> EngineError {
    EngineError::ValueTooLarge { bytes, most: budget::VALUE_BYTES }
}

impl Engine {
    /// Stores a standing job. Its first run is due at the first time of the schedule from now on.
    ///
    /// # Errors
    ///
    /// [`EngineError::Schedule`] or those of [`Engine::submit`], and nothing is stored; [`EngineError::StandingName`]
    /// when there is one of this name.
    pub async fn standing_create(&self, request: JobRequest, schedule: Schedule) -> Result<String, EngineError> {
        self.standing_create_under(self.new_job_id(), request, schedule).await
    }

    /// Stores a standing job under an id that [`Engine::new_job_id`] gave. Asked again with the same id, it leaves what
    /// is there as it is: whoever wrote the id down first may ask until there is an answer.
    ///
    /// # Errors
    ///
    /// As [`Engine::standing_create`].
    pub async fn standing_create_under(
        &self,
        id: JobId,
        request: JobRequest,
        schedule: Schedule,
    ) -> Result<String, EngineError> {
        let id = id.to_string();
        if self.shared().store.get(&keys::standing(&id)).await?.is_some() {
            return Ok(id);
        }
        let table = schedule.timetable().map_err(EngineError::Schedule)?;
        self.check_request(&request).await?;
        if self.standing_list().await?.iter().any(|standing| standing.request.name == request.name) {
            return Err(EngineError::StandingName(request.name));
        }
        let now = self.now();
        let record = StandingRecord {
            id: id.clone(),
            schedule,
            paused: false,
            created: now,
            next: table.next(now, now),
            waiting: Vec::new(),
            history: Vec::new(),
            runs: 0,
        };
        let request = encode(&StandingRequest::from(request));
        if request.len() > budget::VALUE_BYTES {
            return Err(too_large(request.len()));
        }
        let key = keys::standing(&id);
        let txn = Txn::new()
            .when(Compare::Absent(key.clone()))
            .put(key, encode(&record))
            .put(keys::standing_request(&id), request);
        self.shared().commit(txn, "standing").await?;
        Ok(id)
    }

    /// All standing jobs, by name.
    ///
    /// # Errors
    ///
    /// A failing store, or a record that cannot be read.
    pub async fn standing_list(&self) -> Result<Vec<StandingView>, EngineError> {
        list(&*self.shared().store).await
    }

    /// One standing job, by its name, its id, or the beginning or end of its id. Its history is in its record.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoSuchStanding`], [`EngineError::Ambiguous`].
    pub async fn standing_find(&self, given: &str) -> Result<StandingView, EngineError> {
        find(&*self.shared().store, given).await
    }

    /// The runs of a standing job, newest first; the last 50 are kept.
    ///
    /// # Errors
    ///
    /// As [`Engine::standing_find`].
    pub async fn standing_history(&self, given: &str) -> Result<Vec<Run>, EngineError> {
        let mut runs = self.standing_find(given).await?.record.history;
        runs.reverse();
        Ok(runs)
    }

    /// Holds a standing job: nothing of it begins by itself. What runs goes on.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoSuchStanding`].
    pub async fn standing_pause(&self, id: &str) -> Result<StandingRecord, EngineError> {
        self.change(id, |record, _| {
            record.paused = true;
            Ok(())
        })
        .await
    }

    /// Lets a standing job go on. What was due meanwhile is left out.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoSuchStanding`].
    pub async fn standing_resume(&self, id: &str) -> Result<StandingRecord, EngineError> {
        self.change(id, |record, now| {
            if record.paused {
                let table = record.schedule.timetable().map_err(EngineError::Schedule)?;
                record.paused = false;
                record.next = table.next(record.created, now);
            }
            Ok(())
        })
        .await
    }

    /// Begins a run now, also of a standing job that is held. A run that has not ended is treated as the schedule says.
    /// The same `request` id twice begins one run.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoSuchStanding`].
    pub async fn standing_trigger(&self, id: &str, request: Option<String>) -> Result<Triggered, EngineError> {
        let request = request.unwrap_or_else(|| self.new_job_id().to_string());
        let session = self.session().await?;
        let ordered = Ordered { request };
        let advanced = advance(self.shared(), &session, id, Some(&ordered)).await?;
        let advanced = advanced.ok_or_else(|| EngineError::NoSuchStanding(id.to_owned()))?;
        Ok(advanced.triggered.unwrap_or(Triggered::Waits))
    }

    /// Replaces the schedule or the request. `version` is that of the [view](StandingView) that the edit was made from.
    ///
    /// # Errors
    ///
    /// [`EngineError::StandingChanged`] when it has changed since; else as [`Engine::standing_create`].
    pub async fn standing_edit(
        &self,
        id: &str,
        version: u64,
        request: Option<JobRequest>,
        schedule: Option<Schedule>,
    ) -> Result<StandingRecord, EngineError> {
        if let Some(request) = &request {
            self.check_request(request).await?;
        }
        let table = schedule.as_ref().map(Schedule::timetable).transpose().map_err(EngineError::Schedule)?;
        let (entry, mut record) = self.standing_entry(id).await?;
        if entry.version.0 != version {
            return Err(EngineError::StandingChanged(id.to_owned()));
        }
        if let (Some(schedule), Some(table)) = (schedule, table) {
            let now = self.now();
            record.schedule = schedule;
            record.next = table.next(record.created, now);
        }
        let mut txn =
            Txn::new().when(Compare::Version(entry.key.clone(), entry.version)).put(entry.key, encode(&record));
        if let Some(request) = request {
            let text = encode(&StandingRequest::from(request));
            if text.len() > budget::VALUE_BYTES {
                return Err(too_large(text.len()));
            }
            txn = txn.put(keys::standing_request(id), text);
        }
        match self.shared().commit(txn, "standing").await? {
            Committed::At(_) => Ok(record),
            Committed::Conflict(_) => Err(EngineError::StandingChanged(id.to_owned())),
        }
    }

    /// Removes a standing job. The jobs that it began stay.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoSuchStanding`].
    pub async fn standing_delete(&self, id: &str) -> Result<(), EngineError> {
        self.standing_entry(id).await?;
        let txn = Txn::new().delete(keys::standing(id)).delete(keys::standing_request(id));
        self.shared().commit(txn, "standing").await?;
        Ok(())
    }

    /// What [`Engine::submit`] checks, long before the first run.
    async fn check_request(&self, request: &JobRequest) -> Result<(), EngineError> {
        let kind = self.checked_kind(request)?;
        let context = PlanContext {
            job: self.new_job_id(),
            generation: 1,
            clock: self.shared().clock.clone(),
            entropy: self.shared().entropy.clone(),
        };
        let plan = kind.plan(&context, &request.spec).await.map_err(|failure| EngineError::Plan(Box::new(failure)))?;
        plan.check(&HashMap::new(), self.kinds()).map_err(|faults| EngineError::Plan(Box::new(plan_failure(&faults))))
    }

    async fn standing_entry(&self, id: &str) -> Result<(Entry, StandingRecord), EngineError> {
        let entry = self.shared().store.get(&keys::standing(id)).await?;
        let entry = entry.ok_or_else(|| EngineError::NoSuchStanding(id.to_owned()))?;
        let record = decode(&entry)?;
        Ok((entry, record))
    }

    /// Changes a record, again if somebody else did at the same moment.
    async fn change(
        &self,
        id: &str,
        change: impl Fn(&mut StandingRecord, Timestamp) -> Result<(), EngineError>,
    ) -> Result<StandingRecord, EngineError> {
        loop {
            let (entry, mut record) = self.standing_entry(id).await?;
            let before = record.clone();
            change(&mut record, self.now())?;
            if record == before {
                return Ok(record);
            }
            let txn =
                Txn::new().when(Compare::Version(entry.key.clone(), entry.version)).put(entry.key, encode(&record));
            if let Committed::At(_) = self.shared().commit(txn, "standing").await? {
                return Ok(record);
            }
        }
    }
}
