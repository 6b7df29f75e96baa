//! Where further copies go, who serves them, when, and for how long they are wanted.

use std::sync::Arc;

use windlass_distribute::decide::{Ask, Passed, Reason, Transfer, because_transfer, decide_asked};
use windlass_distribute::hours::{Hours, TimeOfDay};
use windlass_distribute::input::catalogue::Reading;
use windlass_distribute::input::{Catalogue, Listing, Origin, Space};
use windlass_distribute::settings::{CopiesFrom, Freeze, Traits, Wishes};
use windlass_distribute::world::{OpenTransfer, TransferStatus};
use windlass_distribute::{Decisions, FileId, Fleet, NodeIx, Settings, World, decide, invariants};

/// Three in the afternoon of a Wednesday.
const NOW: i64 = 1_767_193_200;
const SOURCE: &str = "10.0.0.9:1";

/// Nodes `10.0.0.1:1` and so on, with what they hold, and the rack they stand in; one source besides. Each file has 10
/// bytes, each node 1000, of which it uses what it holds.
fn world(settings: Settings, racks: &[&str], held: &[&[&str]], ranked: &[&str]) -> World {
    let addrs: Vec<String> = (1..=held.len()).map(|n| format!("10.0.0.{n}:1")).collect();
    let mut settings = settings;
    for (addr, rack) in addrs.iter().zip(racks) {
        let traits = settings.servers.entry(addr.clone()).or_default();
        traits.labels.insert("rack".to_owned(), (*rack).to_owned());
    }
    let fleet = Fleet::new(&[SOURCE.to_owned()], &addrs, &settings).unwrap();
    let mut world = World::new(settings, fleet);
    world.now = NOW;
    let names: Vec<&str> = ranked.to_vec();
    catalogue(&mut world, &names.iter().map(|name| (*name, 0)).collect::<Vec<_>>());
    let mut origin = Origin::default();
    for name in ranked {
        origin.put(id(&world, name), 10, 0);
    }
    world.origin = Arc::new(origin);
    let places: Vec<NodeIx> = world.fleet.places().collect();
    places.iter().for_each(|place| world.beat(*place, true));
    for (addr, files) in addrs.iter().zip(held) {
        let place = world.fleet.find(addr).unwrap();
        let files: Vec<(FileId, u64)> =
            files.iter().map(|file| (world.names.intern(file.as_bytes()).unwrap(), 10)).collect();
        let used = 10 * i64::try_from(files.len()).unwrap();
        world.listed(place, Ok(Listing::with_sizes(files)));
        world.node_mut(place).space = Some(Space { used, avail: 1000 - used });
    }
    world
}

/// A catalogue of these names, with the copies that are wished.
fn catalogue(world: &mut World, files: &[(&str, u16)]) {
    let (mut grades, mut history) = ("filename\n".to_owned(), "historyheader:1\n".to_owned());
    for (name, copies) in files {
        grades += &format!("{name}\t1\t1\t1\t1\t1\t{copies}\n");
        history += &format!("{name},1,1,10,,0,0,0,1=0\n");
    }
    let (grades, history) = (grades.as_bytes(), history.as_bytes());
    let new = Catalogue::read(&mut world.names, &world.fleet, grades, history, Reading::Product).unwrap();
    world.set_catalogue(Arc::new(new));
}

fn id(world: &World, name: &str) -> FileId {
    world.names.find(name.as_bytes()).unwrap()
}

fn decided(world: &World) -> Decisions {
    let decisions = decide(world);
    assert_eq!(invariants::check(world, &decisions), Vec::<String>::new());
    decisions
}

fn copies(world: &World, decisions: &Decisions) -> Vec<(String, String, String)> {
    let addr = |place: NodeIx| world.fleet[place].addr.clone();
    let copy = |one: &Transfer| (world.names.shown(one.file).to_string(), addr(one.source), addr(one.destination));
    decisions.transfers.iter().map(copy).collect()
}

fn why(world: &World, name: &str) -> Option<Passed> {
    decide_asked(world, Ask::File(id(world, name))).asked.first().map(|(_, why)| *why)
}

fn hours(from: &str, to: &str) -> Vec<Hours> {
    vec![Hours { from: TimeOfDay::read(from).unwrap(), to: TimeOfDay::read(to).unwrap(), days: Vec::new() }]
}

fn two_copies() -> Settings {
    Settings { copies: 2, spread: vec!["rack".to_owned()], ..Settings::default() }
}

#[test]
fn a_second_copy_goes_to_another_rack_even_if_that_is_fuller() {
    let held: [&[&str]; 3] = [&["A"], &[], &["x", "y", "z"]];
    let world = world(two_copies(), &["a", "a", "b"], &held, &["A"]);
    let decisions = decided(&world);
    assert_eq!(copies(&world, &decisions), [("A".to_owned(), SOURCE.to_owned(), "10.0.0.3:1".to_owned())]);
    let because = because_transfer(&world, &decisions.transfers[0]);
    assert!(because.contains("1 of 2 copies are there"), "{because}");
}

#[test]
fn it_waits_for_a_busy_node_of_another_rack_and_takes_the_same_rack_only_if_no_other_can_take_it() {
    let mut busy = world(two_copies(), &["a", "a", "b"], &[&["A"], &[], &[]], &["A", "B"]);
    busy.settings.max_outbound_per_source = 2;
    busy.transfers.push(OpenTransfer {
        id: "1".to_owned(),
        file: id(&busy, "B"),
        source: SOURCE.to_owned(),
        destination: "10.0.0.3:1".to_owned(),
        status: TransferStatus::Working,
        touched: NOW,
    });
    assert_eq!((decided(&busy).transfers.len(), why(&busy, "A")), (0, Some(Passed::NoDestination)));
    let mut full = world(two_copies(), &["a", "a", "b"], &[&["A"], &[], &[]], &["A"]);
    let place = full.fleet.find("10.0.0.3:1").unwrap();
    full.node_mut(place).space = Some(Space { used: 895, avail: 105 });
    assert_eq!(decided(&full).transfers[0].destination, full.fleet.find("10.0.0.2:1").unwrap());
}

#[test]
fn of_too_many_copies_those_stay_that_stand_apart() {
    let held: [&[&str]; 3] = [&["A"], &["A"], &["A"]];
    let world = world(two_copies(), &["a", "a", "b"], &held, &["A"]);
    let decisions = decided(&world);
    let gone: Vec<(&str, Reason)> =
        decisions.deletes.iter().map(|one| (world.fleet[one.node].addr.as_str(), one.reason)).collect();
    assert_eq!(gone, [("10.0.0.2:1", Reason::Duplicate)], "without racks it were the highest address, 10.0.0.3");
}

#[test]
fn a_heavier_node_takes_more() {
    let mut settings = Settings::default();
    settings.servers.insert("10.0.0.1:1".to_owned(), Traits { weight: 300, ..Traits::default() });
    let held: [&[&str]; 2] = [&["x", "y"], &["z"]];
    let weighted = world(settings, &["a", "b"], &held, &["A"]);
    assert_eq!(copies(&weighted, &decided(&weighted))[0].2, "10.0.0.1:1");
    let plain = world(Settings::default(), &["a", "b"], &held, &["A"]);
    assert_eq!(copies(&plain, &decided(&plain))[0].2, "10.0.0.2:1");
}

#[test]
fn a_node_that_holds_a_file_serves_it_and_the_origin_is_free_for_another() {
    let settings = Settings { copies: 2, copy_from_holders: true, ..Settings::default() };
    let mut world = world(settings, &["a", "b", "c"], &[&["A"], &[], &[]], &["A", "B"]);
    let decisions = decided(&world);
    let from: Vec<(String, String)> =
        copies(&world, &decisions).into_iter().map(|(file, from, _)| (file, from)).collect();
    assert_eq!(from, [("A".to_owned(), "10.0.0.1:1".to_owned()), ("B".to_owned(), SOURCE.to_owned())]);
    assert!(decisions.transfers[0].from_holder && !decisions.transfers[1].from_holder);
    // It failed once: the origin is the better source.
    let holder = world.fleet.find("10.0.0.1:1").unwrap();
    world.failures.insert((id(&world, "A"), holder), 1);
    assert_eq!(copies(&world, &decided(&world)), [("A".to_owned(), SOURCE.to_owned(), "10.0.0.3:1".to_owned())]);
    world.failures.clear();
    // A node serves no more at once than any other source.
    world.transfers.push(OpenTransfer {
        id: "1".to_owned(),
        file: id(&world, "B"),
        source: "10.0.0.1:1".to_owned(),
        destination: "10.0.0.2:1".to_owned(),
        status: TransferStatus::Working,
        touched: NOW,
    });
    let decisions = decided(&world);
    assert_eq!(decisions.closed, [], "a transfer from a node that holds the file goes on");
    assert_eq!(copies(&world, &decisions), [("A".to_owned(), SOURCE.to_owned(), "10.0.0.3:1".to_owned())]);
}

#[test]
fn files_that_do_not_rise_wait_for_their_hours() {
    let settings = Settings { fill_hours: hours("01:00", "06:00"), ..Settings::default() };
    let mut world = world(settings, &["a"], &[&[]], &["A", "B"]);
    assert_eq!((decided(&world).transfers.len(), why(&world, "A")), (0, Some(Passed::OutsideHours)));
    assert_eq!(decided(&world).waiting(), 2);
    world.set_rising(&[(b"B".to_vec(), 9)]);
    assert_eq!(copies(&world, &decided(&world))[0].0, "B");
    world.settings.tz_offset = 11 * 3600;
    assert_eq!(why(&world, "A"), Some(Passed::NoSource), "two in the morning there");
}

#[test]
fn nothing_is_changed_on_a_node_in_its_maintenance_hours_and_its_files_are_not_lost() {
    let mut settings = Settings { node_lost_after_sec: 60, ..Settings::default() };
    settings
        .servers
        .insert("10.0.0.2:1".to_owned(), Traits { maintenance: hours("14:00", "16:00"), ..Traits::default() });
    let mut world = world(settings, &["a", "b"], &[&["A", "B"], &["A"]], &["A", "B", "C"]);
    let decisions = decided(&world);
    assert_eq!(world.fleet[decisions.deletes[0].node].addr, "10.0.0.1:1", "the other copy of A cannot go now");
    assert_eq!(copies(&world, &decisions)[0].2, "10.0.0.1:1");
    let place = world.fleet.find("10.0.0.2:1").unwrap();
    world.remember(&decisions);
    world.now -= 120;
    world.beat(place, false);
    world.now += 120;
    let alone = world.fleet.find("10.0.0.1:1").unwrap();
    world.listed(alone, Ok(Listing::with_sizes(vec![(id(&world, "B"), 10)])));
    assert_eq!(why(&world, "A"), Some(Passed::PossiblyHeld));
    let told = decided(&world).alarms;
    assert!(told.iter().any(|line| line.contains("maintenance hours")), "{told:?}");
    world.now += 3600;
    world.listed(alone, Ok(Listing::with_sizes(vec![(id(&world, "B"), 10)])));
    assert_ne!(why(&world, "A"), Some(Passed::PossiblyHeld), "afterwards it counts as lost");
}

#[test]
fn more_copies_are_wanted_at_once_and_fewer_only_after_a_while() {
    let settings = Settings { copies_from_catalogue: Some(Wishes { min: 1, max: 3 }), ..Settings::default() };
    let mut world = world(settings, &["a", "b", "c"], &[&["A"], &["A"], &[]], &["A", "B"]);
    let a = id(&world, "A");
    catalogue(&mut world, &[("A", 3), ("B", 1)]);
    assert_eq!(world.wanted(a), 3);
    catalogue(&mut world, &[("A", 1), ("B", 1)]);
    let decisions = decided(&world);
    assert_eq!((world.wanted(a), decisions.deletes.len()), (3, 0));
    world.remember(&decisions);
    world.now += 21_599;
    catalogue(&mut world, &[("A", 2), ("B", 1)]);
    assert_eq!(world.wanted(a), 3, "still held up");
    world.now += 1;
    assert_eq!(world.wanted(a), 2);
    // A wave of requests, and its end.
    world.settings.copies_by_hits = vec![CopiesFrom { hits: 5, copies: 3 }];
    world.set_rising(&[(b"A".to_vec(), 7)]);
    assert_eq!(world.wanted(a), 3);
    world.set_rising(&[]);
    assert_eq!(world.wanted(a), 3);
    world.now += 21_600;
    assert_eq!(world.wanted(a), 2);
}

#[test]
fn a_file_that_needs_frozen_deletes_says_so() {
    let mut world = world(Settings { freeze: Freeze::Deletes, ..Settings::default() }, &["a"], &[&["B"]], &["A", "B"]);
    let place = world.fleet.find("10.0.0.1:1").unwrap();
    world.node_mut(place).space = Some(Space { used: 895, avail: 105 });
    world.set_rising(&[(b"A".to_vec(), 9)]);
    assert_eq!(why(&world, "A"), Some(Passed::Frozen));
    world.settings.freeze = Freeze::No;
    assert_eq!(why(&world, "A"), None);
    (world.settings.max_deletes_least, world.settings.max_deletes_percent) = (0, 0);
    assert_eq!(why(&world, "A"), Some(Passed::Brake));
}
