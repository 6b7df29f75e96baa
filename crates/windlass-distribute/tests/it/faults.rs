//! A fleet at rest, then one thing goes wrong: nothing is deleted, and one clear line tells.

use std::collections::BTreeMap;

use windlass_distribute::{Decisions, Settings, World};

use super::fleet::{Dice, FakeNode, Fault, Rig};

const MEGA: i64 = 1_000_000;

/// Three nodes with 40 files each, exactly at their limit, and 20 more files that wait.
fn at_rest() -> (Rig, World, Dice) {
    let names: Vec<String> = (1..=140).map(|rank| format!("MV{rank:03}.mpg")).collect();
    let origin: BTreeMap<String, i64> = names.iter().map(|name| (name.clone(), 10 * MEGA)).collect();
    let nodes = (0..3).map(|n| FakeNode {
        addr: format!("127.16.0.{}:28888", n + 1),
        disk: names.iter().take(120).skip(n).step_by(3).map(|name| (name.clone(), 10 * MEGA)).collect(),
        size: 450 * MEGA,
        other: 5 * MEGA,
        ..FakeNode::default()
    });
    let mut rig = Rig::new(nodes.collect(), origin, names);
    let settings = Settings { limit_percent: 90, ..Settings::default() };
    let mut world = rig.world(&["127.16.0.1:28888".to_owned()], settings);
    let dice = Dice::new(3);
    for _ in 0..3 {
        let (decisions, faults) = rig.cycle(&mut world, &dice, true);
        assert_eq!((faults.len(), decisions.deletes.len(), decisions.transfers.len()), (0, 0, 0));
        assert_eq!(decisions.alarms, Vec::<String>::new());
    }
    (rig, world, dice)
}

fn next(rig: &mut Rig, world: &mut World, dice: &Dice, what: &str, line: &str) -> Decisions {
    let (decisions, faults) = rig.cycle(world, dice, true);
    assert_eq!(faults, Vec::<String>::new(), "{what}");
    assert_eq!(decisions.deletes, [], "{what}");
    assert_eq!(decisions.transfers, [], "{what}");
    let told: Vec<&String> = decisions.alarms.iter().filter(|alarm| alarm.contains(line)).collect();
    assert_eq!(told.len(), 1, "{what}: one line with `{line}` in {:?}", decisions.alarms);
    assert_eq!(decisions.alarms.len(), 1, "{what}: {:?}", decisions.alarms);
    println!("{what}: {}", told[0]);
    decisions
}

#[test]
fn listings_that_are_empty_cut_slow_errors_pages_halved_or_old() {
    let node = "node 127.16.0.2:28888";
    for (fault, line) in [
        (Fault::ListingEmpty, format!("{node} lists 0 of the 40 files")),
        (Fault::ListingHalf, format!("{node} does not list 20 files that it had, but its disk is as full")),
        (Fault::ListingCut, format!("the listing of {node} was cut after")),
        (Fault::ListingSlow, format!("the listing of {node} did not come: no answer in time")),
        (Fault::ListingError, format!("the listing of {node} is an answer with status 500")),
        (Fault::ListingPage, format!("the listing of {node} is `text/html` and not plain text")),
        (Fault::ListingOld, format!("the listing of {node} is 86400 s old")),
        (Fault::SpaceGarbage, format!("{node} does not say how full its disk is")),
        (Fault::Dead, format!("{node} does not answer its heartbeat")),
    ] {
        let (mut rig, mut world, dice) = at_rest();
        rig.nodes[1].fault = fault;
        next(&mut rig, &mut world, &dice, &format!("{fault:?}"), &line);
        rig.nodes[1].fault = Fault::None;
        let (decisions, _) = rig.cycle(&mut world, &dice, true);
        assert_eq!((decisions.deletes.len(), decisions.transfers.len(), decisions.alarms.len()), (0, 0, 0));
    }
}

#[test]
fn a_real_loss_is_believed_once_it_is_said_three_times() {
    let (mut rig, mut world, dice) = at_rest();
    rig.nodes[1].disk.clear();
    for times in 1..3 {
        next(&mut rig, &mut world, &dice, "disk lost", &format!("({times} of 3 equal answers)"));
    }
    let (decisions, _) = rig.cycle(&mut world, &dice, true);
    assert_eq!((decisions.alarms.len(), decisions.transfers.len()), (0, 1), "its files are copied anew: {decisions:?}");
}

#[test]
fn an_agent_that_was_put_back_from_an_old_image() {
    let (mut rig, mut world, dice) = at_rest();
    // The image is of a time when it held what the first node holds now.
    rig.nodes[1].disk = rig.nodes[0].disk.clone();
    next(&mut rig, &mut world, &dice, "old image", "node 127.16.0.2:28888 lists 0 of the 40 files that it had");
    let (mut rig, mut world, dice) = at_rest();
    let foreign: Vec<(String, i64)> = rig.nodes[0].disk.clone().into_iter().take(21).collect();
    for _ in 0..15 {
        rig.nodes[1].disk.pop_last();
    }
    rig.nodes[1].disk.extend(foreign);
    next(&mut rig, &mut world, &dice, "half an old image", "lists 21 files that nobody copied there");
}

#[test]
fn a_catalogue_that_is_emptied_halved_or_somebody_elses() {
    let (mut rig, mut world, dice) = at_rest();
    let ranked = rig.ranked.clone();
    rig.catalogue(&mut world, &[]);
    next(&mut rig, &mut world, &dice, "emptied", "the new catalogue has 0 files and the last one had 140");
    rig.catalogue(&mut world, &ranked[..70]);
    next(&mut rig, &mut world, &dice, "halved", "the new catalogue has 70 files and the last one had 140");
    let turned: Vec<String> = ranked.iter().rev().cloned().collect();
    rig.catalogue(&mut world, &turned);
    next(&mut rig, &mut world, &dice, "turned round", "best files of the last catalogue");
    rig.catalogue(&mut world, &ranked);
    let (decisions, _) = rig.cycle(&mut world, &dice, true);
    assert_eq!((decisions.deletes.len(), decisions.alarms.len()), (0, 0));
}

#[test]
fn a_clock_that_is_off_by_a_day() {
    for off in [86_400, -86_400] {
        let (mut rig, mut world, _) = at_rest();
        // Above the limit, and a node away: the clock alone must not make these look due.
        rig.nodes[0].other += 20 * MEGA;
        rig.now += off;
        for node in &mut rig.nodes {
            node.clock_off = -off;
        }
        let line = if off > 0 { "the clock is 86400 s off" } else { "the clock went back by" };
        rig.ask(&mut world);
        let decisions = windlass_distribute::decide(&world);
        assert_eq!(decisions.deletes, []);
        let told: Vec<&String> = decisions.alarms.iter().filter(|alarm| alarm.contains(line)).collect();
        assert_eq!(told.len(), 1, "{:?}", decisions.alarms);
        println!("clock off by {off}: {}", told[0]);
    }
}

#[test]
fn one_node_with_a_wrong_clock_stops_nothing() {
    let (mut rig, mut world, dice) = at_rest();
    rig.nodes[2].clock_off = 86_400;
    rig.nodes[0].other += 20 * MEGA;
    let (decisions, faults) = rig.cycle(&mut world, &dice, true);
    assert_eq!((faults.len(), decisions.deletes.len()), (0, 2), "{decisions:?}");
}

#[test]
fn an_origin_that_is_not_mounted() {
    let (mut rig, mut world, dice) = at_rest();
    rig.nodes[0].other += 20 * MEGA;
    let doubt = "the origin folder /data2 is empty, perhaps not mounted: nothing is copied or deleted";
    rig.read_origin(&mut world, Some(doubt.to_owned()));
    next(&mut rig, &mut world, &dice, "unmounted", "perhaps not mounted");
}
