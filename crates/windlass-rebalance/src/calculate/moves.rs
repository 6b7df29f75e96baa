//! Decides how many ids of which part move from where to where: off drained agents, and from overfull agents to those
//! below their target.

use std::collections::BTreeSet;

use super::inputs::AgentState;
use super::parts::{Parts, Step, StepKind, Verdict};
use super::repair::{takers, widest};
use super::targets::{Target, pour};

/// Moves every copy that may move off the drained agents, each to the emptiest agent that does not hold the id, one
/// drained agent after the other.
pub(crate) fn empty_drained(parts: &mut Parts<'_>) {
    let drained: Vec<u16> = (0u16..)
        .zip(parts.agents)
        .filter(|(_, agent)| agent.state == AgentState::Drained)
        .map(|(number, _)| number)
        .collect();
    for from in drained {
        for part in 0..parts.len() {
            if leaves(parts, part, from) {
                empty_part(parts, part, from);
            }
        }
    }
}

/// The part's ids are still on the agent and may be moved off it.
fn leaves(parts: &Parts<'_>, part: u32, from: u16) -> bool {
    let at = parts.part(part);
    let gone = |step: &Step| matches!(step.kind, StepKind::Trim | StepKind::Move) && step.from == from;
    at.count > 0
        && parts.classes.fresh(at.class).contains(&from)
        && parts.classes.stale(at.class).is_empty()
        && !parts.classes.held_off(at.class)
        && !parts.steps(at.steps).iter().any(gone)
}

fn empty_part(parts: &mut Parts<'_>, part: u32, from: u16) {
    let at = parts.part(part);
    let mut vessels = takers(parts, part, Some(from), true);
    if vessels.is_empty() {
        parts.judge(at.class, Verdict::Unplaceable);
        return;
    }
    let count = parts.allowed(at.count, 1);
    for (to, share) in pour(&mut vessels, count, widest(count)) {
        parts.apply(part, share, &[Step { kind: StepKind::Move, from, to }]);
    }
}

/// Which agents give and which take, in one stage of evening out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Overfull agents come down to their targets; agents below theirs rise to them at most.
    Relieve,
    /// Underfull agents rise to their targets, from any that is above its own.
    Raise,
    /// Overfull agents that found no taker below its target come into the band, with takers that stay in it.
    Squeeze,
}

/// Evens out. `sources` are the agents that may give, all if `None`. With `by_rate` the sources come down to their
/// targets whether or not anything is outside the band, and nothing else happens.
pub(crate) fn even_out(parts: &mut Parts<'_>, targets: &[Target], sources: Option<&[u16]>, by_rate: bool) {
    let may_give: Vec<bool> = (0u16..)
        .zip(parts.agents)
        .map(|(number, agent)| agent.stays() && sources.is_none_or(|named| named.contains(&number)))
        .collect();
    let over = |counts: &[u64], at: usize| counts[at] > targets[at].high;
    let overfull: Vec<bool> =
        (0..targets.len()).map(|at| may_give[at] && (by_rate || over(&parts.counts, at))).collect();
    let excess = (0..targets.len())
        .filter(|&at| may_give[at])
        .map(|at| parts.counts[at].saturating_sub(targets[at].copies))
        .sum();
    let mut evening = Evening::new(parts, targets, excess);
    evening.run(Stage::Relieve, &overfull);
    if by_rate {
        return;
    }
    // What could not be placed directly may find room after others have moved; the sum of the excesses ends this.
    for _ in 0..4 {
        let before = evening.left;
        evening.run(Stage::Raise, &may_give);
        evening.run(Stage::Squeeze, &may_give);
        if evening.left == before {
            break;
        }
    }
}

struct Evening<'e, 'p> {
    parts: &'e mut Parts<'p>,
    targets: &'e [Target],
    /// Moves left of the sum of the excesses.
    left: u64,
    /// Per agent the parts of which it may give ids away. Parts that were moved are not in it: no id moves twice.
    given_by: Vec<Vec<u32>>,
    /// Where the next draw from an agent's parts begins, so that draws do not always hit the same part.
    turn: Vec<usize>,
}

impl<'e, 'p> Evening<'e, 'p> {
    fn new(parts: &'e mut Parts<'p>, targets: &'e [Target], left: u64) -> Self {
        let mut given_by = vec![Vec::new(); targets.len()];
        for part in 0..parts.len() {
            let at = parts.part(part);
            if parts.steps(at.steps).iter().any(|step| step.kind == StepKind::Move) {
                continue;
            }
            for &holder in parts.classes.fresh(at.class) {
                if leaves(parts, part, holder) {
                    given_by[usize::from(holder)].push(part);
                }
            }
        }
        Self { parts, targets, left, turn: vec![0; given_by.len()], given_by }
    }

    fn ratio(&self, agent: u16) -> f64 {
        let at = usize::from(agent);
        let (count, share) = (self.parts.counts[at] as f64, self.targets[at].share);
        if share > 0.0 { count / share } else { f64::INFINITY }
    }

    /// How many copies the agent is still to give in this stage.
    fn to_give(&self, stage: Stage, agent: u16) -> u64 {
        let (count, target) = (self.parts.counts[usize::from(agent)], &self.targets[usize::from(agent)]);
        match stage {
            Stage::Relieve | Stage::Raise => count.saturating_sub(target.copies),
            Stage::Squeeze => count.saturating_sub(target.high),
        }
    }

    /// How many copies the agent may still take in this stage.
    fn to_take(&self, stage: Stage, agent: u16) -> u64 {
        let (count, target) = (self.parts.counts[usize::from(agent)], &self.targets[usize::from(agent)]);
        match stage {
            Stage::Relieve | Stage::Raise => target.copies.saturating_sub(count),
            Stage::Squeeze => target.high.saturating_sub(count),
        }
    }

    /// Moves from the largest ratio to the smallest until there is nothing left to give, to take, or to choose from.
    fn run(&mut self, stage: Stage, may_give: &[bool]) {
        let agents = || 0u16..self.targets.len() as u16;
        let mut givers: Vec<u16> = agents().filter(|&agent| may_give[usize::from(agent)]).collect();
        let may_take = |agent: u16| {
            let low = self.parts.counts[usize::from(agent)] < self.targets[usize::from(agent)].low;
            let state = self.parts.agents[usize::from(agent)].state;
            matches!(state, AgentState::Member | AgentState::Unreachable) && (stage != Stage::Raise || low)
        };
        let takers: Vec<u16> = agents().filter(|&agent| may_take(agent)).collect();
        let mut dry: BTreeSet<(u16, u16)> = BTreeSet::new();
        while self.left > 0 {
            givers.retain(|&agent| self.to_give(stage, agent) > 0);
            let fullest =
                givers.iter().copied().max_by(|&a, &b| self.ratio(a).total_cmp(&self.ratio(b)).then(b.cmp(&a)));
            let Some(from) = fullest else {
                return;
            };
            let emptiest = takers
                .iter()
                .copied()
                .filter(|&to| to != from && self.to_take(stage, to) > 0 && !dry.contains(&(from, to)))
                .min_by(|&a, &b| self.ratio(a).total_cmp(&self.ratio(b)).then(a.cmp(&b)));
            let Some(to) = emptiest else {
                givers.retain(|&agent| agent != from);
                continue;
            };
            // A quarter at a time, so that the order of the ratios is looked at again while they change.
            let most = self.to_give(stage, from).min(self.to_take(stage, to));
            let batch = most.div_ceil(4).min(self.left);
            let batch = self.parts.allowed(batch, 1);
            if batch == 0 {
                return;
            }
            let moved = self.draw(from, to, batch);
            self.left -= moved;
            if moved < batch {
                dry.insert((from, to));
            }
        }
    }

    /// Moves up to `wanted` ids from one agent to another and says how many. Parts of which no other agent has to
    /// give come first, since the others may need the rest; among equals each gives in proportion to its size.
    fn draw(&mut self, from: u16, to: u16, wanted: u64) -> u64 {
        let mut moved = 0;
        for contested in [false, true] {
            let usable: Vec<u32> = self.given_by[usize::from(from)]
                .iter()
                .copied()
                .filter(|&part| self.contested(part, from) == contested && self.fits(part, from, to))
                .collect();
            let total: u64 = usable.iter().map(|&part| self.parts.part(part).count).sum();
            if total == 0 {
                continue;
            }
            let want = (wanted - moved).min(total);
            let mut left = want;
            let turn = &mut self.turn[usize::from(from)];
            let start = *turn % usable.len();
            *turn = turn.wrapping_add(1);
            for at in 0..usable.len() {
                let part = usable[(start + at) % usable.len()];
                let at = self.parts.part(part);
                let size = self.parts.classes.ids(at.class);
                let fair = u128::from(at.count) * u128::from(want) / u128::from(total);
                // Not less than a sixteenth of a class at once, so that it does not fall into many small parts.
                let share = (fair as u64).max(size / 16).max(1).min(at.count).min(left);
                left -= self.take(part, from, to, share);
            }
            // What rounding down left over comes from the first that have it.
            for &part in &usable {
                if !leaves(self.parts, part, from) {
                    // Used up just now, and so become the part that moves.
                    continue;
                }
                let share = self.parts.part(part).count.min(left);
                left -= self.take(part, from, to, share);
            }
            moved += want - left;
        }
        let parts = &self.parts;
        self.given_by[usize::from(from)].retain(|&part| parts.part(part).count > 0);
        moved
    }

    fn take(&mut self, part: u32, from: u16, to: u16, share: u64) -> u64 {
        if share == 0 {
            return 0;
        }
        let whole = self.parts.part(part).count == share;
        let now = self.parts.apply(part, share, &[Step { kind: StepKind::Move, from, to }]);
        if whole && now == part {
            // The part itself has become the moved one and gives no more.
            for holder in self.parts.classes.fresh(self.parts.part(part).class) {
                self.given_by[usize::from(*holder)].retain(|&other| other != part);
            }
        }
        share
    }

    /// Another holder of the part's ids is above its target too.
    fn contested(&self, part: u32, from: u16) -> bool {
        self.parts
            .classes
            .fresh(self.parts.part(part).class)
            .iter()
            .any(|&holder| holder != from && self.to_give(Stage::Relieve, holder) > 0)
    }

    /// The part's ids may move: nobody would hold one twice, and no zone gets more crowded.
    fn fits(&self, part: u32, from: u16, to: u16) -> bool {
        let at = self.parts.part(part);
        if at.count == 0 || self.parts.held(at.class, to) {
            return false;
        }
        let mut holders = Vec::new();
        self.parts.holders(part, &mut holders);
        if holders.contains(&to) {
            return false;
        }
        let before = self.parts.crowding(&holders);
        let after: Vec<u16> = holders.into_iter().filter(|&holder| holder != from).chain([to]).collect();
        self.parts.crowding(&after) <= before
    }
}
