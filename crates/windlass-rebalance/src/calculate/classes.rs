//! Ids in the same situation, counted together.
//!
//! What can be done about an id depends only on which agents hold it, which of those copies are old, and whether it
//! may be moved. Ids that agree in this form a *class*; of thirty million ids on three agents there are a handful of
//! classes. The solver works on classes and counts, never on ids.

use super::error::CalculateError;
use super::inputs::{Agent, AgentState};
use super::merge::{Copy, Merge};

/// Number of a class.
pub(crate) type ClassIndex = u32;

/// What the planner sees in one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// Its situation is the class of which the key is in [`Sorter::key`].
    Class,
    /// Empty or not UTF-8: no request can name it.
    NotMovable,
    /// At least one agent found its copy broken.
    Invalid,
    /// Different vectors under the same time.
    Conflicting,
    /// A recovery has nothing to do with it: it was not on a lost agent.
    Untouched,
}

const HELD_OFF: u16 = 1;
const LOST_EVERYWHERE: u16 = 2;
const HEADER: usize = 4;

/// Turns the copies of an id into the key of its class: flags, three lengths, then the agents with the newest copy,
/// those with an older one, and the lost ones with the newest lost copy.
#[derive(Debug)]
pub(crate) struct Sorter {
    replicas: usize,
    recovery: bool,
    key: Vec<u16>,
}

impl Sorter {
    pub(crate) fn new(replicas: u32, recovery: bool) -> Self {
        Self { replicas: replicas as usize, recovery, key: Vec::new() }
    }

    /// The key of the id sorted last, if that was [`Sort::Class`].
    pub(crate) fn key(&self) -> &[u16] {
        &self.key
    }

    /// Sorts the id the merge stands at.
    pub(crate) fn sort(&mut self, merge: &mut Merge<'_, '_>, agents: &[Agent]) -> Result<Sort, CalculateError> {
        let held_off = merge.is_held_off()?;
        let conflicting = merge.is_conflicting()?;
        let copies = merge.copies();
        let lost = |copy: &&Copy| agents[usize::from(copy.agent)].state == AgentState::Lost;
        if self.recovery && !copies.iter().any(|copy| lost(&copy)) {
            return Ok(Sort::Untouched);
        }
        if merge.id().is_empty() || std::str::from_utf8(merge.id()).is_err() {
            return Ok(Sort::NotMovable);
        }
        if copies.iter().any(|copy| copy.invalid) {
            return Ok(Sort::Invalid);
        }
        if conflicting {
            return Ok(Sort::Conflicting);
        }
        let known = |copy: &&Copy| agents[usize::from(copy.agent)].input.times_known;
        let newest = copies.iter().filter(|copy| !lost(copy) && known(copy)).map(|copy| copy.time).max();
        let fresh = |copy: &&Copy| !known(copy) || Some(copy.time) == newest;

        self.key.clear();
        self.key.extend([0; HEADER]);
        let mut push = |slot: usize, wanted: &dyn Fn(&&Copy) -> bool| {
            let before = self.key.len();
            self.key.extend(copies.iter().filter(wanted).map(|copy| copy.agent));
            // An id has at most one copy per agent, and agents are at most 65 535.
            self.key[slot] = (self.key.len() - before) as u16;
        };
        push(1, &|copy| !lost(copy) && fresh(copy));
        push(2, &|copy| !lost(copy) && !fresh(copy));
        if self.recovery {
            let newest_lost = copies.iter().filter(lost).map(|copy| copy.time).max();
            push(3, &|copy| lost(copy) && Some(copy.time) == newest_lost);
            if copies.iter().filter(lost).count() >= self.replicas {
                self.key[0] |= LOST_EVERYWHERE;
            }
        } else if held_off {
            self.key[0] |= HELD_OFF;
        }
        if !self.recovery && self.key[1] == 0 && self.key[2] == 0 {
            // Only on agents that are lost, in a plan that is not their recovery.
            return Ok(Sort::Untouched);
        }
        Ok(Sort::Class)
    }
}

/// Time the plan knows for an id: the newest, of the living copies if there are any.
pub(crate) fn newest(copies: &[Copy], agents: &[Agent]) -> i64 {
    let best = |wanted: &dyn Fn(&Agent) -> bool| {
        copies.iter().filter(|copy| wanted(&agents[usize::from(copy.agent)])).map(|copy| copy.time).max()
    };
    best(&|agent| agent.lives() && agent.input.times_known)
        .or_else(|| best(&|agent| agent.lives()))
        .or_else(|| best(&|_| true))
        .unwrap_or(0)
}

#[derive(Debug)]
struct Class {
    key: u32,
    count: u64,
}

/// All classes seen. Keys lie one after the other in a single vector; the table of an open-addressing hash holds
/// class numbers only, so that a class costs some 40 bytes.
#[derive(Debug)]
pub(crate) struct Classes {
    keys: Vec<u16>,
    classes: Vec<Class>,
    slots: Vec<ClassIndex>,
    last: Option<ClassIndex>,
    most_bytes: usize,
    /// Ids whose class no longer fitted.
    scattered: u64,
}

const EMPTY: ClassIndex = ClassIndex::MAX;

impl Classes {
    /// A table that never holds more than about `most_bytes`.
    pub(crate) fn new(most_bytes: usize) -> Self {
        Self { keys: Vec::new(), classes: Vec::new(), slots: vec![EMPTY; 64], last: None, most_bytes, scattered: 0 }
    }

    /// Counts one more id under its key. Classes that no longer fit are not kept: their ids are only counted.
    pub(crate) fn count(&mut self, key: &[u16]) {
        match self.find(key) {
            Ok(class) => {
                self.classes[class as usize].count += 1;
                self.last = Some(class);
            }
            Err(slot) => match self.insert(key, slot) {
                Some(class) => self.last = Some(class),
                None => self.scattered += 1,
            },
        }
    }

    /// The class of a key, `None` for one that did not fit.
    pub(crate) fn get(&mut self, key: &[u16]) -> Option<ClassIndex> {
        let found = self.find(key).ok();
        self.last = found.or(self.last);
        found
    }

    pub(crate) fn len(&self) -> u32 {
        self.classes.len() as u32
    }

    /// Ids of the class.
    pub(crate) fn ids(&self, class: ClassIndex) -> u64 {
        self.classes[class as usize].count
    }

    /// Ids whose class did not fit into the memory allowed.
    pub(crate) fn scattered(&self) -> u64 {
        self.scattered
    }

    /// Living agents with the newest copy, ascending.
    pub(crate) fn fresh(&self, class: ClassIndex) -> &[u16] {
        self.part(class, 1)
    }

    /// Living agents with an older copy, ascending.
    pub(crate) fn stale(&self, class: ClassIndex) -> &[u16] {
        self.part(class, 2)
    }

    /// Lost agents with the newest of the lost copies, ascending. Only in a recovery.
    pub(crate) fn lost(&self, class: ClassIndex) -> &[u16] {
        self.part(class, 3)
    }

    /// The ids were moved a short while ago.
    pub(crate) fn held_off(&self, class: ClassIndex) -> bool {
        self.keys[self.classes[class as usize].key as usize] & HELD_OFF != 0
    }

    /// As many lost agents held the ids as there should have been copies.
    pub(crate) fn lost_everywhere(&self, class: ClassIndex) -> bool {
        self.keys[self.classes[class as usize].key as usize] & LOST_EVERYWHERE != 0
    }

    /// Bytes reserved.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.capacity() * size_of::<u16>()
            + self.classes.capacity() * size_of::<Class>()
            + self.slots.capacity() * size_of::<ClassIndex>()
    }

    fn part(&self, class: ClassIndex, which: usize) -> &[u16] {
        let start = self.classes[class as usize].key as usize;
        let lengths = &self.keys[start..start + HEADER];
        let from = start + HEADER + lengths[1..which].iter().map(|&len| usize::from(len)).sum::<usize>();
        &self.keys[from..from + usize::from(lengths[which])]
    }

    fn key_of(&self, class: ClassIndex) -> &[u16] {
        let start = self.classes[class as usize].key as usize;
        let len: usize = self.keys[start + 1..start + HEADER].iter().map(|&len| usize::from(len)).sum();
        &self.keys[start..start + HEADER + len]
    }

    fn find(&self, key: &[u16]) -> Result<ClassIndex, usize> {
        if let Some(last) = self.last
            && self.key_of(last) == key
        {
            return Ok(last);
        }
        let mask = self.slots.len() - 1;
        let mut slot = mix(key) as usize & mask;
        loop {
            match self.slots[slot] {
                EMPTY => return Err(slot),
                class if self.key_of(class) == key => return Ok(class),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    fn insert(&mut self, key: &[u16], slot: usize) -> Option<ClassIndex> {
        // Vectors double when they grow, so half of what is allowed is what may be filled.
        let filled = self.keys.len() * size_of::<u16>()
            + self.classes.len() * (size_of::<Class>() + 2 * size_of::<ClassIndex>());
        if filled + size_of_val(key) > self.most_bytes / 2 {
            return None;
        }
        let class = self.len();
        self.classes.push(Class { key: u32::try_from(self.keys.len()).ok()?, count: 1 });
        self.keys.extend_from_slice(key);
        self.slots[slot] = class;
        if self.classes.len() * 2 > self.slots.len() {
            self.grow();
        }
        Some(class)
    }

    fn grow(&mut self) {
        let mask = self.slots.len() * 2 - 1;
        self.slots = vec![EMPTY; mask + 1];
        for class in 0..self.len() {
            let mut slot = mix(self.key_of(class)) as usize & mask;
            while self.slots[slot] != EMPTY {
                slot = (slot + 1) & mask;
            }
            self.slots[slot] = class;
        }
    }
}

/// A multiply-and-rotate hash: keys are a few small numbers, and the table is not reachable from outside.
fn mix(key: &[u16]) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for &word in key {
        state = (state ^ u64::from(word)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
    }
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_again_with_its_count() {
        let mut classes = Classes::new(1 << 20);
        let key = |at: u16| [0, 2, 0, 0, at, at + 1];
        for round in 0..3 {
            for at in 0..1000 {
                classes.count(&key(at));
                assert_eq!(classes.get(&key(at)), Some(u32::from(at)), "round {round}");
            }
        }
        assert_eq!((classes.len(), classes.ids(7), classes.scattered()), (1000, 3, 0));
        assert_eq!(classes.fresh(7), [7, 8]);
        assert_eq!(classes.get(&[0, 1, 0, 0, 5]), None);
    }

    #[test]
    fn classes_that_do_not_fit_are_counted_and_left_out() {
        let mut classes = Classes::new(64 << 10);
        for at in 0..20_000 {
            classes.count(&[0, 1, 1, 0, at, at]);
        }
        assert!(classes.scattered() > 0);
        assert_eq!(u64::from(classes.len()) + classes.scattered(), 20_000);
        assert!(classes.bytes() <= 64 << 10, "{}", classes.bytes());
    }
}
