//! Commands to jobs.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde_json::{Value, json};
use windlass_api::{CommandAnswer, CommandRequest, Fault, Problem, Role, span};
use windlass_engine::{Command, CommandReply};
use windlass_model::JobId;
use windlass_model::job::{JobEvent, JobStatus, PauseReason};

use crate::app::App;
use crate::body::Whole;
use crate::guard::{self, Actor};
use crate::idempotency::{Key, Known};
use crate::jobs;
use crate::refusal::{Answer, Refusal};

/// `POST /jobs/{job}/commands`
pub(crate) async fn post(
    State(app): State<Arc<App>>,
    Path(given): Path<String>,
    actor: Actor,
    whole: Whole,
) -> Answer<Json<CommandAnswer>> {
    let request: CommandRequest = whole.json()?;
    let id = jobs::find(&app, &given).await?;
    let key = Key::of(actor.name(), &whole.headers, None, &asked(id, &request))?;
    Ok(Json(give(&app, &actor, id, request, key).await?))
}

/// What a command asks, for its idempotency key.
pub(crate) fn asked(id: JobId, request: &CommandRequest) -> Vec<u8> {
    serde_json::to_vec(&json!({ "job": id, "command": request })).unwrap_or_default()
}

/// Gives a command to a job, once for each key.
pub(crate) async fn give(
    app: &App,
    actor: &Actor,
    id: JobId,
    request: CommandRequest,
    key: Option<Key>,
) -> Answer<CommandAnswer> {
    if matches!(request, CommandRequest::Delete { .. }) {
        guard::allow(app, actor, Role::Admin, "delete a job").await?;
    }
    let command = command(&request, app.clock.wall(), actor)?;
    let _alone = match &key {
        Some(key) => Some(app.idempotency.alone(key).await),
        None => None,
    };
    if let Some(key) = &key
        && let Known::Answered(answer) = app.idempotency.begin(key, None).await?
    {
        return replay(answer);
    }
    let details = serde_json::to_value(&request).unwrap_or_default();
    let begun = app.audit.begin(actor, &format!("job.{}", request.name()), Some(id), details).await?;
    let asked = key.as_ref().map(Key::request_id);
    let result = match app.engine.command(id, command, asked).await {
        Ok(reply) => reply_to(id, &request, reply),
        Err(error) => Err(error.into()),
    };
    app.audit.end(begun, None, &result).await;
    if let Some(key) = &key {
        match &result {
            Ok(answer) => app.idempotency.end(key, None, serde_json::to_value(answer).unwrap_or_default()).await,
            // What was refused was judged by how the job was then: the same answer, as for what was done.
            Err(refusal) if refusal.status() == http::StatusCode::CONFLICT => {
                let answer = json!({ "problem": refusal.problem() });
                app.idempotency.end(key, None, answer).await;
            }
            Err(_) => {}
        }
    }
    result
}

fn replay(answer: Value) -> Answer<CommandAnswer> {
    let damaged = |error: serde_json::Error| Refusal::internal(format!("the kept answer is damaged: {error}"));
    match answer.get("problem") {
        Some(problem) => {
            let problem: Problem = serde_json::from_value(problem.clone()).map_err(damaged)?;
            Err(Refusal::of_problem(problem))
        }
        None => serde_json::from_value(answer).map_err(damaged),
    }
}

fn reply_to(id: JobId, request: &CommandRequest, reply: CommandReply) -> Answer<CommandAnswer> {
    let command = request.name().to_owned();
    match reply {
        CommandReply::Done(status) => Ok(CommandAnswer {
            job: id,
            command,
            state: Some(status.state.into()),
            result: status.result.map(Into::into),
            resume_at: status.resume_at,
            undo_at: status.undo_at,
            leftovers: Vec::new(),
            status: Some(status),
        }),
        CommandReply::Deleted { status, leftovers } => Ok(CommandAnswer {
            job: id,
            command,
            state: None,
            result: status.result.map(Into::into),
            resume_at: None,
            undo_at: None,
            leftovers: leftovers.into_iter().map(Into::into).collect(),
            status: Some(status),
        }),
        CommandReply::Refused(why) => Err(Refusal::conflict("refused", format!("{command} job {id}: {why}"))),
    }
}

/// The engine's command.
fn command(request: &CommandRequest, now: Timestamp, actor: &Actor) -> Answer<Command> {
    let invalid = |pointer: &str, why: String| {
        Refusal::invalid("invalid_command", format!("the command has a fault: {why}"), vec![Fault::new(pointer, why)])
    };
    let length =
        |pointer: &str, text: &str| -> Answer<Duration> { span::parse(text).map_err(|why| invalid(pointer, why)) };
    Ok(match request {
        CommandRequest::Pause { for_: Some(_), until: Some(_) } => {
            return Err(invalid("/until", "give `for` or `until`, not both".to_owned()));
        }
        CommandRequest::Pause { for_: Some(text), until: None } => {
            // A pause beyond the end of time has no end.
            Command::Pause { until: now.checked_add(length("/for", text)?).ok() }
        }
        CommandRequest::Pause { for_: None, until } => Command::Pause { until: *until },
        CommandRequest::Resume => Command::Resume,
        CommandRequest::Cancel { undo } => Command::Cancel { undo: *undo },
        CommandRequest::Undo => Command::Undo,
        CommandRequest::Confirm => Command::Confirm,
        CommandRequest::IgnoreLeftovers => Command::IgnoreLeftovers,
        CommandRequest::Retry { failed_only, from, inputs } => {
            Command::Retry { failed_only: *failed_only && from.is_none(), from: from.clone(), inputs: inputs.clone() }
        }
        CommandRequest::Approve { task, note } => {
            Command::Approve { task: task.clone(), by: actor.name().to_owned(), note: note.clone() }
        }
        CommandRequest::Extend { by } => {
            Command::Extend { by_ms: u64::try_from(length("/by", by)?.as_millis()).unwrap_or(u64::MAX) }
        }
        CommandRequest::Wake => Command::Wake,
        CommandRequest::Delete { force } => Command::Delete { force: *force },
    })
}

/// The commands that fit a job as it is, by the state machine itself.
pub(crate) fn fitting(status: &JobStatus) -> Vec<&'static str> {
    let fits = |event: JobEvent| status.clone().apply(event, status.since).is_ok();
    let pause = JobEvent::Pause { reason: PauseReason::Person, until: None };
    let later = status.since.saturating_add(Duration::from_secs(u32::MAX.into())).unwrap_or(status.since);
    // Confirming undoes first what the outcome does not need.
    let confirm = if fits(JobEvent::Clear) { JobEvent::Clear } else { JobEvent::Confirm };
    [
        ("pause", pause),
        ("resume", JobEvent::Resume),
        ("cancel", JobEvent::Cancel { undo: false }),
        ("retry", JobEvent::Retry),
        ("undo", JobEvent::Undo),
        ("confirm", confirm),
        ("ignore_leftovers", JobEvent::IgnoreLeftovers),
        ("extend", JobEvent::Extend { until: later }),
    ]
    .into_iter()
    .filter_map(|(name, event)| fits(event).then_some(name))
    .chain((!status.state.is_active()).then_some("delete"))
    .collect()
}
