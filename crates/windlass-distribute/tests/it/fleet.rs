//! Fake nodes and an origin that misbehave, and a controller around the decisions: everything but the network.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;

use windlass_clock::{Entropy, Seeded};
use windlass_distribute::decide::{Reason, decide};
use windlass_distribute::input::catalogue::Reading;
use windlass_distribute::input::listing::{self, Answer};
use windlass_distribute::input::{Catalogue, ListingFault, Origin, Space, judge};
use windlass_distribute::world::{OpenTransfer, TransferStatus};
use windlass_distribute::{Decisions, FileId, Fleet, NodeIx, Settings, World, invariants};

/// Seconds between two decisions.
pub(crate) const CYCLE: i64 = 30;

pub(crate) struct Dice(Seeded);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Seeded::new(seed))
    }

    pub(crate) fn below(&self, end: usize) -> usize {
        (self.0.next_u64() % end.max(1) as u64) as usize
    }

    pub(crate) fn chance(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// How a node misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// No heartbeat; what it was copying is given up.
    Dead,
    /// Listings: no answer, status 500, cut, empty, the first half, somebody's page, from yesterday.
    ListingSlow,
    ListingError,
    ListingCut,
    ListingEmpty,
    ListingHalf,
    ListingPage,
    ListingOld,
    /// `df` gives no answer that makes sense.
    SpaceGarbage,
    /// Deletes are answered as done, and are not.
    DeletesLie,
    /// Deletes fail.
    DeletesFail,
    /// Copies fail.
    CopiesFail,
}

pub(crate) const LISTING_FAULTS: [Fault; 7] = [
    Fault::ListingSlow,
    Fault::ListingError,
    Fault::ListingCut,
    Fault::ListingEmpty,
    Fault::ListingHalf,
    Fault::ListingPage,
    Fault::ListingOld,
];

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeNode {
    pub(crate) addr: String,
    pub(crate) disk: BTreeMap<String, i64>,
    /// Bytes of its disk, and of what is on it beside the files.
    pub(crate) size: i64,
    pub(crate) other: i64,
    pub(crate) fault: Fault,
    pub(crate) clock_off: i64,
    /// The latest term that it has heard of; older ones are refused.
    pub(crate) term: u64,
    pub(crate) image: Option<BTreeMap<String, i64>>,
}

impl FakeNode {
    pub(crate) fn used(&self) -> i64 {
        self.other + self.disk.values().sum::<i64>()
    }

    fn body(&self) -> Vec<u8> {
        self.disk
            .keys()
            .fold(String::new(), |mut body, name| {
                let _ = writeln!(body, "{name}");
                body
            })
            .into_bytes()
    }
}

/// Everything outside the decisions, and what was seen of them.
pub(crate) struct Rig {
    pub(crate) nodes: Vec<FakeNode>,
    pub(crate) origin: BTreeMap<String, i64>,
    /// The catalogue's names, best first.
    pub(crate) ranked: Vec<String>,
    /// By name, where the history sends viewers.
    pub(crate) claims: BTreeMap<String, Vec<String>>,
    pub(crate) rising: Vec<(Vec<u8>, u32)>,
    pub(crate) now: i64,
    pub(crate) term: u64,
    /// Bytes that a transfer moves in a cycle.
    pub(crate) speed: i64,
    /// By transfer id.
    pub(crate) progress: HashMap<String, i64>,
    next_id: u64,
    /// Names deleted for space or displacement by the decisions before, by node.
    pushed_out: BTreeSet<(NodeIx, FileId)>,
    /// The snapshot of the decisions before.
    before: Option<World>,
}

impl Rig {
    pub(crate) fn new(nodes: Vec<FakeNode>, origin: BTreeMap<String, i64>, ranked: Vec<String>) -> Self {
        Self {
            nodes,
            origin,
            ranked,
            claims: BTreeMap::new(),
            rising: Vec::new(),
            now: 1_767_193_200,
            term: 1,
            speed: i64::MAX,
            progress: HashMap::new(),
            next_id: 1,
            pushed_out: BTreeSet::new(),
            before: None,
        }
    }

    pub(crate) fn world(&self, sources: &[String], settings: Settings) -> World {
        let addrs: Vec<String> = self.nodes.iter().map(|node| node.addr.clone()).collect();
        let fleet = Fleet::new(sources, &addrs, &settings).unwrap();
        let mut world = World::new(settings, fleet);
        self.catalogue(&mut world, &self.ranked.clone());
        self.read_origin(&mut world, None);
        world
    }

    /// A new catalogue comes; it is used if it stands the comparison with the last one.
    pub(crate) fn catalogue(&self, world: &mut World, ranked: &[String]) {
        let mut grades = "filename\tweightcount\n".to_owned();
        let mut history = "historyheader:1\n".to_owned();
        for name in ranked {
            let _ = writeln!(grades, "{name}\t1");
            let size = self.origin.get(name).copied().unwrap_or(1_000_000);
            let ips = self.claims.get(name).map_or_else(String::new, |addrs| {
                addrs.iter().map(|addr| addr.split(':').next().unwrap()).collect::<Vec<_>>().join(" ")
            });
            let _ = writeln!(history, "{name},1,1,{size},{ips},0,0,0,1=0");
        }
        let (grades, history) = (grades.as_bytes(), history.as_bytes());
        let new = Catalogue::read(&mut world.names, &world.fleet, grades, history, Reading::Product).unwrap();
        match judge(&new, Some(&world.catalogue)) {
            Ok(()) => {
                world.catalogue = Arc::new(new);
                world.catalogue_doubt = None;
            }
            Err(why) => world.catalogue_doubt = Some(why.to_string()),
        }
    }

    /// The origin is listed; `unmounted`: it has nothing, and says so.
    pub(crate) fn read_origin(&self, world: &mut World, unmounted: Option<String>) {
        let mut origin = Origin::default();
        match unmounted {
            Some(doubt) => origin.doubts.push(doubt),
            None => {
                for (name, size) in &self.origin {
                    let id = world.names.intern(name.as_bytes()).unwrap();
                    origin.put(id, u64::try_from(*size).unwrap(), 0);
                }
            }
        }
        world.origin = Arc::new(origin);
    }

    fn at(&mut self, world: &World, place: NodeIx) -> &mut FakeNode {
        let addr = &world.fleet[place].addr;
        self.nodes.iter_mut().find(|node| node.addr == *addr).unwrap()
    }

    /// Asks all nodes.
    pub(crate) fn ask(&mut self, world: &mut World) {
        world.now = self.now;
        let rising = self.rising.clone();
        world.set_rising(&rising);
        for node in &self.nodes {
            let place = world.fleet.find(&node.addr).unwrap();
            world.beat(place, node.fault != Fault::Dead);
            let garbage = matches!(node.fault, Fault::SpaceGarbage | Fault::Dead);
            let used = node.used();
            let avail = (node.size - used).max(0);
            let df = format!(
                r#"{{"total_size":"{}","used_size":"{used}","avail_size":"{avail}","used_percent":1,"free_size":"1"}}"#,
                node.size
            );
            let df = if garbage { r#"{"total_size":"12"# } else { &df };
            world.node_mut(place).space = Space::read(df.as_bytes());
            world.node_mut(place).clock_off = Some(node.clock_off);
            let body = node.body();
            let half = body.len() / 2;
            let half = body[..half].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let good = Answer {
                status: 200,
                content_type: "text/plain;charset=UTF-8",
                age_sec: 0,
                complete: true,
                body: &body,
            };
            let answer = match node.fault {
                Fault::ListingError => Answer { status: 500, body: b"", ..good },
                Fault::ListingCut => Answer { complete: false, body: &body[..half], ..good },
                Fault::ListingEmpty => Answer { body: b"", ..good },
                Fault::ListingHalf => Answer { body: &body[..half], ..good },
                Fault::ListingPage => Answer { content_type: "text/html", body: b"<html>\nsorry\n", ..good },
                Fault::ListingOld => Answer { age_sec: 86_400, ..good },
                _ => good,
            };
            let read = match node.fault {
                Fault::Dead | Fault::ListingSlow => Err(ListingFault::NoAnswer),
                _ => listing::read(&mut world.names, &answer, 300),
            };
            world.listed(place, read);
        }
    }

    /// Decides, checks what must never happen, and carries it out. `alone`: no other controller took over.
    pub(crate) fn cycle(&mut self, world: &mut World, dice: &Dice, alone: bool) -> (Decisions, Vec<String>) {
        self.ask(world);
        let decisions = decide(world);
        let mut faults = invariants::check(world, &decisions);
        if decide(world) != decisions {
            faults.push("the same snapshot gave other decisions".to_owned());
        }
        self.check_return(world, &decisions, &mut faults);
        world.remember(&decisions);
        let term = if alone { self.term } else { self.term - 1 };
        self.carry_out(world, &decisions, term, &mut faults);
        self.copy(world, dice);
        self.check_sources(world, &mut faults);
        self.now += CYCLE;
        (decisions, faults)
    }

    /// 8: what was pushed out does not come back to the same node by pushing out others.
    fn check_return(&mut self, world: &World, decisions: &Decisions, faults: &mut Vec<String>) {
        let before = self.before.replace(world.clone());
        for transfer in decisions.transfers.iter().filter(|transfer| transfer.rising == 0) {
            let place = transfer.destination;
            let (true, Some(before)) = (self.pushed_out.contains(&(place, transfer.file)), before.as_ref()) else {
                continue;
            };
            // With another catalogue or other rising files it may be the better one now.
            let same = Arc::ptr_eq(&before.catalogue, &world.catalogue) && before.rising == world.rising;
            // And what it pushes out now may not have been free to go: copied a moment ago, or in a transfer.
            let free = |file: &FileId| {
                let node = before.node(place);
                let copied = node.copied_at.get(file).is_some_and(|at| before.now - at < 600);
                let listed = node.listing.as_ref().is_ok_and(|listing| listing.has(*file));
                listed && !copied && before.origin.has(*file) && !before.transfers.iter().any(|open| open.file == *file)
            };
            if same && !transfer.after.is_empty() && transfer.after.iter().all(free) {
                let name = world.names.shown(transfer.file);
                faults.push(format!("invariant 8: {name} was pushed out and pushes its way back"));
            }
        }
        let pushed = decisions.deletes.iter().filter(|delete| delete.reason != Reason::Duplicate);
        self.pushed_out = pushed.map(|delete| (delete.node, delete.file)).collect();
    }

    fn carry_out(&mut self, world: &mut World, decisions: &Decisions, term: u64, faults: &mut Vec<String>) {
        let mut gone: BTreeSet<(NodeIx, FileId)> = BTreeSet::new();
        for delete in &decisions.deletes {
            let name = String::from_utf8(world.names.get(delete.file).to_vec()).unwrap();
            let in_sight = self.nodes.iter().filter(|node| node.disk.contains_key(&name)).count();
            let on_origin = self.origin.contains_key(&name);
            let node = self.at(world, delete.node);
            if term < node.term {
                continue;
            }
            node.term = term;
            match node.fault {
                Fault::DeletesLie => continue,
                Fault::DeletesFail | Fault::Dead => continue,
                _ => {}
            }
            if !on_origin && in_sight <= 1 {
                faults.push(format!("invariant 2: the last copy of {name} anywhere is deleted"));
            }
            node.disk.remove(&name);
            gone.insert((delete.node, delete.file));
        }
        let closed: BTreeSet<usize> = decisions.closed.iter().map(|(at, _)| *at).collect();
        let mut at = 0;
        let progress = &mut self.progress;
        world.transfers.retain(|transfer| {
            at += 1;
            let over = closed.contains(&(at - 1));
            if over {
                progress.remove(&transfer.id);
            }
            !over
        });
        for transfer in &decisions.transfers {
            if !transfer.after.iter().all(|file| gone.contains(&(transfer.destination, *file))) {
                continue;
            }
            let node = self.at(world, transfer.destination);
            if term < node.term {
                continue;
            }
            node.term = term;
            let id = self.next_id.to_string();
            self.next_id += 1;
            self.progress.insert(id.clone(), 0);
            world.transfers.push(OpenTransfer {
                id,
                file: transfer.file,
                source: world.fleet[transfer.source].addr.clone(),
                destination: world.fleet[transfer.destination].addr.clone(),
                status: TransferStatus::Ready,
                touched: self.now,
            });
        }
    }

    /// Copies go on.
    fn copy(&mut self, world: &mut World, dice: &Dice) {
        let mut ended = Vec::new();
        for transfer in &mut world.transfers {
            let name = String::from_utf8(world.names.get(transfer.file).to_vec()).unwrap();
            let Some(done) = self.progress.get_mut(&transfer.id) else { continue };
            let dead = |addr: &str| self.nodes.iter().any(|node| node.addr == addr && node.fault == Fault::Dead);
            if dead(&transfer.source) || dead(&transfer.destination) {
                continue;
            }
            let Some(size) = self.origin.get(&name).copied() else { continue };
            let node = self.nodes.iter_mut().find(|node| node.addr == transfer.destination).unwrap();
            if node.fault == Fault::CopiesFail && dice.chance(50) {
                transfer.status = TransferStatus::Done;
                ended.push((transfer.clone(), false));
                continue;
            }
            transfer.status = TransferStatus::Working;
            *done = done.saturating_add(self.speed);
            transfer.touched = self.now;
            if *done >= size {
                let fits = node.used() + size <= node.size;
                if fits {
                    // Published at once: readers see all of it or nothing.
                    node.disk.insert(name, size);
                }
                transfer.status = TransferStatus::Done;
                ended.push((transfer.clone(), fits));
            }
        }
        for (transfer, good) in ended {
            let destination = world.fleet.find(&transfer.destination).unwrap();
            let source = world.fleet.find(&transfer.source).unwrap();
            if good {
                world.node_mut(destination).copied_at.insert(transfer.file, self.now);
                world.retry_not_before.remove(&transfer.file);
            } else {
                let failures = world.failures.entry((transfer.file, source)).or_default();
                *failures += 1;
                let wait = 60 << (*failures - 1).min(6);
                world.retry_not_before.insert(transfer.file, self.now + wait);
            }
        }
    }

    /// 5: what really runs, not only what is decided.
    fn check_sources(&self, world: &World, faults: &mut Vec<String>) {
        let mut running: HashMap<&str, u16> = HashMap::new();
        for transfer in world.transfers.iter().filter(|transfer| transfer.status != TransferStatus::Done) {
            *running.entry(&transfer.source).or_default() += 1;
        }
        for (addr, count) in running {
            if count > world.settings.max_outbound_per_source {
                faults.push(format!("invariant 5: {count} transfers run from {addr}"));
            }
        }
    }
}
