//! The remote as the rest of the program sees it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use windlass_clock::{SharedClock, SystemEntropy, deadline};

use crate::cause::{Cause, Warnings};
use crate::config::{Layout, RemoteConfig};
use crate::fetch::{Arrival, Fetcher};
use crate::id::{ActionId, Entry, OutputId};
use crate::index::Index;
use crate::journal::Journal;
use crate::local::{Incoming, LocalOutputs};
use crate::name::{Name, run_key};
use crate::outcome::{Closed, Counters, Lookup, Prefetched};
use crate::place::{Around, Failure, Place, Steps, Tally, add};
use crate::plan;
use crate::queue::Queue;
use crate::seed;
use crate::source::{Catalog, Known, Source};
use crate::table::{Record, TableDraft, TableKind};
use crate::upload::{UploadSettings, Uploader};

/// A manifest that says nothing new is published again after this, so that garbage is not made of what is in use.
const REFRESH: Duration = Duration::from_secs(24 * 3600);
/// A run that needs the network for nothing else tries to finish what others left this often.
const AGAIN: Duration = Duration::from_secs(300);
/// Actions of one run that its manifest names at most.
const MOST_USED: usize = 200_000;
/// The shortest wait for a lookup, whatever was late before: what a remote across an ocean needs.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);
/// Between two tries to read an index that could not be read.
const RELOAD: Duration = Duration::from_secs(1);

/// The remote of one run. Cheap to make: nothing is opened before the first lookup or offer.
///
/// All methods may be called from any thread that is not of an async runtime.
pub struct Remote {
    shared: Arc<Shared>,
    live: OnceLock<Option<Live>>,
    closed: AtomicBool,
}

struct Shared {
    config: RemoteConfig,
    local: Arc<dyn LocalOutputs>,
    around: Arc<Around>,
    used: Mutex<Used>,
    gave_up: AtomicBool,
    /// Lookups in a row that were not answered in time.
    late: AtomicU32,
}

#[derive(Default)]
struct Used {
    seen: HashSet<ActionId>,
    order: Vec<ActionId>,
}

/// What exists once the network is in use.
struct Live {
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    sources: Vec<Arc<Source>>,
    fetcher: Arc<Fetcher>,
    hints: watch::Receiver<Option<Arc<Hints>>>,
    writer: Option<Writer>,
}

struct Writer {
    source: Arc<Source>,
    queue: Arc<Queue>,
    ended: watch::Receiver<Option<Arc<Uploader>>>,
}

/// What the manifests say.
#[derive(Default)]
struct Hints {
    records: HashMap<ActionId, (Record, usize)>,
    order: Vec<ActionId>,
    /// Outputs that were planned to be fetched, and that were local.
    planned: Vec<OutputId>,
    local: u64,
    /// Of this run's own namespace.
    own_newest_ms: Option<i64>,
}

impl Remote {
    /// Begins, at once and without a request. `warn` is given complete lines, each cause once.
    #[must_use]
    pub fn start(
        config: RemoteConfig,
        local: Arc<dyn LocalOutputs>,
        clock: SharedClock,
        warn: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self::start_with_steps(config, local, clock, warn, Steps::default())
    }

    /// The same, stopped where a test says.
    #[doc(hidden)]
    #[must_use]
    pub fn start_with_steps(
        config: RemoteConfig,
        local: Arc<dyn LocalOutputs>,
        clock: SharedClock,
        warn: impl Fn(&str) + Send + Sync + 'static,
        steps: Steps,
    ) -> Self {
        let around = Arc::new(Around {
            clock,
            entropy: SystemEntropy::real(),
            warnings: Warnings::new(warn),
            tally: Tally::default(),
            steps,
            deadline: config.deadline,
        });
        let shared = Shared {
            config,
            local,
            around,
            used: Mutex::default(),
            gave_up: AtomicBool::new(false),
            late: AtomicU32::new(0),
        };
        Self { shared: Arc::new(shared), live: OnceLock::new(), closed: AtomicBool::new(false) }
    }

    fn live(&self) -> Option<&Live> {
        if self.closed.load(Ordering::SeqCst) {
            return self.live.get().and_then(Option::as_ref);
        }
        self.live.get_or_init(|| Live::start(&self.shared)).as_ref()
    }

    /// Looks an action up, and brings its output into the local store. Blocks for at most the deadline.
    pub fn lookup(&self, action: &ActionId) -> Lookup {
        let around = &self.shared.around;
        add(&around.tally.lookups, 1);
        let answer = if self.shared.config.read.is_empty() { Lookup::Absent } else { self.ask(action) };
        let counter = match answer {
            Lookup::Found(_) => &around.tally.found,
            Lookup::Absent => &around.tally.absent,
            Lookup::Unavailable => &around.tally.unavailable,
        };
        add(counter, 1);
        answer
    }

    fn ask(&self, action: &ActionId) -> Lookup {
        if self.shared.gave_up.load(Ordering::Relaxed) || self.closed.load(Ordering::SeqCst) {
            return Lookup::Unavailable;
        }
        let Some(live) = self.live() else { return Lookup::Unavailable };
        let around = &self.shared.around;
        let started = around.clock.monotonic();
        // The patience halves with each lookup that is not answered in time, and comes back with one that is.
        let late = self.shared.late.load(Ordering::Relaxed).min(10);
        let patience = (self.shared.config.deadline / (1 << late)).max(LEAST_PATIENCE);
        let looked = live.handle.block_on(deadline(&*around.clock, patience, live.look(action)));
        let waited = around.clock.monotonic().saturating_sub(started);
        add(&around.tally.waited_ms, waited.as_millis() as u64);
        self.weigh();
        let answer = if let Ok(answer) = looked {
            self.shared.late.store(0, Ordering::Relaxed);
            answer
        } else {
            if self.shared.late.fetch_add(1, Ordering::Relaxed) > 0 {
                let place = self.shared.config.read.first().map(|url| url.of_key("")).unwrap_or_default();
                let words = format!("a lookup was not answered within {:.1} s", patience.as_secs_f64());
                around.warnings.tell(Cause::Hanging, &place, &words);
            }
            Lookup::Unavailable
        };
        if let Lookup::Found(entry) = answer
            && self.shared.local.action(action) != Some(entry)
            && let Err(error) = self.shared.local.put_action(action, &entry)
        {
            around.warnings.tell(Cause::LocalDisk, "", &error.to_string());
            return Lookup::Unavailable;
        }
        answer
    }

    /// Gives up on a remote that costs more time than it saves.
    fn weigh(&self) {
        let around = &self.shared.around;
        let limit = self.shared.config.give_up_after.as_millis() as u64;
        let waited = around.tally.waited_ms.load(Ordering::Relaxed);
        let found = around.tally.found.load(Ordering::Relaxed);
        if waited > limit
            && waited > (found + 1) * (limit / 10).max(1)
            && !self.shared.gave_up.swap(true, Ordering::SeqCst)
        {
            let words = format!("{:.0} s were waited for {found} outputs", waited as f64 / 1000.0);
            let place = self.shared.config.read.first().map(|url| url.of_key("")).unwrap_or_default();
            around.warnings.tell(Cause::Slow, &place, &words);
        }
    }

    /// Queues what `go` has put. Once it returns, the entry is remembered on disk; a kill does not lose it.
    ///
    /// False when there is nowhere to write, or the local disk does not take the queue.
    pub fn offer(&self, action: ActionId, entry: Entry) -> bool {
        self.used(action);
        if self.shared.config.write.is_none() || self.closed.load(Ordering::SeqCst) {
            return false;
        }
        let writer = self.live().and_then(|live| live.writer.as_ref());
        writer.is_some_and(|writer| writer.queue.offer(action, entry))
    }

    /// Notes that this run used an action, for the manifest.
    pub fn used(&self, action: ActionId) {
        let mut used = self.shared.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.order.len() < MOST_USED && used.seen.insert(action) {
            used.order.push(action);
        }
    }

    /// Fetches all that the manifests name, waiting for at most `limit`.
    pub fn prefetch(&self, limit: Duration) -> Prefetched {
        let Some(live) = self.live() else { return Prefetched::default() };
        let clock = &self.shared.around.clock;
        let brought = live.handle.block_on(deadline(&**clock, limit, async {
            let mut hints = live.hints.clone();
            let hints = hints.wait_for(Option::is_some).await.ok()?.clone()?;
            while live.fetcher.under_way() > 0 {
                clock.sleep(Duration::from_millis(5)).await;
            }
            Some(hints)
        }));
        let hints = match brought {
            Ok(hints) => hints,
            Err(_) => live.hints.borrow().clone(),
        };
        let Some(hints) = hints else { return Prefetched::default() };
        let outputs = hints.planned.iter().filter(|output| self.shared.local.contains(output)).count() as u64;
        Prefetched {
            actions: hints.order.len() as u64,
            outputs,
            local: hints.local,
            missing: hints.planned.len() as u64 - outputs,
        }
    }

    /// Uploads all that waits in the queues of this and of finished runs, for at most `limit`. Nothing can be offered
    /// afterwards.
    pub fn flush(&self, limit: Duration) -> Closed {
        if self.shared.config.write.is_none() {
            return Closed::default();
        }
        let Some(live) = self.live() else { return Closed::default() };
        live.drain(&self.shared.around.clock, limit)
    }

    /// Ends: uploads what waits for at most `limit`, publishes the manifest, and lets go of the network. What is left is
    /// remembered. Later calls do nothing.
    pub fn close(&self, limit: Duration) -> Closed {
        if self.closed.load(Ordering::SeqCst) {
            return Closed::default();
        }
        // Decided before anything is closed: it may need the network.
        let manifest = self.manifest();
        let needed = manifest.is_some() || self.shared.has_leftovers();
        let live = if needed { self.live() } else { self.live.get().and_then(Option::as_ref) };
        self.closed.store(true, Ordering::SeqCst);
        let Some(live) = live else {
            return Closed { held_back: self.shared.around.warnings.held_back(), ..Closed::default() };
        };
        let clock = &self.shared.around.clock;
        let started = clock.monotonic();
        live.fetcher.drop_plans();
        let mut closed = live.drain(clock, limit);
        let rest = limit.saturating_sub(clock.monotonic().saturating_sub(started));
        if let (Some(used), Some(writer)) = (manifest, &live.writer)
            && writer.source.place.writes_work()
        {
            let uploader = writer.ended.borrow().clone();
            let publish = publish_manifest(&self.shared, live, writer, uploader, used);
            // A manifest that does not get through in time only makes the next prefetch a little worse.
            let _ = live.handle.block_on(deadline(&**clock, rest, publish));
        }
        if let Some(runtime) = live.runtime.lock().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
        closed.held_back = self.shared.around.warnings.held_back();
        closed
    }

    /// The actions of this run, unless the last manifest said the same not long ago.
    fn manifest(&self) -> Option<Vec<ActionId>> {
        if self.shared.config.write.is_none() || self.shared.config.layout == Layout::Seed {
            return None;
        }
        let used = self.shared.used.lock().unwrap_or_else(PoisonError::into_inner).order.clone();
        if used.is_empty() || self.shared.is_stamped(&used) { None } else { Some(used) }
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let tally = &self.shared.around.tally;
        let live = self.live.get().and_then(Option::as_ref);
        let mut stores: Vec<&Arc<Source>> = live.map(|live| live.sources.iter().collect()).unwrap_or_default();
        stores.extend(live.and_then(|live| live.writer.as_ref()).map(|writer| &writer.source));
        let mut counted: Vec<*const Source> = Vec::new();
        let mut requests = 0;
        for source in stores {
            if !counted.contains(&Arc::as_ptr(source)) {
                counted.push(Arc::as_ptr(source));
                requests += source.place.store.counts().total();
            }
        }
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            lookups: get(&tally.lookups),
            found: get(&tally.found),
            absent: get(&tally.absent),
            unavailable: get(&tally.unavailable),
            requests,
            failed_requests: get(&tally.failed_requests),
            bytes_read: get(&tally.bytes_read),
            bytes_written: get(&tally.bytes_written),
            outputs_read: get(&tally.outputs_read),
            output_bytes_read: get(&tally.output_bytes_read),
            outputs_written: get(&tally.outputs_written),
            actions_written: get(&tally.actions_written),
            deduplicated: get(&tally.deduplicated),
            dropped: get(&tally.dropped),
            rejected: get(&tally.rejected),
            waited_ms: get(&tally.waited_ms),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Not closed: whoever drops it is in a hurry. The journals say what is left.
        if let Some(Some(live)) = self.live.get()
            && let Some(runtime) = live.runtime.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    /// Whether a process that is gone has left uploads, and nobody tried to finish them lately: a remote that is down
    /// must not hold up the end of every build.
    fn has_leftovers(&self) -> bool {
        let queue = self.local.state_dir().join("queue");
        if self.config.write.is_none() || !Journal::is_orphaned(&queue) {
            return false;
        }
        let note = queue.join("tried");
        let now = self.around.clock.wall().as_millisecond();
        let tried = fs::read_to_string(&note).ok().and_then(|text| text.trim().parse::<i64>().ok());
        if tried.is_some_and(|tried| (0..AGAIN.as_millis() as i64).contains(&(now - tried))) {
            return false;
        }
        // If the disk does not take the note, they are tried again by the next run.
        let _ = fs::write(&note, now.to_string());
        true
    }

    fn stamp_file(&self) -> PathBuf {
        let place = self.config.write.as_ref().map(ToString::to_string).unwrap_or_default();
        let namespace = self.config.namespaces.first().map_or("default", String::as_str);
        let name = OutputId::of(format!("{place}\n{namespace}").as_bytes()).hex();
        self.local.state_dir().join(format!("manifest-{}.stamp", &name[..16]))
    }

    /// Whether a manifest with all of these was published less than [`REFRESH`] ago.
    fn is_stamped(&self, used: &[ActionId]) -> bool {
        let Ok(bytes) = fs::read(self.stamp_file()) else { return false };
        let Some((time, ids)) = bytes.split_first_chunk::<8>() else { return false };
        let age = self.around.clock.wall().as_millisecond().saturating_sub(i64::from_le_bytes(*time));
        if !(0..REFRESH.as_millis() as i64).contains(&age) {
            return false;
        }
        let stamped: HashSet<&[u8]> = ids.chunks_exact(32).collect();
        used.iter().all(|action| stamped.contains(&action.bytes()[..]))
    }

    fn stamp(&self, used: &[ActionId]) {
        let mut bytes = self.around.clock.wall().as_millisecond().to_le_bytes().to_vec();
        for action in used {
            bytes.extend_from_slice(action.bytes());
        }
        let file = self.stamp_file();
        let draft = file.with_extension(format!("{:016x}.new", self.around.entropy.next_u64()));
        // Without it the manifest is only published once more.
        if fs::write(&draft, bytes).and_then(|()| fs::rename(&draft, &file)).is_err() {
            let _ = fs::remove_file(&draft);
        }
    }
}

/// Publishes what this run used. Records that the write place does not hold go without their location.
async fn publish_manifest(
    shared: &Arc<Shared>,
    live: &Live,
    writer: &Writer,
    uploader: Option<Arc<Uploader>>,
    used: Vec<ActionId>,
) -> Result<(), Failure> {
    let mut told = live.hints.clone();
    let hints = told.wait_for(Option::is_some).await.ok().and_then(|hints| hints.clone());
    let own = live.sources.iter().position(|source| Arc::ptr_eq(source, &writer.source));
    // On a machine that lost its stamps, what others published lately is as good.
    let wall = shared.around.clock.wall();
    if let Some(hints) = &hints {
        let recent = hints.own_newest_ms.is_some_and(|at| wall.as_millisecond() - at < REFRESH.as_millis() as i64);
        let known = |action: &ActionId| {
            let hint = hints.records.get(action);
            hint.is_some_and(|(record, source)| {
                Some(*source) == own && shared.local.action(action) == Some(record.entry)
            })
        };
        if recent && used.iter().all(known) {
            shared.stamp(&used);
            return Ok(());
        }
    }
    let local = Arc::clone(&shared.local);
    let index = match writer.source.known_now() {
        Known::Ready(Catalog::Packed(index)) => Some(index),
        _ => None,
    };
    let drafted = tokio::task::spawn_blocking(move || {
        let mut draft = TableDraft::default();
        if let Some(index) = &index {
            draft.packs = index.pack_sizes();
        }
        for action in &used {
            let Some(entry) = local.action(action) else { continue };
            let mut record = Record { action: *action, entry, location: None };
            let same = |found: &Record| found.entry.output == entry.output && found.entry.size == entry.size;
            record.location = uploader
                .as_ref()
                .and_then(|uploader| uploader.locate(&record))
                .or_else(|| index.as_ref()?.find(action).filter(same)?.location);
            draft.records.push(record);
        }
        if let Some(uploader) = &uploader {
            draft.packs.extend(uploader.sizes_of(&draft.records));
        }
        (draft.encode(TableKind::Manifest), used)
    });
    let Ok((bytes, used)) = drafted.await else { return Err(Failure::Stopped) };
    let namespace = shared.config.namespaces.first().map_or("default", String::as_str);
    let key = run_key(namespace, wall, Name::fresh(&*shared.around.entropy));
    writer.source.place.put("write manifest", &key, Bytes::clone(&bytes)).await?;
    shared.stamp(&used);
    Ok(())
}

impl Live {
    /// Opens the places and starts the tasks. `None` when there is nothing to talk to; that was warned of.
    fn start(shared: &Arc<Shared>) -> Option<Self> {
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
        handle.spawn(prefetch(Arc::clone(shared), sources.clone(), Arc::clone(&fetcher), told));
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
    fn drain(&self, clock: &SharedClock, limit: Duration) -> Closed {
        let Some(writer) = &self.writer else { return Closed::default() };
        // Four fifths for beginning packs; the rest is for what is under way and for the segment that names them.
        writer.queue.close(clock.monotonic() + limit * 4 / 5);
        let mut ended = writer.ended.clone();
        let wait = ended.wait_for(Option::is_some);
        // An error of either kind means that something is left, and the queue says how much.
        let _ = self.handle.block_on(deadline(&**clock, limit, wait));
        writer.queue.left()
    }

    async fn look(&self, action: &ActionId) -> Lookup {
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

fn store_empty(fetcher: &Fetcher, output: OutputId) -> Arrival {
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

/// Reads the manifests and plans what to fetch.
async fn prefetch(
    shared: Arc<Shared>,
    sources: Vec<Arc<Source>>,
    fetcher: Arc<Fetcher>,
    told: watch::Sender<Option<Arc<Hints>>>,
) {
    let config = &shared.config;
    if config.prefetch_bytes == 0 {
        told.send_replace(Some(Arc::default()));
        return;
    }
    let asks = config.namespaces.iter().enumerate().flat_map(|(rank, namespace)| {
        sources.iter().enumerate().map(move |(number, source)| async move {
            (rank, number, source.manifests(namespace).await.unwrap_or_default())
        })
    });
    let found = futures::future::join_all(asks).await;
    let mut hints = Hints::default();
    // The first namespace that has any: branch, base, default.
    let rank = found.iter().filter(|(_, _, manifests)| !manifests.records.is_empty()).map(|(rank, ..)| *rank).min();
    for (own, number, manifests) in found {
        if own == 0 && manifests.newest_ms > hints.own_newest_ms {
            hints.own_newest_ms = manifests.newest_ms;
        }
        if Some(own) == rank {
            for record in manifests.records {
                // Earlier places go first.
                if let std::collections::hash_map::Entry::Vacant(free) = hints.records.entry(record.action) {
                    free.insert((record, number));
                    hints.order.push(record.action);
                }
            }
        }
    }
    // Others published these without saying where they lie, because it is in another place: the indexes know.
    let homeless = |record: &Record| record.location.is_none() && record.entry.size > 0;
    if hints.records.values().any(|(record, _)| homeless(record)) {
        let mut indexes: Vec<Option<Arc<Index>>> = Vec::new();
        for source in &sources {
            indexes.push(match source.known().await {
                Known::Ready(Catalog::Packed(index)) => Some(index),
                _ => None,
            });
        }
        for (record, number) in hints.records.values_mut().filter(|(record, _)| homeless(record)) {
            let found = indexes.iter().enumerate().find_map(|(at, index)| {
                let found = index.as_ref()?.find(&record.action)?;
                (found.entry.output == record.entry.output && found.location.is_some()).then_some((found, at))
            });
            if let Some((found, at)) = found {
                (*record, *number) = (found, at);
            }
        }
    }
    let (shared, planner) = (Arc::clone(&shared), Arc::clone(&fetcher));
    let planned = tokio::task::spawn_blocking(move || {
        let (planned, local) = plan_blocking(&shared, &sources, &planner, &hints);
        Hints { planned, local, ..hints }
    });
    // The hints are told only now: a lookup before would ask for one output where a range brings many.
    let hints = planned.await.unwrap_or_default();
    told.send_replace(Some(Arc::new(hints)));
}

/// Plans the ranges, and stores the actions whose outputs are local already. The outputs planned, and those local.
fn plan_blocking(
    shared: &Shared,
    sources: &[Arc<Source>],
    fetcher: &Arc<Fetcher>,
    hints: &Hints,
) -> (Vec<OutputId>, u64) {
    let mut wanted: Vec<Vec<Record>> = vec![Vec::new(); sources.len()];
    let mut local: HashSet<OutputId> = HashSet::new();
    let mut seen: HashSet<OutputId> = HashSet::new();
    let mut planned = Vec::new();
    let mut here = Vec::new();
    for action in &hints.order {
        let Some((record, source)) = hints.records.get(action) else { continue };
        let output = record.entry.output;
        let is_new = seen.insert(output);
        if is_new
            && (shared.local.contains(&output)
                || (record.entry.size == 0 && store_empty(fetcher, output) == Arrival::Here))
        {
            local.insert(output);
        }
        if local.contains(&output) {
            here.push(record);
        } else if record.location.is_some() {
            if is_new {
                planned.push(output);
            }
            wanted[*source].push(*record);
        }
    }
    for (records, source) in wanted.iter().zip(sources) {
        for range in plan::ranges(records, shared.config.prefetch_bytes) {
            fetcher.plan(source, range.pack, range.extents);
        }
    }
    // After the plans: the network has something to do meanwhile.
    for record in here {
        fetcher.put_action(&record.action, &record.entry);
    }
    (planned, local.len() as u64)
}
