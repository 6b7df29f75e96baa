//! Jobs as read from the store, kept for a moment: pages of one list come from one picture, and many who look at a
//! large job do not read it many times.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use windlass_clock::Clock;
use windlass_engine::records::{Head, TaskRecord, decode};
use windlass_engine::view::{self, JobView};
use windlass_engine::{EngineError, Kinds};
use windlass_model::plan::TaskSpec;
use windlass_model::{JobId, TaskId};
use windlass_store::{Store, budget, keys};

/// Tasks of all pictures that are kept together.
const TASKS_KEPT: usize = 300_000;
/// Pictures that are kept.
const PICTURES_KEPT: usize = 64;
/// A picture that is exact may be so old: reasons to wait depend on the time, too.
const EXACT: Duration = Duration::from_millis(900);

/// A job and its tasks at one moment.
pub(crate) struct Picture {
    pub(crate) job: JobView,
    pub(crate) specs: HashMap<TaskId, TaskSpec>,
    /// Places of tasks in the list.
    pub(crate) index: HashMap<TaskId, usize>,
    pub(crate) version: u64,
    taken: Duration,
    cost: Duration,
}

/// How fresh a picture has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fresh {
    /// As the store is now.
    Exact,
    /// Old at most in proportion to what it costs to take another one.
    Recent,
}

type Place = Arc<tokio::sync::Mutex<Option<Arc<Picture>>>>;

/// The pictures that are kept.
#[derive(Default)]
pub(crate) struct Pictures {
    places: Mutex<HashMap<JobId, (Place, Duration)>>,
}

/// Grows with every change of a job: the revision of its last change, and the number of its last log entry.
pub(crate) async fn version(store: &dyn Store, id: JobId) -> Result<(u64, u64), EngineError> {
    let status = store.get(&keys::state(id)).await?.ok_or_else(|| EngineError::NoSuchJob(id.to_string()))?;
    let head = store.get(&keys::head(id)).await?;
    let (changed, last_log) = match &head {
        None => (0, 0),
        Some(entry) => (entry.version.0, decode::<Head>(entry)?.next_log.saturating_sub(1)),
    };
    Ok((status.version.0.max(changed), last_log))
}

impl Pictures {
    /// A picture of job `id`.
    pub(crate) async fn get(
        &self,
        store: &dyn Store,
        kinds: &Kinds,
        clock: &dyn Clock,
        id: JobId,
        fresh: Fresh,
    ) -> Result<Arc<Picture>, EngineError> {
        let place = self.place(id, clock.monotonic());
        let mut place = place.lock().await;
        let (version, _) = version(store, id).await?;
        if let Some(kept) = &*place {
            let age = clock.monotonic().saturating_sub(kept.taken);
            let allowed = match fresh {
                Fresh::Exact => EXACT,
                Fresh::Recent => EXACT.max(kept.cost * 10).min(Duration::from_secs(10)),
            };
            if age < allowed && (fresh == Fresh::Recent && kept.cost > EXACT / 20 || kept.version == version) {
                return Ok(kept.clone());
            }
        }
        let picture = Arc::new(take(store, kinds, clock, id).await?);
        *place = Some(picture.clone());
        drop(place);
        self.trim(id);
        Ok(picture)
    }

    fn place(&self, id: JobId, now: Duration) -> Place {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(id).or_default();
        place.1 = now;
        place.0.clone()
    }

    /// Forgets the pictures that were asked for least recently.
    fn trim(&self, but: JobId) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let size =
            |place: &Place| place.try_lock().map_or(0, |kept| kept.as_ref().map_or(0, |picture| picture.index.len()));
        while places.len() > PICTURES_KEPT || places.values().map(|(place, _)| size(place)).sum::<usize>() > TASKS_KEPT
        {
            let oldest = places.iter().filter(|(id, _)| **id != but).min_by_key(|(_, (_, asked))| *asked);
            let Some(oldest) = oldest.map(|(id, _)| *id) else { return };
            places.remove(&oldest);
        }
    }
}

async fn take(store: &dyn Store, kinds: &Kinds, clock: &dyn Clock, id: JobId) -> Result<Picture, EngineError> {
    let begun = clock.monotonic();
    // The version first: what changes meanwhile makes the picture newer than it says, never older.
    let (version, _) = version(store, id).await?;
    let job = view::job(store, kinds, id, clock.wall()).await?;
    let index: HashMap<TaskId, usize> = job.tasks.iter().enumerate().map(|(n, task)| (task.id, n)).collect();
    let mut specs = HashMap::with_capacity(index.len());
    let mut scan = store.scan(&keys::tasks(id)).await?;
    loop {
        let page = scan.next_page(budget::PAGE_ENTRIES).await?;
        if page.is_empty() {
            break;
        }
        for entry in page {
            let record: TaskRecord = decode(&entry)?;
            // Drafts that a crash left behind are no tasks of the job.
            if index.contains_key(&record.spec.id) {
                specs.insert(record.spec.id, record.spec);
            }
        }
    }
    let taken = clock.monotonic();
    Ok(Picture { job, specs, index, version, taken, cost: taken.saturating_sub(begun) })
}
