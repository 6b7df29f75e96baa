//! Old entries of the table's own log: they go when a checkpoint stands for them and nobody needs them any more.
//!
//! What is needed: the versions of the last thirty days (or of `delta.logRetentionDuration`), those that are pinned, and
//! those that runs rest on which are under way. The checkpoint that they begin with stays, and everything behind it.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::delta::Snapshot;
use crate::error::{Result, TableError};
use crate::home::Table;
use crate::past::Past;
use crate::pins::pins;
use crate::run::{Around, RUNS, get_json, key};

/// Entries are kept for so long, in milliseconds, unless the table says otherwise.
const KEPT: i64 = 30 * 86_400_000;
/// Set to `false` by whoever wants all entries kept.
const CLEANUP: &str = "delta.enableExpiredLogCleanup";
/// For how long entries are kept.
const RETENTION: &str = "delta.logRetentionDuration";

/// For how long a table keeps its entries, in milliseconds; `None`: for ever, or nobody knows.
pub(crate) fn kept(snapshot: &Snapshot) -> Option<i64> {
    let configuration = &snapshot.metadata.as_ref()?.configuration;
    if configuration.get(CLEANUP).is_some_and(|value| value.eq_ignore_ascii_case("false")) {
        return None;
    }
    configuration.get(RETENTION).map_or(Some(KEPT), |text| interval(text))
}

/// `interval 30 days`, as other programs write it, in milliseconds.
fn interval(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let mut words = text.strip_prefix("interval").unwrap_or(&text).split_whitespace();
    let (number, unit) = (words.next()?.parse::<i64>().ok()?, words.next()?);
    let unit: i64 = match unit.trim_end_matches('s') {
        "millisecond" => 1,
        "second" => 1_000,
        "minute" => 60_000,
        "hour" => 3_600_000,
        "day" => 86_400_000,
        "week" => 7 * 86_400_000,
        _ => return None,
    };
    (number >= 0 && words.next().is_none()).then(|| number.saturating_mul(unit))
}

/// Deletes the entries and checkpoints that nobody needs. Returns how many entries those were. Others may read and write
/// meanwhile, and it may be cut short anywhere.
///
/// # Errors
///
/// That the table was dropped, and whatever the store says; the table is as good without it.
pub async fn expire(table: &Table, around: &Around) -> Result<u64> {
    let snapshot = table.snapshot().await?;
    let Some(kept) = kept(&snapshot) else { return Ok(0) };
    let files = table.log().files().await?;
    let past = Past::of(files.entries.clone());
    // The newest entry is not younger than now: by it no more is deleted than by the clock.
    let Some(newest) = past.newest() else { return Ok(0) };
    let mut needed = past.oldest_needed(newest.saturating_sub(kept));
    let begin = |needed: i64| files.checkpoints.range(..=needed.min(snapshot.version)).next_back().copied();
    let goes = |version: i64| files.entries.iter().any(|(entry, _)| *entry < version);
    if begin(needed).is_none_or(|begin| !goes(begin)) {
        return Ok(0);
    }
    for pin in pins(table).await? {
        // One that has ended by the newest entry may be prolonged by a clock that is behind: it is kept a while longer.
        if pin.until_ms().saturating_add(kept) > newest {
            needed = needed.min(pin.version);
        }
    }
    needed = needed.min(under_way(table).await?.unwrap_or(i64::MAX));
    let Some(begin) = begin(needed) else { return Ok(0) };
    let mut deleted = 0;
    let mut old: BTreeSet<i64> = files.entries.iter().map(|(version, _)| *version).collect();
    old.extend(&files.checkpoints);
    for version in old.range(..begin) {
        (around.go_on)()?;
        // The oldest first: what is left is always a log that goes back to some version.
        table.log().forget(*version).await?;
        deleted += 1;
    }
    Ok(deleted)
}

#[derive(Deserialize)]
struct Base {
    base_version: i64,
}

/// The oldest version that a run rests on which is under way.
async fn under_way(table: &Table) -> Result<Option<i64>> {
    let listing = table.store().list(&format!("{RUNS}/")).await?;
    if !listing.complete {
        return Err(TableError::invalid("too many runs are under way to look at them all"));
    }
    let names = listing.entries.iter().filter_map(|entry| {
        let name = entry.key.strip_prefix(RUNS)?.trim_start_matches('/').split('/').next()?;
        entry.key.ends_with("/plan.json").then(|| name.to_owned())
    });
    let mut oldest: Option<i64> = None;
    for name in names.collect::<BTreeSet<_>>() {
        if let Some(plan) = get_json::<Base>(table, &key(&name, "plan.json")).await? {
            oldest = Some(oldest.map_or(plan.base_version, |oldest| oldest.min(plan.base_version)));
        }
    }
    Ok(oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_other_programs_write_them() {
        assert_eq!(interval("interval 30 days"), Some(KEPT));
        assert_eq!(interval("INTERVAL 1 week"), Some(7 * 86_400_000));
        assert_eq!(interval("interval 90 minutes"), Some(5_400_000));
        for odd in ["", "interval", "interval x days", "interval 1 month", "interval -1 days", "interval 1 day 2 hours"]
        {
            assert_eq!(interval(odd), None, "{odd}");
        }
    }
}
