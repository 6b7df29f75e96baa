//! Tasks of a job, why it is not done, and its plan as a picture.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::Value;
use windlass_api::{
    Attempt, Counts, Dependency, Graph, GraphEdge, GraphNode, Output, TaskDetail, TaskList, TaskQuery, TaskReference,
    TaskState, TaskSummary, TypeSum,
};
use windlass_engine::view::TaskView;
use windlass_model::plan::Need;
use windlass_model::progress::Progress;
use windlass_model::task::{Outcome, TaskState as Stored};
use windlass_model::{Digest, JobId, TaskId};
use windlass_store::{Store, keys};

use crate::app::App;
use crate::body::Asked;
use crate::jobs;
use crate::picture::{Fresh, Picture};
use crate::refusal::{Answer, Refusal};

/// Tasks up to which a picture shows each; beyond, groups of one type and state.
const SHOWN: usize = 300;
/// Reasons to wait that a list gives for one task.
const REASONS: usize = 10;

pub(crate) async fn picture(app: &App, id: JobId, fresh: Fresh) -> Answer<Arc<Picture>> {
    Ok(app.pictures.get(&**app.store(), app.engine.kinds(), &*app.clock, id, fresh).await?)
}

/// `GET /jobs/{job}/tasks`
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path(given): Path<String>,
    Asked(query): Asked<TaskQuery>,
) -> Answer<Json<TaskList>> {
    let id = jobs::find(&app, &given).await?;
    Ok(Json(listed(&*picture(&app, id, Fresh::Recent).await?, &query, false)?))
}

/// `GET /jobs/{job}/why`
pub(crate) async fn why(
    State(app): State<Arc<App>>,
    Path(given): Path<String>,
    Asked(query): Asked<TaskQuery>,
) -> Answer<Json<TaskList>> {
    let id = jobs::find(&app, &given).await?;
    Ok(Json(listed(&*picture(&app, id, Fresh::Recent).await?, &query, true)?))
}

/// A page of tasks; only those that did not succeed and do not run, when asked why.
pub(crate) fn listed(picture: &Picture, query: &TaskQuery, why: bool) -> Answer<TaskList> {
    let limit = query.limit.unwrap_or(100).clamp(1, 1000) as usize;
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let states = given(&query.state).map(|text| states(&text)).transpose();
    let states = states.map_err(|why| Refusal::bad_request("invalid_query", why))?;
    let text = given(&query.text).map(|text| text.to_lowercase());
    let task_type = given(&query.task_type);
    let begin = match given(&query.cursor) {
        None => 0,
        Some(cursor) => {
            let place = cursor.parse::<TaskId>().ok().and_then(|id| picture.index.get(&id));
            place.map(|place| place + 1).ok_or_else(|| {
                Refusal::bad_request("invalid_cursor", "the cursor is not one that the page before gave")
            })?
        }
    };
    let mut list = TaskList { types: types(picture), ..TaskList::default() };
    let mut last = None;
    for (place, task) in picture.job.tasks.iter().enumerate() {
        let Some(spec) = picture.specs.get(&task.id) else { continue };
        let state = TaskState::from(&task.status.state);
        let stuck = !matches!(state, TaskState::Succeeded | TaskState::Running);
        let has = |field: &str| text.as_ref().is_none_or(|text| field.to_lowercase().contains(text));
        if (why && !stuck)
            || states.as_ref().is_some_and(|states| !states.contains(&state))
            || task_type.as_ref().is_some_and(|wanted| spec.task_type != *wanted)
            || !(has(&task.name) || has(&task.id.to_string()))
        {
            continue;
        }
        list.matching += 1;
        if place < begin || list.next.is_some() {
            continue;
        }
        if list.tasks.len() == limit {
            list.next = last.map(|last: TaskId| last.to_string());
            continue;
        }
        last = Some(task.id);
        list.tasks.push(summary(picture, task));
    }
    Ok(list)
}

fn states(text: &str) -> Result<Vec<TaskState>, String> {
    let mut states = Vec::new();
    for name in text.split(',').map(str::trim) {
        match TaskState::ALL.into_iter().find(|state| state.as_str() == name) {
            Some(state) => states.push(state),
            None if name == "unsuccessful" => {
                states.extend([TaskState::Failed, TaskState::Ignored, TaskState::Cancelled]);
            }
            None => {
                let known: Vec<&str> = TaskState::ALL.iter().map(|state| state.as_str()).collect();
                return Err(format!("{name:?} is not a state of tasks; there are unsuccessful, {}", known.join(", ")));
            }
        }
    }
    Ok(states)
}

fn count(counts: &mut Counts, state: TaskState, n: u64) {
    let slot = match state {
        TaskState::Waiting => &mut counts.waiting,
        TaskState::Running => &mut counts.running,
        TaskState::Succeeded => &mut counts.succeeded,
        TaskState::Failed => &mut counts.failed,
        TaskState::Ignored => &mut counts.ignored,
        TaskState::Cancelled => &mut counts.cancelled,
    };
    *slot += n;
}

/// How far a task is. Progress is stored now and then; of a task that succeeded nothing is left to do.
fn progress(task: &TaskView) -> Progress {
    let mut progress = task.progress;
    if task.status.outcome().is_some_and(Outcome::is_success) {
        progress.done_items = progress.total_items.unwrap_or(progress.done_items);
        progress.done_bytes = progress.total_bytes.unwrap_or(progress.done_bytes);
    }
    progress
}

fn types(picture: &Picture) -> Vec<TypeSum> {
    let mut sums: BTreeMap<&str, (Counts, Option<Progress>)> = BTreeMap::new();
    for task in &picture.job.tasks {
        let Some(spec) = picture.specs.get(&task.id) else { continue };
        let (counts, work) = sums.entry(&spec.task_type).or_default();
        count(counts, TaskState::from(&task.status.state), 1);
        let own = progress(task);
        *work = Some(work.map_or(own, |so_far| so_far.plus(&own)));
    }
    let sum = |(name, (counts, work)): (&str, (Counts, Option<Progress>))| TypeSum {
        task_type: name.to_owned(),
        counts,
        work: work.unwrap_or_default().into(),
    };
    sums.into_iter().map(sum).collect()
}

fn name(picture: &Picture, id: TaskId) -> String {
    picture.specs.get(&id).map_or_else(|| id.to_string(), windlass_model::plan::TaskSpec::name)
}

fn summary(picture: &Picture, task: &TaskView) -> TaskSummary {
    let spec = &picture.specs[&task.id];
    let last = task.status.attempts.last().and_then(|attempt| attempt.failure.as_deref());
    let (failure, because_of) = match &task.status.state {
        Stored::Done { outcome: Outcome::Failed { failure } } => (Some(&**failure), Vec::new()),
        Stored::Done { outcome: Outcome::Ignored { roots } } => {
            (None, roots.iter().map(|root| name(picture, *root)).collect())
        }
        Stored::Done { .. } => (None, Vec::new()),
        Stored::Waiting { .. } | Stored::Running { .. } => (last, Vec::new()),
    };
    let mut waiting_on: Vec<String> = task.waiting_on.iter().take(REASONS).cloned().collect();
    if task.waiting_on.len() > REASONS {
        waiting_on.push(format!("and {} more", task.waiting_on.len() - REASONS));
    }
    TaskSummary {
        id: task.id,
        task_type: spec.task_type.clone(),
        resource: spec.resource.clone(),
        state: TaskState::from(&task.status.state),
        dependencies: spec
            .dependencies
            .iter()
            .map(|edge| Dependency { task: edge.task, required: edge.need == Need::Requires })
            .collect(),
        progress: progress(task).into(),
        epoch: task.status.epoch.0,
        failures: task.status.failures,
        worker: match &task.status.state {
            Stored::Running { claim } => Some(claim.worker),
            _ => None,
        },
        started: task.status.started,
        since: task.status.since,
        waiting_on,
        failure: failure.cloned().map(Into::into),
        because_of,
        effects: task.effects.len() as u64,
        undoes: spec.undoes,
        needs_approval: spec.needs_approval.clone(),
        approved_by: task.status.approval.as_ref().map(|approval| approval.by.clone()),
        approval_note: task.status.approval.as_ref().and_then(|approval| approval.note.clone()),
        shared: task.shared.clone(),
    }
}

/// The task that somebody means: its id, its name, or a part of its name that no other has.
fn find(picture: &Picture, given: &str) -> Answer<TaskId> {
    if let Ok(id) = given.parse::<TaskId>()
        && picture.specs.contains_key(&id)
    {
        return Ok(id);
    }
    let tasks = &picture.job.tasks;
    if let Some(task) = tasks.iter().find(|task| task.name == given) {
        return Ok(task.id);
    }
    let found: Vec<&TaskView> = tasks.iter().filter(|task| task.name.contains(given)).take(6).collect();
    match found.as_slice() {
        [task] => Ok(task.id),
        [] => Err(Refusal::not_found("no_such_task", format!("job {} has no task {given}", picture.job.record.id))),
        many => {
            let names: Vec<&str> = many.iter().take(5).map(|task| task.name.as_str()).collect();
            Err(Refusal::conflict("ambiguous", format!("{given} may be {}; give more of the name", names.join(" or "))))
        }
    }
}

/// `GET /jobs/{job}/tasks/{task}`
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path((job, task)): Path<(String, String)>,
) -> Answer<Json<TaskDetail>> {
    let id = jobs::find(&app, &job).await?;
    let picture = picture(&app, id, Fresh::Exact).await?;
    Ok(Json(detail(&app, &picture, &task).await?))
}

/// One task, as `given`.
pub(crate) async fn detail(app: &App, picture: &Picture, given: &str) -> Answer<TaskDetail> {
    let id = find(picture, given)?;
    let (spec, task) = (&picture.specs[&id], &picture.job.tasks[picture.index[&id]]);
    let job = picture.job.record.id;
    let checkpoint = app.store().get(&keys::checkpoint(job, id)).await?;
    let output = match task.status.outcome() {
        Some(Outcome::Succeeded { output }) => Some(match output {
            windlass_model::task::Output::Inline(value) => Output::Value(value.clone()),
            windlass_model::task::Output::Stored { digest, size } => {
                Output::Stored { digest: digest.hex(), size: *size }
            }
        }),
        _ => None,
    };
    let dependants = picture.specs.values().filter(|other| other.dependencies.iter().any(|edge| edge.task == id));
    let mut dependants: Vec<TaskId> = dependants.map(|other| other.id).collect();
    dependants.sort_by_key(|other| picture.index.get(other));
    Ok(TaskDetail {
        job,
        summary: summary(picture, task),
        input: spec.input.clone(),
        references: spec
            .references
            .iter()
            .map(|from| TaskReference { at: from.at.clone(), task: from.task, pointer: from.pointer.clone() })
            .collect(),
        attempts: task
            .status
            .attempts
            .iter()
            .map(|attempt| Attempt {
                epoch: attempt.claim.epoch.0,
                worker: attempt.claim.worker,
                since: attempt.claim.since,
                ended: attempt.ended,
                failure: attempt.failure.as_deref().cloned().map(Into::into),
            })
            .collect(),
        ledger: task.effects.iter().cloned().map(Into::into).collect(),
        checkpoint: checkpoint.map(|entry| shown(&entry.value)),
        output,
        not_before: match task.status.state {
            Stored::Waiting { not_before } => not_before,
            _ => None,
        },
        deaths: task.status.deaths,
        dependants,
    })
}

/// A checkpoint as people see it: the value, or where it is kept.
fn shown(value: &[u8]) -> Value {
    let mut value: Value =
        serde_json::from_slice(value).unwrap_or_else(|_| String::from_utf8_lossy(value).into_owned().into());
    let mut value = value.get_mut("value").map(Value::take).unwrap_or_default();
    value.get_mut("inline").map(Value::take).unwrap_or(value)
}

/// `GET /jobs/{job}/tasks/{task}/output`
pub(crate) async fn output(State(app): State<Arc<App>>, Path((job, task)): Path<(String, String)>) -> Answer<Response> {
    let id = jobs::find(&app, &job).await?;
    let picture = picture(&app, id, Fresh::Recent).await?;
    let task = find(&picture, &task)?;
    let Some(Outcome::Succeeded { output }) = picture.job.tasks[picture.index[&task]].status.outcome() else {
        return Err(Refusal::not_found("no_output", "the task has put nothing out: it did not succeed (yet)"));
    };
    let text = match output {
        windlass_model::task::Output::Inline(value) => value.to_string().into_bytes(),
        windlass_model::task::Output::Stored { digest, size } => stored(&**app.store(), id, *digest, *size).await?,
    };
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// A large value, put together from its chunks.
async fn stored(store: &dyn Store, job: JobId, digest: Digest, size: u64) -> Answer<Vec<u8>> {
    let damaged = |why: &str| Refusal::internal(format!("the stored value {}: {why}", digest.hex()));
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let mut text = Vec::new();
    for n in 0.. {
        if text.len() >= size {
            break;
        }
        let chunk =
            store.get(&keys::value_chunk(job, digest, n)).await?.ok_or_else(|| damaged("a chunk is missing"))?;
        text.extend_from_slice(&chunk.value);
    }
    if Digest::of(&text) != digest {
        return Err(damaged("its digest does not match"));
    }
    Ok(text)
}

/// `GET /jobs/{job}/graph`
pub(crate) async fn graph(State(app): State<Arc<App>>, Path(given): Path<String>) -> Answer<Json<Graph>> {
    let id = jobs::find(&app, &given).await?;
    Ok(Json(drawn(&*picture(&app, id, Fresh::Recent).await?, SHOWN)))
}

/// The plan as a picture: each task a node up to `shown` tasks, beyond that groups.
pub(crate) fn drawn(picture: &Picture, shown: usize) -> Graph {
    let collapsed = picture.job.tasks.len() > shown;
    let mut layers: HashMap<TaskId, u32> = HashMap::with_capacity(picture.index.len());
    let mut nodes: BTreeMap<(u32, String), GraphNode> = BTreeMap::new();
    let mut edges: BTreeMap<(String, String), GraphEdge> = BTreeMap::new();
    let node_of: HashMap<TaskId, String> = picture
        .job
        .tasks
        .iter()
        .filter_map(|task| {
            let spec = picture.specs.get(&task.id)?;
            let state = TaskState::from(&task.status.state);
            let node = if collapsed { format!("{}:{}", spec.task_type, state.as_str()) } else { task.id.to_string() };
            Some((task.id, node))
        })
        .collect();
    // Tasks come after what they depend on, so each layer is known when it is needed.
    let mut node_layers: HashMap<&str, u32> = HashMap::new();
    for task in &picture.job.tasks {
        let Some(spec) = picture.specs.get(&task.id) else { continue };
        let before = spec.dependencies.iter().filter_map(|edge| layers.get(&edge.task)).max();
        let layer = before.map_or(0, |layer| layer + 1);
        layers.insert(task.id, layer);
        let node = node_layers.entry(&node_of[&task.id]).or_insert(layer);
        *node = (*node).min(layer);
    }
    for task in &picture.job.tasks {
        let Some(spec) = picture.specs.get(&task.id) else { continue };
        let id = &node_of[&task.id];
        let state = TaskState::from(&task.status.state);
        let layer = node_layers[id.as_str()];
        let node = nodes.entry((layer, id.clone())).or_insert_with(|| GraphNode {
            id: id.clone(),
            task_type: spec.task_type.clone(),
            resource: (!collapsed).then(|| spec.resource.clone()),
            state,
            count: 0,
            progress: windlass_api::Progress { total_items: Some(0), total_bytes: Some(0), ..Default::default() },
            layer,
            started: None,
            ended: None,
        });
        node.count += 1;
        node.progress = Progress::from(node.progress).plus(&progress(task)).into();
        node.started = match (node.started, task.status.started) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if task.status.outcome().is_some() {
            // All tasks of a node are in one state: either all have ended or none.
            node.ended = node.ended.max(Some(task.status.since));
        }
        for edge in &spec.dependencies {
            let Some(from) = node_of.get(&edge.task).filter(|from| *from != id) else { continue };
            let required = edge.need == Need::Requires;
            let drawn = edges.entry((from.clone(), id.clone())).or_insert_with(|| GraphEdge {
                from: from.clone(),
                to: id.clone(),
                required,
                count: 0,
            });
            drawn.count += 1;
            drawn.required |= required;
        }
    }
    Graph {
        nodes: nodes.into_values().collect(),
        edges: edges.into_values().collect(),
        collapsed,
        tasks: picture.job.tasks.len() as u64,
    }
}

/// Tasks by id, as a list says them.
pub(crate) fn named(picture: &Picture, ids: &[TaskId]) -> Vec<TaskSummary> {
    let known = ids.iter().filter(|id| picture.specs.contains_key(id));
    known.map(|id| summary(picture, &picture.job.tasks[picture.index[id]])).collect()
}
