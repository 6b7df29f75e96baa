//! More copies than wanted (P5).

use std::collections::HashMap;

use super::marks::Marks;
use super::{Reason, Work};
use crate::name::FileId;
use crate::settings::NodeIx;

/// Deletes surplus copies: for every name in byte order, the highest address first.
pub(super) fn delete(work: &mut Work<'_>) {
    let world = work.world;
    let fleet = &world.fleet;
    let least = world.settings.copies_by_rank.iter().map(|step| step.copies).min().unwrap_or(u16::MAX);
    let least = least.min(world.settings.copies).max(1);
    let over = |file: &FileId| {
        work.census.held(*file) > world.settings.wanted(world.catalogue.rank(*file)) && work.deletable(*file)
    };
    let mut surplus: Vec<FileId> = work.census.more_than(least).filter(over).collect();
    if surplus.is_empty() {
        return;
    }
    surplus.sort_unstable_by(|a, b| world.names.get(*a).cmp(world.names.get(*b)));
    let mut holders = holders(work, &surplus);
    for (file, holders) in surplus.iter().zip(&mut holders) {
        let file = *file;
        let wanted = usize::from(world.settings.wanted(world.catalogue.rank(file)));
        // Kept are, first of all, those that cannot go; then those to which viewers are sent; then the lowest address.
        // Places count from the highest address.
        holders.sort_by_key(|place| {
            let member = &fleet[*place];
            (!member.read_only, member.drain, !world.catalogue.claimed(file, member.ip), std::cmp::Reverse(*place))
        });
        let mut go: Vec<NodeIx> = holders.split_off(wanted.min(holders.len()));
        go.sort_unstable();
        for place in go.into_iter().filter(|place| !fleet[*place].read_only) {
            if work.budget.spend(place) {
                work.delete(place, file, Reason::Duplicate);
            }
        }
    }
}

/// The trusted nodes that list each of these files, in one pass over all listings.
fn holders(work: &Work<'_>, files: &[FileId]) -> Vec<Vec<NodeIx>> {
    let wanted = Marks::of(work.world.names.len(), files.iter().copied());
    let at: HashMap<FileId, usize> = files.iter().enumerate().map(|(at, file)| (*file, at)).collect();
    let mut holders = vec![Vec::new(); files.len()];
    for place in &work.views.trusted {
        for file in work.views.view(*place).map_or(&[][..], |view| view.ids()) {
            if wanted.has(*file) {
                holders[at[file]].push(*place);
            }
        }
    }
    holders
}
