//! Who gets the next free place of this process.
//!
//! Jobs coordinated here and tasks offered by coordinators elsewhere share the places of one process. A place that
//! becomes free is *granted* to the asker that ranks first, who is woken and takes it; nobody who asks later can
//! snatch it. While nobody waits, taking a place costs one look under a lock.
//!
//! Askers rank by
//!
//! ```text
//! priority of the job + one for each 10 s since it began to wait, or was last granted a place
//! ```
//!
//! larger first; among equals the one that holds fewer places; then the one that waits longer. So a job of higher
//! priority goes first, jobs of equal priority share evenly, and a job whose priority is lower by `n` gets a place
//! at the latest after `10 n` seconds: nothing starves.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use windlass_clock::SharedClock;
use windlass_model::JobId;

use crate::bell::Bell;

/// Waiting this long counts as much as one step of priority.
const STEP: Duration = Duration::from_secs(10);

/// On whose behalf a place is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asker {
    /// The coordinator of a job, in this process.
    Coordinator(JobId),
    /// A job that offers tasks, coordinated elsewhere.
    Offers(JobId),
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// As many tasks of the type run as may.
    OfType,
    /// None at all for this asker.
    AtAll,
}

#[derive(Debug)]
struct Standing {
    priority: i32,
    held: usize,
    /// Places set aside for it that it has not taken yet.
    granted: usize,
    /// Places it could use now, granted ones among them.
    wanted: usize,
    since: Duration,
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Limit and use of the types that have a limit.
    types: BTreeMap<&'static str, (usize, usize)>,
    /// Whoever holds or wants a place. Ordered, so that simulated runs replay.
    askers: BTreeMap<Asker, Standing>,
}

/// The places of one process.
#[derive(Debug)]
pub(crate) struct Arbiter {
    state: Mutex<State>,
    clock: SharedClock,
    total: usize,
    /// Rings when a type that was at its limit no longer is.
    pub(crate) type_freed: Bell,
}

/// A place, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    arbiter: Arc<Arbiter>,
    asker: Asker,
    task_type: Option<&'static str>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.arbiter.state();
        state.free += 1;
        if let Some(standing) = state.askers.get_mut(&self.asker) {
            standing.held = standing.held.saturating_sub(1);
        }
        let mut freed = false;
        if let Some((limit, used)) = self.task_type.and_then(|name| state.types.get_mut(name)) {
            freed = *used == *limit;
            *used = used.saturating_sub(1);
        }
        state.forget(self.asker);
        state.share(self.arbiter.clock.monotonic());
        drop(state);
        if freed {
            self.arbiter.type_freed.ring();
        }
    }
}

/// What somebody wants of the arbiter. When it is dropped, wherever its owner was broken off, nothing stays set
/// aside for an asker who is gone.
#[derive(Debug)]
pub(crate) struct Wants {
    arbiter: Arc<Arbiter>,
    /// Rings with each grant.
    pub(crate) grants: Arc<Bell>,
    asking: BTreeMap<Asker, usize>,
}

impl Wants {
    pub(crate) fn new(arbiter: &Arc<Arbiter>) -> Self {
        Self { arbiter: arbiter.clone(), grants: Arc::default(), asking: BTreeMap::new() }
    }

    /// As [`Arbiter::want`]. Wanting nothing after having wanted nothing costs nothing.
    pub(crate) fn want(&mut self, asker: Asker, priority: i32, wanted: usize) {
        if wanted == 0 && self.asking.remove(&asker).is_none() {
            return;
        }
        if wanted > 0 {
            self.asking.insert(asker, wanted);
        }
        self.arbiter.want(asker, priority, wanted, &self.grants);
    }

    /// Wants nothing any more for askers that are not among these.
    pub(crate) fn only(&mut self, keep: impl Fn(&Asker) -> bool) {
        let gone: Vec<Asker> = self.asking.keys().filter(|asker| !keep(asker)).copied().collect();
        for asker in gone {
            self.want(asker, 0, 0);
        }
    }
}

impl Drop for Wants {
    fn drop(&mut self) {
        self.only(|_| false);
    }
}

impl State {
    /// Hands out what is free, one place at a time.
    fn share(&mut self, now: Duration) {
        while self.free > 0 {
            let waiting = self.askers.iter_mut().filter(|(_, standing)| standing.wanted > standing.granted);
            let first = waiting.min_by_key(|(asker, standing)| {
                let steps = now.saturating_sub(standing.since).as_secs() / STEP.as_secs();
                let rank = i64::from(standing.priority).saturating_add(i64::try_from(steps).unwrap_or(i64::MAX));
                (Reverse(rank), standing.held + standing.granted, standing.since, **asker)
            });
            let Some((_, standing)) = first else { return };
            standing.granted += 1;
            standing.since = now;
            self.free -= 1;
            standing.bell.ring();
        }
    }

    fn forget(&mut self, asker: Asker) {
        if self.askers.get(&asker).is_some_and(|standing| standing.held + standing.granted + standing.wanted == 0) {
            self.askers.remove(&asker);
        }
    }
}

impl Arbiter {
    pub(crate) fn new(
        total: usize,
        types: impl IntoIterator<Item = (&'static str, usize)>,
        clock: SharedClock,
    ) -> Arc<Self> {
        let types = types.into_iter().map(|(name, limit)| (name, (limit.max(1), 0))).collect();
        let state = State { free: total, types, askers: BTreeMap::new() };
        Arc::new(Self { state: Mutex::new(state), clock, total, type_freed: Bell::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a task of this type: one that was granted, or a free one.
    pub(crate) fn take(
        self: &Arc<Self>,
        asker: Asker,
        priority: i32,
        task_type: &str,
        bell: &Arc<Bell>,
    ) -> Result<Place, NoPlace> {
        let mut state = self.state();
        let limited = state.types.get_key_value(task_type).map(|(name, (limit, used))| (*name, used >= limit));
        if limited.is_some_and(|(_, full)| full) {
            return Err(NoPlace::OfType);
        }
        let granted = state.askers.get(&asker).is_some_and(|standing| standing.granted > 0);
        // What is free is wanted by nobody: it would have been granted.
        if !granted && state.free == 0 {
            return Err(NoPlace::AtAll);
        }
        if !granted {
            state.free -= 1;
        }
        let task_type = limited.map(|(name, _)| name);
        if let Some((_, used)) = task_type.and_then(|name| state.types.get_mut(name)) {
            *used += 1;
        }
        let since = self.clock.monotonic();
        let standing = state.askers.entry(asker).or_insert_with(|| Standing {
            priority,
            held: 0,
            granted: 0,
            wanted: 0,
            since,
            bell: bell.clone(),
        });
        standing.held += 1;
        if granted {
            standing.granted -= 1;
            standing.wanted = standing.wanted.saturating_sub(1);
        }
        Ok(Place { arbiter: self.clone(), asker, task_type })
    }

    /// Says how many places the asker could use now, besides those it holds. What was granted beyond that goes to
    /// others. `bell` rings with each grant.
    pub(crate) fn want(&self, asker: Asker, priority: i32, wanted: usize, bell: &Arc<Bell>) {
        let wanted = wanted.min(self.total);
        let mut state = self.state();
        if wanted == 0 && !state.askers.contains_key(&asker) {
            return;
        }
        let now = self.clock.monotonic();
        let standing = state.askers.entry(asker).or_insert_with(|| Standing {
            priority,
            held: 0,
            granted: 0,
            wanted: 0,
            since: now,
            bell: bell.clone(),
        });
        if standing.wanted == 0 {
            standing.since = now;
        }
        standing.bell = bell.clone();
        standing.priority = priority;
        standing.wanted = wanted;
        let surplus = standing.granted.saturating_sub(wanted);
        standing.granted -= surplus;
        state.free += surplus;
        state.forget(asker);
        state.share(now);
    }

    /// Whether the asker could take a place now.
    pub(crate) fn has_place(&self, asker: Asker) -> bool {
        let state = self.state();
        state.free > 0 || state.askers.get(&asker).is_some_and(|standing| standing.granted > 0)
    }

    /// Places that are set aside for the asker.
    pub(crate) fn granted(&self, asker: Asker) -> usize {
        self.state().askers.get(&asker).map_or(0, |standing| standing.granted)
    }

    /// Whether as many tasks of the type run as may.
    pub(crate) fn is_full(&self, task_type: &str) -> bool {
        self.state().types.get(task_type).is_some_and(|(limit, used)| used >= limit)
    }

    /// Places that nobody wants.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.state().free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_clock::SystemClock;

    /// Jobs `a` to `z` with a priority and a number of places wanted; each place is given back as soon as all are
    /// taken, oldest first. Returns who got the first places.
    async fn order(places: usize, jobs: &[(char, i32, usize, u64)], seconds_each: u64, count: usize) -> String {
        let clock: SharedClock = SystemClock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let arbiter = Arbiter::new(places, [], clock.clone());
        let bell = Arc::new(Bell::default());
        let (blocker, asker) =
            (Asker::Offers(JobId::from_bits(0)), |c: char| Asker::Coordinator(JobId::from_bits(c as u128)));
        let mut held: Vec<Place> = (0..places).map(|_| arbiter.take(blocker, 0, "t", &bell).unwrap()).collect();
        let mut left: BTreeMap<char, usize> = jobs.iter().map(|(name, _, wanted, _)| (*name, *wanted)).collect();
        let mut got = String::new();
        let began = clock.monotonic();
        for _ in 0..count {
            for (name, priority, _, from) in jobs {
                if clock.monotonic() >= began + Duration::from_secs(*from) {
                    arbiter.want(asker(*name), *priority, left[name], &bell);
                }
            }
            drop(held.remove(0));
            for (name, priority, _, _) in jobs {
                if arbiter.granted(asker(*name)) > 0 {
                    held.push(arbiter.take(asker(*name), *priority, "t", &bell).unwrap());
                    *left.get_mut(name).unwrap() -= 1;
                    got.push(*name);
                }
            }
            clock.sleep(Duration::from_secs(seconds_each)).await;
        }
        got
    }

    #[tokio::test(start_paused = true)]
    async fn places_go_by_priority_then_evenly_and_waiting_counts() {
        // Equal priority: in turn, however many each one wants.
        assert_eq!(order(1, &[('a', 0, 9, 0), ('b', 0, 2, 0)], 1, 6).await, "ababaa");
        assert_eq!(order(4, &[('a', 0, 9, 0), ('b', 0, 9, 0)], 0, 8).await, "abababab");
        // Higher priority first, until it wants no more.
        assert_eq!(order(1, &[('a', 0, 9, 0), ('b', 5, 3, 0)], 1, 6).await, "bbbaaa");
        // Two steps of priority are worth twenty seconds of waiting.
        assert_eq!(order(1, &[('a', 0, 9, 0), ('b', 2, 99, 0)], 5, 11).await, "bbbbabbbbab");
        // A newcomer of equal priority gets its turn next.
        assert_eq!(order(1, &[('a', 0, 9, 0), ('b', 0, 9, 3)], 1, 6).await, "aaaaba");
    }

    #[tokio::test(start_paused = true)]
    async fn a_granted_place_waits_for_its_asker_and_goes_on_when_it_is_no_longer_wanted() {
        let clock: SharedClock = SystemClock::real();
        let arbiter = Arbiter::new(1, [], clock);
        let bell = Arc::new(Bell::default());
        let (a, b) = (Asker::Coordinator(JobId::from_bits(1)), Asker::Coordinator(JobId::from_bits(2)));
        let place = arbiter.take(a, 0, "t", &bell).unwrap();
        arbiter.want(b, 0, 3, &bell);
        assert_eq!(arbiter.granted(b), 0);
        drop(place);
        assert_eq!((arbiter.granted(b), arbiter.free(), bell.count()), (1, 0, 1));
        assert_eq!(arbiter.take(a, 9, "t", &bell).err(), Some(NoPlace::AtAll), "it is not snatched");
        arbiter.want(b, 0, 0, &bell);
        assert_eq!(arbiter.free(), 1);
        let mut wants = Wants::new(&arbiter);
        wants.want(b, 0, 5);
        assert_eq!((arbiter.granted(b), arbiter.free()), (1, 0));
        drop(wants);
        assert_eq!(arbiter.free(), 1, "what an asker that is gone was granted is free again");
        assert!(arbiter.take(a, 0, "t", &bell).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_type_has_its_own_limit_and_tells_when_it_is_below_it() {
        let arbiter = Arbiter::new(3, [("slow", 1)], SystemClock::real());
        let bell = Arc::new(Bell::default());
        let a = Asker::Coordinator(JobId::from_bits(1));
        let slow = arbiter.take(a, 0, "slow", &bell).unwrap();
        assert_eq!(arbiter.take(a, 0, "slow", &bell).err(), Some(NoPlace::OfType));
        let other = arbiter.take(a, 0, "other", &bell).unwrap();
        drop(other);
        assert_eq!(arbiter.type_freed.count(), 0);
        drop(slow);
        assert_eq!((arbiter.type_freed.count(), arbiter.free()), (1, 3));
        assert!(arbiter.state().askers.is_empty());
    }
}
