//! The cost of one program: time, processor time of both kinds, and the most memory it held.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};

use crate::run;

/// What one run of a program cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cost {
    /// Seconds from start to end.
    pub(crate) wall: f64,
    /// Seconds of processor time, in the program and in the kernel for it.
    pub(crate) cpu: f64,
    /// The most memory it held, in MiB.
    pub(crate) peak_mib: f64,
}

impl Cost {
    pub(crate) fn to_json(self) -> Value {
        json!({ "wall_seconds": self.wall, "cpu_seconds": self.cpu, "peak_mib": self.peak_mib })
    }

    /// What [`Cost::to_json`] wrote.
    pub(crate) fn of_json(cost: &Value) -> Result<Self> {
        let number = |name: &str| cost[name].as_f64().with_context(|| format!("the cost {cost} has no {name}"));
        Ok(Self { wall: number("wall_seconds")?, cpu: number("cpu_seconds")?, peak_mib: number("peak_mib")? })
    }

    /// The cheaper of two runs of the same thing, by processor time: on a busy machine the wall time says more
    /// about the neighbours.
    fn better(self, other: Self) -> Self {
        if other.cpu < self.cpu { other } else { self }
    }
}

/// Runs a command `rounds` times and tells the best.
pub(crate) fn best_of(rounds: usize, command: &[String]) -> Result<Cost> {
    let mut best = measure(command)?;
    for _ in 1..rounds {
        best = best.better(measure(command)?);
    }
    Ok(best)
}

/// The same for a command with a folder and variables of its own.
pub(crate) fn best_of_command(rounds: usize, command: &mut Command) -> Result<Cost> {
    let mut best: Option<Cost> = None;
    for _ in 0..rounds.max(1) {
        let cost = measure_command(command)?;
        best = Some(best.map_or(cost, |best| if cost.wall < best.wall { cost } else { best }));
    }
    best.context("nothing was measured")
}

/// Runs a command once, its output thrown away. The cost is that of the command alone: it is the only child of a
/// process of its own, whose account of its children is read.
fn measure(command: &[String]) -> Result<Cost> {
    let [program, arguments @ ..] = command else { bail!("there is no program to measure") };
    measure_command(run::program(program).args(arguments))
}

fn measure_command(command: &mut Command) -> Result<Cost> {
    let own = std::env::current_exe().context("find this program")?;
    let mut process = run::program(own);
    process.args(["measure", "--"]).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        process.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => process.env(name, value),
            None => process.env_remove(name),
        };
    }
    let text = run::output(&mut process)?;
    let cost: Value = serde_json::from_str(&text).with_context(|| format!("read the cost of {command:?}: {text}"))?;
    Cost::of_json(&cost)
}

/// Names the file that a measured program reads as its standard input, instead of nothing.
const INPUT: &str = "WINDLASS_MEASURE_INPUT";

/// `cargo xtask measure -- COMMAND`: the process that [`best_of`] starts.
#[expect(clippy::disallowed_methods, reason = "measures a real program in real time")]
pub(crate) fn run_here(command: &[String]) -> Result<()> {
    let [program, arguments @ ..] = command else { bail!("there is no program to measure") };
    let mut process = Command::new(program);
    let input = std::env::var_os(INPUT).map(|path| File::open(path).map(Stdio::from));
    let input = input.transpose().context("open the input of the program")?;
    process.args(arguments).stdin(input.unwrap_or_else(Stdio::null)).stdout(Stdio::null());
    let started = Instant::now();
    let status = process.status().with_context(|| format!("start {}", Path::new(program).display()))?;
    let wall = started.elapsed();
    if !status.success() {
        bail!("{} ended with {status}", run::shown(&process));
    }
    println!("{}", of_children(wall)?.to_json());
    Ok(())
}

/// What the children of this process that have ended cost together.
pub(crate) fn of_children(wall: Duration) -> Result<Cost> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("read what the program used")?;
    let cpu = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    // Linux counts in KiB, macOS in bytes.
    let unit = if cfg!(target_os = "macos") { 1.0 / 1024.0 } else { 1.0 };
    Ok(Cost { wall: wall.as_secs_f64(), cpu: cpu as f64 / 1e6, peak_mib: usage.max_rss() as f64 * unit / 1024.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_runs_the_one_with_less_processor_time_counts() {
        let slow = Cost { wall: 1.0, cpu: 2.0, peak_mib: 5.0 };
        let fast = Cost { wall: 3.0, cpu: 1.0, peak_mib: 6.0 };
        assert_eq!(slow.better(fast), fast);
        assert_eq!(fast.better(slow), fast);
    }
}
