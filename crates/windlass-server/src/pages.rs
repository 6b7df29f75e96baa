//! The web interface: gathers views, lets [`Pages`] draw them, and takes forms.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use windlass_api::page::{
    AskView, AuditView, Frame, JobView, JobsView, LoginView, Pages, ProblemView, ScheduleAskView, SchedulesView,
    SharedView, SubmitView, TaskView, WorkersView,
};
use windlass_api::{
    AuditQuery, CommandRequest, JobQuery, LogQuery, Problem, Role, ScheduleCommand, TaskList, TaskQuery,
};

use crate::app::App;
use crate::body::{Asked, Whole};
use crate::guard::{Actor, COOKIE};
use crate::idempotency::Key;
use crate::picture::Fresh;
use crate::refusal::{Answer, Refusal};
use crate::routes::{for_role, see_other};
use crate::{commands, held, jobs, logs, plans, reports, schedules, submission, tasks};

/// Tasks up to which a page gets the whole plan.
const WHOLE: usize = 20_000;
/// Tasks with reasons on a job's page.
const STUCK: u32 = 50;
/// Entries of the log on a page.
const TAIL: u32 = 200;

/// The pages. Each needs a viewer unless it says otherwise.
pub(crate) fn router(app: &Arc<App>) -> Router<Arc<App>> {
    let viewer = for_role(app, Some(Role::Viewer));
    let operator = for_role(app, Some(Role::Operator));
    let admin = for_role(app, Some(Role::Admin));
    Router::new()
        .route("/", viewer(get(list)))
        .route("/jobs/{job}", viewer(get(job)))
        .route("/jobs/{job}/tasks/{task}", viewer(get(task)))
        .route("/jobs/{job}/report.html", viewer(get(report)))
        .route("/jobs/{job}/ask/{command}", operator(get(ask)))
        .route("/jobs/{job}/command", operator(axum::routing::post(command)))
        .route("/submit", operator(get(submit_form).post(submit)))
        .route("/workers", viewer(get(workers)))
        .route("/shared", viewer(get(shared)))
        .route("/schedules", viewer(get(schedules_page)))
        .route("/schedules/{schedule}/ask/{command}", operator(get(ask_schedule)))
        .route("/schedules/{schedule}/command", operator(axum::routing::post(command_schedule)))
        .route("/audit", admin(get(audit)))
        .route("/login", get(login_form).post(login))
        .route("/logout", axum::routing::post(logout))
        .route("/assets/{name}", get(asset))
        .route("/favicon.ico", get(favicon))
}

fn frame(app: &App, actor: &Actor) -> Frame {
    Frame {
        who: actor.who.clone(),
        may_log_out: actor.cookie,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        now: app.clock.wall(),
        key: format!("{:032x}", app.entropy.next_u128()),
        problem: None,
    }
}

fn drawn(app: &App, draw: impl FnOnce(&dyn Pages) -> String) -> Answer<Response> {
    let pages = app.pages.as_ref().ok_or_else(|| Refusal::not_found("no_pages", "this server has no pages"))?;
    Ok(Html(draw(&**pages)).into_response())
}

/// The page for a problem, with its status and headers.
pub(crate) fn problem(app: &App, pages: &dyn Pages, actor: &Actor, response: Response, problem: Problem) -> Response {
    let view = ProblemView { frame: Frame { problem: Some(problem), ..frame(app, actor) } };
    let (mut parts, _) = response.into_parts();
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    Response::from_parts(parts, pages.problem(&view).into())
}

/// Leads to the page that asks for a token, and back afterwards.
pub(crate) fn to_login(path: &str, query: Option<&str>) -> Response {
    let next = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    see_other(&format!("/login?next={}", utf8_percent_encode(&next, NON_ALPHANUMERIC)))
}

async fn list(State(app): State<Arc<App>>, actor: Actor, Asked(query): Asked<JobQuery>) -> Answer<Response> {
    let list = jobs::listed(&app, &query).await?;
    let kinds = app.engine.kinds().iter().map(|kind| plans::described(&**kind, false)).collect();
    drawn(&app, |pages| pages.jobs(&JobsView { frame: frame(&app, &actor), query, list, kinds }))
}

/// The query of a job's page: which part, and which tasks.
#[derive(Debug, Default, Deserialize)]
struct JobPage {
    tab: Option<String>,
    state: Option<String>,
    #[serde(rename = "type")]
    task_type: Option<String>,
    text: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

async fn job(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(given): Path<String>,
    Asked(page): Asked<JobPage>,
) -> Answer<Response> {
    let id = jobs::find(&app, &given).await?;
    let view = job_view(&app, &actor, id, page).await?;
    drawn(&app, |pages| pages.job(&view))
}

/// The report as a file to keep.
async fn report(State(app): State<Arc<App>>, Path(given): Path<String>) -> Answer<Response> {
    let id = jobs::find(&app, &given).await?;
    let report = reports::made(&app, id).await?;
    let mut response = drawn(&app, |pages| pages.report_file(&report, env!("CARGO_PKG_VERSION"), app.clock.wall()))?;
    let name = HeaderValue::from_str(&format!("attachment; filename=\"report-{id}.html\""));
    if let Ok(name) = name {
        response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

async fn job_view(app: &App, actor: &Actor, id: windlass_api::JobId, page: JobPage) -> Answer<JobView> {
    let JobPage { tab, state, task_type, text, cursor, limit } = page;
    let query = TaskQuery { state, task_type, text, cursor, limit };
    let picture = tasks::picture(app, id, Fresh::Recent).await?;
    let stuck = TaskQuery { limit: Some(STUCK), ..TaskQuery::default() };
    Ok(JobView {
        frame: frame(app, actor),
        tab,
        job: jobs::detail(app, id, Fresh::Recent).await?,
        graph: tasks::drawn(&picture, WHOLE),
        tasks: tasks::listed(&picture, &query, false)?,
        stuck: tasks::listed(&picture, &stuck, true)?,
        query,
        log: logs::listed(app, id, &LogQuery { tail: Some(TAIL), ..LogQuery::default() }).await?,
        report: reports::made(app, id).await?,
    })
}

async fn task(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path((given, task)): Path<(String, String)>,
) -> Answer<Response> {
    let id = jobs::find(&app, &given).await?;
    let picture = tasks::picture(&app, id, Fresh::Exact).await?;
    let task = tasks::detail(&app, &picture, &task).await?;
    let before = task.summary.dependencies.iter().map(|edge| edge.task);
    let near: Vec<_> = before.chain(task.dependants.iter().copied()).take(500).collect();
    let near = TaskList { tasks: tasks::named(&picture, &near), ..TaskList::default() };
    let query = LogQuery { tail: Some(TAIL), task: Some(task.summary.id.to_string()), ..LogQuery::default() };
    let view = TaskView {
        frame: frame(&app, &actor),
        job: jobs::detail(&app, id, Fresh::Recent).await?,
        near,
        log: logs::listed(&app, id, &query).await?,
        task,
    };
    drawn(&app, |pages| pages.task(&view))
}

#[derive(Debug, Default, Deserialize)]
struct AskPage {
    task: Option<String>,
}

async fn ask(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path((given, command)): Path<(String, String)>,
    Asked(page): Asked<AskPage>,
) -> Answer<Response> {
    let id = jobs::find(&app, &given).await?;
    // Only commands that there are.
    command_of(&[("command".to_owned(), command.clone()), ("task".to_owned(), page.task.clone().unwrap_or_default())])?;
    let job = jobs::detail(&app, id, Fresh::Exact).await?;
    drawn(&app, |pages| pages.ask(&AskView { frame: frame(&app, &actor), job, command, task: page.task }))
}

/// The pairs of a form.
fn pairs(whole: &Whole) -> Answer<Vec<(String, String)>> {
    let media_type = whole.media_type();
    if media_type != "application/x-www-form-urlencoded" {
        return Err(crate::body::unsupported(&media_type, "application/x-www-form-urlencoded"));
    }
    Ok(url::form_urlencoded::parse(&whole.bytes).into_owned().collect())
}

fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
}

/// The command in a form.
fn command_of(pairs: &[(String, String)]) -> Answer<CommandRequest> {
    let given = |name: &str| value(pairs, name).map(str::to_owned);
    let on = |name: &str| value(pairs, name).is_some_and(|value| matches!(value, "on" | "true" | "1" | "yes"));
    let needed =
        |name: &str| given(name).ok_or_else(|| Refusal::bad_request("invalid_form", format!("{name} is missing")));
    Ok(match value(pairs, "command").unwrap_or_default() {
        "pause" => CommandRequest::Pause { for_: given("for"), until: None },
        "resume" => CommandRequest::Resume,
        "cancel" => CommandRequest::Cancel { undo: on("undo") },
        "undo" => CommandRequest::Undo,
        "confirm" => CommandRequest::Confirm,
        "ignore_leftovers" => CommandRequest::IgnoreLeftovers,
        "retry" => CommandRequest::Retry {
            failed_only: given("from").is_none() && !on("all"),
            from: given("from"),
            inputs: std::collections::BTreeMap::new(),
        },
        "approve" => CommandRequest::Approve { task: needed("task")?, note: given("note") },
        "extend" => CommandRequest::Extend { by: given("by").unwrap_or_else(|| "1h".to_owned()) },
        "delete" => CommandRequest::Delete { force: on("force") },
        _ => return Err(Refusal::not_found("no_such_command", "there is no such command")),
    })
}

async fn command(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(given): Path<String>,
    whole: Whole,
) -> Answer<Response> {
    let pairs = pairs(&whole)?;
    let request = command_of(&pairs)?;
    let id = jobs::find(&app, &given).await?;
    let key = Key::of(actor.name(), &whole.headers, value(&pairs, "key"), &commands::asked(id, &request))?;
    let deleted = matches!(request, CommandRequest::Delete { .. });
    match commands::give(&app, &actor, id, request, key).await {
        Ok(_) if deleted => Ok(see_other("/")),
        Ok(_) => Ok(see_other(&format!("/jobs/{id}"))),
        Err(refusal) if refusal.status().is_client_error() => {
            let status = refusal.status();
            let mut view = job_view(&app, &actor, id, JobPage::default()).await?;
            view.frame.problem = Some(refusal.into_problem());
            let mut response = drawn(&app, |pages| pages.job(&view))?;
            *response.status_mut() = status;
            Ok(response)
        }
        Err(refusal) => Err(refusal),
    }
}

#[derive(Debug, Default, Deserialize)]
struct SubmitPage {
    kind: Option<String>,
}

fn submit_view(app: &App, actor: &Actor, kind: Option<String>, text: String) -> SubmitView {
    let kinds = app.engine.kinds().iter().map(|kind| plans::described(&**kind, true)).collect();
    SubmitView { frame: frame(app, actor), kinds, kind, text, preview: None }
}

async fn submit_form(State(app): State<Arc<App>>, actor: Actor, Asked(page): Asked<SubmitPage>) -> Answer<Response> {
    let view = submit_view(&app, &actor, page.kind, String::new());
    drawn(&app, |pages| pages.submit(&view))
}

async fn submit(State(app): State<Arc<App>>, actor: Actor, whole: Whole) -> Answer<Response> {
    let pairs = pairs(&whole)?;
    let text = value(&pairs, "text").unwrap_or_default().to_owned();
    let kind = value(&pairs, "kind").map(str::to_owned);
    let done = async {
        let request = submission::text(&text, app.job_text.as_deref())?;
        if value(&pairs, "do") == Some("submit") {
            let key = Key::of(actor.name(), &whole.headers, value(&pairs, "key"), &jobs::asked(&request))?;
            let submitted = jobs::submit_as(&app, &actor, request, key).await?;
            let place = match submitted.scheduled {
                true => format!("/schedules#schedule-{}", submitted.id),
                false => format!("/jobs/{}", submitted.id),
            };
            return Ok(Err(see_other(&place)));
        }
        Ok(Ok(plans::preview(&app, request).await?))
    };
    let mut view = submit_view(&app, &actor, kind, text.clone());
    let mut status = StatusCode::OK;
    match done.await {
        Ok(Err(onward)) => return Ok(onward),
        Ok(Ok(preview)) => {
            view.kind.get_or_insert_with(|| preview.kind.clone());
            view.preview = Some(preview);
        }
        Err(refusal) => {
            let refusal: Refusal = refusal;
            status = refusal.status();
            view.frame.problem = Some(refusal.into_problem());
        }
    }
    let mut response = drawn(&app, |pages| pages.submit(&view))?;
    *response.status_mut() = status;
    Ok(response)
}

async fn workers(State(app): State<Arc<App>>, actor: Actor) -> Answer<Response> {
    let list = held::present(&app).await?;
    drawn(&app, |pages| pages.workers(&WorkersView { frame: frame(&app, &actor), list }))
}

async fn shared(State(app): State<Arc<App>>, actor: Actor) -> Answer<Response> {
    let list = held::held(&app).await?;
    drawn(&app, |pages| pages.shared(&SharedView { frame: frame(&app, &actor), list }))
}

async fn schedules_page(State(app): State<Arc<App>>, actor: Actor) -> Answer<Response> {
    let list = schedules::listed(&app).await?;
    drawn(&app, |pages| pages.schedules(&SchedulesView { frame: frame(&app, &actor), list }))
}

fn schedule_command(name: &str) -> Answer<ScheduleCommand> {
    ScheduleCommand::named(name).ok_or_else(|| Refusal::not_found("no_such_command", "there is no such command"))
}

async fn ask_schedule(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path((given, command)): Path<(String, String)>,
) -> Answer<Response> {
    let command = schedule_command(&command)?;
    let schedule = schedules::find(&app, &given).await?;
    drawn(&app, |pages| pages.ask_schedule(&ScheduleAskView { frame: frame(&app, &actor), schedule, command }))
}

async fn command_schedule(
    State(app): State<Arc<App>>,
    actor: Actor,
    Path(given): Path<String>,
    whole: Whole,
) -> Answer<Response> {
    let pairs = pairs(&whole)?;
    let command = schedule_command(value(&pairs, "command").unwrap_or_default())?;
    let key = Key::of(actor.name(), &whole.headers, value(&pairs, "key"), &schedules::asked(&given, command))?;
    match schedules::give(&app, &actor, &given, command, key).await {
        Ok(_) => Ok(see_other("/schedules")),
        Err(refusal) if refusal.status().is_client_error() => {
            let status = refusal.status();
            let list = schedules::listed(&app).await?;
            let mut view = SchedulesView { frame: frame(&app, &actor), list };
            view.frame.problem = Some(refusal.into_problem());
            let mut response = drawn(&app, |pages| pages.schedules(&view))?;
            *response.status_mut() = status;
            Ok(response)
        }
        Err(refusal) => Err(refusal),
    }
}

async fn audit(State(app): State<Arc<App>>, actor: Actor, Asked(query): Asked<AuditQuery>) -> Answer<Response> {
    let list = app.audit.list(&query).await?;
    drawn(&app, |pages| pages.audit(&AuditView { frame: frame(&app, &actor), query, list }))
}

#[derive(Debug, Default, Deserialize)]
struct LoginPage {
    next: Option<String>,
}

/// A path on this server, whatever was asked for.
fn on_this_server(next: Option<&str>) -> String {
    let here = |next: &&str| next.starts_with('/') && !next.starts_with("//") && !next.contains(['\\', '\r', '\n']);
    next.filter(here).unwrap_or("/").to_owned()
}

async fn login_form(State(app): State<Arc<App>>, actor: Actor, Asked(page): Asked<LoginPage>) -> Answer<Response> {
    let next = on_this_server(page.next.as_deref());
    drawn(&app, |pages| pages.login(&LoginView { frame: frame(&app, &actor), next }))
}

async fn login(State(app): State<Arc<App>>, actor: Actor, whole: Whole) -> Answer<Response> {
    let pairs = pairs(&whole)?;
    let next = on_this_server(value(&pairs, "next"));
    let Some(grants) = app.grants() else { return Ok(see_other(&next)) };
    let token = value(&pairs, "token").unwrap_or_default().trim();
    if grants.by_token(token, "cookie", app.clock.wall()).is_err() {
        app.metrics.denied("login");
        if let Err(wait) = app.denied_rate.take(&actor.from.to_string(), app.clock.monotonic()) {
            return Err(Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                "Too many requests",
                "too many tokens were tried from this address",
            )
            .retry_after(wait.as_secs() + 1));
        }
        app.audit.denied(&actor, "login", "POST /login").await;
        let refusal = Refusal::unauthorized("unknown_token", "nobody has this token, or it is no longer valid");
        let mut view = LoginView { frame: frame(&app, &actor), next };
        view.frame.problem = Some(refusal.into_problem());
        let mut response = drawn(&app, |pages| pages.login(&view))?;
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        return Ok(response);
    }
    let secure = if app.tls { "; Secure" } else { "" };
    let mut response = see_other(&next);
    let cookie = format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200{secure}");
    // A token is letters and digits.
    if let Ok(mut value) = HeaderValue::from_str(&cookie) {
        value.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    Ok(response)
}

async fn logout() -> Response {
    let mut response = see_other("/login");
    let cookie = HeaderValue::from_static("windlass_token=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

async fn asset(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer<Response> {
    let found = app.pages.as_ref().and_then(|pages| pages.asset(&name));
    let found = found.ok_or_else(|| Refusal::not_found("no_such_file", "there is no such file"))?;
    // The names of files change with what is in them.
    let kept = "public, max-age=31536000, immutable";
    let headers = [(header::CONTENT_TYPE, found.media_type), (header::CACHE_CONTROL, kept)];
    Ok((headers, found.bytes).into_response())
}

async fn favicon(app: State<Arc<App>>) -> Answer<Response> {
    asset(app, Path("favicon.ico".to_owned())).await
}
