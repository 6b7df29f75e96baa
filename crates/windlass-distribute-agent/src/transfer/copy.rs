//! The parts of one file: read in parallel, hashed while they are written, put down once they are on disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use windlass_distribute::wire::agent::{Checksum, Reason};

use super::local::FileReader;
use super::run::Run;
use super::sidecar::Sidecar;
use super::source::{Reader, Seen, Source, Stop, Trouble};
use super::tree::{PartHash, Parts};

/// First and longest wait before a source is tried again.
const AGAIN: Duration = Duration::from_millis(100);
const LONGEST_AGAIN: Duration = Duration::from_secs(5);
/// How often the one who puts down looks what is new.
const LOOK: Duration = Duration::from_millis(250);

/// One file that is copied.
pub(super) struct Copy<'r> {
    pub(super) run: &'r Run<'r>,
    pub(super) source: &'r dyn Source,
    pub(super) seen: &'r Seen,
    pub(super) file: &'r File,
    pub(super) parts: Parts,
    /// Parts that the sidecar tells of; they are hashed again before they count.
    pub(super) known: BTreeMap<u64, PartHash>,
    /// The copy shares the source's blocks: there is nothing to write.
    pub(super) shared: bool,
}

/// What the threads of a copy share.
struct Progress {
    state: Mutex<State>,
    /// Held by whoever writes.
    writing: Mutex<()>,
    changed: Condvar,
    /// Something went wrong; nobody begins another part.
    over: AtomicBool,
    /// When bytes came last, in milliseconds.
    alive: AtomicU64,
}

struct State {
    next: u64,
    hashes: Vec<Option<PartHash>>,
    /// Written, and not put down yet.
    fresh: Vec<(u64, PartHash)>,
    working: usize,
    stop: Option<Stop>,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Copy<'_> {
    /// Copies what is missing, and gives the checksum of the whole.
    pub(super) fn carry_out(&self, sidecar: &mut Sidecar) -> Result<Checksum, Stop> {
        let count = self.parts.count();
        let threads = u64::try_from(self.run.settings().parallel_parts.max(1)).unwrap_or(1).min(count);
        let progress = Progress {
            state: Mutex::new(State {
                next: 0,
                hashes: vec![None; usize::try_from(count).unwrap_or(usize::MAX)],
                fresh: Vec::new(),
                working: usize::try_from(threads).unwrap_or(1),
                stop: None,
            }),
            writing: Mutex::new(()),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
            alive: AtomicU64::new(self.now()),
        };
        let put_down = std::thread::scope(|scope| {
            let working: Vec<_> = (0..threads).map(|_| scope.spawn(|| self.work(&progress))).collect();
            let put_down = self.put_down(&progress, sidecar);
            // One that broke off has said so when it left.
            working.into_iter().for_each(|thread| drop(thread.join()));
            put_down
        });
        let state = progress.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = state.stop {
            return Err(stop);
        }
        put_down?;
        let hashes: Option<Vec<PartHash>> = state.hashes.into_iter().collect();
        let missing = || Stop::Failed(Reason::Io, "a part was never copied".to_owned());
        Ok(self.parts.checksum(&hashes.ok_or_else(missing)?))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.run.clock().monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// One thread: part after part until none is left.
    fn work(&self, progress: &Progress) {
        // Also a panic must not leave the others waiting.
        let _leaves = Leaves(progress);
        let mut reader = None;
        loop {
            let index = {
                let mut state = progress.lock();
                let index = state.next;
                if index >= self.parts.count() || progress.over.load(Ordering::SeqCst) {
                    return;
                }
                state.next += 1;
                index
            };
            match self.part(index, &mut reader, progress) {
                Ok((hash, fresh)) => {
                    let mut state = progress.lock();
                    if let Some(slot) = usize::try_from(index).ok().and_then(|at| state.hashes.get_mut(at)) {
                        *slot = Some(hash);
                    }
                    if fresh {
                        state.fresh.push((index, hash));
                    }
                    progress.changed.notify_all();
                }
                Err(stop) => {
                    progress.over.store(true, Ordering::SeqCst);
                    progress.lock().stop.get_or_insert(stop);
                    progress.changed.notify_all();
                    return;
                }
            }
        }
    }

    /// One part: what is there already if it is what it should be, else from the source.
    fn part<'s>(
        &'s self,
        index: u64,
        reader: &mut Option<Box<dyn Reader + 's>>,
        progress: &Progress,
    ) -> Result<(PartHash, bool), Stop> {
        if let Some(known) = self.known.get(&index) {
            let hash = self.hash_copy(index, progress)?;
            if hash == *known {
                self.run.progress(self.parts.length(index));
                return Ok((hash, false));
            }
            tracing::warn!(part = index, "a part of a copy is not what was put down, and is fetched again");
        }
        if self.shared {
            let hash = self.hash_copy(index, progress)?;
            self.run.progress(self.parts.length(index));
            return Ok((hash, true));
        }
        let (mut at, end) = (self.parts.start(index), self.parts.start(index) + self.parts.length(index));
        let mut hasher = self.parts.hasher(index);
        let mut wait = AGAIN;
        while at < end {
            let from = reader.get_or_insert_with(|| self.source.reader(self.seen));
            let read = from.read(at, end - at, &mut |bytes| {
                self.go_on(progress)?;
                self.run.pace(bytes.len(), &|| progress.alive.store(self.now(), Ordering::Relaxed))?;
                hasher.update(bytes);
                self.write(progress, bytes, at)?;
                at += bytes.len() as u64;
                progress.alive.store(self.now(), Ordering::Relaxed);
                self.run.arrived(bytes.len() as u64);
                wait = AGAIN;
                Ok(())
            });
            match read {
                Ok(()) => {}
                Err(Trouble::Stop(stop)) => return Err(stop),
                Err(Trouble::Final(reason, why)) => return Err(Stop::Failed(reason, why)),
                Err(Trouble::Passing(reason, why)) => {
                    *reader = None;
                    let silent = self.now().saturating_sub(progress.alive.load(Ordering::Relaxed));
                    if Duration::from_millis(silent) >= self.run.settings().stall {
                        let why = format!("no progress for {} s; the last trouble: {why}", silent / 1000);
                        return Err(Stop::Failed(reason, why));
                    }
                    tracing::debug!(why, "the source is tried again");
                    self.go_on(progress)?;
                    self.run.pause(wait)?;
                    wait = (wait * 2).min(LONGEST_AGAIN);
                }
            }
        }
        Ok((self.parts.finish(&hasher), true))
    }

    /// Writes, one thread after the other: the file system lets no two write to one file, and has those who wait burn
    /// the time that others need to receive and to hash.
    fn write(&self, progress: &Progress, bytes: &[u8], at: u64) -> Result<(), Stop> {
        let _one = progress.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.file.write_all_at(bytes, at).map_err(|error| Stop::disk("write the copy", &error))
    }

    /// Hashes a part as it stands in the copy.
    fn hash_copy(&self, index: u64, progress: &Progress) -> Result<PartHash, Stop> {
        let mut hasher = self.parts.hasher(index);
        let read =
            FileReader::of_copy(self.file).read(self.parts.start(index), self.parts.length(index), &mut |bytes| {
                self.go_on(progress)?;
                hasher.update(bytes);
                progress.alive.store(self.now(), Ordering::Relaxed);
                Ok(())
            });
        match read {
            Ok(()) => Ok(self.parts.finish(&hasher)),
            Err(Trouble::Stop(stop)) => Err(stop),
            Err(Trouble::Final(_, why) | Trouble::Passing(_, why)) => Err(Stop::Failed(Reason::Io, why)),
        }
    }

    fn go_on(&self, progress: &Progress) -> Result<(), Stop> {
        self.run.go_on()?;
        match progress.over.load(Ordering::Relaxed) {
            // Whoever ended it has said why.
            true => Err(Stop::Shutdown),
            false => Ok(()),
        }
    }

    /// Puts parts down whose bytes are on disk, until all threads have ended.
    fn put_down(&self, progress: &Progress, sidecar: &mut Sidecar) -> Result<(), Stop> {
        let settings = self.run.settings();
        let mut last = self.run.clock().monotonic();
        loop {
            let (fresh, working) = {
                let mut state = progress.lock();
                if state.working > 0 {
                    let waited = progress.changed.wait_timeout(state, LOOK);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                let due = self.run.clock().monotonic().saturating_sub(last) >= settings.sync_every;
                let many = state.fresh.len() >= settings.sync_parts as usize;
                // At the end the whole file is synced anyway, unless it ends early.
                let early = state.working == 0 && state.stop.is_some();
                let take = (due || many || early) && !state.fresh.is_empty();
                (if take { std::mem::take(&mut state.fresh) } else { Vec::new() }, state.working)
            };
            if !fresh.is_empty() {
                let put = self.file.sync_data().and_then(|()| sidecar.add(&fresh));
                if let Err(error) = put {
                    let stop = Stop::disk("put the parts of the copy on disk", &error);
                    progress.over.store(true, Ordering::SeqCst);
                    progress.lock().stop.get_or_insert(stop.clone());
                    return Err(stop);
                }
                last = self.run.clock().monotonic();
            }
            if working == 0 {
                return Ok(());
            }
        }
    }
}

/// Counts a thread out, however it ends.
struct Leaves<'p>(&'p Progress);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.working -= 1;
        if std::thread::panicking() {
            self.0.over.store(true, Ordering::SeqCst);
            state.stop.get_or_insert(Stop::Failed(Reason::Io, "a thread of the copy broke off".to_owned()));
        }
        drop(state);
        self.0.changed.notify_all();
    }
}
