//! Random worlds with faults: what must never happen does not, and once the faults are over everything comes to rest.
//!
//! `WINDLASS_SEEDS=1000` runs so many worlds, `WINDLASS_SEEDS=@17` the world with that seed.

use std::collections::BTreeMap;

use windlass_distribute::{FileId, Settings, World};

use super::fleet::{CYCLE, Dice, FakeNode, Fault, LISTING_FAULTS, Rig};

const TROUBLE: usize = 40;
const CALM: usize = 600;

fn seeds() -> Vec<u64> {
    let wish = std::env::var("WINDLASS_SEEDS").unwrap_or_else(|_| "60".to_owned());
    match wish.strip_prefix('@') {
        Some(seed) => vec![seed.parse().expect("WINDLASS_SEEDS=@N names a seed")],
        None => (1..=wish.parse().expect("WINDLASS_SEEDS is a number")).collect(),
    }
}

fn rig(dice: &Dice) -> (Rig, World) {
    let count = 2 + dice.below(6);
    let files: Vec<String> = (0..10 + dice.below(120))
        .map(|n| {
            format!("{}{}{n:03}.mpg", dice.pick(&["MV", "MV", "MV", "M64", "A b#"]), dice.pick(&["", "-", "\u{d55c}"]))
        })
        .collect();
    let mut ranked = files.clone();
    for at in (1..ranked.len()).rev() {
        ranked.swap(at, dice.below(at + 1));
    }
    let mega = 1_000_000_i64;
    let origin: BTreeMap<String, i64> = files
        .iter()
        .filter(|_| !dice.chance(4))
        .map(|name| (name.clone(), mega * (1 + dice.below(100) as i64)))
        .collect();
    let all: i64 = origin.values().sum();
    let nodes = (0..count).map(|n| {
        let disk: BTreeMap<String, i64> = files
            .iter()
            .filter(|_| dice.chance(15))
            .map(|name| (name.clone(), origin.get(name).copied().unwrap_or(mega)))
            .collect();
        let used: i64 = disk.values().sum();
        // From far too small for everything to more than enough.
        let size = (used * 100 / (50 + dice.below(49) as i64)).max(all * (5 + dice.below(60) as i64) / 100) + mega;
        FakeNode { addr: format!("127.16.0.{}:28888", n + 1), disk, size, other: mega / 2, ..FakeNode::default() }
    });
    let mut rig = Rig::new(nodes.collect(), origin, ranked);
    for name in &files {
        if dice.chance(30) {
            let addr = rig.nodes[dice.below(count)].addr.clone();
            rig.claims.insert(name.clone(), vec![addr]);
        }
    }
    rig.speed = mega * (5 + dice.below(100) as i64);
    let sources: Vec<String> = rig.nodes.iter().take(1 + dice.below(3)).map(|node| node.addr.clone()).collect();
    let settings = Settings {
        ignore_prefixes: vec!["M64".to_owned()],
        copies: if dice.chance(25) { 2 } else { 1 },
        swap_min_rank_gain: dice.below(4) as u32,
        max_outbound_per_source: 1 + dice.below(2) as u16,
        ..Settings::default()
    };
    let world = rig.world(&sources, settings);
    (rig, world)
}

/// Something goes wrong, or right again.
fn trouble(rig: &mut Rig, world: &mut World, dice: &Dice) {
    for node in &mut rig.nodes {
        if dice.chance(25) {
            node.fault = match dice.below(12) {
                0..=4 => Fault::None,
                5 | 6 => Fault::Dead,
                7 => dice.pick(&[Fault::SpaceGarbage, Fault::DeletesLie, Fault::DeletesFail, Fault::CopiesFail]),
                _ => dice.pick(&LISTING_FAULTS),
            };
        }
        if dice.chance(5) {
            node.clock_off = dice.pick(&[0, 0, 0, 86_400, -86_400]);
        }
        if dice.chance(10) {
            node.image = Some(node.disk.clone());
        }
        if dice.chance(3)
            && let Some(image) = node.image.clone()
        {
            let fits = image.values().sum::<i64>() + node.other <= node.size;
            if fits {
                node.disk = image;
            }
        }
    }
    let ranked = rig.ranked.clone();
    match dice.below(24) {
        0 => rig.catalogue(world, &[]),
        1 => rig.catalogue(world, &ranked[..ranked.len() / 2]),
        2 => rig.read_origin(world, Some("the origin folder is empty, perhaps not mounted".to_owned())),
        3 => rig.read_origin(world, None),
        4 => {
            let (a, b) = (dice.below(ranked.len()), dice.below(ranked.len()));
            rig.ranked.swap(a, b);
            let ranked = rig.ranked.clone();
            rig.catalogue(world, &ranked);
        }
        5 | 6 => {
            rig.rising =
                (0..dice.below(4)).map(|_| (dice.pick_name(&ranked).into_bytes(), 5 + dice.below(9) as u32)).collect();
            rig.rising.sort();
            rig.rising.dedup_by(|a, b| a.0 == b.0);
        }
        7 => rig.now += dice.pick(&[-86_400, 86_400, -3600, 3600]),
        _ => {}
    }
}

trait PickName {
    fn pick_name(&self, from: &[String]) -> String;
}

impl PickName for Dice {
    fn pick_name(&self, from: &[String]) -> String {
        from[self.below(from.len())].clone()
    }
}

fn calm(rig: &mut Rig, world: &mut World) {
    for node in &mut rig.nodes {
        node.fault = Fault::None;
        node.clock_off = 0;
    }
    let ranked = rig.ranked.clone();
    // An operator's word: what the breaker kept out is right.
    world.catalogue = std::sync::Arc::default();
    rig.catalogue(world, &ranked);
    rig.read_origin(world, None);
    // The clock may have gone back for good.
    rig.now = rig.now.max(world.last_now.unwrap_or(0));
}

fn play(seed: u64) -> Result<usize, String> {
    let dice = Dice::new(seed);
    let (mut rig, mut world) = rig(&dice);
    let fault = |cycle: usize, faults: Vec<String>| format!("seed {seed}, cycle {cycle}: {}", faults.join("; "));
    for cycle in 0..TROUBLE {
        trouble(&mut rig, &mut world, &dice);
        if dice.chance(8) {
            // A second controller took over; the first has not noticed, and what it still sends is refused.
            let mut old = world.clone();
            let (nodes, transfers) = (rig.nodes.clone(), rig.progress.clone());
            rig.term += 1;
            for node in &mut rig.nodes {
                node.term = rig.term;
            }
            let (_, faults) = rig.cycle(&mut old, &dice, false);
            if !faults.is_empty() {
                return Err(fault(cycle, faults));
            }
            let same = nodes
                .iter()
                .zip(&rig.nodes)
                .all(|(before, after)| before.disk.keys().all(|name| after.disk.contains_key(name)));
            if !same {
                return Err(format!("seed {seed}, cycle {cycle}: invariant 4: a controller without the term deleted"));
            }
            rig.progress = transfers;
            rig.now -= CYCLE;
        }
        let (_, faults) = rig.cycle(&mut world, &dice, true);
        if !faults.is_empty() {
            return Err(fault(cycle, faults));
        }
    }
    calm(&mut rig, &mut world);
    let (mut quiet, mut last) = (0, String::new());
    for cycle in 0..CALM {
        let (decisions, faults) = rig.cycle(&mut world, &dice, true);
        if !faults.is_empty() {
            return Err(fault(TROUBLE + cycle, faults));
        }
        let moves = decisions.deletes.len() + decisions.transfers.len();
        let waits_for_time = !world.transfers.is_empty() || !world.retry_not_before.is_empty();
        let doubts = !decisions.distrusted.is_empty();
        quiet = if moves == 0 && !waits_for_time && !doubts { quiet + 1 } else { 0 };
        last = format!(
            "{moves} moves, open {:?}, later {:?}, {:?}",
            world.transfers, world.retry_not_before, decisions.alarms
        );
        if quiet == 30 {
            settled(&rig, &world).map_err(|what| format!("seed {seed}: at rest, but {what}"))?;
            return Ok(cycle + 1 - quiet);
        }
    }
    Err(format!("seed {seed}: invariant 7: still no rest after {CALM} cycles: {last}"))
}

/// At rest nothing is left that a rule would change.
fn settled(rig: &Rig, world: &World) -> Result<(), String> {
    let mut copies: BTreeMap<FileId, u16> = BTreeMap::new();
    for node in &rig.nodes {
        for name in node.disk.keys() {
            *copies.entry(world.names.find(name.as_bytes()).unwrap()).or_default() += 1;
        }
    }
    for (file, count) in copies {
        let bound = world.catalogue.has(file) && world.origin.has(file) && !world.settings.is_ad(world.names.get(file));
        if bound && count > world.settings.copies {
            return Err(format!("{} has {count} copies", world.names.shown(file)));
        }
    }
    Ok(())
}

#[test]
fn faulty_worlds_keep_the_invariants_and_come_to_rest() {
    let seeds = seeds();
    let (mut wrong, mut longest) = (Vec::new(), (0, 0));
    for seed in &seeds {
        match play(*seed) {
            Ok(cycles) => longest = longest.max((cycles, *seed)),
            Err(what) => wrong.push(what),
        }
    }
    println!(
        "{} worlds, seeds {:?}..={:?}; the longest way to rest took {} cycles (seed {})",
        seeds.len(),
        seeds.first(),
        seeds.last(),
        longest.0,
        longest.1
    );
    assert!(wrong.is_empty(), "{} of {} worlds\n{}", wrong.len(), seeds.len(), wrong.join("\n"));
}
