//! The worked examples of the specification, and each rule by itself.

use super::super::*;
use super::placement::Cluster;

fn drain(agents: &[&str]) -> Mode {
    Mode::Drain { agents: agents.iter().map(|&name| name.to_owned()).collect() }
}

fn recovery(lost: &[&str]) -> Mode {
    Mode::Recovery { lost: lost.iter().map(|&name| name.to_owned()).collect() }
}

fn manual(agents: &[&str]) -> Mode {
    Mode::Manual { agents: agents.iter().map(|&name| name.to_owned()).collect() }
}

#[test]
fn counts_900_600_300_move_300_from_the_first_to_the_third() {
    let cluster = Cluster::of(3).fill(&[0], 900).fill(&[1], 600).fill(&[2], 300);
    let outcome = cluster.deviation(1);
    assert_eq!(outcome.targets(), [600, 600, 600]);
    assert_eq!(outcome.flows(), ["move a-0→a-2 300"]);
    assert_eq!(outcome.predicted(), [600, 600, 600]);
    assert_eq!(outcome.document.totals.bytes, 300 * 512);
    assert_eq!(outcome.document.chunks.len(), 43);
    assert_eq!((outcome.document.spread_before, outcome.document.spread_predicted), (1.5, 1.0));
}

#[test]
fn weights_2_1_1_move_150_from_each_of_the_last_two_to_the_first() {
    let cluster = Cluster::of(3).fill(&[0], 600).fill(&[1], 600).fill(&[2], 600).weights(&[2.0, 1.0, 1.0]);
    let outcome = cluster.deviation(1);
    assert_eq!(outcome.targets(), [900, 450, 450]);
    assert_eq!(outcome.flows(), ["move a-1→a-0 150", "move a-2→a-0 150"]);
}

#[test]
fn two_copies_on_three_agents_move_from_the_ids_the_third_does_not_hold() {
    let mut cluster = Cluster::of(3).fill(&[0, 1], 600).fill(&[0, 2], 200).fill(&[1, 2], 100);
    let outcome = cluster.deviation(2);
    assert_eq!(outcome.targets(), [600, 600, 600]);
    assert_eq!(outcome.flows(), ["move a-0→a-2 200", "move a-1→a-2 100"]);
    cluster.apply(&outcome, 2, &[]);
    let sets = cluster.holder_sets();
    assert_eq!(sets[&vec![0, 1]], 300);
    assert_eq!(sets[&vec![0, 2]], 300);
    assert_eq!(sets[&vec![1, 2]], 300);
}

#[test]
fn a_usage_of_80_50_50_percent_moves_250_of_the_1000_ids() {
    let cluster = Cluster::of(3).fill(&[0], 1000).fill(&[1], 600).fill(&[2], 700);
    let rate = trigger(&[0.8, 0.5, 0.5], Fullness::Ratio, 0.1, 0.05).unwrap().rate;
    let request = PlanRequest { rate: Some(rate), ..cluster.request(manual(&["a-0"]), 1) };
    let outcome = cluster.plan(&request);
    assert_eq!(outcome.document.totals.moves, 250);
    assert_eq!(outcome.targets(), [750, 775, 775]);
    assert_eq!(outcome.flows(), ["move a-0→a-1 175", "move a-0→a-2 75"]);
}

#[test]
fn a_rate_without_named_agents_is_that_of_the_fullest() {
    let cluster = Cluster::of(3).fill(&[0], 100).fill(&[1], 1000).fill(&[2], 100);
    let request = PlanRequest { rate: Some(0.1), ..cluster.request(Mode::Deviation, 1) };
    assert_eq!(cluster.plan(&request).flows(), ["move a-1→a-0 50", "move a-1→a-2 50"]);
}

#[test]
fn nothing_moves_inside_the_band() {
    let cluster = Cluster::of(3).fill(&[0], 104).fill(&[1], 100).fill(&[2], 96);
    let outcome = cluster.deviation(1);
    assert!(outcome.document.is_empty());
    assert!(outcome.document.shortfalls.is_empty());
    assert!(outcome.document.to_string().contains("nothing to do"));
}

#[test]
fn an_empty_agent_is_filled_even_if_no_other_is_overfull() {
    let mut cluster = Cluster::of(12);
    for agent in 0..11 {
        cluster = cluster.fill(&[agent], 1100);
    }
    let request = PlanRequest { tolerance: 0.1, ..cluster.request(Mode::Deviation, 1) };
    let outcome = cluster.plan(&request);
    assert_eq!(outcome.predicted()[11], 1008, "brought to its target of 1008.3");
    assert_eq!(outcome.document.shortfalls, []);
}

#[test]
fn empty_agents_and_an_empty_cluster_need_no_plan() {
    assert!(Cluster::of(3).deviation(1).document.is_empty());
    assert_eq!(Cluster::of(1).fill(&[0], 5).deviation(1).flows(), [""; 0]);
}

#[test]
fn the_fullest_holder_loses_the_copy_above_r() {
    let mut cluster = Cluster::of(3).fill(&[0, 1, 2], 30).fill(&[0, 1], 30).fill(&[1, 2], 30);
    // Counts 60, 90, 60 with R = 2.
    let outcome = cluster.deviation(2);
    assert_eq!(outcome.flows(), ["trim a-1→- 30"]);
    cluster.apply(&outcome, 2, &[]);
    assert_eq!(cluster.counts(), [60, 60, 60]);
}

#[test]
fn trims_level_several_full_holders() {
    let outcome = Cluster::of(3).fill(&[0, 1, 2], 30).deviation(2);
    assert_eq!(outcome.flows(), ["trim a-0→- 10", "trim a-1→- 10", "trim a-2→- 10"]);
}

#[test]
fn fills_go_to_the_emptiest_agent_that_does_not_hold_the_id() {
    let mut cluster = Cluster::of(3).fill(&[0], 40).fill(&[0, 1], 20).fill(&[1, 2], 40);
    // Counts 60, 60, 40: the first 20 fills go to the third, the rest to both others.
    let outcome = cluster.plan(&PlanRequest { tolerance: 0.2, ..cluster.request(Mode::Deviation, 2) });
    assert_eq!(outcome.flows(), ["fill a-0→a-1 10", "fill a-0→a-2 30"]);
    cluster.apply(&outcome, 2, &[]);
    assert!(cluster.holder_sets().keys().all(|holders| holders.len() == 2));
}

#[test]
fn a_raised_r_fills_and_then_evens_out() {
    let mut cluster = Cluster::of(3).fill(&[0], 900);
    let outcome = cluster.deviation(2);
    assert_eq!(outcome.predicted(), [600, 600, 600]);
    assert_eq!(outcome.document.totals.fills, 900);
    assert_eq!(outcome.document.totals.moves, 300);
    cluster.apply(&outcome, 2, &[]);
    assert_eq!(cluster.counts(), [600, 600, 600]);
}

#[test]
fn an_old_copy_is_refreshed_or_trimmed_when_it_is_surplus() {
    let mut cluster = Cluster::of(3);
    for at in 0..5 {
        let id = format!("old-{at}");
        cluster.put(0, id.as_bytes(), 7);
        cluster.put(1, id.as_bytes(), 9);
    }
    for at in 0..4 {
        let id = format!("surplus-{at}");
        cluster.put(0, id.as_bytes(), 9);
        cluster.put(1, id.as_bytes(), 9);
        cluster.put(2, id.as_bytes(), -3);
    }
    let request = PlanRequest { tolerance: 10.0, ..cluster.request(Mode::Deviation, 2) };
    let outcome = cluster.plan(&request);
    assert_eq!(outcome.flows(), ["refresh a-1→a-0 5", "trim a-2→- 4"]);
    assert_eq!(outcome.document.ids.differing, 9);
    cluster.apply(&outcome, 2, &[]);
    assert!(cluster.plan(&request).document.is_empty());
}

#[test]
fn a_surplus_copy_is_trimmed_only_with_the_newest_time_on_r_others() {
    let mut cluster = Cluster::of(3);
    for (agent, time) in [(0, 1), (1, 5), (2, 2)] {
        cluster.put(agent, b"x", time);
    }
    cluster.put(0, b"y", 1);
    cluster.put(1, b"y", 1);
    let request = PlanRequest { tolerance: 10.0, ..cluster.request(Mode::Deviation, 2) };
    let outcome = cluster.plan(&request);
    assert_eq!(outcome.flows(), ["refresh a-1→a-2 1", "trim a-0→- 1"]);
    cluster.apply(&outcome, 2, &[]);
}

#[test]
fn unknown_times_make_no_copy_old() {
    let mut cluster = Cluster::of(2);
    for at in 0..5 {
        cluster.put(0, &[b'a' + at], 0);
        cluster.put(1, &[b'a' + at], 9);
    }
    assert_eq!(cluster.deviation(2).flows(), ["refresh a-1→a-0 5"]);
    cluster.agents[0].times_known = false;
    assert!(cluster.deviation(2).document.is_empty());
}

#[test]
fn ids_in_hold_off_are_repaired_but_not_moved() {
    let mut cluster = Cluster::of(2).fill(&[0], 100);
    let all: Vec<Vec<u8>> = cluster.copies[0].keys().cloned().collect();
    cluster.held_off.extend(all[..80].iter().cloned());
    let outcome = cluster.deviation(1);
    assert_eq!(outcome.flows(), ["move a-0→a-1 20"]);
    assert!(outcome.chunks.iter().flatten().all(|(id, ..)| !cluster.held_off.contains(id)));
    assert_eq!(outcome.document.ids.held_off, 80);
    assert!(outcome.document.shortfalls.iter().all(|shortfall| shortfall.reasons == [Reason::HoldOff]));
    assert_eq!(cluster.deviation(2).document.totals.fills, 100);
}

#[test]
fn ids_that_cannot_be_acted_upon_are_counted_and_listed() {
    let mut cluster = Cluster::of(2).fill(&[0], 10);
    cluster.put(0, b"", 1);
    cluster.put(0, b"\xff\xfe", 1);
    cluster.put(0, b"broken", 1);
    cluster.copies[0].get_mut(b"broken".as_slice()).unwrap().invalid = true;
    cluster.put(0, b"conflict", 1);
    cluster.put(1, b"conflict", 1);
    cluster.conflicting.insert(b"conflict".to_vec());
    cluster.conflicting.insert(b"elsewhere".to_vec());
    let outcome = cluster.deviation(1);
    let reported = &outcome.document.reported;
    assert_eq!((reported.not_movable, reported.invalid, reported.conflicting), (2, 1, 1));
    assert_eq!(outcome.reported[&Reported::NotMovable], [b"".to_vec(), b"\xff\xfe".to_vec()]);
    assert_eq!(outcome.reported[&Reported::Invalid], [b"broken".to_vec()]);
    assert_eq!(outcome.reported[&Reported::Conflicting], [b"conflict".to_vec()]);
    assert!(outcome.chunks.iter().flatten().all(|(id, ..)| id.starts_with(b"0.")));

    let short = PlanRequest { max_listed: 1, ..cluster.request(Mode::Deviation, 1) };
    let outcome = cluster.plan(&short);
    assert_eq!(outcome.listed(Reported::NotMovable), 1);
    assert_eq!(outcome.document.reported.not_movable, 2);
}

#[test]
fn a_drain_empties_its_agents_and_moves_nothing_else() {
    let mut cluster = Cluster::of(4).fill(&[0, 1], 50).fill(&[2], 90).fill(&[0, 3], 30).fill(&[2, 3], 31);
    cluster = cluster.fill(&[0, 2], 10);
    let request = cluster.request(drain(&["a-0"]), 1);
    let outcome = cluster.plan(&request);
    // R = 1: the drained agent's copies of ids held elsewhere are surplus.
    assert_eq!(outcome.predicted()[0], 0);
    assert_eq!(outcome.document.totals.moves, 0);

    let request = cluster.request(drain(&["a-0"]), 2);
    let outcome = cluster.plan(&request);
    assert!(outcome.document.flows.iter().all(|flow| flow.kind != ChunkKind::Move || flow.source == "a-0"));
    assert_eq!(outcome.document.totals.moves, 90);
    cluster.apply(&outcome, 2, &[]);
    assert_eq!(cluster.counts()[0], 0);
    assert!(cluster.plan(&request).document.is_empty());
}

#[test]
fn an_id_on_two_drained_agents_leaves_both() {
    let mut cluster = Cluster::of(4).fill(&[0, 1], 40);
    let outcome = cluster.plan(&cluster.request(drain(&["a-0", "a-1"]), 2));
    assert_eq!(outcome.document.totals.moves, 80);
    cluster.apply(&outcome, 2, &[]);
    assert_eq!(cluster.counts(), [0, 0, 40, 40]);
}

#[test]
fn a_full_agent_gives_but_does_not_take() {
    let mut cluster = Cluster::of(3).fill(&[0], 900).fill(&[1], 600).fill(&[2], 300);
    cluster.agents[2].state = AgentState::Full;
    let outcome = cluster.deviation(1);
    assert_eq!(outcome.flows(), ["move a-0→a-1 150"]);
    assert_eq!(outcome.targets(), [750, 750, 300]);
    assert!(outcome.document.shortfalls.iter().all(|shortfall| shortfall.reasons == [Reason::FullAgents]));
    assert_eq!(outcome.document.shortfalls.len(), 3);
}

#[test]
fn limits_bound_all_transfers_together() {
    let cluster = Cluster::of(3).fill(&[0], 900).fill(&[1], 600).fill(&[2], 300);
    let request = PlanRequest { max_moves: Some(100), ..cluster.request(Mode::Deviation, 1) };
    let outcome = cluster.plan(&request);
    assert_eq!(outcome.flows(), ["move a-0→a-2 100"]);
    assert_eq!(outcome.document.shortfalls[0].reasons, [Reason::Limits]);
    let request = PlanRequest { max_bytes: Some(512 * 40 + 511), ..cluster.request(Mode::Deviation, 1) };
    assert_eq!(cluster.plan(&request).flows(), ["move a-0→a-2 40"]);
    let request = PlanRequest { max_moves: Some(300), ..cluster.request(Mode::Deviation, 2) };
    let outcome = cluster.plan(&request);
    assert_eq!((outcome.document.totals.fills, outcome.document.totals.moves), (300, 0), "repairs come first");
}

#[test]
fn a_smaller_plan_moves_a_subset_of_a_larger_one() {
    let cluster = Cluster::of(2).fill(&[0], 1000);
    let ids = |most: u64| {
        let request = PlanRequest { max_moves: Some(most), seed: 5, ..cluster.request(Mode::Deviation, 1) };
        let moved = cluster.plan(&request).chunks.into_iter().flatten().map(|(id, ..)| id);
        moved.collect::<std::collections::BTreeSet<_>>()
    };
    let (few, many) = (ids(50), ids(300));
    assert_eq!((few.len(), many.len()), (50, 300));
    assert!(few.is_subset(&many));
    let hashes = |wanted: bool| {
        let many = &many;
        cluster.copies[0].keys().filter(move |&id| many.contains(id) == wanted).map(|id| select::hash(id, 5))
    };
    assert!(hashes(true).max() < hashes(false).min(), "those with the smallest hashes move");
}

#[test]
fn another_seed_moves_other_ids() {
    let cluster = Cluster::of(2).fill(&[0], 1000);
    let moved = |seed| cluster.plan(&PlanRequest { seed, ..cluster.request(Mode::Deviation, 1) }).chunks;
    assert_ne!(moved(1), moved(2));
}

#[test]
fn copies_stay_in_different_zones() {
    let mut cluster = Cluster::of(4).fill(&[0, 2], 400).fill(&[1, 3], 20);
    for (agent, zone) in cluster.agents.iter_mut().zip(["x", "x", "y", "y"]) {
        agent.zone = Some(zone.to_owned());
    }
    let outcome = cluster.deviation(2);
    cluster.apply(&outcome, 2, &[]);
    assert!(cluster.holder_sets().keys().all(|set| set[0] < 2 && set[1] >= 2), "{:?}", cluster.holder_sets());
    assert_eq!(cluster.counts(), [210, 210, 210, 210]);
    // The last agent of zone y: what it holds has to go where zone x is already.
    cluster.agents[3].state = AgentState::Full;
    let outcome = cluster.plan(&cluster.request(drain(&["a-2"]), 2));
    assert_eq!(outcome.predicted()[2], 0, "a drain crowds a zone rather than leave a copy");
}

#[test]
fn the_crowded_zone_is_trimmed() {
    let mut cluster = Cluster::of(3).fill(&[0, 1, 2], 30).fill(&[2], 50);
    for (agent, zone) in cluster.agents.iter_mut().zip(["x", "x", "y"]) {
        agent.zone = Some(zone.to_owned());
    }
    let request = PlanRequest { tolerance: 9.0, max_moves: Some(0), ..cluster.request(Mode::Deviation, 2) };
    assert_eq!(cluster.plan(&request).flows(), ["trim a-0→- 15", "trim a-1→- 15"]);
}

#[test]
fn a_recovery_fills_from_the_living_and_leaves_the_rest_alone() {
    let mut cluster = Cluster::of(4).fill(&[0, 3], 30).fill(&[1, 2], 100).fill(&[3], 7).fill(&[0, 1, 3], 4);
    let request = cluster.request(recovery(&["a-3"]), 2);
    let outcome = cluster.plan(&request);
    assert_eq!((outcome.document.totals.fills, outcome.document.totals.restores), (30, 0));
    assert_eq!(outcome.document.totals.moves + outcome.document.totals.trims, 0);
    assert_eq!(outcome.document.reported.unseen, 7);
    assert_eq!(outcome.listed(Reported::Unseen), 7);
    cluster.apply(&outcome, 2, &[3]);
    assert_eq!(cluster.plan(&request).document.totals.fills, 0);

    let always = PlanRequest { restore_unseen: RestoreUnseen::Always, ..request };
    let outcome = cluster.plan(&always);
    assert_eq!(outcome.document.totals.restores, 14, "both copies of the seven");
    cluster.apply(&outcome, 2, &[3]);
    assert!(cluster.plan(&always).document.is_empty());
}

#[test]
fn unseen_ids_are_restored_by_themselves_when_no_other_copy_can_be_left() {
    let cluster = Cluster::of(3).fill(&[2], 7).fill(&[0], 3);
    let outcome = cluster.plan(&cluster.request(recovery(&["a-2"]), 1));
    assert_eq!(outcome.document.totals.restores, 7);
    let mut cluster = Cluster::of(4).fill(&[2, 3], 7).fill(&[2], 5);
    cluster.copies[3].get_mut(b"2.3.0".as_slice()).unwrap().time = 200;
    let outcome = cluster.plan(&cluster.request(recovery(&["a-2", "a-3"]), 2));
    assert_eq!((outcome.document.totals.restores, outcome.document.reported.unseen), (14, 5));
    cluster.apply(&outcome, 2, &[2, 3]);
    assert_eq!(cluster.copies[0][b"2.3.0".as_slice()].time, 200, "from the newest of the lost copies");
    let never = PlanRequest {
        restore_unseen: RestoreUnseen::Never,
        ..Cluster::of(2).fill(&[1], 9).request(recovery(&["a-1"]), 1)
    };
    assert_eq!(Cluster::of(2).fill(&[1], 9).plan(&never).document.reported.unseen, 9);
}

#[test]
fn a_recovery_places_what_fits_and_reports_the_rest() {
    let mut cluster = Cluster::of(3).fill(&[0, 1, 2], 20).fill(&[0, 2], 5);
    let outcome = cluster.plan(&cluster.request(recovery(&["a-2"]), 3));
    assert_eq!(outcome.flows(), ["fill a-0→a-1 5"]);
    assert_eq!(outcome.document.reported.unplaceable, 25);
    assert_eq!(outcome.listed(Reported::Unplaceable), 25);
    cluster.apply(&outcome, 3, &[2]);
}

#[test]
fn a_group_of_ids_used_up_by_a_move_is_not_drawn_from_again() {
    // The single id shared with a-2 goes in the first draw, which then still lacks two ids for rounding down.
    let mut cluster = Cluster::of(10).weights(&[1.0, 4.0]).fill(&[0, 2], 1);
    for other in 3..10 {
        cluster = cluster.fill(&[0, other], 15);
    }
    let outcome = cluster.deviation(2);
    cluster.apply(&outcome, 2, &[]);
    assert_eq!(outcome.predicted(), cluster.counts());
}

#[test]
fn a_stored_plan_reads_back_the_same() {
    let cluster = Cluster::of(3).fill(&[0], 900).fill(&[1], 600).fill(&[2], 300);
    let document = cluster.deviation(1).document;
    let json = serde_json::to_string(&document).unwrap();
    assert!(json.starts_with(r#"{"format":1,"mode":"deviation","index_replica":1"#), "{json}");
    assert_eq!(serde_json::from_str::<PlanDocument>(&json).unwrap(), document);
}

#[test]
fn the_text_of_a_plan_is_a_pair_of_tables() {
    let mut cluster = Cluster::of(3).fill(&[0], 900).fill(&[1], 600).fill(&[2], 300);
    cluster.agents[1].name = format!("a-1\u{1b}[31m\n{}", "long".repeat(20));
    let text = cluster.deviation(1).document.to_string();
    let expected = "\
plan: deviation, index_replica 1, tolerance 0.05, seed 0
ids: 1800, lacking copies 0, with too many 0, of differing age 0, in hold-off 0

agent                             state   weight  copies  target  after plan
a-0                               member       1     900     600         600
a-2                               member       1     300     600         600
a-1\u{fffd}[31m\u{fffd}longlon…onglonglonglong  member       1     600     600         600

step  from  to   ids   bytes
move  a-0   a-2  300  153600

total: 0 refreshes, 0 trims, 0 fills, 0 restores, 300 moves in 43 chunks, about 153600 bytes
spread (max/mean): 1.5000 before, 1.0000 after
";
    assert_eq!(text, expected, "\n{text}");
}
