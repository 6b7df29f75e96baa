//! Rows that come to a process that keeps running: the logs of tables are open while rows come, and closed when none
//! have come for a while.
//!
//! A request is one batch: all of its rows are durable when it is answered, or none are. What a shard's log takes is
//! bounded by the table's hard limit, what is on its way by whoever reads the requests, and how many logs are open by
//! `MOST_OPEN`.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use windlass_blob::Context;
use windlass_table::log::{Appended, Limits, Lsn, Writer};
use windlass_table::source::{Form, Meaning, whole_batch};
use windlass_table::{Batch, Definition, Mode, Sender, Table, TableError};

use crate::figures::Figures;

/// Logs that are open at a time; each has a thread.
const MOST_OPEN: usize = 256;
/// A log is closed when no rows have come for so long.
const IDLE: Duration = Duration::from_secs(30);
/// How old may be what is known of the table: its columns, how far it is merged.
const FRESH: Duration = Duration::from_secs(2);
/// Most rows of one batch.
const MOST_ROWS: usize = 1_000_000;

/// Rows for a table.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The table.
    pub table: String,
    /// Which of its logs takes them.
    pub shard: u32,
    /// Who sends them, and as which of theirs.
    pub sender: Option<Sender>,
    /// How columns are meant.
    pub modes: BTreeMap<String, Mode>,
    /// Their form.
    pub form: Form,
    /// The rows.
    pub bytes: Bytes,
}

/// Rows are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How many there were.
    pub rows: u64,
    /// Where they lie in the log; 0: there were none.
    pub lsn: Lsn,
    /// Whether they had come before.
    pub before: bool,
    /// Bytes of the log that wait to be merged.
    pub pending: u64,
    /// Whether so much waits that a backfill is due.
    pub due: bool,
}

/// Why rows were not taken in.
#[derive(Debug)]
pub enum Refused {
    /// There is no such table.
    NoTable(String),
    /// Too many logs are open.
    Crowded,
    /// What is wrong with the rows, the table or its log.
    Table(TableError),
    /// The log failed while it wrote them: they may be durable or not.
    Unknown(TableError),
}

/// Takes rows into the tables of a folder.
#[derive(Debug)]
pub struct Ingest {
    inner: Arc<Inner>,
    /// Closes logs that nobody writes to; ends with this.
    _closing: JoinSet<()>,
}

#[derive(Debug)]
struct Inner {
    tables: PathBuf,
    context: Context,
    figures: Arc<Figures>,
    doors: Mutex<HashMap<(String, u32), Arc<Door>>>,
}

/// The way into a log.
#[derive(Debug)]
struct Door {
    /// Taken while the log is opened or looked at anew.
    open: tokio::sync::Mutex<Option<Open>>,
    used: Mutex<Duration>,
}

/// An open log.
#[derive(Clone, Debug)]
struct Open {
    table: Table,
    definition: Arc<Definition>,
    /// What happened before is late, in microseconds since 1970.
    cutoff: i64,
    looked: Duration,
    writer: Arc<Writer>,
}

impl Ingest {
    /// Takes rows into the tables whose homes are in `tables`. To be called within a runtime.
    #[must_use]
    pub fn start(tables: PathBuf, context: Context, figures: Arc<Figures>) -> Self {
        let inner = Arc::new(Inner { tables, context, figures, doors: Mutex::default() });
        let mut closing = JoinSet::new();
        let kept = inner.clone();
        closing.spawn(async move {
            loop {
                kept.context.clock.sleep(IDLE / 2).await;
                kept.close_idle(IDLE).await;
            }
        });
        Self { inner, _closing: closing }
    }

    /// Takes rows in as one batch. When the answer comes they are durable.
    ///
    /// # Errors
    ///
    /// Why not; only with [`Refused::Unknown`] they may be in the log all the same.
    pub async fn take(&self, sent: Sent) -> Result<Taken, Refused> {
        let inner = &self.inner;
        if !is_name(&sent.table) {
            return Err(Refused::NoTable(format!("{:?} is no name of a table", shortened(&sent.table))));
        }
        let key = (sent.table.clone(), sent.shard);
        let began = inner.now();
        let door = inner.door(&key).await?;
        let mut open = inner.open(&door, &key, false).await?;
        let batch = match inner.batch(&open, &sent).await {
            // The table may have got a column since.
            Err(TableError::Invalid(_)) if open.looked < began => {
                open = inner.open(&door, &key, true).await?;
                inner.batch(&open, &sent).await
            }
            batch => batch,
        };
        let batch = batch.map_err(Refused::Table)?;
        let due = |pending: u64| pending >= open.definition.soft_limit_bytes;
        let Some(batch) = batch else {
            let pending = open.writer.pending();
            return Ok(Taken { rows: 0, lsn: Lsn::default(), before: false, pending, due: due(pending) });
        };
        let rows = batch.len() as u64;
        match open.writer.append(&batch).await {
            Ok(appended) => {
                let (lsn, before) = match appended {
                    Appended::At(lsn) => (lsn, false),
                    Appended::Before(lsn) => (lsn, true),
                };
                if !before {
                    inner.figures.ingested(&open.definition, &batch, open.cutoff);
                }
                let pending = open.writer.pending();
                Ok(Taken { rows, lsn, before, pending, due: due(pending) })
            }
            Err(error @ (TableError::Full { .. } | TableError::Invalid(_) | TableError::TooLarge(_))) => {
                if let TableError::Full { .. } = error {
                    inner.figures.full(&open.definition.name);
                }
                Err(Refused::Table(error))
            }
            Err(error) => {
                // Whoever comes next opens it again, which finds out what is durable.
                door.open.lock().await.take();
                Err(Refused::Unknown(error))
            }
        }
    }

    /// Closes the logs to which nothing has come for `idle`.
    pub async fn close_idle(&self, idle: Duration) {
        self.inner.close_idle(idle).await;
    }

    /// Logs that are open.
    #[must_use]
    pub fn open_logs(&self) -> usize {
        self.inner.doors().len()
    }
}

impl Inner {
    fn now(&self) -> Duration {
        self.context.clock.monotonic()
    }

    fn doors(&self) -> std::sync::MutexGuard<'_, HashMap<(String, u32), Arc<Door>>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn door(&self, key: &(String, u32)) -> Result<Arc<Door>, Refused> {
        let now = self.now();
        if let Some(door) = self.doors().get(key) {
            *door.used.lock().unwrap_or_else(PoisonError::into_inner) = now;
            return Ok(door.clone());
        }
        if self.doors().len() >= MOST_OPEN {
            self.close_idle(Duration::from_secs(1)).await;
        }
        let mut doors = self.doors();
        if doors.len() >= MOST_OPEN && !doors.contains_key(key) {
            return Err(Refused::Crowded);
        }
        let fresh = || Arc::new(Door { open: tokio::sync::Mutex::default(), used: Mutex::new(now) });
        Ok(doors.entry(key.clone()).or_insert_with(fresh).clone())
    }

    /// The open log behind a door, with what is known of its table; looked at `anew` if that is wanted or due.
    async fn open(&self, door: &Door, key: &(String, u32), anew: bool) -> Result<Open, Refused> {
        let mut place = door.open.lock().await;
        let now = self.now();
        if let Some(open) = &*place
            && !anew
            && now < open.looked + FRESH
        {
            return Ok(open.clone());
        }
        let opened = self.look(place.take(), key).await;
        if opened.is_err() {
            // A name that nobody has takes no room.
            self.doors().remove(key);
        }
        let open = opened?;
        *place = Some(open.clone());
        Ok(open)
    }

    async fn look(&self, known: Option<Open>, (name, shard): &(String, u32)) -> Result<Open, Refused> {
        let (table, writer) = match known {
            Some(open) => (open.table, Some(open.writer)),
            None => {
                let home = self.tables.join(name);
                if !home.join("table.json").exists() {
                    return Err(Refused::NoTable(format!("there is no table {name}")));
                }
                (Table::open(&home, &self.context).map_err(Refused::Table)?, None)
            }
        };
        let looked = self.now();
        let snapshot = table.snapshot().await.map_err(Refused::Table)?;
        let definition = Arc::new(snapshot.definition().map_err(Refused::Table)?);
        let (checkpoint, cutoff) = table.progress(&snapshot, *shard);
        let writer = match writer {
            Some(writer) => {
                writer.merged(checkpoint);
                writer
            }
            None => {
                let folder = table.log_folder(*shard).map_err(|error| Refused::NoTable(error.to_string()))?;
                let identity = table.identity(*shard).map_err(Refused::Table)?;
                let limits = Limits { hard_bytes: definition.hard_limit_bytes, ..Limits::default() };
                let opened = tokio::task::spawn_blocking(move || Writer::open(folder, identity, limits, checkpoint));
                Arc::new(opened.await.map_err(|_| Refused::Table(TableError::Cancelled))?.map_err(Refused::Table)?)
            }
        };
        Ok(Open { table, definition, cutoff, looked, writer })
    }

    async fn batch(&self, open: &Open, sent: &Sent) -> Result<Option<Batch>, TableError> {
        let arrival = self.context.clock.wall().as_microsecond();
        let meaning = Meaning { modes: sent.modes.clone(), arrival, batch_rows: MOST_ROWS };
        let (definition, form, bytes, sender) =
            (open.definition.clone(), sent.form, sent.bytes.clone(), sent.sender.clone());
        tokio::task::spawn_blocking(move || {
            let batch = whole_batch(form, &bytes, &definition, &meaning)?;
            Ok(batch.map(|batch| match sender {
                Some(sender) => batch.from_sender(sender),
                None => batch,
            }))
        })
        .await
        .map_err(|_| TableError::Cancelled)?
    }

    async fn close_idle(&self, idle: Duration) {
        let now = self.now();
        let closed: Vec<Arc<Door>> = {
            let mut doors = self.doors();
            let old: Vec<_> = doors
                .iter()
                .filter(|(_, door)| *door.used.lock().unwrap_or_else(PoisonError::into_inner) + idle <= now)
                // Somebody who is on the way in has it, too.
                .filter(|(_, door)| Arc::strong_count(door) == 1)
                .map(|(key, _)| key.clone())
                .collect();
            old.iter().filter_map(|key| doors.remove(key)).collect()
        };
        // Closing waits for the log's thread.
        let _ = tokio::task::spawn_blocking(move || drop(closed)).await;
    }
}

/// Whether a text can be the name of a table, and no way out of the folder.
fn is_name(text: &str) -> bool {
    let first = text.chars().next().is_some_and(|first| first.is_ascii_alphanumeric());
    first && text.len() <= 128 && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}
