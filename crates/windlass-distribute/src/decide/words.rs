//! Decisions as sentences.

use std::fmt::Write;

use super::{Delete, Distrust, Reason, Transfer};
use crate::settings::NodeIx;
use crate::world::World;

/// Why a node is not trusted, in one line.
pub(super) fn distrust(world: &World, place: NodeIx, why: &Distrust) -> String {
    let addr = &world.fleet[place].addr;
    let mut rest = "nothing is deleted on it or copied to it, and what it had is not copied elsewhere".to_owned();
    if world.in_maintenance(place) {
        rest.push_str("; it is in its maintenance hours");
    }
    match why {
        Distrust::Down => format!("node {addr} does not answer its heartbeat: {rest}"),
        Distrust::Listing(fault) => format!("the listing of node {addr} {fault}: {rest}"),
        Distrust::Old(age) => format!("the listing of node {addr} is {age} s old: {rest}"),
        Distrust::Space => format!("node {addr} does not say how full its disk is: {rest}"),
        Distrust::Shrunk { before, kept, times } => format!(
            "node {addr} lists {kept} of the {before} files that it had ({times} of {} equal answers): {rest}",
            world.settings.shrink_confirm
        ),
        Distrust::Hidden { files, times } => format!(
            "node {addr} does not list {files} files that it had, but its disk is as full as with them \
             ({times} of {} equal answers): {rest}",
            world.settings.shrink_confirm
        ),
        Distrust::Gained { files, times } => format!(
            "node {addr} lists {files} files that nobody copied there, as after being put back from an old image \
             ({times} of {} equal answers): {rest}",
            world.settings.shrink_confirm
        ),
    }
}

/// Why a copy goes.
#[must_use]
pub fn because_delete(world: &World, delete: &Delete) -> String {
    let addr = &world.fleet[delete.node].addr;
    let rank = world.catalogue.rank(delete.file);
    match delete.reason {
        Reason::Duplicate => {
            let wanted = world.wanted(delete.file);
            let stay =
                if delete.others == 1 { "1 copy stays".to_owned() } else { format!("{} copies stay", delete.others) };
            format!("more copies than the {wanted} wanted; {stay} on other nodes")
        }
        Reason::Space => format!(
            "{addr} is above {} % of its disk; rank {rank} is its worst file that may go",
            world.settings.limit_percent
        ),
        Reason::Displace => format!("rank {rank} makes room on {addr} for a better file"),
    }
}

/// Why a copy comes.
#[must_use]
pub fn because_transfer(world: &World, transfer: &Transfer) -> String {
    let on = match transfer.held {
        0 => "on no node".to_owned(),
        held => format!("{held} of {} copies are there", world.target(transfer.file, transfer.rising)),
    };
    let mut why = match transfer.rising {
        0 => format!("rank {}, {on}", transfer.rank),
        hits => format!("rising: {hits} recent requests; rank {}, {on}", transfer.rank),
    };
    if transfer.from_holder {
        let _ = write!(why, "; {} holds it and serves it", world.fleet[transfer.source].addr);
    }
    let addr = &world.fleet[transfer.destination].addr;
    match transfer.after.len() {
        0 => format!("{why}; {addr} has room for it"),
        1 => format!("{why}; starts once 1 worse file has left {addr}"),
        n => format!("{why}; starts once {n} worse files have left {addr}"),
    }
}
