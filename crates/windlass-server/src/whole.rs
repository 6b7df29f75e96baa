//! Jobs as they are stored, for the command line.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use serde::de::DeserializeOwned;
use windlass_api::whole::mirror;
use windlass_api::{JobQuery, WholeJob, WholeList, WholeReport};
use windlass_engine::{report, view};

use crate::app::App;
use crate::body::Asked;
use crate::jobs;
use crate::listing::{self, Wanted};
use crate::refusal::{Answer, Refusal};

/// A view of the engine as it is sent.
fn sent<T: DeserializeOwned>(view: &impl Serialize) -> Answer<T> {
    mirror(view).map_err(|error| Refusal::internal(format!("a view has an odd form: {error}")))
}

/// `GET /whole/jobs`
pub(crate) async fn list(State(app): State<Arc<App>>, Asked(query): Asked<JobQuery>) -> Answer<Json<WholeList>> {
    let page = listing::page(&**app.store(), &Wanted::of(&query)?).await?;
    Ok(Json(WholeList { jobs: sent(&page.jobs)?, next: page.next }))
}

/// `GET /jobs/{job}/whole`
pub(crate) async fn job(State(app): State<Arc<App>>, Path(given): Path<String>) -> Answer<Json<WholeJob>> {
    let id = jobs::find(&app, &given).await?;
    let job = view::job(&**app.store(), app.engine.kinds(), id, app.clock.wall()).await?;
    Ok(Json(sent(&job)?))
}

/// `GET /jobs/{job}/whole/report`
pub(crate) async fn report(State(app): State<Arc<App>>, Path(given): Path<String>) -> Answer<Json<WholeReport>> {
    let id = jobs::find(&app, &given).await?;
    let made = report::make(&**app.store(), app.engine.kinds(), id, app.clock.wall()).await?;
    Ok(Json(sent(&made)?))
}
