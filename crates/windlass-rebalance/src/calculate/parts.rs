//! What is to be done with how many ids of each class, and the counts that follow from it.
//!
//! A class is cut into *parts*: so many of its ids undergo these steps, so many those, and the rest none. Which ids
//! these are is decided later, by hash. Lists of steps are few and are kept once each.

use std::collections::HashMap;

use super::classes::{ClassIndex, Classes};
use super::inputs::{Agent, AgentState};

/// One thing done to one id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Step {
    pub(crate) kind: StepKind,
    /// The agent read from, or the one that loses its copy.
    pub(crate) from: u16,
    /// The agent written to; the same as `from` for a trim.
    pub(crate) to: u16,
}

/// The kinds of steps in the order in which the plan wants them executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum StepKind {
    Refresh,
    Trim,
    Fill,
    Restore,
    Move,
}

impl StepKind {
    /// Whether a vector travels for it.
    pub(crate) fn transfers(self) -> bool {
        self != Self::Trim
    }
}

/// Number of an interned list of steps; 0 is the empty list.
pub(crate) type StepsIndex = u32;

/// So many ids of one class with the same steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) class: ClassIndex,
    pub(crate) steps: StepsIndex,
    pub(crate) count: u64,
    /// The next part of the same class.
    next: u32,
}

const END: u32 = u32::MAX;

/// What holds the plan back apart from the tolerance.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowance {
    /// Transfers still allowed.
    left: Option<u64>,
    /// A step was left out because none were left.
    pub(crate) exhausted: bool,
    /// A step was left out because parts may hold no more memory.
    pub(crate) out_of_memory: bool,
}

/// Why an id could not get all the copies it should have, or could not leave a drained agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No agent may take one more copy.
    Unplaceable,
    /// Not on any living agent, and not restored.
    Unseen,
}

/// The solver's working state.
pub(crate) struct Parts<'p> {
    pub(crate) agents: &'p [Agent],
    pub(crate) classes: &'p Classes,
    /// The plan is for a recovery.
    pub(crate) recovery: bool,
    /// Living copies per agent, as they will be after the steps planned so far.
    pub(crate) counts: Vec<u64>,
    pub(crate) allowance: Allowance,
    parts: Vec<Part>,
    steps: Vec<Box<[Step]>>,
    steps_index: HashMap<Box<[Step]>, StepsIndex>,
    /// Reads planned per agent, so that fills do not all read from the same one.
    reads: Vec<u64>,
    verdicts: HashMap<ClassIndex, Verdict>,
    most_bytes: usize,
}

impl<'p> Parts<'p> {
    pub(crate) fn new(
        agents: &'p [Agent],
        classes: &'p Classes,
        counts: Vec<u64>,
        transfers: Option<u64>,
        recovery: bool,
        most_bytes: usize,
    ) -> Self {
        let parts =
            (0..classes.len()).map(|class| Part { class, steps: 0, count: classes.ids(class), next: END }).collect();
        let none: Box<[Step]> = Box::default();
        Self {
            agents,
            classes,
            recovery,
            reads: vec![0; counts.len()],
            counts,
            allowance: Allowance { left: transfers, ..Allowance::default() },
            parts,
            steps: vec![none.clone()],
            steps_index: HashMap::from([(none, 0)]),
            verdicts: HashMap::new(),
            most_bytes,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.parts.len() as u32
    }

    pub(crate) fn part(&self, part: u32) -> Part {
        self.parts[part as usize]
    }

    pub(crate) fn steps(&self, steps: StepsIndex) -> &[Step] {
        &self.steps[steps as usize]
    }

    pub(crate) fn all_steps(&self) -> &[Box<[Step]>] {
        &self.steps
    }

    pub(crate) fn verdict(&self, class: ClassIndex) -> Option<Verdict> {
        self.verdicts.get(&class).copied()
    }

    pub(crate) fn judge(&mut self, class: ClassIndex, verdict: Verdict) {
        self.verdicts.insert(class, verdict);
    }

    /// Bytes reserved.
    pub(crate) fn bytes(&self) -> usize {
        let lists: usize = self.steps.iter().map(|steps| size_of_val::<[Step]>(steps)).sum();
        self.parts.capacity() * size_of::<Part>()
            + self.verdicts.capacity() * 16
            + 2 * lists
            + self.steps.len() * 3 * size_of::<Box<[Step]>>()
    }

    /// The agents that will hold the part's ids after its steps, ascending.
    pub(crate) fn holders(&self, part: u32, into: &mut Vec<u16>) {
        let Part { class, steps, .. } = self.part(part);
        into.clear();
        into.extend_from_slice(self.classes.fresh(class));
        into.extend_from_slice(self.classes.stale(class));
        for step in self.steps(steps) {
            if matches!(step.kind, StepKind::Trim | StepKind::Move) {
                into.retain(|&holder| holder != step.from);
            }
            if matches!(step.kind, StepKind::Fill | StepKind::Restore | StepKind::Move) {
                into.push(step.to);
            }
        }
        into.sort_unstable();
    }

    /// Whether the agent held the class's ids before any step.
    pub(crate) fn held(&self, class: ClassIndex, agent: u16) -> bool {
        self.classes.fresh(class).contains(&agent) || self.classes.stale(class).contains(&agent)
    }

    /// How many ids of a demand for `wanted`, with so many transfers each, the limits still let through. Remembers
    /// when that is less than wanted.
    pub(crate) fn allowed(&mut self, wanted: u64, transfers_each: u64) -> u64 {
        if self.bytes() > self.most_bytes {
            self.allowance.out_of_memory = true;
            return 0;
        }
        match self.allowance.left {
            Some(left) if transfers_each > 0 && left / transfers_each < wanted => {
                self.allowance.exhausted = true;
                left / transfers_each
            }
            _ => wanted,
        }
    }

    /// Adds steps to `count` ids of a part, keeps the books, and returns the part these ids are now in. The caller
    /// asked [`Parts::allowed`] before. Panics if the part has fewer ids.
    pub(crate) fn apply(&mut self, part: u32, count: u64, added: &[Step]) -> u32 {
        assert!(count <= self.part(part).count, "a part cannot give more ids than it has");
        if count == 0 {
            return part;
        }
        for step in added {
            self.book(*step, count);
        }
        let steps = self.intern(self.part(part).steps, added);
        if let Some(same) = self.find(part, steps) {
            self.parts[part as usize].count -= count;
            self.parts[same as usize].count += count;
            same
        } else if self.part(part).count == count {
            self.parts[part as usize].steps = steps;
            part
        } else {
            let Part { class, next, .. } = self.part(part);
            let new = self.len();
            self.parts.push(Part { class, steps, count, next });
            self.parts[part as usize].next = new;
            self.parts[part as usize].count -= count;
            new
        }
    }

    /// The holder of a newest copy from which the fewest reads are planned.
    pub(crate) fn reader(&self, class: ClassIndex) -> Option<u16> {
        let rank = |&agent: &u16| {
            let silent = self.agents[usize::from(agent)].state == AgentState::Unreachable;
            (silent, self.reads[usize::from(agent)], agent)
        };
        self.classes.fresh(class).iter().copied().min_by_key(rank)
    }

    /// Pairs of copies in one zone among the holders: the number of labelled holders minus the number of their zones.
    pub(crate) fn crowding(&self, holders: &[u16]) -> usize {
        holders
            .iter()
            .enumerate()
            .filter(|&(at, &holder)| {
                let zone = self.agents[usize::from(holder)].zone;
                zone.is_some() && holders[..at].iter().any(|&other| self.agents[usize::from(other)].zone == zone)
            })
            .count()
    }

    /// The parts of a class are chained from its first one, of which the number is that of the class.
    fn find(&self, part: u32, steps: StepsIndex) -> Option<u32> {
        let mut at = self.part(part).class;
        while at != END {
            let candidate = self.part(at);
            if at != part && candidate.steps == steps && candidate.count > 0 {
                return Some(at);
            }
            at = candidate.next;
        }
        None
    }

    fn intern(&mut self, before: StepsIndex, added: &[Step]) -> StepsIndex {
        // In one order, so that the same steps found in another order are the same list.
        let mut steps = [self.steps(before), added].concat();
        steps.sort_unstable();
        let steps: Box<[Step]> = steps.into();
        if let Some(&known) = self.steps_index.get(&steps) {
            return known;
        }
        let index = self.steps.len() as StepsIndex;
        self.steps.push(steps.clone());
        self.steps_index.insert(steps, index);
        index
    }

    fn book(&mut self, step: Step, count: u64) {
        let (from, to) = (usize::from(step.from), usize::from(step.to));
        if matches!(step.kind, StepKind::Trim | StepKind::Move) {
            self.counts[from] -= count;
        }
        if matches!(step.kind, StepKind::Fill | StepKind::Restore | StepKind::Move) {
            self.counts[to] += count;
        }
        if step.kind.transfers() {
            self.reads[from] += count;
            if let Some(left) = &mut self.allowance.left {
                *left = left.saturating_sub(count);
            }
        }
    }
}
