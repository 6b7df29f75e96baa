//! `cargo xtask ci`: every check that a change has to pass.
//!
//! Cheap checks come first. All steps use the same profile and the same flags, so that nothing is compiled twice:
//! clippy and the documentation share what was checked, the tests what was built.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::{deny, openstack, parts, readme, run, tests_run, tidy};

type Step = (&'static str, fn(bool) -> Result<()>);

const STEPS: [Step; 8] = [
    ("format", |_| run::check(run::cargo().args(["fmt", "--all", "--check"]))),
    ("tidy", |_| tidy::run()),
    ("clippy", |_| clippy()),
    ("documentation", |_| documentation()),
    ("tests", |_| tests_run::run(&[])),
    ("readme", |_| readme::run()),
    ("openstack", |_| openstack::test(&[])),
    ("deny", deny::run),
];

/// Runs all steps, stopping at the first that fails.
pub(crate) fn run(advisories: bool) -> Result<()> {
    parts::for_tests()?;
    let mut steps = STEPS.to_vec();
    // Where cargo-deny has to be built first, it is not the cheap check that it is everywhere else.
    if parts::find_cargo_deny()?.is_some() {
        let deny = steps.pop();
        steps.splice(2..2, deny);
    }
    let mut took = Vec::new();
    for (name, step) in steps {
        eprintln!("\n==== {name}");
        let seconds = seconds_of(|| step(advisories)).with_context(|| format!("the step `{name}` failed"))?;
        took.push(format!("{name} {seconds:.0} s"));
    }
    println!("\nall checks passed: {}", took.join(", "));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a step's duration is for the person at the terminal")]
fn seconds_of(step: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    step()?;
    Ok(started.elapsed().as_secs_f64())
}

fn clippy() -> Result<()> {
    // The tests that need the lab are left out of all targets unless they are named.
    let targets = ["--workspace", "--all-targets", "--test", "openstack"];
    run::check(run::cargo().args(["clippy", "--locked"]).args(targets).args(["--", "-D", "warnings"]))
}

fn documentation() -> Result<()> {
    let mut command = run::cargo();
    command.args(["doc", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
    run::check(&mut command)
}
