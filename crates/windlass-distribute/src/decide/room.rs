//! Room on a node: what goes when it is above its limit (P6), and what could go for a better file (P11).

use std::collections::BinaryHeap;

use super::{Reason, Work};
use crate::name::FileId;
use crate::settings::NodeIx;

/// Files of a node that may go for room, worst first. Nothing is sorted that is not asked for.
#[derive(Debug)]
pub(super) struct Victims {
    /// Rank above, file below, not looked at yet.
    heap: BinaryHeap<(u32, FileId)>,
    /// Those that may go, worst first: rank, file, and the sum of sizes up to and with it.
    ready: Vec<(u32, FileId, i64)>,
    /// So many of `ready` are gone.
    used: usize,
}

/// Which files have to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    end: usize,
    pub(super) bytes: i64,
}

impl Victims {
    pub(super) fn of(work: &Work<'_>, place: NodeIx) -> Self {
        let gone = &work.gone[place.index()];
        let catalogue = &work.world.catalogue;
        let listed = work.views.view(place).map_or(&[][..], |view| view.ids());
        let rows = listed.iter().filter(|file| gone.is_empty() || !gone.contains(file));
        let rows = rows.map(|file| (catalogue.rank(*file), *file)).filter(|(rank, _)| *rank > 0);
        Self { heap: rows.collect::<Vec<_>>().into(), ready: Vec::new(), used: 0 }
    }

    /// The worst files, all worse than rank `better_than`, that have at least `need` bytes together. `Err`: the bytes
    /// that they have, which are fewer.
    pub(super) fn worth(&mut self, work: &Work<'_>, place: NodeIx, need: i64, better_than: u32) -> Result<Prefix, i64> {
        let base = self.used.checked_sub(1).map_or(0, |last| self.ready[last].2);
        let target = base.saturating_add(need);
        while self.ready.last().map_or(0, |(.., sum)| *sum) < target {
            match self.heap.peek() {
                Some((rank, _)) if *rank > better_than => {}
                _ => break,
            }
            let Some((rank, file)) = self.heap.pop() else { break };
            if work.deletable(file) && !work.rising.has(file) && !work.protected(place, file) {
                let before = self.ready.last().map_or(0, |(.., sum)| *sum);
                self.ready.push((rank, file, before + work.world.size(file)));
            }
        }
        let open = &self.ready[self.used..];
        let worse = open.partition_point(|(rank, ..)| *rank > better_than);
        let reached = open[..worse].partition_point(|(.., sum)| *sum < target);
        if need > 0 && reached == worse {
            return Err(worse.checked_sub(1).map_or(0, |last| open[last].2 - base));
        }
        let end = self.used + if need > 0 { reached + 1 } else { 0 };
        let bytes = if need > 0 { open[reached].2 - base } else { 0 };
        Ok(Prefix { end, bytes })
    }

    /// How many files a prefix takes.
    pub(super) fn count(&self, prefix: Prefix) -> u64 {
        (prefix.end - self.used) as u64
    }

    /// All that could be found, as far as it goes.
    fn everything(&self) -> Prefix {
        let base = self.used.checked_sub(1).map_or(0, |last| self.ready[last].2);
        Prefix { end: self.ready.len(), bytes: self.ready.last().map_or(0, |(.., sum)| *sum) - base }
    }

    /// Takes the files of a prefix out.
    pub(super) fn take(&mut self, prefix: Prefix) -> Vec<FileId> {
        let taken = self.ready[self.used..prefix.end].iter().map(|(_, file, _)| *file).collect();
        self.used = prefix.end;
        taken
    }
}

/// Deletes files on nodes above their limit, the highest address first.
pub(super) fn make(work: &mut Work<'_>) {
    for place in work.views.trusted.clone() {
        let Some(space) = work.world.node(place).space else { continue };
        let used = space.used - work.freed[place.index()];
        let over = used - work.world.settings.limit_bytes(space.size());
        if over <= 0 || !work.changeable(place) {
            continue;
        }
        let mut victims = Victims::of(work, place);
        let prefix = victims.worth(work, place, over, 0).unwrap_or_else(|_| victims.everything());
        for file in victims.take(prefix) {
            if work.budget.spend(place) {
                work.delete(place, file, Reason::Space);
            }
        }
    }
}
