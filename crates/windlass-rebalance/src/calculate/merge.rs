//! Merges the sorted lists of all agents into one stream of ids with their copies.
//!
//! A binary heap of list numbers, ordered by the id each list stands at. The first eight bytes of an id are kept as a
//! number beside it, so that most comparisons touch no heap memory.

use std::cmp::Ordering;

use super::error::{BoxError, CalculateError};
use super::inputs::{Agent, CopyEntry, CopyLists, Mark, SortedCopies, SortedIds};

/// One copy of the id the merge stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) agent: u16,
    pub(crate) time: i64,
    pub(crate) number: u32,
    pub(crate) invalid: bool,
}

struct Head<'l> {
    list: Box<dyn SortedCopies + 'l>,
    entry: CopyEntry,
    prefix: u64,
    entries: u64,
}

/// All lists, merged. Holds one id per list.
pub(crate) struct Merge<'l, 'a> {
    agents: &'a [Agent],
    heads: Vec<Head<'l>>,
    heap: Vec<u16>,
    held_off: Marked<'l>,
    conflicting: Marked<'l>,
    id: Vec<u8>,
    copies: Vec<Copy>,
    fingerprint: u64,
}

impl<'l, 'a> Merge<'l, 'a> {
    /// Opens every list at its beginning.
    /// The lists of lost agents are wanted only `with_lost`, that is, in their recovery.
    pub(crate) fn open(lists: &'l dyn CopyLists, agents: &'a [Agent], with_lost: bool) -> Result<Self, CalculateError> {
        let mut heads = Vec::with_capacity(agents.len());
        let mut heap = Vec::with_capacity(agents.len());
        for (number, agent) in (0u16..).zip(agents) {
            let list =
                if agent.lives() || with_lost { lists.open(agent.given) } else { Ok(Box::new(Nothing) as Box<_>) };
            let list = list.map_err(|source| CalculateError::List { agent: agent.input.name.clone(), source })?;
            let mut head = Head { list, entry: CopyEntry::default(), prefix: 0, entries: 0 };
            if head.advance(agent)? {
                heap.push(number);
            }
            heads.push(head);
        }
        let mut merge = Self {
            agents,
            heads,
            heap,
            held_off: Marked::open(lists, Mark::HeldOff)?,
            conflicting: Marked::open(lists, Mark::Conflicting)?,
            id: Vec::new(),
            copies: Vec::new(),
            fingerprint: 0,
        };
        for at in (0..merge.heap.len() / 2).rev() {
            merge.sift_down(at);
        }
        Ok(merge)
    }

    /// Goes to the next id; false at the end.
    pub(crate) fn advance(&mut self) -> Result<bool, CalculateError> {
        self.copies.clear();
        let Some(&first) = self.heap.first() else {
            return Ok(false);
        };
        let head = &self.heads[usize::from(first)];
        let prefix = head.prefix;
        self.id.clear();
        self.id.extend_from_slice(&head.entry.id);
        while let Some(&top) = self.heap.first() {
            let head = &mut self.heads[usize::from(top)];
            if head.prefix != prefix || head.entry.id != self.id {
                break;
            }
            let CopyEntry { time, number, invalid, .. } = head.entry;
            let seen = prefix ^ (time as u64).rotate_left(21) ^ (u64::from(top) << 48) ^ u64::from(number);
            self.fingerprint = (self.fingerprint ^ seen).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
            self.copies.push(Copy { agent: top, time, number, invalid });
            let agent = &self.agents[usize::from(top)];
            if head.advance(agent)? {
                if head.entry.id <= self.id {
                    return Err(CalculateError::NotSorted { agent: agent.input.name.clone(), entry: head.entries });
                }
            } else {
                self.heap.swap_remove(0);
            }
            self.sift_down(0);
        }
        Ok(true)
    }

    /// The id the merge stands at.
    pub(crate) fn id(&self) -> &[u8] {
        &self.id
    }

    /// The copies of the id, in ascending order of agents; never empty after a successful [`Merge::advance`].
    pub(crate) fn copies(&self) -> &[Copy] {
        &self.copies
    }

    /// A number that differs when anything read so far differs, short of ids that differ after their eighth byte.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whether the id was moved a short while ago. Must be asked for every id or none.
    pub(crate) fn is_held_off(&mut self) -> Result<bool, CalculateError> {
        self.held_off.contains(&self.id)
    }

    /// Whether the id is known to have different vectors under one time.
    pub(crate) fn is_conflicting(&mut self) -> Result<bool, CalculateError> {
        self.conflicting.contains(&self.id)
    }

    fn less(&self, a: u16, b: u16) -> bool {
        let (left, right) = (&self.heads[usize::from(a)], &self.heads[usize::from(b)]);
        let order = left.prefix.cmp(&right.prefix).then_with(|| left.entry.id.cmp(&right.entry.id));
        // Equal ids leave the heap in the order of agents, which makes the copies sorted.
        order.then(a.cmp(&b)) == Ordering::Less
    }

    fn sift_down(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            if left >= self.heap.len() {
                return;
            }
            let child =
                if right < self.heap.len() && self.less(self.heap[right], self.heap[left]) { right } else { left };
            if !self.less(self.heap[child], self.heap[at]) {
                return;
            }
            self.heap.swap(at, child);
            at = child;
        }
    }
}

impl Head<'_> {
    fn advance(&mut self, agent: &Agent) -> Result<bool, CalculateError> {
        let more = self
            .list
            .next(&mut self.entry)
            .map_err(|source| CalculateError::List { agent: agent.input.name.clone(), source })?;
        if more {
            self.prefix = prefix_of(&self.entry.id);
            self.entries += 1;
        }
        Ok(more)
    }
}

/// The list of an agent that has none to offer.
struct Nothing;

impl SortedCopies for Nothing {
    fn next(&mut self, _: &mut CopyEntry) -> Result<bool, BoxError> {
        Ok(false)
    }
}

/// The first eight bytes as a big-endian number, zeros standing for what a shorter id lacks: orders as the ids do,
/// except that different ids can be equal.
fn prefix_of(id: &[u8]) -> u64 {
    if let Some(first) = id.first_chunk::<8>() {
        return u64::from_be_bytes(*first);
    }
    let mut bytes = [0; 8];
    bytes[..id.len()].copy_from_slice(id);
    u64::from_be_bytes(bytes)
}

/// A sorted list of ids read alongside the merge.
struct Marked<'l> {
    mark: Mark,
    list: Option<Box<dyn SortedIds + 'l>>,
    id: Vec<u8>,
    previous: Vec<u8>,
    entries: u64,
}

impl<'l> Marked<'l> {
    fn open(lists: &'l dyn CopyLists, mark: Mark) -> Result<Self, CalculateError> {
        let list = lists.open_marked(mark).map_err(|source| CalculateError::Marks { which: mark.name(), source })?;
        let mut marked = Self { mark, list, id: Vec::new(), previous: Vec::new(), entries: 0 };
        marked.step()?;
        Ok(marked)
    }

    fn contains(&mut self, id: &[u8]) -> Result<bool, CalculateError> {
        while self.list.is_some() && self.id.as_slice() < id {
            self.step()?;
        }
        Ok(self.list.is_some() && self.id == id)
    }

    fn step(&mut self) -> Result<(), CalculateError> {
        let Some(list) = &mut self.list else {
            return Ok(());
        };
        std::mem::swap(&mut self.id, &mut self.previous);
        let more =
            list.next(&mut self.id).map_err(|source| CalculateError::Marks { which: self.mark.name(), source })?;
        self.entries += 1;
        if !more {
            self.list = None;
        } else if self.entries > 1 && self.id < self.previous {
            return Err(CalculateError::MarksNotSorted { which: self.mark.name(), entry: self.entries });
        }
        Ok(())
    }
}
