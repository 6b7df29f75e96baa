//! What decisions cost: `cargo run --release -p windlass-distribute --example bench_plan -- 1000000x100 …`
//!
//! For each size a world is made up, its inputs are read as they come from outside, and decisions are made: once for
//! the first time, then again after one input changed. Prints one JSON line a size.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use windlass_clock::{SharedClock, SystemClock};
use windlass_distribute::input::catalogue::Reading;
use windlass_distribute::input::event_log::{Entry, Watched};
use windlass_distribute::input::listing::{self, Answer};
use windlass_distribute::input::{Catalogue, Hits, Origin, Space};
use windlass_distribute::sample::{Made, Sample};
use windlass_distribute::{Fleet, NodeIx, Settings, World, decide};

/// Seconds that the processor worked for this program, which has one thread.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Resident memory in MB: now, and the most that it was.
fn memory() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// What something cost.
#[derive(Clone, Copy, serde::Serialize)]
struct Cost {
    wall_ms: f64,
    cpu_ms: f64,
}

struct Watch {
    clock: SharedClock,
    wall: Duration,
    cpu: f64,
}

impl Watch {
    fn start(clock: &SharedClock) -> Self {
        Self { clock: clock.clone(), wall: clock.monotonic(), cpu: cpu() }
    }

    fn ms(&self) -> f64 {
        ((self.clock.monotonic() - self.wall).as_secs_f64() * 1e5).round() / 100.0
    }

    fn cpu_ms(&self) -> f64 {
        ((cpu() - self.cpu) * 1e5).round() / 100.0
    }

    fn both(&self) -> Cost {
        Cost { wall_ms: self.ms(), cpu_ms: self.cpu_ms() }
    }
}

fn listing(world: &mut World, place: NodeIx, body: &[u8]) {
    let answer = Answer { status: 200, content_type: "text/plain;charset=UTF-8", age_sec: 0, complete: true, body };
    let listing = listing::read(&mut world.names, &answer, 300);
    world.listed(place, listing);
}

/// The world as its inputs tell it, and how long reading the catalogue took.
fn world(sample: &Sample, made: &Made, grades: &[u8], history: &[u8], clock: &SharedClock) -> (World, Cost) {
    let settings = Settings {
        ignore_prefixes: vec!["M64".to_owned(), "MN1".to_owned()],
        watch: vec![sample.watch.clone()],
        hit_base: sample.hit_base,
        ..Settings::default()
    };
    let fleet = Fleet::new(&made.sources, &made.destinations, &settings).expect("the addresses are good");
    let mut world = World::new(settings, fleet);
    world.now = sample.now;
    let watch = Watch::start(clock);
    let catalogue = Catalogue::read(&mut world.names, &world.fleet, grades, history, Reading::Product);
    let read_ms = watch.both();
    world.catalogue = Arc::new(catalogue.expect("memory can be read"));
    let mut origin = Origin::default();
    for (at, name) in made.names.iter().enumerate().filter(|(at, _)| made.on_origin[*at]) {
        if let Some(id) = world.names.intern(name.as_bytes()) {
            origin.put(id, made.sizes[at], 0);
        }
    }
    world.origin = Arc::new(origin);
    for (node, addr) in made.destinations.iter().enumerate() {
        let Some(place) = world.fleet.find(addr) else { continue };
        world.beat(place, true);
        let (used, avail) = made.space[node];
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        world.node_mut(place).space = Some(Space { used: bytes(used), avail: bytes(avail) });
        listing(&mut world, place, &made.listing(node));
    }
    (world, read_ms)
}

fn rising(world: &mut World, log: &[u8]) -> (Hits, Watched) {
    let watched = Watched::new(&world.settings.watch, Reading::Product).expect("no pattern is compiled");
    let mut hits = Hits::default();
    for line in log.split(|byte| *byte == b'\n') {
        if let Entry::Hit(time, file) = watched.read(line) {
            hits.add(time, file);
        }
    }
    world.set_rising(&hits.rising(world.now, world.settings.window_sec, world.settings.hit_base));
    (hits, watched)
}

/// The cheapest of some rounds.
fn best_of(rounds: usize, mut run: impl FnMut() -> Cost) -> Cost {
    let none = Cost { wall_ms: f64::INFINITY, cpu_ms: f64::INFINITY };
    (0..rounds).map(|_| run()).fold(none, |best, cost| if cost.cpu_ms < best.cpu_ms { cost } else { best })
}

fn measure(files: usize, nodes: usize, clock: &SharedClock) -> serde_json::Value {
    let sample =
        Sample { files, nodes, sources: (nodes / 10).max(2), log_lines: 200_000, seed: 7, ..Sample::default() };
    let made = sample.make();
    let (mut grades, mut history, mut log) = (Vec::new(), Vec::new(), Vec::new());
    sample.write_catalogue(&made, &mut grades, &mut history).expect("memory can be written");
    sample.write_log(&made, &mut log).expect("memory can be written");
    let before = memory().0;
    let (mut world, catalogue_ms) = world(&sample, &made, &grades, &history, clock);
    let watch = Watch::start(clock);
    let (mut hits, watched) = rising(&mut world, &log);
    let log_ms = watch.both();

    let watch = Watch::start(clock);
    let decisions = decide(&world);
    let first = watch.both();
    world.remember(&decisions);
    let again_ms = best_of(5, || {
        let watch = Watch::start(clock);
        black_box(decide(&world));
        watch.both()
    });
    // One input changes, and decisions follow: the listing of one node, a minute of the event log, one heartbeat.
    let node = 0;
    let place = world.fleet.find(&made.destinations[node]).expect("the node is there");
    let mut without: Vec<u8> = made.listing(node);
    let body = without.clone();
    let first_line = without.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    without.drain(..first_line);
    let mut turn = false;
    let after_listing_ms = best_of(5, || {
        turn = !turn;
        let watch = Watch::start(clock);
        listing(&mut world, place, if turn { &without } else { &body });
        black_box(decide(&world));
        watch.both()
    });
    let minute: Vec<&[u8]> = log.split(|byte| *byte == b'\n').take(3000).collect();
    let after_log_ms = best_of(5, || {
        let watch = Watch::start(clock);
        for line in &minute {
            if let Entry::Hit(time, file) = watched.read(line) {
                hits.add(time, file);
            }
        }
        let risen = hits.rising(world.now, world.settings.window_sec, world.settings.hit_base);
        world.set_rising(&risen);
        black_box(decide(&world));
        watch.both()
    });
    let after_heartbeat_ms = best_of(5, || {
        let up = world.node(place).up;
        let watch = Watch::start(clock);
        world.beat(place, !up);
        black_box(decide(&world));
        watch.both()
    });
    let after_catalogue_ms = best_of(2, || {
        let watch = Watch::start(clock);
        let read = Catalogue::read(&mut world.names, &world.fleet, &grades[..], &history[..], Reading::Product);
        world.catalogue = Arc::new(read.expect("memory can be read"));
        black_box(decide(&world));
        watch.both()
    });
    let (resident, most) = memory();
    json!({
        "files": files, "nodes": nodes,
        "read_catalogue": catalogue_ms, "read_event_log": log_ms,
        "first_decisions": first, "decisions": again_ms,
        "after_one_listing": after_listing_ms, "after_log_lines": after_log_ms,
        "after_heartbeat": after_heartbeat_ms, "after_whole_catalogue": after_catalogue_ms,
        "deletes": decisions.deletes.len(), "copies": decisions.transfers.len(), "waiting": decisions.waiting(),
        "world_mb": (world.memory() as f64 / 1e6).round(),
        "resident_mb_beyond_inputs": (resident - before).round(), "peak_mb_with_inputs": most.round(),
    })
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn main() {
    let runtime = SystemClock::real();
    let sizes: Vec<String> = std::env::args().skip(1).collect();
    let usual = ["10000x10", "10000x100", "100000x10", "100000x100", "1000000x10", "1000000x100"].map(str::to_owned);
    for size in if sizes.is_empty() { usual.to_vec() } else { sizes } {
        let parts = size.split_once('x').and_then(|(f, n)| Some((f.parse().ok()?, n.parse().ok()?)));
        match parts {
            Some((files, nodes)) => println!("{}", measure(files, nodes, &runtime)),
            None => println!("{size} is no FILESxNODES"),
        }
    }
}
