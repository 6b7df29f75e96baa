//! How many copies of each file there are.

use super::trust::{Possible, Views};
use crate::name::FileId;
use crate::settings::NodeIx;
use crate::world::World;

/// Copies by file; columns indexed by [`FileId`], 2 bytes a file each.
#[derive(Debug)]
pub(super) struct Census {
    /// On trusted nodes.
    held: Vec<u16>,
    /// On trusted nodes that are not emptied; none if that is the same.
    staying: Vec<u16>,
    /// On nodes out of sight; none if all are in sight.
    possible: Vec<u16>,
}

impl Census {
    pub(super) fn of(world: &World, views: &Views<'_>) -> Self {
        let fleet = &world.fleet;
        let column = || vec![0_u16; world.names.len()];
        let draining = views.trusted.iter().any(|place| fleet[*place].drain);
        let mut held = column();
        let mut staying = if draining { column() } else { Vec::new() };
        for place in &views.trusted {
            for file in views.view(*place).map_or(&[][..], |view| view.ids()) {
                let count = &mut held[file.index()];
                *count = count.saturating_add(1);
                if draining && !fleet[*place].drain {
                    staying[file.index()] = staying[file.index()].saturating_add(1);
                }
            }
        }
        let mut possible = if views.possible.is_empty() { Vec::new() } else { column() };
        for (place, what) in &views.possible {
            match what {
                Possible::Listing(listing) => {
                    for file in listing.ids() {
                        possible[file.index()] = possible[file.index()].saturating_add(1);
                    }
                }
                Possible::Claims => count_claims(world, *place, &mut possible),
            }
        }
        Self { held, staying, possible }
    }

    /// Copies on trusted nodes.
    pub(super) fn held(&self, file: FileId) -> u16 {
        self.held.get(file.index()).copied().unwrap_or(0)
    }

    /// Copies on trusted nodes that are not emptied.
    pub(super) fn staying(&self, file: FileId) -> u16 {
        if self.staying.is_empty() { self.held(file) } else { self.staying.get(file.index()).copied().unwrap_or(0) }
    }

    /// Copies that nodes out of sight may have.
    pub(super) fn possible(&self, file: FileId) -> u16 {
        self.possible.get(file.index()).copied().unwrap_or(0)
    }

    /// Files with more than `least` copies on trusted nodes.
    pub(super) fn more_than(&self, least: u16) -> impl Iterator<Item = FileId> {
        self.held.iter().zip(0_u32..).filter(move |(count, _)| **count > least).map(|(_, file)| FileId::of(file))
    }
}

fn count_claims(world: &World, place: NodeIx, possible: &mut [u16]) {
    let ip = world.fleet[place].ip;
    for file in world.catalogue.by_rank().filter(|file| world.catalogue.claimed(*file, ip)) {
        possible[file.index()] = possible[file.index()].saturating_add(1);
    }
}
