//! What runs once the network is in use: the places, those who fetch, and the one who uploads.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use windlass_clock::{SharedClock, deadline};

use super::Shared;
use super::hints::{self, Hints};
use crate::cause::Cause;
use crate::config::Layout;
use crate::fetch::{Arrival, Fetcher};
use crate::id::{ActionId, OutputId};
use crate::local::Incoming;
use crate::outcome::{Closed, Lookup};
use crate::place::{Around, Failure, Place};
use crate::queue::Queue;
use crate::seed;
use crate::source::{Catalog, Known, Source};
use crate::table::Record;
use crate::upload::{UploadSettings, Uploader};

/// Between two tries to read an index that could not be read.
const RELOAD: Duration = Duration::from_secs(1);

/// What exists once the network is in use.
pub(super) struct Live {
    pub(super) runtime: Mutex<Option<Runtime>>,
    pub(super) handle: Handle,
    pub(super) sources: Vec<Arc<Source>>,
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) hints: watch::Receiver<Option<Arc<Hints>>>,
    pub(super) writer: Option<Writer>,
}

pub(super) struct Writer {
    pub(super) source: Arc<Source>,
    pub(super) queue: Arc<Queue>,
    pub(super) ended: watch::Receiver<Option<Arc<Uploader>>>,
}

impl Live {
    /// Opens the places and starts the tasks. `None` when there is nothing to talk to; that was warned of.
    pub(super) fn start(shared: &Arc<Shared>) -> Option<Self> {
        let config = &shared.config;
        if config.is_local_only() {
            return None;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            // Each transfer may have a decoder waiting for it; local folders read on such threads, too.
            .max_blocking_threads(config.parallel * 2 + 8)
            .thread_name("gocache-remote")
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                shared.around.warnings.tell(Cause::Other, "", &format!("no thread for the network: {error}"));
                return None;
            }
        };
        let cache = shared.local.state_dir().join("index");
        let open = |url| {
            let place = Place::open(url, &config.environment, &shared.around).ok()?;
            Some(Arc::new(Source::new(place, config.layout, Some(cache.clone()), config.index_bytes)))
        };
        let sources: Vec<Arc<Source>> = config.read.iter().filter_map(open).collect();
        let written = config.write.as_ref().and_then(|url| {
            let same = sources.iter().find(|source| source.place.store.url() == url).cloned();
            same.or_else(|| open(url))
        });
        let fetcher = Fetcher::new(Arc::clone(&shared.local), Arc::clone(&shared.around));
        let handle = runtime.handle().clone();
        let mut all = sources.clone();
        if let Some(written) = &written
            && !sources.iter().any(|source| Arc::ptr_eq(source, written))
        {
            all.push(Arc::clone(written));
        }
        for source in all {
            handle.spawn(keep_loading(source, Arc::clone(&shared.around)));
        }
        for number in 0..config.parallel.max(3) {
            handle.spawn(Arc::clone(&fetcher).work(number));
        }
        let (told, hints) = watch::channel(None);
        handle.spawn(hints::prefetch(Arc::clone(shared), sources.clone(), Arc::clone(&fetcher), told));
        let writer = written.map(|source| {
            let folder = shared.local.state_dir().join("queue");
            let queue = Arc::new(Queue::new(folder, config.queue, Arc::clone(&shared.around)));
            let settings = UploadSettings {
                level: config.compression,
                pack_bytes: config.pack_bytes,
                skip_package_indexes: config.skip_package_indexes,
                scratch: shared.local.state_dir().join("tmp"),
            };
            let uploader = Uploader::new(
                Arc::clone(&source),
                Arc::clone(&queue),
                Arc::clone(&fetcher),
                Arc::clone(&shared.around),
                settings,
            );
            let (tell, ended) = watch::channel(None);
            handle.spawn(async move {
                let uploader = Arc::new(uploader.run().await);
                // The index is only kept small if there is time; what fails here is tried by the next run.
                let _ = uploader.merge().await;
                tell.send_replace(Some(uploader));
            });
            Writer { source, queue, ended }
        });
        Some(Self { runtime: Mutex::new(Some(runtime)), handle, sources, fetcher, hints, writer })
    }

    /// Lets the uploader finish, for at most `limit`.
    pub(super) fn drain(&self, clock: &SharedClock, limit: Duration) -> Closed {
        let Some(writer) = &self.writer else { return Closed::default() };
        // Four fifths for beginning packs; the rest is for what is under way and for the segment that names them.
        writer.queue.close(clock.monotonic() + limit * 4 / 5);
        let mut ended = writer.ended.clone();
        let wait = ended.wait_for(Option::is_some);
        // An error of either kind means that something is left, and the queue says how much.
        let _ = self.handle.block_on(deadline(&**clock, limit, wait));
        writer.queue.left()
    }

    pub(super) async fn look(&self, action: &ActionId) -> Lookup {
        let mut unsure = false;
        if let Some((record, source)) = self.hint(action).await {
            match self.bring(&self.sources[source], &record).await {
                Arrival::Here => return Lookup::Found(record.entry),
                Arrival::Failed => unsure = true,
                // The manifest is older than the last collection of garbage: the index knows better.
                Arrival::Lost => {}
            }
        }
        for source in &self.sources {
            let record = match source.known().await {
                Known::Ready(Catalog::Packed(index)) => {
                    unsure |= !index.complete;
                    index.find(action)
                }
                Known::Ready(Catalog::Seed(catalog)) if catalog.complete && !catalog.actions.contains(action) => None,
                Known::Ready(Catalog::Seed(_)) => match seed::action(&source.place, action).await {
                    Ok(entry) => Some(Record { action: *action, entry, location: None }),
                    Err(Failure::Missing) => None,
                    Err(_) => {
                        unsure = true;
                        None
                    }
                },
                Known::NotYet | Known::Failed => {
                    unsure = true;
                    None
                }
            };
            let Some(record) = record else { continue };
            match self.bring(source, &record).await {
                Arrival::Here => return Lookup::Found(record.entry),
                Arrival::Failed | Arrival::Lost => unsure = true,
            }
        }
        if unsure { Lookup::Unavailable } else { Lookup::Absent }
    }

    async fn hint(&self, action: &ActionId) -> Option<(Record, usize)> {
        let mut hints = self.hints.clone();
        let hints = hints.wait_for(Option::is_some).await.ok()?.clone()?;
        let (record, source) = hints.records.get(action)?;
        let usable =
            record.location.is_some() || record.entry.size == 0 || self.fetcher.local.contains(&record.entry.output);
        usable.then_some((*record, *source))
    }

    /// Brings an output into the local store, if it is not there.
    async fn bring(&self, source: &Arc<Source>, record: &Record) -> Arrival {
        let output = record.entry.output;
        if self.fetcher.local.contains(&output) {
            return Arrival::Here;
        }
        if record.entry.size == 0 || output == OutputId::EMPTY {
            return store_empty(&self.fetcher, output);
        }
        if record.location.is_none() && source.layout == Layout::Packed {
            return Arrival::Lost;
        }
        if self.fetcher.is_lost_at(record) {
            return Arrival::Lost;
        }
        self.fetcher.fetch(source, record).await
    }
}

pub(super) fn store_empty(fetcher: &Fetcher, output: OutputId) -> Arrival {
    if output != OutputId::EMPTY {
        return Arrival::Lost;
    }
    match fetcher.local.begin(&output, 0).and_then(Incoming::finish) {
        Ok(()) => Arrival::Here,
        Err(_) => Arrival::Failed,
    }
}

/// Reads the index, and again as long as it cannot be read. The breaker keeps that from being many requests.
async fn keep_loading(source: Arc<Source>, around: Arc<Around>) {
    while let Err(failure) = source.load().await {
        if failure == Failure::Stopped {
            return;
        }
        around.clock.sleep(RELOAD).await;
    }
}
