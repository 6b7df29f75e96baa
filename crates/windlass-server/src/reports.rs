//! What jobs did; who changed what.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use windlass_api::{AuditList, AuditQuery, EffectCounts, JobId, LeftoverList, Report, Unsuccessful, Whoami};
use windlass_engine::report;

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

/// `GET /audit`
pub(crate) async fn audit(State(app): State<Arc<App>>, Asked(query): Asked<AuditQuery>) -> Answer<Json<AuditList>> {
    Ok(Json(app.audit.list(&query).await?))
}
