//! The database file: its schema, how it is opened, and what is checked before anything is changed in it.
//!
//! `state.db` is an SQLite database (with `state.db-wal` and `state.db-shm` beside it while it is open):
//!
//! * `application_id` is [`APPLICATION_ID`], `user_version` is [`SCHEMA`].
//! * `kv(key TEXT PRIMARY KEY, version, created, lease, value)`: the entries. `value` comes last so that a
//!   large one does not have to be read to judge a condition on its row.
//! * `meta(name, value)`: `revision` is the last revision given out, `opens` counts the processes that have
//!   held the file, `clean` is 1 after an orderly stop and 0 while it is in use.

use std::fs::File;
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use windlass_store::{Revision, StoreError};

/// The database file in a state folder.
pub const DATABASE_FILE: &str = "state.db";
/// "Wdls": what `file` and SQLite know our databases by.
pub(crate) const APPLICATION_ID: i32 = 0x5764_6c73;
/// The schema that this program reads and writes.
pub(crate) const SCHEMA: i32 = 1;
/// The first SQLite without a bug that could corrupt a WAL database when the log was reset.
const OLDEST_SQLITE: i32 = 3_051_003;

const CREATE: &str = "
    CREATE TABLE kv (
        key     TEXT    NOT NULL PRIMARY KEY,
        version INTEGER NOT NULL,
        created INTEGER NOT NULL,
        lease   INTEGER,
        value   BLOB    NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX kv_lease ON kv (lease) WHERE lease IS NOT NULL;
    CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO meta (name, value) VALUES ('revision', 0), ('opens', 0), ('clean', 1);
";

/// What opening the database found.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) revision: Revision,
    /// How many processes have opened the file, this one included.
    pub(crate) opens: u32,
}

/// Opens the database for the one process that may change it, creates it if needed, checks it if the last
/// holder did not stop in an orderly way, and marks it as in use.
pub(crate) fn open_to_write(file: &Path, max_bytes: Option<u64>) -> Result<Opened, StoreError> {
    let sqlite = rusqlite::version_number();
    if sqlite < OLDEST_SQLITE {
        return Err(StoreError::Unusable(format!(
            "this program is linked to SQLite {}, which can damage a database in WAL mode; build it with the \
             bundled SQLite, or with 3.51.3 or newer",
            rusqlite::version()
        )));
    }
    let mut connection = open(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    let failed = |doing: &str, error: rusqlite::Error| store_error(doing, file, &error);
    let fresh = !is_ours(&connection, file)?;
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(|error| failed("switch on the write-ahead log of", error))?;
    if mode != "wal" {
        return Err(StoreError::Unusable(format!(
            "{} cannot use a write-ahead log (journal mode {mode}); the folder must lie on a local file system",
            file.display()
        )));
    }
    // FULL, not NORMAL: with a write-ahead log, NORMAL forgets the last commits when the power fails.
    connection.pragma_update(None, "synchronous", "FULL").map_err(|error| failed("set up", error))?;
    // A thread of its own does that, so that no commit waits for it.
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(|error| failed("set up", error))?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB).map_err(|error| failed("set up", error))?;
    if let Some(max_bytes) = max_bytes {
        let page: i64 = pragma(&connection, "page_size").map_err(|error| failed("set up", error))?;
        let pages = i64::try_from(max_bytes).unwrap_or(i64::MAX) / page.max(1);
        connection
            .pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))
            .map_err(|error| failed("limit the size of", error))?;
    }
    if fresh {
        create(&mut connection).map_err(|error| failed("create", error))?;
        sync_folder_of(file)?;
    }
    let was_clean = meta(&connection, "clean").map_err(|error| failed("read", error))? == 1;
    if !was_clean {
        tracing::info!(file = %file.display(), "the last holder did not stop in an orderly way; checking the database");
        check(&connection, file)?;
    }
    let opens = mark_in_use(&mut connection).map_err(|error| failed("write", error))?;
    let revision = meta(&connection, "revision").map_err(|error| failed("read", error))?;
    Ok(Opened { connection, revision: Revision(revision.cast_unsigned()), opens })
}

/// At most 128 MiB, and no more than the database has: some hundred thousand entries, or the interior pages
/// and the hot leaves of millions. With 32 MiB a transaction in a large batch cost a third more CPU.
pub(crate) const WRITER_CACHE_KIB: i32 = 128 * 1024;
/// 4 MiB for each reading connection; the rest is in the page cache of the system.
const READER_CACHE_KIB: i32 = 4 * 1024;

/// Opens the database for reading. Does not create it.
pub(crate) fn open_to_read(file: &Path) -> Result<Connection, StoreError> {
    let connection = open(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    if !is_ours(&connection, file)? {
        return Err(StoreError::Unusable(format!("{} is empty: no state has been written there yet", file.display())));
    }
    connection
        .pragma_update(None, "cache_size", -READER_CACHE_KIB)
        .map_err(|error| store_error("set up", file, &error))?;
    Ok(connection)
}

/// Opens a second connection of the holder, for checkpoints.
pub(crate) fn open_to_checkpoint(file: &Path) -> Result<Connection, StoreError> {
    let connection = open(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection
        .pragma_update(None, "synchronous", "FULL")
        .and_then(|()| connection.pragma_update(None, "wal_autocheckpoint", 0))
        .map_err(|error| store_error("set up", file, &error))?;
    Ok(connection)
}

fn open(file: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .map_err(|error| store_error("open", file, &error))?;
    let set_up = || {
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "temp_store", "MEMORY")
    };
    set_up().map_err(|error| store_error("open", file, &error))?;
    Ok(connection)
}

/// True when the file holds our schema, false when it is empty; anything else is refused.
fn is_ours(connection: &Connection, file: &Path) -> Result<bool, StoreError> {
    let read = |name: &str| pragma(connection, name).map_err(|error| store_error("open", file, &error));
    let (application, schema) = (read("application_id")?, read("user_version")?);
    if application == 0 && schema == 0 && read("schema_version")? == 0 {
        return Ok(false);
    }
    if application != i64::from(APPLICATION_ID) {
        return Err(StoreError::Unusable(format!(
            "{} is an SQLite database of another program (application id {application}); choose another state folder",
            file.display()
        )));
    }
    if schema != i64::from(SCHEMA) {
        return Err(StoreError::Unusable(format!(
            "{} has schema {schema}, this program knows schema {SCHEMA}; use the windlass that wrote it, or a newer one",
            file.display()
        )));
    }
    Ok(true)
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let txn = connection.transaction()?;
    txn.execute_batch(CREATE)?;
    txn.pragma_update(None, "application_id", APPLICATION_ID)?;
    txn.pragma_update(None, "user_version", SCHEMA)?;
    txn.commit()
}

fn mark_in_use(connection: &mut Connection) -> rusqlite::Result<u32> {
    let txn = connection.transaction()?;
    txn.execute("UPDATE meta SET value = 0 WHERE name = 'clean'", [])?;
    txn.execute("UPDATE meta SET value = value + 1 WHERE name = 'opens'", [])?;
    let opens = meta(&txn, "opens")?;
    txn.commit()?;
    Ok(u32::try_from(opens).unwrap_or(u32::MAX))
}

/// Records that the holder stops in an orderly way.
pub(crate) fn mark_clean(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("UPDATE meta SET value = 1 WHERE name = 'clean'", []).map(|_| ())
}

/// Looks for damage. Reads the whole file: some seconds for a gigabyte.
fn check(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| store_error("check", file, &error))?;
    if found == "ok" {
        return Ok(());
    }
    Err(damaged(file, &format!("the check after an unclean stop found: {}", found.trim())))
}

pub(crate) fn damaged(file: &Path, what: &str) -> StoreError {
    StoreError::Unusable(format!(
        "{} is damaged: {what}. Nothing was changed. Move the folder aside, and put a backup of the file in its place",
        file.display()
    ))
}

pub(crate) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| row.get(0))
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

/// Makes the directory entry of a file that was just created durable.
pub(crate) fn sync_folder_of(file: &Path) -> Result<(), StoreError> {
    let folder = file.parent().unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| StoreError::Unusable(format!("sync the folder {}: {error}", folder.display())))
}

/// Whether the error is of the kind that may go away, such as a full disk.
pub(crate) fn may_pass(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
                | ErrorCode::DiskFull
                | ErrorCode::OperationInterrupted
        )
    )
}

/// What an SQLite error means to the callers of the store, when nothing was changed.
pub(crate) fn store_error(doing: &str, file: &Path, error: &rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        _ if may_pass(error) => StoreError::Unavailable(format!("{doing} {}: {error}", file.display())),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => damaged(file, &format!("{doing}: {error}")),
        _ => StoreError::Unusable(format!("{doing} {}: {error}", file.display())),
    }
}
