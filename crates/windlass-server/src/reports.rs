//! What jobs did; who works; what is held; who changed what.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::Value;
use windlass_api::{
    AuditList, AuditQuery, ClaimView, EffectCounts, JobId, LeftoverList, Report, ScheduleList, SharedHolder,
    SharedList, SharedResource, Unsuccessful, Whoami, WorkerId, WorkerList, WorkerView,
};
use windlass_engine::records::{JobRecord, decode};
use windlass_engine::report;
use windlass_store::{keys, read_all};

use crate::app::App;
use crate::body::Asked;
use crate::guard::Actor;
use crate::jobs;
use crate::refusal::{Answer, Refusal};

/// `GET /whoami`
pub(crate) async fn whoami(actor: Actor) -> Answer<Json<Whoami>> {
    Ok(Json(actor.who.ok_or_else(|| Refusal::unauthorized("no_token", "nobody knows who is asking"))?))
}

/// `GET /jobs/{job}/report`
pub(crate) async fn get(State(app): State<Arc<App>>, Path(given): Path<String>) -> Answer<Json<Report>> {
    let id = jobs::find(&app, &given).await?;
    Ok(Json(made(&app, id).await?))
}

/// What a job did so far.
pub(crate) async fn made(app: &App, id: JobId) -> Answer<Report> {
    let report = report::make(&**app.store(), app.engine.kinds(), id, app.clock.wall()).await?;
    let status = &report.status;
    Ok(Report {
        job: report.job,
        kind: report.kind,
        name: report.name,
        state: status.state.into(),
        result: status.result.map(Into::into),
        failure: status.failure.as_deref().cloned().map(Into::into),
        created: report.created,
        started: status.started,
        ended: status.ended,
        elapsed_ms: report.elapsed_ms,
        tasks: jobs::counts(&report.tasks),
        repeated_attempts: report.repeated_attempts,
        effects: report
            .effects
            .into_iter()
            .map(|(action, n)| {
                (action, EffectCounts { intended: n.intended, made: n.made, gone: n.gone, kept: n.kept })
            })
            .collect(),
        unsuccessful: report
            .unsuccessful
            .into_iter()
            .map(|task| Unsuccessful {
                task: task.task,
                outcome: task.outcome.to_owned(),
                failure: task.failure.map(Into::into),
                roots: task.roots,
            })
            .collect(),
        leftovers: report.leftovers.into_iter().map(Into::into).collect(),
        warnings: report.warnings.into_iter().map(Into::into).collect(),
        summary: report.summary,
    })
}

/// `GET /jobs/{job}/leftovers`
pub(crate) async fn leftovers(State(app): State<Arc<App>>, Path(given): Path<String>) -> Answer<Json<LeftoverList>> {
    let id = jobs::find(&app, &given).await?;
    let report = report::make(&**app.store(), app.engine.kinds(), id, app.clock.wall()).await?;
    Ok(Json(LeftoverList {
        script: report::clean_up_script(id, &report.leftovers),
        leftovers: report.leftovers.into_iter().map(Into::into).collect(),
    }))
}

/// Kind and name of a job, for lists of what is held.
async fn named(app: &App, job: JobId) -> Answer<(String, String)> {
    let entry = app.store().get(&keys::job(job)).await?;
    let record: Option<JobRecord> = entry.as_ref().map(decode).transpose()?;
    Ok(record.map(|record| (record.kind, record.name)).unwrap_or_default())
}

/// `GET /workers`
pub(crate) async fn workers(State(app): State<Arc<App>>) -> Answer<Json<WorkerList>> {
    Ok(Json(present(&app).await?))
}

/// Workers that are present, with what they hold.
pub(crate) async fn present(app: &App) -> Answer<WorkerList> {
    let mut workers: BTreeMap<WorkerId, WorkerView> = BTreeMap::new();
    let empty = |id: WorkerId| WorkerView {
        id,
        name: String::new(),
        host: None,
        pid: None,
        started: None,
        labels: BTreeMap::new(),
        task_types: Vec::new(),
        places: None,
        version: None,
        claims: Vec::new(),
    };
    for entry in read_all(&**app.store(), "worker/").await? {
        let Some(id) = keys::last_part::<WorkerId>(&entry.key) else { continue };
        let mut worker = empty(id);
        if let Ok(Value::Object(mut members)) = serde_json::from_slice(&entry.value) {
            members.insert("id".to_owned(), id.to_string().into());
            worker = serde_json::from_value(Value::Object(members)).unwrap_or(worker);
        }
        workers.insert(id, worker);
    }
    for entry in read_all(&**app.store(), keys::CLAIMS).await? {
        let job = keys::last_part::<JobId>(&entry.key);
        let worker = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse::<WorkerId>().ok());
        let Some((job, worker)) = job.zip(worker) else { continue };
        let (kind, name) = named(app, job).await?;
        workers.entry(worker).or_insert_with(|| empty(worker)).claims.push(ClaimView { job, name, kind });
    }
    let mut workers: Vec<WorkerView> = workers.into_values().collect();
    workers.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    Ok(WorkerList { workers })
}

/// `GET /shared`
pub(crate) async fn shared(State(app): State<Arc<App>>) -> Answer<Json<SharedList>> {
    Ok(Json(held(&app).await?))
}

/// What jobs hold.
pub(crate) async fn held(app: &App) -> Answer<SharedList> {
    let mut list = SharedList::default();
    for entry in read_all(&**app.store(), keys::SLOTS).await? {
        let key = entry.key.trim_start_matches(keys::SLOTS).to_owned();
        let job = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse::<JobId>().ok());
        let mut holders = Vec::new();
        if let Some(job) = job {
            let (kind, name) = named(app, job).await?;
            holders.push(SharedHolder { job, name, kind });
        }
        list.resources.push(SharedResource {
            key,
            sort: "exclusive".to_owned(),
            state: None,
            holders,
            size: Some(1),
            since: None,
            details: Value::Null,
        });
    }
    Ok(list)
}

/// `GET /schedules`
pub(crate) async fn schedules() -> Json<ScheduleList> {
    Json(ScheduleList::default())
}

/// `GET /audit`
pub(crate) async fn audit(State(app): State<Arc<App>>, Asked(query): Asked<AuditQuery>) -> Answer<Json<AuditList>> {
    Ok(Json(app.audit.list(&query).await?))
}
