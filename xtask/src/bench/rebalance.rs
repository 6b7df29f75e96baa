//! Reading index backups, against the plain Go program, gzip and pigz on the same files; and planning.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::measure::{Cost, best_of};
use super::{keep, table};
use crate::{parts, run};

/// The example program of windlass-rebalance that plans over three agents.
const PLAN_EXAMPLE: &str = "plan_three";

pub(super) fn run(ids: &[u64], rounds: usize, plan: bool) -> Result<()> {
    parts::or_apt("go", "version", "golang-go")?;
    parts::or_apt("gzip", "--version", "gzip")?;
    parts::or_apt("pigz", "--version", "pigz")?;
    let data = parts::cache()?.join("rebalance");
    std::fs::create_dir_all(&data).with_context(|| format!("create {}", data.display()))?;
    let generator = go_program("rebalance-gen", &data)?;
    let yardstick = go_program("rebalance-go", &data)?;
    let windlass = windlass()?;
    let mut figures = Vec::new();
    for &count in ids {
        let backup = backup(&generator, &data, count)?;
        figures.push(reading(count, &backup, &windlass, &yardstick, rounds)?);
    }
    let mut result = json!({ "reading": figures, "rounds": rounds });
    if plan {
        result["planning"] = planning(&data)?;
    }
    keep("rebalance", result)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn go_program(name: &str, into: &Path) -> Result<PathBuf> {
    let program = into.join(name);
    let mut build = run::program("go");
    build.args(["build", "-o"]).arg(&program).arg(".").current_dir(run::root().join("bench").join(name));
    run::check(&mut build)?;
    Ok(program)
}

fn windlass() -> Result<PathBuf> {
    run::check(run::cargo().args(["build", "--locked", "--release", "--package", "windlass"]))?;
    Ok(run::target_dir().join("release/windlass"))
}

/// A backup of `count` ids, made once and kept.
fn backup(generator: &Path, data: &Path, count: u64) -> Result<PathBuf> {
    let path = data.join(format!("backup-{count}.tar.gz"));
    if path.is_file() {
        return Ok(path);
    }
    let unfinished = data.join(format!("backup-{count}.part"));
    let mut generate = run::program(generator);
    generate.args(["backup", "-stream", "-n", &count.to_string(), "-o"]).arg(&unfinished);
    run::check(&mut generate)?;
    std::fs::rename(&unfinished, &path).with_context(|| format!("name the backup {}", path.display()))?;
    Ok(path)
}

fn reading(count: u64, backup: &Path, windlass: &Path, yardstick: &Path, rounds: usize) -> Result<Value> {
    let size = std::fs::metadata(backup).with_context(|| format!("look at {}", backup.display()))?.len();
    println!("\n{count} ids, {:.1} MiB of gzip, best of {rounds}", size as f64 / f64::from(1 << 20));
    let (backup, windlass, yardstick) = (text(backup), text(windlass), text(yardstick));
    let programs: [(&str, Vec<&str>); 7] = [
        // What the Go program reads: the ids, not their timestamps.
        ("windlass, ids only", vec![&windlass, "index", "inspect", "--no-times", &backup]),
        ("windlass, fast", vec![&windlass, "index", "inspect", &backup]),
        ("windlass, full", vec![&windlass, "index", "inspect", "--full", &backup]),
        ("rebalance-go", vec![&yardstick, &backup]),
        ("rebalance-go -drain", vec![&yardstick, "-drain", &backup]),
        ("gzip -dc", vec!["gzip", "-dc", &backup]),
        ("pigz -dc", vec!["pigz", "-dc", &backup]),
    ];
    let mut costs = Vec::new();
    for (name, command) in programs {
        let command: Vec<String> = command.into_iter().map(str::to_owned).collect();
        costs.push((name, best_of(rounds, &command)?));
    }
    let cost = |wanted: &str| costs.iter().find(|(name, _)| *name == wanted).map(|(_, cost)| *cost);
    let ratio = |ours: &str, theirs: &str, part: fn(Cost) -> f64| Some(part(cost(theirs)?) / part(cost(ours)?));
    let row = |(name, cost): &(&str, Cost)| {
        let rate = count as f64 / cost.wall;
        vec![
            (*name).to_owned(),
            format!("{:.2}", cost.wall),
            format!("{:.2}", cost.cpu),
            format!("{:.0}", cost.peak_mib),
            format!("{rate:.0}"),
        ]
    };
    table::print(&["program", "wall s", "CPU s", "peak MiB", "ids/s"], &costs.iter().map(row).collect::<Vec<_>>());
    let ratios = json!({
        "go_wall_to_windlass_ids_only": ratio("windlass, ids only", "rebalance-go", |cost| cost.wall),
        "go_cpu_to_windlass_ids_only": ratio("windlass, ids only", "rebalance-go", |cost| cost.cpu),
        "go_wall_to_windlass_fast": ratio("windlass, fast", "rebalance-go", |cost| cost.wall),
        "go_cpu_to_windlass_fast": ratio("windlass, fast", "rebalance-go", |cost| cost.cpu),
        "go_drain_wall_to_windlass_full": ratio("windlass, full", "rebalance-go -drain", |cost| cost.wall),
        "go_drain_cpu_to_windlass_full": ratio("windlass, full", "rebalance-go -drain", |cost| cost.cpu),
        "go_memory_to_windlass": ratio("windlass, fast", "rebalance-go", |cost| cost.peak_mib),
        "windlass_full_wall_to_gzip": ratio("gzip -dc", "windlass, full", |cost| cost.wall),
        "windlass_full_wall_to_pigz": ratio("pigz -dc", "windlass, full", |cost| cost.wall),
        "windlass_full_cpu_to_pigz": ratio("pigz -dc", "windlass, full", |cost| cost.cpu),
    });
    for (name, value) in ratios.as_object().into_iter().flatten() {
        println!("{:<34} {:.2}", name.replace('_', " "), value.as_f64().unwrap_or(f64::NAN));
    }
    let costs: Vec<Value> = costs
        .iter()
        .map(|(name, cost)| {
            let mut row = cost.to_json();
            row["program"] = json!(name);
            row
        })
        .collect();
    Ok(json!({ "ids": count, "bytes": size, "programs": costs, "ratios": ratios }))
}

/// Plans over three agents of ten million ids; the example makes its own input and prints its own figures.
fn planning(data: &Path) -> Result<Value> {
    println!("\nplanning over three agents");
    let mut command = run::cargo();
    command.args(["run", "--locked", "--release", "--quiet", "--package", "windlass-rebalance", "--example"]);
    command.args([PLAN_EXAMPLE, "--", "10000000"]).arg(data);
    let text = run::output(&mut command)?;
    let figures: Value =
        serde_json::from_str(&text).with_context(|| format!("read the figures of planning: {text}"))?;
    for (name, value) in figures.as_object().into_iter().flatten() {
        println!("{:<34} {value}", name.replace('_', " "));
    }
    Ok(figures)
}
