//! Vacuum: deletes files that no version needs any more which somebody may still read.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::compact::check_name;
use crate::delta::{Action, DeletionVector, TableLog as _};
use crate::error::{Result, TableError};
use crate::expire::expire;
use crate::home::Table;
use crate::past::Past;
use crate::pins::{pins, store_now};
use crate::run::{Around, RUNS, get_json, put_json};

/// Where a vacuum says that it is under way.
const UNDER_WAY: &str = "_windlass/vacuum/";
/// Then a vacuum is taken for dead, in milliseconds. One that lives gives up long before.
const DEAD: i64 = 24 * 3_600_000;
const LONGEST: i64 = 12 * 3_600_000;
/// What was replaced is kept for so long unless the table or the order says otherwise.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// Names that are told of.
const NAMES: usize = 1000;

/// What is deleted.
#[derive(Clone, Debug)]
pub struct VacuumOrder {
    /// Its name, which no other run has.
    pub run: String,
    /// Files stay for so long after they were replaced; `None`: seven days. Readers that have begun longer ago and hold no
    /// pin may fail.
    pub retention: Option<Duration>,
    /// Files that the table has never named stay for so long, because somebody may be about to name them.
    pub strangers: Duration,
    /// Whether to say only what would be done.
    pub dry_run: bool,
}

impl VacuumOrder {
    /// With the usual times.
    #[must_use]
    pub fn new(run: impl Into<String>) -> Self {
        Self { run: run.into(), retention: None, strangers: Duration::from_secs(86_400), dry_run: false }
    }
}

/// What a vacuum came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vacuumed {
    /// Files that were deleted.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their keys, the first thousand.
    pub keys: Vec<String>,
    /// Files that only pins hold.
    pub pinned: u64,
    /// Entries of the table's own log that were deleted.
    #[serde(default)]
    pub entries: u64,
    /// The oldest version that can be read from now on, beside pinned ones.
    pub oldest_version: i64,
}

#[derive(Serialize, Deserialize)]
struct Intent {
    /// What was replaced before this is deleted, by the store's clock, in milliseconds since 1970.
    before: i64,
}

/// Up to when vacuums that are under way delete.
pub(crate) async fn under_way(table: &Table) -> Result<Option<i64>> {
    let mut latest = None;
    for entry in table.store().list(UNDER_WAY).await?.entries {
        if let Some(intent) = get_json::<Intent>(table, &entry.key).await? {
            latest = latest.max(Some(intent.before));
        }
    }
    Ok(latest)
}

/// Deletes files of the table's place that no version needs which was read within the retention or is pinned. Names that
/// begin with `_` are never touched. Others may read and write meanwhile. Safe to repeat.
///
/// # Errors
///
/// That the table was dropped, and whatever the store says; what was deleted until then stays deleted.
pub async fn vacuum(table: &Table, order: &VacuumOrder, around: &Around) -> Result<Vacuumed> {
    check_name(&order.run)?;
    table.snapshot().await?;
    let started = store_now(table).await?;
    let before = started.saturating_sub(millis(order.retention.unwrap_or(KEPT)));
    for entry in table.store().list(UNDER_WAY).await?.entries {
        if entry.meta.modified.as_millisecond() < started - DEAD {
            table.store().delete(&entry.key).await?;
        }
    }
    if order.dry_run {
        return Ok(look(table, order, around, started, before).await?.0);
    }
    // Written down before the pins are read, so that whoever pins a version meanwhile knows what is about to go.
    let intent = format!("{UNDER_WAY}{}.json", order.run);
    put_json(table, &intent, &Intent { before }).await?;
    let done = delete(table, order, around, started, before).await;
    table.store().delete(&intent).await?;
    let mut done = done?;
    done.entries = expire(table, around).await?;
    Ok(done)
}

async fn delete(table: &Table, order: &VacuumOrder, around: &Around, started: i64, before: i64) -> Result<Vacuumed> {
    let (mut done, keys) = look(table, order, around, started, before).await?;
    (done.files, done.bytes) = (0, 0);
    let begun = around.clock.monotonic();
    for (key, bytes) in keys {
        (around.go_on)()?;
        if millis(around.clock.monotonic().saturating_sub(begun)) > LONGEST {
            return Err(TableError::Changed(format!(
                "the vacuum of {} takes longer than anybody waits for one; {} files are deleted, repeat it for the rest",
                table.descriptor().name,
                done.files
            )));
        }
        table.store().delete(&key).await?;
        done.files += 1;
        done.bytes += bytes;
    }
    Ok(done)
}

/// What is to be deleted.
async fn look(
    table: &Table,
    order: &VacuumOrder,
    around: &Around,
    started: i64,
    before: i64,
) -> Result<(Vacuumed, Vec<(String, u64)>)> {
    // In this order: what is in the place, what somebody is about to name, what is named. So what was in the place and is
    // not named any more when that is read was named by nobody in between.
    let mut there = Vec::new();
    let mut pages = table.store().list_pages("");
    while let Some(page) = pages.next_page().await? {
        (around.go_on)()?;
        there.extend(page.into_iter().filter(|entry| is_ours(&entry.key)));
    }
    let mut needed = announced(table).await?;
    let past = Past::read(table).await?;
    if !past.reaches(before) {
        return Err(TableError::invalid(format!(
            "the log of {} does not go back so far that it could say which files were needed then; keep them for less \
             long, or set delta.logRetentionDuration before it is too late for what comes",
            table.descriptor().name
        )));
    }
    let oldest = past.oldest_needed(before);
    let snapshot = table.log().at(Some(oldest)).await?;
    needed.extend(snapshot.objects());
    let mut version = oldest;
    while let Some(actions) = table.log().entry(version + 1).await? {
        (around.go_on)()?;
        needed.extend(named(&actions));
        version += 1;
    }
    let now = table.snapshot().await?;
    needed.extend(now.objects());
    let mut pinned = BTreeSet::new();
    for pin in pins(table).await?.into_iter().filter(|pin| pin.until_ms() > started && pin.version < oldest) {
        (around.go_on)()?;
        pinned.extend(table.log().at(Some(pin.version)).await?.objects());
    }
    let mut known: BTreeSet<String> = BTreeSet::new();
    for remove in now.removed.values() {
        known.insert(remove.key());
        known.extend(remove.deletion_vector.as_ref().and_then(DeletionVector::key));
    }
    let young = started.saturating_sub(millis(order.strangers));
    let mut done = Vacuumed { oldest_version: oldest, ..Vacuumed::default() };
    let mut keys = Vec::new();
    for entry in there {
        if needed.contains(&entry.key) {
            continue;
        }
        if pinned.contains(&entry.key) {
            done.pinned += 1;
            continue;
        }
        if !known.contains(&entry.key) && entry.meta.modified.as_millisecond() > young {
            continue;
        }
        done.files += 1;
        done.bytes += entry.meta.size;
        if done.keys.len() < NAMES {
            done.keys.push(entry.key.clone());
        }
        keys.push((entry.key, entry.meta.size));
    }
    Ok((done, keys))
}

/// Whether an object is one of those that vacuum may delete at all.
fn is_ours(key: &str) -> bool {
    !key.split('/').any(|part| part.starts_with('_') || part.starts_with('.'))
}

/// Objects that runs have written down and may not have committed yet.
async fn announced(table: &Table) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut pages = table.store().list_pages(&format!("{RUNS}/"));
    while let Some(page) = pages.next_page().await? {
        for entry in page.into_iter().filter(|entry| entry.key.contains("/names/")) {
            names.extend(get_json::<Vec<String>>(table, &entry.key).await?.unwrap_or_default());
        }
    }
    Ok(names)
}

fn named(actions: &[Action]) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for action in actions {
        if let Action::Add(add) = action {
            keys.insert(add.key());
            keys.extend(add.deletion_vector.as_ref().and_then(DeletionVector::key));
        }
    }
    keys
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
