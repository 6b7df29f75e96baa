//! The records of standing jobs, and what is due of one: a function of its record and the time.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use windlass_model::JobId;
use windlass_model::job::{JobResult, JobState};
use windlass_model::schedule::{Misfire, Overlap, Schedule, Timetable};

use crate::engine::JobRequest;

/// Runs that are remembered.
pub(super) const HISTORY: usize = 50;

/// What a standing job submits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StandingRequest {
    /// Which kind runs it.
    pub kind: String,
    /// What people call it, and its runs.
    pub name: String,
    /// What its runs shall do.
    pub spec: Value,
    /// For people and filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Larger goes first.
    #[serde(default)]
    pub priority: i32,
    /// Milliseconds after which a run is given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Milliseconds after whose end a run undoes itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_after_ms: Option<u64>,
}

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<JobRequest> for StandingRequest {
    fn from(request: JobRequest) -> Self {
        Self {
            kind: request.kind,
            name: request.name,
            spec: request.spec,
            labels: request.labels,
            priority: request.priority,
            deadline_ms: request.deadline.map(in_ms),
            undo_after_ms: request.undo_after.map(in_ms),
        }
    }
}

/// Why a run was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It was due.
    Schedule,
    /// It was due while nobody was there, and is made up for.
    MadeUp,
    /// A person asked.
    Person,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunEnd {
    /// Where its job was.
    pub state: JobState,
    /// The verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
}

/// One run, or one that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// When it was due.
    pub due: Timestamp,
    /// Why it was begun.
    pub by: Cause,
    /// Its job; `None`: it was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// When it was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<Timestamp>,
    /// How it ended; `None` while it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<RunEnd>,
    /// The id of the request that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Why it was left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A run that waits to be begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub(crate) due: Timestamp,
    pub(crate) by: Cause,
    pub(crate) job: JobId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<String>,
}

/// A standing job, as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StandingRecord {
    /// Names it.
    pub id: String,
    /// When it is due.
    pub schedule: Schedule,
    /// Whether a person holds it.
    #[serde(default)]
    pub paused: bool,
    /// When it was created: what even distances are counted from.
    pub created: Timestamp,
    /// When it is due next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// Runs that wait for the end of the one before them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) waiting: Vec<Waiting>,
    /// Its last runs, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Run>,
    /// Runs that it has begun.
    #[serde(default)]
    pub runs: u64,
}

/// The id of the job of a run: the same for the same due time, whoever asks.
pub(crate) fn job_of(id: &str, due: Timestamp, what: &str) -> JobId {
    let mut hash = Sha256::new();
    hash.update((id.len() as u64).to_be_bytes());
    hash.update(id);
    hash.update(due.as_millisecond().to_be_bytes());
    hash.update(what);
    let bytes = hash.finalize();
    let mut bits = [0; 16];
    bits.copy_from_slice(&bytes[..16]);
    JobId::new(u64::try_from(due.as_millisecond()).unwrap_or(0), u128::from_be_bytes(bits))
}

impl StandingRecord {
    /// Jobs of runs that have not ended.
    pub(crate) fn running(&self) -> Vec<JobId> {
        self.history.iter().filter(|run| run.end.is_none()).filter_map(|run| run.job).collect()
    }

    /// Runs that wait for the end of the one before them.
    #[must_use]
    pub fn waiting_runs(&self) -> usize {
        self.waiting.len()
    }

    /// When it has to be looked at next.
    pub(crate) fn wakes_at(&self, table: &Timetable) -> Option<Timestamp> {
        let next = self.next.filter(|_| !self.paused)?;
        let jitter = i64::try_from(table.jitter(&self.id, next).as_millis()).unwrap_or(0);
        Timestamp::from_millisecond(next.as_millisecond().saturating_add(jitter)).ok()
    }

    /// Whether a run waits and nothing keeps it.
    pub(crate) fn can_begin(&self) -> bool {
        !self.waiting.is_empty() && (self.schedule.overlap == Overlap::Allow || self.running().is_empty())
    }

    fn remember(&mut self, run: Run) {
        self.history.push(run);
        while self.history.len() > HISTORY {
            // What still runs is needed: it decides about what comes next.
            let oldest = self.history.iter().position(|run| run.job.is_none() || run.end.is_some());
            self.history.remove(oldest.unwrap_or(0));
        }
    }

    fn leave_out(&mut self, due: Timestamp, by: Cause, note: String) {
        self.remember(Run { due, by, job: None, began: None, end: None, request: None, note: Some(note) });
    }

    /// Takes in what is due at `now`. Returns the jobs that must be cancelled for it.
    pub(crate) fn take_in(&mut self, table: &Timetable, now: Timestamp) -> Vec<JobId> {
        let mut cancel = Vec::new();
        if self.paused || self.wakes_at(table).is_none_or(|at| at > now) {
            return cancel;
        }
        let Some(next) = self.next else { return cancel };
        let due = table.due(self.created, next, now);
        self.next = due.next;
        if due.left_out > 0 {
            let note = format!("{} run(s) that were due while nobody was there are left out", due.left_out);
            self.leave_out(next, Cause::Schedule, note);
        }
        for at in due.run {
            let by = if now.as_millisecond() - at.as_millisecond() > 60_000 { Cause::MadeUp } else { Cause::Schedule };
            let job = job_of(&self.id, at, "due");
            cancel.extend(self.order(Waiting { due: at, by, job, request: None }));
        }
        cancel
    }

    /// Orders a run, as the overlap policy has it. Returns the jobs that must be cancelled for it.
    pub(crate) fn order(&mut self, run: Waiting) -> Vec<JobId> {
        let running = self.running();
        let is_busy = !running.is_empty() || !self.waiting.is_empty();
        match self.schedule.overlap {
            Overlap::Skip if is_busy => {
                self.leave_out(run.due, run.by, "the run before it had not ended".to_owned());
            }
            Overlap::Queue if is_busy => {
                let room = if self.schedule.misfire == Misfire::RunAll { self.schedule.catch_up.max(1) } else { 1 };
                if self.waiting.len() >= usize::try_from(room).unwrap_or(1) {
                    self.leave_out(run.due, run.by, "another run waits already".to_owned());
                } else {
                    self.waiting.push(run);
                }
            }
            Overlap::CancelRunning => {
                for waiting in std::mem::take(&mut self.waiting) {
                    self.leave_out(waiting.due, waiting.by, "a newer run took its place".to_owned());
                }
                self.waiting.push(run);
                return running;
            }
            Overlap::Skip | Overlap::Queue | Overlap::Allow => self.waiting.push(run),
        }
        Vec::new()
    }

    /// Takes the next run that may begin.
    pub(crate) fn begin(&mut self, now: Timestamp) -> Option<Waiting> {
        if !self.can_begin() {
            return None;
        }
        let run = self.waiting.remove(0);
        self.runs += 1;
        let (job, request) = (Some(run.job), run.request.clone());
        self.remember(Run { due: run.due, by: run.by, job, began: Some(now), end: None, request, note: None });
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn standing(overlap: Overlap) -> (StandingRecord, Timetable) {
        let schedule = Schedule { every_ms: Some(10_000), overlap, catch_up: 1, ..Schedule::default() };
        let table = schedule.timetable().unwrap();
        let record = StandingRecord {
            id: "s".into(),
            schedule,
            paused: false,
            created: at(0),
            next: Some(at(10)),
            waiting: Vec::new(),
            history: Vec::new(),
            runs: 0,
        };
        (record, table)
    }

    fn round(record: &mut StandingRecord, table: &Timetable, now: i64) -> (usize, Vec<JobId>) {
        let cancel = record.take_in(table, at(now));
        let mut begun = 0;
        while record.begin(at(now)).is_some() {
            begun += 1;
        }
        (begun, cancel)
    }

    fn end_all(record: &mut StandingRecord) {
        for run in &mut record.history {
            run.end.get_or_insert(RunEnd { state: JobState::Completed, result: Some(JobResult::Succeeded) });
        }
    }

    #[test]
    fn the_overlap_policy_decides_about_a_run_that_is_due_too_early() {
        for (overlap, second, later) in
            [(Overlap::Skip, 0, 0), (Overlap::Queue, 0, 1), (Overlap::CancelRunning, 0, 1), (Overlap::Allow, 1, 0)]
        {
            let (mut record, table) = standing(overlap);
            assert_eq!(round(&mut record, &table, 10), (1, vec![]), "{overlap:?}");
            let first = record.running();
            let (begun, cancel) = round(&mut record, &table, 20);
            assert_eq!((begun, record.next), (second, Some(at(30))), "{overlap:?}");
            assert_eq!(cancel, if overlap == Overlap::CancelRunning { first } else { vec![] }, "{overlap:?}");
            // A third one finds one waiting.
            let _ = round(&mut record, &table, 30);
            assert!(record.waiting.len() <= 1, "{overlap:?}");
            end_all(&mut record);
            let (begun, _) = round(&mut record, &table, 31);
            assert_eq!(begun, later, "{overlap:?}");
        }
    }

    #[test]
    fn the_history_is_bounded_and_keeps_what_runs() {
        let (mut record, table) = standing(Overlap::Skip);
        for n in 1..200 {
            let _ = round(&mut record, &table, n * 10);
        }
        assert_eq!((record.history.len(), record.runs), (HISTORY, 1));
        assert_eq!(record.running(), [job_of("s", at(10), "due")]);
    }

    #[test]
    fn a_paused_one_takes_in_nothing() {
        let (mut record, table) = standing(Overlap::Allow);
        record.paused = true;
        assert_eq!(round(&mut record, &table, 1_000), (0, vec![]));
        assert_eq!(record.next, Some(at(10)));
    }
}
