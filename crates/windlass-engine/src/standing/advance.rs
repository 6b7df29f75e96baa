//! Moving a standing job on: what is due begins in the transaction that says that it has.

use std::sync::Arc;

use windlass_model::JobId;
use windlass_model::job::JobStatus;
use windlass_store::{Committed, Compare, Store, StoreError, Txn, keys};

use super::Triggered;
use super::record::{Cause, RunEnd, StandingRecord, StandingRequest, Waiting, job_of};
use crate::EngineError;
use crate::asks;
use crate::engine::Shared;
use crate::follow::recover;
use crate::lease::Session;
use crate::records::{JobRecord, decode, encode};

/// Runs begun in one transaction; more follow in the next.
const AT_ONCE: usize = 16;
/// Bytes of one transaction, by the same rule.
const BYTES: usize = 256 * 1024;

/// A run that a person asks for.
#[derive(Debug)]
pub(crate) struct Ordered {
    /// Asking twice under the same id begins one run.
    pub(crate) request: String,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Advanced {
    /// The record as it is now.
    pub(crate) record: StandingRecord,
    /// What became of the run that was asked for.
    pub(crate) triggered: Option<Triggered>,
}

/// Looks up how runs ended that had not when the record was written.
pub(crate) async fn refresh(store: &dyn Store, record: &mut StandingRecord) -> Result<(), EngineError> {
    for run in &mut record.history {
        let (Some(job), None) = (run.job, run.end) else { continue };
        match store.get(&keys::state(job)).await? {
            Some(entry) => {
                let status: JobStatus = decode(&entry)?;
                if !status.state.is_active() {
                    run.end = Some(RunEnd { state: status.state, result: status.result });
                }
            }
            // Its records are gone, and so is whatever it would still have done.
            None => run.end = Some(RunEnd { state: windlass_model::job::JobState::Finished, result: None }),
        }
    }
    Ok(())
}

fn job_record(id: &str, request: &StandingRequest, run: &Waiting, now: jiff::Timestamp) -> JobRecord {
    let mut labels = request.labels.clone();
    labels.insert("standing".to_owned(), id.to_owned());
    JobRecord {
        id: run.job,
        kind: request.kind.clone(),
        name: request.name.clone(),
        spec: request.spec.clone(),
        large_spec: None,
        labels,
        priority: request.priority,
        deadline_ms: request.deadline_ms,
        undo_after_ms: request.undo_after_ms,
        created: now,
        preview: false,
    }
}

/// Takes in what is due of a standing job and begins what may begin. `None`: there is no such standing job.
pub(crate) async fn advance(
    shared: &Arc<Shared>,
    session: &Arc<Session>,
    id: &str,
    ordered: Option<&Ordered>,
) -> Result<Option<Advanced>, EngineError> {
    let store = &*shared.store;
    let mut begun = false;
    let advanced = loop {
        let Some(entry) = store.get(&keys::standing(id)).await? else { return Ok(None) };
        let mut record: StandingRecord = decode(&entry)?;
        let before = record.clone();
        let now = shared.clock.wall();
        refresh(store, &mut record).await?;
        let mut cancel: Vec<JobId> = Vec::new();
        let mut triggered = None;
        let mut wanted = None;
        if let Some(ordered) = ordered {
            let request = Some(ordered.request.clone());
            let known = record.history.iter().find(|run| run.request == request).and_then(|run| run.job);
            if let Some(job) = known {
                triggered = Some(Triggered::Began(job));
            } else if record.waiting.iter().any(|run| run.request == request) {
                triggered = Some(Triggered::Waits);
            } else {
                let job = job_of(id, now, &ordered.request);
                wanted = Some(job);
                let running = record.running();
                cancel.extend(record.order(Waiting { due: now, by: Cause::Person, job, request }));
                let waits = record.waiting.iter().any(|run| run.job == job);
                triggered = Some(match running.first() {
                    Some(busy) if !waits => Triggered::LeftOut(*busy),
                    _ => Triggered::Waits,
                });
            }
        }
        let table = record.schedule.timetable().map_err(EngineError::Schedule)?;
        cancel.extend(record.take_in(&table, now));
        let mut txn = Txn::new().when(Compare::Version(entry.key.clone(), entry.version));
        let mut size = 0;
        if record.can_begin() {
            let Some(request) = store.get(&keys::standing_request(id)).await? else { return Ok(None) };
            let request: StandingRequest = decode(&request)?;
            for _ in 0..AT_ONCE {
                if size > BYTES {
                    break;
                }
                let Some(run) = record.begin(now) else { break };
                if wanted == Some(run.job) {
                    triggered = Some(Triggered::Began(run.job));
                }
                let job = encode(&job_record(id, &request, &run, now));
                size += job.len();
                txn = txn
                    .when(Compare::Absent(keys::job(run.job)))
                    .put(keys::job(run.job), job)
                    .put(keys::state(run.job), encode(&JobStatus::new(now)))
                    .put(keys::active(run.job), bytes::Bytes::new());
            }
        }
        if record == before {
            break Advanced { record, triggered };
        }
        for job in cancel {
            let (key, ask) = asks::cancel_for_newer(session, job);
            txn = txn.put(key, ask);
        }
        match shared.commit(txn.put(entry.key, encode(&record)), "standing").await {
            Ok(Committed::At(_)) => {
                begun |= size > 0;
                if !record.can_begin() {
                    break Advanced { record, triggered };
                }
            }
            // Somebody else was faster; what they did is read.
            Ok(Committed::Conflict(_)) => {}
            // Read again: what was applied is not due any more.
            Err(EngineError::Store(StoreError::Unknown(_))) => begun = true,
            Err(error) => return Err(error),
        }
    };
    if begun {
        recover(shared, session).await?;
    }
    Ok(Some(advanced))
}
