//! All transfers: taken, cancelled, reported, and run.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use windlass_clock::{Clock, SharedClock, deadline};
use windlass_distribute::wire::agent::{Reason, TransferOrder, TransferReport, TransferState, is_id};

use super::bucket::Bucket;
use super::local::Origin;
use super::record::{OldTask, Publishing, Record, Records};
use super::run::{Run, data_name, parts_name};
use super::source::Stop;
use crate::config::{AgentConfig, Downloader, TransferSettings};
use crate::credentials::Credentials;
use crate::folder::Folder;
use crate::metrics::Counts;

/// Ended transfers that are shown with the node.
const SHOWN_ENDED: usize = 100;
/// Those who wait hear of progress this often, in milliseconds.
const TELL_EVERY: u64 = 250;
/// How much revisions grow when a process begins, so that none comes twice.
const STRIDE: u64 = 1 << 20;
/// Cancelled ids are remembered so many times longer than reports.
const CANCELLED_LONGER: u32 = 7;
/// How often old records are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// One transfer.
#[derive(Debug)]
pub(crate) struct Transfer {
    record: Mutex<Record>,
    /// Held while a record is written, so that records change one after the other.
    writing: Mutex<()>,
    revision: watch::Sender<u64>,
    bytes: AtomicU64,
    told: AtomicU64,
    cancel: AtomicBool,
    bucket: Bucket,
}

impl Transfer {
    fn new(record: Record) -> Self {
        Self {
            revision: watch::Sender::new(record.revision),
            bytes: AtomicU64::new(0),
            told: AtomicU64::new(0),
            cancel: AtomicBool::new(record.cancel),
            bucket: Bucket::new(record.order.as_ref().and_then(|order| order.bits_per_second)),
            record: Mutex::new(record),
            writing: Mutex::new(()),
        }
    }

    /// What is remembered of it.
    #[must_use]
    pub(crate) fn record(&self) -> Record {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn state(&self) -> TransferState {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).state
    }

    fn report(&self, order: Option<&TransferOrder>) -> Option<TransferReport> {
        let record = self.record();
        let mut report = record.report(order, self.bytes.load(Ordering::SeqCst))?;
        report.revision = *self.revision.borrow();
        Some(report)
    }

    pub(super) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }

    /// So many bytes more are here.
    pub(super) fn progress(&self, bytes: u64, clock: &dyn Clock) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        let now = u64::try_from(clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        let told = self.told.load(Ordering::Relaxed);
        let due = now.saturating_sub(told) >= TELL_EVERY;
        if due && self.told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.revision.send_modify(|revision| *revision += 1);
        }
    }

    /// Changes the record, on disk first. `change` says whether there is anything to change.
    pub(super) fn change(&self, records: &Records, change: impl FnOnce(&mut Record) -> bool) -> io::Result<()> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.record();
        if !change(&mut next) {
            return Ok(());
        }
        next.revision = *self.revision.borrow() + 1;
        let put = records.put(&next);
        // An end is an end, also when the disk does not take it: the next process would find out the same.
        if put.is_ok() || next.state.ended() {
            let revision = next.revision;
            *self.record.lock().unwrap_or_else(PoisonError::into_inner) = next;
            self.revision.send_modify(|now| *now = revision.max(*now + 1));
        }
        put
    }

    /// Notes which file is about to get its name. Fails if somebody wants the transfer to end.
    pub(super) fn publishing(&self, records: &Records, publishing: &Publishing) -> Result<(), Stop> {
        let mut cancelled = false;
        let put = self.change(records, |record| {
            cancelled = record.cancel;
            record.publishing = Some(publishing.clone());
            !cancelled
        });
        if cancelled {
            return Err(Stop::Cancelled);
        }
        put.map_err(|error| Stop::disk("note that the copy gets its name", &error))
    }
}

/// Why an order is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderFault {
    /// It makes no sense.
    #[error("{0}")]
    Bad(String),
    /// The id stands for something else.
    #[error("the id {0} was given to another order; an id is used once")]
    OtherOrder(String),
    /// Another transfer makes a file of that name.
    #[error("the transfer {0} fetches a file of that name already")]
    NameBusy(String),
    /// There are too many.
    #[error("the agent remembers {0} transfers and takes no more; try again later")]
    Full(usize),
    /// It could not be put down.
    #[error("put the order on disk: {0}")]
    Disk(#[source] io::Error),
}

/// All transfers.
#[derive(Debug)]
pub(crate) struct Transfers {
    records: Records,
    folder: Arc<Folder>,
    settings: TransferSettings,
    downloader: Option<Downloader>,
    credentials: Credentials,
    counts: Counts,
    origins: Vec<Origin>,
    clock: SharedClock,
    handle: Handle,
    bucket: Bucket,
    stopping: AtomicBool,
    /// Orders and cancellations come one after the other.
    gate: Mutex<()>,
    table: Mutex<Table>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Table {
    all: BTreeMap<String, Arc<Transfer>>,
    queue: VecDeque<Arc<Transfer>>,
    next: u64,
}

impl Transfers {
    /// Reads what is remembered; what was not over is queued again. Has to be called within a runtime. Blocks.
    ///
    /// # Errors
    /// When the records or the source folders cannot be read.
    pub(crate) fn open(config: &AgentConfig, folder: Arc<Folder>, clock: SharedClock) -> io::Result<Self> {
        let told = |what: String| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
        let part = config.transfers.part_bytes;
        if !part.is_power_of_two() || part < 64 << 10 {
            return Err(io::Error::other(format!("a part of {part} bytes is no power of two of at least 64 KiB")));
        }
        let (records, found) = Records::open(folder.state()).map_err(told("read the records of transfers".into()))?;
        let origins = config
            .source_dirs
            .iter()
            .map(|path| Origin::open(path).map_err(told(format!("open the source folder {}", path.display()))));
        let all = Self {
            origins: origins.collect::<io::Result<_>>()?,
            records,
            folder,
            settings: config.transfers.clone(),
            downloader: config.downloader.clone(),
            counts: Counts::default(),
            credentials: Credentials {
                token: config.token.clone(),
                ca: config.ca.clone(),
                identity: config.tls.clone(),
            },
            clock,
            handle: Handle::current(),
            bucket: Bucket::new(config.transfers.bits_per_second),
            stopping: AtomicBool::new(false),
            gate: Mutex::new(()),
            table: Mutex::default(),
            wake: Notify::new(),
        };
        all.take_up(found)?;
        all.clear_unknown()?;
        Ok(all)
    }

    fn take_up(&self, found: Vec<Record>) -> io::Result<()> {
        for mut record in found {
            record.revision += STRIDE;
            let over = record.state.ended();
            if !over {
                record.state = TransferState::Queued;
            }
            let id = record.id.clone();
            let transfer = Arc::new(Transfer::new(record));
            if !over {
                self.take_up_open(&transfer)?;
            } else if transfer.state() != TransferState::Done {
                self.clear(&id);
            }
            let mut table = self.table();
            table.next = table.next.max(transfer.record().number + 1);
            if !transfer.state().ended() {
                table.queue.push_back(transfer.clone());
            }
            table.all.insert(id, transfer);
        }
        Ok(())
    }

    /// A transfer that was not over when its process ended: perhaps it was, and nobody had put it down.
    fn take_up_open(&self, transfer: &Transfer) -> io::Result<()> {
        let record = transfer.record();
        if let (Some(publishing), Some(name)) = (&record.publishing, record.name()) {
            let there = self.folder.look(name)?;
            if there.is_some_and(|found| (found.inode, &found.version) == (publishing.inode, &publishing.version)) {
                self.folder.sync()?;
                self.end(transfer, &Ok(publishing.clone()));
                return Ok(());
            }
        }
        if record.cancel {
            self.end(transfer, &Err(Stop::Cancelled));
        }
        Ok(())
    }

    /// Removes what nobody knows and what has lain long enough.
    fn clear_unknown(&self) -> io::Result<()> {
        let temp = self.folder.temp_path("");
        let now = self.clock.wall().as_second();
        for entry in std::fs::read_dir(&temp)? {
            let entry = entry?;
            let (meta, file) = (entry.metadata()?, entry.file_name());
            let text = file.to_string_lossy();
            let id = text.strip_prefix("t-").and_then(|rest| rest.rsplit_once('.')).map(|(id, _)| id.to_owned());
            let known = id.is_some_and(|id| self.table().all.contains_key(&id));
            let age = now.saturating_sub(std::os::unix::fs::MetadataExt::mtime(&meta));
            let keep = i64::try_from(self.settings.keep_unknown.as_secs()).unwrap_or(i64::MAX);
            if meta.is_file() && !known && age > keep {
                tracing::info!(file = %text, age, "a copy that nobody knows is removed");
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn settings(&self) -> &TransferSettings {
        &self.settings
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    pub(super) fn origins(&self) -> &[Origin] {
        &self.origins
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    pub(super) fn downloader(&self) -> Option<&Downloader> {
        self.downloader.as_ref()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Waits on a thread that may block.
    pub(crate) fn sleep(&self, wait: Duration) {
        // The timer is made within the runtime, too: this thread may be none of its own.
        self.handle.block_on(async { self.clock.sleep(wait).await });
    }

    /// How fast all of them together may go.
    #[must_use]
    pub(crate) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// The transfer with this id.
    #[must_use]
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Transfer>> {
        self.table().all.get(id).cloned()
    }

    /// How a transfer is.
    #[must_use]
    pub(crate) fn report(&self, id: &str) -> Option<TransferReport> {
        self.get(id)?.report(None)
    }

    /// How a transfer is, once it is no longer as the one who asks has seen it, or after a time.
    pub(crate) async fn wait(&self, id: &str, seen: Option<u64>, limit: Duration) -> Option<TransferReport> {
        let transfer = self.get(id)?;
        if let Some(seen) = seen.filter(|_| !transfer.state().ended()) {
            let mut revision = transfer.revision.subscribe();
            let changed = revision.wait_for(|now| *now != seen);
            // Whether it changed or the time is over: what is so now is told.
            let _ = deadline(&*self.clock, limit, changed).await.map(|found| found.is_ok());
        }
        transfer.report(None)
    }

    /// How those are that are not over, and those that ended last.
    #[must_use]
    pub(crate) fn reports(&self) -> Vec<TransferReport> {
        let all: Vec<Arc<Transfer>> = self.table().all.values().cloned().collect();
        let (mut ended, mut open) = (Vec::new(), Vec::new());
        for transfer in all {
            let list = if transfer.state().ended() { &mut ended } else { &mut open };
            list.push(transfer);
        }
        ended.sort_by_cached_key(|transfer| std::cmp::Reverse(transfer.record().ended_at));
        ended.truncate(SHOWN_ENDED);
        open.sort_by_cached_key(|transfer| transfer.record().number);
        open.extend(ended);
        open.iter().filter_map(|transfer| transfer.report(None)).collect()
    }

    /// The records of tasks of an old controller.
    #[must_use]
    pub(crate) fn old_tasks(&self) -> Vec<Arc<Transfer>> {
        let all: Vec<Arc<Transfer>> = self.table().all.values().cloned().collect();
        all.into_iter().filter(|transfer| transfer.record().task.is_some()).collect()
    }

    /// Takes an order; `true` if it is new. It is on disk when this returns. Blocks.
    ///
    /// # Errors
    /// When it is not taken.
    pub(crate) fn order(
        &self,
        order: TransferOrder,
        task: Option<OldTask>,
    ) -> Result<(TransferReport, bool), OrderFault> {
        if !is_id(&order.id) {
            return Err(OrderFault::Bad(format!("`{}` is no id", order.id)));
        }
        if order.bits_per_second == Some(0) {
            return Err(OrderFault::Bad("at 0 bits a second a file never comes".to_owned()));
        }
        let _one = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = self.get(&order.id) {
            // How fast it may go may have been changed since.
            let alike = |had| TransferOrder { bits_per_second: order.bits_per_second, ..had } == order;
            let same = known.record().order.is_none_or(alike);
            let report = known.report(Some(&order)).filter(|_| same);
            return report.map(|report| (report, false)).ok_or(OrderFault::OtherOrder(order.id));
        }
        let number = {
            let table = self.table();
            if table.all.len() >= self.settings.most_records {
                return Err(OrderFault::Full(table.all.len()));
            }
            let open = table.all.values().filter(|transfer| !transfer.state().ended());
            let mut open = open.map(|transfer| transfer.record());
            if let Some(busy) = open.find(|record| record.name() == Some(&order.name)) {
                return Err(OrderFault::NameBusy(busy.id));
            }
            table.next
        };
        let id = order.id.clone();
        let mut record = Record::new(order, number);
        record.task = task;
        self.records.put(&record).map_err(OrderFault::Disk)?;
        let transfer = Arc::new(Transfer::new(record));
        let report = transfer.report(None);
        {
            let mut table = self.table();
            table.next = number + 1;
            table.all.insert(id.clone(), transfer.clone());
            table.queue.push_back(transfer);
        }
        self.wake.notify_one();
        report.map(|report| (report, true)).ok_or_else(|| OrderFault::Bad(format!("`{id}` is no order")))
    }

    /// Cancels a transfer, or an id that is not known yet. It is on disk when this returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be put down.
    pub(crate) fn cancel(&self, id: &str) -> Result<(), OrderFault> {
        if !is_id(id) {
            return Err(OrderFault::Bad(format!("`{id}` is no id")));
        }
        let _one = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(transfer) = self.get(id) else {
            let mut table = self.table();
            if table.all.len() >= self.settings.most_records {
                return Err(OrderFault::Full(table.all.len()));
            }
            let mut record = Record::tombstone(id, table.next);
            record.ended_at = Some(self.clock.wall().as_second());
            self.records.put(&record).map_err(OrderFault::Disk)?;
            table.next += 1;
            table.all.insert(id.to_owned(), Arc::new(Transfer::new(record)));
            return Ok(());
        };
        let change = transfer.change(&self.records, |record| {
            // One that is about to get its name gets it.
            let late = record.state.ended() || record.cancel || record.publishing.is_some();
            record.cancel |= !late;
            !late
        });
        change.map_err(OrderFault::Disk)?;
        if transfer.record().cancel {
            transfer.cancel.store(true, Ordering::SeqCst);
        }
        self.wake.notify_one();
        Ok(())
    }

    /// Notes that an old controller knows how its task ended. Blocks.
    ///
    /// # Errors
    /// When it cannot be put down.
    pub(crate) fn told(&self, transfer: &Transfer) -> io::Result<()> {
        transfer.change(&self.records, |record| match &mut record.task {
            Some(task) if !task.told => {
                task.told = true;
                true
            }
            _ => false,
        })
    }

    /// Runs what is queued until told to stop; then what runs is put down, so that the next process goes on there.
    pub(crate) async fn work(self: Arc<Self>, stop: CancellationToken) {
        let mut running = JoinSet::new();
        let most = usize::try_from(self.settings.max_concurrent.max(1)).unwrap_or(1);
        let mut sweep = self.clock.sleep(SWEEP_EVERY);
        loop {
            while running.len() < most {
                let Some(transfer) = self.table().queue.pop_front() else { break };
                let all = self.clone();
                running.spawn_blocking(move || all.run(&transfer));
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.wake.notified() => {}
                Some(ended) = running.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a transfer broke off; it goes on when the agent starts again");
                    }
                }
                () = &mut sweep => {
                    sweep = self.clock.sleep(SWEEP_EVERY);
                    let all = self.clone();
                    let _ = tokio::task::spawn_blocking(move || all.sweep()).await;
                }
            }
            self.drop_cancelled().await;
        }
        self.stopping.store(true, Ordering::SeqCst);
        while running.join_next().await.is_some() {}
    }

    /// Ends what was cancelled while it waited for a place.
    async fn drop_cancelled(self: &Arc<Self>) {
        let cancelled: Vec<Arc<Transfer>> = {
            let mut table = self.table();
            let (gone, stay) = table.queue.drain(..).partition(|transfer: &Arc<Transfer>| transfer.is_cancelled());
            table.queue = stay;
            Vec::from(gone)
        };
        if !cancelled.is_empty() {
            let all = self.clone();
            let end = move || cancelled.iter().for_each(|transfer| all.end(transfer, &Err(Stop::Cancelled)));
            let _ = tokio::task::spawn_blocking(end).await;
        }
    }

    /// One transfer, to its end. Blocks.
    fn run(&self, transfer: &Arc<Transfer>) {
        let begun = transfer.change(&self.records, |record| {
            record.state = TransferState::Running;
            // What was about to get its name did not; until it is again, it can be cancelled.
            record.publishing = None;
            true
        });
        transfer.bytes.store(0, Ordering::SeqCst);
        let run = Run { all: self, transfer };
        let outcome = match begun {
            Ok(()) => run.carry_out(&transfer.record()),
            Err(error) => Err(Stop::disk("note that the transfer runs", &error)),
        };
        self.end(transfer, &outcome);
    }

    /// Puts down how a transfer ended, and removes what is left of it.
    fn end(&self, transfer: &Transfer, outcome: &Result<Publishing, Stop>) {
        let id = transfer.record().id;
        let (state, reason, message) = match outcome {
            Err(Stop::Shutdown) => return,
            Ok(_) => (TransferState::Done, None, None),
            Err(Stop::Cancelled) => (TransferState::Cancelled, None, None),
            Err(Stop::Failed(reason, why)) => (TransferState::Failed, Some(*reason), Some(why.clone())),
        };
        self.clear(&id);
        let now = self.clock.wall().as_second();
        let put = transfer.change(&self.records, |record| {
            record.state = state;
            record.reason = reason;
            record.message.clone_from(&message);
            record.ended_at = Some(now);
            if let Ok(publishing) = outcome {
                record.publishing = Some(publishing.clone());
            }
            true
        });
        let record = transfer.record();
        let name = record.name().map(ToString::to_string).unwrap_or_default();
        let result = reason.map_or(if state == TransferState::Done { "done" } else { "cancelled" }, Reason::as_str);
        self.counts.ended(result);
        tracing::info!(id, name, state = ?state, reason = reason.map(Reason::as_str), message, "a transfer is over");
        if let Err(error) = put {
            tracing::error!(id, %error, "the end of a transfer could not be put on disk; it may be tried again");
        }
    }

    /// Removes the growing copy and its sidecar.
    fn clear(&self, id: &str) {
        for name in [data_name(id), parts_name(id)] {
            match std::fs::remove_file(self.folder.temp_path(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(file = name, %error, "what is left of a transfer could not be removed");
                }
                _ => {}
            }
        }
    }

    /// Forgets what ended long ago. Blocks.
    fn sweep(&self) {
        let now = self.clock.wall().as_second();
        let keep = |record: &Record| {
            let times = if record.state == TransferState::Cancelled { CANCELLED_LONGER } else { 1 };
            let keep = i64::try_from((self.settings.keep_reports * times).as_secs()).unwrap_or(i64::MAX);
            let untold = record.task.as_ref().is_some_and(|task| !task.told);
            !record.state.ended() || untold || record.ended_at.is_some_and(|ended| now.saturating_sub(ended) <= keep)
        };
        let _one = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<Arc<Transfer>> = self.table().all.values().cloned().collect();
        for record in all.iter().map(|transfer| transfer.record()).filter(|record| !keep(record)) {
            match self.records.remove(&record.id) {
                Ok(()) => {
                    self.table().all.remove(&record.id);
                }
                Err(error) => tracing::warn!(id = record.id, %error, "an old record could not be removed"),
            }
        }
    }
}
