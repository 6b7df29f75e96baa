//! The lab of real OpenStack services in `lab/openstack`: started, used by the tests that need it, stopped.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{parts, run, tests_run};

/// Where the tests look for a lab that is up: its folder.
const VARIABLE: &str = "WINDLASS_OPENSTACK";
/// Crates have their tests for it in a program of this name, which `cargo test` alone does not run.
const PROGRAM: &str = "openstack";

/// Runs the tests that need the lab: in the one that [`VARIABLE`] names, else in one that is up for as long as they run.
pub(crate) fn test(arguments: &[String]) -> Result<()> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        let lab = std::path::absolute(&named).with_context(|| format!("find {}", named.display()))?;
        return run_tests(&lab, arguments);
    }
    // Before the lab takes its share of the machine.
    let mut build = cargo_test();
    run::check(build.arg("--no-run"))?;
    let folder = parts::cache()?.join("openstack");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let lab = folder.join("lab");
    let path = folder.join("lock");
    let turn = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    // One at a time: the next one waits until this process has ended.
    turn.lock().with_context(|| format!("lock {}", path.display()))?;
    // What a run that was killed has left behind.
    script("down.sh", &lab, &[])?;
    let done = script("up.sh", &lab, &[]).and_then(|()| run_tests(&lab, arguments));
    // After a failure the logs are worth having.
    let stopped = script("down.sh", &lab, if done.is_ok() { &[] } else { &["--keep"] });
    if done.is_err() {
        eprintln!("     what the services of the lab said is in {}/site-*/log", lab.display());
    }
    done.and(stopped)
}

/// Of the whole workspace, so that what these programs use is what the other tests have built.
fn cargo_test() -> std::process::Command {
    let mut command = run::cargo();
    command.args(["test", "--locked", "--workspace", "--test", PROGRAM]);
    command
}

fn run_tests(lab: &Path, arguments: &[String]) -> Result<()> {
    let mut command = cargo_test();
    command.env(VARIABLE, lab).arg("--no-fail-fast").args(arguments);
    tests_run::tallied(&mut command)
}

fn script(name: &str, lab: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = run::program("bash");
    command.arg(format!("lab/openstack/{name}")).args(arguments).env("LAB_DIR", lab);
    run::check(&mut command)
}
