//! The decisions of the program that this one replaces, mistakes included.
//!
//! For running beside it and comparing. It acts while it decides, so what its nodes answer to deletes is part of the
//! snapshot: [`crate::world::LegacyAnswers`].

use std::collections::{HashMap, HashSet};

use crate::decide::{Closed, Delete, Reason, Transfer};
use crate::name::FileId;
use crate::settings::NodeIx;
use crate::world::{OpenTransfer, TransferStatus, World};

/// What the original decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacyDecisions {
    /// Copies that go, in order.
    pub deletes: Vec<Delete>,
    /// Transfers that are closed, by their place in the world.
    pub closed: Vec<(usize, Closed)>,
    /// Copies that come, in order.
    pub transfers: Vec<Transfer>,
}

struct Run<'a> {
    world: &'a World,
    destinations: Vec<NodeIx>,
    rising: HashMap<FileId, u32>,
    /// What each node lists, as far as it counts for deletes. By node.
    on: Vec<HashSet<FileId>>,
    /// Claims of a file on an IP that were taken off.
    taken: HashMap<(FileId, u16), usize>,
    /// Claims of a file that were taken off, over all IPs.
    taken_all: HashMap<FileId, usize>,
    gone: Vec<HashSet<FileId>>,
    deletes: Vec<Delete>,
}

/// Decides as the original. The world has to be read with [`crate::input::catalogue::Reading::Legacy`].
#[must_use]
pub fn decide(world: &World) -> LegacyDecisions {
    let mut run = Run {
        world,
        destinations: world.fleet.destinations().collect(),
        rising: world.rising.iter().copied().collect(),
        on: vec![HashSet::new(); world.nodes.len()],
        taken: HashMap::new(),
        taken_all: HashMap::new(),
        gone: vec![HashSet::new(); world.nodes.len()],
        deletes: Vec::new(),
    };
    run.collect();
    run.duplicates();
    run.space();
    let (closed, open) = clean(world);
    let transfers = run.distribute(&open);
    LegacyDecisions { deletes: run.deletes, closed, transfers }
}

impl Run<'_> {
    fn ip(&self, place: NodeIx) -> u16 {
        self.world.fleet[place].ip.unwrap_or(u16::MAX)
    }

    fn claimed(&self, file: FileId) -> usize {
        let all = self.world.catalogue.claims(file).len();
        all.saturating_sub(self.taken_all.get(&file).copied().unwrap_or(0))
    }

    fn claimed_at(&self, file: FileId, ip: u16) -> usize {
        let all = self.world.catalogue.claims(file).iter().filter(|claim| **claim == ip).count();
        all.saturating_sub(self.taken.get(&(file, ip)).copied().unwrap_or(0))
    }

    fn take_claim(&mut self, file: FileId, ip: u16) {
        if self.claimed_at(file, ip) > 0 {
            *self.taken.entry((file, ip)).or_default() += 1;
            *self.taken_all.entry(file).or_default() += 1;
        }
    }

    fn is_ad(&self, file: FileId) -> bool {
        self.world.settings.is_ad(self.world.names.get(file))
    }

    fn listed(&self, place: NodeIx) -> &[FileId] {
        self.world.node(place).legacy.listing.as_ref().map_or(&[], |listing| listing.ids())
    }

    fn collect(&mut self) {
        let catalogue = &self.world.catalogue;
        for place in self.destinations.clone() {
            let ip = self.ip(place);
            let mine = |file: &&FileId| catalogue.size(**file) > 0 && catalogue.claims(**file).contains(&ip);
            self.on[place.index()] = self.listed(place).iter().filter(mine).copied().collect();
        }
    }

    fn delete(&mut self, place: NodeIx, file: FileId, reason: Reason) {
        self.deletes.push(Delete { node: place, file, reason, bytes: self.world.size(file), others: 0 });
        if self.world.node(place).legacy.deletes_work {
            self.take_claim(file, self.ip(place));
            self.gone[place.index()].insert(file);
        }
    }

    fn duplicates(&mut self) {
        let world = self.world;
        let several = |file: &FileId| world.catalogue.claims(*file).len() > 1;
        let duplicates: Vec<FileId> = world.catalogue.by_first_line().into_iter().filter(several).collect();
        for place in self.destinations.clone() {
            let ip = self.ip(place);
            for file in &duplicates {
                if !self.on[place.index()].contains(file) && world.catalogue.claims(*file).contains(&ip) {
                    self.take_claim(*file, ip);
                }
            }
        }
        for file in duplicates {
            for place in self.destinations.clone() {
                let there = self.claimed_at(file, self.ip(place)) > 0 && self.on[place.index()].contains(&file);
                if there && !self.is_ad(file) && world.origin.has(file) && self.claimed(file) >= 2 {
                    self.delete(place, file, Reason::Duplicate);
                }
            }
        }
    }

    fn space(&mut self) {
        let world = self.world;
        let bytes = |place: NodeIx, file: &FileId| {
            let listed = world.node(place).legacy.listing.as_ref().and_then(|listing| listing.size(*file));
            listed.and_then(|size| i64::try_from(size).ok()).unwrap_or_else(|| world.size(*file))
        };
        let freed: Vec<i64> = world
            .fleet
            .places()
            .map(|place| {
                let follows = world.node(place).legacy.df_follows;
                let gone = self.gone[place.index()].iter();
                if follows { gone.map(|file| bytes(place, file)).sum() } else { 0 }
            })
            .collect();
        for place in self.destinations.clone() {
            let Some(space) = world.node(place).space else { continue };
            let (limit, used) = (world.settings.limit_bytes(space.size()), space.used - freed[place.index()]);
            if used <= limit {
                continue;
            }
            let mut files: Vec<FileId> = self.on[place.index()].iter().copied().collect();
            files.sort_unstable_by_key(|file| std::cmp::Reverse(world.catalogue.rank(*file)));
            let mut got = 0;
            for file in files {
                let claimed = self.claimed(file) > 0 && self.claimed_at(file, self.ip(place)) > 0;
                if !claimed || self.is_ad(file) || !world.origin.has(file) || self.rising.contains_key(&file) {
                    continue;
                }
                if got >= used - limit {
                    break;
                }
                got += world.catalogue.size(file);
                self.delete(place, file, Reason::Space);
            }
        }
    }

    fn distribute(&self, open: &[&OpenTransfer]) -> Vec<Transfer> {
        let world = self.world;
        let fleet = &world.fleet;
        let free = |place: &NodeIx, end: fn(&OpenTransfer) -> &String| {
            let addr = &fleet[*place].addr;
            world.node(*place).up && !open.iter().any(|transfer| end(transfer) == addr)
        };
        let sources: Vec<NodeIx> = fleet.sources().filter(|place| free(place, |open| &open.source)).collect();
        let ring: Vec<NodeIx> = fleet.destinations().filter(|place| free(place, |open| &open.destination)).collect();
        let mut transfers = Vec::new();
        if sources.is_empty() || ring.is_empty() {
            return transfers;
        }
        let mut listed = HashSet::new();
        for place in &self.destinations {
            let gone = &self.gone[place.index()];
            listed.extend(self.listed(*place).iter().filter(|file| !gone.contains(file)).copied());
        }
        let rising = |file: FileId| self.rising.get(&file).copied().unwrap_or(0);
        let mut candidates: Vec<FileId> = world.catalogue.by_rank().collect();
        candidates.sort_by_key(|file| std::cmp::Reverse(rising(*file)));
        for file in candidates {
            let Some(source) = sources.get(transfers.len()) else { break };
            let in_transfer = open.iter().any(|transfer| transfer.file == file);
            let fit = world.origin.has(file) && self.claimed(file) == 0 && !self.is_ad(file);
            if !fit || in_transfer || listed.contains(&file) {
                continue;
            }
            let destination = ring[transfers.len() % ring.len()];
            let (rank, bytes) = (world.catalogue.rank(file), world.origin.size(file).unwrap_or(0));
            let (source, rising) = (*source, rising(file));
            let decided = Transfer {
                file,
                source,
                destination,
                rank,
                rising,
                bytes,
                held: 0,
                from_holder: false,
                after: Vec::new(),
            };
            transfers.push(decided);
        }
        transfers
    }
}

fn clean(world: &World) -> (Vec<(usize, Closed)>, Vec<&OpenTransfer>) {
    let fleet = &world.fleet;
    let up = |addr: &str| fleet.find(addr).filter(|place| world.node(*place).up);
    let (mut closed, mut open) = (Vec::new(), Vec::new());
    for (at, transfer) in world.transfers.iter().enumerate() {
        let why = if transfer.status == TransferStatus::Done {
            Some(Closed::Done)
        } else if world.now - transfer.touched > world.settings.task_timeout_sec {
            Some(Closed::Timeout)
        } else if !up(&transfer.source).is_some_and(|place| fleet[place].source) {
            Some(Closed::SourceDown)
        } else if !up(&transfer.destination).is_some_and(|place| fleet[place].destination) {
            Some(Closed::DestinationDown)
        } else {
            None
        };
        match why {
            Some(why) => closed.push((at, why)),
            None => open.push(transfer),
        }
    }
    (closed, open)
}
