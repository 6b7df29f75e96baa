//! Which workers there are, and what each of them can run.
//!
//! A worker announces itself under a key that is bound to its lease. Everybody who has to know follows those keys
//! and keeps a roster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use windlass_model::WorkerId;
use windlass_model::plan::TaskSpec;
use windlass_store::{Change, Entry, keys};

use crate::bell::Bell;
use crate::records::decode;

/// Names of workers that are gone, kept for log entries.
const REMEMBERED: usize = 256;

/// A worker, as it announces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// The worker.
    pub id: WorkerId,
    /// What people call it.
    pub name: String,
    /// The machine it runs on.
    #[serde(default)]
    pub host: String,
    /// The process on that machine.
    #[serde(default)]
    pub pid: u32,
    /// When it announced itself. A worker that lost its lease does so anew.
    pub started: Timestamp,
    /// What tasks can ask for: `site` = `b`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The types of tasks it has code for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub task_types: BTreeSet<String>,
    /// Tasks that it runs at a time.
    #[serde(default)]
    pub places: usize,
    /// Whether it takes up jobs and runs tasks; else it only submits and commands.
    #[serde(default)]
    pub takes_up: bool,
    /// The version of the program.
    #[serde(default)]
    pub version: String,
}

impl Presence {
    /// Whether it can run a task.
    #[must_use]
    pub fn can_run(&self, spec: &TaskSpec) -> bool {
        self.takes_up && self.can_run_type(&spec.task_type, &spec.needs)
    }

    pub(crate) fn can_run_type(&self, task_type: &str, needs: &BTreeMap<String, String>) -> bool {
        self.task_types.contains(task_type) && needs.iter().all(|(label, value)| self.labels.get(label) == Some(value))
    }
}

/// The name of this machine, as far as it is known.
pub(crate) fn host_name() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let told = told.or_else(|| std::env::var("HOSTNAME").ok()).map(|name| name.trim().to_owned());
    told.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

/// What a task demands of a worker, in words: `type T with site=b`.
pub(crate) fn demand(spec: &TaskSpec) -> String {
    let needs: Vec<String> = spec.needs.iter().map(|(label, value)| format!("{label}={value}")).collect();
    let with = if needs.is_empty() { String::new() } else { format!(" with {}", needs.join(", ")) };
    format!("type {}{with}", spec.task_type)
}

#[derive(Debug, Default)]
struct Known {
    present: BTreeMap<WorkerId, Presence>,
    gone: BTreeMap<WorkerId, String>,
}

/// The workers that are present.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    known: Mutex<Known>,
    /// Rings when somebody comes or goes.
    pub(crate) changed: Bell,
}

impl Roster {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Each use is one insert, remove or look-up.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in who is present, as listed.
    pub(crate) fn list(&self, entries: &[Entry]) {
        let present = entries.iter().filter_map(|entry| decode::<Presence>(entry).ok());
        let present: BTreeMap<WorkerId, Presence> = present.map(|presence| (presence.id, presence)).collect();
        let mut known = self.known();
        if known.present == present {
            return;
        }
        let before = std::mem::replace(&mut known.present, present);
        for (id, presence) in before {
            known.remember(id, presence.name);
        }
        drop(known);
        self.changed.ring();
    }

    /// Takes in a change.
    pub(crate) fn apply(&self, change: &Change) {
        let mut known = self.known();
        match &change.entry {
            Some(entry) => {
                let Ok(presence) = decode::<Presence>(entry) else { return };
                known.present.insert(presence.id, presence);
            }
            None => {
                let Some(id) = keys::last_part(&change.key) else { return };
                let Some(presence) = known.present.remove(&id) else { return };
                known.remember(id, presence.name);
            }
        }
        drop(known);
        self.changed.ring();
    }

    /// Whether anybody but `me` runs tasks.
    pub(crate) fn has_others(&self, me: WorkerId) -> bool {
        self.known().present.values().any(|presence| presence.id != me && presence.takes_up)
    }

    /// Places of the others that can run such a task.
    pub(crate) fn places_elsewhere(&self, me: WorkerId, spec: &TaskSpec) -> usize {
        let known = self.known();
        let others = known.present.values().filter(|presence| presence.id != me && presence.can_run(spec));
        others.map(|presence| presence.places).sum()
    }

    /// What people call a worker, also one that has just gone.
    pub(crate) fn name(&self, id: WorkerId) -> String {
        let known = self.known();
        let name = known.present.get(&id).map(|presence| &presence.name).or_else(|| known.gone.get(&id));
        name.cloned().unwrap_or_else(|| id.to_string())
    }
}

impl Known {
    fn remember(&mut self, id: WorkerId, name: String) {
        self.gone.insert(id, name);
        while self.gone.len() > REMEMBERED {
            self.gone.pop_first();
        }
    }
}
