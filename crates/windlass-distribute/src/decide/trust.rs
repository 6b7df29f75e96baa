//! Which nodes' answers count (P1, P2), what the others may hold (P3), and whether the clock can be right.

use std::sync::Arc;

use crate::input::{Listing, ListingFault};
use crate::name::FileId;
use crate::settings::NodeIx;
use crate::world::World;

/// A listing shorter than that is not compared with the last one.
const WORTH_COMPARING: usize = 20;

/// So many files may appear without anybody having copied them.
const GAIN_AT_LEAST: usize = 20;

/// Why a node's answers do not count, so that nothing is deleted on it and nothing copied to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// Its heartbeat is not ok.
    Down,
    /// Its listing is none.
    Listing(ListingFault),
    /// Its listing is old.
    Old(i64),
    /// It does not say how full it is.
    Space,
    /// Its listing lost too many files at once.
    Shrunk {
        /// Files of the last accepted listing.
        before: usize,
        /// Those that are still there.
        kept: usize,
        /// How often in a row it said so.
        times: u32,
    },
    /// Its listing lost files, but its disk is as full as if they were there.
    Hidden {
        /// Files that are not listed any more.
        files: usize,
        /// How often in a row it said so.
        times: u32,
    },
    /// Its listing gained files that nobody copied there, as after it was put back from an old image.
    Gained {
        /// Such files.
        files: usize,
        /// How often in a row it said so.
        times: u32,
    },
}

impl Distrust {
    /// Whether it ends once the same listing came often enough.
    #[must_use]
    pub const fn is_about_change(&self) -> bool {
        matches!(self, Self::Shrunk { .. } | Self::Hidden { .. } | Self::Gained { .. })
    }
}

/// What a node out of sight may hold.
#[derive(Clone, Debug)]
pub(super) enum Possible {
    /// What its last accepted listing had.
    Listing(Arc<Listing>),
    /// Whatever viewers are sent to it for.
    Claims,
}

/// What every destination is good for in these decisions.
#[derive(Debug)]
pub(super) struct Views<'a> {
    /// By node: what a trusted one holds.
    views: Vec<Option<&'a Listing>>,
    /// The highest address first.
    pub(super) trusted: Vec<NodeIx>,
    pub(super) distrusted: Vec<(NodeIx, Distrust)>,
    /// By node that is not trusted and not lost.
    pub(super) possible: Vec<(NodeIx, Possible)>,
}

impl<'a> Views<'a> {
    pub(super) fn of(world: &'a World, clock_doubt: bool) -> Self {
        let mut views = Self {
            views: vec![None; world.nodes.len()],
            trusted: Vec::new(),
            distrusted: Vec::new(),
            possible: Vec::new(),
        };
        for place in world.fleet.destinations() {
            match view(world, place) {
                Ok(listing) => {
                    views.views[place.index()] = Some(listing);
                    views.trusted.push(place);
                }
                Err(why) => {
                    views.distrusted.push((place, why));
                    let node = world.node(place);
                    let lost_after = world.settings.node_lost_after_sec;
                    let lost = node.down_since.is_some_and(|since| world.now - since > lost_after);
                    if !lost || clock_doubt || world.in_maintenance(place) {
                        let possible = node.accepted.clone().map_or(Possible::Claims, Possible::Listing);
                        views.possible.push((place, possible));
                    }
                }
            }
        }
        views
    }

    /// What a node holds, if it is trusted.
    pub(super) fn view(&self, place: NodeIx) -> Option<&'a Listing> {
        self.views[place.index()]
    }
}

fn view(world: &World, place: NodeIx) -> Result<&Listing, Distrust> {
    let node = world.node(place);
    if !node.up {
        return Err(Distrust::Down);
    }
    let listing = node.listing.as_ref().map_err(|fault| Distrust::Listing(fault.clone()))?;
    let age = world.now - node.listed_at;
    if age > world.settings.listing_max_age_sec {
        return Err(Distrust::Old(age));
    }
    if node.space.is_none() {
        return Err(Distrust::Space);
    }
    let Some(before) = node.accepted.as_ref().filter(|before| !Arc::ptr_eq(before, listing)) else {
        return Ok(listing);
    };
    if node.accept_anyway {
        return Ok(listing);
    }
    let doubt = |why: fn(usize, usize, u32) -> Distrust, a, b| {
        let times = world.times_seen(place, listing);
        if times >= world.settings.shrink_confirm { Ok(listing.as_ref()) } else { Err(why(a, b, times)) }
    };
    let worth_comparing = before.len() >= WORTH_COMPARING;
    if worth_comparing && listing.len() * 2 < before.len() {
        return doubt(|before, kept, times| Distrust::Shrunk { before, kept, times }, before.len(), listing.len());
    }
    if world.settings.gain_percent == 0 {
        return Ok(listing);
    }
    let lost: Vec<FileId> = before.beyond(listing).collect();
    let unexplained = lost.iter().filter(|file| !node.deleted.contains(file));
    let kept = before.len() - unexplained.clone().count();
    if worth_comparing && kept * 2 < before.len() {
        return doubt(|before, kept, times| Distrust::Shrunk { before, kept, times }, before.len(), kept);
    }
    let bytes = |files: &mut dyn Iterator<Item = FileId>| files.map(|file| world.size(file)).sum::<i64>();
    let hidden = bytes(&mut unexplained.copied());
    if let (true, Some(used_before), Some(space)) = (hidden > 0, node.accepted_used, node.space) {
        let expected = used_before - bytes(&mut lost.iter().copied()) + bytes(&mut listing.beyond(before));
        if space.used - expected > hidden / 2 {
            return doubt(|files, _, times| Distrust::Hidden { files, times }, before.len() - kept, 0);
        }
    }
    let ours = |file: &FileId| {
        node.copied_at.contains_key(file) || world.transfers.iter().any(|transfer| transfer.file == *file)
    };
    let gained = listing.beyond(before).filter(|file| !ours(file)).count();
    let bearable = (before.len() * world.settings.gain_percent as usize / 100).max(GAIN_AT_LEAST);
    if worth_comparing && gained > bearable {
        return doubt(|files, _, times| Distrust::Gained { files, times }, gained, 0);
    }
    Ok(listing)
}

/// Why the clock cannot be believed, in one line. Then nothing is deleted, no node counts as lost and no transfer as
/// too old.
pub(super) fn clock_doubt(world: &World) -> Option<String> {
    const REST: &str = "nothing is deleted and no node counts as lost until that is over";
    let tolerance = world.settings.clock_tolerance_sec;
    if let Some(last) = world.last_now.filter(|last| world.now < last - tolerance) {
        return Some(format!("the clock went back by {} s: {REST}", last - world.now));
    }
    let mut off: Vec<i64> = world.nodes.iter().filter(|node| node.up).filter_map(|node| node.clock_off).collect();
    off.sort_unstable();
    let median = *off.get(off.len() / 2)?;
    // Only if most of them are off it is ours.
    let most = off.iter().filter(|off| off.abs() > tolerance).count() * 2 > off.len();
    most.then(|| format!("the clock is {} s off those of the nodes: {REST}", -median))
}
