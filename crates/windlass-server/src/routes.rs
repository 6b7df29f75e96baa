//! Which handler answers which request.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use http::{StatusCode, header};
use windlass_api::route::{ROUTES, Route};
use windlass_api::{BASE, Role};

use crate::app::App;
use crate::guard::{self, Actor};
use crate::refusal::{Answer, Refusal};
use crate::{commands, events, held, jobs, logs, metrics, pages, plans, reports, rows, schedules, tasks, whole};

/// All there is.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let mut router: Router<Arc<App>> = Router::new();
    for route in ROUTES {
        router = router.route(&format!("{BASE}{}", route.path), handler(route, app));
    }
    let viewer = for_role(app, Some(Role::Viewer));
    router
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", if app.open_metrics { get(metrics::get) } else { viewer(get(metrics::get)) })
        .merge(if app.pages.is_some() { pages::router(app) } else { Router::new() })
        .fallback(nowhere)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(app.clone(), guard::guard))
        .with_state(app.clone())
}

/// The handler of an operation. Each in the table has one: a test asks for all of them.
fn handler(route: &Route, app: &Arc<App>) -> MethodRouter<Arc<App>> {
    let handler = match route.id {
        "openapi" => get(openapi),
        "whoami" => get(reports::whoami),
        "list_kinds" => get(plans::kinds),
        "get_kind" => get(plans::kind),
        "preview_plan" => post(plans::post),
        "list_jobs" => get(jobs::list),
        "submit_job" => post(jobs::submit),
        "get_job" => get(jobs::get),
        "command_job" => post(commands::post),
        "list_tasks" => get(tasks::list),
        "get_task" => get(tasks::get),
        "get_task_output" => get(tasks::output),
        "get_graph" => get(tasks::graph),
        "why_job" => get(tasks::why),
        "get_log" => get(logs::get),
        "get_leftovers" => get(reports::leftovers),
        "get_report" => get(reports::get),
        "list_whole_jobs" => get(whole::list),
        "get_whole_job" => get(whole::job),
        "get_whole_report" => get(whole::report),
        "job_events" => get(events::of_job),
        "events" => get(events::of_all),
        "list_workers" => get(held::workers),
        "list_shared" => get(held::shared),
        "send_rows" => post(rows::post),
        "list_schedules" => get(schedules::list),
        "get_schedule" => get(schedules::get),
        "command_schedule" => post(schedules::post),
        "list_audit" => get(reports::audit),
        other => {
            tracing::error!(operation = other, "an operation has no handler");
            get(nowhere)
        }
    };
    for_role(app, route.role)(handler)
}

/// Lets in whoever has at least `role`.
pub(crate) fn for_role(
    app: &Arc<App>,
    role: Option<Role>,
) -> impl Fn(MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> + use<> {
    let app = app.clone();
    move |handler| match role {
        None => handler,
        Some(role) => {
            let app = app.clone();
            handler.route_layer(from_fn(move |actor: Actor, request: Request, next: Next| {
                let app = app.clone();
                async move {
                    let what = format!("{} {}", request.method(), request.uri().path());
                    match guard::allow(&app, &actor, role, &what).await {
                        Ok(()) => next.run(request).await,
                        Err(refusal) => refusal.into_response(),
                    }
                }
            }))
        }
    }
}

async fn openapi() -> Response {
    Json(windlass_api::openapi::document(env!("CARGO_PKG_VERSION"))).into_response()
}

/// `GET /readyz`: whether the store answers.
async fn ready(State(app): State<Arc<App>>) -> Answer<&'static str> {
    if app.closing.is_cancelled() {
        return Err(Refusal::unavailable("shutting_down", "the server is ending"));
    }
    let limit = std::time::Duration::from_secs(3);
    match windlass_clock::deadline(&*app.clock, limit, app.store().get("active/")).await {
        Ok(Ok(_)) => Ok("ready\n"),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Refusal::unavailable("store_unavailable", "the state store does not answer")),
    }
}

async fn nowhere() -> Refusal {
    Refusal::not_found("no_such_path", "nothing is under this path").hint("`GET /api/v1/openapi.json` lists all paths")
}

async fn no_such_method(request: Request) -> Refusal {
    let method = request.method();
    let detail = format!("{method} does nothing here");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "That cannot be done here", detail)
}

/// An answer that leads on to another page.
pub(crate) fn see_other(place: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(value) = http::HeaderValue::from_str(place) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}
