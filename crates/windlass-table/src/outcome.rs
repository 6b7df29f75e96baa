//! What a run came to, day by day and in all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::day::Day;
use crate::delta::Add;
use crate::fold::Effects;
use crate::plan::RunPlan;

/// What merging a day came to, as the commit needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DayResult {
    /// The day.
    pub day: Day,
    /// The plan that it was merged by.
    #[serde(default)]
    pub plan: String,
    /// Files that go, if any do; also those of which other rows count from now on.
    pub removes: Vec<Add>,
    /// Files that come, new ones first; also those of which other rows count from now on.
    pub adds: Vec<Add>,
    /// Objects that were made for it, in the order in which they were announced.
    #[serde(default)]
    pub objects: Vec<Object>,
    /// What happened to the keys.
    pub effects: Effects,
    /// Rows that were older than what is stored.
    pub stale: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
}

/// An object that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its key in the table's place.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
}

impl DayResult {
    /// Whether the day changes.
    #[must_use]
    pub fn changes(&self) -> bool {
        !self.adds.is_empty() || !self.removes.is_empty()
    }

    /// Bytes of what was made for it.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.objects.iter().map(|object| object.bytes).sum()
    }

    /// Data files that are new, and those that go.
    fn files(&self) -> (usize, usize) {
        let stays = self.adds.iter().filter(|add| self.removes.iter().any(|gone| gone.path == add.path)).count();
        (self.adds.len() - stays, self.removes.len() - stays)
    }
}

/// The counters of a run.
pub(crate) fn counters(plan: &RunPlan, results: &[DayResult]) -> Value {
    let mut by_day: BTreeMap<Day, Effects> = plan.effects.clone().unwrap_or_default();
    if plan.effects.is_none() {
        by_day.extend(results.iter().map(|result| (result.day, result.effects.clone())));
    }
    let mut all = Effects::default();
    by_day.values().for_each(|effects| all.add(effects));
    let rewritten: Vec<Day> = results.iter().filter(|result| result.changes()).map(|result| result.day).collect();
    let mut counts = plan.counts.clone();
    if plan.effects.is_none() {
        counts.stale += results.iter().map(|result| result.stale).sum::<u64>();
    }
    let (added, removed) = results.iter().map(DayResult::files).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    let hidden = results.iter().flat_map(|result| &result.adds).filter(|add| add.deletion_vector.is_some()).count();
    json!({
        "rows": counts,
        "keys": all,
        "by_day": by_day,
        "days_affected": by_day.len(),
        "days_rewritten": rewritten,
        "files_added": added,
        "files_removed": removed,
        "files_hiding": hidden,
        "bytes_read": results.iter().map(|result| result.bytes_read).sum::<u64>(),
        "bytes_written": results.iter().map(DayResult::bytes_written).sum::<u64>(),
        "log_bytes": plan.log_bytes,
        "batches": plan.batches,
        "from_lsn": plan.window.from,
        "to_lsn": plan.window.to,
        "base_version": plan.base_version,
    })
}
