//! Schedules: jobs that run again by themselves.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::json;
use windlass_api::{
    Fault, JobId, Role, RunCause, ScheduleAnswer, ScheduleCommand, ScheduleList, ScheduleRun, ScheduleView, Triggered,
};
use windlass_engine::standing::{Cause, Run};
use windlass_engine::{Engine, EngineError, JobRequest, StandingView};
use windlass_model::schedule::{Schedule, ScheduleFault};
use windlass_store::{StoreError, keys};

use crate::app::App;
use crate::body::Whole;
use crate::guard::{self, Actor};
use crate::idempotency::{Key, Known};
use crate::refusal::{Answer, Refusal};

/// What is wrong with a schedule, by the members of the request.
pub(crate) fn faults(faults: Vec<ScheduleFault>) -> Vec<Fault> {
    let member = |field: &'static str| match field {
        "every" => "every_ms",
        "jitter" => "jitter_ms",
        field => field,
    };
    faults.into_iter().map(|fault| Fault::new(format!("/schedule/{}", member(fault.field)), fault.why)).collect()
}

/// Stores a schedule under `id`, which was written down before.
pub(crate) async fn create(app: &App, id: JobId, request: JobRequest, schedule: Schedule) -> Answer<JobId> {
    match app.engine.standing_create_under(id, request, schedule).await {
        Ok(_) => Ok(id),
        Err(EngineError::Store(StoreError::Unknown(why))) => match there(app, id).await {
            Ok(true) => Ok(id),
            _ => Err(StoreError::Unknown(why).into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Whether there is a schedule with this id.
pub(crate) async fn there(app: &App, id: JobId) -> Answer<bool> {
    Ok(app.store().get(&keys::standing(&id.to_string())).await?.is_some())
}

/// A schedule as people see it.
#[must_use]
pub fn view(standing: StandingView) -> ScheduleView {
    let StandingView { record, request, .. } = standing;
    ScheduleView {
        id: record.id,
        name: request.name,
        kind: request.kind,
        schedule: record.schedule.into(),
        paused: record.paused,
        created: Some(record.created),
        next: record.next,
        runs: record.runs,
        history: record.history.into_iter().rev().map(run).collect(),
    }
}

fn run(run: Run) -> ScheduleRun {
    ScheduleRun {
        due: run.due,
        by: match run.by {
            Cause::Schedule => RunCause::Schedule,
            Cause::MadeUp => RunCause::MadeUp,
            Cause::Person => RunCause::Person,
        },
        job: run.job,
        began: run.began,
        state: run.end.map(|end| end.state.into()),
        result: run.end.and_then(|end| end.result).map(Into::into),
        note: run.note,
    }
}

/// All schedules.
pub(crate) async fn listed(app: &App) -> Answer<ScheduleList> {
    Ok(ScheduleList { schedules: app.engine.standing_list().await?.into_iter().map(view).collect() })
}

/// The schedule that somebody means.
pub(crate) async fn find(app: &App, given: &str) -> Answer<ScheduleView> {
    Ok(view(app.engine.standing_find(given).await?))
}

/// `GET /schedules`
pub(crate) async fn list(State(app): State<Arc<App>>) -> Answer<Json<ScheduleList>> {
    Ok(Json(listed(&app).await?))
}

/// `GET /schedules/{schedule}`
pub(crate) async fn get(State(app): State<Arc<App>>, Path(given): Path<String>) -> Answer<Json<ScheduleView>> {
    Ok(Json(find(&app, &given).await?))
}

/// `POST /schedules/{schedule}/commands`
pub(crate) async fn post(
    State(app): State<Arc<App>>,
    Path(given): Path<String>,
    actor: Actor,
    whole: Whole,
) -> Answer<Json<ScheduleAnswer>> {
    let command: ScheduleCommand = whole.json()?;
    let key = Key::of(actor.name(), &whole.headers, None, &asked(&given, command))?;
    Ok(Json(give(&app, &actor, &given, command, key).await?))
}

/// What a command asks, for its idempotency key. As it was given: of what is removed, nothing else is known.
pub(crate) fn asked(given: &str, command: ScheduleCommand) -> Vec<u8> {
    serde_json::to_vec(&json!({ "schedule": given, "command": command })).unwrap_or_default()
}

/// Gives a command to a schedule, once for each key.
pub(crate) async fn give(
    app: &App,
    actor: &Actor,
    given: &str,
    command: ScheduleCommand,
    key: Option<Key>,
) -> Answer<ScheduleAnswer> {
    if command == (ScheduleCommand::Delete {}) {
        guard::allow(app, actor, Role::Admin, "delete a schedule").await?;
    }
    let _alone = match &key {
        Some(key) => Some(app.idempotency.alone(key).await),
        None => None,
    };
    if let Some(key) = &key
        && let Known::Answered(answer) = app.idempotency.begin(key, None).await?
    {
        return serde_json::from_value(answer)
            .map_err(|error| Refusal::internal(format!("the kept answer is damaged: {error}")));
    }
    let found = find(app, given).await?;
    let details = json!({ "schedule": found.id, "name": found.name });
    let begun = app.audit.begin(actor, &format!("schedule.{}", command.name()), None, details).await?;
    let result = carry_out(&app.engine, found.id, command, key.as_ref().map(Key::request_id)).await;
    let result = result.map_err(Refusal::from);
    let job = result.as_ref().ok().and_then(|answer| answer.job);
    app.audit.end(begun, job, &result).await;
    if let (Some(key), Ok(answer)) = (&key, &result) {
        app.idempotency.end(key, None, serde_json::to_value(answer).unwrap_or_default()).await;
    }
    result
}

/// Gives a command to the schedule with this id.
///
/// # Errors
///
/// [`EngineError::NoSuchStanding`], or a failing store.
pub async fn carry_out(
    engine: &Engine,
    id: String,
    command: ScheduleCommand,
    request: Option<String>,
) -> Result<ScheduleAnswer, EngineError> {
    use windlass_engine::Triggered as Led;
    let mut answer = ScheduleAnswer {
        schedule: id,
        command: command.name().to_owned(),
        paused: None,
        next: None,
        triggered: None,
        job: None,
    };
    match command {
        ScheduleCommand::Pause {} | ScheduleCommand::Resume {} => {
            let record = match command {
                ScheduleCommand::Pause {} => engine.standing_pause(&answer.schedule).await?,
                _ => engine.standing_resume(&answer.schedule).await?,
            };
            answer.paused = Some(record.paused);
            answer.next = record.next;
        }
        ScheduleCommand::Trigger {} => {
            let (triggered, job) = match engine.standing_trigger(&answer.schedule, request).await? {
                Led::Began(job) => (Triggered::Began, Some(job)),
                Led::Waits => (Triggered::Waits, None),
                Led::LeftOut(job) => (Triggered::LeftOut, Some(job)),
            };
            answer.triggered = Some(triggered);
            answer.job = job;
        }
        ScheduleCommand::Delete {} => engine.standing_delete(&answer.schedule).await?,
    }
    Ok(answer)
}
