//! The remote as the rest of the program sees it.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use windlass_clock::{SharedClock, SystemEntropy, deadline};

use crate::cause::{Cause, Warnings};
use crate::config::{Layout, RemoteConfig};
use crate::id::{ActionId, Entry, OutputId};
use crate::journal::Journal;
use crate::local::LocalOutputs;
use crate::name::{Name, run_key};
use crate::outcome::{Closed, Counters, Lookup, Prefetched};
use crate::place::{Around, Failure, Steps, Tally, add};
use crate::source::{Catalog, Known, Source};
use crate::table::{Record, TableDraft, TableKind};
use crate::upload::Uploader;

mod hints;
mod live;

use live::{Live, Writer};

/// A manifest that says nothing new is published again after this, so that garbage is not made of what is in use.
const REFRESH: Duration = Duration::from_secs(24 * 3600);
/// A run that needs the network for nothing else tries to finish what others left this often.
const AGAIN: Duration = Duration::from_secs(300);
/// Actions of one run that its manifest names at most.
const MOST_USED: usize = 200_000;
/// The shortest wait for a lookup, whatever was late before: what a remote across an ocean needs.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);

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
