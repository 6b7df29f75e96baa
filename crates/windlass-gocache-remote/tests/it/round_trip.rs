//! What one machine puts, another finds.

use std::time::Duration;

use windlass_blob::BlobUrl;
use windlass_gocache_remote::{ActionId, Closed, LocalOutputs, Lookup, OutputId, QueueLimits, RemoteConfig};
use windlass_sim::s3::Script;

use crate::world::{Bucket, Machine, PATIENCE, at, files, memory, steps};

fn there_and_back(config: &RemoteConfig, count: usize) {
    let all = steps(1, count);
    let first = Machine::new();
    let run = first.run(config);
    for step in &all {
        assert_eq!(run.remote.lookup(&step.action), Lookup::Absent);
    }
    assert_eq!(first.build(&run, &all).len(), all.len());
    assert_eq!(run.remote.close(PATIENCE), Closed::default());
    assert!(run.warnings.lock().unwrap().is_empty(), "{:?}", run.warnings.lock().unwrap());

    let second = Machine::new();
    let run = second.run(config);
    second.find_all(&run, &all);
    assert_eq!(run.remote.lookup(&ActionId::new([1; 32])), Lookup::Absent);
    let counters = run.remote.counters();
    assert_eq!((counters.found, counters.absent, counters.rejected), (all.len() as u64, 1, 0));
    run.remote.close(PATIENCE);
    assert!(run.warnings.lock().unwrap().is_empty(), "{:?}", run.warnings.lock().unwrap());
}

#[test]
fn what_one_machine_puts_another_finds_in_memory() {
    there_and_back(&memory(), 64);
}

#[test]
fn what_one_machine_puts_another_finds_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    there_and_back(&at(&BlobUrl::from_folder(&folder.path().join("cache"), true).unwrap()), 64);
}

#[test]
fn what_one_machine_puts_another_finds_on_s3_in_few_requests() {
    let bucket = Bucket::new();
    let config = RemoteConfig { pack_bytes: 256 * 1024, ..at(&bucket.url("some/prefix")) };
    let all = steps(2, 400);
    let first = Machine::new();
    let run = first.run(&config);
    for step in &all {
        assert_eq!(run.remote.lookup(&step.action), Lookup::Absent);
    }
    first.build(&run, &all);
    assert_eq!(run.remote.close(PATIENCE), Closed::default());
    let seen = bucket.proxy.seen();
    assert!(seen.len() <= 60, "{} requests to write", seen.len());
    let counters = run.remote.counters();
    assert_eq!(counters.requests, seen.len() as u64);
    let distinct: std::collections::HashSet<OutputId> = all.iter().map(|step| step.entry().output).collect();
    assert_eq!(counters.outputs_written, distinct.len() as u64 - 1, "each once, the empty one never");

    bucket.proxy.run(Script::pass());
    let second = Machine::new();
    let run = second.run(&config);
    second.find_all(&run, &all);
    let read = bucket.proxy.seen();
    assert!(read.len() <= 30, "{} requests to read", read.len());
    assert!(read.iter().all(|request| request.method == "GET"));
    for number in 0..100 {
        assert_eq!(run.remote.lookup(&ActionId::new([number; 32])), Lookup::Absent);
    }
    assert_eq!(bucket.proxy.seen().len(), read.len(), "what is absent is known without a request");
    run.remote.close(PATIENCE);

    // Everything is put again, as `go build -a` does: nothing is uploaded twice.
    bucket.proxy.run(Script::pass());
    let run = second.run(&config);
    second.build(&run, &all);
    assert_eq!(run.remote.close(PATIENCE), Closed::default());
    assert_eq!(run.remote.counters().outputs_written, 0);
    let puts = bucket.proxy.seen().iter().filter(|request| request.method == "PUT").count();
    assert_eq!(puts, 0);
}

#[test]
fn outputs_larger_than_memory_should_hold_travel_too() {
    let config = memory();
    let mut all = steps(3, 2);
    all[1].body = (0..20_000_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    let first = Machine::new();
    let run = first.run(&config);
    first.build(&run, &all);
    assert_eq!(run.remote.close(PATIENCE), Closed::default());
    let second = Machine::new();
    second.find_all(&second.run(&config), &all);
}

#[test]
fn a_warm_machine_makes_no_request_before_it_ends_and_one_manifest_a_day() {
    let bucket = Bucket::new();
    let config = at(&bucket.url("p"));
    let all = steps(4, 10);
    let machine = Machine::new();
    for step in &all {
        machine.local.put(step.action, &step.body, step.time);
    }
    let run = machine.run(&config);
    all.iter().for_each(|step| run.remote.used(step.action));
    assert_eq!(bucket.proxy.seen().len(), 0);
    run.remote.close(PATIENCE);
    let puts = |bucket: &Bucket| bucket.proxy.seen().iter().filter(|request| request.method == "PUT").count();
    assert_eq!(puts(&bucket), 1, "the manifest");
    bucket.proxy.run(Script::pass());
    let run = machine.run(&config);
    all.iter().skip(3).for_each(|step| run.remote.used(step.action));
    run.remote.close(PATIENCE);
    assert_eq!(bucket.proxy.seen().len(), 0, "nothing new");
}

#[test]
fn prefetching_brings_what_the_base_branch_used() {
    let config = RemoteConfig { namespaces: vec!["main".into()], ..memory() };
    let all = steps(5, 50);
    let first = Machine::new();
    let run = first.run(&config);
    first.build(&run, &all);
    run.remote.close(PATIENCE);
    let branch = RemoteConfig { namespaces: vec!["topic/x".into(), "main".into()], ..config.clone() };
    let second = Machine::new();
    let run = second.run(&branch);
    let brought = run.remote.prefetch(PATIENCE);
    assert_eq!((brought.actions, brought.missing), (50, 0), "{brought:?}");
    for step in &all {
        assert_eq!(second.local.action(&step.action), Some(step.entry()), "known without asking");
        assert!(second.local.contains(&step.entry().output));
    }
    let again = run.remote.prefetch(PATIENCE);
    assert_eq!(again, brought);
}

#[test]
fn a_read_only_remote_is_read_and_never_written() {
    let bucket = Bucket::new();
    let all = steps(6, 20);
    let first = Machine::new();
    let run = first.run(&at(&bucket.direct("p")));
    first.build(&run, &all);
    run.remote.close(PATIENCE);
    let config = RemoteConfig { write: None, ..at(&bucket.url("p")) };
    let second = Machine::new();
    let run = second.run(&config);
    second.find_all(&run, &all);
    assert!(second.build(&run, &steps(7, 5)).is_empty());
    assert_eq!(run.remote.close(PATIENCE), Closed::default());
    assert!(bucket.proxy.seen().iter().all(|request| request.method == "GET"));
}

#[test]
fn places_are_read_in_their_order_and_only_one_is_written() {
    let bucket = Bucket::new();
    let (trusted, branch) = (bucket.url("trusted"), bucket.url("branch"));
    let base = steps(8, 20);
    let first = Machine::new();
    let run = first.run(&at(&trusted));
    first.build(&run, &base);
    run.remote.close(PATIENCE);
    let config = RemoteConfig { read: vec![trusted.clone(), branch.clone()], ..at(&branch) };
    let own = steps(9, 20);
    let mut other = base[1].clone();
    other.body = b"not what is trusted".to_vec();
    let second = Machine::new();
    let run = second.run(&config);
    second.find_all(&run, &base);
    second.build(&run, &own);
    second.build(&run, std::slice::from_ref(&other));
    assert_eq!(run.remote.close(PATIENCE), Closed::default());
    let third = Machine::new();
    let run = third.run(&config);
    third.find_all(&run, &own);
    third.find_all(&run, &base);
    let before = bucket.proxy.seen();
    assert!(!before.is_empty());
    let run = Machine::new();
    let asked = run.run(&at(&trusted));
    assert_eq!(asked.remote.lookup(&own[1].action), Lookup::Absent, "nothing was written where it is trusted");
    assert_eq!(files(&bucket.folder().join("trusted"), ".pack").len(), 1);
}

#[test]
fn a_full_queue_drops_its_oldest_and_says_how_many() {
    let config = RemoteConfig { queue: QueueLimits { entries: 3, bytes: 1 << 30 }, ..memory() };
    let unreachable = RemoteConfig {
        write: Some("s3://bkt?endpoint=http://127.0.0.1:9".parse().unwrap()),
        read: Vec::new(),
        deadline: Duration::from_secs(2),
        ..config.clone()
    };
    let all = steps(10, 12);
    let machine = Machine::new();
    let run = machine.run(&unreachable);
    assert_eq!(machine.build(&run, &all).len(), 12, "acknowledged, as nobody knew better");
    let closed = run.remote.close(Duration::from_secs(5));
    assert!(closed.left <= 12 && closed.left >= 3, "{closed:?}");
    assert!(run.remote.counters().dropped + closed.left == 12, "{closed:?} {:?}", run.remote.counters());
    let warnings = run.warnings.lock().unwrap().clone();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    drop(run);
    machine.flush(&config);
}

#[test]
fn package_indexes_stay_home_if_asked() {
    let config = RemoteConfig { skip_package_indexes: true, ..memory() };
    let mut all = steps(11, 10);
    all[3].body = b"go index v2\nand the rest".to_vec();
    let first = Machine::new();
    let run = first.run(&config);
    first.build(&run, &all);
    assert_eq!(run.remote.close(PATIENCE), Closed::default());
    let second = Machine::new();
    let run = second.run(&config);
    assert_eq!(run.remote.lookup(&all[3].action), Lookup::Absent);
    assert!(matches!(run.remote.lookup(&all[4].action), Lookup::Found(_)));
}
