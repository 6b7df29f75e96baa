//! What a controller knows: the world that decisions are made from, and how far each part of it can be believed.
//!
//! A copy or delete whose task has ended still counts as under way until its node has been looked at afterwards: the
//! listing from before knows nothing of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use windlass_distribute::input::event_log::Watched as Requests;
use windlass_distribute::input::{Hits, Listing, ListingFault, LogTail, Malformed, Space, listing};
use windlass_distribute::settings::{Freeze, NodeIx};
use windlass_distribute::wire::agent::Inventory;
use windlass_distribute::world::{NodeState, OpenTransfer, TransferStatus};
use windlass_distribute::{FileId, World};
use windlass_engine::reconcile::{Ended, InFlight};
use windlass_model::TaskId;
use windlass_model::task::Outcome;
use xxhash_rust::xxh3::xxh3_64;

use crate::order::{CopyOrder, DeleteOrder};
use crate::{COPY, COPY_LEGACY, DELETE};

/// Heartbeats that may be missed before a node counts as down.
const MISSES: u32 = 3;
/// Answers after which a node that was down counts as up.
const ANSWERS: u32 = 2;
/// Failures of one file after which it is parked.
pub(crate) const PARKED: u32 = 10;
/// Failures of different files in a row after which a node is rested.
const RESTED: u32 = 3;
/// The shortest wait after a failure, in seconds; it doubles.
const FIRST_WAIT: i64 = 60;

/// What a look at a node brought.
pub(crate) struct Sighting {
    /// When it began.
    pub(crate) began: Duration,
    /// Whether its heartbeat came, with its clock minus ours; else why not.
    pub(crate) beat: Result<Option<i64>, String>,
    /// What it holds; `None`: the same as before.
    pub(crate) listing: Option<Came>,
    /// How full its disk is.
    pub(crate) space: Option<Space>,
    /// Counts its changes, as it said itself.
    pub(crate) generation: Option<u64>,
    /// It has seen a later term of this controller.
    pub(crate) stale: bool,
}

impl Sighting {
    /// A look that brought nothing yet.
    pub(crate) const fn nothing(began: Duration) -> Self {
        Self { began, beat: Ok(None), listing: None, space: None, generation: None, stale: false }
    }
}

/// What came for a listing.
pub(crate) enum Came {
    /// Of an old agent: status, type, body, whether it came to its end, age in seconds.
    Lines { status: u16, content_type: String, body: Vec<u8>, complete: bool, age: i64 },
    /// Of ours.
    Inventory(Inventory),
    /// None.
    Fault(ListingFault),
}

/// How a node is looked at.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// Whether it was looked at.
    pub(crate) looked: bool,
    misses: u32,
    answers: u32,
    /// What it said to the last look that brought a listing.
    pub(crate) generation: Option<u64>,
    /// Digests of the versions of its files, by file.
    versions: Arc<Vec<(FileId, u64)>>,
    /// Something ended there that a look from before this moment does not know of.
    pub(crate) dirty: Option<Duration>,
    /// Why it did not answer.
    pub(crate) fault: Option<String>,
    /// It has seen a later term of this controller.
    pub(crate) stale: bool,
    /// Copies to it that failed in a row, and the last of those files.
    streak: (u32, Option<FileId>),
    /// Rests that it had in a row.
    rests: u32,
}

/// A task about a file on a node.
#[derive(Clone, Debug)]
pub(crate) enum Errand {
    /// It comes.
    Copy {
        /// Which.
        file: FileId,
        /// From where.
        source: String,
        /// To where.
        destination: String,
    },
    /// It goes.
    Delete {
        /// Which.
        file: FileId,
        /// Where.
        node: NodeIx,
    },
}

/// What a controller knows.
pub(crate) struct State {
    pub(crate) world: World,
    /// By node.
    pub(crate) sights: Vec<Sight>,
    pub(crate) hits: Hits,
    pub(crate) tail: Option<LogTail>,
    pub(crate) requests: Requests,
    /// Why the inputs are not read, if they are not.
    pub(crate) input_fault: Option<String>,
    pub(crate) malformed: Vec<(&'static str, Malformed)>,
    /// What people should know of the inputs, a line each.
    pub(crate) notes: Vec<String>,
    /// Why nobody can ask where the job answers, as long as that is so.
    pub(crate) unheard: Option<String>,
    /// Whether the origin was listed.
    pub(crate) origin_read: bool,
    /// Ended errands whose node was not looked at since, by task.
    pub(crate) settling: HashMap<TaskId, Errand>,
    /// Ends that were taken in and may be told again.
    pub(crate) taken_in: HashSet<TaskId>,
    /// Ends up to this moment were taken in by a controller before, in milliseconds since 1970.
    pub(crate) seen_until: i64,
    /// Failures of each file since its last success.
    pub(crate) tries: HashMap<FileId, u32>,
    /// Deletes that were issued a moment ago: when, and on which node.
    pub(crate) issued: Vec<(i64, NodeIx)>,
    /// Deletes are held back until then: what was remembered is lost.
    pub(crate) amnesia_until: i64,
    /// A person's word that the catalogue is right as it is.
    pub(crate) accept_catalogue: bool,
    /// The catalogue shall be read again, although it has not changed.
    pub(crate) look_again: bool,
    /// What a person holds back, beside what the job's file says.
    pub(crate) held: Freeze,
}

impl State {
    /// Takes in a look. Returns whether something changed that decisions hang on, and whether another look is needed
    /// at once.
    pub(crate) fn take(&mut self, place: NodeIx, sighting: Sighting, now: i64) -> (bool, bool) {
        let at = place.index();
        self.world.now = now;
        let before = self.mark(place);
        let sight = &mut self.sights[at];
        let first = !std::mem::replace(&mut sight.looked, true);
        let was_up = self.world.nodes[at].up;
        sight.stale = sighting.stale;
        let up = match &sighting.beat {
            Ok(_) => {
                (sight.misses, sight.answers) = (0, sight.answers.saturating_add(1));
                sight.fault = None;
                was_up || first || sight.answers >= ANSWERS
            }
            Err(why) => {
                (sight.misses, sight.answers) = (sight.misses.saturating_add(1), 0);
                sight.fault = Some(why.clone());
                was_up && sight.misses < MISSES
            }
        };
        self.world.beat(place, up);
        let node = self.world.node_mut(place);
        match sighting.beat {
            Ok(off) => node.clock_off = off,
            Err(_) => {
                node.space = None;
                self.world.listed(place, Err(ListingFault::NoAnswer));
                return (first || self.mark(place) != before, false);
            }
        }
        if self.sights[at].dirty.is_some_and(|dirty| sighting.began <= dirty) {
            // It may have been answered before what ended there had ended.
            return (first || self.mark(place) != before, true);
        }
        self.world.node_mut(place).space = sighting.space;
        match sighting.listing {
            None => {
                let node = self.world.node_mut(place);
                (node.listed_at, node.answer) = (now, node.answer + 1);
            }
            Some(came) => {
                let listing = self.read(place, came);
                let whole = listing.is_ok();
                self.world.listed(place, listing);
                self.sights[at].generation = sighting.generation.filter(|_| whole);
            }
        }
        let settled = self.sights[at].dirty.take().is_some();
        if settled {
            let addr = self.world.fleet[place].addr.clone();
            self.settling.retain(|_, errand| match errand {
                Errand::Copy { destination, .. } => *destination != addr,
                Errand::Delete { node, .. } => *node != place,
            });
        }
        let doubted = self.world.node(place).doubted.is_some();
        (first || settled || doubted || self.mark(place) != before, false)
    }

    /// What decisions hang on.
    fn mark(&self, place: NodeIx) -> (bool, bool, Result<u64, ListingFault>) {
        let node = self.world.node(place);
        (
            node.up,
            node.space.is_some(),
            node.listing.as_ref().map(|listing| listing.fingerprint()).map_err(Clone::clone),
        )
    }

    fn read(&mut self, place: NodeIx, came: Came) -> Result<Listing, ListingFault> {
        let most = self.world.settings.listing_max_age_sec;
        match came {
            Came::Fault(fault) => Err(fault),
            Came::Lines { status, content_type, body, complete, age } => {
                let answer =
                    listing::Answer { status, content_type: &content_type, age_sec: age, complete, body: &body };
                listing::read(&mut self.world.names, &answer, most)
            }
            Came::Inventory(inventory) => {
                let mut ids = Vec::with_capacity(inventory.items.len());
                let names = inventory.items.iter().map(|item| item.name.as_bytes());
                self.world.names.intern_all(names, &mut ids).ok_or(ListingFault::TooMany)?;
                let versions = ids.iter().zip(&inventory.items).map(|(id, item)| (*id, digest(&item.version)));
                let mut versions: Vec<(FileId, u64)> = versions.collect();
                versions.sort_unstable();
                self.sights[place.index()].versions = Arc::new(versions);
                let sized = ids.into_iter().zip(inventory.items.iter().map(|item| item.size));
                Ok(Listing::with_sizes(sized.collect()))
            }
        }
    }

    /// The digest of the version of a file as its node listed it.
    pub(crate) fn version(&self, place: NodeIx, file: FileId) -> Option<u64> {
        let versions = &self.sights[place.index()].versions;
        versions.binary_search_by_key(&file, |(id, _)| *id).ok().map(|at| versions[at].1)
    }

    /// What a task of the job is about; `None` when its nodes are not configured any more.
    pub(crate) fn errand(&mut self, task_type: &str, input: &serde_json::Value) -> Option<Errand> {
        match task_type {
            COPY | COPY_LEGACY => {
                let order: CopyOrder = serde_json::from_value(input.clone()).ok()?;
                let file = self.world.names.intern(order.name.as_bytes())?;
                Some(Errand::Copy { file, source: order.source, destination: order.destination })
            }
            DELETE => {
                let order: DeleteOrder = serde_json::from_value(input.clone()).ok()?;
                let file = self.world.names.intern(order.name.as_bytes())?;
                Some(Errand::Delete { file, node: self.world.fleet.find(&order.node)? })
            }
            _ => None,
        }
    }

    /// Takes in how tasks ended: what came and went, what failed and when it may be tried again.
    pub(crate) fn fold(&mut self, ended: &[Ended], mono: Duration, now: i64) {
        self.world.now = now;
        let told: HashSet<TaskId> = ended.iter().map(|end| end.task.id).collect();
        self.taken_in.retain(|id| told.contains(id));
        for end in ended {
            let at = end.at.as_millisecond();
            let old = end.again && at <= self.seen_until;
            if !self.taken_in.insert(end.task.id) || old {
                continue;
            }
            self.seen_until = self.seen_until.max(at);
            let Some(errand) = self.errand(&end.task.task_type, &end.task.input) else { continue };
            let began = match &end.outcome {
                Outcome::Ignored { .. } => false,
                Outcome::Failed { failure } => failure.code != crate::copy::NODE_DOWN,
                _ => true,
            };
            match &errand {
                Errand::Copy { file, source, destination } => {
                    let Some(place) = self.world.fleet.find(destination) else { continue };
                    match &end.outcome {
                        Outcome::Succeeded { .. } => self.came(place, *file, end.at.as_second().min(now)),
                        Outcome::Failed { failure } => self.failed(*file, source, place, &failure.code, now),
                        _ => {}
                    }
                    self.soil(place, mono, began);
                }
                Errand::Delete { node, .. } => self.soil(*node, mono, began),
            }
            if began {
                self.settling.insert(end.task.id, errand);
            }
        }
    }

    fn soil(&mut self, place: NodeIx, mono: Duration, began: bool) {
        if began {
            self.sights[place.index()].dirty = Some(mono);
        }
    }

    /// A copy came: it is there, also if the node is never seen again.
    fn came(&mut self, place: NodeIx, file: FileId, at: i64) {
        let failures: Vec<(FileId, NodeIx)> =
            self.world.failures.keys().filter(|(failed, _)| *failed == file).copied().collect();
        for key in failures {
            self.world.failures.remove(&key);
        }
        self.world.retry_not_before.remove(&file);
        self.tries.remove(&file);
        let sight = &mut self.sights[place.index()];
        (sight.streak, sight.rests) = ((0, None), 0);
        let node = self.world.node_mut(place);
        node.copied_at.insert(file, at);
        node.deleted.remove(&file);
        if let Some(accepted) = node.accepted.as_ref().filter(|accepted| !accepted.has(file)) {
            let ids = accepted.ids().iter().copied().chain([file]).collect();
            node.accepted = Some(Arc::new(Listing::new(ids)));
        }
    }

    fn failed(&mut self, file: FileId, source: &str, place: NodeIx, code: &str, now: i64) {
        // Nobody has tried: another node, or this one when it is back, may have it at once.
        if code == crate::copy::NODE_DOWN && !self.world.node(place).up {
            return;
        }
        let tries = self.tries.entry(file).or_default();
        *tries = tries.saturating_add(1);
        let wait = FIRST_WAIT << (*tries - 1).min(6);
        self.world.retry_not_before.insert(file, now + wait.min(windlass_distribute::world::LONGEST_WAIT));
        if let Some(source) = self.world.fleet.find(source) {
            *self.world.failures.entry((file, source)).or_default() += 1;
        }
        // A source's fault says nothing about the node that asked.
        if code.starts_with("source") {
            return;
        }
        let sight = &mut self.sights[place.index()];
        if sight.streak.1 != Some(file) {
            sight.streak = (sight.streak.0 + 1, Some(file));
        }
        if sight.streak.0 >= RESTED {
            let wait = FIRST_WAIT << sight.rests.min(6);
            (sight.streak, sight.rests) = ((0, None), sight.rests.saturating_add(1));
            self.world.node_mut(place).rest_until = now + wait.min(windlass_distribute::world::LONGEST_WAIT);
        }
    }

    /// Files that failed too often.
    pub(crate) fn parked(&self) -> impl Iterator<Item = FileId> {
        self.tries.iter().filter(|(_, tries)| **tries >= PARKED).map(|(file, _)| *file)
    }

    /// What is under way, as far as anybody knows.
    pub(crate) fn under_way(&mut self, in_flight: &[InFlight]) -> Vec<(TaskId, Errand, bool)> {
        let mut all = Vec::with_capacity(in_flight.len() + self.settling.len());
        for one in in_flight {
            let running = one.worker.is_some();
            if let Some(errand) = self.errand(&one.task.task_type, &one.task.input) {
                all.push((one.task.id, errand, running));
            }
        }
        all.extend(self.settling.iter().map(|(id, errand)| (*id, errand.clone(), true)));
        all.sort_unstable_by_key(|(id, ..)| *id);
        all
    }

    /// Shows the world as it will be once what goes is gone: files that are being deleted count as gone, their bytes as
    /// free, and copies on their way as transfers. Returns what [`State::uncover`] needs.
    pub(crate) fn cover(&mut self, under_way: &[(TaskId, Errand, bool)]) -> Vec<(NodeIx, NodeState)> {
        self.world.transfers.clear();
        let mut going: HashMap<NodeIx, Vec<FileId>> = HashMap::new();
        let now = self.world.now;
        for (id, errand, running) in under_way {
            match errand {
                Errand::Copy { file, source, destination } => self.world.transfers.push(OpenTransfer {
                    id: id.to_string(),
                    file: *file,
                    source: source.clone(),
                    destination: destination.clone(),
                    status: if *running { TransferStatus::Working } else { TransferStatus::Ready },
                    touched: now,
                }),
                Errand::Delete { file, node } => going.entry(*node).or_default().push(*file),
            }
        }
        let mut covered = Vec::new();
        for (place, files) in going {
            let node = self.world.node(place);
            let Ok(listing) = &node.listing else { continue };
            let there: HashSet<FileId> = files.into_iter().filter(|file| listing.has(*file)).collect();
            if there.is_empty() {
                continue;
            }
            let rest = Listing::new(listing.ids().iter().copied().filter(|file| !there.contains(file)).collect());
            let bytes: i64 = there.iter().map(|file| self.world.size(*file)).sum();
            let shown = NodeState {
                listing: Ok(Arc::new(rest)),
                space: node.space.map(|space| Space {
                    used: space.used.saturating_sub(bytes).max(0),
                    avail: space.avail.saturating_add(bytes.min(space.used)),
                }),
                ..node.clone()
            };
            let node = self.world.node_mut(place);
            covered.push((place, std::mem::replace(node, shown)));
            node.deleted.extend(there);
        }
        covered
    }

    /// Shows what nodes said again, and keeps what was remembered meanwhile.
    pub(crate) fn uncover(&mut self, covered: Vec<(NodeIx, NodeState)>) {
        for (place, said) in covered {
            let node = self.world.node_mut(place);
            (node.listing, node.space) = (said.listing, said.space);
        }
    }
}

/// A version in eight bytes.
pub(crate) fn digest(version: &str) -> u64 {
    xxh3_64(version.as_bytes())
}
