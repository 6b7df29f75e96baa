//! The durable engine on the embedded store, against bare SQLite and the disk of the same minute.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{keep, peers, table};
use crate::run;

/// Turns of the floor and of the tasks, one after the other; the middle ratio counts.
const ROUNDS: usize = 3;
/// Jobs of three steps that each engine runs one after another.
const JOBS: u32 = 200;
/// Jobs at a time where their rate is measured.
const CALLERS: u32 = 64;

/// A figure with what it has to be.
struct Figure {
    what: &'static str,
    value: f64,
    shown: String,
    target: Option<Target>,
}

enum Target {
    AtLeast(f64),
    Below(f64),
}

impl Figure {
    fn is_met(&self) -> Option<bool> {
        self.target.as_ref().map(|target| match target {
            Target::AtLeast(least) => self.value >= *least,
            Target::Below(most) => self.value < *most,
        })
    }

    fn row(&self) -> Vec<String> {
        let target = match &self.target {
            Some(Target::AtLeast(least)) => format!("at least {least}"),
            Some(Target::Below(most)) => format!("below {most:.1}"),
            None => String::new(),
        };
        let verdict = match self.is_met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        vec![self.what.to_owned(), self.shown.clone(), target, verdict.to_owned()]
    }
}

pub(super) fn run(folder: Option<&Path>, check: bool, with_peers: bool) -> Result<()> {
    run::check(run::cargo().args([
        "build",
        "--locked",
        "--release",
        "--package",
        "windlass-engine",
        "--example",
        "bench_engine",
    ]))?;
    let folder = folder.map_or_else(|| run::target_dir().join("bench/states"), PathBuf::from);
    let bench = Bench { program: run::target_dir().join("release/examples/bench_engine"), folder, etcd: None };
    let mut rounds = Vec::new();
    let mut before = bench.measure("floor", &[])?;
    for _ in 0..ROUNDS {
        let one = bench.measure("tasks", &["1", "50000"])?;
        let between = bench.measure("floor", &[])?;
        let eight = bench.measure("tasks", &["8", "50000"])?;
        let after = bench.measure("floor", &[])?;
        rounds.push(json!({ "floors": [before, between, after], "one_job": one, "eight_jobs": eight }));
        before = after;
    }
    let steps = bench.measure("steps", &[&JOBS.to_string()])?;
    let jobs = bench.measure("jobs", &[&(JOBS * 10).to_string(), &CALLERS.to_string()])?;
    let shared = on_etcd(&bench)?;
    let others = if with_peers { peers::measure(&bench.folder, JOBS, CALLERS) } else { Vec::new() };
    let dispatch = bench.measure("dispatch", &["1000"])?;
    let accept = bench.measure("accept", &["100000"])?;
    let idle = bench.measure("idle", &["20"])?;
    let mut figures = figures(&rounds, &steps, &dispatch, &accept, &idle)?;
    let large = bench.measure("tasks", &["1", "100000"])?;
    figures.push(seconds("job of 100 000 tasks, end to end", &large)?);
    figures.push(Figure {
        what: "steps/s of jobs of three, 64 callers",
        value: number(&jobs, "/steps_per_second")?,
        shown: format!("{:.0}", number(&jobs, "/steps_per_second")?),
        target: Some(Target::AtLeast(5000.0)),
    });
    figures.extend(etcd_figures(&shared)?);
    table::print(&["figure", "measured", "target", ""], &figures.iter().map(Figure::row).collect::<Vec<_>>());
    compare(&steps, &jobs, &others)?;
    let missed: Vec<&str> = figures.iter().filter(|figure| figure.is_met() == Some(false)).map(|f| f.what).collect();
    keep(
        "engine",
        json!({
            "rounds": rounds, "steps": steps, "jobs": jobs, "large": large, "etcd": shared, "dispatch": dispatch, "accept": accept, "idle": idle,
            "figures": figures.iter().map(|f| (f.what.to_owned(), json!(f.value))).collect::<serde_json::Map<_, _>>(),
            "peers": others.iter().map(|peer| (peer.name.to_owned(), peer.figures.clone())).collect::<serde_json::Map<_, _>>(),
            "missed": missed,
        }),
    )?;
    if check && !missed.is_empty() {
        bail!("missed: {}", missed.join(", "));
    }
    Ok(())
}

/// The same measurements on an etcd of one member on this machine, beside its bare transactions.
fn on_etcd(bench: &Bench) -> Result<Value> {
    let etcd = Bench { etcd: Some(crate::etcd::program()?), ..bench.clone() };
    let before = etcd.measure("raw_etcd", &["64", "3000"])?;
    let tasks = etcd.measure("tasks", &["1", "20000"])?;
    let after = etcd.measure("raw_etcd", &["64", "3000"])?;
    Ok(json!({
        "raw": [before, after],
        "raw_one": etcd.measure("raw_etcd", &["1", "2000"])?,
        "tasks": tasks,
        "steps": etcd.measure("steps", &[&JOBS.to_string()])?,
        "dispatch": etcd.measure("dispatch", &["500"])?,
        "large": etcd.measure("tasks", &["1", "100000"])?,
        "idle": etcd.measure("idle", &["20"])?,
    }))
}

fn etcd_figures(shared: &Value) -> Result<Vec<Figure>> {
    let raw = f64::midpoint(number(shared, "/raw/0/per_second")?, number(shared, "/raw/1/per_second")?);
    let rate = number(shared, "/tasks/per_second")?;
    let plain = |what, value: f64, unit: &str| Figure { what, value, shown: format!("{value:.0}{unit}"), target: None };
    let percent = number(shared, "/idle/percent_of_a_processor")?;
    Ok(vec![
        plain("etcd, bare transactions/s, 64 callers", raw, ""),
        plain("etcd, bare transaction, one caller, p50", number(shared, "/raw_one/commit/p50_us")?, " us"),
        plain("etcd, tasks/s", rate, ""),
        Figure {
            what: "etcd, tasks/s to bare transactions",
            value: rate / raw,
            shown: format!("{:.2}", rate / raw),
            target: Some(Target::AtLeast(1.0 / 3.0)),
        },
        plain("etcd, job of three steps, p50", number(shared, "/steps/job/p50_us")?, " us"),
        plain("etcd, dispatch, p50", number(shared, "/dispatch/gap/p50_us")?, " us"),
        plain("etcd, dispatch, p99", number(shared, "/dispatch/gap/p99_us")?, " us"),
        seconds("etcd, job of 100 000 tasks, end to end", &shared["large"])?,
        Figure {
            what: "etcd, idle with a waiting job",
            value: percent,
            shown: format!("{percent:.3} % of a processor"),
            target: Some(Target::Below(0.5)),
        },
    ])
}

fn seconds(what: &'static str, measured: &Value) -> Result<Figure> {
    let value = number(measured, "/seconds")?;
    Ok(Figure { what, value, shown: format!("{value:.1} s"), target: None })
}

/// The same job of three steps on other engines, and how many times as long or as few that is.
fn compare(steps: &Value, jobs: &Value, others: &[peers::Peer]) -> Result<()> {
    let (p50, rate) = (number(steps, "/job/p50_us")?, number(jobs, "/jobs_per_second")?);
    let row = |name: &str, own_p50: f64, p99: f64, own_rate: f64| {
        vec![
            name.to_owned(),
            format!("{:.1} ms", own_p50 / 1e3),
            format!("{:.1} ms", p99 / 1e3),
            format!("{:.1}", own_p50 / p50),
            format!("{own_rate:.0}"),
            format!("{:.1}", rate / own_rate),
        ]
    };
    let mut rows = vec![row("windlass, embedded", p50, number(steps, "/job/p99_us")?, rate)];
    for peer in others {
        let figure = |name: &str| number(&peer.figures, &format!("/{name}"));
        rows.push(row(peer.name, figure("p50_us")?, figure("p99_us")?, figure("jobs_per_second")?));
    }
    println!();
    let rate = format!("jobs/s, {CALLERS} callers");
    table::print(&["job of three steps", "p50", "p99", "times ours", &rate, "ours is times"], &rows);
    Ok(())
}

#[derive(Clone)]
struct Bench {
    program: PathBuf,
    folder: PathBuf,
    /// The etcd to start as the store; `None`: the embedded store.
    etcd: Option<PathBuf>,
}

impl Bench {
    /// Takes one measurement in a process of its own.
    fn measure(&self, name: &str, arguments: &[&str]) -> Result<Value> {
        let mut process = run::program(&self.program);
        process.arg(name).arg(&self.folder).args(arguments);
        if let Some(etcd) = &self.etcd {
            process.env("BENCH_STORE", "etcd").env("WINDLASS_ETCD", etcd);
        }
        eprintln!("     $ {}", run::shown(&process));
        let text = run::output(&mut process)?;
        serde_json::from_str(&text).with_context(|| format!("read the measurement {name}: {text}"))
    }
}

fn number(value: &Value, pointer: &str) -> Result<f64> {
    value.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("the measurement has no {pointer}: {value}"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Tasks per second and their ratio to bare SQLite in the turns before and after.
fn rate(rounds: &[Value], what: &str, floors: [&str; 2]) -> Result<(f64, f64)> {
    let (mut rates, mut ratios) = (Vec::new(), Vec::new());
    for round in rounds {
        let rate = number(round, &format!("/{what}/per_second"))?;
        let [before, after] = floors.map(|floor| number(round, &format!("/floors/{floor}/raw_per_second/128")));
        rates.push(rate);
        ratios.push(rate / f64::midpoint(before?, after?));
    }
    Ok((median(rates), median(ratios)))
}

fn figures(rounds: &[Value], steps: &Value, dispatch: &Value, accept: &Value, idle: &Value) -> Result<Vec<Figure>> {
    let plain = |what, value: f64, unit: &str| Figure { what, value, shown: format!("{value:.0}{unit}"), target: None };
    let (one, one_ratio) = rate(rounds, "one_job", ["0", "1"])?;
    let (eight, eight_ratio) = rate(rounds, "eight_jobs", ["1", "2"])?;
    let last = rounds.last().context("there were no rounds")?;
    let ratio =
        |what, value: f64| Figure { what, value, shown: format!("{value:.2}"), target: Some(Target::AtLeast(0.5)) };
    let micros = |what, value: f64, target| Figure { what, value, shown: format!("{value:.0} us"), target };
    let memory =
        |what, value: f64| Figure { what, value, shown: format!("{value:.0} MiB"), target: Some(Target::Below(512.0)) };
    let active = number(accept, "/active_seconds")?;
    let percent = number(idle, "/percent_of_a_processor")?;
    Ok(vec![
        plain("bare SQLite, 1 transition per commit, /s", number(last, "/floors/2/raw_per_second/1")?, ""),
        plain("bare SQLite, 128 transitions per commit, /s", number(last, "/floors/2/raw_per_second/128")?, ""),
        plain("tasks/s, one job", one, ""),
        ratio("tasks/s, one job, to bare SQLite", one_ratio),
        plain("tasks/s, eight jobs", eight, ""),
        ratio("tasks/s, eight jobs, to bare SQLite", eight_ratio),
        micros("processor time per task, one job", number(last, "/one_job/cpu_us_per_task")?, None),
        plain("bytes of state per task", number(last, "/one_job/state_bytes_per_task")?, ""),
        micros("fdatasync p50", number(steps, "/fdatasync_p50_us")?, None),
        micros(
            "job of three steps, p50",
            number(steps, "/job/p50_us")?,
            Some(Target::Below(number(steps, "/allowed_p50_us")?)),
        ),
        micros("job of three steps, p50, in all", number(steps, "/job/p50_us")?, Some(Target::Below(2000.0))),
        micros("job of three steps, p99", number(steps, "/job/p99_us")?, None),
        plain("commits of such a job", number(steps, "/commits_per_job")?, ""),
        micros("one of these commits, p50", number(steps, "/commit/p50_us")?, None),
        micros("dispatch, p50", number(dispatch, "/gap/p50_us")?, Some(Target::Below(1000.0))),
        micros("dispatch, p99", number(dispatch, "/gap/p99_us")?, Some(Target::Below(1e6))),
        Figure {
            what: "plan of 100 000 tasks accepted",
            value: active,
            shown: format!("{active:.2} s"),
            target: Some(Target::Below(5.0)),
        },
        memory("peak memory, 50 000 tasks in one job", number(last, "/one_job/peak_mib")?),
        memory("peak memory, plan of 100 000 tasks", number(accept, "/peak_mib")?),
        Figure {
            what: "idle with a waiting job",
            value: percent,
            shown: format!("{percent:.3} % of a processor"),
            target: Some(Target::Below(0.5)),
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_rounds_counts_and_each_is_compared_with_its_own_floors() {
        let round = |tasks: f64, raw: f64| {
            let floor = json!({ "raw_per_second": { "128": raw } });
            json!({ "floors": [floor, floor, floor], "one_job": { "per_second": tasks } })
        };
        let rounds = [round(50.0, 100.0), round(10.0, 10.0), round(90.0, 100.0)];
        assert_eq!(rate(&rounds, "one_job", ["0", "1"]).unwrap(), (50.0, 0.9));
    }

    #[test]
    fn a_figure_knows_whether_its_target_is_met() {
        let figure = |value, target| Figure { what: "x", value, shown: String::new(), target };
        assert_eq!(figure(0.5, Some(Target::AtLeast(0.5))).is_met(), Some(true));
        assert_eq!(figure(5.0, Some(Target::Below(5.0))).is_met(), Some(false));
        assert_eq!(figure(5.0, None).is_met(), None);
    }
}
