//! Compaction: days of many small files, or with much that is hidden, written anew. No row changes by it.

use serde::{Deserialize, Serialize};
use serde_json::json;
use windlass_blob::UploadOptions;

use crate::crowd::Crowd;
use crate::day::Day;
use crate::definition::Definition;
use crate::delta::{Action, Add, Base, CommitInfo, Outcome, Snapshot, commit_run};
use crate::error::{Result, TableError};
use crate::home::{Table, engine, metrics};
use crate::merge::{Means, gather};
use crate::run::{Around, blocking, data_key, fetch, key, put_json};

/// Tries for a day that others change meanwhile.
const TRIES: usize = 3;

/// Which days are compacted.
#[derive(Clone, Debug)]
pub struct CompactOrder {
    /// Its name, which no other run has.
    pub run: String,
    /// The first day.
    pub from: Option<Day>,
    /// The last day.
    pub to: Option<Day>,
    /// Whether every day is written anew that would get smaller, not only those that have become too scattered.
    pub all: bool,
    /// Whether to say only what would be done.
    pub dry_run: bool,
}

/// What compacting came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// Days that were written anew.
    pub days: Vec<Day>,
    /// Days that others changed meanwhile, each time it was tried; they are as good as before.
    pub busy: Vec<Day>,
    /// Data files that left the table.
    pub files_removed: usize,
    /// Data files that came.
    pub files_added: usize,
    /// Rows that were hidden and are not stored any more.
    pub rows_dropped: u64,
    /// Bytes of the files that left.
    pub bytes_read: u64,
    /// Bytes of the files that came.
    pub bytes_written: u64,
    /// The last version that it made.
    pub version: Option<i64>,
}

/// Compacts the days that need it, each in a commit of its own. May be repeated at any point; others may write to the
/// table meanwhile.
///
/// # Errors
///
/// That the table was dropped, damage, and whatever the disk and the store say.
pub async fn compact(table: &Table, order: &CompactOrder, around: &Around) -> Result<Compacted> {
    check_name(&order.run)?;
    let snapshot = table.snapshot().await?;
    let definition = snapshot.definition()?;
    let wanted = |day: &Day, files: &[Add], definition: &Definition| {
        let crowd = Crowd::of(files, definition);
        order.from.is_none_or(|from| *day >= from)
            && order.to.is_none_or(|to| *day <= to)
            && (crowd.is_too_much() || order.all && crowd.can_shrink())
    };
    let by_day = snapshot.by_day()?;
    let days: Vec<Day> =
        by_day.iter().filter(|(day, files)| wanted(day, files, &definition)).map(|(day, _)| *day).collect();
    let mut done = Compacted::default();
    if order.dry_run {
        for day in days {
            let files = &by_day[&day];
            done.files_removed += files.len();
            done.rows_dropped += files.iter().map(Add::hidden).sum::<u64>();
            done.bytes_read += files.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum::<u64>();
            done.days.push(day);
        }
        return Ok(done);
    }
    for day in days {
        let mut tries = 0;
        loop {
            (around.go_on)()?;
            let snapshot = table.snapshot().await?;
            let definition = snapshot.definition()?;
            let files: Vec<Add> = snapshot.of_day(day).into_iter().cloned().collect();
            // Somebody else may have done it meanwhile, or an earlier attempt at this.
            if !wanted(&day, &files, &definition) {
                break;
            }
            if one(table, &snapshot, &definition, (day, &files), order, around, &mut done).await? {
                break;
            }
            tries += 1;
            if tries == TRIES {
                done.busy.push(day);
                break;
            }
        }
    }
    Ok(done)
}

/// Compacts a day. Says whether it was committed.
async fn one(
    table: &Table,
    snapshot: &Snapshot,
    definition: &Definition,
    (day, files): (Day, &[Add]),
    order: &CompactOrder,
    around: &Around,
    done: &mut Compacted,
) -> Result<bool> {
    let attempt = around.entropy.next_u64();
    let folder = around.folder(&format!("compact-{}-{day}-{attempt:016x}", order.run))?;
    let mut base = Vec::with_capacity(files.len());
    for add in files {
        base.push(fetch(table, add, around).await?);
    }
    let written = {
        let (definition, folder, entropy, go_on) =
            (definition.clone(), folder.clone(), around.entropy.clone(), around.go_on.clone());
        let memory = around.memory;
        blocking(move || {
            let means = Means { folder: &folder, entropy: &*entropy, memory, go_on: &*go_on };
            gather(&base, &definition, &definition.shape(), &means)
        })
        .await?
    };
    let named: Vec<_> = written.into_iter().map(|file| (data_key(day, around.entropy.next_u128()), file)).collect();
    // Written down before they exist: whoever cleans up knows that they are not strangers, and deletes them if this dies.
    let journal = key(&order.run, &format!("names/{day}-{attempt:016x}.json"));
    let keys: Vec<&String> = named.iter().map(|(key, _)| key).collect();
    put_json(table, &journal, &keys).await?;
    let now = around.now_ms();
    let mut adds = Vec::with_capacity(named.len());
    for (key, file) in &named {
        (around.go_on)()?;
        table.store().move_file(&file.file, key, UploadOptions::default()).await?;
        adds.push(Add { data_change: false, ..Table::add(day, key, file.bytes, &file.stats, now)? });
    }
    let hidden: u64 = files.iter().map(Add::hidden).sum();
    let size = |adds: &[Add]| adds.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum::<u64>();
    let id = format!("{}-{day}-{attempt:016x}", order.run);
    let mut actions = vec![Action::CommitInfo(CommitInfo {
        timestamp: now,
        operation: "COMPACT".to_owned(),
        engine_info: Some(engine()),
        txn_id: Some(id.clone()),
        run_id: Some(order.run.clone()),
        operation_metrics: metrics(json!({
            "day": day,
            "files_removed": files.len(),
            "files_added": adds.len(),
            "rows_dropped": hidden,
            "bytes_read": size(files),
            "bytes_written": size(&adds),
        })),
    })];
    actions.extend(files.iter().map(|add| Action::Remove(Box::new(add.removed(now, false)))));
    actions.extend(adds.iter().cloned().map(|add| Action::Add(Box::new(add))));
    let base = Base { version: snapshot.version, progress: None, fixed: Vec::new(), run: id };
    let outcome = commit_run(table.log(), &base, &actions).await?;
    let _ = std::fs::remove_dir_all(&folder);
    let (Outcome::Committed(version) | Outcome::Already(version)) = outcome else {
        for (key, _) in &named {
            table.store().delete(key).await?;
        }
        table.store().delete(&journal).await?;
        return Ok(false);
    };
    table.store().delete(&journal).await?;
    done.days.push(day);
    done.files_removed += files.len();
    done.files_added += adds.len();
    done.rows_dropped += hidden;
    done.bytes_read += size(files);
    done.bytes_written += size(&adds);
    done.version = Some(version);
    Ok(true)
}

impl CompactOrder {
    /// All days that need it.
    #[must_use]
    pub fn new(run: impl Into<String>) -> Self {
        Self { run: run.into(), from: None, to: None, all: false, dry_run: false }
    }
}

/// Whether a run can have this name, which becomes part of keys.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        return Err(TableError::invalid(format!("{name:?} cannot name a run: letters, digits, `-`, `_` and `.`")));
    }
    Ok(())
}
