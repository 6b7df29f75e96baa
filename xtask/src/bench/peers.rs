//! Other durable engines that run the same job of three steps on the same disk in the same run.
//!
//! They are installed from their own registries into the cache folder, once, at the versions that `bench/peers`
//! names. A peer that cannot be installed is named and left out: it says nothing about us.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{parts, run};

/// DBOS as it is measured.
const DBOS: &str = "dbos==3.4.0";

/// One peer and its figures: `p50_us`, `p99_us`, `jobs_per_second`.
pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) figures: Value,
}

/// Takes the figures of one peer: the folder for states, jobs, callers.
type Take = fn(&Path, u32, u32) -> Result<Value>;

/// Measures every peer that can be had, with `jobs` jobs, and `callers` of them at a time for the rate.
pub(super) fn measure(states: &Path, jobs: u32, callers: u32) -> Vec<Peer> {
    let peers: [(&'static str, Take); 2] =
        [("Restate (server and Node SDK)", restate), ("DBOS (Python, SQLite)", dbos)];
    let mut measured = Vec::new();
    for (name, take) in peers {
        match take(states, jobs, callers) {
            Ok(figures) => measured.push(Peer { name, figures }),
            Err(error) => eprintln!("     {name} is left out: {error:#}"),
        }
    }
    measured
}

fn home(name: &str) -> Result<PathBuf> {
    let folder = parts::cache()?.join("peers").join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// A folder for what a peer writes, empty, on the disk that is measured.
fn fresh(states: &Path, name: &str) -> Result<PathBuf> {
    let folder = states.join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

fn figures(text: &str) -> Result<Value> {
    let line = text.lines().rev().find(|line| line.starts_with('{')).context("it printed no figures")?;
    serde_json::from_str(line).with_context(|| format!("read {line}"))
}

fn restate(states: &Path, jobs: u32, callers: u32) -> Result<Value> {
    for program in ["node", "npm"] {
        if !parts::is_there(program, "--version") {
            bail!("{program} is missing; install Node.js 20 or newer");
        }
    }
    let home = home("restate")?;
    for file in ["package.json", "steps.mjs"] {
        std::fs::copy(run::root().join("bench/peers/restate").join(file), home.join(file))
            .with_context(|| format!("copy {file}"))?;
    }
    run::check(run::program("npm").args(["install", "--silent", "--no-audit", "--no-fund"]).current_dir(&home))?;
    let mut measure = run::program("node");
    measure.arg("steps.mjs").arg(fresh(states, "restate")?);
    figures(&run::output(measure.args([jobs.to_string(), callers.to_string()]).current_dir(&home))?)
}

fn dbos(states: &Path, jobs: u32, callers: u32) -> Result<Value> {
    if !parts::is_there("python3", "--version") {
        bail!("python3 is missing");
    }
    let home = home("dbos")?;
    let python = home.join("bin/python");
    if !python.is_file() {
        run::check(run::program("python3").args(["-m", "venv"]).arg(&home))?;
    }
    run::check(run::program(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", DBOS]))?;
    let mut measure = run::program(&python);
    measure.arg(run::root().join("bench/peers/dbos_steps.py")).arg(fresh(states, "dbos")?);
    figures(&run::output(measure.args([jobs.to_string(), callers.to_string()]))?)
}

#[cfg(test)]
mod tests {
    use super::figures;

    #[test]
    fn the_figures_are_the_last_document_whatever_is_printed_around_it() {
        let text = "starting\n{\"p50_us\":1}\n{\"p50_us\":2.5}\nbye\n";
        assert_eq!(figures(text).unwrap()["p50_us"], 2.5);
        assert!(figures("nothing").is_err());
    }
}
