//! A remote that fails in every way it can: no wrong byte, one warning per cause, nothing lost, no long wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use windlass_clock::SystemClock;
use windlass_gocache_remote::{LocalOutputs, Lookup, RemoteConfig};
use windlass_sim::s3::{Fault, S3Server, Script, Seen};

use crate::folder::read;
use crate::world::{Bucket, Machine, PATIENCE, at, files, steps};

fn refusal(status: u16, code: &'static str) -> Fault {
    Fault::Status { status, code, retry_after: None }
}

/// A full remote behind faults: builds on a fresh machine, and then everything is well again.
fn survive(name: &str, words: &str, choose: impl Fn(&Seen) -> Fault + Send + Sync + 'static) {
    let bucket = Bucket::new();
    let all = steps(20, 60);
    let first = Machine::new();
    let run = first.run(&at(&bucket.direct("p")));
    first.build(&run, &all);
    run.remote.close(PATIENCE);

    bucket.proxy.run(Script::by(choose));
    let config = RemoteConfig { deadline: Duration::from_millis(700), ..at(&bucket.url("p")) };
    let second = Machine::new();
    let run = second.run(&config);
    let clock = SystemClock::real();
    let started = clock.monotonic();
    let mut found = 0;
    for step in &all {
        match run.remote.lookup(&step.action) {
            Lookup::Found(entry) => {
                assert_eq!(entry, step.entry(), "{name}");
                assert_eq!(read(&second.local, &entry.output), step.body, "{name}: wrong bytes");
                found += 1;
            }
            Lookup::Unavailable => {}
            Lookup::Absent => panic!("{name}: what is there is never called absent"),
        }
    }
    let asked = clock.monotonic() - started;
    let fresh = steps(21, 20);
    assert_eq!(second.build(&run, &fresh).len(), 20, "{name}: a put is never refused because of the remote");
    let closed = run.remote.close(Duration::from_secs(3));
    assert!(clock.monotonic() - started < Duration::from_secs(20), "{name}: {asked:?} for lookups");
    let warnings = run.warnings.lock().unwrap().clone();
    assert!(!warnings.is_empty(), "{name} found {found}");
    assert!(warnings.iter().any(|line| line.contains(words)), "{name}: {warnings:?}");
    let kinds: std::collections::HashSet<String> =
        warnings.iter().map(|line| line.split(';').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(kinds.len(), warnings.len(), "{name}: one per cause: {warnings:?}");
    assert!(warnings.len() <= 2, "{name}: {warnings:?}");
    assert!(warnings.iter().all(|line| !line.contains(S3Server::SECRET_KEY)), "{name}");
    drop(run);

    bucket.proxy.run(Script::pass());
    second.flush(&at(&bucket.url("p")));
    assert_eq!(files(second.local.state_dir(), ".queue").len(), 0, "{name}: {closed:?}");
    let third = Machine::new();
    let run = third.run(&at(&bucket.url("p")));
    third.find_all(&run, &fresh);
    third.find_all(&run, &all);
}

fn is_pack(seen: &Seen) -> bool {
    seen.method == "GET" && seen.path.ends_with(".pack")
}

#[test]
fn it_hangs_up() {
    survive("hang up", "breaks connections", |_| Fault::Refuse);
}

#[test]
fn nobody_is_there() {
    let config = RemoteConfig {
        deadline: Duration::from_millis(700),
        ..at(&"s3://bkt/p?endpoint=http://127.0.0.1:9".parse().unwrap())
    };
    let machine = Machine::new();
    let run = machine.run(&config);
    for step in steps(24, 20) {
        assert_eq!(run.remote.lookup(&step.action), Lookup::Unavailable);
    }
    let warnings = run.warnings.lock().unwrap().clone();
    assert!(warnings.len() == 1 && warnings[0].contains("cannot be reached"), "{warnings:?}");
}

#[test]
fn it_hangs() {
    survive("hang", "does not answer", |_| Fault::Hang);
}

#[test]
fn it_denies_access() {
    survive("403", "denies access", |_| refusal(403, "AccessDenied"));
}

#[test]
fn it_asks_to_slow_down() {
    survive("503", "is overloaded", |_| refusal(503, "SlowDown"));
}

#[test]
fn the_clock_is_wrong() {
    survive("clock", "clock is wrong", |_| refusal(403, "RequestTimeTooSkewed"));
}

#[test]
fn the_bucket_is_wrong() {
    survive("bucket", "is not there", |_| refusal(404, "NoSuchBucket"));
}

#[test]
fn the_session_token_is_over() {
    survive("token", "token has expired", |_| refusal(400, "ExpiredToken"));
}

#[test]
fn the_credentials_are_wrong() {
    survive("signature", "does not accept the credentials", |_| refusal(403, "SignatureDoesNotMatch"));
}

#[test]
fn it_cuts_bodies() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    survive("cut", "breaks connections", move |seen| {
        if !is_pack(seen) {
            return Fault::Pass;
        }
        counted.fetch_add(1, Ordering::SeqCst);
        Fault::CutAfter(0)
    });
    // That an answer begins does not mean that reading works: it is given up long before the sixty lookups are over.
    let asked = asked.load(Ordering::SeqCst);
    assert!((1..60).contains(&asked), "{asked} requests for packs");
}

#[test]
fn it_trickles() {
    survive("trickle", "does not answer", |seen| if is_pack(seen) { Fault::CutAfter(100) } else { Fault::Pass });
}

#[test]
fn it_flips_bytes_of_packs() {
    survive("flip", "damaged objects", |seen| if is_pack(seen) { Fault::FlipByte(700) } else { Fault::Pass });
}

#[test]
fn it_flips_bytes_of_the_index_and_of_manifests() {
    survive("flip index", "damaged objects", |seen| {
        if seen.path.ends_with(".idx") || seen.path.ends_with(".run") { Fault::FlipByte(99) } else { Fault::Pass }
    });
}

#[test]
fn a_damaged_pack_costs_only_its_own_outputs_and_is_repaired_by_the_next_put() {
    let bucket = Bucket::new();
    let config = at(&bucket.url("p"));
    let all = steps(22, 40);
    let first = Machine::new();
    let run = first.run(&config);
    first.build(&run, &all);
    run.remote.close(PATIENCE);
    let packs = files(&bucket.folder(), ".pack");
    let mut bytes = std::fs::read(&packs[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&packs[0], bytes).unwrap();

    let second = Machine::new();
    let run = second.run(&config);
    let mut lost: Vec<_> =
        all.iter().filter(|step| !matches!(run.remote.lookup(&step.action), Lookup::Found(_))).cloned().collect();
    assert!(!lost.is_empty() && lost.len() < all.len() / 2, "{} lost", lost.len());
    assert!(run.remote.counters().rejected > 0);
    // `go` builds them again, later than the first time.
    lost.iter_mut().for_each(|step| step.time += 1_000_000_000);
    second.build(&run, &lost);
    assert_eq!(run.remote.close(PATIENCE).left, 0);
    let warnings = run.warnings.lock().unwrap().clone();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let third = Machine::new();
    let run = third.run(&config);
    third.find_all(&run, &lost);
    let rest: Vec<_> = all.iter().filter(|step| lost.iter().all(|one| one.action != step.action)).cloned().collect();
    third.find_all(&run, &rest);
}

#[test]
fn a_remote_that_costs_more_than_it_saves_is_left_alone() {
    let bucket = Bucket::new();
    let all = steps(23, 40);
    let first = Machine::new();
    let run = first.run(&at(&bucket.direct("p")));
    first.build(&run, &all);
    run.remote.close(PATIENCE);
    bucket
        .proxy
        .run(Script::by(|seen| if is_pack(seen) { Fault::Delay(Duration::from_millis(300)) } else { Fault::Pass }));
    let config = RemoteConfig {
        give_up_after: Duration::from_millis(200),
        prefetch_bytes: 0,
        write: None,
        ..at(&bucket.url("p"))
    };
    let second = Machine::new();
    let run = second.run(&config);
    let unavailable = all.iter().filter(|step| run.remote.lookup(&step.action) == Lookup::Unavailable).count();
    assert!(unavailable > 20, "{unavailable}");
    let warnings = run.warnings.lock().unwrap().clone();
    assert!(warnings.len() == 1 && warnings[0].contains("more time than it saves"), "{warnings:?}");
}
