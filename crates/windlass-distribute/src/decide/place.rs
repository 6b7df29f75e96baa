//! Which files are copied where (P7 to P11).

use std::collections::HashMap;

use super::marks::Marks;
use super::room::{Prefix, Victims};
use super::spread::crowding;
use super::{Ask, Passed, Reason, Transfer, Work};
use crate::name::FileId;
use crate::settings::NodeIx;
use crate::world::OpenTransfer;

/// Failures from one source after which another is preferred.
const AVOID_AFTER: u32 = 3;
/// The same for a node that serves what it holds: the origin is the better source.
const AVOID_HOLDER_AFTER: u32 = 1;

/// What came out.
#[derive(Debug, Default)]
pub(super) struct Placed {
    pub(super) transfers: Vec<Transfer>,
    pub(super) passed: HashMap<Passed, u64>,
    pub(super) asked: Vec<(FileId, Passed)>,
}

/// A node that can take a file.
struct Destination {
    place: NodeIx,
    /// Bytes in use once everything decided so far is done.
    usage: i64,
    limit: i64,
    size: i64,
    slots: u16,
    victims: Option<Victims>,
}

impl Destination {
    const fn room(&self) -> i64 {
        self.limit - self.usage
    }
}

/// Decides on copies.
pub(super) fn place(work: &mut Work<'_>, open: &[&OpenTransfer], ask: Ask) -> Placed {
    let world = work.world;
    let mut spread = Spread::of(work, open);
    let mut placed = Placed::default();
    let mut counts = [0_u64; Passed::ALL.len()];
    let may_fill = world.settings.may_fill(world.now);
    let mut risen: Vec<(FileId, u32)> =
        world.rising.iter().filter(|(file, hits)| *hits > 0 && world.catalogue.has(*file)).copied().collect();
    risen.sort_unstable_by_key(|(file, hits)| (std::cmp::Reverse(*hits), world.catalogue.rank(*file)));
    let rising = Marks::of(world.names.len(), risen.iter().map(|(file, _)| *file));
    let ordinary = world.catalogue.by_rank().filter(|file| !rising.has(*file));
    for file in risen.iter().map(|(file, _)| *file).chain(ordinary) {
        let passed = match unfit(work, file) {
            Some(why) => why,
            None if !may_fill && !rising.has(file) => Passed::OutsideHours,
            None => match spread.place(work, file, work.hits(file)) {
                Ok(transfer) => {
                    placed.transfers.push(transfer);
                    continue;
                }
                Err(why) => why,
            },
        };
        counts[passed as usize] += 1;
        let keep = match ask {
            Ask::Nothing => false,
            Ask::File(asked) => asked == file,
            Ask::First(most) => passed != Passed::Held && placed.asked.len() < most,
        };
        if keep {
            placed.asked.push((file, passed));
        }
    }
    placed.passed = Passed::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
    placed
}

/// Why a file is no candidate (P7).
fn unfit(work: &Work<'_>, file: FileId) -> Option<Passed> {
    let world = work.world;
    let census = work.census;
    let staying = census.staying(file);
    // What is said of every file is looked up only if copies depend on it: this is the loop over all files.
    let wanted =
        if world.settings.copies_vary() { world.target(file, work.hits(file)) } else { world.settings.copies.max(1) };
    if staying >= wanted {
        return Some(if work.gone_anywhere.has(file) { Passed::BeingDeleted } else { Passed::Held });
    }
    if work.gone_anywhere.has(file) {
        return Some(Passed::BeingDeleted);
    }
    if !world.origin.has(file) {
        return Some(if world.origin.doubts.is_empty() { Passed::NotOnOrigin } else { Passed::OriginInDoubt });
    }
    if world.settings.is_ad(world.names.get(file)) {
        return Some(Passed::Ad);
    }
    if work.in_transfer.has(file) {
        return Some(Passed::InTransfer);
    }
    if census.possible(file) > 0 && staying.saturating_add(census.possible(file)) >= wanted {
        return Some(Passed::PossiblyHeld);
    }
    let later = world.retry_not_before.get(&file).is_some_and(|at| *at > world.now);
    later.then_some(Passed::RetryLater)
}

/// Sources and destinations, as far as they are free.
struct Spread {
    /// With the transfers that they may still serve; the highest address first.
    sources: Vec<(NodeIx, u16)>,
    /// By node: the transfers that it may still serve out of what it holds; none if no node may.
    holders: Vec<u16>,
    destinations: Vec<Destination>,
    /// Nodes that take nothing more at this moment, only because transfers to them are under way.
    busy: Vec<NodeIx>,
    /// No destination has more room than that.
    most_room: i64,
    /// No destination has a worse file that may go than this rank; `None`: not looked at yet.
    worst: Option<u32>,
}

impl Spread {
    fn of(work: &Work<'_>, open: &[&OpenTransfer]) -> Self {
        let world = work.world;
        let settings = &world.settings;
        let fleet = &world.fleet;
        let (mut out, mut inn) = (vec![0_u16; fleet.len()], vec![0_u16; fleet.len()]);
        let mut inbound = vec![0_i64; fleet.len()];
        for transfer in open {
            if let Some(place) = fleet.find(&transfer.source) {
                out[place.index()] += 1;
            }
            if let Some(place) = fleet.find(&transfer.destination) {
                inn[place.index()] += 1;
                inbound[place.index()] += world.origin.size(transfer.file).unwrap_or(0);
            }
        }
        let left = |most: u16, busy: u16| most.saturating_sub(busy);
        let sources = fleet.sources().filter(|place| world.node(*place).up);
        let sources = sources.map(|place| (place, left(settings.max_outbound_per_source, out[place.index()])));
        let mut holders = Vec::new();
        if settings.copy_from_holders {
            holders.resize(fleet.len(), 0);
            for place in work.views.trusted.iter().filter(|place| fleet[**place].serves_copies) {
                holders[place.index()] = left(settings.max_outbound_per_source, out[place.index()]);
            }
        }
        let (mut destinations, mut busy) = (Vec::new(), Vec::new());
        for place in &work.views.trusted {
            let Some(space) = world.node(*place).space else { continue };
            if !work.changeable(*place) || fleet[*place].drain || world.node(*place).rest_until > world.now {
                continue;
            }
            match left(settings.max_inbound_per_destination, inn[place.index()]) {
                0 => busy.push(*place),
                slots => destinations.push(Destination {
                    place: *place,
                    usage: space.used - work.freed[place.index()] + inbound[place.index()],
                    limit: settings.limit_bytes(space.size()),
                    size: space.size(),
                    slots,
                    victims: None,
                }),
            }
        }
        let mut spread = Self {
            sources: sources.filter(|(_, left)| *left > 0).collect(),
            holders,
            destinations,
            busy,
            most_room: 0,
            worst: None,
        };
        spread.measure();
        spread
    }

    fn measure(&mut self) {
        self.most_room = self.destinations.iter().map(Destination::room).max().unwrap_or(i64::MIN);
    }

    fn place(&mut self, work: &mut Work<'_>, file: FileId, rising: u32) -> Result<Transfer, Passed> {
        if work.budget.frozen {
            return Err(Passed::Frozen);
        }
        let Some(source) = self.source(work, file) else { return Err(Passed::NoSource) };
        if self.destinations.is_empty() {
            return Err(Passed::NoDestination);
        }
        let world = work.world;
        let bytes = world.origin.size(file).unwrap_or(0);
        let rank = world.catalogue.rank(file);
        let held = work.census.held(file);
        let several = held > 0 || work.census.possible(file) > 0;
        let better_than = if rising > 0 { 0 } else { rank.saturating_add(world.settings.swap_min_rank_gain) };
        let wish = Wish { file, bytes, better_than, several };
        let (index, prefix) = self.destination(work, wish)?;
        let node = &mut self.destinations[index];
        let mut after = Vec::new();
        if let (Some(prefix), Some(victims)) = (prefix, node.victims.as_mut()) {
            after = victims.take(prefix);
            for file in &after {
                work.budget.spend(node.place);
                work.delete(node.place, *file, Reason::Displace);
            }
            node.usage -= prefix.bytes;
        }
        let destination = node.place;
        node.usage += bytes;
        node.slots -= 1;
        if node.slots == 0 {
            self.destinations.remove(index);
            self.busy.push(destination);
        }
        self.measure();
        let from_holder = !world.fleet[source].source;
        self.take(source, from_holder);
        Ok(Transfer { file, source, destination, rank, rising, bytes, held, from_holder, after })
    }

    /// Where a file goes, and what has to go there before.
    fn destination(&mut self, work: &Work<'_>, wish: Wish) -> Result<(usize, Option<Prefix>), Passed> {
        let fleet = &work.world.fleet;
        if !wish.several || work.world.settings.spread.is_empty() {
            return self.among(work, wish, |_| true);
        }
        let staying: Vec<NodeIx> = work
            .views
            .trusted
            .iter()
            .copied()
            .filter(|place| !fleet[*place].drain && holds(work, *place, wish.file))
            .collect();
        let crowd = |place: NodeIx| crowding(fleet, place, &staying);
        // The node that stands apart but is busy is soon free: the copy does not go to a crowd meanwhile.
        let busy = self.busy.iter().filter(|place| !holds(work, **place, wish.file)).map(|place| crowd(*place)).min();
        let mut crowds: Vec<u64> = self.destinations.iter().map(|node| crowd(node.place)).collect();
        crowds.sort_unstable();
        crowds.dedup();
        let mut none = Passed::NoRoom;
        for least in crowds {
            if busy.is_some_and(|busy| busy < least) {
                return Err(Passed::NoDestination);
            }
            match self.among(work, wish, |place| crowd(place) == least) {
                Err(why) => none = why,
                found => return found,
            }
        }
        Err(none)
    }

    /// The same among some nodes.
    fn among(
        &mut self,
        work: &Work<'_>,
        wish: Wish,
        allowed: impl Fn(NodeIx) -> bool,
    ) -> Result<(usize, Option<Prefix>), Passed> {
        let taken = |place: NodeIx| wish.several && holds(work, place, wish.file);
        if wish.bytes <= self.most_room {
            let (mut at, mut lowest) = (None, f64::INFINITY);
            for (index, node) in self.destinations.iter().enumerate() {
                if node.room() >= wish.bytes && !taken(node.place) && allowed(node.place) {
                    let weight = f64::from(work.world.fleet[node.place].weight) / 100.0;
                    let fill = (node.usage + wish.bytes) as f64 / node.size as f64 / weight;
                    if fill < lowest {
                        (lowest, at) = (fill, Some((index, None)));
                    }
                }
            }
            if let Some(found) = at {
                return Ok(found);
            }
        }
        self.room_first(work, wish, allowed)
    }

    /// The destination that gives up the fewest bytes for a file.
    fn room_first(
        &mut self,
        work: &Work<'_>,
        wish: Wish,
        allowed: impl Fn(NodeIx) -> bool,
    ) -> Result<(usize, Option<Prefix>), Passed> {
        let Wish { file, bytes, better_than, several } = wish;
        if better_than > 0 && *self.worst.get_or_insert_with(|| worst(work, &self.destinations)) <= better_than {
            return Err(Passed::NoRoom);
        }
        let mut best: Option<(usize, Prefix)> = None;
        let mut braked = false;
        for (index, node) in self.destinations.iter_mut().enumerate() {
            let taken = several && holds(work, node.place, file);
            if bytes > node.limit || taken || !allowed(node.place) {
                continue;
            }
            let need = bytes - node.room();
            let victims = node.victims.get_or_insert_with(|| Victims::of(work, node.place));
            let Ok(prefix) = victims.worth(work, node.place, need, better_than) else { continue };
            if victims.count(prefix) > work.budget.left(node.place) {
                braked = true;
                continue;
            }
            if best.is_none_or(|(_, least)| prefix.bytes < least.bytes) {
                best = Some((index, prefix));
            }
        }
        let none = match braked {
            true if work.budget.deletes_frozen => Passed::Frozen,
            true => Passed::Brake,
            false => Passed::NoRoom,
        };
        best.map(|(index, prefix)| (index, Some(prefix))).ok_or(none)
    }

    /// The source for a file: a node that holds it, else the least busy one of the origin, the highest address first,
    /// unless it failed often for this file.
    fn source(&self, work: &Work<'_>, file: FileId) -> Option<NodeIx> {
        let failures = |place: NodeIx| work.world.failures.get(&(file, place)).copied().unwrap_or(0);
        if !self.holders.is_empty() && work.census.held(file) > 0 {
            let serves = |place: &NodeIx| {
                self.holders[place.index()] > 0
                    && failures(*place) < AVOID_HOLDER_AFTER
                    && holds(work, *place, file)
                    && !work.gone[place.index()].contains(&file)
            };
            let order = |place: &NodeIx| (std::cmp::Reverse(self.holders[place.index()]), *place);
            let holder = work.views.trusted.iter().copied().filter(serves).min_by_key(order);
            if holder.is_some() {
                return holder;
            }
        }
        let order = |(place, left): &(NodeIx, u16)| (failures(*place) >= AVOID_AFTER, std::cmp::Reverse(*left), *place);
        self.sources.iter().copied().min_by_key(order).map(|(place, _)| place)
    }

    /// A source serves one transfer more.
    fn take(&mut self, source: NodeIx, from_holder: bool) {
        if from_holder {
            self.holders[source.index()] -= 1;
        } else if let Some(at) = self.sources.iter().position(|(place, _)| *place == source) {
            self.sources[at].1 -= 1;
            if self.sources[at].1 == 0 {
                self.sources.remove(at);
            }
        }
    }
}

/// What is to be placed.
#[derive(Clone, Copy)]
struct Wish {
    file: FileId,
    bytes: i64,
    /// Only files with a worse rank may be pushed out for it.
    better_than: u32,
    /// Nodes have it, or may have it.
    several: bool,
}

/// Whether a trusted node has a file.
fn holds(work: &Work<'_>, place: NodeIx, file: FileId) -> bool {
    work.views.view(place).is_some_and(|view| view.has(file))
}

/// The worst rank on any of these nodes.
fn worst(work: &Work<'_>, destinations: &[Destination]) -> u32 {
    let catalogue = &work.world.catalogue;
    let worst_of = |node: &Destination| {
        let listed = work.views.view(node.place).map_or(&[][..], |view| view.ids());
        listed.iter().map(|file| catalogue.rank(*file)).max().unwrap_or(0)
    };
    destinations.iter().map(worst_of).max().unwrap_or(0)
}
