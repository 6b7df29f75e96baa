//! Which files are copied where (P7 to P11).

use std::collections::HashMap;

use super::marks::Marks;
use super::room::{Prefix, Victims};
use super::{Ask, Passed, Reason, Transfer, Work};
use crate::name::FileId;
use crate::settings::NodeIx;
use crate::world::OpenTransfer;

/// Failures from one source after which another is preferred.
const AVOID_AFTER: u32 = 3;

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
    let hits: HashMap<FileId, u32> = world.rising.iter().copied().collect();
    let mut risen: Vec<(FileId, u32)> =
        world.rising.iter().filter(|(file, hits)| *hits > 0 && world.catalogue.has(*file)).copied().collect();
    risen.sort_unstable_by_key(|(file, hits)| (std::cmp::Reverse(*hits), world.catalogue.rank(*file)));
    let rising = Marks::of(world.names.len(), risen.iter().map(|(file, _)| *file));
    let ordinary = world.catalogue.by_rank().filter(|file| !rising.has(*file));
    for file in risen.iter().map(|(file, _)| *file).chain(ordinary) {
        let passed = match unfit(work, file) {
            Some(why) => why,
            None => match spread.place(work, file, hits.get(&file).copied().unwrap_or(0)) {
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
    // The rank of every file is looked up only if copies depend on it: this is the loop over all files.
    let by_rank = !world.settings.copies_by_rank.is_empty();
    let wanted = if by_rank { world.settings.wanted(world.catalogue.rank(file)) } else { world.settings.copies.max(1) };
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
    destinations: Vec<Destination>,
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
        let destinations = work.views.trusted.iter().filter_map(|place| {
            let space = world.node(*place).space?;
            let slots = left(settings.max_inbound_per_destination, inn[place.index()]);
            let takes = work.changeable(*place) && !fleet[*place].drain && world.node(*place).rest_until <= world.now;
            (takes && slots > 0).then(|| Destination {
                place: *place,
                usage: space.used - work.freed[place.index()] + inbound[place.index()],
                limit: settings.limit_bytes(space.size()),
                size: space.size(),
                slots,
                victims: None,
            })
        });
        let mut spread = Self {
            sources: sources.filter(|(_, left)| *left > 0).collect(),
            destinations: destinations.collect(),
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
        if self.sources.is_empty() {
            return Err(Passed::NoSource);
        }
        if self.destinations.is_empty() {
            return Err(Passed::NoDestination);
        }
        let world = work.world;
        let bytes = world.origin.size(file).unwrap_or(0);
        let rank = world.catalogue.rank(file);
        let several = work.census.held(file) > 0 || work.census.possible(file) > 0;
        let holds = |place: NodeIx| several && work.views.view(place).is_some_and(|view| view.has(file));
        let mut at = None;
        if bytes <= self.most_room {
            let mut lowest = f64::INFINITY;
            for (index, node) in self.destinations.iter().enumerate() {
                if node.room() >= bytes && !holds(node.place) {
                    let fill = (node.usage + bytes) as f64 / node.size as f64;
                    if fill < lowest {
                        (lowest, at) = (fill, Some((index, None)));
                    }
                }
            }
        }
        if at.is_none() {
            let better_than = if rising > 0 { 0 } else { rank.saturating_add(world.settings.swap_min_rank_gain) };
            at = Some(self.room_first(work, file, bytes, better_than, several)?);
        }
        let Some((index, prefix)) = at else { return Err(Passed::NoRoom) };
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
        }
        self.measure();
        Ok(Transfer { file, source: self.source(work, file), destination, rank, rising, bytes, after })
    }

    /// The destination that gives up the fewest bytes for a file.
    fn room_first(
        &mut self,
        work: &Work<'_>,
        file: FileId,
        bytes: i64,
        better_than: u32,
        several: bool,
    ) -> Result<(usize, Option<Prefix>), Passed> {
        if better_than > 0 && *self.worst.get_or_insert_with(|| worst(work, &self.destinations)) <= better_than {
            return Err(Passed::NoRoom);
        }
        let mut best: Option<(usize, Prefix)> = None;
        let mut braked = false;
        for (index, node) in self.destinations.iter_mut().enumerate() {
            let holds = several && work.views.view(node.place).is_some_and(|view| view.has(file));
            if bytes > node.limit || holds {
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
        let none = if braked { Passed::Brake } else { Passed::NoRoom };
        best.map(|(index, prefix)| (index, Some(prefix))).ok_or(none)
    }

    /// Takes a source: the least busy one, the highest address first, unless it failed often for this file.
    fn source(&mut self, work: &Work<'_>, file: FileId) -> NodeIx {
        let failed =
            |place: NodeIx| work.world.failures.get(&(file, place)).is_some_and(|failures| *failures >= AVOID_AFTER);
        let order = |at: &usize| {
            let (place, left) = self.sources[*at];
            (failed(place), std::cmp::Reverse(left), place)
        };
        let at = (0..self.sources.len()).min_by_key(order).unwrap_or(0);
        let (place, left) = &mut self.sources[at];
        let place = *place;
        *left -= 1;
        if *left == 0 {
            self.sources.remove(at);
        }
        place
    }
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
