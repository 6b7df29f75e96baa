//! At the disk limit with constant inputs: the original moves for ever, we rest.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use windlass_distribute::input::Catalogue;
use windlass_distribute::input::catalogue::Reading;
use windlass_distribute::legacy;
use windlass_distribute::{Settings, World};

use super::fleet::{Dice, FakeNode, Rig};

const MEGA: i64 = 1_000_000;

/// Three nodes of 1 GB, limit 80 %, two of them at 96 %, and a catalogue a little larger than the room.
fn rig() -> (Rig, World) {
    let names: Vec<String> = (1..=26).map(|rank| format!("MV{rank:02}.mpg")).collect();
    let origin: BTreeMap<String, i64> = names.iter().map(|name| (name.clone(), 96 * MEGA)).collect();
    let node = |n: usize, disk: &[String]| FakeNode {
        addr: format!("127.16.0.{n}:28888"),
        disk: disk.iter().map(|name| (name.clone(), 96 * MEGA)).collect(),
        size: 1000 * MEGA,
        ..FakeNode::default()
    };
    let nodes = vec![node(2, &names[..10]), node(9, &names[10..20]), node(10, &[])];
    let mut rig = Rig::new(nodes, origin, names.clone());
    for (at, name) in names.iter().take(20).enumerate() {
        rig.claims.insert(name.clone(), vec![format!("127.16.0.{}:28888", if at < 10 { 2 } else { 9 })]);
    }
    let sources = vec!["127.16.0.2:28888".to_owned(), "127.16.0.9:28888".to_owned()];
    let settings = Settings { limit_percent: 80, protect_after_copy_sec: 0, ..Settings::default() };
    let world = rig.world(&sources, settings);
    (rig, world)
}

#[test]
fn with_constant_inputs_at_the_limit_nothing_moves_after_the_first_placement() {
    let (mut rig, mut world) = rig();
    let dice = Dice::new(1);
    let moves: Vec<usize> = (0..60)
        .map(|_| {
            let (decisions, faults) = rig.cycle(&mut world, &dice, true);
            assert_eq!(faults, Vec::<String>::new());
            decisions.deletes.len() + decisions.transfers.len()
        })
        .collect();
    let last = moves.iter().rposition(|moves| *moves > 0).unwrap();
    assert!(last < 12, "{moves:?}");
    let held: usize = rig.nodes.iter().map(|node| node.disk.len()).sum();
    assert_eq!(held, 24, "8 files of 96 MB fit below 80 % of each node");
    let best = rig.nodes.iter().flat_map(|node| node.disk.keys()).filter(|name| name.as_str() <= "MV24.mpg").count();
    assert_eq!(best, 24, "and they are the best ones");
}

/// The history as the load balancer writes it anew from what the nodes hold.
fn refresh(rig: &Rig, world: &mut World) {
    let (mut grades, mut history) = ("filename\n".to_owned(), "historyheader:1\n".to_owned());
    for name in &rig.ranked {
        let _ = writeln!(grades, "{name}\t1");
        let holders = rig.nodes.iter().filter(|node| node.disk.contains_key(name));
        let ips: Vec<&str> = holders.map(|node| node.addr.split(':').next().unwrap()).collect();
        let _ = writeln!(history, "{name},1,1,{},{},0,0,0,1=0", 96 * MEGA, ips.join(" "));
    }
    let (grades, history) = (grades.as_bytes(), history.as_bytes());
    let catalogue = Catalogue::read(&mut world.names, &world.fleet, grades, history, Reading::Legacy).unwrap();
    world.catalogue = Arc::new(catalogue);
}

#[test]
fn the_original_deletes_and_copies_for_ever() {
    let (mut rig, mut world) = rig();
    let (mut deleted, mut copied) = (0, 0);
    for _ in 0..60 {
        refresh(&rig, &mut world);
        rig.ask(&mut world);
        for place in world.fleet.places() {
            let listing = world.node(place).listing.clone().ok();
            world.node_mut(place).legacy.listing = listing;
        }
        let decisions = legacy::decide(&world);
        (deleted, copied) = (decisions.deletes.len(), decisions.transfers.len());
        let addrs: Vec<String> = rig.nodes.iter().map(|node| node.addr.clone()).collect();
        let find = |place| addrs.iter().position(|addr| *addr == world.fleet[place].addr).unwrap();
        for delete in &decisions.deletes {
            let name = world.names.shown(delete.file).to_string();
            let node = find(delete.node);
            rig.nodes[node].disk.remove(&name);
        }
        for transfer in &decisions.transfers {
            let name = world.names.shown(transfer.file).to_string();
            let node = find(transfer.destination);
            rig.nodes[node].disk.insert(name, 96 * MEGA);
        }
    }
    assert!(deleted > 0 && copied > 0, "after 60 rounds it still deletes {deleted} and copies {copied} a round");
}
