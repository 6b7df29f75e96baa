//! How many copies each agent should have, when that is far enough from what it has, and how a number of copies is
//! spread over agents.

use super::inputs::{Agent, AgentState};

/// What fullness is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fullness {
    /// Memory usage ÷ memory limit: the tolerance is a difference of ratios.
    Ratio,
    /// Copies per weight, or memory usage where limits are unknown: the tolerance is a share of the mean.
    Absolute,
}

/// The periodic check found one agent too full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trigger {
    /// Position of the fullest agent among those given.
    pub fullest: usize,
    /// Share of its copies to move off it: `1 - mean / largest`.
    pub rate: f64,
}

/// Whether the fullest agent is full enough to do something about it: its fullness reaches the mean plus `tolerance`
/// (times the mean for [`Fullness::Absolute`]), and the rate reaches `rate_threshold`.
#[must_use]
pub fn trigger(fullness: &[f64], measure: Fullness, tolerance: f64, rate_threshold: f64) -> Option<Trigger> {
    let fullest = (0..fullness.len()).reduce(|best, at| if fullness[at] > fullness[best] { at } else { best })?;
    let largest = fullness[fullest];
    let mean = fullness.iter().sum::<f64>() / fullness.len() as f64;
    let border = match measure {
        Fullness::Ratio => mean + tolerance,
        Fullness::Absolute => mean * (1.0 + tolerance),
    };
    let rate = 1.0 - mean / largest;
    (largest > 0.0 && largest >= border - SLACK && rate >= rate_threshold - SLACK).then_some(Trigger { fullest, rate })
}

/// Sums of decimal fractions miss the exact border by less than this, and no wish is finer than it.
const SLACK: f64 = 1e-9;

/// `floor(rate × copies)`, where a product that misses a whole number by rounding only is that number.
#[must_use]
pub fn copies_to_move(rate: f64, copies: u64) -> u64 {
    let product = rate * copies as f64;
    ((product + product * SLACK + SLACK).floor() as u64).min(copies)
}

/// What one agent should have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Target {
    /// Its share of all copies by weight; 0 for a drained agent.
    pub(crate) share: f64,
    /// The whole number to bring it to.
    pub(crate) copies: u64,
    /// Below this it is underfull.
    pub(crate) low: u64,
    /// Above this it is overfull.
    pub(crate) high: u64,
}

/// Targets by weight. They add up to the copies there are, except for what an agent that takes no copies lacks: the
/// others' targets rise by that, since it has to stay somewhere.
pub(crate) fn targets(agents: &[Agent], counts: &[u64], tolerance: f64) -> Vec<Target> {
    let fixed = vec![None; agents.len()];
    level(agents, counts, &fixed, tolerance)
}

/// Targets under the classic rate: those in `sources` give away `floor(rate × count)`, the others' follow from
/// their weights.
pub(crate) fn targets_of_rate(
    agents: &[Agent],
    counts: &[u64],
    sources: &[u16],
    rate: f64,
    tolerance: f64,
) -> Vec<Target> {
    let mut fixed = vec![None; agents.len()];
    for &source in sources {
        let count = counts[usize::from(source)];
        fixed[usize::from(source)] = Some(count - copies_to_move(rate, count));
    }
    level(agents, counts, &fixed, tolerance)
}

fn level(agents: &[Agent], counts: &[u64], fixed: &[Option<u64>], tolerance: f64) -> Vec<Target> {
    let total: u64 = agents.iter().zip(counts).filter(|(agent, _)| agent.lives()).map(|(_, &count)| count).sum();
    let mut exact: Vec<Option<u64>> = fixed.to_vec();
    for (at, agent) in agents.iter().enumerate() {
        if !agent.stays() {
            exact[at] = Some(0);
        }
    }
    let shares = loop {
        let left = total.saturating_sub(exact.iter().flatten().sum());
        let weights: f64 = open(agents, &exact).map(|at| agents[at].input.weight).sum();
        let share = |at: usize| left as f64 * agents[at].input.weight / weights;
        // An agent that takes no copies cannot rise to its share: it stays where it is.
        let stuck: Vec<usize> = open(agents, &exact)
            .filter(|&at| agents[at].state == AgentState::Full && (counts[at] as f64) < share(at))
            .collect();
        if stuck.is_empty() {
            let mut shares: Vec<f64> = exact.iter().map(|count| count.unwrap_or(0) as f64).collect();
            let free: Vec<usize> = open(agents, &exact).collect();
            for &at in &free {
                shares[at] = share(at);
            }
            round(&free, &shares, counts, left, &mut exact);
            break shares;
        }
        for at in stuck {
            exact[at] = Some(counts[at]);
        }
    };
    shares
        .into_iter()
        .zip(exact)
        .map(|(share, copies)| Target {
            share,
            copies: copies.unwrap_or(0),
            low: ((share * (1.0 - tolerance) - SLACK).ceil().max(0.0) as u64).min(share.floor() as u64),
            high: ((share * (1.0 + tolerance) + SLACK).floor() as u64).max(share.ceil() as u64),
        })
        .collect()
}

fn open<'v>(agents: &'v [Agent], exact: &'v [Option<u64>]) -> impl Iterator<Item = usize> + 'v {
    (0..agents.len()).filter(|&at| exact[at].is_none())
}

/// Whole numbers that add up to `left`: each share rounded down, and the rest, one each, to the largest fractions.
/// Among equal fractions the fuller agent gets it, so that no copy moves for the sake of rounding.
fn round(free: &[usize], shares: &[f64], counts: &[u64], left: u64, exact: &mut [Option<u64>]) {
    let mut given = 0;
    for &at in free {
        let whole = (shares[at] + SLACK).floor() as u64;
        exact[at] = Some(whole);
        given += whole;
    }
    let fraction = |at: usize| ((shares[at] - (shares[at] + SLACK).floor()) / SLACK).round();
    let mut order = free.to_vec();
    order.sort_by(|&a, &b| fraction(b).total_cmp(&fraction(a)).then(counts[b].cmp(&counts[a])).then(a.cmp(&b)));
    for &at in order.iter().cycle().take(usize::try_from(left.saturating_sub(given)).unwrap_or(0).min(order.len())) {
        exact[at] = exact[at].map(|count| count + 1);
    }
}

/// One agent among which copies are spread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vessel {
    pub(crate) agent: u16,
    pub(crate) count: u64,
    pub(crate) weight: f64,
}

impl Vessel {
    fn level(&self) -> f64 {
        self.count as f64 / self.weight
    }
}

/// Spreads `amount` copies over the vessels as if each in turn went to the emptiest: the result is that of the
/// one-by-one rule, found in one step by raising a common level. At most `widest` vessels get any.
pub(crate) fn pour(vessels: &mut Vec<Vessel>, amount: u64, widest: usize) -> Vec<(u16, u64)> {
    vessels.sort_by(|a, b| a.level().total_cmp(&b.level()).then(a.agent.cmp(&b.agent)));
    vessels.truncate(widest.max(1));
    let (mut sum, mut weights, mut level, mut used) = (amount as f64, 0.0, f64::INFINITY, 0);
    for vessel in vessels.iter() {
        if vessel.level() > level {
            break;
        }
        sum += vessel.count as f64;
        weights += vessel.weight;
        level = sum / weights;
        used += 1;
    }
    vessels.truncate(used);
    let wish = |vessel: &Vessel| level * vessel.weight - vessel.count as f64;
    spread(vessels, amount, wish, |_| u64::MAX)
}

/// Takes `amount` copies from the vessels as if each in turn came from the fullest; `most` bounds what one vessel
/// can give.
pub(crate) fn siphon(vessels: &mut Vec<Vessel>, amount: u64, most: u64) -> Vec<(u16, u64)> {
    vessels.sort_by(|a, b| b.level().total_cmp(&a.level()).then(a.agent.cmp(&b.agent)));
    let (mut sum, mut weights, mut level, mut used) = (-(amount as f64), 0.0, f64::NEG_INFINITY, 0);
    for vessel in vessels.iter() {
        if vessel.level() < level {
            break;
        }
        sum += vessel.count as f64;
        weights += vessel.weight;
        level = sum / weights;
        used += 1;
    }
    vessels.truncate(used);
    let wish = |vessel: &Vessel| vessel.count as f64 - level * vessel.weight;
    spread(vessels, amount, wish, |vessel| vessel.count.min(most))
}

/// Whole numbers near the wishes that add up to `amount`, or to less when the bounds allow no more.
fn spread(
    vessels: &[Vessel],
    amount: u64,
    wish: impl Fn(&Vessel) -> f64,
    most: impl Fn(&Vessel) -> u64,
) -> Vec<(u16, u64)> {
    let mut shares: Vec<(u16, u64)> = Vec::with_capacity(vessels.len());
    let mut left = amount;
    for vessel in vessels {
        let share = (wish(vessel).max(0.0) as u64).min(left).min(most(vessel));
        left -= share;
        shares.push((vessel.agent, share));
    }
    while left > 0 {
        let before = left;
        for (vessel, share) in vessels.iter().zip(&mut shares) {
            if left > 0 && share.1 < most(vessel) {
                share.1 += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    shares.retain(|&(_, share)| share > 0);
    shares
}

/// The largest copies per weight ÷ the mean copies per weight, over the agents that are to keep copies; 1 when there
/// are no copies.
pub(crate) fn spread_of(agents: &[Agent], counts: &[u64]) -> f64 {
    let staying = || agents.iter().zip(counts).filter(|(agent, _)| agent.stays());
    let weights: f64 = staying().map(|(agent, _)| agent.input.weight).sum();
    let mean = staying().map(|(_, &count)| count as f64).sum::<f64>() / weights;
    let largest = staying().map(|(agent, &count)| count as f64 / agent.input.weight).fold(0.0, f64::max);
    if mean > 0.0 { largest / mean } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::super::inputs::{AgentInput, Mode, PlanRequest, arrange};
    use super::*;

    fn agents(weights: &[f64]) -> Vec<Agent> {
        let inputs = weights
            .iter()
            .enumerate()
            .map(|(at, &weight)| AgentInput { weight, ..AgentInput::member(&format!("a-{at}")) })
            .collect();
        arrange(&PlanRequest::new(inputs, Mode::Deviation, 1)).unwrap()
    }

    fn whole(weights: &[f64], counts: &[u64]) -> Vec<u64> {
        targets(&agents(weights), counts, 0.1).iter().map(|target| target.copies).collect()
    }

    #[test]
    fn a_usage_of_80_50_50_percent_moves_250_of_1000_ids() {
        let found = trigger(&[0.8, 0.5, 0.5], Fullness::Ratio, 0.1, 0.05).unwrap();
        assert_eq!(found.fullest, 0);
        assert!((found.rate - 0.25).abs() < 1e-12);
        assert_eq!(copies_to_move(found.rate, 1000), 250);
    }

    #[test]
    fn a_usage_within_the_tolerance_does_not_fire() {
        assert_eq!(trigger(&[0.6, 0.5, 0.5], Fullness::Ratio, 0.1, 0.05), None);
        assert_eq!(trigger(&[104.0, 100.0], Fullness::Absolute, 0.1, 0.0), None);
        assert!(trigger(&[150.0, 50.0], Fullness::Absolute, 0.1, 0.05).is_some());
        assert_eq!(trigger(&[0.2, 0.1, 0.1], Fullness::Absolute, 0.1, 0.9), None, "the rate is below its threshold");
        assert_eq!(trigger(&[0.0, 0.0], Fullness::Ratio, 0.0, 0.0), None);
        assert_eq!(trigger(&[], Fullness::Ratio, 0.1, 0.05), None);
    }

    #[test]
    fn targets_follow_weights_and_add_up() {
        assert_eq!(whole(&[1.0, 1.0, 1.0], &[900, 600, 300]), [600, 600, 600]);
        assert_eq!(whole(&[2.0, 1.0, 1.0], &[600, 600, 600]), [900, 450, 450]);
        assert_eq!(whole(&[1.0, 1.0, 1.0], &[1, 2, 1]), [1, 2, 1], "the odd copy stays where it is");
        assert_eq!(whole(&[1.0, 1.0, 1.0], &[0, 0, 0]), [0, 0, 0]);
        assert_eq!(whole(&[3.0e10, 1.0e10], &[1, 0]), [1, 0]);
    }

    #[test]
    fn the_others_carry_what_a_full_agent_cannot_take() {
        let mut agents = agents(&[1.0, 1.0, 1.0]);
        agents[2].state = AgentState::Full;
        let found: Vec<u64> = targets(&agents, &[900, 600, 300], 0.05).iter().map(|target| target.copies).collect();
        assert_eq!(found, [750, 750, 300]);
    }

    fn vessels(counts: &[u64]) -> Vec<Vessel> {
        (0u16..).zip(counts).map(|(agent, &count)| Vessel { agent, count, weight: 1.0 }).collect()
    }

    #[test]
    fn pouring_levels_the_emptiest_first() {
        assert_eq!(pour(&mut vessels(&[10, 4, 0]), 6, 9), [(2, 5), (1, 1)]);
        assert_eq!(pour(&mut vessels(&[10, 4, 0]), 3, 9), [(2, 3)]);
        assert_eq!(pour(&mut vessels(&[0, 0]), 3, 9), [(0, 2), (1, 1)]);
        assert_eq!(pour(&mut vessels(&[5, 0, 0]), 9, 1), [(1, 9)]);
    }

    #[test]
    fn siphoning_levels_the_fullest_first() {
        assert_eq!(siphon(&mut vessels(&[10, 4, 0]), 6, 99), [(0, 6)]);
        assert_eq!(siphon(&mut vessels(&[10, 8, 0]), 6, 99), [(0, 4), (1, 2)]);
        assert_eq!(siphon(&mut vessels(&[3, 3]), 5, 3), [(0, 3), (1, 2)]);
    }
}
