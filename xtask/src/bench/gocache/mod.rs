//! The Go build cache against go's own and against the plain strategy, with `go build std` and a delayed object store.
//!
//! Letters are those of the contract: **c** neither local nor remote has anything, **b** only the remote, **a** both.

mod builds;
mod meter;
mod replay;
mod store;

pub(crate) use meter::{meter_here, recall_here, tap_here};

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use self::builds::{Builder, Measured};
use self::store::ObjectStore;
use super::{keep, table};
use crate::{go, run};

/// What is measured, and how often.
pub(super) struct Settings {
    /// Milliseconds that each request to the object store is held back.
    pub(super) delays: Vec<u64>,
    /// Times the short builds are repeated; the best counts.
    pub(super) rounds: usize,
    /// Whether the plain strategy is measured too.
    pub(super) plain: bool,
    /// Whether a missed target is an error.
    pub(super) check: bool,
}

/// One line of the result.
struct Row {
    scenario: String,
    program: &'static str,
    measured: Measured,
}

/// A figure beside what it should be at most.
struct Target {
    what: String,
    figure: f64,
    at_most: f64,
}

pub(super) fn run(settings: &Settings) -> Result<()> {
    let go = go::measured()?;
    let folder = run::target_dir().join("bench/gocache");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let programs = Programs::build(&go, &folder)?;
    let mut rows = Vec::new();
    let built_in = Builder::new(&go, &folder.join("built-in"), None)?;
    eprintln!("     go's own cache, empty");
    rows.push(Row { scenario: "empty".into(), program: BUILT_IN, measured: built_in.build()? });
    for (n, &delay) in settings.delays.iter().enumerate() {
        ours(&go, &programs, &built_in, delay, settings.rounds, &mut rows)?;
        if settings.plain {
            plain(&go, &programs, delay, n == 0, &mut rows)?;
        }
    }
    // In turns, so that a busy moment does not count against one of them only.
    let local = Builder::new(&go, &folder.join("local"), Some(&programs.ours))?;
    eprintln!("     without a remote, empty, then filled in turns with go's own");
    rows.push(Row { scenario: "c, no remote".into(), program: OURS, measured: local.build()? });
    local.build_recorded()?;
    let (mut theirs, mut ours, mut least) = (built_in.build()?, local.build()?, local.build_recalled()?);
    for _ in 1..settings.rounds.max(7) {
        theirs = theirs.better(built_in.build()?);
        ours = ours.better(local.build()?);
        least = least.better(local.build_recalled()?);
    }
    rows.push(Row { scenario: "filled".into(), program: BUILT_IN, measured: theirs });
    rows.push(Row { scenario: "filled".into(), program: RECALL, measured: least });
    rows.push(Row { scenario: "a, no remote".into(), program: OURS, measured: ours });
    let replayed = replay::measure(&go, &programs.ours, &folder, settings.rounds)?;
    report(&rows, &replayed, settings)
}

const BUILT_IN: &str = "built-in";
const OURS: &str = "windlass";
const PLAIN: &str = "plain";
/// Answers from memory: the least that a cache program takes.
const RECALL: &str = "recall";

/// The programs under measurement.
struct Programs {
    ours: PathBuf,
    /// The large program, for the commands around the cache.
    windlass: PathBuf,
    plain: PathBuf,
    s3: PathBuf,
    folder: PathBuf,
}

impl Programs {
    fn build(go: &Path, folder: &Path) -> Result<Self> {
        let mut build = run::cargo();
        build.args(["build", "--locked", "--release", "--package", "windlass-gocache", "--package", "windlass"]);
        run::check(&mut build)?;
        let mut example = run::cargo();
        example.args(["build", "--locked", "--release", "--package", "windlass-sim", "--features", "s3"]);
        run::check(example.args(["--example", "s3"]))?;
        let plain = folder.join("gocache-seed");
        let mut build = run::program(go.join("bin/go"));
        build.args(["build", "-o"]).arg(&plain).arg(".").current_dir(run::root().join("bench/gocache-seed"));
        build.env("GOROOT", go).env("GOTOOLCHAIN", "local").env("GOPROXY", "off").env_remove("GOCACHEPROG");
        run::check(&mut build)?;
        let release = run::target_dir().join("release");
        Ok(Self {
            ours: release.join("windlass-gocache"),
            windlass: release.join("windlass"),
            plain,
            s3: release.join("examples/s3"),
            folder: folder.to_owned(),
        })
    }
}

/// c, b and a of ours at one delay.
fn ours(
    go: &Path,
    programs: &Programs,
    built_in: &Builder,
    delay: u64,
    rounds: usize,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let mut store = ObjectStore::start(&programs.s3, &programs.folder.join(format!("s3-windlass-{delay}")))?;
    store.delay(delay)?;
    let builder = Builder::new(go, &programs.folder.join(format!("windlass-{delay}")), Some(&programs.ours))?
        .with_remote(store.access());
    let at = |letter: &str| format!("{letter}, {delay} ms");
    eprintln!("     windlass, {delay} ms");
    rows.push(Row { scenario: at("c"), program: OURS, measured: store.counted(|| builder.build())? });
    builder.flush(&programs.windlass)?;
    let mut best: Option<Measured> = None;
    for _ in 0..rounds {
        builder.lose_store()?;
        let b = store.counted(|| builder.build())?;
        best = Some(best.map_or(b, |best| best.better(b)));
    }
    if let Some(measured) = best {
        rows.push(Row { scenario: at("b"), program: OURS, measured });
    }
    let mut a = store.counted(|| builder.build())?;
    for _ in 1..rounds {
        a = a.better(store.counted(|| builder.build())?);
    }
    rows.push(Row { scenario: at("a"), program: OURS, measured: a });
    // The machine may be faster or slower than it was: the built-in beside it says so.
    rows.push(Row { scenario: format!("filled, beside {delay} ms"), program: BUILT_IN, measured: built_in.build()? });
    Ok(())
}

/// b and a of the plain strategy at one delay. What it uploads does not depend on the delay, so it fills once.
fn plain(go: &Path, programs: &Programs, delay: u64, first: bool, rows: &mut Vec<Row>) -> Result<()> {
    let mut store = ObjectStore::start(&programs.s3, &programs.folder.join("s3-plain"))?;
    let builder = Builder::new(go, &programs.folder.join("plain"), Some(&programs.plain))?.with_remote(store.access());
    let at = |letter: &str| format!("{letter}, {delay} ms");
    eprintln!("     the plain strategy, {delay} ms");
    if first {
        store.delay(delay)?;
        rows.push(Row { scenario: at("c"), program: PLAIN, measured: store.counted(|| builder.build())? });
    }
    store.delay(delay)?;
    builder.lose_store()?;
    rows.push(Row { scenario: at("b"), program: PLAIN, measured: store.counted(|| builder.build())? });
    rows.push(Row { scenario: at("a"), program: PLAIN, measured: store.counted(|| builder.build())? });
    Ok(())
}

fn report(rows: &[Row], replayed: &replay::Replayed, settings: &Settings) -> Result<()> {
    let cells = |row: &Row| {
        let Measured { build, program, traffic } = row.measured;
        vec![
            row.scenario.clone(),
            row.program.to_owned(),
            format!("{:.2}", build.wall),
            format!("{:.2}", build.cpu + program.map_or(0.0, |program| program.cpu)),
            program.map_or_else(String::new, |program| format!("{:.2}", program.cpu)),
            program.map_or_else(String::new, |program| format!("{:.0}", program.peak_mib)),
            traffic.map_or_else(String::new, |traffic| traffic.requests.to_string()),
            traffic.map_or_else(String::new, |traffic| format!("{:.1}", traffic.bytes_up as f64 / 1e6)),
            traffic.map_or_else(String::new, |traffic| format!("{:.1}", traffic.bytes_down as f64 / 1e6)),
        ]
    };
    println!("\ngo build std, best of {}", settings.rounds);
    let headings =
        ["scenario", "cache", "wall s", "CPU s", "its CPU s", "its peak MiB", "requests", "MB up", "MB down"];
    table::print(&headings, &rows.iter().map(cells).collect::<Vec<_>>());
    println!();
    table::print(
        &["replayed", "requests", "seconds", "peak MiB"],
        &[
            vec![
                "puts".into(),
                replayed.puts.to_string(),
                format!("{:.3}", replayed.put.wall),
                format!("{:.0}", replayed.put.peak_mib),
            ],
            vec![
                "local gets".into(),
                replayed.puts.to_string(),
                format!("{:.4}", replayed.get.wall),
                format!("{:.0}", replayed.get.peak_mib),
            ],
        ],
    );
    let targets = targets(rows, replayed, settings);
    println!();
    let line = |target: &Target| {
        let verdict = if target.figure <= target.at_most { "met" } else { "MISSED" };
        vec![target.what.clone(), format!("{:.3}", target.figure), format!("{:.3}", target.at_most), verdict.to_owned()]
    };
    table::print(&["target", "figure", "at most", ""], &targets.iter().map(line).collect::<Vec<_>>());
    keep(
        "gocache",
        json!({
            "rounds": settings.rounds,
            "builds": rows.iter().map(|row| {
                let mut value = row.measured.to_json();
                value["scenario"] = json!(row.scenario);
                value["cache"] = json!(row.program);
                value
            }).collect::<Vec<Value>>(),
            "replayed": { "puts": replayed.puts, "bytes": replayed.bytes, "put": replayed.put.to_json(), "get": replayed.get.to_json() },
            "targets": targets.iter().map(|target| {
                json!({ "what": target.what, "figure": target.figure, "at_most": target.at_most })
            }).collect::<Vec<Value>>(),
        }),
    )?;
    let missed = targets.iter().filter(|target| target.figure > target.at_most).count();
    if settings.check && missed > 0 {
        bail!("{missed} of {} targets are missed", targets.len());
    }
    Ok(())
}

fn targets(rows: &[Row], replayed: &replay::Replayed, settings: &Settings) -> Vec<Target> {
    let find = |scenario: &str, program: &str| {
        rows.iter().find(|row| row.scenario == scenario && row.program == program).map(|row| row.measured)
    };
    let mut targets = Vec::new();
    let mut add = |what: String, figure: Option<f64>, at_most: f64| {
        targets.extend(figure.map(|figure| Target { what, figure, at_most }));
    };
    let ratio =
        |ours: Option<Measured>, theirs: Option<Measured>, part: fn(Measured) -> f64| Some(part(ours?) / part(theirs?));
    let (empty, filled) = (find("empty", BUILT_IN), find("filled", BUILT_IN));
    add("a to built-in, wall".into(), ratio(find("a, no remote", OURS), filled, |m| m.build.wall), 1.10);
    add(
        "a to answers from memory, wall".into(),
        ratio(find("a, no remote", OURS), find("filled", RECALL), |m| m.build.wall),
        1.10,
    );
    for &delay in &settings.delays {
        let (b, c) = (find(&format!("b, {delay} ms"), OURS), find(&format!("c, {delay} ms"), OURS));
        // The targets of the specification, and in between what they say of a request.
        let limit = match delay {
            0 => 1.2,
            1..=20 => 2.0,
            _ => 3.0,
        };
        add(format!("b at {delay} ms, wall s"), b.map(|b| b.build.wall), limit);
        add(format!("c at {delay} ms to built-in, wall"), ratio(c, empty, |m| m.build.wall), 1.05);
        add(format!("c at {delay} ms to built-in, CPU"), ratio(c, empty, Measured::all_cpu), 1.05);
        for (letter, measured) in [("b", b), ("c", c)] {
            let requests = measured.and_then(|m| m.traffic).map(|traffic| traffic.requests as f64);
            add(format!("requests in {letter} at {delay} ms"), requests, 60.0);
            let memory = measured.and_then(|m| m.program).map(|program| program.peak_mib);
            add(format!("memory in {letter} at {delay} ms, MiB"), memory, 64.0);
        }
        let down = b.and_then(|m| m.traffic).map(|traffic| traffic.bytes_down as f64 / 1e6);
        add(format!("MB down in b at {delay} ms"), down, 50.0);
    }
    add("replayed puts, s".into(), Some(replayed.put.wall), 0.8);
    add("replayed puts, MiB".into(), Some(replayed.put.peak_mib), 64.0);
    add("replayed local gets, s".into(), Some(replayed.get.wall), 0.02);
    targets
}
