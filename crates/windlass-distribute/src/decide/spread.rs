//! Copies of a file are placed apart from each other: on another site, in another rack, whatever the labels say.

use crate::settings::{Fleet, NodeIx};

/// How much a node has in common with others: by label, the most important first, with how many of them it shares what
/// is said there. 0: with none of them anything.
pub(super) fn crowding(fleet: &Fleet, place: NodeIx, others: &[NodeIx]) -> u64 {
    let domains = &fleet[place].domains;
    domains.iter().enumerate().fold(0, |crowd, (label, domain)| {
        let shared = others.iter().filter(|other| fleet[**other].domains.get(label) == Some(domain)).count();
        (crowd << 16) | u64::try_from(shared.min(0xffff)).unwrap_or(0xffff)
    })
}
