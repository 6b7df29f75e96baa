//! Late rows into day files: the program `bench_backfill` of windlass-backfill, beside the floor (the same files read and
//! written again) and what DuckDB, Polars and delta-rs need for it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::measure::{self, Cost};
use super::{keep, table};
use crate::{parts, run};

/// The example program of windlass-backfill.
const EXAMPLE: &str = "bench_backfill";
/// The peers, as pip knows them, in versions that go together.
const PACKAGES: [&str; 4] = ["duckdb==2.0.0", "polars==2.1.0", "deltalake==1.6.6", "pyarrow==26.0.1"];
/// MiB that a merge may hold, all days that are merged at a time together.
const MEMORY: &str = "176";
const PEERS: [(&str, &str); 3] = [("duckdb", "DuckDB"), ("polars", "Polars"), ("delta", "delta-rs MERGE")];
/// Percent, days, times the floor and MB for each layout, MiB.
type Case = (&'static str, &'static str, [f64; 2], [f64; 2], f64);
/// Percent of late rows and days that they belong to, with what ours may take: CPU as a multiple of the floor and MB
/// written, for copy-on-write and for merge-on-read, and MiB of memory.
const CASES: [Case; 4] = [
    ("1", "7", [1.3, 46.0], [0.4, 2.5], 200.0),
    ("1", "30", [1.8, 195.0], [0.4, 2.7], 200.0),
    ("5", "7", [2.0, 48.0], [1.2, 11.0], 250.0),
    ("5", "30", [2.0, 197.0], [0.7, 12.0], 250.0),
];

/// What is measured.
pub(super) struct Settings {
    pub(super) rows: u64,
    pub(super) days: u64,
    /// Rows that the ingest log takes; 0: it is left out.
    pub(super) ingest: u64,
    /// Tables of four logs that are looked after while nothing comes; 0: that is left out.
    pub(super) tables: u64,
    pub(super) rounds: usize,
    pub(super) peers: bool,
    pub(super) merge_on_read: bool,
    /// Without optimisation: to see that it works.
    pub(super) debug: bool,
    pub(super) folder: Option<PathBuf>,
}

struct Bench<'a> {
    settings: &'a Settings,
    program: PathBuf,
    folder: PathBuf,
    rows: String,
    days: String,
}

impl Bench<'_> {
    fn step(&self, arguments: &[&str]) -> Result<Value> {
        let text = run::output(run::program(&self.program).args(arguments))?;
        serde_json::from_str(text.trim()).with_context(|| format!("understand {text}"))
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn measure(&self, arguments: &[&str]) -> Result<Cost> {
        measure::best_of_command(1, run::program(&self.program).args(arguments))
    }

    /// The best of the rounds, each from the start; and what the last one came to.
    fn ours(&self, percent: &str, late_days: &str, layout: &str) -> Result<(Cost, Value)> {
        let home = self.path("home");
        let mut best: Option<Cost> = None;
        for _ in 0..self.settings.rounds.max(1) {
            clear(Path::new(&home))?;
            self.step(&["table", &self.path(""), &home, &self.rows, &self.days, percent, late_days, layout])?;
            let cost = self.measure(&["merge", &home, MEMORY])?;
            best = Some(best.filter(|best| best.cpu <= cost.cpu).unwrap_or(cost));
        }
        let mut came = self.step(&["count", &home])?;
        came["bytes_written"] = written(Path::new(&home))?.into();
        Ok((best.context("nothing was measured")?, came))
    }

    /// Tables under a standing job.
    fn stand(&self, tables: u64, shards: u64, rows: u64, memory: &str, seconds: u64) -> Result<Value> {
        let home = self.path("standing");
        clear(Path::new(&home))?;
        let (tables, shards) = (tables.to_string(), shards.to_string());
        let (rows, seconds) = (rows.to_string(), seconds.to_string());
        eprintln!("     {tables} tables of {shards} logs, {rows} rows in each");
        self.step(&["tables", &home, &tables, &shards, &rows])?;
        let came = self.step(&["stand", &home, &rows, memory, &seconds])?;
        clear(Path::new(&home))?;
        Ok(came)
    }

    fn floor(&self, late_days: &str) -> Result<Cost> {
        let out = self.path("floor");
        let mut best: Option<Cost> = None;
        for _ in 0..self.settings.rounds.max(1) {
            clear(Path::new(&out))?;
            let cost = self.measure(&["floor", &self.path(""), &out, late_days])?;
            best = Some(best.filter(|best| best.cpu <= cost.cpu).unwrap_or(cost));
        }
        best.context("nothing was measured")
    }

    fn peer(&self, python: &Path, peer: &str, percent: &str, late_days: &str) -> Result<(Cost, Value)> {
        let (late, work) = (format!("late_{percent}_{late_days}"), self.path(&format!("peer-{peer}")));
        let command = |step: &str| {
            let mut command = run::program(python);
            command.arg(run::root().join("bench/peers/backfill_peers.py"));
            command.args([peer, step, &self.path(""), &work, late_days, &late]).env("POLARS_MAX_THREADS", "2");
            command
        };
        let mut best: Option<Cost> = None;
        for _ in 0..self.settings.rounds.max(1) {
            run::check(&mut command("prepare"))?;
            // Starting the interpreter and loading the program is no part of it.
            let start = measure::best_of_command(1, &mut command("start"))?;
            let mut cost = measure::best_of_command(1, &mut command("merge"))?;
            cost.cpu = (cost.cpu - start.cpu).max(0.0);
            cost.wall = (cost.wall - start.wall).max(0.0);
            best = Some(best.filter(|best| best.cpu <= cost.cpu).unwrap_or(cost));
        }
        let text = run::output(&mut command("count"))?;
        let came = serde_json::from_str(text.trim()).with_context(|| format!("understand {text}"))?;
        clear(Path::new(&work))?;
        Ok((best.context("nothing was measured")?, came))
    }
}

/// A figure with two digits behind the point.
fn shown(figures: &Value, name: &str) -> String {
    figures[name].as_f64().map_or_else(|| "?".to_owned(), |figure| format!("{figure:.2}"))
}

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

/// Bytes of the files that the merge of a table wrote: those that the version after the first brought.
fn written(home: &Path) -> Result<u64> {
    let log = home.join(format!("data/_delta_log/{:020}.json", 1));
    let text = std::fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
    let mut bytes = 0;
    for line in text.lines() {
        let action: Value = serde_json::from_str(line).with_context(|| format!("understand {}", log.display()))?;
        let add = &action["add"];
        let vector = add["deletionVector"]["sizeInBytes"].as_u64().unwrap_or(0);
        // A file that was there already comes again with what is deleted of it.
        let fresh = add.is_object() && vector == 0;
        bytes += if fresh { add["size"].as_u64().unwrap_or(0) } else { vector };
    }
    Ok(bytes)
}

/// The peers' interpreter, with what they need; `None`: it cannot be had.
fn python() -> Result<PathBuf> {
    if !parts::is_there("python3", "--version") {
        bail!("python3 is missing");
    }
    let home = parts::cache()?.join("peers/backfill");
    let python = home.join("bin/python");
    if !python.is_file() {
        run::check(run::program("python3").args(["-m", "venv"]).arg(&home))?;
    }
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run::check(run::program(&python).args(install).args(PACKAGES))?;
    Ok(python)
}

pub(super) fn run(settings: &Settings) -> Result<()> {
    let mut build = run::cargo();
    build.args(["build", "--locked", "--package", "windlass-backfill", "--example", EXAMPLE]);
    if !settings.debug {
        build.arg("--release");
    }
    run::check(&mut build)?;
    let profile = if settings.debug { "debug" } else { "release" };
    let kept = match &settings.folder {
        Some(folder) => folder.clone(),
        None => run::target_dir().join("bench/backfill"),
    };
    let folder = kept.join(format!("{}x{}", settings.rows, settings.days));
    let bench = Bench {
        settings,
        program: run::target_dir().join(profile).join("examples").join(EXAMPLE),
        folder,
        rows: settings.rows.to_string(),
        days: settings.days.to_string(),
    };
    if !bench.folder.join("archive").exists() {
        eprintln!("     the archive of {} rows", settings.rows);
        bench.step(&["generate", &bench.path(""), &bench.rows, &bench.days])?;
    }
    let python = if settings.peers { Some(python()) } else { None };
    let python = match python {
        Some(Err(error)) => {
            eprintln!("     the peers are left out: {error:#}");
            None
        }
        Some(Ok(python)) => Some(python),
        None => None,
    };
    let (mut cases, mut lines, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (percent, late_days, copy, read, memory) in CASES {
        let late_days = if late_days.parse::<u64>().is_ok_and(|days| days > settings.days) {
            bench.days.as_str()
        } else {
            late_days
        };
        if cases.iter().any(|case: &Value| case["late_percent"] == percent && case["late_days"] == late_days) {
            continue;
        }
        eprintln!("     {percent} % late over {late_days} days");
        let place = bench.folder.join(format!("late_{percent}_{late_days}"));
        if !place.exists() {
            bench.step(&["late", &bench.path(""), &bench.rows, &bench.days, percent, late_days])?;
        }
        let floor = bench.floor(late_days)?;
        let mut rows = vec![("floor".to_owned(), floor, Value::Null)];
        let layouts = [("copy_on_write", copy), ("merge_on_read", read)];
        let layouts = layouts.iter().take(if settings.merge_on_read { 2 } else { 1 });
        for (layout, [times, megabytes]) in layouts {
            let (cost, came) = bench.ours(percent, late_days, layout)?;
            let mut add = |what: &str, figure: f64, at_most: f64| {
                let verdict = if figure <= at_most { "met" } else { "MISSED" };
                let what = format!("{percent} %, {late_days} days, {layout}: {what}");
                targets.push(vec![what, format!("{figure:.2}"), format!("{at_most:.2}"), verdict.to_owned()]);
            };
            add("CPU of the floor", cost.cpu / floor.cpu, *times);
            add("MB written", came["bytes_written"].as_f64().unwrap_or(f64::NAN) / 1e6, *megabytes);
            add("peak MiB", cost.peak_mib, memory);
            rows.push((format!("windlass, {layout}"), cost, came));
        }
        let ours = rows.len();
        for (peer, name) in PEERS.iter().filter(|_| python.is_some()) {
            let Some(python) = &python else { continue };
            match bench.peer(python, peer, percent, late_days) {
                Ok((cost, came)) => rows.push(((*name).to_owned(), cost, came)),
                Err(error) => eprintln!("     {name} is left out: {error:#}"),
            }
        }
        let counts: Vec<u64> = rows.iter().filter_map(|(_, _, came)| came["rows"].as_u64()).collect();
        if counts.iter().any(|count| Some(count) != counts.first()) {
            bail!("they do not agree how many rows there are afterwards: {counts:?}");
        }
        if let Some(peer) = rows[ours..].iter().min_by(|a, b| a.1.cpu.total_cmp(&b.1.cpu)) {
            let verdict = if rows[1].1.cpu < peer.1.cpu { "met" } else { "MISSED" };
            let what = format!("{percent} %, {late_days} days, copy_on_write: CPU s, and of {}", peer.0);
            targets.push(vec![what, format!("{:.2}", rows[1].1.cpu), format!("{:.2}", peer.1.cpu), verdict.to_owned()]);
        }
        for (who, cost, came) in rows {
            lines.push(vec![
                format!("{percent} %, {late_days} days"),
                who.clone(),
                format!("{:.2}", cost.cpu),
                format!("{:.2}", cost.cpu / floor.cpu),
                format!("{:.2}", cost.wall),
                format!("{:.0}", cost.peak_mib),
                came["bytes_written"].as_f64().map_or_else(String::new, |bytes| format!("{:.1}", bytes / 1e6)),
            ]);
            cases.push(json!({
                "late_percent": percent, "late_days": late_days, "who": who, "cost": cost.to_json(), "came": came,
            }));
        }
    }
    println!("\nlate rows into {} rows of {} days", settings.rows, settings.days);
    table::print(&["late", "", "CPU s", "of floor", "wall s", "peak MiB", "MB written"], &lines);
    println!();
    table::print(&["target", "figure", "at most", ""], &targets);
    let mut figures = json!({ "rows": settings.rows, "days": settings.days, "cases": cases });
    if settings.ingest > 0 {
        let home = bench.path("ingest");
        clear(Path::new(&home))?;
        let came = bench.step(&["ingest", &home, &settings.ingest.to_string(), "30"])?;
        clear(Path::new(&home))?;
        let number = |name: &str| came[name].as_f64().unwrap_or(f64::NAN);
        let (rate, bytes, raw) =
            (number("rows_per_second"), number("bytes_per_second"), number("raw_bytes_per_second"));
        // A million rows a second, or 80 % of what the disk takes, whichever is less.
        let wanted = (0.8 * raw * rate / bytes).min(1e6);
        println!(
            "\ningest: {rate:.0} rows/s durable, {:.0} MB/s; the same bytes bare, a sync for each batch: {:.0} MB/s; at least {wanted:.0} rows/s are wanted: {}",
            bytes / 1e6,
            raw / 1e6,
            if rate >= wanted { "met" } else { "MISSED" }
        );
        figures["ingest"] = came;
    }
    if settings.tables > 0 {
        figures["rest"] = bench.stand(settings.tables, 4, 0, "1 GiB", 60)?;
        let rest = &figures["rest"];
        println!(
            "\nat rest, {} logs of {} tables: {} CPU s a minute, {} MiB, {} descriptors",
            rest["logs"],
            settings.tables,
            shown(rest, "rest_cpu_seconds_a_minute"),
            shown(rest, "resident_mib"),
            rest["descriptors"]
        );
        figures["shared"] = bench.stand(25, 4, 20_000, "64 MiB", 1)?;
        let shared = &figures["shared"];
        println!(
            "{} logs merged at a time, {} rows, 64 MiB to share: {} MiB set aside at most, {} MiB peak, {} s, {} CPU s",
            shared["logs"],
            shared["rows_merged"],
            shown(shared, "memory_most_held_mib"),
            shown(shared, "peak_mib"),
            shown(shared, "merge_seconds"),
            shown(shared, "merge_cpu_seconds")
        );
    }
    keep("backfill", figures)
}
