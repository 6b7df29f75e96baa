//! Many instances at a simulated site, beside the least that it could have taken.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{keep, table};
use crate::run;

/// How much longer than the least a recovery may take.
const OF_THE_LEAST: f64 = 1.2;
/// Seconds for the report of it, and MiB for everything: engine, client and the simulated site.
const REPORT_S: f64 = 10.0;
const PEAK_MIB: f64 = 512.0;

pub(super) struct Settings {
    pub(super) instances: u64,
    pub(super) ready_ms: u64,
    pub(super) stores: Vec<String>,
    pub(super) check: bool,
}

pub(super) fn run(settings: &Settings) -> Result<()> {
    run::check(run::cargo().args([
        "build",
        "--locked",
        "--release",
        "--package",
        "windlass-recover",
        "--example",
        "bench_recover",
    ]))?;
    let program = run::target_dir().join("release/examples/bench_recover");
    let mut all = Vec::new();
    let mut missed = Vec::new();
    for store in &settings.stores {
        eprintln!("     {} instances on {store}", settings.instances);
        let mut command = run::program(&program);
        command.arg(store).args([settings.instances, settings.ready_ms].map(|number| number.to_string()));
        if store == "etcd" {
            command.env(crate::etcd::VARIABLE, crate::etcd::program()?);
        }
        let text = run::output(&mut command)?;
        let figures: Value = serde_json::from_str(text.trim()).with_context(|| format!("understand {text}"))?;
        missed.extend(report(&figures));
        all.push(figures);
    }
    keep("recover", json!({ "runs": all }))?;
    if settings.check && !missed.is_empty() {
        bail!("missed: {}", missed.join(", "));
    }
    Ok(())
}

/// Prints what one run took; returns what it missed.
fn report(figures: &Value) -> Vec<String> {
    let number = |name: &str| figures[name].as_f64().unwrap_or(f64::NAN);
    let seconds = |name: &str| number(name) / 1e3;
    let mut missed = Vec::new();
    let mut rows = Vec::new();
    let mut row = |what: &str, shown: String, limit: Option<(f64, f64)>| {
        let (target, verdict) = match limit {
            Some((value, most)) if value <= most => (format!("at most {most}"), "met"),
            Some((_, most)) => {
                missed.push(format!("{what} on {}", figures["store"]));
                (format!("at most {most}"), "MISSED")
            }
            None => (String::new(), ""),
        };
        rows.push(vec![what.to_owned(), shown, target, verdict.to_owned()]);
    };
    row("tasks", figures["tasks"].to_string(), None);
    row("changes at the site", figures["changes"].to_string(), None);
    row("up, s", format!("{:.1}", seconds("up_ms")), None);
    row("transactions of the store", figures["transactions_up"].to_string(), None);
    row("first task to last, s", format!("{:.1}", seconds("took_ms")), None);
    row("at least, with its own times of tasks, s", format!("{:.1}", seconds("at_least_ms")), None);
    row("ratio", format!("{:.2}", number("ratio")), Some((number("ratio"), OF_THE_LEAST)));
    row("at least, with what the services alone need, s", format!("{:.1}", seconds("services_ms")), None);
    row("ratio to that", format!("{:.2}", number("services_ratio")), None);
    row("report, s", format!("{:.1}", seconds("report_ms")), Some((seconds("report_ms"), REPORT_S)));
    row("undone, s", format!("{:.1}", seconds("down_ms")), None);
    row("transactions of the undo", figures["transactions_down"].to_string(), None);
    row("peak memory, MiB", figures["peak_mib"].to_string(), Some((number("peak_mib"), PEAK_MIB)));
    println!(
        "\n{} instances with {} volumes and {} rules on {}, {} places; ready after {} ms",
        figures["instances"],
        figures["volumes"],
        figures["rules"],
        figures["store"],
        figures["places"],
        figures["ready_ms"]
    );
    table::print(&["figure", "measured", "target", ""], &rows);
    println!("\nwhere the time went, by sort of task");
    let phases = figures["phases"].as_object().into_iter().flatten().map(|(phase, times)| {
        let s = |name: &str| format!("{:.1}", times[name].as_f64().unwrap_or(f64::NAN) / 1e3);
        vec![phase.clone(), times["tasks"].to_string(), s("took_ms"), s("from_ms"), s("to_ms")]
    });
    table::print(&["task", "number", "together, s", "from, s", "to, s"], &phases.collect::<Vec<_>>());
    missed
}
