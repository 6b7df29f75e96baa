//! Reading beside the writer, on connections of their own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use windlass_store::{Entry, Page, Revision, Scan, StoreError};

use crate::{schema, writer};

/// Reads that run at the same time; more wait. SQLite reads are short, and a small machine has few cores.
const READS: usize = 4;
/// Scans that are open at the same time; more are refused, as waiting scans could wait for each other.
const SCANS: usize = 64;
/// Idle connections that are kept.
const IDLE: usize = 8;
/// Bytes of values after which a page ends, whatever number of entries was asked for.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// A pool of connections for reading.
#[derive(Clone)]
pub(crate) struct Readers {
    shared: Arc<Shared>,
}

struct Shared {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    reads: Arc<Semaphore>,
    scans: Arc<Semaphore>,
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> Result<Connection, StoreError> {
        let idle = self.idle().pop();
        idle.map_or_else(|| schema::open_to_read(&self.file), Ok)
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < IDLE {
            idle.push(connection);
        }
    }
}

impl Readers {
    pub(crate) fn new(file: PathBuf) -> Self {
        let shared = Shared {
            file,
            idle: Mutex::new(Vec::new()),
            reads: Arc::new(Semaphore::new(READS)),
            scans: Arc::new(Semaphore::new(SCANS)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Closes the idle connections.
    pub(crate) fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.shared.idle());
        drop(idle);
    }

    async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Ok(permit) = Arc::clone(&self.shared.reads).acquire_owned().await else {
            return Err(StoreError::Closed);
        };
        let shared = Arc::clone(&self.shared);
        let job = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            read(&shared)
        });
        job.await.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("the read did not run: {error}"))))
    }

    /// Runs one statement on a connection of the pool.
    async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(move |shared| {
            let connection = shared.connection()?;
            let found = query(&connection).map_err(|error| schema::store_error("read", &shared.file, &error))?;
            shared.give_back(connection);
            Ok(found)
        })
        .await
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = key.to_owned();
        self.query(move |connection| {
            connection
                .prepare_cached("SELECT key, version, created, lease, value FROM kv WHERE key = ?1")?
                .query_row([key], writer::entry)
                .optional()
        })
        .await
    }

    /// The last entries under `prefix` before `before`, in descending order.
    pub(crate) async fn last_before(
        &self,
        prefix: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let (prefix, before) = (prefix.to_owned(), before.map(str::to_owned));
        self.query(move |connection| last_before(connection, &prefix, before.as_deref(), limit.max(1))).await
    }

    pub(crate) async fn revision(&self) -> Result<Revision, StoreError> {
        self.query(|connection| schema::meta(connection, "revision").map(|last| Revision(last.cast_unsigned()))).await
    }

    pub(crate) async fn scan(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let Ok(permit) = Arc::clone(&self.shared.scans).try_acquire_owned() else {
            return Err(StoreError::Unavailable(format!("{SCANS} scans are open already")));
        };
        let held = self
            .run(move |shared| {
                let connection = shared.connection()?;
                let begin = || {
                    connection.execute_batch("BEGIN")?;
                    // The snapshot is taken by the first read, not by BEGIN.
                    schema::meta(&connection, "revision")
                };
                let revision = begin().map_err(|error| schema::store_error("read", &shared.file, &error))?;
                Ok((connection, Revision(revision.cast_unsigned())))
            })
            .await?;
        let (connection, revision) = held;
        let transaction =
            ReadTransaction { shared: Arc::clone(&self.shared), connection: Some(connection), _permit: permit };
        Ok(Snapshot {
            readers: self.clone(),
            transaction: Arc::new(Mutex::new(transaction)),
            revision,
            prefix: prefix.to_owned(),
            after: None,
            ended: false,
        })
    }

    /// Writes a copy of the database to `path`, which must not exist.
    pub(crate) async fn copy_to(&self, path: PathBuf) -> Result<(), StoreError> {
        self.run(move |shared| copy(shared, &path)).await
    }
}

fn copy(shared: &Shared, path: &Path) -> Result<(), StoreError> {
    let failed = |doing: &str, why: &dyn std::fmt::Display| {
        Err(StoreError::Unavailable(format!("back up to {}: {doing}: {why}", path.display())))
    };
    if path.exists() {
        return failed("look", &"the file exists already");
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    match std::fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return failed("remove the old attempt", &error),
        _ => {}
    }
    let Some(target) = partial.to_str() else { return failed("name the file", &"the path is not UTF-8") };
    let connection = shared.connection()?;
    // One read transaction: the copy is of one revision, however much is written meanwhile.
    if let Err(error) = connection.execute("VACUUM INTO ?1", [target]) {
        return failed("copy", &error);
    }
    shared.give_back(connection);
    let synced = std::fs::File::open(&partial).and_then(|file| file.sync_all());
    if let Err(error) = synced.and_then(|()| std::fs::rename(&partial, path)) {
        return failed("finish", &error);
    }
    schema::sync_folder_of(path)
}

/// A connection with an open read transaction; goes back to the pool when dropped.
struct ReadTransaction {
    shared: Arc<Shared>,
    connection: Option<Connection>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for ReadTransaction {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && connection.execute_batch("ROLLBACK").is_ok()
        {
            self.shared.give_back(connection);
        }
    }
}

/// All entries under a prefix, at the revision at which it was opened.
pub(crate) struct Snapshot {
    readers: Readers,
    transaction: Arc<Mutex<ReadTransaction>>,
    revision: Revision,
    prefix: String,
    /// The last key handed out. Moves only when a page has reached the caller.
    after: Option<String>,
    ended: bool,
}

#[async_trait]
impl Scan for Snapshot {
    fn revision(&self) -> Revision {
        self.revision
    }

    async fn next_page(&mut self, limit: usize) -> Result<Page, StoreError> {
        if self.ended {
            return Ok(Page::new());
        }
        let transaction = Arc::clone(&self.transaction);
        let (prefix, after) = (self.prefix.clone(), self.after.clone());
        let page = self
            .readers
            .run(move |shared| {
                let transaction = transaction.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(connection) = transaction.connection.as_ref() else { return Err(StoreError::Closed) };
                page(connection, &prefix, after.as_deref(), limit.max(1))
                    .map_err(|error| schema::store_error("read", &shared.file, &error))
            })
            .await?;
        match page.last() {
            Some(last) => self.after = Some(last.key.clone()),
            None => self.ended = true,
        }
        Ok(page)
    }
}

fn last_before(connection: &Connection, prefix: &str, before: Option<&str>, limit: usize) -> rusqlite::Result<Page> {
    const WITHIN: &str =
        "SELECT key, version, created, lease, value FROM kv WHERE key >= ?1 AND key < ?2 ORDER BY key DESC";
    const FROM: &str = "SELECT key, version, created, lease, value FROM kv WHERE key >= ?1 ORDER BY key DESC";
    let end = beyond(prefix);
    let end = match (before, end.as_deref()) {
        (Some(before), Some(end)) => Some(before.min(end)),
        (before, end) => before.or(end),
    };
    let mut statement = connection.prepare_cached(if end.is_some() { WITHIN } else { FROM })?;
    let mut rows = match end {
        Some(end) => statement.query([prefix, end])?,
        None => statement.query([prefix])?,
    };
    let (mut page, mut bytes) = (Page::new(), 0);
    while page.len() < limit
        && bytes < PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let entry = writer::entry(row)?;
        bytes += entry.value.len();
        page.push(entry);
    }
    Ok(page)
}

/// The first text in byte order that comes after all that begins with `prefix`; none, when nothing does.
fn beyond(prefix: &str) -> Option<String> {
    let mut rest = prefix.to_owned();
    while let Some(last) = rest.pop() {
        // What lies between are halves of characters.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            rest.push(next);
            return Some(rest);
        }
    }
    None
}

fn page(connection: &Connection, prefix: &str, after: Option<&str>, limit: usize) -> rusqlite::Result<Page> {
    const FROM: &str = "SELECT key, version, created, lease, value FROM kv WHERE key >= ?1 ORDER BY key";
    const AFTER: &str = "SELECT key, version, created, lease, value FROM kv WHERE key > ?1 ORDER BY key";
    let mut statement = connection.prepare_cached(if after.is_some() { AFTER } else { FROM })?;
    let mut rows = statement.query([after.unwrap_or(prefix)])?;
    let (mut page, mut bytes) = (Page::new(), 0);
    // No upper bound in the statement: rows are read one by one, and the first that is out of the prefix ends it.
    while page.len() < limit
        && bytes < PAGE_BYTES
        && let Some(row) = rows.next()?
        && row.get_ref(0)?.as_str()?.starts_with(prefix)
    {
        let entry = writer::entry(row)?;
        bytes += entry.value.len();
        page.push(entry);
    }
    Ok(page)
}
