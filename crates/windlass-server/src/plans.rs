//! What a job would do, and the kinds there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use windlass_api::{
    Dependency, ExpectedPlan, Fault, KindInfo, KindList, PlanPreview, PlannedTask, PlannedType, Progress, SubmitRequest,
};
use windlass_engine::{Engine, EngineConfig, JobRequest, Kind, Preview, TaskEnd};
use windlass_model::log::Level;
use windlass_model::plan::{Need, TaskSpec};
use windlass_model::task::Outcome;
use windlass_store::memory::MemoryStore;

use crate::app::App;
use crate::body::Whole;
use crate::fingerprint;
use crate::refusal::{Answer, Refusal};
use crate::submission;

/// Tasks that a preview lists; it counts all.
const LISTED: usize = 2000;
/// Differences of plans that a refusal names.
const NAMED: usize = 50;

/// `POST /plan`
pub(crate) async fn post(State(app): State<Arc<App>>, whole: Whole) -> Answer<Json<PlanPreview>> {
    let request = submission::read(&whole, app.job_text.as_deref())?;
    Ok(Json(preview(&app, request).await?))
}

/// What `request` would do. Everything it writes is in memory, and in a folder that is gone afterwards.
pub(crate) async fn preview(app: &App, request: SubmitRequest) -> Answer<PlanPreview> {
    let (request, _) = submission::check(request)?;
    let Some(config) = &app.preview else {
        return Err(Refusal::unavailable("no_previews", "this server makes no previews"));
    };
    let Ok(_place) = app.previews.try_acquire() else {
        return Err(Refusal::unavailable("previews_busy", "other plans are being made; ask again").retry_after(5));
    };
    std::fs::create_dir_all(&config.work_dir)
        .map_err(|error| Refusal::internal(format!("make the folder for previews: {error}")))?;
    let folder = tempfile::Builder::new().prefix("plan-").tempdir_in(&config.work_dir);
    let folder = folder.map_err(|error| Refusal::internal(format!("make a folder for the plan: {error}")))?;
    let config = EngineConfig {
        store: Arc::new(MemoryStore::new(app.clock.clone())),
        work_dir: folder.path().to_owned(),
        ..config.clone()
    };
    let limit = app.limits.preview_timeout;
    let preview = windlass_clock::deadline(&*app.clock, limit, Box::pin(Engine::preview(config, request.clone())))
        .await
        .map_err(|_| {
            Refusal::new(
                StatusCode::GATEWAY_TIMEOUT,
                "preview_timeout",
                "That took too long",
                format!("the plan was not made within {} s", limit.as_secs()),
            )
            .hint("`windlass plan` takes the time it needs")
        })??;
    Ok(document(app, &request, &preview))
}

/// Refuses a job whose plan is now another one than was expected.
pub(crate) async fn expect(app: &App, request: &SubmitRequest, expected: &ExpectedPlan) -> Answer<()> {
    let now = preview(app, request.clone()).await?;
    if let Some(failure) = now.failure {
        return Err(Refusal::conflict("plan_differs", format!("no plan can be made any more: {failure}")));
    }
    let differences = now.fingerprint.map(|now| expected.differences(&now)).unwrap_or_default();
    if differences.is_empty() {
        return Ok(());
    }
    let all = differences.len();
    let mut faults: Vec<Fault> =
        differences.into_iter().take(NAMED).map(|difference| Fault::new("/expect_plan", difference)).collect();
    if all > NAMED {
        faults.push(Fault::new("/expect_plan", format!("and {} more differences", all - NAMED)));
    }
    let why = format!("planning {} {} now gives another plan than the expected one", request.kind, request.name);
    Err(Refusal::conflict("plan_differs", why)
        .faults(faults)
        .hint("look at the plan of now, and submit with its digest if that is what you want"))
}

fn document(app: &App, request: &JobRequest, preview: &Preview) -> PlanPreview {
    let kind = app.engine.kinds().kind(&request.kind);
    let looked = preview.looked.iter().map(|end| PlannedTask {
        outcome: end.outcome.as_ref().map(|outcome| outcome.name().to_owned()),
        failure: match &end.outcome {
            Some(Outcome::Failed { failure }) => Some((**failure).clone().into()),
            _ => None,
        },
        ..planned(&end.task)
    });
    let mut types: BTreeMap<&str, (u64, windlass_model::progress::Progress)> = BTreeMap::new();
    for task in &preview.would_run {
        let nothing = Progress { total_items: Some(0), total_bytes: Some(0), ..Progress::default() };
        let (tasks, size) = types.entry(&task.task_type).or_insert((0, nothing.into()));
        *tasks += 1;
        *size = size.plus(&task.size);
    }
    PlanPreview {
        kind: request.kind.clone(),
        name: request.name.clone(),
        description: kind.and_then(|kind| {
            // What a round would add says what moves, where there is nothing to look at first.
            let pending = preview.would_run.iter().map(|task| TaskEnd::planned(task.clone()));
            let looked = kind.describe_plan(&request.spec, &preview.looked);
            looked.or_else(|| kind.describe_plan(&request.spec, &pending.collect::<Vec<_>>()))
        }),
        summary: kind.map(|kind| kind.summarize(&request.spec, &preview.looked)).unwrap_or_default(),
        failure: preview.status.failure.as_deref().cloned().map(Into::into),
        looked: looked.collect(),
        would_run: preview.would_run.iter().take(LISTED).map(|task| planned(task)).collect(),
        by_type: types
            .into_iter()
            .map(|(name, (tasks, size))| PlannedType { task_type: name.to_owned(), tasks, size: size.into() })
            .collect(),
        warnings: preview
            .log
            .iter()
            .filter(|entry| entry.level == Level::Warn)
            .map(|entry| entry.message.clone())
            .collect(),
        fingerprint: Some(fingerprint::of(request, preview)),
    }
}

fn planned(task: &TaskSpec) -> PlannedTask {
    PlannedTask {
        id: task.id,
        task_type: task.task_type.clone(),
        resource: task.resource.clone(),
        dependencies: task
            .dependencies
            .iter()
            .map(|edge| Dependency { task: edge.task, required: edge.need == Need::Requires })
            .collect(),
        size: task.size.into(),
        outcome: None,
        failure: None,
    }
}

/// `GET /kinds`
pub(crate) async fn kinds(State(app): State<Arc<App>>) -> Json<KindList> {
    Json(KindList { kinds: app.engine.kinds().iter().map(|kind| described(&**kind, false)).collect() })
}

/// `GET /kinds/{kind}`
pub(crate) async fn kind(State(app): State<Arc<App>>, Path(name): Path<String>) -> Answer<Json<KindInfo>> {
    let kind = app.engine.kinds().kind(&name);
    let kind = kind.ok_or_else(|| Refusal::not_found("no_such_kind", format!("there is no kind named {name}")))?;
    Ok(Json(described(&**kind, true)))
}

pub(crate) fn described(kind: &dyn Kind, schema: bool) -> KindInfo {
    KindInfo {
        name: kind.name().to_owned(),
        about: kind.about().to_owned(),
        task_types: kind.task_types().iter().map(|task_type| task_type.name().to_owned()).collect(),
        schema: schema.then(|| kind.schema()),
    }
}
