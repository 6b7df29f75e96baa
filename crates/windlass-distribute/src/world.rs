//! The snapshot that decisions are made from, and what is remembered between them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::decide::Decisions;
use crate::input::{Catalogue, Listing, ListingFault, Origin, Space};
use crate::name::{FileId, Names};
use crate::settings::{Fleet, NodeIx, Settings};

/// Nothing that failed waits longer for its next try, in seconds.
pub const LONGEST_WAIT: i64 = 3600;

/// How far a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferStatus {
    /// Waits for its node.
    Ready,
    /// Under way.
    Working,
    /// Its node says that it is over.
    Done,
    /// Closed from outside.
    Timeout,
}

/// A transfer that was decided before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTransfer {
    /// Its id.
    pub id: String,
    /// Which file.
    pub file: FileId,
    /// Address of the source, which may not be configured any more.
    pub source: String,
    /// Address of the destination.
    pub destination: String,
    /// How far it is.
    pub status: TransferStatus,
    /// When somebody touched it last.
    pub touched: i64,
}

/// A listing that differs too much from the last accepted one, until it comes often enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubted {
    fingerprint: u64,
    times: u32,
    answer: u64,
}

/// What a node answered last, and what is remembered of it.
#[derive(Clone, Debug)]
pub struct NodeState {
    /// Whether its heartbeat is ok.
    pub up: bool,
    /// What it holds.
    pub listing: Result<Arc<Listing>, ListingFault>,
    /// When it said so.
    pub listed_at: i64,
    /// How many listings came from it.
    pub answer: u64,
    /// How full its disk is; `None` if that is not known.
    pub space: Option<Space>,
    /// Its clock minus ours, if it said.
    pub clock_off: Option<i64>,
    /// The last listing that decisions were made from.
    pub accepted: Option<Arc<Listing>>,
    /// Bytes in use when that listing came.
    pub accepted_used: Option<i64>,
    /// A listing that waits to be confirmed.
    pub doubted: Option<Doubted>,
    /// An operator's word that its listing is right.
    pub accept_anyway: bool,
    /// Since when its heartbeat is not ok.
    pub down_since: Option<i64>,
    /// When files were copied to it.
    pub copied_at: HashMap<FileId, i64>,
    /// Files that were deleted on it since its last accepted listing.
    pub deleted: HashSet<FileId>,
    /// It takes no copy until then: several in a row failed.
    pub rest_until: i64,
    /// How the old program's deletes and `df` work out here; only [`crate::legacy`] asks.
    pub legacy: LegacyAnswers,
}

/// What the original sees while it decides, because it acts at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegacyAnswers {
    /// What came of its listing, cut or not.
    pub listing: Option<Arc<Listing>>,
    /// Deletes answer 200.
    pub deletes_work: bool,
    /// Deletes make room that `df` shows.
    pub df_follows: bool,
}

impl Default for NodeState {
    fn default() -> Self {
        Self {
            up: false,
            listing: Err(ListingFault::NoAnswer),
            listed_at: 0,
            answer: 0,
            space: None,
            clock_off: None,
            accepted: None,
            accepted_used: None,
            doubted: None,
            accept_anyway: false,
            down_since: None,
            copied_at: HashMap::new(),
            deleted: HashSet::new(),
            rest_until: 0,
            legacy: LegacyAnswers { listing: None, deletes_work: true, df_follows: true },
        }
    }
}

/// Copies of a file that stay wanted for a while, although fewer would be enough by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lowering {
    /// As many stay wanted.
    pub copies: u16,
    /// Since when fewer would be enough.
    pub since: i64,
}

/// Everything that decisions are made from.
#[derive(Clone, Debug)]
pub struct World {
    /// What people chose.
    pub settings: Settings,
    /// All servers.
    pub fleet: Fleet,
    /// All names.
    pub names: Names,
    /// The time of the snapshot, epoch seconds.
    pub now: i64,
    /// The last accepted catalogue.
    pub catalogue: Arc<Catalogue>,
    /// Why a newer catalogue is not used, if there is one.
    pub catalogue_doubt: Option<String>,
    /// Files with many recent requests.
    pub rising: Vec<(FileId, u32)>,
    /// The origin.
    pub origin: Arc<Origin>,
    /// What the nodes say; indexed by [`NodeIx`].
    pub nodes: Vec<NodeState>,
    /// Transfers decided before.
    pub transfers: Vec<OpenTransfer>,
    /// Files that may not be tried before a time.
    pub retry_not_before: HashMap<FileId, i64>,
    /// How often copies of a file from a source failed.
    pub failures: HashMap<(FileId, NodeIx), u32>,
    /// Files of which fewer copies are wanted since a while.
    pub lowering: HashMap<FileId, Lowering>,
    /// The time of the last decisions.
    pub last_now: Option<i64>,
}

impl World {
    /// A world in which nobody has said anything yet.
    #[must_use]
    pub fn new(settings: Settings, fleet: Fleet) -> Self {
        let nodes = vec![NodeState::default(); fleet.len()];
        Self {
            settings,
            fleet,
            names: Names::default(),
            now: 0,
            catalogue: Arc::default(),
            catalogue_doubt: None,
            rising: Vec::new(),
            origin: Arc::default(),
            nodes,
            transfers: Vec::new(),
            retry_not_before: HashMap::new(),
            failures: HashMap::new(),
            lowering: HashMap::new(),
            last_now: None,
        }
    }

    /// What is known of a node.
    #[must_use]
    pub fn node(&self, place: NodeIx) -> &NodeState {
        &self.nodes[place.index()]
    }

    /// To change what is known of a node.
    pub fn node_mut(&mut self, place: NodeIx) -> &mut NodeState {
        &mut self.nodes[place.index()]
    }

    /// A listing came, or failed to come.
    pub fn listed(&mut self, place: NodeIx, listing: Result<Listing, ListingFault>) {
        let now = self.now;
        let node = self.node_mut(place);
        node.answer += 1;
        node.listed_at = now;
        node.listing = match (listing, &node.listing, &node.accepted) {
            // The same again: keep one in memory, and know that nothing changed by looking at the pointer.
            (Ok(new), Ok(old), _) if *old.as_ref() == new => Ok(old.clone()),
            (Ok(new), _, Some(old)) if *old.as_ref() == new => Ok(old.clone()),
            (Ok(new), ..) => Ok(Arc::new(new)),
            (Err(fault), ..) => Err(fault),
        };
    }

    /// A heartbeat came, or failed to come.
    pub fn beat(&mut self, place: NodeIx, up: bool) {
        let now = self.now;
        let node = self.node_mut(place);
        node.up = up;
        node.down_since = if up { None } else { Some(node.down_since.unwrap_or(now)) };
    }

    /// Says which files rise, by name.
    pub fn set_rising(&mut self, rising: &[(Vec<u8>, u32)]) {
        let names = &mut self.names;
        let new = rising.iter().filter_map(|(name, hits)| Some((names.intern(name)?, *hits))).collect();
        let old = std::mem::replace(&mut self.rising, new);
        if self.settings.copies_by_hits.is_empty() {
            return;
        }
        let now: HashMap<FileId, u32> = self.rising.iter().copied().collect();
        for (file, hits) in old {
            let before = self.target(file, hits);
            self.lower(file, before, now.get(&file).copied().unwrap_or(0));
        }
    }

    /// Another catalogue counts from now on.
    pub fn set_catalogue(&mut self, new: Arc<Catalogue>) {
        let old = std::mem::replace(&mut self.catalogue, new);
        if !self.settings.copies_vary() {
            return;
        }
        let hits: HashMap<FileId, u32> = self.rising.iter().copied().collect();
        for file in old.by_rank() {
            let hits = hits.get(&file).copied().unwrap_or(0);
            let before = self.settings.target(old.rank(file), old.wish(file), hits);
            self.lower(file, before, hits);
        }
    }

    /// A file had this target before; what it has now may be less.
    fn lower(&mut self, file: FileId, before: u16, hits: u32) {
        let after = self.target(file, hits);
        if !self.catalogue.has(file) || after >= before {
            return;
        }
        let low = Lowering { copies: before.max(self.held_up(file)), since: self.now };
        self.lowering.insert(file, low);
    }

    /// Copies that stay wanted of a file that had more.
    fn held_up(&self, file: FileId) -> u16 {
        let low = self.lowering.get(&file);
        low.filter(|low| self.now - low.since < self.settings.lower_copies_after_sec).map_or(0, |low| low.copies)
    }

    /// How many copies of a file with so many recent requests are made, if there are fewer.
    pub(crate) fn target(&self, file: FileId, hits: u32) -> u16 {
        self.settings.target(self.catalogue.rank(file), self.catalogue.wish(file), hits)
    }

    /// How many copies of a file with so many recent requests stay, if there are more.
    #[must_use]
    pub fn wanted_at(&self, file: FileId, hits: u32) -> u16 {
        self.target(file, hits).max(if self.lowering.is_empty() { 0 } else { self.held_up(file) })
    }

    /// How many copies of a file stay, if there are more. Looks through all rising files.
    #[must_use]
    pub fn wanted(&self, file: FileId) -> u16 {
        self.wanted_at(file, self.rising.iter().find(|(one, _)| *one == file).map_or(0, |(_, hits)| *hits))
    }

    /// Whether nothing may be changed on a node at this moment.
    #[must_use]
    pub fn is_closed(&self, place: NodeIx) -> bool {
        self.fleet[place].read_only || self.in_maintenance(place)
    }

    /// Whether a node is in its maintenance hours.
    #[must_use]
    pub fn in_maintenance(&self, place: NodeIx) -> bool {
        self.fleet[place].in_maintenance(self.settings.local(self.now))
    }

    /// The size of a file: as the history says, else as the origin has it; 0 if neither knows.
    #[must_use]
    pub fn size(&self, file: FileId) -> i64 {
        match self.catalogue.size(file) {
            size if size > 0 => size,
            _ => self.origin.size(file).unwrap_or(0),
        }
    }

    /// Remembers what the decisions rested on. To be called once after each [`crate::decide()`] whose decisions are
    /// carried out.
    pub fn remember(&mut self, decisions: &Decisions) {
        let shrunk: HashMap<NodeIx, bool> =
            decisions.distrusted.iter().map(|(place, why)| (*place, why.is_about_change())).collect();
        let keep_copies_for = self.settings.protect_after_copy_sec;
        let now = self.now;
        for place in self.fleet.places() {
            let node = &mut self.nodes[place.index()];
            node.copied_at.retain(|_, at| now - *at < keep_copies_for.max(86_400));
            // Times of the future are left behind by a clock that was ahead: they would hold for as long again.
            node.copied_at.values_mut().for_each(|at| *at = now.min(*at));
            node.down_since = node.down_since.map(|since| since.min(now));
            node.rest_until = node.rest_until.min(now + LONGEST_WAIT);
            let Ok(listing) = &node.listing else { continue };
            match shrunk.get(&place) {
                None => {
                    if !node.accepted.as_ref().is_some_and(|old| Arc::ptr_eq(old, listing)) {
                        node.accepted = Some(listing.clone());
                        node.deleted.clear();
                    }
                    node.accepted_used = node.space.map(|space| space.used);
                    node.doubted = None;
                    node.accept_anyway = false;
                }
                Some(true) => {
                    let fingerprint = listing.fingerprint();
                    node.doubted = Some(match node.doubted {
                        Some(doubted) if doubted.fingerprint != fingerprint => {
                            Doubted { fingerprint, times: 1, answer: node.answer }
                        }
                        Some(doubted) if doubted.answer == node.answer => doubted,
                        Some(doubted) => {
                            Doubted { fingerprint, times: doubted.times.saturating_add(1), answer: node.answer }
                        }
                        None => Doubted { fingerprint, times: 1, answer: node.answer },
                    });
                }
                Some(false) => {}
            }
        }
        for delete in &decisions.deletes {
            self.nodes[delete.node.index()].deleted.insert(delete.file);
        }
        let lower_after = self.settings.lower_copies_after_sec;
        self.lowering.values_mut().for_each(|low| low.since = now.min(low.since));
        self.lowering.retain(|_, low| now - low.since < lower_after);
        self.retry_not_before.retain(|_, at| *at > now);
        self.retry_not_before.values_mut().for_each(|at| *at = (now + LONGEST_WAIT).min(*at));
        self.transfers.iter_mut().for_each(|transfer| transfer.touched = now.min(transfer.touched));
        self.last_now = Some(now);
    }

    /// How often in a row the doubted listing came, this answer included.
    pub(crate) fn times_seen(&self, place: NodeIx, listing: &Listing) -> u32 {
        let node = self.node(place);
        match node.doubted {
            Some(doubted) if doubted.fingerprint == listing.fingerprint() => {
                doubted.times + u32::from(doubted.answer != node.answer)
            }
            _ => 1,
        }
    }

    /// Bytes that the snapshot takes, without the small change.
    #[must_use]
    pub fn memory(&self) -> usize {
        let listings: usize = self
            .nodes
            .iter()
            .map(|node| {
                let own = node.listing.as_ref().map_or(0, |listing| listing.memory());
                let same = match (&node.listing, &node.accepted) {
                    (Ok(now), Some(before)) => Arc::ptr_eq(now, before),
                    _ => false,
                };
                own + if same { 0 } else { node.accepted.as_ref().map_or(0, |listing| listing.memory()) }
            })
            .sum();
        self.names.memory() + self.catalogue.memory() + self.origin.memory() + listings
    }
}
