//! How many deletes are allowed at once (P12).

use std::collections::HashMap;

use super::trust::Views;
use crate::settings::{Freeze, NodeIx};
use crate::world::World;

/// What is left of the deletes that are allowed.
#[derive(Debug)]
pub(super) struct Budget {
    /// By node.
    left: Vec<u64>,
    left_total: u64,
    /// Copies are held back too.
    pub(super) frozen: bool,
    /// A person holds deletes back.
    pub(super) deletes_frozen: bool,
    /// What was left to later, by node.
    pub(super) held_back: HashMap<NodeIx, u64>,
}

impl Budget {
    pub(super) fn of(world: &World, views: &Views<'_>, clock_doubt: bool) -> Self {
        let settings = &world.settings;
        let part = |files: u64, percent: u32, least: u32| (files * u64::from(percent) / 100).max(u64::from(least));
        let none = clock_doubt || settings.freeze != Freeze::No;
        let mut left = vec![0; world.nodes.len()];
        let mut files = 0;
        for place in &views.trusted {
            let held = views.view(*place).map_or(0, |view| view.len() as u64);
            files += held;
            left[place.index()] = part(held, settings.max_deletes_percent, settings.max_deletes_least);
        }
        let mut left_total = part(files, settings.max_deletes_total_percent, settings.max_deletes_total_least);
        if none {
            left.fill(0);
            left_total = 0;
        }
        Self {
            left,
            left_total,
            frozen: settings.freeze == Freeze::All,
            deletes_frozen: settings.freeze != Freeze::No,
            held_back: HashMap::new(),
        }
    }

    /// How many files may still be deleted on a node.
    pub(super) fn left(&self, place: NodeIx) -> u64 {
        self.left[place.index()].min(self.left_total)
    }

    /// Takes one delete; false and noted if none is left.
    pub(super) fn spend(&mut self, place: NodeIx) -> bool {
        if self.left(place) == 0 {
            *self.held_back.entry(place).or_default() += 1;
            return false;
        }
        self.left[place.index()] -= 1;
        self.left_total -= 1;
        true
    }

    pub(super) fn alarms(&self, world: &World) -> Vec<String> {
        let total: u64 = self.held_back.values().sum();
        if total == 0 {
            return Vec::new();
        }
        let most = self.held_back.iter().max_by_key(|(place, count)| (**count, std::cmp::Reverse(**place)));
        let most = most.map(|(place, _)| world.fleet[*place].addr.as_str()).unwrap_or_default();
        let why = match world.settings.freeze {
            Freeze::No => "the limit of deletes at once is reached",
            Freeze::Deletes | Freeze::All => "deletes are frozen",
        };
        vec![format!("{total} deletes are left to later, most on {most}: {why}")]
    }
}
