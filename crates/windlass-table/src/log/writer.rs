//! Writing a log: one thread that gathers what has arrived into one sync.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::batch::{Batch, Sender};
use crate::error::{Result, TableError};
use crate::log::frame::{self, GAP, SENDERS};
use crate::log::segment::{self, End, Flow, HEAD, Identity, Lsn};
use crate::log::senders::Senders;

/// Batches that wait for the thread.
const QUEUE: usize = 128;
/// Bytes that one sync covers, about.
const GROUP: usize = 16 << 20;
/// Bytes between two places at which it is known how much of the log lies before them.
const MARK: u64 = 256 << 10;

/// Bounds of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A segment is closed at about this size.
    pub segment_bytes: u64,
    /// Bytes behind the checkpoint at which nothing more is taken in.
    pub hard_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, hard_bytes: 4 << 30 }
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is durable under this number.
    At(Lsn),
    /// The sender had sent it before; its last batch has this number.
    Before(Lsn),
}

struct Request {
    payload: Vec<u8>,
    sender: Option<Sender>,
    reply: oneshot::Sender<Result<Appended>>,
}

/// Writes a log. Dropping it waits for what was handed in.
#[derive(Debug)]
pub struct Writer {
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    checkpoint: Arc<AtomicU64>,
    pending: Arc<AtomicU64>,
    /// Bytes that a crash had left half written, cut off when the log was opened.
    cut: u64,
}

impl Writer {
    /// Takes hold of the log in `folder`, which is made if it is not there, and mends an end that a crash tore.
    ///
    /// # Errors
    ///
    /// [`TableError::Held`] when another process writes to it, damage, and whatever the disk says.
    pub fn open(folder: impl Into<PathBuf>, identity: Identity, limits: Limits, checkpoint: Lsn) -> Result<Self> {
        let folder = folder.into();
        std::fs::create_dir_all(&folder).map_err(TableError::disk("make the folder", &folder))?;
        let lock = lock(&folder)?;
        let (tail, cut) = Tail::open(&folder, identity, limits, checkpoint, lock)?;
        let shared = Arc::new(AtomicU64::new(checkpoint.0));
        let pending = Arc::new(AtomicU64::new(tail.pending()));
        let (requests, mut queue) = mpsc::channel(QUEUE);
        let (shared_there, pending_there) = (shared.clone(), pending.clone());
        let thread = std::thread::Builder::new()
            .name("ingest-log".to_owned())
            .spawn(move || work(tail, &mut queue, &shared_there, &pending_there))
            .map_err(TableError::disk("start the thread that writes", "the ingest log"))?;
        Ok(Self { requests: Some(requests), thread: Some(thread), checkpoint: shared, pending, cut })
    }

    /// Bytes that a crash had left half written.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// Bytes behind the checkpoint.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Says how far the table has come.
    pub fn merged(&self, checkpoint: Lsn) {
        self.checkpoint.fetch_max(checkpoint.0, Ordering::Relaxed);
    }

    /// Hands a batch in. When the answer comes it is durable.
    ///
    /// # Errors
    ///
    /// [`TableError::Full`] when too much waits to be merged; nothing was written then. Whatever the disk says: the
    /// writer takes nothing more then and has to be opened again.
    pub async fn append(&self, batch: &Batch) -> Result<Appended> {
        let (reply, answer) = oneshot::channel();
        let request = Request { payload: batch.encode()?, sender: batch.sender().cloned(), reply };
        let gone = || TableError::Changed("the log is closed".to_owned());
        self.requests.as_ref().ok_or_else(gone)?.send(request).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has answered nobody, which is all there is to say about it.
            let _ = thread.join();
        }
    }
}

/// Makes sure that one process writes at a time. The lock goes with the process.
pub(super) fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(TableError::disk("open the lock", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(TableError::Held(folder.to_path_buf())),
        Err(std::fs::TryLockError::Error(error)) => Err(TableError::disk("lock", path)(error)),
    }
}

fn work(mut tail: Tail, queue: &mut mpsc::Receiver<Request>, checkpoint: &AtomicU64, pending: &AtomicU64) {
    let mut broken: Option<String> = None;
    while let Some(first) = queue.blocking_recv() {
        tail.merged(Lsn(checkpoint.load(Ordering::Relaxed)));
        let mut group = Group::default();
        let mut next = Some(first);
        while let Some(request) = next {
            if let Some(why) = &broken {
                let _ = request.reply.send(Err(TableError::Changed(why.clone())));
            } else {
                group.take(request, &mut tail, pending);
            }
            next = if group.bytes.len() < GROUP { queue.try_recv().ok() } else { None };
        }
        if let Err(error) = group.finish(&mut tail, pending) {
            broken =
                Some(format!("the log takes nothing more before it is opened again, because writing failed: {error}"));
        }
    }
}

/// What one sync covers.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    answers: Vec<(oneshot::Sender<Result<Appended>>, Appended)>,
}

impl Group {
    fn take(&mut self, request: Request, tail: &mut Tail, pending: &AtomicU64) {
        if let Some(before) = request.sender.as_ref().and_then(|sender| tail.senders.seen(sender)) {
            // Also answered after the sync: the first one may be in this very group.
            self.answers.push((request.reply, Appended::Before(before)));
            return;
        }
        let waits = tail.pending();
        if waits >= tail.limits.hard_bytes {
            let _ = request.reply.send(Err(TableError::Full { pending: waits, hard: tail.limits.hard_bytes }));
            return;
        }
        if tail.must_rotate(self.bytes.len() as u64) {
            let earlier = std::mem::take(self);
            let rotated = earlier.finish(tail, pending).and_then(|()| tail.rotate());
            if let Err(error) = rotated {
                let _ = request.reply.send(Err(error));
                return;
            }
        }
        let lsn = tail.next();
        let frame = frame::encode(lsn.0, 0, &request.payload);
        tail.note(lsn, frame.len() as u64);
        if let Some(sender) = &request.sender {
            tail.senders.note(sender, lsn);
        }
        self.bytes.extend_from_slice(&frame);
        self.answers.push((request.reply, Appended::At(lsn)));
    }

    fn finish(self, tail: &mut Tail, pending: &AtomicU64) -> Result<()> {
        let written = if self.bytes.is_empty() { Ok(()) } else { tail.write(&self.bytes) };
        // Before the answers: whoever has one sees its own batch among what waits.
        pending.store(tail.pending(), Ordering::Relaxed);
        let why = written.as_ref().err().map(ToString::to_string);
        for (reply, answer) in self.answers {
            // Somebody who has stopped waiting finds out by sending it again.
            let _ = reply.send(match &why {
                None => Ok(answer),
                Some(why) => Err(TableError::Changed(format!("it is not known whether the batch is durable: {why}"))),
            });
        }
        written
    }
}

/// The end of the log, where it grows.
#[derive(Debug)]
struct Tail {
    folder: PathBuf,
    identity: Identity,
    limits: Limits,
    file: File,
    last: Lsn,
    /// Bytes of the newest segment.
    length: u64,
    senders: Senders,
    /// Bytes of all frames so far.
    total: u64,
    /// Up to which number how many of them lie.
    marks: VecDeque<(Lsn, u64)>,
    checkpoint: Lsn,
    /// Bytes up to the checkpoint.
    merged: u64,
    failed: bool,
    _lock: File,
}

impl Tail {
    fn open(folder: &Path, identity: Identity, limits: Limits, checkpoint: Lsn, lock: File) -> Result<(Self, u64)> {
        let mut ids = segment::list(folder)?;
        let mut cut = 0;
        // A segment whose header was not finished has no batches: it is begun anew.
        if let Some(newest) = ids.last().copied() {
            let path = segment::path(folder, newest);
            let length = std::fs::metadata(&path).map_err(TableError::disk("look at", &path))?.len();
            if length < HEAD as u64 {
                std::fs::remove_file(&path).map_err(TableError::disk("remove the unfinished segment", &path))?;
                segment::sync_folder(folder)?;
                cut += length;
                ids.pop();
            }
        }
        // Numbers go on behind those that the table has merged, also if the log is gone.
        let newest = match ids.last().copied() {
            Some(newest) => newest,
            None => {
                let first = checkpoint.segment() + 1;
                segment::create(folder, identity, first)?;
                ids.push(first);
                first
            }
        };
        let path = segment::path(folder, newest);
        let fault = || TableError::disk("open the segment", path.clone());
        let file = OpenOptions::new().append(true).open(&path).map_err(fault())?;
        let mut tail = Self {
            folder: folder.to_path_buf(),
            identity,
            limits,
            file,
            last: Lsn::new(newest, 0),
            length: HEAD as u64,
            senders: Senders::default(),
            total: 0,
            marks: VecDeque::new(),
            checkpoint: Lsn::default(),
            merged: 0,
            failed: false,
            _lock: lock,
        };
        for id in &ids {
            let end = segment::read(folder, identity, *id, u64::MAX, *id == newest, |frame, _| {
                let lsn = Lsn(frame.lsn);
                if frame.flags & SENDERS != 0 {
                    tail.senders = serde_json::from_slice(frame.payload).map_err(|error| {
                        TableError::damaged(format!("the table of senders in segment {id:x}: {error}"))
                    })?;
                } else if frame.flags & GAP == 0
                    && let Some(sender) = Batch::decode(frame.payload)?.sender()
                {
                    tail.senders.note(sender, lsn);
                }
                tail.note(lsn, frame.length as u64);
                if *id == newest {
                    tail.length += frame.length as u64;
                }
                Ok(Flow::On)
            })?;
            if let End::Torn(at) = end {
                let length = tail.file.metadata().map_err(fault())?.len();
                tail.file.set_len(at).map_err(TableError::disk("cut the torn end off", &path))?;
                cut += length - at;
            }
        }
        // Whatever is read now has to be durable before a number behind it is given away.
        tail.file.sync_all().map_err(fault())?;
        if tail.last < Lsn::new(newest, 0) {
            tail.last = Lsn::new(newest, 0);
        }
        tail.merged(checkpoint);
        if tail.last < checkpoint {
            // The log was replaced by an older one; its next numbers would count as merged already.
            while tail.last.segment() <= checkpoint.segment() {
                tail.rotate()?;
            }
        }
        Ok((tail, cut))
    }

    fn next(&self) -> Lsn {
        Lsn(self.last.0 + 1)
    }

    fn note(&mut self, lsn: Lsn, bytes: u64) {
        self.last = lsn;
        self.total += bytes;
        // One place for many small batches: what lies between two places counts as waiting until all of it is merged.
        let since = self.marks.iter().rev().nth(1).map_or(self.merged, |(_, upto)| *upto);
        match self.marks.back_mut() {
            Some(mark) if self.total - since < MARK => *mark = (lsn, self.total),
            _ => self.marks.push_back((lsn, self.total)),
        }
    }

    /// Bytes behind the checkpoint; never less than there are.
    fn pending(&self) -> u64 {
        self.total.saturating_sub(self.merged)
    }

    fn merged(&mut self, checkpoint: Lsn) {
        if checkpoint <= self.checkpoint {
            return;
        }
        self.checkpoint = checkpoint;
        while let Some((lsn, upto)) = self.marks.front().copied() {
            if lsn > checkpoint {
                break;
            }
            self.merged = self.merged.max(upto);
            self.marks.pop_front();
        }
        if self.last <= checkpoint {
            self.merged = self.total;
        }
    }

    fn must_rotate(&self, waiting: u64) -> bool {
        self.last.is_last() || (self.length + waiting >= self.limits.segment_bytes && self.last.ordinal() > 0)
    }

    fn rotate(&mut self) -> Result<()> {
        let id = self.last.segment() + 1;
        self.file = segment::create(&self.folder, self.identity, id)?;
        self.length = HEAD as u64;
        self.last = Lsn::new(id, 0);
        if !self.senders.is_empty() {
            let table = serde_json::to_vec(&self.senders)
                .map_err(|error| TableError::invalid(format!("the table of senders: {error}")))?;
            let lsn = self.next();
            let frame = frame::encode(lsn.0, SENDERS, &table);
            self.write(&frame)?;
            self.note(lsn, frame.len() as u64);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.failed {
            return Err(TableError::Changed("an earlier write failed".to_owned()));
        }
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        self.failed = written.is_err();
        self.length += bytes.len() as u64;
        written.map_err(TableError::disk("write to the log", &self.folder))
    }
}
