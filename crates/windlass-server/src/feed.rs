//! The events of all jobs in one order, which any server on the same store gives alike: by the revision of the commit
//! that wrote a log entry, and within it by key. Nothing of it is in memory only, so it goes on after a restart.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use windlass_engine::EngineError;
use windlass_engine::records::decode;
use windlass_model::JobId;
use windlass_model::log::LogEntry;
use windlass_store::{Change, Entry, Revision, Store, StoreError, Watch, budget, keys};

/// Everything of jobs but their records and states.
const JOB: &str = "job/";
/// Entries that are listed at once when the store no longer has the changes; more are not caught up with.
const CAUGHT_UP: usize = 200_000;

/// The place of an event in the order of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EventId {
    pub(crate) revision: u64,
    /// Counts the events of one revision from 1; 0 stands before them.
    pub(crate) n: u32,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.revision, self.n)
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (revision, n) = text.split_once('.').ok_or(())?;
        Ok(Self { revision: revision.parse().map_err(drop)?, n: n.parse().map_err(drop)? })
    }
}

/// What comes out of a feed.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// A log entry of a job.
    Entry(EventId, JobId, Arc<LogEntry>),
    /// What was asked for cannot be found any more; the feed goes on from here.
    Reset(EventId),
}

impl Told {
    /// Where a reader is that has heard this.
    pub(crate) const fn id(&self) -> EventId {
        match self {
            Self::Entry(id, ..) | Self::Reset(id) => *id,
        }
    }
}

/// Reads the events of all jobs.
pub(crate) struct Feed {
    store: Arc<dyn Store>,
    /// Everything up to here was told.
    at: EventId,
    ready: VecDeque<Told>,
    watch: Option<Box<dyn Watch>>,
}

impl Feed {
    /// What comes after `after`; without it, what comes from now on.
    pub(crate) async fn after(store: Arc<dyn Store>, after: Option<EventId>) -> Result<Self, StoreError> {
        let now = store.revision().await?.0;
        let mut ready = VecDeque::new();
        let at = match after {
            // The order begins anew when the state was replaced by an older one.
            Some(after) if after.revision > now => {
                let at = EventId { revision: now, n: u32::MAX };
                ready.push_back(Told::Reset(at));
                at
            }
            Some(after) => after,
            None => EventId { revision: now, n: u32::MAX },
        };
        Ok(Self { store, at, ready, watch: None })
    }

    /// Where it is: nothing up to here comes again.
    pub(crate) fn at(&self) -> EventId {
        self.at
    }

    /// The next event. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Told, EngineError> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                self.at = told.id();
                return Ok(told);
            }
            let Some(watch) = &mut self.watch else {
                self.begin().await?;
                continue;
            };
            match watch.next().await {
                Ok(changes) => self.take(changes)?,
                Err(StoreError::Compacted { .. }) => self.watch = None,
                Err(error) => {
                    self.watch = None;
                    return Err(error.into());
                }
            }
        }
    }

    /// Finds the way back to where it was: through the changes that the store keeps, else by listing.
    async fn begin(&mut self) -> Result<(), EngineError> {
        // The revision itself once more: part of it may have been told.
        let after = Revision(self.at.revision.saturating_sub(1));
        match self.store.watch(JOB, after).await {
            Ok(watch) => {
                self.watch = Some(watch);
                Ok(())
            }
            Err(StoreError::Compacted { .. }) => self.list().await,
            Err(error) => Err(error.into()),
        }
    }

    fn take(&mut self, changes: Vec<Change>) -> Result<(), EngineError> {
        let mut found: Vec<Entry> = changes
            .into_iter()
            .filter_map(|change| change.entry)
            // An entry that is written again is no new event.
            .filter(|entry| is_log(&entry.key) && entry.created == entry.version)
            .collect();
        self.queue(&mut found)
    }

    fn queue(&mut self, found: &mut [Entry]) -> Result<(), EngineError> {
        found.sort_by(order);
        let mut id = EventId::default();
        for entry in found {
            let revision = entry.created.0;
            id = if id.revision == revision { EventId { revision, n: id.n + 1 } } else { EventId { revision, n: 1 } };
            let Some(job) = entry.key[JOB.len()..].split('/').next().and_then(|text| text.parse().ok()) else {
                continue;
            };
            if id > self.at {
                self.ready.push_back(Told::Entry(id, job, Arc::new(decode(entry)?)));
            }
        }
        Ok(())
    }

    async fn list(&mut self) -> Result<(), EngineError> {
        let now = self.store.revision().await?;
        let watch = self.store.watch(JOB, now).await?;
        let mut found = Vec::new();
        let mut jobs = self.store.scan(keys::JOBS).await?;
        loop {
            let page = jobs.next_page(budget::PAGE_ENTRIES).await?;
            if page.is_empty() {
                break;
            }
            for job in page.iter().filter_map(|entry| keys::last_part::<JobId>(&entry.key)) {
                // Each batch of changes writes the head.
                let head = self.store.get(&keys::head(job)).await?;
                if head.is_none_or(|head| head.version.0 < self.at.revision) {
                    continue;
                }
                let mut log = self.store.scan(&keys::logs(job)).await?;
                loop {
                    let page = log.next_page(budget::PAGE_ENTRIES).await?;
                    if page.is_empty() {
                        break;
                    }
                    found.extend(
                        page.into_iter().filter(|entry| entry.created.0 >= self.at.revision && entry.created <= now),
                    );
                }
                if found.len() > CAUGHT_UP {
                    self.ready.push_back(Told::Reset(EventId { revision: now.0, n: u32::MAX }));
                    self.watch = Some(watch);
                    return Ok(());
                }
            }
        }
        self.queue(&mut found)?;
        self.watch = Some(watch);
        Ok(())
    }
}

fn is_log(key: &str) -> bool {
    key.split('/').nth(2) == Some("log")
}

fn order(a: &Entry, b: &Entry) -> Ordering {
    (a.created, &a.key).cmp(&(b.created, &b.key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_clock::SystemClock;
    use windlass_engine::records::{Head, encode};
    use windlass_store::Txn;
    use windlass_store::memory::MemoryStore;

    async fn write(store: &MemoryStore, entries: &[(u128, u64)]) {
        let mut txn = Txn::new();
        for (job, n) in entries {
            let job = JobId::from_bits(*job);
            let entry = LogEntry {
                n: *n,
                at: jiff::Timestamp::UNIX_EPOCH,
                level: windlass_model::log::Level::Info,
                code: "x".into(),
                task: None,
                message: String::new(),
                fields: serde_json::Map::new(),
            };
            let head = Head { next_log: n + 1, ..Head::default() };
            txn = txn.put(keys::log(job, *n), encode(&entry));
            if !txn.ops.iter().any(|op| op.key() == keys::head(job)) {
                txn = txn.put(keys::head(job), encode(&head)).put(keys::job(job), "");
            }
        }
        store.commit(txn).await.unwrap();
    }

    async fn read(feed: &mut Feed, count: usize) -> Vec<(EventId, u128, u64)> {
        let mut found = Vec::new();
        for _ in 0..count {
            let Told::Entry(id, job, entry) = feed.next().await.unwrap() else { panic!("reset") };
            found.push((id, job.bits(), entry.n));
        }
        found
    }

    #[tokio::test(start_paused = true)]
    async fn from_any_event_the_rest_comes_once_whether_watched_or_listed() {
        let store = MemoryStore::new(SystemClock::real());
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        let begin = EventId::default();
        write(&store, &[(2, 1), (1, 1), (1, 2)]).await;
        write(&store, &[(2, 2)]).await;
        store.commit(Txn::new().put("job/x/t/y", "not a log")).await.unwrap();
        write(&store, &[(1, 3), (2, 3)]).await;
        let mut feed = Feed::after(shared.clone(), Some(begin)).await.unwrap();
        let all = read(&mut feed, 6).await;
        let order: Vec<(u128, u64)> = all.iter().map(|(_, job, n)| (*job, *n)).collect();
        assert_eq!(order, [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (2, 3)]);
        assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for forgotten in [false, true] {
            if forgotten {
                store.compact();
            }
            for begin in 0..all.len() {
                let id: EventId = all[begin].0.to_string().parse().unwrap();
                let mut feed = Feed::after(shared.clone(), Some(id)).await.unwrap();
                assert_eq!(read(&mut feed, all.len() - begin - 1).await, all[begin + 1..], "{forgotten} {begin}");
                assert_eq!(feed.at(), all[all.len() - 1].0);
            }
        }
        let mut feed = Feed::after(shared.clone(), None).await.unwrap();
        write(&store, &[(1, 4)]).await;
        assert_eq!(read(&mut feed, 1).await[0].2, 4);
        let beyond = Some(EventId { revision: 999, n: 1 });
        let mut feed = Feed::after(shared, beyond).await.unwrap();
        assert!(matches!(feed.next().await.unwrap(), Told::Reset(_)));
    }
}
