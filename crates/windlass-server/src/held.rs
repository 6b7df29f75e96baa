//! Who works, and what jobs hold: claims, shared resources, exclusive names, places in pools.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use windlass_api::{
    ClaimView, JobId, SharedHolder, SharedList, SharedResource, TaskId, WorkerId, WorkerList, WorkerView,
};
use windlass_engine::records::{JobRecord, SlotHolder, TaskRecord, decode};
use windlass_engine::{Presence, TaskClaim, view};
use windlass_model::plan::PoolUse;
use windlass_store::{keys, read_all};

use crate::app::App;
use crate::refusal::Answer;

/// The records of jobs, each read once.
struct Jobs<'a> {
    app: &'a App,
    known: HashMap<JobId, Option<JobRecord>>,
}

impl<'a> Jobs<'a> {
    fn of(app: &'a App) -> Self {
        Self { app, known: HashMap::new() }
    }

    async fn record(&mut self, job: JobId) -> Answer<Option<&JobRecord>> {
        if !self.known.contains_key(&job) {
            let entry = self.app.store().get(&keys::job(job)).await?;
            self.known.insert(job, entry.as_ref().map(decode).transpose()?);
        }
        Ok(self.known.get(&job).and_then(Option::as_ref))
    }

    /// Kind and name; nothing for a job that is gone.
    async fn named(&mut self, job: JobId) -> Answer<(String, String)> {
        Ok(self.record(job).await?.map(|record| (record.kind.clone(), record.name.clone())).unwrap_or_default())
    }

    async fn holder(&mut self, job: JobId) -> Answer<SharedHolder> {
        let (kind, name) = self.named(job).await?;
        Ok(SharedHolder { job, name, kind, task: None, slot: None, since: None })
    }

    /// How many places a pool has, as this job says, or the task of it.
    async fn size(&mut self, pool: &str, job: JobId, task: Option<TaskId>) -> Answer<Option<u64>> {
        let of = |uses: &[PoolUse]| uses.iter().find(|one| one.pool == pool).map(|one| u64::from(one.size));
        if let Some(task) = task {
            let entry = self.app.store().get(&keys::task(job, task)).await?;
            let record: Option<TaskRecord> = entry.as_ref().map(decode).transpose()?;
            return Ok(record.and_then(|record| of(&record.spec.pools)));
        }
        let kinds = self.app.engine.kinds();
        let Some(record) = self.record(job).await? else { return Ok(None) };
        Ok(kinds.kind(&record.kind).and_then(|kind| of(&kind.pools(&record.spec))))
    }
}

/// `GET /workers`
pub(crate) async fn workers(State(app): State<Arc<App>>) -> Answer<Json<WorkerList>> {
    Ok(Json(present(&app).await?))
}

fn worker(of: Presence) -> WorkerView {
    WorkerView {
        id: of.id,
        name: of.name,
        host: Some(of.host).filter(|host| !host.is_empty()),
        pid: Some(of.pid).filter(|pid| *pid != 0),
        started: Some(of.started),
        labels: of.labels,
        task_types: of.task_types.into_iter().collect(),
        places: Some(of.places as u64),
        takes_up: of.takes_up,
        version: Some(of.version).filter(|version| !version.is_empty()),
        claims: Vec::new(),
    }
}

/// A worker that holds something and has not announced itself, or not any more.
fn unannounced(id: WorkerId) -> WorkerView {
    WorkerView {
        id,
        name: String::new(),
        host: None,
        pid: None,
        started: None,
        labels: BTreeMap::new(),
        task_types: Vec::new(),
        places: None,
        takes_up: true,
        version: None,
        claims: Vec::new(),
    }
}

/// Workers that are present, with what they hold.
pub(crate) async fn present(app: &App) -> Answer<WorkerList> {
    let store = &**app.store();
    let mut jobs = Jobs::of(app);
    let mut workers: BTreeMap<WorkerId, WorkerView> = BTreeMap::new();
    for presence in view::workers(store).await? {
        workers.insert(presence.id, worker(presence));
    }
    for entry in read_all(store, keys::CLAIMS).await? {
        let job = keys::last_part::<JobId>(&entry.key);
        let coordinator = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse::<WorkerId>().ok());
        let Some((job, coordinator)) = job.zip(coordinator) else { continue };
        let (kind, name) = jobs.named(job).await?;
        let claim = ClaimView { job, name, kind, task: None };
        workers.entry(coordinator).or_insert_with(|| unannounced(coordinator)).claims.push(claim.clone());
        for entry in read_all(store, &keys::attempts_elsewhere(job)).await? {
            let task = entry.key.strip_suffix("/a").and_then(keys::last_part::<TaskId>);
            let Some(task) = task else { continue };
            let holder = decode::<TaskClaim>(&entry)?.worker;
            let claim = ClaimView { task: Some(task), ..claim.clone() };
            workers.entry(holder).or_insert_with(|| unannounced(holder)).claims.push(claim);
        }
    }
    let mut workers: Vec<WorkerView> = workers.into_values().collect();
    workers.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    Ok(WorkerList { workers })
}

/// `GET /shared`
pub(crate) async fn shared(State(app): State<Arc<App>>) -> Answer<Json<SharedList>> {
    Ok(Json(held(&app).await?))
}

fn resource(key: &str, sort: &str) -> SharedResource {
    SharedResource {
        key: key.to_owned(),
        sort: sort.to_owned(),
        state: None,
        holders: Vec::new(),
        owner: None,
        waiting: Vec::new(),
        size: None,
        since: None,
        error: None,
        details: Value::Null,
    }
}

/// What jobs hold, and what they wait for.
pub(crate) async fn held(app: &App) -> Answer<SharedList> {
    let store = &**app.store();
    let mut jobs = Jobs::of(app);
    let mut resources = Vec::new();
    for shared in view::shared(store).await? {
        let mut holders = Vec::with_capacity(shared.holders.len());
        for job in shared.holders {
            holders.push(jobs.holder(job).await?);
        }
        let owner = match shared.owner {
            Some(job) => Some(jobs.holder(job).await?),
            None => None,
        };
        resources.push(SharedResource {
            state: Some(shared.state.as_str().to_owned()),
            holders,
            owner,
            since: Some(shared.since),
            error: shared.error,
            details: json!({
                "task_type": shared.task_type,
                "generation": shared.generation,
                "permanent": shared.permanent,
            }),
            ..resource(&shared.key, "shared")
        });
    }
    let mut names = Vec::new();
    let mut pools: BTreeMap<String, SharedResource> = BTreeMap::new();
    for entry in read_all(store, keys::SLOTS).await? {
        let alone = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse::<JobId>().ok());
        match (alone, keys::pool_of_slot(&entry.key)) {
            (Some(job), _) => {
                let name = entry.key.trim_start_matches(keys::SLOTS);
                names.push(SharedResource { holders: vec![jobs.holder(job).await?], ..resource(name, "exclusive") });
            }
            (None, Some((pool, n))) => {
                let slot: SlotHolder = decode(&entry)?;
                let holder = SharedHolder {
                    task: slot.task,
                    slot: Some(n),
                    since: Some(slot.since),
                    ..jobs.holder(slot.job).await?
                };
                let size = jobs.size(pool, slot.job, slot.task).await?;
                let of = pools.entry(pool.to_owned()).or_insert_with(|| resource(pool, "pool"));
                of.size = of.size.or(size);
                of.since = of.since.max(holder.since);
                of.holders.push(holder);
            }
            (None, None) => {}
        }
    }
    for entry in read_all(store, keys::QUEUES).await? {
        let mut parts = entry.key[keys::QUEUES.len()..].rsplitn(3, '/');
        let job = parts.next().and_then(|part| part.parse::<JobId>().ok());
        let Some((job, pool)) = job.zip(parts.nth(1)) else { continue };
        let waiting = jobs.holder(job).await?;
        let size = jobs.size(pool, job, None).await?;
        let of = pools.entry(pool.to_owned()).or_insert_with(|| resource(pool, "pool"));
        of.size = of.size.or(size);
        of.waiting.push(waiting);
    }
    resources.extend(names);
    resources.extend(pools.into_values());
    Ok(SharedList { resources })
}
