//! Jobs: submitting, listing, reading, waiting for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;
use windlass_api::{
    BASE, Counts, JobDetail, JobList, JobQuery, JobState, JobSummary, PausedBy, SubmitRequest, Submitted, WaitFor, span,
};
use windlass_engine::records::{JobRecord, decode};
use windlass_engine::view;
use windlass_engine::{EngineError, JobRequest, JobSnapshot};
use windlass_model::JobId;
use windlass_model::job::{JobStatus, PauseReason};
use windlass_store::keys;

use crate::app::App;
use crate::body::{Asked, Whole};
use crate::commands;
use crate::guard::Actor;
use crate::idempotency::{Key, Known};
use crate::listing::{self, Counted, Wanted};
use crate::picture::{self, Fresh};
use crate::refusal::{Answer, Refusal};
use crate::{plans, schedules, submission};

/// Longest wait for something to happen.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The job that somebody means.
pub(crate) async fn find(app: &App, given: &str) -> Answer<JobId> {
    if let Ok(id) = given.parse::<JobId>()
        && app.store().get(&keys::job(id)).await?.is_some()
    {
        return Ok(id);
    }
    Ok(view::find(&**app.store(), given).await?)
}

/// `POST /jobs`
pub(crate) async fn submit(State(app): State<Arc<App>>, actor: Actor, whole: Whole) -> Answer<Response> {
    let request = submission::read(&whole, app.job_text.as_deref())?;
    let key = Key::of(actor.name(), &whole.headers, None, &asked(&request))?;
    let submitted = submit_as(&app, &actor, request, key).await?;
    let location = submitted.location.clone();
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(submitted)).into_response())
}

/// What a submission asks, for its idempotency key.
pub(crate) fn asked(request: &SubmitRequest) -> Vec<u8> {
    serde_json::to_vec(&json!({ "submit": request })).unwrap_or_default()
}

/// Submits a job, or stores a schedule, once for each key.
pub(crate) async fn submit_as(app: &App, actor: &Actor, request: SubmitRequest, key: Option<Key>) -> Answer<Submitted> {
    let (submission, expected) = (request.clone(), request.expect_plan.clone());
    let (request, schedule) = submission::check(request)?;
    let scheduled = schedule.is_some();
    let _alone = match &key {
        Some(key) => Some(app.idempotency.alone(key).await),
        None => None,
    };
    let mut id = app.engine.new_job_id();
    if let Some(key) = &key {
        match app.idempotency.begin(key, Some(id)).await? {
            Known::Begun(Some(before)) => {
                let there = match scheduled {
                    true => schedules::there(app, before).await?,
                    false => app.store().get(&keys::job(before)).await?.is_some(),
                };
                if there {
                    return Ok(submitted(before, scheduled));
                }
                id = before;
            }
            // A schedule that may be gone since.
            Known::Answered(answer) => {
                return serde_json::from_value(answer)
                    .map_err(|error| Refusal::internal(format!("the kept answer is damaged: {error}")));
            }
            Known::New | Known::Begun(None) => {}
        }
    }
    if let Some(expected) = &expected {
        plans::expect(app, &submission, expected).await?;
    }
    let details = json!({ "kind": request.kind, "name": request.name, "labels": request.labels });
    let result = match schedule {
        Some(schedule) => {
            let mut details = details;
            details["schedule"] = id.to_string().into();
            let begun = app.audit.begin(actor, "schedule.create", None, details).await?;
            let result = schedules::create(app, id, request, schedule).await;
            app.audit.end(begun, None, &result).await;
            result
        }
        None => {
            let begun = app.audit.begin(actor, "job.submit", Some(id), details).await?;
            let result = submit_job(app, id, request).await;
            app.audit.end(begun, Some(id), &result).await;
            result
        }
    };
    if let Some(key) = &key {
        match &result {
            Ok(id) if scheduled => {
                let answer = serde_json::to_value(submitted(*id, true)).unwrap_or_default();
                app.idempotency.end(key, Some(*id), answer).await;
            }
            Err(refusal) if refusal.status().is_client_error() => app.idempotency.forget(key).await,
            _ => {}
        }
    }
    result.map(|id| submitted(id, scheduled))
}

async fn submit_job(app: &App, id: JobId, request: JobRequest) -> Answer<JobId> {
    match app.engine.submit_under(id, request).await {
        // Another server that was asked with the same key may have been first.
        Err(EngineError::Store(windlass_store::StoreError::Unknown(why))) => {
            match app.store().get(&keys::job(id)).await {
                Ok(Some(_)) => Ok(id),
                _ => Err(windlass_store::StoreError::Unknown(why).into()),
            }
        }
        result => result.map_err(Refusal::from),
    }
}

fn submitted(id: JobId, scheduled: bool) -> Submitted {
    let list = if scheduled { "schedules" } else { "jobs" };
    Submitted { id, location: format!("{BASE}/{list}/{id}"), scheduled }
}

/// `GET /jobs`
pub(crate) async fn list(State(app): State<Arc<App>>, Asked(query): Asked<JobQuery>) -> Answer<Json<JobList>> {
    Ok(Json(listed(&app, &query).await?))
}

/// A page of jobs.
pub(crate) async fn listed(app: &App, query: &JobQuery) -> Answer<JobList> {
    let wanted = Wanted::of(query)?;
    let page = listing::page(&**app.store(), &wanted).await?;
    let counted = match wanted.after {
        None => listing::count(&**app.store(), &wanted).await?,
        Some(_) => Counted::default(),
    };
    let now = app.clock.wall();
    let told = |job: view::JobSummary| {
        let snapshot = app.engine.watch(job.id).map(|watch| watch.borrow().clone());
        summary(job, snapshot.as_ref(), now)
    };
    Ok(JobList {
        jobs: page.jobs.into_iter().map(told).collect(),
        next: page.next,
        by_state: counted.by_state,
        uncounted: counted.more,
    })
}

fn summary(job: view::JobSummary, snapshot: Option<&JobSnapshot>, now: jiff::Timestamp) -> JobSummary {
    let status = &job.status;
    JobSummary {
        state: status.state.into(),
        result: status.result.map(Into::into),
        started: status.started,
        ended: status.ended,
        since: status.since,
        elapsed_ms: elapsed_ms(status, now),
        needs_attention: matches!(status.pause_reason, Some(PauseReason::Attention { .. })),
        counts: snapshot.map(|snapshot| counts(&snapshot.counts)),
        work: snapshot.map(|snapshot| snapshot.work.into()),
        id: job.id,
        kind: job.kind,
        name: job.name,
        labels: job.labels,
        created: job.created,
    }
}

pub(crate) fn counts(from: &windlass_engine::Counts) -> Counts {
    Counts {
        waiting: from.waiting,
        running: from.running,
        succeeded: from.succeeded,
        failed: from.failed,
        ignored: from.ignored,
        cancelled: from.cancelled,
    }
}

fn elapsed_ms(status: &JobStatus, now: jiff::Timestamp) -> u64 {
    u64::try_from(status.elapsed(now).as_millis()).unwrap_or(u64::MAX)
}

/// Reads how long to wait.
pub(crate) fn wait(text: Option<&str>) -> Answer<Duration> {
    match text.map(span::parse) {
        None => Ok(Duration::ZERO),
        Some(Ok(wait)) => Ok(wait.min(LONGEST_WAIT)),
        Some(Err(why)) => Err(Refusal::bad_request("invalid_query", format!("wait: {why}"))),
    }
}

/// `GET /jobs/{job}`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path(given): Path<String>,
    Asked(asked): Asked<WaitFor>,
) -> Answer<Json<JobDetail>> {
    let id = find(&app, &given).await?;
    let limit = wait(asked.wait.as_deref())?;
    let came = async {
        loop {
            let revision = app.store().revision().await?;
            let mut states = app.store().watch(&keys::state(id), revision).await?;
            let mut heads = app.store().watch(&keys::head(id), revision).await?;
            let over = match asked.after {
                Some(after) => picture::version(&**app.store(), id).await?.0 > after,
                None => !status(&app, id).await?.state.is_active(),
            };
            if over {
                return Ok::<(), Refusal>(());
            }
            let changed = tokio::select! {
                changed = states.next() => changed,
                changed = heads.next() => changed,
                () = app.closing.cancelled() => return Ok(()),
            };
            if changed.is_err() {
                // The watch fell behind: look afresh, not at once.
                app.clock.sleep(Duration::from_millis(100)).await;
            }
        }
    };
    if !limit.is_zero()
        && let Ok(result) = windlass_clock::deadline(&*app.clock, limit, came).await
    {
        result?;
    }
    Ok(Json(detail(&app, id, Fresh::Exact).await?))
}

async fn status(app: &App, id: JobId) -> Answer<JobStatus> {
    let entry = app.store().get(&keys::state(id)).await?;
    Ok(decode(&entry.ok_or_else(|| EngineError::NoSuchJob(id.to_string()))?)?)
}

/// A job as it is.
pub(crate) async fn detail(app: &App, id: JobId, fresh: Fresh) -> Answer<JobDetail> {
    let store = &**app.store();
    let live = app.engine.watch(id).map(|watch| watch.borrow().clone());
    // Where the job runs here, its figures are known; the picture is for the reasons, and those may be a little old.
    let fresh = if live.is_some() { Fresh::Recent } else { fresh };
    let picture = app.pictures.get(store, app.engine.kinds(), &*app.clock, id, fresh).await?;
    let (version, last_log) = picture::version(store, id).await?;
    let status = status(app, id).await?;
    let record: &JobRecord = &picture.job.record;
    let now = app.clock.wall();
    let live = live.as_ref();
    Ok(JobDetail {
        id,
        kind: record.kind.clone(),
        name: record.name.clone(),
        spec: record.spec.clone(),
        labels: record.labels.clone(),
        priority: record.priority,
        deadline_ms: record.deadline_ms,
        state: status.state.into(),
        result: status.result.map(Into::into),
        failure: status.failure.as_deref().cloned().map(Into::into),
        created: record.created,
        started: status.started,
        ended: status.ended,
        since: status.since,
        paused: status.pause_reason.as_ref().map(|reason| match reason {
            PauseReason::Person => PausedBy::Person,
            PauseReason::Attention { failure } => PausedBy::Attention { failure: Box::new((**failure).clone().into()) },
        }),
        resume_at: status.resume_at,
        undo_at: status.undo_at,
        elapsed_ms: elapsed_ms(&status, now),
        generation: status.generation,
        counts: counts(live.map_or(&picture.job.counts, |live| &live.counts)),
        work: live.map_or(picture.job.work, |live| live.work).into(),
        rate: live.and_then(|live| live.rate),
        eta: live.and_then(|live| live.eta).map(Into::into),
        warnings: live.map_or(picture.job.warnings, |live| live.warnings),
        last_log,
        waiting_on: if status.state == picture.job.status.state { picture.job.waiting_on.clone() } else { Vec::new() },
        commands: commands::fitting(&status).into_iter().map(str::to_owned).collect(),
        version,
        status: Some(Box::new(status)),
    })
}

/// Jobs by state and kind, for the metrics.
pub(crate) async fn by_state_and_kind(app: &App) -> Answer<BTreeMap<(JobState, String), u64>> {
    let mut sums: BTreeMap<(JobState, String), u64> = BTreeMap::new();
    for job in view::jobs(&**app.store()).await? {
        *sums.entry((job.status.state.into(), job.kind)).or_default() += 1;
    }
    Ok(sums)
}
