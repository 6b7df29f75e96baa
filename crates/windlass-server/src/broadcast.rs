//! One feed for all who follow all jobs: the store is watched once per server, however many listen.
//!
//! Whoever comes back after a while first catches up by a feed of its own, and gives that up as soon as it has come to
//! where the others are. Whoever is slower than the events for long is told to read afresh; nobody waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender};
use windlass_engine::EngineError;
use windlass_store::{Store, StoreError};

use crate::app::App;
use crate::feed::{EventId, Feed, Told};

/// Events that the slowest may be behind.
const BEHIND: usize = 4096;
/// Time between two attempts to read from a store that does not answer.
const AGAIN: Duration = Duration::from_millis(500);

/// The feed that all share.
#[derive(Default)]
pub(crate) struct Shared {
    /// Begun when somebody asks for the first time.
    state: tokio::sync::Mutex<Option<Arc<Begun>>>,
}

struct Begun {
    sender: Sender<Told>,
    /// What was sent last; changed together with sending.
    at: Mutex<EventId>,
}

impl Begun {
    fn subscribe(&self) -> (Receiver<Told>, EventId) {
        let at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        (self.sender.subscribe(), *at)
    }

    fn send(&self, told: Told) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        *at = told.id();
        // That nobody listens at the moment is no error.
        let _ = self.sender.send(told);
    }
}

impl Shared {
    async fn begin(&self, app: &Arc<App>) -> Result<Arc<Begun>, StoreError> {
        let mut state = self.state.lock().await;
        if let Some(begun) = &*state {
            return Ok(begun.clone());
        }
        let feed = Feed::after(app.store().clone(), None).await?;
        let begun = Arc::new(Begun { sender: broadcast::channel(BEHIND).0, at: Mutex::new(feed.at()) });
        app.feeds.spawn(tell(app.clone(), feed, begun.clone()));
        *state = Some(begun.clone());
        Ok(begun)
    }
}

async fn tell(app: Arc<App>, mut feed: Feed, begun: Arc<Begun>) {
    loop {
        tokio::select! {
            told = feed.next() => match told {
                Ok(told) => begun.send(told),
                Err(error) => {
                    tracing::debug!(%error, "the feed of all jobs reads afresh");
                    app.clock.sleep(AGAIN).await;
                }
            },
            () = app.closing.cancelled() => return,
        }
    }
}

/// What one listener hears.
pub(crate) struct Reader {
    begun: Arc<Begun>,
    receiver: Receiver<Told>,
    /// Nothing up to here comes again.
    at: EventId,
    /// Reads what the others have heard already.
    own: Option<Feed>,
    /// The end of what the others had heard when this one began to listen to them.
    joined: EventId,
    /// What they heard first since.
    waiting: Option<Told>,
}

impl Reader {
    /// What comes after `after`; without it, what comes from now on.
    pub(crate) async fn after(app: &Arc<App>, after: Option<EventId>) -> Result<Self, StoreError> {
        Self::join(app.shared_feed.begin(app).await?, app.store().clone(), after).await
    }

    async fn join(begun: Arc<Begun>, store: Arc<dyn Store>, after: Option<EventId>) -> Result<Self, StoreError> {
        let (receiver, joined) = begun.subscribe();
        let own = match after {
            Some(after) if after != joined => Some(Feed::after(store, Some(after)).await?),
            _ => None,
        };
        let at = after.unwrap_or(joined);
        Ok(Self { begun, receiver, at, own, joined, waiting: None })
    }

    /// Where it is.
    pub(crate) fn at(&self) -> EventId {
        self.at
    }

    /// The next event. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Told, EngineError> {
        loop {
            let Some(own) = &mut self.own else {
                let told = match self.waiting.take() {
                    Some(told) => Ok(told),
                    None => self.receiver.recv().await,
                };
                match told {
                    Ok(told) if told.id() <= self.at && !matches!(told, Told::Reset(_)) => {}
                    Ok(told) => {
                        self.at = told.id();
                        return Ok(told);
                    }
                    Err(RecvError::Lagged(missed)) => {
                        tracing::debug!(missed, "a slow listener is told to read afresh");
                        (self.receiver, self.at) = self.begun.subscribe();
                        return Ok(Told::Reset(self.at));
                    }
                    // The server ends, which the listener is told in another way.
                    Err(RecvError::Closed) => std::future::pending().await,
                }
                continue;
            };
            tokio::select! {
                biased;
                heard = self.receiver.recv(), if self.waiting.is_none() => match heard {
                    // The own feed comes to it as well, and then both are at the same place.
                    Ok(told) => self.waiting = Some(told),
                    Err(RecvError::Lagged(_)) => (self.receiver, self.joined) = self.begun.subscribe(),
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                told = own.next() => {
                    let told = told?;
                    self.at = told.id();
                    let target = self.waiting.as_ref().map_or(self.joined, Told::id);
                    if self.at >= target {
                        self.own = None;
                    }
                    return Ok(told);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_clock::SystemClock;
    use windlass_engine::records::{Head, encode};
    use windlass_model::JobId;
    use windlass_model::log::{Level, LogEntry};
    use windlass_store::memory::MemoryStore;
    use windlass_store::{Txn, keys};

    async fn write(store: &MemoryStore, n: u64) {
        let job = JobId::from_bits(1);
        let entry = LogEntry {
            n,
            at: jiff::Timestamp::UNIX_EPOCH,
            level: Level::Info,
            code: "x".into(),
            task: None,
            message: String::new(),
            fields: serde_json::Map::new(),
        };
        let head = Head { next_log: n + 1, ..Head::default() };
        let txn = Txn::new().put(keys::log(job, n), encode(&entry)).put(keys::head(job), encode(&head));
        store.commit(txn.put(keys::job(job), "")).await.unwrap();
    }

    /// What all share, on a store, without a server around it.
    async fn begun(store: &MemoryStore) -> (Arc<Begun>, tokio::task::JoinHandle<()>) {
        let mut feed = Feed::after(Arc::new(store.clone()), None).await.unwrap();
        let begun = Arc::new(Begun { sender: broadcast::channel(BEHIND).0, at: Mutex::new(feed.at()) });
        let teller = begun.clone();
        let task = tokio::spawn(async move {
            while let Ok(told) = feed.next().await {
                teller.send(told);
            }
        });
        (begun, task)
    }

    async fn reader(begun: &Arc<Begun>, store: &MemoryStore, after: Option<EventId>) -> Reader {
        Reader::join(begun.clone(), Arc::new(store.clone()), after).await.unwrap()
    }

    async fn numbers(reader: &mut Reader, count: usize) -> Vec<u64> {
        let mut found = Vec::new();
        for _ in 0..count {
            let Told::Entry(_, _, entry) = reader.next().await.unwrap() else { panic!("reset") };
            found.push(entry.n);
        }
        found
    }

    #[tokio::test]
    async fn whoever_comes_back_catches_up_and_then_hears_what_all_hear() {
        let store = MemoryStore::new(SystemClock::real());
        write(&store, 1).await;
        let (begun, task) = begun(&store).await;
        let mut live = reader(&begun, &store, None).await;
        for n in 2..=5 {
            write(&store, n).await;
        }
        assert_eq!(numbers(&mut live, 4).await, [2, 3, 4, 5]);
        let mut back = reader(&begun, &store, Some(EventId::default())).await;
        assert_eq!(numbers(&mut back, 5).await, [1, 2, 3, 4, 5]);
        assert!(back.own.is_none(), "it has come to where the others are");
        let mut between = reader(&begun, &store, Some(EventId { revision: 2, n: 1 })).await;
        for n in 6..=8 {
            write(&store, n).await;
        }
        assert_eq!(numbers(&mut between, 6).await, [3, 4, 5, 6, 7, 8]);
        assert_eq!(numbers(&mut back, 3).await, [6, 7, 8]);
        assert_eq!(numbers(&mut live, 3).await, [6, 7, 8]);
        assert!(between.own.is_none());
        task.abort();
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_to_read_afresh_and_holds_nobody_up() {
        let store = MemoryStore::new(SystemClock::real());
        let (begun, task) = begun(&store).await;
        let (mut slow, mut quick) = (reader(&begun, &store, None).await, reader(&begun, &store, None).await);
        let all = BEHIND as u64 + 10;
        for n in 1..=all {
            write(&store, n).await;
            assert_eq!(numbers(&mut quick, 1).await, [n]);
        }
        let told = slow.next().await.unwrap();
        assert!(matches!(told, Told::Reset(_)), "{told:?}");
        write(&store, all + 1).await;
        assert_eq!(numbers(&mut slow, 1).await, [all + 1]);
        task.abort();
    }
}
