//! Measures what the disk and bare SQLite give here and now: the floor for the store's own figures.
//!
//! The speed of a disk sync varies tenfold within an hour on many machines. A figure of the store says
//! something only beside the floor of the same minute, so benchmarks run both in turns, in one process.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use serde::Serialize;
use windlass_clock::{Entropy, Seeded, SystemClock};
use windlass_store::{Committed, Compare, Revision, Store, StoreError, Txn, budget};

use crate::{EmbeddedStore, Options, schema};

/// Rows that [`raw_rate`] loads before it measures.
pub const PRELOADED_TASKS: u32 = 100_000;
const TASK_BYTES: usize = 300;
const EVENT_BYTES: usize = 120;

/// Why a measurement was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The database did not do what was asked.
    #[error("measure bare SQLite in {dir}")]
    Sqlite {
        /// The folder of the measurement.
        dir: String,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// The disk did not do what was asked.
    #[error("measure the disk in {dir}")]
    Disk {
        /// The folder of the measurement.
        dir: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// Times of many equal operations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub count: usize,
    /// The median in microseconds.
    pub p50_us: f64,
    /// Of a hundred, one takes longer: microseconds.
    pub p99_us: f64,
    /// The longest, in microseconds.
    pub max_us: f64,
}

impl Latency {
    /// Sums up single times. All zero when there are none.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |per_mille: usize| {
            let index = (times.len() * per_mille / 1000).min(times.len().saturating_sub(1));
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        Self { count: times.len(), p50_us: at(500), p99_us: at(990), max_us: at(1000) }
    }
}

/// How fast bare SQLite makes transitions durable.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RawRate {
    /// Transitions in one commit.
    pub batch: u32,
    /// Durable transitions in a second.
    pub per_second: f64,
    /// Times of the commits.
    pub commit: Latency,
}

/// The time of `count` overwrites of 1 KiB, each followed by `fdatasync`, in a preallocated file in `dir`.
///
/// # Errors
///
/// [`ProbeError::Disk`] when `dir` cannot be written.
pub fn fdatasync_latency(dir: &Path, count: usize) -> Result<Latency, ProbeError> {
    let measure = || {
        let mut file: File = tempfile::tempfile_in(dir)?;
        file.write_all(&[0; 64 * 1024])?;
        file.sync_all()?;
        let clock = SystemClock::real();
        let mut times = Vec::new();
        for _ in 0..count {
            file.rewind()?;
            let started = clock.monotonic();
            file.write_all(&[7; 1024])?;
            file.sync_data()?;
            times.push(clock.monotonic().saturating_sub(started));
        }
        Ok(Latency::of(times))
    };
    measure().map_err(|source| ProbeError::Disk { dir: dir.display().to_string(), source })
}

/// Opens a fresh database in `dir`, loads [`PRELOADED_TASKS`] and measures for `duration` with `batch`
/// transitions in a commit.
///
/// # Errors
///
/// Those of [`RawStore::create`] and [`RawStore::run`].
pub fn raw_rate(dir: &Path, batch: u32, duration: Duration) -> Result<RawRate, ProbeError> {
    RawStore::create(dir)?.run(batch, duration)
}

/// A bare SQLite database with three tables, for measurements in turns.
///
/// One transition updates a task of 300 bytes under a 16-byte key, moves the task to the other side of an index
/// of ready tasks (delete and insert), and appends an event of 120 bytes. WAL, `synchronous=FULL`, SQLite's own checkpoints.
#[derive(Debug)]
pub struct RawStore {
    dir: String,
    connection: Connection,
    entropy: Seeded,
    events: i64,
    /// On which side of the ready index each task is.
    late: Vec<bool>,
}

impl RawStore {
    /// Creates `raw.db` in `dir`, which must not hold one yet, and fills it.
    ///
    /// # Errors
    ///
    /// [`ProbeError::Sqlite`] when the database cannot be created or filled.
    pub fn create(dir: &Path) -> Result<Self, ProbeError> {
        let create = || {
            let mut connection = Connection::open(dir.join("raw.db"))?;
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "cache_size", -schema::WRITER_CACHE_KIB)?;
            connection.execute_batch(
                "CREATE TABLE task (id BLOB PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID;
                 CREATE TABLE ready (late INTEGER, id BLOB, PRIMARY KEY (late, id)) STRICT, WITHOUT ROWID;
                 CREATE TABLE event (sequence INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;",
            )?;
            let txn = connection.transaction()?;
            for task in 0..PRELOADED_TASKS {
                txn.prepare_cached("INSERT INTO task VALUES (?1, ?2)")?
                    .execute((task_key(task), [7u8; TASK_BYTES].as_slice()))?;
                txn.prepare_cached("INSERT INTO ready VALUES (0, ?1)")?.execute([task_key(task)])?;
            }
            txn.commit()?;
            Ok(connection)
        };
        let dir = dir.display().to_string();
        match create() {
            Ok(connection) => {
                let late = vec![false; PRELOADED_TASKS as usize];
                Ok(Self { dir, connection, entropy: Seeded::new(1), events: 0, late })
            }
            Err(source) => Err(ProbeError::Sqlite { dir, source }),
        }
    }

    /// Measures for `duration` with `batch` transitions in a commit.
    ///
    /// # Errors
    ///
    /// [`ProbeError::Sqlite`] when a statement fails.
    pub fn run(&mut self, batch: u32, duration: Duration) -> Result<RawRate, ProbeError> {
        let clock = SystemClock::real();
        let started = clock.monotonic();
        let mut times = Vec::new();
        loop {
            let began = clock.monotonic();
            let passed = began.saturating_sub(started);
            if passed >= duration {
                let per_second = times.len() as f64 * f64::from(batch) / passed.as_secs_f64();
                return Ok(RawRate { batch, per_second, commit: Latency::of(times) });
            }
            self.commit(batch).map_err(|source| ProbeError::Sqlite { dir: self.dir.clone(), source })?;
            times.push(clock.monotonic().saturating_sub(began));
        }
    }

    fn commit(&mut self, batch: u32) -> rusqlite::Result<()> {
        let txn = self.connection.transaction()?;
        {
            let mut update = txn.prepare_cached("UPDATE task SET body = ?2 WHERE id = ?1")?;
            let mut unready = txn.prepare_cached("DELETE FROM ready WHERE late = ?1 AND id = ?2")?;
            let mut ready = txn.prepare_cached("INSERT INTO ready VALUES (?1, ?2)")?;
            let mut append = txn.prepare_cached("INSERT INTO event VALUES (?1, ?2)")?;
            for _ in 0..batch {
                let task = (self.entropy.next_u64() % u64::from(PRELOADED_TASKS)) as u32;
                let (key, late) = (task_key(task), &mut self.late[task as usize]);
                self.events += 1;
                update.execute((key, [self.events as u8; TASK_BYTES].as_slice()))?;
                unready.execute((*late, key))?;
                *late = !*late;
                ready.execute((*late, key))?;
                append.execute((self.events, [3u8; EVENT_BYTES].as_slice()))?;
            }
        }
        txn.commit()
    }
}

/// The embedded store under load, doing what [`RawStore`] does: one transition is one guarded transaction
/// that updates a task, moves its ready key and appends an event (three puts, one delete).
#[derive(Debug)]
pub struct StoreProbe {
    store: Arc<EmbeddedStore>,
    events: Arc<AtomicU64>,
    tasks: Arc<[Task]>,
}

/// What is known of a task: its version, and on which side of the ready index it is.
#[derive(Debug, Default)]
struct Task {
    version: AtomicU64,
    late: AtomicBool,
}

/// How fast the store makes transitions durable.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StoreRate {
    /// Callers that each wait for one commit at a time.
    pub callers: u32,
    /// Durable transitions in a second.
    pub per_second: f64,
    /// Times of the commits, as a caller sees them.
    pub commit: Latency,
}

impl StoreProbe {
    /// Opens a store in `dir`, which should be empty, and loads [`PRELOADED_TASKS`] tasks.
    ///
    /// # Errors
    ///
    /// Whatever the store answers.
    pub async fn create(dir: &Path) -> Result<Self, StoreError> {
        let store = EmbeddedStore::open(dir, Options::new(SystemClock::real()))?;
        let numbers: Vec<u32> = (0..PRELOADED_TASKS).collect();
        let mut tasks = Vec::new();
        for some in numbers.chunks(budget::OPS / 2) {
            let load = some.iter().fold(Txn::new(), |txn, task| {
                txn.put(record(*task), [7u8; TASK_BYTES].to_vec()).put(ready(*task, false), Bytes::new())
            });
            let version = applied(&store.commit(load).await?)?;
            tasks.extend(some.iter().map(|_| Task { version: version.0.into(), late: false.into() }));
        }
        Ok(Self { store: Arc::new(store), events: Arc::default(), tasks: tasks.into() })
    }

    /// Measures for `duration` with `callers` tasks that commit one transition after another.
    ///
    /// # Errors
    ///
    /// Whatever the store answers.
    pub async fn run(&self, callers: u32, duration: Duration) -> Result<StoreRate, StoreError> {
        let clock = SystemClock::real();
        let started = clock.monotonic();
        let mut running = tokio::task::JoinSet::new();
        for caller in 0..callers {
            let (store, clock, events) = (Arc::clone(&self.store), Arc::clone(&clock), Arc::clone(&self.events));
            let tasks = Arc::clone(&self.tasks);
            // Each caller has tasks of its own: this measures commits, not conflicts.
            let (first, count) = (PRELOADED_TASKS / callers * caller, PRELOADED_TASKS / callers);
            let entropy = Seeded::new(events.load(Ordering::Relaxed) ^ (u64::from(caller) << 32));
            running.spawn(async move {
                let mut times = Vec::new();
                while clock.monotonic().saturating_sub(started) < duration {
                    let task = first + (entropy.next_u64() % u64::from(count)) as u32;
                    let event = events.fetch_add(1, Ordering::Relaxed);
                    let began = clock.monotonic();
                    transition(&store, task, &tasks[task as usize], event).await?;
                    times.push(clock.monotonic().saturating_sub(began));
                }
                Ok(times)
            });
        }
        let mut times = Vec::new();
        while let Some(done) = running.join_next().await {
            let done: Result<Vec<Duration>, StoreError> =
                done.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("a caller ended: {error}"))));
            times.extend(done?);
        }
        let passed = clock.monotonic().saturating_sub(started);
        let per_second = times.len() as f64 / passed.as_secs_f64();
        Ok(StoreRate { callers, per_second, commit: Latency::of(times) })
    }

    /// The time of `count` reads of one entry each, one after another.
    ///
    /// # Errors
    ///
    /// Whatever the store answers.
    pub async fn get_latency(&self, count: usize) -> Result<Latency, StoreError> {
        let (clock, entropy) = (SystemClock::real(), Seeded::new(3));
        let mut times = Vec::new();
        for _ in 0..count {
            let key = record((entropy.next_u64() % u64::from(PRELOADED_TASKS)) as u32);
            let began = clock.monotonic();
            self.store.get(&key).await?;
            times.push(clock.monotonic().saturating_sub(began));
        }
        Ok(Latency::of(times))
    }
}

/// Updates a task if it is as it was, moves it to the other side of the ready index, and appends an event.
async fn transition(store: &EmbeddedStore, number: u32, task: &Task, event: u64) -> Result<(), StoreError> {
    let late = task.late.fetch_xor(true, Ordering::Relaxed);
    let txn = Txn::new()
        .when(Compare::Version(record(number), Revision(task.version.load(Ordering::Relaxed))))
        .put(record(number), vec![event as u8; TASK_BYTES])
        .delete(ready(number, late))
        .put(ready(number, !late), Bytes::from_static(&[1; 16]))
        .put(format!("event/{event:016x}"), vec![3u8; EVENT_BYTES]);
    let version = applied(&store.commit(txn).await?)?;
    task.version.store(version.0, Ordering::Relaxed);
    Ok(())
}

fn applied(committed: &Committed) -> Result<Revision, StoreError> {
    match committed {
        Committed::At(revision) => Ok(*revision),
        Committed::Conflict(_) => Err(StoreError::Unusable("another caller has changed the same task".to_owned())),
    }
}

fn record(task: u32) -> String {
    format!("task/{:08x}{task:08x}", task.wrapping_mul(0x9e37_79b1))
}

fn ready(task: u32, late: bool) -> String {
    format!("ready/{}/{:08x}{task:08x}", u8::from(late), task.wrapping_mul(0x9e37_79b1))
}

/// 16 bytes, spread so that neighbours in time are not neighbours in the tree.
fn task_key(task: u32) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&task.wrapping_mul(0x9e37_79b1).to_be_bytes());
    key[4..8].copy_from_slice(&task.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probes_measure_something() {
        let dir = tempfile::tempdir().unwrap();
        let sync = fdatasync_latency(dir.path(), 5).unwrap();
        assert!(sync.count == 5 && sync.p50_us > 0.0 && sync.max_us >= sync.p99_us);
        let rate = raw_rate(dir.path(), 16, Duration::from_millis(50)).unwrap();
        assert!(rate.per_second > 0.0 && rate.commit.count > 0);
        assert!(raw_rate(dir.path(), 1, Duration::ZERO).is_err(), "the database is there already");
        assert!(fdatasync_latency(&dir.path().join("none"), 1).is_err());
    }

    #[tokio::test]
    async fn the_store_is_measured_with_the_same_work() {
        let dir = tempfile::tempdir().unwrap();
        let probe = StoreProbe::create(dir.path()).await.unwrap();
        let rate = probe.run(4, Duration::from_millis(50)).await.unwrap();
        assert!(rate.per_second > 0.0 && rate.commit.count >= 4);
        assert_eq!(probe.get_latency(3).await.unwrap().count, 3);
    }

    #[test]
    fn a_summary_of_nothing_is_zero() {
        assert_eq!(Latency::of(Vec::new()), Latency { count: 0, p50_us: 0.0, p99_us: 0.0, max_us: 0.0 });
    }
}
