//! Seeds of the standing jobs. `WINDLASS_SEED=n` runs one and prints its history; `WINDLASS_SEEDS=n` runs as many.

use windlass_sim::hostile::Sabotage;
use windlass_sim::standing::{replay_command, run};

/// Seeds of a usual test run.
const SEEDS: u64 = 120;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_standing_job_brings_about_what_is_wanted_whatever_happens() {
    let seeds = match number("WINDLASS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WINDLASS_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let run = run(seed, Sabotage::None);
        if count == 1 {
            println!("{}", run.history);
        }
        let (wrong, replay) = (run.wrong.join("\n  "), replay_command(seed));
        assert!(run.wrong.is_empty(), "seed {seed}:\n  {wrong}\nreplay with: {replay}\n{}", run.history);
    }
    println!("{count} seeds of standing jobs kept the invariants");
}

#[test]
fn one_seed_of_a_standing_job_gives_the_same_run_twice() {
    for seed in 0..5 {
        assert_eq!(run(seed, Sabotage::None).history, run(seed, Sabotage::None).history, "seed {seed}");
    }
}

#[test]
fn a_standing_job_without_a_fence_is_seen() {
    let caught = (0..300).map(|seed| run(seed, Sabotage::NoFence)).find(|run| !run.wrong.is_empty());
    let caught = caught.expect("a missing fence was not seen in 300 seeds");
    println!("a missing fence is seen by seed {}: {}", caught.seed, caught.wrong[0]);
}
