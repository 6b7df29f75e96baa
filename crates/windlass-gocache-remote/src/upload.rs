//! Uploads what the queue holds: outputs the remote lacks in packs, then a segment of the index that names them, and
//! only then marks the entries as done.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use windlass_clock::deadline;

use crate::cause::Cause;
use crate::config::Layout;
use crate::fetch::{Fetcher, LARGEST_OUTPUT};
use crate::frame::{LARGEST, Packer};
use crate::id::OutputId;
use crate::index::{Index, OutputIndex};
use crate::journal::Item;
use crate::local::LocalOutputs;
use crate::merge;
use crate::name::Name;
use crate::pack::{MAGIC, PackDraft, Placed};
use crate::place::{Around, Failure, add};
use crate::queue::Queue;
use crate::seed;
use crate::source::{Catalog, Known, Source};
use crate::table::{Location, Record, TableDraft, TableKind};

/// Packs being sent at once. Each is in memory.
const FLIGHTS: usize = 2;
/// Entries taken from the queue at once.
const BATCH: usize = 256;
/// Outputs beyond this make a pack of their own, by way of a file, so that memory does not grow with them.
const BIG: u64 = 16 * 1024 * 1024;
/// How long an uploader with nothing to do waits for more before it sends what it has.
const LINGER: Duration = Duration::from_secs(15);
/// How long published packs may wait for their segment.
const PUBLISH_EVERY: Duration = Duration::from_secs(30);
/// Records waiting for a segment at most.
const PUBLISH_AT: usize = 20_000;
/// How long what was read of the index says what need not be uploaded. Collecting garbage relies on it: it waits much
/// longer between condemning and deleting.
pub(crate) const TRUSTED: Duration = Duration::from_secs(6 * 3600);
/// Pauses after a failure.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(crate) struct UploadSettings {
    pub(crate) level: i32,
    pub(crate) pack_bytes: usize,
    pub(crate) skip_package_indexes: bool,
    pub(crate) scratch: PathBuf,
}

struct Sent {
    name: Name,
    size: u64,
    placed: Vec<Placed>,
    items: Vec<Item>,
    result: Result<(), Failure>,
}

pub(crate) struct Uploader {
    source: Arc<Source>,
    local: Arc<dyn LocalOutputs>,
    queue: Arc<Queue>,
    around: Arc<Around>,
    fetcher: Arc<Fetcher>,
    settings: Arc<UploadSettings>,
    index: Arc<Index>,
    outputs: OutputIndex,
    /// Uploaded by this run.
    placed: HashMap<OutputId, Location>,
    sizes: HashMap<Name, u64>,
    /// In the pack being filled or sent.
    coming: HashSet<OutputId>,
    backlog: VecDeque<Item>,
    draft: Option<PackDraft>,
    draft_items: Vec<Item>,
    /// Waiting for a pack that others of the same output are in.
    later: Vec<Item>,
    flights: JoinSet<Sent>,
    ready: Vec<(Record, Item)>,
    ready_since: Duration,
    /// When the queue last had something.
    fed: Duration,
    pause: Duration,
    known: bool,
}

impl Uploader {
    pub(crate) fn new(
        source: Arc<Source>,
        queue: Arc<Queue>,
        fetcher: Arc<Fetcher>,
        around: Arc<Around>,
        settings: UploadSettings,
    ) -> Self {
        Self {
            source,
            local: Arc::clone(&fetcher.local),
            queue,
            around,
            fetcher,
            settings: Arc::new(settings),
            index: Arc::default(),
            outputs: OutputIndex::default(),
            placed: HashMap::new(),
            sizes: HashMap::new(),
            coming: HashSet::new(),
            backlog: VecDeque::new(),
            draft: None,
            draft_items: Vec::new(),
            later: Vec::new(),
            flights: JoinSet::new(),
            ready: Vec::new(),
            ready_since: Duration::ZERO,
            fed: Duration::ZERO,
            pause: Duration::ZERO,
            known: false,
        }
    }

    /// Works until the queue is closed and drained, or its time is over. What is left stays in the journals.
    ///
    /// Gives back what it knows, for the manifest and for merging.
    pub(crate) async fn run(mut self) -> Self {
        let queue = Arc::clone(&self.queue);
        if tokio::task::spawn_blocking(move || queue.adopt()).await.is_err() {
            return self;
        }
        loop {
            let outcome = if self.source.layout == Layout::Seed { self.seed_step().await } else { self.step().await };
            match outcome {
                Ok(Next::More) => self.pause = Duration::ZERO,
                Ok(Next::Wait) => {
                    let wake = self.queue.wake.notified();
                    // The end of the wait is as good as a wake-up: both look again.
                    let _ = deadline(&*self.around.clock, LINGER, wake).await;
                }
                Ok(Next::End) => break,
                Err(Failure::Stopped) => break,
                Err(_) if self.queue.is_closing() => break,
                Err(_) => {
                    self.pause = (self.pause * 2).clamp(PAUSE, LONGEST_PAUSE);
                    let wait = self.around.clock.sleep(self.pause);
                    let closing = async {
                        while !self.queue.is_closing() {
                            self.queue.wake.notified().await;
                        }
                    };
                    tokio::select! { () = wait => {}, () = closing => {} }
                }
            }
        }
        if self.source.place.writes_work() {
            // What was uploaded before something failed need not be uploaded again. If this fails too, it is.
            let _ = self.publish().await;
        }
        self
    }

    async fn step(&mut self) -> Result<Next, Failure> {
        while let Some(sent) = self.flights.try_join_next() {
            self.landed(sent)?;
        }
        let now = self.around.clock.monotonic();
        let due = now.saturating_sub(self.ready_since) >= PUBLISH_EVERY || self.ready.len() >= PUBLISH_AT;
        if due && !self.ready.is_empty() {
            self.publish().await?;
        }
        if self.queue.is_over() {
            // Time for what is under way, and for the segment that names it.
            while let Some(sent) = self.flights.join_next().await {
                self.landed(sent)?;
            }
            self.publish().await?;
            return Ok(Next::End);
        }
        if self.backlog.is_empty() {
            self.backlog.extend(self.queue.take(BATCH));
        }
        if !self.backlog.is_empty() {
            self.fed = now;
            if let Err(failure) = self.learn().await {
                self.queue.give_back(std::mem::take(&mut self.backlog).into());
                return Err(failure);
            }
            self.fill().await?;
            return Ok(Next::More);
        }
        if let Some(sent) = self.flights.join_next().await {
            self.landed(sent)?;
            return Ok(Next::More);
        }
        let closing = self.queue.is_closing();
        let unsent = self.draft.as_ref().is_some_and(|draft| !draft.is_empty());
        let idle = now.saturating_sub(self.fed) >= LINGER;
        if unsent && (closing || idle) {
            self.send().await?;
            return Ok(Next::More);
        }
        if !self.ready.is_empty() && (closing || idle) {
            self.publish().await?;
            return Ok(Next::More);
        }
        Ok(if closing { Next::End } else { Next::Wait })
    }

    /// Makes sure that the index is known, and not too old to be believed.
    async fn learn(&mut self) -> Result<(), Failure> {
        let stale = self.source.age().is_some_and(|age| age >= TRUSTED);
        if self.known && !stale {
            return Ok(());
        }
        let catalog = match self.source.known().await {
            Known::Ready(catalog) if !stale => catalog,
            _ => self.source.load().await?,
        };
        if stale {
            self.placed.clear();
        }
        if let Catalog::Packed(index) = catalog {
            self.outputs = index.outputs();
            self.sizes.extend(index.pack_sizes());
            self.index = index;
        }
        self.known = true;
        Ok(())
    }

    fn place_of(&self, item: &Item) -> Option<Location> {
        let entry = &item.entry;
        let there = || self.outputs.find(&entry.output, entry.size).filter(|_| !self.fetcher.is_lost(&entry.output));
        self.placed.get(&entry.output).copied().or_else(there)
    }

    fn make_ready(&mut self, item: Item, location: Option<Location>) {
        if self.ready.is_empty() {
            self.ready_since = self.around.clock.monotonic();
        }
        self.ready.push((Record { action: item.action, entry: item.entry, location }, item));
    }

    /// Whether the index says all of this already.
    fn is_known(&self, item: &Item) -> bool {
        let hour = 3_600_000_000_000;
        self.index.find(&item.action).is_some_and(|record| {
            record.entry.output == item.entry.output
                && record.entry.size == item.entry.size
                && record.entry.time_unix_nanos >= item.entry.time_unix_nanos.saturating_sub(hour)
                && !self.fetcher.is_lost(&item.entry.output)
        })
    }

    /// Works off the backlog until a pack is full.
    async fn fill(&mut self) -> Result<(), Failure> {
        let mut to_pack = VecDeque::new();
        let mut settled = Vec::new();
        while let Some(item) = self.backlog.pop_front() {
            if self.is_known(&item) {
                add(&self.around.tally.deduplicated, 1);
                settled.push(item);
            } else if item.entry.output == OutputId::EMPTY || item.entry.size == 0 {
                self.make_ready(item, None);
            } else if let Some(location) = self.place_of(&item) {
                add(&self.around.tally.deduplicated, 1);
                self.make_ready(item, Some(location));
            } else if self.coming.contains(&item.entry.output) {
                add(&self.around.tally.deduplicated, 1);
                self.later.push(item);
            } else {
                self.coming.insert(item.entry.output);
                to_pack.push_back(item);
            }
        }
        if !settled.is_empty() {
            self.finished(settled).await;
        }
        if to_pack.is_empty() {
            return Ok(());
        }
        let draft = self
            .draft
            .take()
            .unwrap_or_else(|| PackDraft::new(Name::fresh(&*self.around.entropy), self.settings.level));
        let (local, settings) = (Arc::clone(&self.local), Arc::clone(&self.settings));
        let filled = tokio::task::spawn_blocking(move || fill_blocking(&*local, &settings, draft, to_pack)).await;
        let Ok(filled) = filled else { return Err(Failure::Stopped) };
        self.draft = Some(filled.draft);
        self.draft_items.extend(filled.packed);
        for item in &filled.rest {
            self.coming.remove(&item.entry.output);
        }
        self.backlog.extend(filled.rest);
        if !filled.gone.is_empty() {
            add(&self.around.tally.dropped, filled.gone.len() as u64);
            self.drop_for_good(filled.gone).await;
        }
        if !filled.skipped.is_empty() {
            self.drop_for_good(filled.skipped).await;
        }
        let mut big = filled.big.into_iter();
        while let Some(item) = big.next() {
            if let Err(failure) = self.send_big(item).await {
                self.failed(big.collect());
                return Err(failure);
            }
        }
        if let Some(why) = filled.unreadable {
            self.around.warnings.tell(Cause::LocalDisk, "", &why);
            return Err(Failure::Failed(Cause::LocalDisk, why));
        }
        if self.draft.as_ref().is_some_and(|draft| draft.len() >= self.settings.pack_bytes) {
            self.send().await?;
        }
        Ok(())
    }

    async fn drop_for_good(&mut self, items: Vec<Item>) {
        for item in &items {
            self.coming.remove(&item.entry.output);
        }
        // Others with the same output find the same.
        self.backlog.extend(std::mem::take(&mut self.later));
        self.finished(items).await;
    }

    async fn finished(&self, items: Vec<Item>) {
        let queue = Arc::clone(&self.queue);
        // Only a runtime that is going ends it early, and then the journals say what is left.
        let _ = tokio::task::spawn_blocking(move || queue.finished(&items)).await;
    }

    /// Sends the pack being filled.
    async fn send(&mut self) -> Result<(), Failure> {
        let Some(draft) = self.draft.take() else { return Ok(()) };
        let items = std::mem::take(&mut self.draft_items);
        if draft.is_empty() {
            return Ok(());
        }
        while self.flights.len() >= FLIGHTS {
            if let Some(sent) = self.flights.join_next().await
                && let Err(failure) = self.landed(sent)
            {
                // The remote does not work: what was filled meanwhile waits for better times too.
                self.failed(items);
                return Err(failure);
            }
        }
        let Ok(pack) = tokio::task::spawn_blocking(move || draft.finish()).await else { return Err(Failure::Stopped) };
        let source = Arc::clone(&self.source);
        self.flights.spawn(async move {
            let size = pack.bytes.len() as u64;
            let result = source.place.put("write pack", &pack.name.pack_key(), Bytes::from(pack.bytes)).await;
            Sent { name: pack.name, size, placed: pack.placed, items, result }
        });
        Ok(())
    }

    /// Sends an output in a pack of its own.
    async fn send_big(&mut self, item: Item) -> Result<(), Failure> {
        let name = Name::fresh(&*self.around.entropy);
        let file = self.settings.scratch.join(format!("{name}.pack"));
        let (local, settings, entry, target) =
            (Arc::clone(&self.local), Arc::clone(&self.settings), item.entry, file.clone());
        let written = tokio::task::spawn_blocking(move || {
            let body = local.open(&entry.output)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            write_pack(&settings, &target, body, entry.size)
        });
        let result = match written.await {
            Ok(Ok(size)) if size <= u64::from(u32::MAX) => {
                let sent = self.source.place.put_file("write pack", &name.pack_key(), &file, size).await;
                sent.map(|()| size)
            }
            Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                // The disk is full, perhaps. It stays in the queue.
                let _ = fs::remove_file(&file);
                self.failed(vec![item]);
                self.around.warnings.tell(Cause::LocalDisk, "", &error.to_string());
                return Err(Failure::Failed(Cause::LocalDisk, error.to_string()));
            }
            Ok(_) => {
                let _ = fs::remove_file(&file);
                add(&self.around.tally.dropped, 1);
                self.drop_for_good(vec![item]).await;
                return Ok(());
            }
            Err(_) => return Err(Failure::Stopped),
        };
        let _ = fs::remove_file(&file);
        let size = *result.as_ref().unwrap_or(&0);
        let offset = MAGIC.len() as u32;
        let location = Location { pack: name, offset, stored: (size as u32).saturating_sub(offset), within: 0 };
        let placed = vec![Placed { output: item.entry.output, location }];
        self.landed(Ok(Sent { name, size, placed, items: vec![item], result: result.map(|_| ()) }))
    }

    fn failed(&mut self, items: Vec<Item>) {
        for item in &items {
            self.coming.remove(&item.entry.output);
        }
        self.queue.give_back(items);
        self.queue.give_back(std::mem::take(&mut self.later));
    }

    fn landed(&mut self, sent: Result<Sent, tokio::task::JoinError>) -> Result<(), Failure> {
        let Ok(Sent { name, size, placed, items, result }) = sent else { return Err(Failure::Stopped) };
        if let Err(failure) = result {
            self.failed(items);
            return Err(failure);
        }
        self.sizes.insert(name, size);
        add(&self.around.tally.outputs_written, placed.len() as u64);
        for one in placed {
            self.coming.remove(&one.output);
            self.placed.insert(one.output, one.location);
        }
        for item in items.into_iter().chain(std::mem::take(&mut self.later)) {
            match self.placed.get(&item.entry.output).copied() {
                Some(location) => self.make_ready(item, Some(location)),
                None => self.later.push(item),
            }
        }
        Ok(())
    }

    /// Publishes a segment with all that is ready.
    async fn publish(&mut self) -> Result<(), Failure> {
        if self.ready.is_empty() {
            return Ok(());
        }
        let waited = self.around.clock.monotonic().saturating_sub(self.ready_since);
        if waited >= TRUSTED {
            // Its packs may have been collected meanwhile.
            let items = std::mem::take(&mut self.ready).into_iter().map(|(_, item)| item).collect();
            self.placed.clear();
            self.queue.give_back(items);
            return Ok(());
        }
        let records: Vec<Record> = self.ready.iter().map(|(record, _)| *record).collect();
        let draft = TableDraft { replaces: Vec::new(), packs: self.sizes_of(&records), records };
        let bytes = draft.encode(TableKind::Segment);
        let name = Name::fresh(&*self.around.entropy);
        self.source.place.put("write segment", &name.segment_key(), bytes).await?;
        let items: Vec<Item> = std::mem::take(&mut self.ready).into_iter().map(|(_, item)| item).collect();
        add(&self.around.tally.actions_written, items.len() as u64);
        self.finished(items).await;
        Ok(())
    }

    pub(crate) fn sizes_of(&self, records: &[Record]) -> HashMap<Name, u64> {
        let packs = records.iter().filter_map(|record| Some(record.location?.pack));
        packs.filter_map(|pack| Some((pack, *self.sizes.get(&pack)?))).collect()
    }

    /// What is known about an entry of this run, for the manifest.
    pub(crate) fn locate(&self, record: &Record) -> Option<Location> {
        let entry = &record.entry;
        self.placed.get(&entry.output).copied().or_else(|| self.outputs.find(&entry.output, entry.size))
    }

    /// Merges segments if there are too many small ones.
    pub(crate) async fn merge(&self) -> Result<(), Failure> {
        if self.source.layout == Layout::Packed && self.known && self.index.complete && !self.queue.is_over() {
            merge::merge_small(&self.source.place, &self.index).await?;
        }
        Ok(())
    }

    /// The same for the seed's naming: an object per output, then one per action.
    async fn seed_step(&mut self) -> Result<Next, Failure> {
        if self.queue.is_over() {
            return Ok(Next::End);
        }
        let items = self.queue.take(8);
        if items.is_empty() {
            return Ok(if self.queue.is_closing() { Next::End } else { Next::Wait });
        }
        let catalog = match self.source.known().await {
            Known::Ready(Catalog::Seed(catalog)) => Some(catalog),
            _ => match self.source.load().await {
                Ok(Catalog::Seed(catalog)) => Some(catalog),
                Ok(Catalog::Packed(_)) => None,
                Err(failure) => {
                    self.queue.give_back(items);
                    return Err(failure);
                }
            },
        };
        let catalog = catalog.unwrap_or_default();
        let this = &*self;
        let sends = items.iter().map(|item| this.seed_send(&catalog, item));
        let results = futures::future::join_all(sends).await;
        let mut failure = None;
        let (mut done, mut back) = (Vec::new(), Vec::new());
        for (item, result) in items.into_iter().zip(results) {
            match result {
                Ok(()) => {
                    let location = Location { pack: Name([0; 16]), offset: 0, stored: 0, within: 0 };
                    self.placed.insert(item.entry.output, location);
                    done.push(item);
                }
                Err(error) => {
                    failure = Some(error);
                    back.push(item);
                }
            }
        }
        self.queue.give_back(back);
        if !done.is_empty() {
            self.finished(done).await;
        }
        failure.map_or(Ok(Next::More), Err)
    }

    async fn seed_send(&self, catalog: &crate::source::SeedCatalog, item: &Item) -> Result<(), Failure> {
        let place = &self.source.place;
        let output = item.entry.output;
        if self.placed.contains_key(&output) || (catalog.outputs.contains(&output) && !self.fetcher.is_lost(&output)) {
            add(&self.around.tally.deduplicated, 1);
        } else {
            let local = Arc::clone(&self.local);
            let size = item.entry.size;
            let read = tokio::task::spawn_blocking(move || -> io::Result<Option<Result<Bytes, PathBuf>>> {
                let Some(mut file) = local.open(&output)? else { return Ok(None) };
                if size > BIG {
                    return Ok(Some(Err(PathBuf::new())));
                }
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)?;
                Ok(Some(Ok(Bytes::from(bytes))))
            });
            match read.await {
                Ok(Ok(Some(Ok(bytes)))) => place.put("write output", &seed::data_name(&output), bytes).await?,
                Ok(Ok(Some(Err(_)))) => self.seed_send_big(item).await?,
                Ok(Err(error)) => {
                    self.around.warnings.tell(Cause::LocalDisk, "", &error.to_string());
                    return Err(Failure::Failed(Cause::LocalDisk, error.to_string()));
                }
                // Gone from the local store: there is nothing to upload any more.
                Ok(Ok(None)) => {
                    add(&self.around.tally.dropped, 1);
                    return Ok(());
                }
                Err(_) => return Err(Failure::Stopped),
            }
            add(&self.around.tally.outputs_written, 1);
        }
        let bytes = Bytes::from(seed::encode_action(&item.entry));
        place.put("write action", &seed::action_name(&item.action), bytes).await?;
        add(&self.around.tally.actions_written, 1);
        Ok(())
    }

    async fn seed_send_big(&self, item: &Item) -> Result<(), Failure> {
        let file = self.settings.scratch.join(format!("{}.output", Name::fresh(&*self.around.entropy)));
        let (local, output, target) = (Arc::clone(&self.local), item.entry.output, file.clone());
        let copied = tokio::task::spawn_blocking(move || -> io::Result<u64> {
            let mut body = local.open(&output)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            if let Some(folder) = target.parent() {
                fs::create_dir_all(folder)?;
            }
            io::copy(&mut body, &mut File::create(&target)?)
        });
        let result = match copied.await {
            Ok(Ok(size)) => {
                self.source.place.put_file("write output", &seed::data_name(&item.entry.output), &file, size).await
            }
            _ => Err(Failure::Stopped),
        };
        let _ = fs::remove_file(&file);
        result
    }
}

enum Next {
    More,
    Wait,
    End,
}

struct Filled {
    draft: PackDraft,
    packed: Vec<Item>,
    /// Not reached: the pack is full.
    rest: VecDeque<Item>,
    /// No longer in the local store.
    gone: Vec<Item>,
    skipped: Vec<Item>,
    big: Vec<Item>,
    /// The local disk failed.
    unreadable: Option<String>,
}

fn fill_blocking(
    local: &dyn LocalOutputs,
    settings: &UploadSettings,
    draft: PackDraft,
    items: VecDeque<Item>,
) -> Filled {
    let mut filled = Filled {
        draft,
        packed: Vec::new(),
        rest: items,
        gone: Vec::new(),
        skipped: Vec::new(),
        big: Vec::new(),
        unreadable: None,
    };
    while filled.draft.len() < settings.pack_bytes
        && let Some(item) = filled.rest.pop_front()
    {
        let size = item.entry.size;
        let mut file = match local.open(&item.entry.output) {
            Ok(Some(file)) => file,
            Ok(None) => {
                filled.gone.push(item);
                continue;
            }
            Err(error) => {
                // Too many open files, perhaps: it may well be readable later.
                filled.unreadable = Some(error.to_string());
                filled.rest.push_front(item);
                return filled;
            }
        };
        if size > LARGEST_OUTPUT || (settings.skip_package_indexes && is_package_index(&mut file)) {
            filled.skipped.push(item);
        } else if size > BIG {
            filled.big.push(item);
        } else {
            match filled.draft.add(item.entry.output, size, &mut file) {
                Ok(()) => filled.packed.push(item),
                // Shorter than it should be: damaged since it was opened.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => filled.gone.push(item),
                Err(error) => {
                    filled.unreadable = Some(error.to_string());
                    filled.rest.push_front(item);
                    return filled;
                }
            }
        }
    }
    filled
}

/// Whether an output is what `go` stores about the files of a package.
fn is_package_index(file: &mut File) -> bool {
    let mut start = [0; 10];
    let read = file.read(&mut start).unwrap_or(0);
    let rewound = file.seek(SeekFrom::Start(0)).is_ok();
    rewound && start[..read].starts_with(b"go index v")
}

/// Writes one output as a pack into a file, a frame at a time.
fn write_pack(settings: &UploadSettings, target: &std::path::Path, body: File, size: u64) -> io::Result<u64> {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut out = io::BufWriter::new(File::create(target)?);
    out.write_all(MAGIC)?;
    let mut packer = Packer::new(settings.level);
    let mut body = body.take(size);
    let (mut piece, mut frame) = (Vec::new(), Vec::new());
    let (mut total, mut read) = (MAGIC.len() as u64, 0);
    loop {
        piece.clear();
        frame.clear();
        if (&mut body).take(LARGEST as u64).read_to_end(&mut piece)? == 0 {
            break;
        }
        read += piece.len() as u64;
        packer.append(&piece, &mut frame);
        out.write_all(&frame)?;
        total += frame.len() as u64;
    }
    out.flush()?;
    if read == size { Ok(total) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
}
