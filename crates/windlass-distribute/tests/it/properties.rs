//! Any snapshot, however odd: decisions keep the invariants, and are the same for the same snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use windlass_distribute::decide::{Ask, decide_asked};
use windlass_distribute::hours::{Hours, TimeOfDay};
use windlass_distribute::input::catalogue::Reading;
use windlass_distribute::input::listing::{self, Answer};
use windlass_distribute::input::{Catalogue, Hits, Listing, ListingFault, LogTail, Origin, Space};
use windlass_distribute::settings::{CopiesFrom, CopiesUpTo, Freeze, Traits};
use windlass_distribute::world::{OpenTransfer, TransferStatus};
use windlass_distribute::{Fleet, NodeIx, Settings, World, decide, invariants, legacy};

const NOW: i64 = 1_767_193_200;

#[derive(Clone, Debug)]
struct FileRow {
    ad: bool,
    known: bool,
    size: i64,
    origin: Option<u64>,
    held: u8,
    before: u8,
    claims: u8,
    hits: u32,
    retry: bool,
}

#[derive(Clone, Debug)]
struct NodeRow {
    up: bool,
    listing: u8,
    age: i64,
    space: Option<(i64, i64)>,
    seen: bool,
    down_since: Option<i64>,
    source: bool,
    drain: bool,
    read_only: bool,
    clock_off: i64,
}

prop_compose! {
    fn file()(
        ad in prop::bool::weighted(0.1), known in prop::bool::weighted(0.9), size in -1_i64..200,
        origin in prop::option::weighted(0.9, 0_u64..200), held in any::<u8>(), spread in any::<u8>(),
        before in any::<u8>(), claims in any::<u8>(), hits in 0_u32..12, retry in prop::bool::weighted(0.1),
    ) -> FileRow {
        FileRow { ad, known, size, origin, held: held & spread & before, before, claims: claims & spread, hits, retry }
    }
}

prop_compose! {
    fn node()(
        up in prop::bool::weighted(0.85), listing in 0_u8..8, age in prop::sample::select(vec![0_i64, 10, 300, 301]),
        space in prop::option::weighted(0.9, (0_i64..3000, 0_i64..1500)), seen in any::<bool>(),
        down_since in prop::option::of(prop::sample::select(vec![NOW, NOW - 21_600, NOW - 21_601])),
        source in any::<bool>(), drain in prop::bool::weighted(0.1), read_only in prop::bool::weighted(0.1),
        clock_off in prop::sample::select(vec![0_i64, 0, 0, 0, 0, 86_400]),
    ) -> NodeRow {
        NodeRow { up, listing, age, space, seen, down_since, source, drain, read_only, clock_off }
    }
}

prop_compose! {
    fn rules()(
        copies in 1_u16..3, steps in prop::bool::weighted(0.2), limit in 0_u32..101, outbound in 1_u16..3,
        inbound in 1_u16..3, least in 0_u32..12, total in 0_u32..20, gain in 0_u32..4,
        freeze in prop::sample::select(vec![Freeze::No, Freeze::No, Freeze::No, Freeze::Deletes, Freeze::All]),
        more in any::<u8>(),
    ) -> Settings {
        // At NOW it is 15:00.
        let hours = |from: &str, to: &str| Hours {
            from: TimeOfDay::read(from).unwrap(), to: TimeOfDay::read(to).unwrap(), days: Vec::new(),
        };
        let usual = Traits::default();
        let servers = (1..=6).map(|n| {
            let labels = [("rack".to_owned(), (n % 2).to_string())].into();
            let maintenance = if more & 16 > 0 && n == 2 { vec![hours("14:00", "16:00")] } else { Vec::new() };
            (format!("127.16.0.{n}:28888"), Traits { labels, maintenance, weight: 50 * n, ..usual.clone() })
        });
        Settings {
            ignore_prefixes: vec!["M64".to_owned()],
            copies,
            copies_by_rank: if steps { vec![CopiesUpTo { rank: 5, copies: 3 }] } else { Vec::new() },
            limit_percent: limit,
            max_outbound_per_source: outbound,
            max_inbound_per_destination: inbound,
            max_deletes_least: least,
            max_deletes_total_least: total,
            swap_min_rank_gain: gain,
            freeze,
            spread: if more & 1 > 0 { vec!["rack".to_owned()] } else { Vec::new() },
            copy_from_holders: more & 2 > 0,
            copies_by_hits: if more & 4 > 0 { vec![CopiesFrom { hits: 4, copies: 2 }] } else { Vec::new() },
            fill_hours: if more & 40 == 40 { vec![hours("01:00", "02:00")] } else { Vec::new() },
            servers: if more & 1 > 0 { servers.collect() } else { BTreeMap::new() },
            ..Settings::default()
        }
    }
}

fn world(files: &[FileRow], nodes: &[NodeRow], open: &[(usize, usize, usize, i64)], mut settings: Settings) -> World {
    let addr = |n: usize| format!("127.16.0.{}:28888", n + 1);
    let addrs: Vec<String> = (0..nodes.len()).map(addr).collect();
    let which = |keep: fn(&NodeRow) -> bool| -> Vec<String> {
        nodes.iter().zip(&addrs).filter(|(node, _)| keep(node)).map(|(_, addr)| addr.clone()).collect()
    };
    settings.drain = which(|node| node.drain);
    settings.read_only = which(|node| node.read_only);
    let fleet = Fleet::new(&which(|node| node.source), &addrs, &settings).unwrap();
    let mut world = World::new(settings, fleet);
    world.now = NOW;
    let name = |at: usize| format!("{}{at:03}.mpg", if files[at].ad { "M64" } else { "MV" });
    let (mut grades, mut history) = ("filename\n".to_owned(), "historyheader:1\n".to_owned());
    for (at, file) in files.iter().enumerate().filter(|(_, file)| file.known) {
        grades += &format!("{}\t1\n", name(at));
        let claimed = (0..nodes.len()).filter(|n| file.claims >> n & 1 == 1).map(|n| format!("127.16.0.{}", n + 1));
        history += &format!("{},1,1,{},{},0\n", name(at), file.size, claimed.collect::<Vec<_>>().join(" "));
    }
    let (grades, history) = (grades.as_bytes(), history.as_bytes());
    let catalogue = Catalogue::read(&mut world.names, &world.fleet, grades, history, Reading::Product).unwrap();
    world.catalogue = Arc::new(catalogue);
    let ids: Vec<_> = (0..files.len()).map(|at| world.names.intern(name(at).as_bytes()).unwrap()).collect();
    let mut origin = Origin::default();
    for (file, id) in files.iter().zip(&ids) {
        if let Some(size) = file.origin {
            origin.put(*id, size, 0);
        }
        if file.retry {
            world.retry_not_before.insert(*id, NOW + 60);
        }
    }
    world.origin = Arc::new(origin);
    world.rising =
        files.iter().zip(&ids).filter(|(file, _)| file.hits >= 9).map(|(file, id)| (*id, file.hits)).collect();
    for (n, node) in nodes.iter().enumerate() {
        let place = world.fleet.find(&addrs[n]).unwrap();
        let bits = |of: fn(&FileRow) -> u8| {
            Listing::new(files.iter().zip(&ids).filter(|(file, _)| of(file) >> n & 1 == 1).map(|(_, id)| *id).collect())
        };
        let listing = match node.listing {
            0 => Err(ListingFault::NoAnswer),
            1 => Ok(Listing::default()),
            _ => Ok(bits(|file| file.held)),
        };
        world.beat(place, node.up);
        world.listed(place, listing);
        let state = world.node_mut(place);
        state.listed_at = NOW - node.age;
        state.space = node.space.map(|(used, avail)| Space { used, avail }).filter(|space| space.size() > 0);
        state.accepted = node.seen.then(|| Arc::new(bits(|file| file.before)));
        state.down_since = if node.up { None } else { node.down_since };
        state.clock_off = Some(node.clock_off);
    }
    for (at, (file, source, destination, age)) in open.iter().enumerate() {
        let transfer = OpenTransfer {
            id: at.to_string(),
            file: ids[file % ids.len()],
            source: addrs[source % nodes.len()].clone(),
            destination: addrs[destination % nodes.len()].clone(),
            status: TransferStatus::Working,
            touched: NOW - age,
        };
        // No state of the store has more than the limit: whoever opened these obeyed it.
        let full = |end: fn(&OpenTransfer) -> &String| world.transfers.iter().any(|other| end(other) == end(&transfer));
        let again = world.transfers.iter().any(|other| other.file == transfer.file);
        if !again && !full(|open| &open.source) && !full(|open| &open.destination) {
            world.transfers.push(transfer);
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_snapshot_keeps_the_invariants(
        files in prop::collection::vec(file(), 1..60),
        nodes in prop::collection::vec(node(), 1..8),
        open in prop::collection::vec((any::<usize>(), any::<usize>(), any::<usize>(), 0_i64..4000), 0..4),
        settings in rules(),
    ) {
        let mut world = world(&files, &nodes, &open, settings);
        let decisions = decide(&world);
        prop_assert_eq!(invariants::check(&world, &decisions), Vec::<String>::new());
        let _ = legacy::decide(&world);
        // Asking changes nothing, and every file that was passed over has its reason.
        let asked = decide_asked(&world, Ask::First(usize::MAX));
        prop_assert_eq!(&asked.deletes, &decisions.deletes);
        prop_assert_eq!(&asked.transfers, &decisions.transfers);
        let one = world.catalogue.by_rank().next();
        if let Some(file) = one {
            let why = decide_asked(&world, Ask::File(file)).asked;
            let copied = decisions.transfers.iter().any(|transfer| transfer.file == file);
            prop_assert_eq!(why.len(), usize::from(!copied));
        }
        // What is remembered never makes the next decisions break a rule.
        world.remember(&decisions);
        world.now += 30;
        let next = decide(&world);
        prop_assert_eq!(invariants::check(&world, &next), Vec::<String>::new());
    }

    #[test]
    fn bad_bytes_in_any_input_do_no_harm(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\n\r,\t=0x40ffff file()".to_vec())], 0..400),
    ) {
        let mut world = World::new(Settings::default(), Fleet::new(&[], &["10.0.0.1:1".to_owned()], &Settings::default()).unwrap());
        for reading in [Reading::Product, Reading::Legacy] {
            let read = Catalogue::read(&mut world.names, &world.fleet, &bytes[..], &bytes[..], reading).unwrap();
            prop_assert!(read.len() <= bytes.len());
            prop_assert_eq!(read.by_rank().count(), read.len());
            prop_assert_eq!(read.by_first_line().len(), read.len());
        }
        let answer = Answer { status: 200, content_type: "text/plain", age_sec: 0, complete: true, body: &bytes };
        let listing = listing::read(&mut world.names, &answer, 300);
        world.listed(world.fleet.places().next().unwrap(), listing);
        let _ = Space::read(&bytes);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("EventLog[20251231].log"), &bytes).unwrap();
        let watched = windlass_distribute::input::event_log::Watched::new(&["10.0.0.1".to_owned()], Reading::Product).unwrap();
        let mut hits = Hits::default();
        LogTail::captured(folder.path()).look(&mut hits, &watched, NOW, 600, 0).unwrap();
        prop_assert_eq!(invariants::check(&world, &decide(&world)), Vec::<String>::new());
    }

    /// However the inputs come - one after the other, changed again and again, or all at once - the decisions are those
    /// of the last state. Numbers of names differ; names do not.
    #[test]
    fn the_order_in_which_inputs_come_does_not_matter(
        files in prop::collection::vec(file(), 1..40),
        nodes in prop::collection::vec(node(), 1..6),
        other in prop::collection::vec(file(), 1..40),
    ) {
        let settings = Settings { ignore_prefixes: vec!["M64".to_owned()], ..Settings::default() };
        let fresh = world(&files, &nodes, &[], settings.clone());
        // The same world, in whose table of names everything else came before.
        let mut mixed = World::new(settings, fresh.fleet.clone());
        for at in (0..other.len()).rev() {
            mixed.names.intern(format!("MV{at:03}.mpg").as_bytes()).unwrap();
        }
        let mut moved = BTreeMap::new();
        for number in (0..u32::try_from(fresh.names.len()).unwrap()).rev() {
            let id = windlass_distribute::FileId::of(number);
            moved.insert(id, mixed.names.intern(fresh.names.get(id)).unwrap());
        }
        let of = |listing: &Listing| Listing::new(listing.ids().iter().map(|id| moved[id]).collect());
        mixed.now = fresh.now;
        mixed.nodes = fresh.nodes.clone();
        for node in &mut mixed.nodes {
            node.listing = node.listing.clone().map(|listing| Arc::new(of(&listing)));
            node.accepted = node.accepted.clone().map(|listing| Arc::new(of(&listing)));
        }
        mixed.rising = fresh.rising.iter().map(|(id, hits)| (moved[id], *hits)).collect();
        mixed.retry_not_before = fresh.retry_not_before.iter().map(|(id, at)| (moved[id], *at)).collect();
        let mut origin = Origin::default();
        for (old, new) in &moved {
            if let Some(size) = fresh.origin.size(*old) {
                origin.put(*new, u64::try_from(size).unwrap(), 0);
            }
        }
        mixed.origin = Arc::new(origin);
        let (mut grades, mut history) = ("filename\n".to_owned(), "historyheader:1\n".to_owned());
        for id in fresh.catalogue.by_rank() {
            let name = fresh.names.shown(id);
            grades += &format!("{name}\n");
            let ip = |claim: &u16| (1..=8).map(|n| format!("127.16.0.{n}")).find(|ip| fresh.fleet.ip(ip.as_bytes()) == Some(*claim)).unwrap();
            let ips: Vec<String> = fresh.catalogue.claims(id).iter().map(ip).collect();
            history += &format!("{name},1,1,{},{}\n", fresh.catalogue.size(id), ips.join(" "));
        }
        let read = Catalogue::read(&mut mixed.names, &mixed.fleet, grades.as_bytes(), history.as_bytes(), Reading::Product);
        mixed.catalogue = Arc::new(read.unwrap());
        let told = |world: &World| {
            let decisions = decide(world);
            let name = |file| world.names.shown(file).to_string();
            let deletes: Vec<(NodeIx, String)> = decisions.deletes.iter().map(|d| (d.node, name(d.file))).collect();
            let copies: Vec<(NodeIx, NodeIx, String)> =
                decisions.transfers.iter().map(|t| (t.source, t.destination, name(t.file))).collect();
            (deletes, copies, decisions.waiting(), decisions.alarms)
        };
        prop_assert_eq!(told(&fresh), told(&mixed));
    }
}
