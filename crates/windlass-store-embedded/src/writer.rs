//! The one thread that changes the database.
//!
//! It takes everything that waits in the queue, up to [`BATCH_WEIGHT`], runs it in one SQLite transaction,
//! makes that durable with one commit, and only then publishes the changes and answers the callers. While it
//! commits, the queue fills again: the batch size follows the load by itself.
//!
//! Within a batch each transaction sees the ones before it. One whose conditions do not hold has written
//! nothing when that is found out, so it needs no savepoint.
//!
//! # When something fails
//!
//! * Before COMMIT: the whole batch is rolled back and every caller is told that nothing was changed. A full
//!   disk or a busy database may pass; anything else poisons the store.
//! * COMMIT itself: the outcome is unknown and stays so, since a failed fsync may have thrown away what a
//!   second one would report as safe. All callers of the batch get [`StoreError::Unknown`] and the store takes
//!   no more calls. The program has to start again. (The library does not abort the process: that is for the
//!   program to decide.)

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, Statement, params};
use tokio::sync::oneshot;
use windlass_store::leases::Lease;
use windlass_store::{Change, Committed, Compare, Entry, LeaseId, Op, Revision, StoreError, Txn};

use crate::checkpoint::{self, Checkpoints};
use crate::schema;
use crate::shared::Core;

/// Weight of one batch: so many small transactions, or 8 MiB of large ones. Larger batches gain little and
/// make each caller wait longer.
const BATCH_WEIGHT: u32 = 512;

/// What the writer is asked to do.
pub(crate) enum Work {
    /// A transaction, asked for at `now`.
    Commit { txn: Txn, now: Duration, answer: oneshot::Sender<Result<Committed, StoreError>> },
    /// To end the leases that have run out at `now`.
    EndDue { now: Duration, answer: oneshot::Sender<Result<(), StoreError>> },
    /// To end a lease before its time.
    Revoke { lease: LeaseId, answer: oneshot::Sender<Result<(), StoreError>> },
}

/// An answer that waits for the batch to become durable.
enum Answer {
    Commit(oneshot::Sender<Result<Committed, StoreError>>, Result<Committed, StoreError>),
    Done(oneshot::Sender<Result<(), StoreError>>),
}

impl Answer {
    // A caller who no longer waits is no error.
    fn send(self) {
        match self {
            Self::Commit(to, outcome) => drop(to.send(outcome)),
            Self::Done(to) => drop(to.send(Ok(()))),
        }
    }

    fn fail(self, error: &StoreError) {
        match self {
            Self::Commit(to, _) => drop(to.send(Err(error.clone()))),
            Self::Done(to) => drop(to.send(Err(error.clone()))),
        }
    }
}

/// Closes the queue when the thread ends, also by a panic: nobody waits for ever.
struct Ending(Arc<Core>);

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison("the writer thread panicked, which is a bug of windlass");
        }
        self.0.queue.abandon();
    }
}

/// Runs until the queue is closed and empty, then marks the database as cleanly stopped.
pub(crate) fn run(core: &Arc<Core>, mut connection: Connection, checkpoints: &Checkpoints) {
    let _ending = Ending(Arc::clone(core));
    let log_pages = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&log_pages);
    let hooked = connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
        seen.store(pages.cast_unsigned(), Ordering::Relaxed);
        Ok(())
    }));
    if let Err(error) = hooked {
        core.poison(&format!("watch the size of the write-ahead log: {error}"));
    }
    serve(core, &connection, checkpoints, &log_pages);
    checkpoints.close();
    if core.ensure_sound().is_ok() {
        // The last connection that is closed also empties the log. This leaves it little to do.
        let finished = schema::mark_clean(&connection).and_then(|()| checkpoint::pass(&connection));
        if let Err(error) = finished {
            tracing::warn!(file = %core.file.display(), %error, "could not finish the database in an orderly way");
        }
    }
    if let Err((_, error)) = connection.close() {
        tracing::warn!(file = %core.file.display(), %error, "could not close the database");
    }
}

fn serve(core: &Core, connection: &Connection, checkpoints: &Checkpoints, log_pages: &AtomicU32) {
    let mut writer = match Writer::new(connection, core.log.head()) {
        Ok(writer) => writer,
        Err(error) => {
            core.poison(&format!("prepare the statements: {error}"));
            return;
        }
    };
    let mut batch = Vec::new();
    while core.queue.take(BATCH_WEIGHT, &mut batch) {
        if let Err(error) = core.ensure_sound() {
            batch.drain(..).for_each(|work| refuse(work, &error));
            continue;
        }
        writer.run_batch(core, &mut batch);
        match checkpoints.after_commit(log_pages.load(Ordering::Relaxed), connection) {
            Ok(()) => {}
            Err(error) => core.poison(&format!("checkpoint: {error}")),
        }
    }
}

fn refuse(work: Work, error: &StoreError) {
    match work {
        Work::Commit { answer, .. } => drop(answer.send(Err(error.clone()))),
        Work::EndDue { answer, .. } | Work::Revoke { answer, .. } => drop(answer.send(Err(error.clone()))),
    }
}

/// An entry without its value.
#[derive(Clone, Copy)]
struct Place {
    version: Revision,
    created: Revision,
    lease: Option<LeaseId>,
}

struct Writer<'c> {
    begin: Statement<'c>,
    commit: Statement<'c>,
    rollback: Statement<'c>,
    place: Statement<'c>,
    entry: Statement<'c>,
    first_from: Statement<'c>,
    insert: Statement<'c>,
    insert_new: Statement<'c>,
    update_value: Statement<'c>,
    update: Statement<'c>,
    delete: Statement<'c>,
    bound: Statement<'c>,
    delete_bound: Statement<'c>,
    set_revision: Statement<'c>,
    /// The last revision given out, in the present batch too.
    revision: Revision,
}

/// What a batch has done so far.
#[derive(Default)]
struct Progress {
    commits: Vec<Vec<Change>>,
    answers: Vec<Answer>,
    /// Leases taken out of the table; put back if the batch fails.
    ended: Vec<(LeaseId, Lease)>,
}

impl<'c> Writer<'c> {
    fn new(connection: &'c Connection, revision: Revision) -> rusqlite::Result<Self> {
        Ok(Self {
            begin: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            rollback: connection.prepare("ROLLBACK")?,
            place: connection.prepare("SELECT version, created, lease FROM kv WHERE key = ?1")?,
            entry: connection.prepare("SELECT key, version, created, lease, value FROM kv WHERE key = ?1")?,
            first_from: connection
                .prepare("SELECT key, version, created, lease, value FROM kv WHERE key >= ?1 ORDER BY key LIMIT 1")?,
            insert: connection
                .prepare("INSERT INTO kv (key, version, created, lease, value) VALUES (?1, ?2, ?2, ?3, ?4)")?,
            insert_new: connection.prepare(
                "INSERT INTO kv (key, version, created, lease, value) VALUES (?1, ?2, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            )?,
            // Most keys never see a lease; leaving the column out spares the index the comparison.
            update_value: connection.prepare("UPDATE kv SET version = ?2, value = ?3 WHERE key = ?1")?,
            update: connection.prepare("UPDATE kv SET version = ?2, value = ?3, lease = ?4 WHERE key = ?1")?,
            delete: connection.prepare("DELETE FROM kv WHERE key = ?1")?,
            bound: connection.prepare("SELECT key FROM kv WHERE lease = ?1 ORDER BY key")?,
            delete_bound: connection.prepare("DELETE FROM kv WHERE lease = ?1")?,
            set_revision: connection.prepare("UPDATE meta SET value = ?1 WHERE name = 'revision'")?,
            revision,
        })
    }

    /// Runs all of `batch` and answers it.
    fn run_batch(&mut self, core: &Core, batch: &mut Vec<Work>) {
        let before = self.revision;
        let mut progress = Progress::default();
        let mut rest = batch.drain(..);
        let ran = self.begin.execute([]).and_then(|_| {
            for work in rest.by_ref() {
                self.work(core, work, &mut progress)?;
            }
            if self.revision == before { Ok(0) } else { self.set_revision.execute([sql(self.revision)]) }
        });
        if let Err(error) = ran {
            let error = self.roll_back(core, before, &error, &mut progress);
            progress.answers.into_iter().for_each(|answer| answer.fail(&error));
            rest.for_each(|work| refuse(work, &error));
            return;
        }
        drop(rest);
        let durable = self.commit.execute([]);
        #[cfg(test)]
        let durable = core.injected_commit_failure().and(durable);
        if let Err(error) = durable {
            let what = format!("commit failed, what it held may be lost or not: {error}");
            core.poison(&what);
            let error = StoreError::Unknown(format!("{}: {what}", core.file.display()));
            progress.answers.into_iter().for_each(|answer| answer.fail(&error));
            return;
        }
        // Published before anybody is answered: whoever knows of a revision finds it in the log.
        if !progress.commits.is_empty() {
            core.log.publish(progress.commits);
        }
        progress.answers.into_iter().for_each(Answer::send);
    }

    /// Undoes a batch that failed before its commit. Answers what its callers are told.
    fn roll_back(
        &mut self,
        core: &Core,
        before: Revision,
        error: &rusqlite::Error,
        progress: &mut Progress,
    ) -> StoreError {
        self.revision = before;
        {
            let mut leases = core.leases();
            for (id, lease) in progress.ended.drain(..) {
                leases.restore(id, lease);
            }
        }
        // After some errors SQLite has rolled back by itself, and says so as an error.
        let rolled_back = self.rollback.execute([]);
        if !schema::may_pass(error) {
            core.poison(&format!("write: {error}"));
        } else if let Err(second) = rolled_back {
            tracing::debug!(%second, "rolled back already");
        }
        schema::store_error("write", &core.file, error)
    }

    fn work(&mut self, core: &Core, work: Work, progress: &mut Progress) -> rusqlite::Result<()> {
        match work {
            Work::Commit { txn, now, answer } => {
                // Answered or not, the caller is on the list before anything can fail.
                progress.answers.push(Answer::Commit(answer, Err(StoreError::Closed)));
                self.end_due(core, now, progress)?;
                let committed = self.commit(core, txn, now, &mut progress.commits)?;
                if let Some(Answer::Commit(_, outcome)) = progress.answers.last_mut() {
                    *outcome = committed;
                }
            }
            Work::EndDue { now, answer } => {
                progress.answers.push(Answer::Done(answer));
                self.end_due(core, now, progress)?;
            }
            Work::Revoke { lease, answer } => {
                progress.answers.push(Answer::Done(answer));
                let ended = core.leases().end(lease);
                if let Some(ended) = ended {
                    progress.ended.push((lease, ended));
                    self.delete_bound(lease, &mut progress.commits)?;
                }
            }
        }
        Ok(())
    }

    fn end_due(&mut self, core: &Core, now: Duration, progress: &mut Progress) -> rusqlite::Result<()> {
        let due = core.leases().take_due(now);
        progress.ended.extend_from_slice(&due);
        due.into_iter().try_for_each(|(lease, _)| self.delete_bound(lease, &mut progress.commits))
    }

    /// Deletes the keys of a lease as one change.
    fn delete_bound(&mut self, lease: LeaseId, commits: &mut Vec<Vec<Change>>) -> rusqlite::Result<()> {
        let revision = Revision(self.revision.0 + 1);
        let lease = lease.0.cast_signed();
        let changes = self
            .bound
            .query_map([lease], |row| Ok(Change { revision, key: row.get(0)?, entry: None }))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        if !changes.is_empty() {
            self.delete_bound.execute([lease])?;
            self.revision = revision;
            commits.push(changes);
        }
        Ok(())
    }

    fn commit(
        &mut self,
        core: &Core,
        txn: Txn,
        now: Duration,
        commits: &mut Vec<Vec<Change>>,
    ) -> rusqlite::Result<Result<Committed, StoreError>> {
        let mut places = Vec::with_capacity(txn.compares.len());
        for compare in &txn.compares {
            let (holds, place) = self.judge(compare)?;
            if !holds {
                return Ok(Ok(Committed::Conflict(self.present(&txn.compares)?)));
            }
            places.push(place);
        }
        let leased = |op: &Op| match op {
            Op::Put { lease, .. } => *lease,
            Op::Delete(_) => None,
        };
        if txn.ops.iter().filter_map(leased).any(|lease| !core.leases().is_live(lease, now)) {
            return Ok(Err(StoreError::LeaseGone));
        }
        let revision = Revision(self.revision.0 + 1);
        let mut changes = Vec::with_capacity(txn.ops.len());
        for op in txn.ops {
            match op {
                Op::Put { key, value, lease } => {
                    let judged = txn.compares.iter().position(|compare| is_about(compare, &key));
                    let created = match judged.map(|index| places[index]) {
                        Some(Some(place)) => self.replace(&key, &value, lease, place, revision)?,
                        Some(None) => self.insert(&key, &value, lease, revision)?,
                        None => self.put(&key, &value, lease, revision)?,
                    };
                    let entry = Entry { key: key.clone(), value, version: revision, created, lease };
                    changes.push(Change { revision, key, entry: Some(entry) });
                }
                Op::Delete(key) => {
                    if self.delete.execute([&key])? > 0 {
                        changes.push(Change { revision, key, entry: None });
                    }
                }
            }
        }
        if !changes.is_empty() {
            self.revision = revision;
            commits.push(changes);
        }
        Ok(Ok(Committed::At(self.revision)))
    }

    /// Puts a key of which nothing is known. Most of these are new, such as events: guarded keys are known.
    fn put(
        &mut self,
        key: &str,
        value: &[u8],
        lease: Option<LeaseId>,
        revision: Revision,
    ) -> rusqlite::Result<Revision> {
        if self.insert_new.execute(params![key, sql(revision), sql_lease(lease), value])? == 1 {
            return Ok(revision);
        }
        match self.place_of(key)? {
            Some(place) => self.replace(key, value, lease, place, revision),
            // It was there a moment ago, and nobody else writes.
            None => self.insert(key, value, lease, revision),
        }
    }

    /// Puts a key that is absent. Answers the revision that created it, as the others do.
    fn insert(
        &mut self,
        key: &str,
        value: &[u8],
        lease: Option<LeaseId>,
        revision: Revision,
    ) -> rusqlite::Result<Revision> {
        self.insert.execute(params![key, sql(revision), sql_lease(lease), value])?;
        Ok(revision)
    }

    /// Puts a key that is present.
    fn replace(
        &mut self,
        key: &str,
        value: &[u8],
        lease: Option<LeaseId>,
        place: Place,
        revision: Revision,
    ) -> rusqlite::Result<Revision> {
        if place.lease == lease {
            self.update_value.execute(params![key, sql(revision), value])?;
        } else {
            self.update.execute(params![key, sql(revision), value, sql_lease(lease)])?;
        }
        Ok(place.created)
    }

    fn place_of(&mut self, key: &str) -> rusqlite::Result<Option<Place>> {
        let place =
            |row: &Row<'_>| Ok(Place { version: revision(row, 0)?, created: revision(row, 1)?, lease: lease(row, 2)? });
        self.place.query_row([key], place).optional()
    }

    /// Whether `compare` holds, and the place of its key; the place of a prefix is of no use to anybody.
    fn judge(&mut self, compare: &Compare) -> rusqlite::Result<(bool, Option<Place>)> {
        let place = match compare {
            Compare::NoneUnder(prefix) => return Ok((self.first_under(prefix)?.is_none(), None)),
            Compare::Absent(key) | Compare::Version(key, _) | Compare::Created(key, _) => self.place_of(key)?,
        };
        let holds = match compare {
            Compare::Absent(_) | Compare::NoneUnder(_) => place.is_none(),
            Compare::Version(_, version) => place.is_some_and(|place| place.version == *version),
            Compare::Created(_, created) => place.is_some_and(|place| place.created == *created),
        };
        Ok((holds, place))
    }

    fn first_under(&mut self, prefix: &str) -> rusqlite::Result<Option<Entry>> {
        let first = self.first_from.query_row([prefix], entry).optional()?;
        Ok(first.filter(|entry| entry.key.starts_with(prefix)))
    }

    fn present(&mut self, compares: &[Compare]) -> rusqlite::Result<Vec<Option<Entry>>> {
        let present = |compare: &Compare| match compare {
            Compare::NoneUnder(prefix) => self.first_under(prefix),
            Compare::Absent(key) | Compare::Version(key, _) | Compare::Created(key, _) => {
                self.entry.query_row([key], entry).optional()
            }
        };
        compares.iter().map(present).collect()
    }
}

fn is_about(compare: &Compare, key: &str) -> bool {
    !matches!(compare, Compare::NoneUnder(_)) && compare.key() == key
}

/// SQLite's integers are signed; no store lives to see revision 2^63.
pub(crate) fn sql(revision: Revision) -> i64 {
    revision.0.cast_signed()
}

fn sql_lease(lease: Option<LeaseId>) -> Option<i64> {
    lease.map(|lease| lease.0.cast_signed())
}

/// An entry from the columns key, version, created, lease, value.
pub(crate) fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: row.get(0)?,
        version: revision(row, 1)?,
        created: revision(row, 2)?,
        lease: lease(row, 3)?,
        value: Bytes::copy_from_slice(row.get_ref(4)?.as_blob()?),
    })
}

fn revision(row: &Row<'_>, column: usize) -> rusqlite::Result<Revision> {
    row.get(column).map(|revision: i64| Revision(revision.cast_unsigned()))
}

fn lease(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<LeaseId>> {
    row.get(column).map(|lease: Option<i64>| lease.map(|lease| LeaseId(lease.cast_unsigned())))
}

/// Deletes the keys that hung on leases of earlier holders, all of which are gone. Answers the revision after that.
pub(crate) fn drop_leased(connection: &mut Connection, file: &Path, last: Revision) -> Result<Revision, StoreError> {
    let mut drop_leased = || {
        let txn = connection.transaction()?;
        let next = Revision(last.0 + 1);
        let revision = if txn.execute("DELETE FROM kv WHERE lease IS NOT NULL", [])? > 0 { next } else { last };
        txn.execute("UPDATE meta SET value = ?1 WHERE name = 'revision'", [sql(revision)])?;
        txn.commit()?;
        Ok(revision)
    };
    drop_leased().map_err(|error| schema::store_error("end the leases of the last holder in", file, &error))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use windlass_clock::SystemClock;
    use windlass_store::{Store, StoreError, Txn};

    use crate::{EmbeddedStore, Options};

    #[tokio::test]
    async fn a_commit_that_fails_to_sync_is_unknown_and_ends_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), Options::new(SystemClock::real())).unwrap();
        let lease = store.grant(Duration::from_secs(60)).await.unwrap();
        store.commit(Txn::new().put("a", "1")).await.unwrap();
        let mut watch = store.watch("", store.revision().await.unwrap()).await.unwrap();
        store.core.fail_commit.store(true, Ordering::Relaxed);
        let outcome = store.commit(Txn::new().put("a", "2")).await;
        assert!(matches!(&outcome, Err(StoreError::Unknown(why)) if why.contains("state.db")), "{outcome:?}");
        store.core.fail_commit.store(false, Ordering::Relaxed);
        let refused = [
            store.commit(Txn::new().put("a", "3")).await.err(),
            store.get("a").await.err(),
            store.scan("").await.err(),
            store.watch("", windlass_store::Revision(1)).await.err(),
            store.revision().await.err(),
            store.grant(Duration::from_secs(1)).await.err(),
            store.keep_alive(lease).await.err(),
            store.revoke(lease).await.err(),
            store.backup_to(&dir.path().join("copy")).await.err(),
            watch.next().await.err(),
        ];
        for error in refused {
            assert!(matches!(&error, Some(StoreError::Unusable(why)) if why.contains("restart")), "{error:?}");
        }
        drop(store);
        let store = EmbeddedStore::open(dir.path(), Options::new(SystemClock::real())).unwrap();
        let value = store.get("a").await.unwrap().unwrap().value;
        assert!(value == "1" || value == "2", "one of the two, and usable again");
    }
}
