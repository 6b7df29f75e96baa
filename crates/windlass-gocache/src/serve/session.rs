//! What all threads of one run share, and how each request is met.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use windlass_clock::SharedClock;
use windlass_gocache_remote::{ActionId, Entry, Lookup, OutputId};

use super::blocks::Blocks;
use super::remote::RemoteCache;
use super::reply::Reply;
use crate::disk::Disk;
use crate::local::{Doubt, Found, Run};
use crate::wire::{Answer, Block, BodyFault};

/// What is hashed at once is hashed where the request is read: handing it over would take longer.
const HASHED_AT_ONCE: u64 = 32 << 10;

/// Part of a body on its way to the disk.
pub(super) enum Part {
    /// The next bytes.
    Bytes(Block),
    /// The end, and whether it was a body at all.
    End(Result<(), BodyFault>),
}

/// A put whose body is to be stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Put {
    pub(super) action: ActionId,
    pub(super) output: OutputId,
    pub(super) size: u64,
}

/// What was done so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) gets: AtomicU64,
    pub(super) local_hits: AtomicU64,
    pub(super) remote_hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) damaged: AtomicU64,
    pub(super) confirmed: AtomicU64,
    pub(super) puts: AtomicU64,
    pub(super) put_bytes: AtomicU64,
    pub(super) deduplicated: AtomicU64,
    pub(super) spared: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) remote_wait_us: AtomicU64,
    pub(super) remote_slowest_us: AtomicU64,
}

/// What all threads of one run share.
pub(super) struct Session {
    pub(super) disk: Arc<Disk>,
    pub(super) remote: Option<Arc<dyn RemoteCache>>,
    pub(super) clock: SharedClock,
    pub(super) blocks: Blocks,
    pub(super) tally: Tally,
}

/// Where a get goes on.
pub(super) enum Next<W: Write> {
    /// It is answered.
    Answered,
    /// Its output has to be hashed.
    Confirm(Reply<W>, Doubt),
    /// The remote has to be asked.
    Ask(Reply<W>),
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Session {
    /// Answers a get from the disk, if that takes no longer than handing it over would.
    pub(super) fn get<W: Write>(&self, action: &ActionId, reply: Reply<W>) -> Next<W> {
        count(&self.tally.gets);
        match self.disk.find(action) {
            Found::Doubtful(doubt) if doubt.size() > HASHED_AT_ONCE => Next::Confirm(reply, doubt),
            Found::Doubtful(doubt) => self.confirm(action, doubt, reply),
            found => self.answer(action, found, reply),
        }
    }

    /// Hashes an output before it is given out.
    pub(super) fn confirm<W: Write>(&self, action: &ActionId, doubt: Doubt, reply: Reply<W>) -> Next<W> {
        count(&self.tally.confirmed);
        let found = doubt.resolve();
        self.answer(action, found, reply)
    }

    fn answer<W: Write>(&self, action: &ActionId, found: Found, reply: Reply<W>) -> Next<W> {
        match found {
            Found::Hit { entry, path } => {
                count(&self.tally.local_hits);
                if let Some(remote) = &self.remote {
                    remote.used(*action);
                }
                reply.send_soon(&Answer::Hit { entry, path });
                return Next::Answered;
            }
            Found::Damaged => count(&self.tally.damaged),
            Found::Absent | Found::Doubtful(_) => {}
        }
        if self.remote.is_some() {
            return Next::Ask(reply);
        }
        count(&self.tally.misses);
        reply.send_soon(&Answer::Miss);
        Next::Answered
    }

    /// Asks the remote, and waits for it.
    pub(super) fn ask<W: Write>(&self, action: &ActionId, reply: Reply<W>) {
        let began = self.clock.monotonic();
        let found = self.remote.as_ref().map_or(Lookup::Absent, |remote| remote.lookup(action));
        let waited = micros(self.clock.monotonic().saturating_sub(began));
        self.tally.remote_wait_us.fetch_add(waited, Ordering::Relaxed);
        self.tally.remote_slowest_us.fetch_max(waited, Ordering::Relaxed);
        // It is on the disk now, or another process has put it there meanwhile.
        let hit = match (found, self.disk.find(action)) {
            (_, Found::Doubtful(doubt)) => doubt.resolve(),
            (_, found) => found,
        };
        if let Found::Hit { entry, path } = hit {
            let counter =
                if matches!(found, Lookup::Found(_)) { &self.tally.remote_hits } else { &self.tally.local_hits };
            count(counter);
            reply.send(&Answer::Hit { entry, path });
        } else {
            if matches!(hit, Found::Damaged) {
                count(&self.tally.damaged);
            }
            count(&self.tally.misses);
            reply.send(&Answer::Miss);
        }
    }

    /// Stores a body that is there as a whole.
    pub(super) fn put_whole<W: Write>(&self, put: Put, body: Result<&[u8], BodyFault>, reply: Reply<W>) {
        let stored = self.store(put, |write| match body {
            Ok(bytes) => write(bytes),
            Err(fault) => Err(io::Error::new(io::ErrorKind::InvalidData, fault)),
        });
        self.answer_put(stored, reply);
    }

    /// Stores a body that comes in parts.
    pub(super) fn put_parts<W: Write>(&self, put: Put, parts: &Receiver<Part>, reply: Reply<W>) {
        let stored = self.store(put, |write| {
            loop {
                match parts.recv() {
                    Ok(Part::Bytes(block)) => {
                        let written = write(block.bytes());
                        self.blocks.give_back(block);
                        written?;
                    }
                    Ok(Part::End(Ok(()))) => return Ok(()),
                    Ok(Part::End(Err(fault))) => return Err(io::Error::new(io::ErrorKind::InvalidData, fault)),
                    Err(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "the input ended in the body")),
                }
            }
        });
        self.answer_put(stored, reply);
    }

    /// Stores what `feed` gives, ties the action to it, and tells the remote.
    fn store(
        &self,
        put: Put,
        feed: impl FnOnce(&mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<Answer> {
        let Put { action, output, size } = put;
        let mut body = self.disk.begin(&output, size)?;
        feed(&mut |bytes| body.write(bytes))?;
        let kept = body.publish(&output)?;
        let time_unix_nanos = i64::try_from(self.clock.wall().as_nanosecond()).unwrap_or(i64::MAX);
        let entry = Entry { output, size, time_unix_nanos };
        count(&self.tally.puts);
        self.tally.put_bytes.fetch_add(size, Ordering::Relaxed);
        if kept.was_there {
            count(&self.tally.deduplicated);
        }
        if kept.spared {
            count(&self.tally.spared);
        }
        match kept.tie(&action, &entry) {
            Ok(()) => {
                if let Some(remote) = &self.remote {
                    remote.offer(action, entry);
                }
            }
            // `go` gets its file all the same; only the next run will not find it.
            Err(_) => count(&self.tally.failed),
        }
        Ok(Answer::Stored { output, size, path: kept.path })
    }

    fn answer_put<W: Write>(&self, stored: io::Result<Answer>, reply: Reply<W>) {
        match stored {
            Ok(answer) => reply.send(&answer),
            Err(error) => {
                count(&self.tally.failed);
                reply.send(&Answer::Failed(format!("cannot store the output: {error}")));
            }
        }
    }
}

impl Tally {
    /// The counts as they stand.
    pub(super) fn run(&self) -> Run {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Run {
            gets: read(&self.gets),
            local_hits: read(&self.local_hits),
            remote_hits: read(&self.remote_hits),
            misses: read(&self.misses),
            damaged: read(&self.damaged),
            confirmed: read(&self.confirmed),
            puts: read(&self.puts),
            put_bytes: read(&self.put_bytes),
            deduplicated: read(&self.deduplicated),
            spared: read(&self.spared),
            failed: read(&self.failed),
            remote_wait_ms: read(&self.remote_wait_us) / 1000,
            remote_slowest_ms: read(&self.remote_slowest_us) / 1000,
            ..Run::default()
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
