//! From the counts of the classes to the steps of each part, and the plan document that tells of them.

use std::collections::{BTreeMap, HashMap};

use super::chunks::ChunkKind;
use super::classes::{ClassIndex, Classes};
use super::document::{AgentPlan, FORMAT, Flow, IdCounts, PlanDocument, Reason, ReportCounts, Shortfall, Totals};
use super::error::CalculateError;
use super::inputs::{Agent, AgentState, Mode, PlanRequest};
use super::moves::{empty_drained, even_out};
use super::parts::{Allowance, Parts, Step, StepKind, StepsIndex, Verdict};
use super::repair::{recover, repair};
use super::targets::{Target, spread_of, targets, targets_of_rate};

/// What the first reading of the lists found besides the classes.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Copies per agent, those of lost agents too.
    pub(crate) copies: Vec<u64>,
    pub(crate) ids: IdCounts,
    pub(crate) reported: ReportCounts,
}

/// So many ids of a class, and their steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SolvedPart {
    pub(crate) class: ClassIndex,
    pub(crate) steps: StepsIndex,
    pub(crate) count: u64,
}

/// What the last two readings need to know.
#[derive(Debug)]
pub(crate) struct Solution {
    /// Parts with steps only. Those of a class lie next to each other, in the order in which its ids, sorted by
    /// hash, are dealt out: parts with moves first, since the ids with the smallest hashes are those that move.
    pub(crate) parts: Vec<SolvedPart>,
    pub(crate) steps: Vec<Box<[Step]>>,
    pub(crate) flows: BTreeMap<Step, u64>,
    pub(crate) verdicts: HashMap<ClassIndex, Verdict>,
}

/// The solution and what is said about it.
#[derive(Debug)]
pub(crate) struct Solved {
    pub(crate) solution: Solution,
    /// Bytes the solver held at its end, which is when it holds most.
    pub(crate) peak_bytes: usize,
    targets: Vec<Target>,
    predicted: Vec<u64>,
    unplaceable: u64,
    unseen: u64,
    allowance: Allowance,
}

/// Decides what is done with how many ids of each class. A pure function of its arguments.
pub(crate) fn solve(
    request: &PlanRequest,
    agents: &[Agent],
    classes: &Classes,
    copies: &[u64],
    most_bytes: usize,
) -> Result<Solved, CalculateError> {
    let recovery = matches!(request.mode, Mode::Recovery { .. });
    let replicas = request.index_replica as usize;
    let counts = agents.iter().zip(copies).map(|(agent, &copies)| if agent.lives() { copies } else { 0 }).collect();
    let mut parts = Parts::new(agents, classes, counts, transfers(request), recovery, most_bytes);
    if recovery {
        recover(&mut parts, replicas, request.restore_unseen);
    } else {
        repair(&mut parts, replicas);
    }
    let after_repair = parts.counts.clone();
    let rate_sources = rate_sources(request, agents, &after_repair);
    let targets = match request.rate {
        Some(rate) => targets_of_rate(agents, &after_repair, &rate_sources, rate, request.tolerance),
        None => targets(agents, &after_repair, request.tolerance),
    };
    if !recovery {
        empty_drained(&mut parts);
    }
    match &request.mode {
        Mode::Drain { .. } | Mode::Recovery { .. } => {}
        Mode::Deviation | Mode::Manual { .. } if request.rate.is_some() => {
            even_out(&mut parts, &targets, Some(&rate_sources), true);
        }
        Mode::Manual { agents: named } if !named.is_empty() => {
            even_out(&mut parts, &targets, Some(&numbers(agents, |agent| agent.named)), false);
        }
        Mode::Deviation | Mode::Manual { .. } => even_out(&mut parts, &targets, None, false),
    }
    let solution = Solution::of(&parts);
    refuse_unreachable(agents, &solution.flows)?;
    let judged = |verdict: Verdict| {
        solution.verdicts.iter().filter(|&(_, &other)| other == verdict).map(|(&class, _)| classes.ids(class)).sum()
    };
    Ok(Solved {
        peak_bytes: parts.bytes() + solution.parts.capacity() * size_of::<SolvedPart>(),
        targets,
        predicted: parts.counts.clone(),
        unplaceable: judged(Verdict::Unplaceable),
        unseen: judged(Verdict::Unseen),
        allowance: parts.allowance,
        solution,
    })
}

/// The most transfers the request allows.
fn transfers(request: &PlanRequest) -> Option<u64> {
    let by_bytes = request.max_bytes.filter(|_| request.vector_bytes > 0).map(|most| most / request.vector_bytes);
    request.max_moves.into_iter().chain(by_bytes).min()
}

/// The agents a rate applies to: those named, or the fullest.
fn rate_sources(request: &PlanRequest, agents: &[Agent], counts: &[u64]) -> Vec<u16> {
    if request.rate.is_none() {
        return Vec::new();
    }
    let named = numbers(agents, |agent| agent.named && agent.stays());
    if !named.is_empty() {
        return named;
    }
    let level = |agent: u16| counts[usize::from(agent)] as f64 / agents[usize::from(agent)].input.weight;
    numbers(agents, Agent::stays)
        .into_iter()
        .reduce(|best, agent| if level(agent) > level(best) { agent } else { best })
        .into_iter()
        .collect()
}

fn numbers(agents: &[Agent], wanted: impl Fn(&Agent) -> bool) -> Vec<u16> {
    (0u16..).zip(agents).filter(|(_, agent)| wanted(agent)).map(|(number, _)| number).collect()
}

/// The solver treats an agent that does not answer like any other; if it is then touched, the plan needs it.
fn refuse_unreachable(agents: &[Agent], flows: &BTreeMap<Step, u64>) -> Result<(), CalculateError> {
    for (number, agent) in (0u16..).zip(agents).filter(|(_, agent)| agent.state == AgentState::Unreachable) {
        let touches = |step: &Step| step.from == number || step.to == number;
        let copies = flows.iter().filter(|(step, _)| touches(step)).map(|(_, &ids)| ids).sum();
        if copies > 0 {
            return Err(CalculateError::NeedsUnreachable { agent: agent.input.name.clone(), copies });
        }
    }
    Ok(())
}

impl Solution {
    fn of(parts: &Parts<'_>) -> Self {
        let mut flows: BTreeMap<Step, u64> = BTreeMap::new();
        let mut solved = Vec::new();
        for number in 0..parts.len() {
            let part = parts.part(number);
            if part.count == 0 || part.steps == 0 {
                continue;
            }
            for &step in parts.steps(part.steps) {
                *flows.entry(step).or_default() += part.count;
            }
            solved.push(SolvedPart { class: part.class, steps: part.steps, count: part.count });
        }
        let moves = |part: &SolvedPart| parts.steps(part.steps).iter().any(|step| step.kind == StepKind::Move);
        // By the steps themselves and not by their numbers, which depend on the order they were found in.
        solved.sort_unstable_by(|a, b| {
            (a.class, !moves(a), parts.steps(a.steps)).cmp(&(b.class, !moves(b), parts.steps(b.steps)))
        });
        let verdicts = (0..parts.classes.len()).filter_map(|class| Some((class, parts.verdict(class)?))).collect();
        Self { parts: solved, steps: parts.all_steps().to_vec(), flows, verdicts }
    }
}

impl Solved {
    /// The plan document, as yet without chunks.
    pub(crate) fn document(&self, request: &PlanRequest, agents: &[Agent], survey: &Survey) -> PlanDocument {
        let name = |agent: u16| agents[usize::from(agent)].input.name.clone();
        let mut totals = Totals::default();
        let mut flows = Vec::with_capacity(self.solution.flows.len());
        for (step, &ids) in &self.solution.flows {
            let kind = ChunkKind::from(step.kind);
            let bytes = if step.kind.transfers() { ids.saturating_mul(request.vector_bytes) } else { 0 };
            match kind {
                ChunkKind::Refresh => totals.refreshes += ids,
                ChunkKind::Trim => totals.trims += ids,
                ChunkKind::Fill => totals.fills += ids,
                ChunkKind::Restore => totals.restores += ids,
                ChunkKind::Move => totals.moves += ids,
            }
            totals.bytes = totals.bytes.saturating_add(bytes);
            let destination = (kind != ChunkKind::Trim).then(|| name(step.to));
            flows.push(Flow { kind, source: name(step.from), destination, ids, bytes });
        }
        let living: Vec<u64> =
            agents.iter().zip(&survey.copies).map(|(agent, &count)| if agent.lives() { count } else { 0 }).collect();
        let plan_of = |at: usize| {
            let (agent, target) = (&agents[at], &self.targets[at]);
            AgentPlan {
                name: agent.input.name.clone(),
                state: agent.state,
                weight: agent.input.weight,
                zone: agent.input.zone.clone(),
                origin: agent.input.origin.clone(),
                copies: survey.copies[at],
                share: target.share,
                target: target.copies,
                predicted: self.predicted[at],
            }
        };
        let mut reported = survey.reported.clone();
        (reported.unplaceable, reported.unseen) = (self.unplaceable, self.unseen);
        PlanDocument {
            format: FORMAT,
            mode: request.mode.clone(),
            index_replica: request.index_replica,
            tolerance: request.tolerance,
            rate: request.rate,
            max_moves: request.max_moves,
            max_bytes: request.max_bytes,
            vector_bytes: request.vector_bytes,
            chunk: request.chunk,
            seed: request.seed,
            restore_unseen: request.restore_unseen,
            agents: (0..agents.len()).map(plan_of).collect(),
            ids: survey.ids.clone(),
            flows,
            totals,
            spread_before: spread_of(agents, &living),
            spread_predicted: spread_of(agents, &self.predicted),
            shortfalls: self.shortfalls(request, agents, survey, &reported),
            reported,
            chunks: Vec::new(),
        }
    }

    /// The agents outside the band after the plan, and what may have kept them there. The band is that of plain
    /// shares by weight, whatever the mode.
    fn shortfalls(
        &self,
        request: &PlanRequest,
        agents: &[Agent],
        survey: &Survey,
        reported: &ReportCounts,
    ) -> Vec<Shortfall> {
        let aims = plain_targets(agents, &self.predicted, request.tolerance);
        let outside = |at: usize| {
            let count = self.predicted[at];
            agents[at].lives() && (count > aims[at].high || count < aims[at].low)
        };
        let full = agents.iter().any(|agent| agent.state == AgentState::Full);
        let partial = match &request.mode {
            Mode::Drain { .. } | Mode::Recovery { .. } => true,
            Mode::Manual { agents } => !agents.is_empty() || request.rate.is_some(),
            Mode::Deviation => request.rate.is_some(),
        };
        (0..agents.len())
            .filter(|&at| outside(at))
            .map(|at| {
                let drained = agents[at].state == AgentState::Drained;
                let causes = [
                    (self.allowance.exhausted, Reason::Limits),
                    (partial && !drained, Reason::Mode),
                    (survey.ids.held_off > 0, Reason::HoldOff),
                    (survey.ids.differing > 0, Reason::DifferingAge),
                    (reported.conflicting + reported.invalid + reported.not_movable > 0, Reason::NotActedUpon),
                    (full, Reason::FullAgents),
                    (self.allowance.out_of_memory || survey.ids.scattered > 0, Reason::Memory),
                ];
                let mut reasons: Vec<Reason> =
                    causes.into_iter().filter(|&(applies, _)| applies).map(|(_, reason)| reason).collect();
                if reasons.is_empty() || reported.unplaceable > 0 {
                    reasons.push(Reason::Placement);
                }
                let excess = self.predicted[at] as i64 - aims[at].copies as i64;
                Shortfall { agent: agents[at].input.name.clone(), excess, reasons }
            })
            .collect()
    }
}

/// Targets as if every agent could take copies.
fn plain_targets(agents: &[Agent], counts: &[u64], tolerance: f64) -> Vec<Target> {
    let mut plain = agents.to_vec();
    for agent in &mut plain {
        if agent.state == AgentState::Full {
            agent.state = AgentState::Member;
        }
    }
    targets(&plain, counts, tolerance)
}
