//! The process ends before or after each file operation and each request: what was acknowledged is never lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use windlass_clock::SystemClock;
use windlass_gocache_remote::{LocalOutputs, RemoteConfig, Steps};

use crate::world::{Machine, files, memory, steps};

/// Goes on for `count` steps. What was passed is noted.
fn until(count: usize) -> (Steps, Arc<Mutex<Vec<String>>>) {
    let passed: Arc<Mutex<Vec<String>>> = Arc::default();
    let (noted, next) = (Arc::clone(&passed), AtomicUsize::new(0));
    let steps = Steps::new(move |step| {
        let goes_on = next.fetch_add(1, Ordering::SeqCst) < count;
        if goes_on {
            noted.lock().unwrap().push(step.to_owned());
        }
        goes_on
    });
    (steps, passed)
}

/// One run that ends at step `count`, and what the next ones make of it. The steps it passed.
fn one(count: usize, config: &RemoteConfig, leftovers: bool) -> Vec<String> {
    let machine = Machine::new();
    let mut acknowledged = Vec::new();
    if leftovers {
        // A process before had not come to its end either.
        let (steps_before, _) = until(9);
        let run = machine.run_until(config, steps_before);
        acknowledged.extend(machine.build(&run, &steps(30, 5)));
        drop(run);
    }
    let (stops, passed) = until(count);
    let run = machine.run_until(config, stops);
    acknowledged.extend(machine.build(&run, &steps(31, 10)));
    run.remote.close(Duration::from_secs(5));
    drop(run);
    machine.flush(config);
    assert_eq!(files(&machine.local.state_dir().join("queue"), ".queue").len(), 0, "no journal is left over");
    let other = Machine::new();
    let run = other.run(config);
    other.find_all(&run, &acknowledged);
    run.remote.close(Duration::from_secs(5));
    assert!(run.warnings.lock().unwrap().is_empty(), "{:?}", run.warnings.lock().unwrap());
    passed.lock().unwrap().clone()
}

fn every_step(leftovers: bool) {
    let config = || RemoteConfig { pack_bytes: 100_000, ..memory() };
    let whole = one(usize::MAX, &config(), leftovers);
    for step in ["push", "write pack", "write segment", "done", "remove journal", "write manifest"] {
        for when in ["before", "after"] {
            assert!(whole.contains(&format!("{when} {step}")), "{when} {step} is not a step: {whole:?}");
        }
    }
    for count in 0..whole.len() {
        one(count, &config(), leftovers);
    }
}

#[test]
fn what_a_dead_run_left_is_finished_by_a_run_that_needs_nothing() {
    let config = memory();
    let machine = Machine::new();
    // It gets as far as remembering, and not to the network.
    let stops = Steps::new(|step| step.ends_with("push") || step.ends_with("begin journal"));
    let run = machine.run_until(&config, stops);
    let acknowledged = machine.build(&run, &steps(32, 10));
    assert_eq!(acknowledged.len(), 10);
    drop(run);
    let clock = SystemClock::real();
    let started = clock.monotonic();
    // The threads of the dead run may still hold its journal for a moment.
    while windlass_gocache_remote::waiting(machine.local.state_dir()).0 > 0 {
        let _ = std::fs::remove_file(machine.local.state_dir().join("queue/tried"));
        machine.run(&config).remote.close(Duration::from_secs(5));
        assert!(clock.monotonic() - started < Duration::from_secs(30));
    }
    let other = Machine::new();
    other.find_all(&other.run(&config), &acknowledged);
}

#[test]
fn a_death_at_any_step_loses_nothing_acknowledged() {
    every_step(false);
}

#[test]
fn a_death_at_any_step_of_finishing_another_ones_work_loses_nothing() {
    every_step(true);
}
