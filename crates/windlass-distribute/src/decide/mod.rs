//! From a snapshot to decisions.
//!
//! [`decide`] changes nothing, asks nobody and takes no time: the same [`World`] gives the same [`Decisions`]. It makes
//! its counts anew each time, because that is cheap beside reading the inputs: a few passes over compact columns.

mod budget;
mod census;
mod marks;
mod place;
mod room;
mod spread;
mod surplus;
mod trust;
mod words;

use std::collections::{HashMap, HashSet};

use serde::Serialize;

pub use trust::Distrust;
pub use words::{because_delete, because_transfer};

use crate::name::FileId;
use crate::settings::NodeIx;
use crate::world::{OpenTransfer, TransferStatus, World};
use budget::Budget;
use census::Census;
use marks::Marks;
use trust::Views;

/// Why a copy is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There are more copies than wanted.
    Duplicate,
    /// The node is above its limit.
    Space,
    /// A better file takes its room.
    Displace,
}

/// A copy that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delete {
    /// Where.
    pub node: NodeIx,
    /// Which file.
    pub file: FileId,
    /// Why.
    pub reason: Reason,
    /// Bytes that it frees.
    pub bytes: i64,
    /// Copies on other trusted nodes that stay. With 0 the origin has to be asked for this very file right before.
    pub others: u16,
}

/// A copy that comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Which file.
    pub file: FileId,
    /// From where.
    pub source: NodeIx,
    /// To where.
    pub destination: NodeIx,
    /// How good the file is, 1 is best.
    pub rank: u32,
    /// Recent requests, 0 if it does not rise.
    pub rising: u32,
    /// Bytes, as the origin has it.
    pub bytes: i64,
    /// Copies on trusted nodes that are there already.
    pub held: u16,
    /// The source does not read the origin: it serves the copy that it holds.
    pub from_holder: bool,
    /// It starts only after these are deleted on the destination.
    pub after: Vec<FileId>,
}

/// Why an open transfer is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Closed {
    /// Its node says that it is over.
    Done,
    /// Nobody touched it for too long.
    Timeout,
    /// Its source is not there.
    SourceDown,
    /// Its destination is not there.
    DestinationDown,
}

/// Why a known file is not copied now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Passed {
    /// As many copies as wanted are on trusted nodes.
    Held,
    /// A node out of sight may have it.
    PossiblyHeld,
    /// It is not on the origin.
    NotOnOrigin,
    /// A folder of the origin is in doubt, and no other has it.
    OriginInDoubt,
    /// It is an ad.
    Ad,
    /// A transfer of it is open.
    InTransfer,
    /// It is being deleted.
    BeingDeleted,
    /// It failed and may not be tried yet.
    RetryLater,
    /// All sources are busy or down.
    NoSource,
    /// All nodes are busy, untrusted or take nothing.
    NoDestination,
    /// It fits nowhere, and pushes out nothing worse.
    NoRoom,
    /// It would need more deletes than are allowed at once.
    Brake,
    /// What it needs is frozen.
    Frozen,
    /// It does not rise, and it is not the time to fill nodes.
    OutsideHours,
}

impl Passed {
    /// Every reason.
    pub const ALL: [Self; 14] = [
        Self::Held,
        Self::PossiblyHeld,
        Self::NotOnOrigin,
        Self::OriginInDoubt,
        Self::Ad,
        Self::InTransfer,
        Self::BeingDeleted,
        Self::RetryLater,
        Self::NoSource,
        Self::NoDestination,
        Self::NoRoom,
        Self::Brake,
        Self::Frozen,
        Self::OutsideHours,
    ];

    /// Whether the file would be copied if there were room or somebody free.
    #[must_use]
    pub const fn waits(self) -> bool {
        matches!(
            self,
            Self::NoSource | Self::NoDestination | Self::NoRoom | Self::Brake | Self::Frozen | Self::OutsideHours
        )
    }
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Nodes that answered fully, the highest address first.
    pub trusted: Vec<NodeIx>,
    /// The other destinations, and why.
    pub distrusted: Vec<(NodeIx, Distrust)>,
    /// Copies that go, in order.
    pub deletes: Vec<Delete>,
    /// Transfers that are closed, by their place in the world.
    pub closed: Vec<(usize, Closed)>,
    /// Copies that come, in order.
    pub transfers: Vec<Transfer>,
    /// How many known files are not copied now, by reason.
    pub passed: HashMap<Passed, u64>,
    /// Deletes that the brakes left to later, by node.
    pub held_back: HashMap<NodeIx, u64>,
    /// What people should know, a line each.
    pub alarms: Vec<String>,
    /// Reasons of the files that were asked for.
    pub asked: Vec<(FileId, Passed)>,
}

impl Decisions {
    /// How many files wait for a source or for room.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.passed.iter().filter(|(why, _)| why.waits()).map(|(_, count)| count).sum()
    }
}

/// Of which files the reason is kept why they are not copied.
#[derive(Clone, Copy, Debug, Default)]
pub enum Ask {
    /// Of none.
    #[default]
    Nothing,
    /// Of this one.
    File(FileId),
    /// Of the first ones that are passed over for a reason other than being held.
    First(usize),
}

/// Decides.
#[must_use]
pub fn decide(world: &World) -> Decisions {
    decide_asked(world, Ask::Nothing)
}

/// Decides, and keeps why files are passed over.
#[must_use]
pub fn decide_asked(world: &World, ask: Ask) -> Decisions {
    let mut alarms = Vec::new();
    let clock_doubt = trust::clock_doubt(world);
    let views = Views::of(world, clock_doubt.is_some());
    let mut budget = Budget::of(world, &views, clock_doubt.is_some());
    if let Some(doubt) = clock_doubt.as_ref() {
        alarms.push(doubt.clone());
    }
    alarms.extend(world.catalogue_doubt.iter().cloned());
    alarms.extend(world.origin.doubts.iter().cloned());
    alarms.extend(views.distrusted.iter().map(|(place, why)| words::distrust(world, *place, why)));
    let (closed, open) = clean(world, clock_doubt.is_some());
    let census = Census::of(world, &views);
    let names = world.names.len();
    let mut work = Work {
        world,
        views: &views,
        census: &census,
        in_transfer: Marks::of(names, open.iter().map(|transfer| transfer.file)),
        rising: Marks::of(names, world.rising.iter().map(|(file, _)| *file)),
        hits: world.rising.iter().copied().collect(),
        deletes: Vec::new(),
        gone: vec![HashSet::new(); world.nodes.len()],
        gone_anywhere: Marks::new(names),
        freed: vec![0; world.nodes.len()],
        budget: &mut budget,
    };
    surplus::delete(&mut work);
    room::make(&mut work);
    let placed = place::place(&mut work, &open, ask);
    let deletes = work.deletes;
    alarms.extend(budget.alarms(world));
    Decisions {
        trusted: views.trusted.clone(),
        distrusted: views.distrusted,
        deletes,
        closed,
        transfers: placed.transfers,
        passed: placed.passed,
        held_back: budget.held_back,
        alarms,
        asked: placed.asked,
    }
}

/// What is decided so far.
struct Work<'a> {
    world: &'a World,
    views: &'a Views<'a>,
    census: &'a Census,
    in_transfer: Marks,
    rising: Marks,
    /// Recent requests of those that rise.
    hits: HashMap<FileId, u32>,
    deletes: Vec<Delete>,
    /// By node.
    gone: Vec<HashSet<FileId>>,
    gone_anywhere: Marks,
    /// By node.
    freed: Vec<i64>,
    budget: &'a mut Budget,
}

impl Work<'_> {
    /// Whether the rules allow to delete copies of a file at all.
    fn deletable(&self, file: FileId) -> bool {
        let world = self.world;
        world.catalogue.has(file)
            && world.origin.has(file)
            && world.size(file) > 0
            && !self.in_transfer.has(file)
            && !world.settings.is_ad(world.names.get(file))
    }

    /// Recent requests for a file.
    fn hits(&self, file: FileId) -> u32 {
        if self.rising.has(file) { self.hits.get(&file).copied().unwrap_or(0) } else { 0 }
    }

    /// How many copies of a file stay.
    fn wanted(&self, file: FileId) -> u16 {
        self.world.wanted_at(file, self.hits(file))
    }

    /// Whether a file was copied to a node a moment ago.
    fn protected(&self, node: NodeIx, file: FileId) -> bool {
        let copied = self.world.node(node).copied_at.get(&file);
        copied.is_some_and(|at| self.world.now - at < self.world.settings.protect_after_copy_sec)
    }

    fn delete(&mut self, node: NodeIx, file: FileId, reason: Reason) {
        let bytes = self.world.size(file);
        let gone_already =
            if self.gone_anywhere.has(file) { self.gone.iter().filter(|gone| gone.contains(&file)).count() } else { 0 };
        let held = usize::from(self.census.held(file));
        let others = u16::try_from(held.saturating_sub(1 + gone_already)).unwrap_or(u16::MAX);
        self.deletes.push(Delete { node, file, reason, bytes, others });
        self.gone[node.index()].insert(file);
        self.gone_anywhere.set(file);
        self.freed[node.index()] += bytes;
    }

    /// Whether files may be put on, and taken from, a node.
    fn changeable(&self, node: NodeIx) -> bool {
        self.views.view(node).is_some() && !self.world.is_closed(node)
    }
}

/// Which transfers are over, and which go on.
fn clean(world: &World, clock_doubt: bool) -> (Vec<(usize, Closed)>, Vec<&OpenTransfer>) {
    let fleet = &world.fleet;
    let up = |addr: &str, role: fn(&crate::settings::Member) -> bool| {
        fleet.find(addr).is_some_and(|place| role(&fleet[place]) && world.node(place).up)
    };
    let (mut closed, mut open) = (Vec::new(), Vec::new());
    for (at, transfer) in world.transfers.iter().enumerate() {
        let old = world.now - transfer.touched > world.settings.task_timeout_sec && !clock_doubt;
        let why = match transfer.status {
            TransferStatus::Done => Some(Closed::Done),
            TransferStatus::Timeout => Some(Closed::Timeout),
            _ if old => Some(Closed::Timeout),
            _ if !up(&transfer.source, |member| member.source || member.serves_copies) => Some(Closed::SourceDown),
            _ if !up(&transfer.destination, |member| member.destination) => Some(Closed::DestinationDown),
            _ => None,
        };
        match why {
            Some(why) => closed.push((at, why)),
            None => open.push(transfer),
        }
    }
    (closed, open)
}
