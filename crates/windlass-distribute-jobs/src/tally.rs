//! What is counted and measured of the controllers of this process, and the alarms that come with time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use windlass_distribute::input::catalogue::Catalogue;
use windlass_distribute::settings::NodeIx;
use windlass_distribute::{FileId, World};
use windlass_engine::reconcile::Ended;
use windlass_model::task::Outcome;
use windlass_model::{JobId, TaskId};

use crate::keeper::EVERY;
use crate::order::{CopyOrder, DeleteOrder, Why};
use crate::plan::Planned;
use crate::state::State;
use crate::status::word;
use crate::{COPY, COPY_LEGACY, DELETE};

/// A node that is not trusted for longer is told.
const UNTRUSTED: Duration = Duration::from_secs(600);
/// A rising file that waits for longer is told.
const WAITS: Duration = Duration::from_secs(900);
/// After so many intervals without a plan something is wrong.
const LATE: u32 = 3;
/// Lines of each alarm.
const LINES: usize = 5;

/// All controllers of this process.
static TALLIES: Mutex<BTreeMap<JobId, Weak<Tally>>> = Mutex::new(BTreeMap::new());

/// What is counted of one controller, from its beginning in this process on.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counted>);

/// The numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    /// Ended copies, by reason and result.
    pub(crate) copies: BTreeMap<(&'static str, String), u64>,
    /// Ended deletes, by reason and result.
    pub(crate) deletes: BTreeMap<(&'static str, String), u64>,
    /// Bytes that came, by source and node.
    pub(crate) bytes: BTreeMap<(String, String), u64>,
    /// Plans, and how long they took: deciding, and putting down what is to be remembered.
    pub(crate) plans: u64,
    pub(crate) decided: Duration,
    pub(crate) put_down: Duration,
    /// When the last one was made.
    pub(crate) planned_at: Option<Duration>,
    /// As the last plan found it.
    pub(crate) last: Last,
    told: HashSet<TaskId>,
    untrusted: HashMap<NodeIx, Duration>,
    waiting: HashMap<FileId, Duration>,
    catalogue: Option<(Weak<Catalogue>, Duration)>,
}

/// What the last plan found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Last {
    pub(crate) catalogue: usize,
    pub(crate) origin: usize,
    pub(crate) doubted: bool,
    pub(crate) trusted: usize,
    pub(crate) waiting: u64,
    pub(crate) under_way: usize,
    pub(crate) rising: usize,
    pub(crate) parked: usize,
    pub(crate) rising_waits: bool,
    pub(crate) store_fails: bool,
    pub(crate) catalogue_at: Option<Duration>,
    pub(crate) rising_since: Option<Duration>,
    pub(crate) passed: Vec<(String, u64)>,
    pub(crate) malformed: Vec<(&'static str, u64)>,
    pub(crate) nodes: Vec<Seen>,
}

/// A destination, as the last plan found it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) address: String,
    pub(crate) up: bool,
    pub(crate) trusted: bool,
    /// It was not trusted for so long that it is told.
    pub(crate) told: bool,
    pub(crate) files: Option<usize>,
    pub(crate) used: Option<i64>,
    pub(crate) size: Option<i64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The controllers of this process that are still there.
pub(crate) fn all() -> Vec<(JobId, Arc<Tally>)> {
    let mut tallies = lock(&TALLIES);
    tallies.retain(|_, tally| tally.strong_count() > 0);
    tallies.iter().filter_map(|(job, tally)| Some((*job, tally.upgrade()?))).collect()
}

impl Tally {
    /// Of the controller of a job; shown with the metrics of the process as long as it is there.
    pub(crate) fn of(job: JobId) -> Arc<Self> {
        let tally = Arc::new(Self::default());
        lock(&TALLIES).insert(job, Arc::downgrade(&tally));
        tally
    }

    /// The numbers.
    pub(crate) fn read(&self) -> Counted {
        lock(&self.0).clone()
    }

    /// Counts how tasks ended. One that is told again counts once.
    pub(crate) fn ended(&self, ended: &[Ended]) {
        let mut counted = lock(&self.0);
        let now: HashSet<TaskId> = ended.iter().map(|end| end.task.id).collect();
        counted.told.retain(|id| now.contains(id));
        for end in ended {
            let result = match &end.outcome {
                Outcome::Succeeded { .. } => "succeeded".to_owned(),
                Outcome::Failed { failure } => failure.code.clone(),
                _ => "cancelled".to_owned(),
            };
            if !counted.told.insert(end.task.id) || end.again {
                continue;
            }
            match end.task.task_type.as_str() {
                COPY | COPY_LEGACY => {
                    let Ok(order) = serde_json::from_value::<CopyOrder>(end.task.input.clone()) else { continue };
                    let why = if order.rising > 0 { "rising" } else { "rank" };
                    if result == "succeeded" {
                        *counted.bytes.entry((order.source, order.destination)).or_default() += order.size;
                    }
                    *counted.copies.entry((why, result)).or_default() += 1;
                }
                DELETE => {
                    let Ok(order) = serde_json::from_value::<DeleteOrder>(end.task.input.clone()) else { continue };
                    let why = match order.why {
                        Why::Duplicate => "duplicate",
                        Why::Space => "space",
                        Why::Displace => "displace",
                    };
                    *counted.deletes.entry((why, result)).or_default() += 1;
                }
                _ => {}
            }
        }
    }

    /// Takes in a plan, and adds the alarms that come with time to it.
    pub(crate) fn planned(
        &self,
        state: &State,
        planned: &mut Planned,
        now: Duration,
        took: Duration,
        under_way: usize,
    ) {
        let mut counted = lock(&self.0);
        counted.plans += 1;
        counted.decided += took;
        counted.planned_at = Some(now);
        let world = &state.world;
        let trusted: HashSet<NodeIx> = planned.decisions.trusted.iter().copied().collect();
        let untrusted: Vec<NodeIx> = world.fleet.destinations().filter(|place| !trusted.contains(place)).collect();
        let long = since(&mut counted.untrusted, untrusted, now, UNTRUSTED);
        let waiting = waiting(world, planned);
        let rising = since(&mut counted.waiting, waiting, now, WAITS);
        planned.alarms.extend(lines(&long, |place| {
            let why = state.sights[place.index()].fault.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            format!("{} has not been trusted for more than ten minutes{why}", world.fleet[place].addr)
        }));
        planned.alarms.extend(lines(&rising, |file| {
            format!("{} is asked for much and has waited for more than a quarter of an hour", world.names.shown(file))
        }));
        let catalogue = Arc::downgrade(&world.catalogue);
        if !counted.catalogue.as_ref().is_some_and(|(known, _)| known.ptr_eq(&catalogue)) {
            counted.catalogue = Some((catalogue, now));
        }
        let seen = |place: NodeIx| {
            let node = world.node(place);
            Seen {
                address: world.fleet[place].addr.clone(),
                up: node.up,
                trusted: trusted.contains(&place),
                told: long.contains(&place),
                files: node.listing.as_ref().ok().map(|listing| listing.len()),
                used: node.space.map(|space| space.used),
                size: node.space.map(|space| space.size()),
            }
        };
        counted.last = Last {
            catalogue: world.catalogue.len(),
            origin: world.origin.len(),
            doubted: world.catalogue_doubt.is_some(),
            trusted: trusted.len(),
            waiting: planned.decisions.waiting(),
            under_way: under_way + state.settling.len(),
            rising: world.rising.len(),
            parked: state.parked().count(),
            rising_waits: !rising.is_empty(),
            store_fails: counted.last.store_fails,
            catalogue_at: (!world.catalogue.is_empty())
                .then(|| counted.catalogue.as_ref().map(|(_, at)| *at))
                .flatten(),
            rising_since: counted.waiting.values().min().copied(),
            passed: planned.decisions.passed.iter().map(|(why, count)| (word(why), *count)).collect(),
            malformed: state.malformed.iter().map(|(input, bad)| (*input, bad.count)).collect(),
            nodes: world.fleet.destinations().map(seen).collect(),
        };
    }

    /// Notes whether what is to be remembered could be put down, and how long it took.
    pub(crate) fn put_down(&self, good: bool, took: Duration) {
        let mut counted = lock(&self.0);
        counted.put_down += took;
        counted.last.store_fails = !good;
    }
}

impl Counted {
    /// Whether no plan has come for too long.
    pub(crate) fn is_late(&self, now: Duration) -> bool {
        self.planned_at.is_some_and(|at| now.saturating_sub(at) > EVERY * LATE)
    }
}

/// Rising files that no node has and that are not on their way.
fn waiting(world: &World, planned: &Planned) -> Vec<FileId> {
    let comes = |file: FileId| {
        planned.decisions.transfers.iter().any(|transfer| transfer.file == file)
            || world.transfers.iter().any(|open| open.file == file)
    };
    let held =
        |file: FileId| world.nodes.iter().any(|node| node.listing.as_ref().is_ok_and(|listing| listing.has(file)));
    let known = |file: FileId| world.catalogue.rank(file) > 0;
    let files = world.rising.iter().map(|(file, _)| *file);
    files.filter(|file| known(*file) && !held(*file) && !comes(*file)).collect()
}

/// Keeps since when each of them is so; gives those that have been for longer than `limit`, in their order.
fn since<T: Copy + Eq + std::hash::Hash + Ord>(
    known: &mut HashMap<T, Duration>,
    now_so: Vec<T>,
    now: Duration,
    limit: Duration,
) -> Vec<T> {
    let so: HashSet<T> = now_so.iter().copied().collect();
    known.retain(|one, _| so.contains(one));
    let mut long: Vec<T> =
        now_so.into_iter().filter(|one| now.saturating_sub(*known.entry(*one).or_insert(now)) > limit).collect();
    long.sort_unstable();
    long
}

/// A line for each of the first ones, and one that counts the others.
fn lines<T: Copy>(those: &[T], line: impl Fn(T) -> String) -> Vec<String> {
    let mut lines: Vec<String> = those.iter().take(LINES).map(|one| line(*one)).collect();
    if those.len() > LINES {
        lines.push(format!("and so {} more", those.len() - LINES));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_so_for_long_enough_is_told_until_it_is_not() {
        let second = Duration::from_secs(1);
        let mut known = HashMap::new();
        assert_eq!(since(&mut known, vec![2, 1], second, 5 * second), Vec::<i32>::new());
        assert_eq!(since(&mut known, vec![2, 1, 3], 7 * second, 5 * second), [1, 2]);
        assert_eq!(since(&mut known, vec![3], 13 * second, 5 * second), [3]);
        assert_eq!(since(&mut known, vec![2, 3], 14 * second, 5 * second), [3], "it begins anew");
    }

    #[test]
    fn many_lines_are_counted() {
        assert_eq!(lines(&[1, 2], |n| n.to_string()), ["1", "2"]);
        assert_eq!(lines(&[0; 9], |_| "x".to_owned()), ["x", "x", "x", "x", "x", "and so 4 more"]);
    }

    #[test]
    fn without_a_plan_for_three_intervals_it_is_late() {
        let at = |seconds| Duration::from_secs(seconds);
        let counted = Counted { planned_at: Some(at(100)), ..Counted::default() };
        assert!(!counted.is_late(at(115)) && counted.is_late(at(116)) && !Counted::default().is_late(at(1_000)));
    }
}
