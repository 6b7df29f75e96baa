//! What is left of runs: of the one that has ended, and of those that never came to their end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::delta::{Action, DeletionVector, Snapshot};
use crate::error::{Result, TableError};
use crate::home::Table;
use crate::log::{Kept, trim};
use crate::plan::RunPlan;
use crate::run::{Around, RUNS, blocking, get_json, key};

/// A run that has written nothing for so long is not gone on with: it was only looked at, or its job was given up.
const LEFT_OVER_SECONDS: i64 = 7 * 86_400;

/// What cleaning up after a run came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trimmed {
    /// What is left of the log.
    pub log: Kept,
    /// Objects that the run had made and not committed.
    pub deleted_outputs: u64,
}

/// Deletes what nobody needs after a run, whether it was committed or not: segments of the log, objects that were not
/// committed, and what its steps handed on.
///
/// # Errors
///
/// Whatever the disk and the store say; repeating goes on.
pub async fn clean(table: &Table, run: &str, shard: u32, around: &Around) -> Result<Trimmed> {
    let mut trimmed = clean_one(table, run, shard, around).await?;
    for (left, of) in left_over(table, around).await? {
        trimmed.deleted_outputs += clean_one(table, &left, of.unwrap_or(shard), around).await?.deleted_outputs;
    }
    forget_unfinished(&table.dead_folder(shard), around)?;
    Ok(trimmed)
}

async fn clean_one(table: &Table, run: &str, shard: u32, around: &Around) -> Result<Trimmed> {
    let snapshot = table.snapshot().await?;
    let (checkpoint, cutoff) = table.progress(&snapshot, shard);
    let plan: Option<RunPlan> = get_json(table, &key(run, "plan.json")).await?;
    let committed = committed(table, &snapshot, run, plan.as_ref()).await?;
    settle_dead_letters(table, run, shard, plan.as_ref().filter(|_| committed.is_some()))?;
    // What was in the table and left it is for vacuum, even if nobody can tell any more who had committed it.
    let (kept, there) = (committed.unwrap_or_default(), snapshot.known_objects());
    let mut deleted_outputs = 0;
    for entry in table.store().list(&key(run, "names/")).await?.entries {
        let names: Vec<String> = get_json(table, &entry.key).await?.unwrap_or_default();
        // What is in the table now counts as committed whatever else is known.
        for name in names.iter().filter(|name| !kept.contains(*name) && !there.contains(*name)) {
            (around.go_on)()?;
            table.store().delete(name).await?;
            deleted_outputs += 1;
        }
    }
    let (folder, identity) = (table.log_folder(shard)?, table.identity(shard)?);
    let log = blocking(move || trim(folder, identity, checkpoint, cutoff)).await?;
    // The plan goes last: it says what is left to be done here.
    let (plans, rest): (Vec<_>, Vec<_>) = table
        .store()
        .list(&key(run, ""))
        .await?
        .entries
        .into_iter()
        .partition(|entry| entry.key.ends_with("/plan.json"));
    for entry in rest.into_iter().chain(plans) {
        table.store().delete(&entry.key).await?;
    }
    let _ = std::fs::remove_dir_all(around.work.join(format!("plan-{run}")));
    Ok(Trimmed { log, deleted_outputs })
}

/// The objects that a run has committed; `None`: it has not.
async fn committed(
    table: &Table,
    snapshot: &Snapshot,
    run: &str,
    plan: Option<&RunPlan>,
) -> Result<Option<BTreeSet<String>>> {
    use crate::delta::TableLog as _;
    let Some(plan) = plan else { return Ok(None) };
    for version in plan.base_version + 1..=snapshot.version {
        let actions = table.log().entry(version).await?.unwrap_or_default();
        let ours = actions
            .iter()
            .any(|action| matches!(action, Action::CommitInfo(info) if info.txn_id.as_deref() == Some(run)));
        if ours {
            let mut keys = BTreeSet::new();
            for action in &actions {
                if let Action::Add(add) = action {
                    keys.insert(add.key());
                    keys.extend(add.deletion_vector.as_ref().and_then(DeletionVector::key));
                }
            }
            return Ok(Some(keys));
        }
    }
    Ok(None)
}

/// Rows that a committed run did not merge get a name that says where they lie in the log; others are forgotten.
fn settle_dead_letters(table: &Table, run: &str, shard: u32, plan: Option<&RunPlan>) -> Result<()> {
    let folder = table.dead_folder(shard);
    let file = folder.join(format!(".{run}"));
    let done = match plan {
        Some(plan) => {
            let (from, to) = (plan.window.from.0, plan.window.to.0);
            std::fs::rename(&file, folder.join(format!("{from:016x}-{to:016x}.jsonl")))
        }
        None => std::fs::remove_file(&file),
    };
    match done {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TableError::disk("settle", file)(error)),
        _ => Ok(()),
    }
}

/// Runs that nobody goes on with, and their shards.
async fn left_over(table: &Table, around: &Around) -> Result<Vec<(String, Option<u32>)>> {
    let oldest = around.clock.wall().as_second() - LEFT_OVER_SECONDS;
    let mut runs: BTreeMap<String, bool> = BTreeMap::new();
    for entry in table.store().list(&format!("{RUNS}/")).await?.entries {
        let name = entry.key.strip_prefix(RUNS).and_then(|rest| rest.trim_start_matches('/').split('/').next());
        let old = entry.meta.modified.as_second() < oldest;
        if let Some(name) = name {
            *runs.entry(name.to_owned()).or_insert(true) &= old;
        }
    }
    let mut left = Vec::new();
    for (run, _) in runs.into_iter().filter(|(_, old)| *old) {
        let plan: Option<RunPlan> = get_json(table, &key(&run, "plan.json")).await?;
        left.push((run, plan.map(|plan| plan.shard)));
    }
    Ok(left)
}

/// Removes dead letters of runs that were never committed.
fn forget_unfinished(folder: &Path, around: &Around) -> Result<()> {
    let oldest = around.clock.wall().as_second() - LEFT_OVER_SECONDS;
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(TableError::disk("list", folder))?,
    };
    for entry in entries {
        let path = entry.map_err(TableError::disk("list", folder))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
        let modified = modified.ok().and_then(|at| jiff::Timestamp::try_from(at).ok());
        if hidden && modified.is_some_and(|at| at.as_second() < oldest) {
            std::fs::remove_file(&path).map_err(TableError::disk("remove", &path))?;
        }
    }
    Ok(())
}
