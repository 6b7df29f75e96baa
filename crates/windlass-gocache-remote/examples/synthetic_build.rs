//! Pushes what `go build std` stores through a remote with 0, 20 and 50 ms of delay per request, and prints time,
//! requests and bytes: once into an empty remote (c), once out of a full one into an empty local store (b).
//!
//! The actions and sizes are those of Go 1.26 (1461 actions, 1087 outputs, 168.7 MB); the bytes are made to compress
//! about as well as the real ones. `go` itself is not run: b is the time that a build with eight lookups at once, each
//! asked after the one before is answered, would wait at least.
//!
//! `cargo run --release -p windlass-gocache-remote --example synthetic_build`

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench that fails may stop, and prints its table")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use windlass_blob::Environment;
use windlass_clock::{Entropy, Seeded, SystemClock};
use windlass_gocache_remote::{ActionId, Lookup, Remote, RemoteConfig};
use windlass_sim::s3::{Fault, FaultProxy, S3Server, Script};

#[path = "../tests/it/folder.rs"]
mod folder;
use folder::Folder;

/// Puts by size: how many, from, to. Of 1461 puts 355 are empty.
const SIZES: [(usize, usize, usize); 9] = [
    (355, 0, 0),
    (368, 1, 255),
    (172, 256, 1023),
    (177, 1024, 4095),
    (140, 4096, 40_000),
    (108, 65_536, 215_000),
    (102, 262_144, 800_000),
    (35, 1_048_576, 2_500_000),
    (4, 5_000_000, 12_000_000),
];

fn bodies() -> Vec<Vec<u8>> {
    let entropy = Seeded::new(7);
    let mut bodies = Vec::new();
    for (count, from, to) in SIZES {
        for number in 0..count {
            let size = from + (to - from) * number / count.max(1);
            let mut body = Vec::with_capacity(size);
            while body.len() < size {
                // One word of noise to three that repeat: shrinks to about a quarter, as archives do.
                let noise = entropy.next_u64().to_le_bytes();
                body.extend_from_slice(&noise[..7]);
                body.extend_from_slice(b"\x00.text.symbol.go:linkname");
            }
            body.truncate(size);
            bodies.push(body);
        }
    }
    // Nineteen outputs are those of other actions.
    for twin in 0..19 {
        let at = 360 + twin * 3;
        bodies[at + 1] = bodies[at].clone();
    }
    // Builds put small and large in turns.
    let mut order: Vec<(u64, Vec<u8>)> = bodies.into_iter().map(|body| (entropy.next_u64(), body)).collect();
    order.sort_by_key(|(rank, _)| *rank);
    order.into_iter().map(|(_, body)| body).collect()
}

fn action(number: usize) -> ActionId {
    let mut seed = [0; 32];
    let entropy = Seeded::new(number as u64 + 99);
    for part in seed.chunks_mut(8) {
        part.copy_from_slice(&entropy.next_u64().to_le_bytes());
    }
    ActionId::new(seed)
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() {
    let bodies = bodies();
    let total: usize = bodies.iter().map(Vec::len).sum();
    println!("{} actions, {:.1} MB", bodies.len(), total as f64 / 1e6);
    println!(
        "{:>5} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8}",
        "delay", "scenario", "seconds", "requests", "MB out", "MB in", "waited"
    );
    let clock = SystemClock::real();
    for delay in [0, 20, 50] {
        let place = tempfile::tempdir().unwrap();
        let server = S3Server::start(place.path()).unwrap();
        server.create_bucket("bkt").unwrap();
        let proxy = FaultProxy::start(server.address()).unwrap();
        proxy.run(Script::by(
            move |_| if delay == 0 { Fault::Pass } else { Fault::Delay(Duration::from_millis(delay)) },
        ));
        let url: windlass_blob::BlobUrl = format!("s3://bkt/cache?endpoint={}", proxy.endpoint()).parse().unwrap();
        let config = RemoteConfig {
            read: vec![url.clone()],
            write: Some(url),
            environment: Environment::from_pairs(S3Server::credentials()),
            ..RemoteConfig::default()
        };
        let print = |scenario: &str, seconds: f64, remote: &Remote| {
            let counters = remote.counters();
            println!(
                "{delay:>2} ms {scenario:>9} {seconds:>9.2} {:>8} {:>8.1} {:>8.1} {:>8.2}",
                counters.requests,
                counters.bytes_written as f64 / 1e6,
                counters.bytes_read as f64 / 1e6,
                counters.waited().as_secs_f64(),
            );
        };
        let first = tempfile::tempdir().unwrap();
        let local = Arc::new(Folder::open(first.path()));
        let started = clock.monotonic();
        let remote =
            Remote::start(config.clone(), Arc::clone(&local) as _, SystemClock::real(), |line| println!("{line}"));
        for (number, body) in bodies.iter().enumerate() {
            assert_eq!(remote.lookup(&action(number)), Lookup::Absent);
            let entry = local.put(action(number), body, number as i64 + 1);
            remote.offer(action(number), entry);
        }
        let closed = remote.close(Duration::from_secs(60));
        assert_eq!(closed.left, 0, "{:?}", remote.counters());
        print("c", (clock.monotonic() - started).as_secs_f64(), &remote);

        let second = tempfile::tempdir().unwrap();
        let local = Arc::new(Folder::open(second.path()));
        let started = clock.monotonic();
        let remote = Remote::start(config, Arc::clone(&local) as _, SystemClock::real(), |line| println!("{line}"));
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        if number >= bodies.len() {
                            break;
                        }
                        use windlass_gocache_remote::LocalOutputs;
                        let known = local.action(&action(number)).is_some();
                        if !known {
                            let found = remote.lookup(&action(number));
                            assert!(matches!(found, Lookup::Found(_)), "{number}: {found:?}");
                        }
                        remote.used(action(number));
                    }
                });
            }
        });
        let seconds = (clock.monotonic() - started).as_secs_f64();
        remote.close(Duration::from_secs(10));
        print("b", seconds, &remote);
    }
    println!("peak memory, servers and bodies included: {} MiB", peak_mib());
}
