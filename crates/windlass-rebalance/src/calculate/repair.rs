//! Brings every id to R copies of the same age: trims what is too many, refreshes what is old, fills what is missing,
//! restores what was lost. Each step sees the counts the steps before it lead to.

use super::inputs::{AgentState, RestoreUnseen};
use super::parts::{Parts, Step, StepKind, Verdict};
use super::targets::{Vessel, pour, siphon};

/// A part is spread over at most so many agents, or over one per sixteen ids if that is more: enough to level the
/// cluster, and few enough that small classes on large clusters do not fall to pieces.
pub(crate) fn widest(count: u64) -> usize {
    usize::try_from(count / 16).unwrap_or(usize::MAX).max(16)
}

/// Trims, refreshes and fills for all modes but recovery.
pub(crate) fn repair(parts: &mut Parts<'_>, replicas: usize) {
    for part in 0..parts.len() {
        trim(parts, part, replicas);
    }
    for part in 0..parts.len() {
        refresh(parts, part);
    }
    for part in 0..parts.len() {
        let class = parts.part(part).class;
        let held = parts.classes.fresh(class).len() + parts.classes.stale(class).len();
        if let Some(missing @ 1..) = replicas.checked_sub(held) {
            place(parts, part, missing, StepKind::Fill);
        }
    }
}

/// Brings the ids of lost agents back to R copies; other ids and copies beyond R are left alone.
pub(crate) fn recover(parts: &mut Parts<'_>, replicas: usize, unseen: RestoreUnseen) {
    for part in 0..parts.len() {
        let class = parts.part(part).class;
        let held = parts.classes.fresh(class).len() + parts.classes.stale(class).len();
        if held > 0 {
            if let Some(missing @ 1..) = replicas.checked_sub(held) {
                place(parts, part, missing, StepKind::Fill);
            }
            continue;
        }
        let restore = match unseen {
            RestoreUnseen::Always => true,
            RestoreUnseen::Never => false,
            RestoreUnseen::Auto => replicas == 1 || parts.classes.lost_everywhere(class),
        };
        if restore {
            place(parts, part, replicas, StepKind::Restore);
        } else {
            parts.judge(class, Verdict::Unseen);
        }
    }
}

/// Takes away what is above R. A stale copy goes first; the newest time stays on R of the rest, for which, where
/// there are fewer than R new copies, the stale ones kept are refreshed in the same breath.
fn trim(parts: &mut Parts<'_>, part: u32, replicas: usize) {
    let class = parts.part(part).class;
    let (fresh, stale) = (parts.classes.fresh(class).to_vec(), parts.classes.stale(class).to_vec());
    let Some(surplus @ 1..) = (fresh.len() + stale.len()).checked_sub(replicas) else {
        return;
    };
    if fresh.len() >= replicas {
        let count = parts.part(part).count;
        let count = parts.allowed(count, 0);
        let steps: Vec<Step> = stale.iter().map(|&from| Step { kind: StepKind::Trim, from, to: from }).collect();
        let part = parts.apply(part, count, &steps);
        give_up(parts, vec![part], &fresh, surplus - stale.len());
        return;
    }
    // The refreshes are paid for before anything is trimmed.
    let refreshed = stale.len() - surplus;
    let count = parts.part(part).count;
    let count = parts.allowed(count, refreshed as u64);
    let Some(from) = parts.reader(class) else {
        return;
    };
    if count == 0 {
        return;
    }
    for part in give_up_some(parts, part, count, &stale, surplus) {
        let mut holders = Vec::new();
        parts.holders(part, &mut holders);
        let steps: Vec<Step> = holders
            .into_iter()
            .filter(|holder| stale.contains(holder))
            .map(|to| Step { kind: StepKind::Refresh, from, to })
            .collect();
        let count = parts.part(part).count;
        parts.apply(part, count, &steps);
    }
}

fn give_up_some(parts: &mut Parts<'_>, part: u32, count: u64, candidates: &[u16], surplus: usize) -> Vec<u32> {
    let mut done = Vec::new();
    let mut left = count;
    for (agent, share) in choose_losers(parts, part, count, candidates) {
        let step = Step { kind: StepKind::Trim, from: agent, to: agent };
        done.push(parts.apply(part, share.min(left), &[step]));
        left -= share.min(left);
    }
    if surplus > 1 { give_up(parts, done, candidates, surplus - 1) } else { done }
}

/// Trims `surplus` copies of every id of the parts, each time on the fullest of the candidates.
fn give_up(parts: &mut Parts<'_>, mut pending: Vec<u32>, candidates: &[u16], surplus: usize) -> Vec<u32> {
    for _ in 0..surplus {
        let mut next = Vec::new();
        for part in pending {
            let count = parts.part(part).count;
            let count = parts.allowed(count, 0);
            for (agent, share) in choose_losers(parts, part, count, candidates) {
                next.push(parts.apply(part, share, &[Step { kind: StepKind::Trim, from: agent, to: agent }]));
            }
        }
        // Different ways can lead to the same steps, and so to the same part.
        next.sort_unstable();
        next.dedup();
        pending = next;
    }
    pending
}

/// Who loses how many of `count` ids: a drained holder if there is one, else the fullest among those whose loss
/// leaves the fewest copies together in one zone.
fn choose_losers(parts: &Parts<'_>, part: u32, count: u64, candidates: &[u16]) -> Vec<(u16, u64)> {
    let mut holders = Vec::new();
    parts.holders(part, &mut holders);
    let losers: Vec<u16> = candidates.iter().copied().filter(|agent| holders.contains(agent)).collect();
    let drained = losers.iter().find(|&&agent| parts.agents[usize::from(agent)].state == AgentState::Drained);
    if let Some(&drained) = drained {
        return vec![(drained, count)];
    }
    let crowding_without = |loser: u16| {
        let rest: Vec<u16> = holders.iter().copied().filter(|&holder| holder != loser).collect();
        parts.crowding(&rest)
    };
    let least = losers.iter().map(|&loser| crowding_without(loser)).min();
    let mut vessels: Vec<Vessel> = losers
        .into_iter()
        .filter(|&loser| Some(crowding_without(loser)) == least)
        .map(|agent| vessel(parts, agent))
        .collect();
    siphon(&mut vessels, count, count)
}

/// Brings old copies up to date, unless the part was dealt with by a trim.
fn refresh(parts: &mut Parts<'_>, part: u32) {
    let at = parts.part(part);
    let stale = parts.classes.stale(at.class).to_vec();
    if stale.is_empty() || at.steps != 0 || at.count == 0 {
        return;
    }
    let count = parts.allowed(at.count, stale.len() as u64);
    if let Some(from) = parts.reader(at.class) {
        let steps: Vec<Step> = stale.into_iter().map(|to| Step { kind: StepKind::Refresh, from, to }).collect();
        parts.apply(part, count, &steps);
    }
}

/// Gives every id of a part `missing` more copies, each on the emptiest agent that does not hold it.
fn place(parts: &mut Parts<'_>, part: u32, missing: usize, kind: StepKind) {
    let class = parts.part(part).class;
    let mut pending = vec![part];
    for _ in 0..missing {
        let mut next = Vec::new();
        for part in pending {
            let count = parts.part(part).count;
            let count = parts.allowed(count, 1);
            let from = match kind {
                StepKind::Restore => parts.classes.lost(class).first().copied(),
                _ => parts.reader(class),
            };
            let mut vessels = takers(parts, part, None, true);
            let (Some(from), false) = (from, vessels.is_empty()) else {
                parts.judge(class, Verdict::Unplaceable);
                continue;
            };
            for (to, share) in pour(&mut vessels, count, widest(count)) {
                next.push(parts.apply(part, share, &[Step { kind, from, to }]));
            }
        }
        // Different ways can lead to the same steps, and so to the same part.
        next.sort_unstable();
        next.dedup();
        pending = next;
    }
}

/// The agents that may take a copy of the part's ids (in place of the one on `leaving`): those that crowd no zone, or
/// if there are none and it `must` be, all that do not hold it.
pub(crate) fn takers(parts: &Parts<'_>, part: u32, leaving: Option<u16>, must: bool) -> Vec<Vessel> {
    let class = parts.part(part).class;
    let mut holders = Vec::new();
    parts.holders(part, &mut holders);
    let free: Vec<u16> = (0u16..)
        .zip(parts.agents)
        .filter(|&(number, agent)| {
            takes_copies(parts, agent.state) && !holders.contains(&number) && !parts.held(class, number)
        })
        .map(|(number, _)| number)
        .collect();
    let before = parts.crowding(&holders);
    let with = |agent: u16| {
        let mut after: Vec<u16> = holders.iter().copied().filter(|&holder| Some(holder) != leaving).collect();
        after.push(agent);
        parts.crowding(&after)
    };
    let tidy: Vec<u16> = free.iter().copied().filter(|&agent| with(agent) <= before).collect();
    let chosen = if tidy.is_empty() && must { free } else { tidy };
    chosen.into_iter().map(|agent| vessel(parts, agent)).collect()
}

/// Whether an agent in this state may be written to. One that does not answer may be chosen, which then has the plan
/// refused, except in a recovery, which goes around it.
fn takes_copies(parts: &Parts<'_>, state: AgentState) -> bool {
    match state {
        AgentState::Member => true,
        AgentState::Unreachable => !parts.recovery,
        AgentState::Full | AgentState::Drained | AgentState::Lost => false,
    }
}

pub(crate) fn vessel(parts: &Parts<'_>, agent: u16) -> Vessel {
    let at = usize::from(agent);
    Vessel { agent, count: parts.counts[at], weight: parts.agents[at].input.weight }
}
