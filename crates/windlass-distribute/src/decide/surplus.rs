//! More copies than wanted (P5).

use std::collections::HashMap;

use super::marks::Marks;
use super::spread::crowding;
use super::{Reason, Work};
use crate::name::FileId;
use crate::settings::NodeIx;

/// Deletes surplus copies: for every name in byte order, the highest address first.
pub(super) fn delete(work: &mut Work<'_>) {
    let world = work.world;
    let fleet = &world.fleet;
    let least = if world.settings.copies_vary() { 1 } else { world.settings.copies.max(1) };
    let over = |file: &FileId| work.census.held(*file) > work.wanted(*file) && work.deletable(*file);
    let mut surplus: Vec<FileId> = work.census.more_than(least).filter(over).collect();
    if surplus.is_empty() {
        return;
    }
    surplus.sort_unstable_by(|a, b| world.names.get(*a).cmp(world.names.get(*b)));
    let mut holders = holders(work, &surplus);
    for (file, holders) in surplus.iter().zip(&mut holders) {
        let file = *file;
        let wanted = usize::from(work.wanted(file));
        // Kept are, first of all, those that cannot go; then, of what is not emptied, those that stand apart from the
        // ones that are kept already; then those to which viewers are sent; then the lowest address. Places count from
        // the highest address.
        for kept in 0..wanted.min(holders.len()) {
            let (stay, rest) = holders.split_at(kept);
            let order = |at: &usize| {
                let (place, member) = (rest[*at], &fleet[rest[*at]]);
                let claimed = world.catalogue.claimed(file, member.ip);
                let crowd = crowding(fleet, place, stay);
                (!world.is_closed(place), member.drain, crowd, !claimed, std::cmp::Reverse(place))
            };
            let best = (0..rest.len()).min_by_key(order).unwrap_or(0);
            holders.swap(kept, kept + best);
        }
        let mut go: Vec<NodeIx> = holders.split_off(wanted.min(holders.len()));
        go.sort_unstable();
        for place in go.into_iter().filter(|place| !world.is_closed(*place)) {
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
