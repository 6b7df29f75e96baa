//! Random small clusters: whatever they look like, a plan keeps its promises.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::*;
use super::placement::{Cluster, Outcome};

/// Groups of ids: so many, on these agents (a bit each), of which those in the second set hold an old copy, and
/// whether they are in hold-off.
fn cluster(agents: usize) -> impl Strategy<Value = Cluster> {
    let bits = 1..(1usize << agents);
    let old = prop_oneof![4 => Just(0usize), 1 => 0..(1usize << agents)];
    let group = (1usize..60, bits, old, prop_oneof![8 => Just(false), 1 => Just(true)]);
    let weights = prop_oneof![
        2 => Just(vec![1.0; agents]),
        1 => prop::collection::vec(prop_oneof![Just(1.0), Just(2.0), Just(0.5), Just(1.3)], agents),
    ];
    let zones =
        prop_oneof![2 => Just(vec![None; agents]), 1 => prop::collection::vec(prop::option::of(0u8..3), agents)];
    let states = prop_oneof![
        3 => Just(vec![AgentState::Member; agents]),
        1 => prop::collection::vec(
            prop_oneof![5 => Just(AgentState::Member), 1 => Just(AgentState::Full)],
            agents
        ),
    ];
    (prop::collection::vec(group, 0..10), weights, zones, states).prop_map(move |(groups, weights, zones, states)| {
        let mut cluster = Cluster::of(agents).weights(&weights);
        for ((agent, zone), state) in cluster.agents.iter_mut().zip(zones).zip(states) {
            agent.zone = zone.map(|zone| format!("z{zone}"));
            agent.state = state;
        }
        for (number, (count, holders, old, held_off)) in groups.into_iter().enumerate() {
            for at in 0..count {
                let id = format!("{:02x}-{number}", (at * 37 + number * 11) % 256);
                let id = format!("{id}-{at}");
                let on = |agent: usize, set: usize| set >> agent & 1 == 1;
                for agent in (0..agents).filter(|&agent| on(agent, holders)) {
                    // At least one holder has the newest copy.
                    let is_old = on(agent, old) && holders & !old != 0;
                    cluster.put(agent, id.as_bytes(), if is_old { 50 } else { 100 });
                }
                if held_off {
                    cluster.held_off.insert(id.into_bytes());
                }
            }
        }
        cluster
    })
}

fn mode(agents: usize) -> impl Strategy<Value = Mode> {
    let name = (0..agents).prop_map(|at| format!("a-{at}"));
    prop_oneof![
        4 => Just(Mode::Deviation),
        2 => name.clone().prop_map(|name| Mode::Drain { agents: vec![name] }),
        1 => name.clone().prop_map(|name| Mode::Manual { agents: vec![name] }),
        2 => name.prop_map(|name| Mode::Recovery { lost: vec![name] }),
    ]
}

fn case() -> impl Strategy<Value = (Cluster, Mode, u32, f64, u64)> {
    (2usize..6).prop_flat_map(|agents| {
        (cluster(agents), mode(agents), 1u32..4, prop_oneof![Just(0.0), Just(0.05), Just(0.3)], any::<u64>())
    })
}

fn adds_up(outcome: &Outcome, cluster: &Cluster, lost: &[usize]) {
    let document = &outcome.document;
    let mut by_flow: BTreeMap<_, u64> = BTreeMap::new();
    for chunk in &document.chunks {
        *by_flow.entry((chunk.kind, chunk.source.clone(), chunk.destination.clone())).or_default() += chunk.ids;
    }
    let flows: BTreeMap<_, u64> = document
        .flows
        .iter()
        .map(|flow| ((flow.kind, flow.source.clone(), flow.destination.clone()), flow.ids))
        .collect();
    assert_eq!(flows, by_flow, "the flows are the sums of their chunks");
    let totals = &document.totals;
    let all = totals.moves + totals.fills + totals.trims + totals.refreshes + totals.restores;
    assert_eq!(all, by_flow.values().sum::<u64>());
    for (at, agent) in document.agents.iter().enumerate() {
        assert_eq!(agent.copies, cluster.counts()[at]);
        if lost.contains(&at) {
            continue;
        }
        let sum = |wanted: &dyn Fn(&Flow) -> bool| {
            document.flows.iter().filter(|flow| wanted(flow)).map(|flow| flow.ids).sum::<u64>()
        };
        let came = sum(&|flow| flow.kind != ChunkKind::Refresh && flow.destination.as_deref() == Some(&agent.name));
        let went = sum(&|flow| matches!(flow.kind, ChunkKind::Move | ChunkKind::Trim) && flow.source == agent.name);
        assert_eq!(agent.predicted, agent.copies + came - went);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_keeps_its_promises((mut cluster, mode, replicas, tolerance, seed) in case()) {
        let request = PlanRequest { tolerance, seed, ..cluster.request(mode.clone(), replicas) };
        let outcome = match cluster.try_plan(&request) {
            Err(CalculateError::TooFewAgents { .. }) => return Ok(()),
            outcome => outcome.unwrap(),
        };
        let lost: Vec<usize> = match &mode {
            Mode::Recovery { lost } => vec![lost[0][2..].parse().unwrap()],
            _ => Vec::new(),
        };
        adds_up(&outcome, &cluster, &lost);

        // The order in which the agents are given is nothing to the plan.
        let reversed = cluster.reversed();
        let same = PlanRequest { tolerance, seed, ..reversed.request(mode.clone(), replicas) };
        prop_assert_eq!(&reversed.plan(&same), &outcome);

        let before = cluster.clone();
        cluster.apply(&outcome, replicas as usize, &lost);
        for (at, agent) in outcome.document.agents.iter().enumerate() {
            if !lost.contains(&at) {
                prop_assert_eq!(agent.predicted, cluster.counts()[at], "what was predicted came true");
            }
        }
        prop_assert!(
            before.holder_sets().values().sum::<usize>() == cluster.holder_sets().values().sum::<usize>(),
            "no id vanished"
        );
        let document = &outcome.document;
        if document.mode == Mode::Deviation {
            // Never more moves than what lay above the targets once all was repaired.
            let excess: u64 = document
                .agents
                .iter()
                .map(|agent| {
                    let moved = |wanted: &dyn Fn(&Flow) -> bool| {
                        document.flows.iter().filter(|flow| flow.kind == ChunkKind::Move && wanted(flow))
                            .map(|flow| flow.ids).sum::<u64>()
                    };
                    let gone = moved(&|flow| flow.source == agent.name);
                    let came = moved(&|flow| flow.destination.as_deref() == Some(&agent.name));
                    (agent.predicted + gone - came).saturating_sub(agent.target)
                })
                .sum();
            prop_assert!(document.totals.moves <= excess, "{} moves for {excess}", document.totals.moves);
            // Every agent is inside the band, or the plan says which is not.
            let total: f64 = document.agents.iter().map(|agent| agent.predicted as f64).sum();
            let weights: f64 = document.agents.iter().map(|agent| agent.weight).sum();
            for agent in &document.agents {
                let share = total * agent.weight / weights;
                let inside = (agent.predicted as f64) <= (share * (1.0 + tolerance)).max(share.ceil()) + 1e-6;
                let said = document.shortfalls.iter().any(|shortfall| shortfall.agent == agent.name);
                prop_assert!(inside || said, "{} has {} of {share}", agent.name, agent.predicted);
            }
        }
        if matches!(document.mode, Mode::Deviation | Mode::Drain { .. }) {
            let whole = document.reported.unplaceable == 0 && document.ids.surplus == 0;
            let wrong = cluster.holder_sets().keys().any(|holders| holders.len() < replicas as usize);
            prop_assert!(!(whole && wrong), "every id has R copies");
        }
        // Planning again finds nothing, unless it is about what was passed over the first time.
        let passed_over = !document.shortfalls.is_empty() || document.ids.differing > 0;
        if !passed_over || matches!(mode, Mode::Recovery { .. }) {
            let again = cluster.plan(&request);
            prop_assert!(again.document.is_empty(), "again:\n{}", again.document);
        }
    }

    #[test]
    fn limits_are_kept((cluster, mode, replicas, tolerance, seed) in case(), most in 0u64..100) {
        let request =
            PlanRequest { tolerance, seed, max_moves: Some(most), ..cluster.request(mode, replicas) };
        if let Ok(outcome) = cluster.try_plan(&request) {
            let totals = &outcome.document.totals;
            prop_assert!(totals.moves + totals.fills + totals.restores + totals.refreshes <= most);
            let mut after = cluster.clone();
            let lost: Vec<usize> = match &request.mode {
                Mode::Recovery { lost } => vec![lost[0][2..].parse().unwrap()],
                _ => Vec::new(),
            };
            after.apply(&outcome, replicas as usize, &lost);
        }
    }
}
