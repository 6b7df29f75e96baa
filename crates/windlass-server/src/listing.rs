//! Pages of jobs, newest first, read from the end of the store's index: a request looks at a bounded number of jobs,
//! however many there are, and says where to go on.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use windlass_api::{JobQuery, JobState};
use windlass_engine::EngineError;
use windlass_engine::records::{JobRecord, decode};
use windlass_engine::view::JobSummary;
use windlass_model::JobId;
use windlass_model::job::JobStatus;
use windlass_store::{Entry, Store, keys};

use crate::refusal::{Answer, Refusal};

/// Jobs that one request looks at.
const LOOKED_AT: usize = 1000;
/// Jobs that are read at once.
const STEP: usize = 100;

/// Which jobs are asked for.
pub(crate) struct Wanted {
    limit: usize,
    /// Where the page before ended.
    pub(crate) after: Option<JobId>,
    states: Option<Vec<JobState>>,
    kind: Option<String>,
    name: Option<String>,
    labels: Vec<String>,
    text: Option<String>,
}

impl Wanted {
    /// What `query` asks for.
    pub(crate) fn of(query: &JobQuery) -> Answer<Self> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let after = given(&query.cursor)
            .map(|cursor| cursor.parse())
            .transpose()
            .map_err(|_| Refusal::bad_request("invalid_cursor", "the cursor is not one that the page before gave"))?;
        let states = given(&query.state).map(|text| states(&text)).transpose();
        let labels = given(&query.label).unwrap_or_default();
        Ok(Self {
            limit: query.limit.unwrap_or(50).clamp(1, 500) as usize,
            after,
            states: states.map_err(|why| Refusal::bad_request("invalid_query", why))?,
            kind: given(&query.kind),
            name: given(&query.name),
            labels: labels.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect(),
            text: given(&query.text).map(|text| text.to_lowercase()),
        })
    }

    /// Whether the job fits, apart from its state.
    fn fits(&self, job: &JobSummary) -> bool {
        let labelled = |wanted: &String| match wanted.split_once('=') {
            Some((name, value)) => job.labels.get(name).is_some_and(|found| found == value),
            None => job.labels.contains_key(wanted),
        };
        let contains = |text: &String| {
            let has = |field: &str| field.to_lowercase().contains(text);
            has(&job.name)
                || has(&job.kind)
                || has(&job.id.to_string())
                || job.labels.iter().any(|(name, value)| has(&format!("{name}={value}")))
        };
        self.kind.as_ref().is_none_or(|kind| job.kind == *kind)
            && self.name.as_ref().is_none_or(|name| job.name == *name)
            && self.labels.iter().all(labelled)
            && self.text.as_ref().is_none_or(contains)
    }

    fn state_fits(&self, job: &JobSummary) -> bool {
        self.states.as_ref().is_none_or(|states| states.contains(&job.status.state.into()))
    }

    /// What to walk along: jobs that are not over have an index of their own, however far back they lie.
    fn index(&self) -> &'static str {
        match &self.states {
            Some(states) if states.iter().all(|state| state.is_active()) => keys::ACTIVE,
            _ => keys::JOBS,
        }
    }
}

fn states(text: &str) -> Result<Vec<JobState>, String> {
    let mut states = Vec::new();
    for name in text.split(',').map(str::trim) {
        match name {
            "active" => states.extend(JobState::ALL.into_iter().filter(|state| state.is_active())),
            "rest" => states.extend(JobState::ALL.into_iter().filter(|state| !state.is_active())),
            name => match JobState::ALL.into_iter().find(|state| state.as_str() == name) {
                Some(state) => states.push(state),
                None => {
                    let known: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
                    return Err(format!("{name:?} is not a state; there are active, rest, {}", known.join(", ")));
                }
            },
        }
    }
    Ok(states)
}

/// A page of jobs as they are stored.
pub(crate) struct Page {
    pub(crate) jobs: Vec<JobSummary>,
    /// Where to go on; none at the end.
    pub(crate) next: Option<String>,
}

/// The jobs that are asked for.
pub(crate) async fn page(store: &dyn Store, wanted: &Wanted) -> Answer<Page> {
    let mut jobs: Vec<JobSummary> = Vec::new();
    let looked = walk(store, wanted.index(), wanted.after, |job| {
        if wanted.state_fits(&job) && wanted.fits(&job) {
            if jobs.len() == wanted.limit {
                return ControlFlow::Break(());
            }
            jobs.push(job);
        }
        ControlFlow::Continue(())
    })
    .await?;
    let next = match looked {
        Looked::All => None,
        Looked::Stopped => jobs.last().map(|job| job.id.to_string()),
        Looked::Until(last) => Some(last.to_string()),
    };
    Ok(Page { jobs, next })
}

/// Jobs by state, among the newest.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) by_state: BTreeMap<JobState, u64>,
    /// Whether there are older ones, which were not counted.
    pub(crate) more: bool,
}

/// Counts what is asked for by state, whatever states are asked for.
pub(crate) async fn count(store: &dyn Store, wanted: &Wanted) -> Answer<Counted> {
    let mut by_state: BTreeMap<JobState, u64> = BTreeMap::new();
    let looked = walk(store, keys::JOBS, None, |job| {
        if wanted.fits(&job) {
            *by_state.entry(job.status.state.into()).or_default() += 1;
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok(Counted { by_state, more: !matches!(looked, Looked::All) })
}

/// How far a walk has come.
enum Looked {
    /// There are no more.
    All,
    /// The visitor has had enough.
    Stopped,
    /// This one was the last that may be looked at.
    Until(JobId),
}

/// Visits jobs from the newest to the oldest along an index whose keys end with ids.
async fn walk(
    store: &dyn Store,
    index: &'static str,
    after: Option<JobId>,
    mut visit: impl FnMut(JobSummary) -> ControlFlow<()>,
) -> Answer<Looked> {
    let mut last = after;
    let mut looked_at = 0;
    loop {
        let before = last.map(|last| format!("{index}{last}"));
        let found = store.last_before(index, before.as_deref(), STEP).await?;
        if found.is_empty() {
            return Ok(Looked::All);
        }
        // Whatever has come meanwhile is not found by its number, and looked up one by one.
        let before = last.map(keys::state);
        let near = match index {
            keys::JOBS => store.last_before(keys::STATES, before.as_deref(), STEP).await?,
            _ => Vec::new(),
        };
        let mut near: HashMap<JobId, Entry> =
            near.into_iter().filter_map(|entry| Some((keys::last_part(&entry.key)?, entry))).collect();
        for entry in found {
            let Some(id) = keys::last_part::<JobId>(&entry.key) else { continue };
            last = Some(id);
            looked_at += 1;
            let record = if index == keys::JOBS { Some(entry) } else { store.get(&keys::job(id)).await? };
            let status = match near.remove(&id) {
                Some(status) => Some(status),
                None => store.get(&keys::state(id)).await?,
            };
            // One that was deleted in between.
            let (Some(record), Some(status)) = (record, status) else { continue };
            if visit(summary(&record, &status)?).is_break() {
                return Ok(Looked::Stopped);
            }
        }
        if let Some(last) = last.filter(|_| looked_at >= LOOKED_AT) {
            return Ok(Looked::Until(last));
        }
    }
}

fn summary(record: &Entry, status: &Entry) -> Result<JobSummary, EngineError> {
    let record: JobRecord = decode(record)?;
    let status: JobStatus = decode(status)?;
    let JobRecord { id, kind, name, created, labels, .. } = record;
    Ok(JobSummary { id, kind, name, created, labels, status })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use windlass_clock::SystemClock;
    use windlass_engine::records::encode;
    use windlass_engine::view;
    use windlass_model::job::JobEvent;
    use windlass_store::Txn;
    use windlass_store::memory::MemoryStore;
    use windlass_store_embedded::{EmbeddedStore, Options};

    use super::*;

    fn id(n: u64) -> JobId {
        JobId::new(1_700_000_000_000 + n, u128::from(n))
    }

    /// Jobs as they are stored: every tenth is of team a, every hundredth has not been planned yet, all others failed.
    async fn fill(store: &dyn Store, jobs: u64) {
        let at = jiff::Timestamp::UNIX_EPOCH;
        for chunk in (0..jobs).collect::<Vec<_>>().chunks(20) {
            let mut txn = Txn::new();
            for &n in chunk {
                let mut status = JobStatus::new(at);
                let mut labels = BTreeMap::new();
                if n % 10 == 0 {
                    labels.insert("team".to_owned(), "a".to_owned());
                }
                if n % 100 == 0 {
                    txn = txn.put(format!("{}{}", keys::ACTIVE, id(n)), "");
                } else {
                    let failure = windlass_model::Failure::permanent("x", "no plan");
                    status = status.apply(JobEvent::PlanFailed(Box::new(failure)), at).unwrap();
                }
                let record = serde_json::json!({
                    "id": id(n), "kind": "dag", "name": format!("job-{n}"), "labels": labels, "created": at,
                    "spec": { "tasks": [{ "name": "a", "type": "noop", "description": "x".repeat(400) }] },
                });
                let record: JobRecord = serde_json::from_value(record).unwrap();
                txn = txn.put(keys::job(id(n)), encode(&record)).put(keys::state(id(n)), encode(&status));
            }
            store.commit(txn).await.unwrap();
        }
    }

    fn query(query: &JobQuery) -> Wanted {
        Wanted::of(query).unwrap_or_else(|refusal| panic!("{}", refusal.problem()))
    }

    /// All pages of a query, from the first to the last.
    async fn all(store: &dyn Store, asked: &JobQuery) -> (Vec<JobId>, usize) {
        let (mut found, mut pages, mut asked) = (Vec::new(), 0, asked.clone());
        loop {
            let page = page(store, &query(&asked)).await.unwrap_or_else(|_| panic!("the store answers"));
            assert!(page.jobs.len() <= asked.limit.unwrap() as usize);
            found.extend(page.jobs.iter().map(|job| job.id));
            pages += 1;
            asked.cursor = match page.next {
                Some(next) => Some(next),
                None => return (found, pages),
            };
        }
    }

    #[tokio::test]
    async fn pages_hold_every_job_once_newest_first_whatever_is_asked_for() {
        let store = MemoryStore::new(SystemClock::real());
        fill(&store, 2350).await;
        let limit = Some(37);
        let of = |state: Option<&str>, label: Option<&str>| JobQuery {
            state: state.map(str::to_owned),
            label: label.map(str::to_owned),
            limit,
            ..JobQuery::default()
        };
        for (asked, every) in [
            (of(None, None), 1),
            (of(None, Some("team=a")), 10),
            (of(Some("active"), None), 100),
            (of(Some("pending"), Some("team")), 100),
            (of(Some("active,undo_failed"), None), 100),
        ] {
            let (found, _) = all(&store, &asked).await;
            let expected: Vec<JobId> = (0..2350).rev().filter(|n| n % every == 0).map(id).collect();
            assert_eq!(found, expected, "{asked:?}");
        }
        // What nobody has is looked for in bounded steps.
        let (found, pages) = all(&store, &of(None, Some("team=b"))).await;
        assert_eq!((found.len(), pages), (0, 3));
        let counted = count(&store, &query(&of(None, Some("team=a")))).await.unwrap_or_else(|_| panic!("it answers"));
        assert_eq!((counted.by_state.values().sum::<u64>(), counted.more), (100, true));
    }

    #[tokio::test]
    async fn ten_thousand_jobs_cost_a_page_no_more_than_a_thousand() {
        let dir = tempfile::tempdir().unwrap();
        let clock = SystemClock::real();
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(dir.path(), Options::new(clock.clone())).unwrap());
        fill(&*store, 10_000).await;
        let begun = clock.monotonic();
        let whole = view::jobs(&*store).await.unwrap();
        let all = clock.monotonic() - begun;
        let asked = query(&JobQuery::default());
        let begun = clock.monotonic();
        let first = page(&*store, &asked).await.unwrap_or_else(|_| panic!("the store answers"));
        let one_page = clock.monotonic() - begun;
        let begun = clock.monotonic();
        let counted = count(&*store, &asked).await.unwrap_or_else(|_| panic!("the store answers"));
        let counting = clock.monotonic() - begun;
        println!("10 000 jobs: all of them {all:.1?}; a page of 50 {one_page:.1?}; counting 1000 {counting:.1?}");
        assert_eq!((whole.len(), first.jobs.len()), (10_000, 50));
        assert_eq!(counted.by_state.values().sum::<u64>(), LOOKED_AT as u64);
        let newest: BTreeSet<JobId> = whole[..50].iter().map(|job| job.id).collect();
        assert_eq!(first.jobs.iter().map(|job| job.id).collect::<BTreeSet<_>>(), newest);
        assert!(one_page * 5 < all, "a page takes {one_page:?}, all jobs take {all:?}");
    }
}
