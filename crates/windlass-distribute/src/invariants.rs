//! What may never happen, checked over any decisions by looking at the snapshot, not at how they were made.

use std::collections::{HashMap, HashSet};

use crate::decide::{Closed, Decisions, Reason, because_delete, because_transfer};
use crate::name::FileId;
use crate::settings::{Freeze, NodeIx};
use crate::world::World;

/// Checks decisions; empty if all is well, else one line for each fault.
#[must_use]
pub fn check(world: &World, decisions: &Decisions) -> Vec<String> {
    let mut faults = Faults { world, found: Vec::new() };
    let gone: HashSet<(NodeIx, FileId)> = decisions.deletes.iter().map(|delete| (delete.node, delete.file)).collect();
    if gone.len() != decisions.deletes.len() {
        faults.add(0, "a copy is deleted twice");
    }
    faults.deletes(decisions);
    faults.last_copies(decisions, &gone);
    faults.brakes(decisions);
    faults.loads(decisions);
    faults.copies(decisions, &gone);
    faults.idle(decisions, &gone);
    faults.words(decisions);
    faults.found
}

struct Faults<'a> {
    world: &'a World,
    found: Vec<String>,
}

impl Faults<'_> {
    /// Notes a fault against the invariant with this number.
    fn add(&mut self, invariant: u8, what: impl AsRef<str>) {
        self.found.push(format!("invariant {invariant}: {}", what.as_ref()));
    }

    fn shown(&self, node: NodeIx, file: FileId) -> String {
        format!("{} on {}", self.world.names.shown(file), self.world.fleet[node].addr)
    }

    /// 1: no delete on an untrusted node, of an ad, of a file off the origin, of an unknown file.
    fn deletes(&mut self, decisions: &Decisions) {
        let world = self.world;
        for delete in &decisions.deletes {
            let (node, file) = (delete.node, delete.file);
            let state = world.node(node);
            let shown = self.shown(node, file);
            let listed = state.listing.as_ref().is_ok_and(|listing| listing.has(file));
            if !decisions.trusted.contains(&node) || !state.up || state.space.is_none() || !listed {
                self.add(1, format!("{shown}: deleted though the node is not trusted or does not list it"));
            }
            if world.is_closed(node) {
                self.add(1, format!("{shown}: deleted on a node that is read-only or in maintenance"));
            }
            if world.settings.is_ad(world.names.get(file)) {
                self.add(1, format!("{shown}: an ad is deleted"));
            }
            if !world.origin.has(file) {
                self.add(1, format!("{shown}: deleted though it is not on the origin"));
            }
            if !world.catalogue.has(file) {
                self.add(1, format!("{shown}: deleted though it is not in the catalogue"));
            }
        }
    }

    /// 2: a last copy goes only for space or displacement, and is marked so that the origin is asked before.
    fn last_copies(&mut self, decisions: &Decisions, gone: &HashSet<(NodeIx, FileId)>) {
        let world = self.world;
        for delete in &decisions.deletes {
            let holds = |place: &&NodeIx| {
                let listing = &world.node(**place).listing;
                listing.as_ref().is_ok_and(|listing| listing.has(delete.file))
                    && !gone.contains(&(**place, delete.file))
            };
            let staying = decisions.trusted.iter().filter(holds).count();
            let wanted = usize::from(world.wanted(delete.file));
            let shown = self.shown(delete.node, delete.file);
            let by_surplus_only = decisions
                .deletes
                .iter()
                .filter(|other| other.file == delete.file)
                .all(|other| other.reason == Reason::Duplicate);
            if delete.reason == Reason::Duplicate && by_surplus_only && staying < wanted {
                self.add(2, format!("{shown}: deleted as surplus, but only {staying} of {wanted} copies stay"));
            }
            if delete.others == 0 && delete.reason == Reason::Duplicate {
                self.add(2, format!("{shown}: the last copy is deleted as surplus"));
            }
            if usize::from(delete.others) < staying {
                self.add(2, format!("{shown}: {staying} copies stay, but {} are said to", delete.others));
            }
        }
        let mut left: HashMap<FileId, bool> = HashMap::new();
        for delete in &decisions.deletes {
            *left.entry(delete.file).or_default() |= delete.others == 0;
        }
        for (file, marked) in left {
            let holds = |place: &NodeIx| {
                let listing = &world.node(*place).listing;
                listing.as_ref().is_ok_and(|listing| listing.has(file)) && !gone.contains(&(*place, file))
            };
            if !marked && !decisions.trusted.iter().any(holds) {
                let shown = world.names.shown(file).to_string();
                self.add(2, format!("{shown}: all copies go and none is marked as the last"));
            }
        }
    }

    /// 3: never more deletes at once than the brakes allow.
    fn brakes(&mut self, decisions: &Decisions) {
        let settings = &self.world.settings;
        let files = |place: NodeIx| self.world.node(place).listing.as_ref().map_or(0, |listing| listing.len() as u64);
        let most = |files: u64, percent: u32, least: u32| (files * u64::from(percent) / 100).max(u64::from(least));
        let mut by_node: HashMap<NodeIx, u64> = HashMap::new();
        for delete in &decisions.deletes {
            *by_node.entry(delete.node).or_default() += 1;
        }
        let mut faults = Vec::new();
        for (place, count) in by_node {
            let allowed = most(files(place), settings.max_deletes_percent, settings.max_deletes_least);
            if count > allowed {
                faults.push(format!("{count} deletes on {}, {allowed} allowed", self.world.fleet[place].addr));
            }
        }
        let all = decisions.trusted.iter().map(|place| files(*place)).sum();
        let allowed = most(all, settings.max_deletes_total_percent, settings.max_deletes_total_least);
        let count = decisions.deletes.len() as u64;
        if count > allowed {
            faults.push(format!("{count} deletes in all, {allowed} allowed"));
        }
        if settings.freeze != Freeze::No && count > 0 {
            faults.push(format!("{count} deletes though they are frozen"));
        }
        for fault in faults {
            self.add(3, fault);
        }
    }

    /// 5: no source serves more than it may, no node receives more than it may.
    fn loads(&mut self, decisions: &Decisions) {
        let world = self.world;
        let closed: HashSet<usize> = decisions.closed.iter().map(|(at, _)| *at).collect();
        let (mut out, mut inn): (HashMap<&str, u16>, HashMap<&str, u16>) = (HashMap::new(), HashMap::new());
        for (_, open) in world.transfers.iter().enumerate().filter(|(at, _)| !closed.contains(at)) {
            *out.entry(&open.source).or_default() += 1;
            *inn.entry(&open.destination).or_default() += 1;
        }
        for (loads, most, new, what) in [
            (out, world.settings.max_outbound_per_source, decided(decisions, |transfer| transfer.source), "serves"),
            (inn, world.settings.max_inbound_per_destination, decided(decisions, |t| t.destination), "receives"),
        ] {
            for (place, count) in new {
                let addr = world.fleet[place].addr.as_str();
                let all = count + loads.get(addr).copied().unwrap_or(0);
                if all > most {
                    self.add(5, format!("{addr} {what} {all} transfers, {most} allowed"));
                }
            }
        }
    }

    /// 8 and what belongs to it: copies go where they fit, and nothing is copied that is deleted at the same time.
    fn copies(&mut self, decisions: &Decisions, gone: &HashSet<(NodeIx, FileId)>) {
        let world = self.world;
        let deleted: HashSet<FileId> = gone.iter().map(|(_, file)| *file).collect();
        let closed: HashSet<usize> = decisions.closed.iter().map(|(at, _)| *at).collect();
        let mut files = HashSet::new();
        for transfer in &decisions.transfers {
            let (node, file) = (transfer.destination, transfer.file);
            let shown = self.shown(node, file);
            if deleted.contains(&file) {
                self.add(8, format!("{shown}: copied and deleted at once"));
            }
            if !files.insert(file) {
                self.add(8, format!("{shown}: copied twice"));
            }
            if !decisions.trusted.contains(&node) || world.fleet[node].drain || world.is_closed(node) {
                self.add(1, format!("{shown}: copied to a node that takes nothing"));
            }
            if world.node(node).listing.as_ref().is_ok_and(|listing| listing.has(file)) {
                self.add(8, format!("{shown}: copied to a node that has it"));
            }
            if !world.origin.has(file) || !world.catalogue.has(file) || world.settings.is_ad(world.names.get(file)) {
                self.add(1, format!("{shown}: copied though it is an ad, unknown or not on the origin"));
            }
            let open = world.transfers.iter().enumerate();
            if open.into_iter().any(|(at, open)| open.file == file && !closed.contains(&at)) {
                self.add(8, format!("{shown}: copied though a transfer of it is open"));
            }
            let holder = world.node(transfer.source).listing.as_ref().is_ok_and(|listing| listing.has(file));
            if transfer.from_holder && !holder {
                self.add(6, format!("{shown}: copied from a node that does not have it"));
            }
            if !transfer.from_holder && !world.fleet[transfer.source].source {
                self.add(6, format!("{shown}: copied from a node that cannot read the origin"));
            }
            for pushed in &transfer.after {
                if !gone.contains(&(node, *pushed)) {
                    self.add(10, format!("{shown}: waits for a delete that was not decided"));
                }
                let better = transfer.rising > 0 || world.catalogue.rank(*pushed) > transfer.rank;
                if !better {
                    self.add(7, format!("{shown}: pushes out a file that is not worse"));
                }
            }
        }
        for place in &decisions.trusted {
            self.fits(decisions, *place, &closed);
        }
    }

    /// No node that receives gets above its limit.
    fn fits(&mut self, decisions: &Decisions, place: NodeIx, closed: &HashSet<usize>) {
        let world = self.world;
        let Some(space) = world.node(place).space else { return };
        let come: i64 = decisions.transfers.iter().filter(|t| t.destination == place).map(|t| t.bytes).sum();
        if come == 0 {
            return;
        }
        let gone: i64 = decisions.deletes.iter().filter(|delete| delete.node == place).map(|delete| delete.bytes).sum();
        let addr = &world.fleet[place].addr;
        let open = world.transfers.iter().enumerate();
        let open = open.filter(|(at, open)| !closed.contains(at) && open.destination == *addr);
        let inbound: i64 = open.map(|(_, open)| world.origin.size(open.file).unwrap_or(0)).sum();
        let (used, limit) = (space.used + come - gone + inbound, world.settings.limit_bytes(space.size()));
        if used > limit {
            self.add(7, format!("{addr} would hold {used} bytes, {limit} allowed"));
        }
    }

    /// 9: nobody is idle while there is something to do.
    fn idle(&mut self, decisions: &Decisions, gone: &HashSet<(NodeIx, FileId)>) {
        let world = self.world;
        let settings = &world.settings;
        let several = settings.copies != 1 || settings.copies_vary();
        if settings.freeze == Freeze::All || several || !settings.may_fill(world.now) {
            return;
        }
        let closed: HashSet<usize> = decisions.closed.iter().map(|(at, _)| *at).collect();
        let open: Vec<_> = world.transfers.iter().enumerate().filter(|(at, _)| !closed.contains(at)).collect();
        let free = |place: &NodeIx, source: bool| {
            let addr = &world.fleet[*place].addr;
            let end = |open: &crate::world::OpenTransfer| {
                if source { open.source == *addr } else { open.destination == *addr }
            };
            let new = decisions
                .transfers
                .iter()
                .filter(|t| if source { t.source == *place } else { t.destination == *place });
            let most = if source { settings.max_outbound_per_source } else { settings.max_inbound_per_destination };
            world.node(*place).up && open.iter().filter(|(_, open)| end(open)).count() + new.count() < usize::from(most)
        };
        if !world.fleet.sources().any(|place| free(&place, true)) {
            return;
        }
        let taken: HashSet<FileId> = decisions.transfers.iter().map(|transfer| transfer.file).collect();
        let takes = |place: &&NodeIx| {
            let member = &world.fleet[**place];
            !member.drain
                && !world.is_closed(**place)
                && world.node(**place).rest_until <= world.now
                && free(place, false)
        };
        let deleted: HashSet<FileId> = gone.iter().map(|(_, file)| *file).collect();
        let rooms: Vec<i64> =
            decisions.trusted.iter().filter(takes).map(|place| self.room(decisions, *place)).collect();
        let listed = |file: FileId| {
            world.fleet.destinations().any(|place| {
                let node = world.node(place);
                let now = node.listing.as_ref().is_ok_and(|listing| listing.has(file));
                let before = node.accepted.as_ref().is_some_and(|listing| listing.has(file));
                let claimed = world.catalogue.claimed(file, world.fleet[place].ip);
                now || (!decisions.trusted.contains(&place) && (before || claimed))
            })
        };
        for file in world.catalogue.by_rank() {
            let candidate = world.origin.has(file)
                && !world.settings.is_ad(world.names.get(file))
                && !taken.contains(&file)
                && !deleted.contains(&file)
                && !open.iter().any(|(_, open)| open.file == file)
                && world.retry_not_before.get(&file).is_none_or(|at| *at <= world.now);
            let bytes = world.origin.size(file).unwrap_or(0);
            if candidate && rooms.iter().any(|room| *room >= bytes) && !listed(file) {
                self.add(9, format!("{} waits though a source and a node are free", world.names.shown(file)));
            }
        }
    }

    /// Bytes that a node could still take.
    fn room(&self, decisions: &Decisions, place: NodeIx) -> i64 {
        let world = self.world;
        let Some(space) = world.node(place).space else { return 0 };
        let gone: i64 = decisions.deletes.iter().filter(|delete| delete.node == place).map(|delete| delete.bytes).sum();
        let come: i64 = decisions.transfers.iter().filter(|t| t.destination == place).map(|t| t.bytes).sum();
        let addr = &world.fleet[place].addr;
        let open = world.transfers.iter().filter(|open| open.destination == *addr);
        let inbound: i64 = open.map(|open| world.origin.size(open.file).unwrap_or(0)).sum();
        world.settings.limit_bytes(space.size()) - (space.used - gone + come + inbound)
    }

    /// 10: everything has its reason.
    fn words(&mut self, decisions: &Decisions) {
        let world = self.world;
        if decisions.deletes.iter().any(|delete| because_delete(world, delete).is_empty())
            || decisions.transfers.iter().any(|transfer| because_transfer(world, transfer).is_empty())
        {
            self.add(10, "a decision without a reason");
        }
        if decisions.alarms.len() < decisions.distrusted.len() {
            self.add(10, "a node is not trusted and nobody is told");
        }
        let accounted = decisions.passed.values().sum::<u64>() + decisions.transfers.len() as u64;
        if accounted != world.catalogue.len() as u64 {
            self.add(10, format!("{accounted} of {} files have an answer", world.catalogue.len()));
        }
        for (at, why) in &decisions.closed {
            if *why == Closed::Timeout && world.transfers[*at].touched > world.now {
                self.add(10, "a transfer is closed as too old that was touched in the future");
            }
        }
    }
}

fn decided(decisions: &Decisions, end: fn(&crate::decide::Transfer) -> NodeIx) -> HashMap<NodeIx, u16> {
    let mut counts = HashMap::new();
    for transfer in &decisions.transfers {
        *counts.entry(end(transfer)).or_default() += 1;
    }
    counts
}
