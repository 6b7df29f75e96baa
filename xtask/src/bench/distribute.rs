//! Deciding where files belong, at the sizes of the original's own figures; moving them; and what hanging nodes cost.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{keep, table};
use crate::run;

/// The example program of windlass-distribute that decides.
const EXAMPLE: &str = "bench_plan";
/// The one of windlass-distribute-agent that moves a file.
const SPEED: &str = "transfer_speed";
/// The one of windlass-distribute-jobs that has nodes hang.
const HANGING: &str = "hanging_nodes";
/// What one agent to another has to reach at least, next to `cp`, and to `curl` from a server of nothing but `sendfile`.
const OF_CP: f64 = 0.97;
const OF_SENDFILE: f64 = 0.9;
/// Milliseconds that hanging nodes may cost a plan; the original needs 15,000 for each. Less is noise of the machine.
const HANGING_MAY_COST: f64 = 500.0;
/// The size of the file that is moved, in MiB, and how often; best of.
const MOVED: [&str; 2] = ["1024", "5"];

/// What the program that this one replaces needs for a whole run on such a machine when every file is placed, in seconds
/// of processor time, and what ours may take, with its memory in MB where that is limited.
const WHOLE_RUN: [(&str, f64, f64, Option<f64>); 5] = [
    ("10000x100", 0.6, 0.05, None),
    ("100000x100", 1.6, 0.2, None),
    ("1000000x10", 20.6, 2.0, Some(600.0)),
    ("1000000x100", 14.6, 2.0, Some(600.0)),
    ("10000000x1000", f64::NAN, f64::NAN, None),
];
/// Milliseconds for new decisions after one input changed, up to a million files.
const AFTER_ONE_INPUT: f64 = 100.0;
/// Milliseconds for reading the catalogue of a million files.
const READ_A_MILLION: f64 = 1500.0;

/// An example program as people would run it.
fn example(package: &str, name: &str) -> Result<PathBuf> {
    let mut build = run::cargo();
    build.args(["build", "--locked", "--release", "--package", package, "--example", name]);
    run::check(&mut build)?;
    Ok(run::target_dir().join("release/examples").join(name))
}

/// Runs a program that prints one document.
fn document(command: &mut Command) -> Result<Value> {
    let text = run::output(command)?;
    serde_json::from_str(text.trim()).with_context(|| format!("understand {text}"))
}

pub(super) fn run(sizes: &[String]) -> Result<()> {
    let program = example("windlass-distribute", EXAMPLE)?;
    let mut deciding = Vec::new();
    for size in sizes {
        eprintln!("     {size}");
        // A process each, so that the peak of memory is its own.
        let figures = document(run::program(&program).arg(size))?;
        deciding.push((size.clone(), figures));
    }
    eprintln!("     moving");
    // Where the build is, not where temporary files are: those are often in memory.
    let speed = example("windlass-distribute-agent", SPEED)?;
    let moving = document(run::program(speed).arg(run::target_dir()).args(MOVED).arg("json"))?;
    eprintln!("     hanging nodes");
    let hanging = document(&mut run::program(example("windlass-distribute-jobs", HANGING)?))?;
    report(&deciding);
    report_moving(&moving);
    report_hanging(&hanging);
    let deciding: Vec<&Value> = deciding.iter().map(|(_, figures)| figures).collect();
    keep("distribute", json!({ "deciding": deciding, "moving": moving, "hanging": hanging }))
}

fn verdict(met: bool) -> String {
    if met { "met" } else { "MISSED" }.to_owned()
}

fn report_moving(moving: &Value) {
    let speed = |name: &str| moving["mb_per_second"][name].as_f64().unwrap_or(f64::NAN);
    let (cp, plain) = (speed("cp"), speed("curl_from_sendfile"));
    let ways = [
        ("cp", "cp"),
        ("curl from sendfile", "curl_from_sendfile"),
        ("curl from the agent", "curl_from_agent"),
        ("agent to agent", "agent_to_agent"),
        ("agent from a folder", "agent_from_folder"),
    ];
    let row = |(heading, name): (&str, &str)| {
        let mbs = speed(name);
        vec![heading.to_owned(), format!("{mbs:.0}"), format!("{:.2}", mbs / cp), format!("{:.2}", mbs / plain)]
    };
    println!("\na file of {} MiB, on disk in the end, best of {}", moving["megabytes"], moving["rounds"]);
    table::print(&["", "MB/s", "of cp", "of curl from sendfile"], &ways.map(row));
    let target = |what: &str, figure: f64, least: f64| {
        vec![what.to_owned(), format!("{figure:.2}"), format!("{least:.2}"), verdict(figure >= least)]
    };
    println!();
    let targets = [
        target("agent to agent, of cp", speed("agent_to_agent") / cp, OF_CP),
        target("agent to agent, of curl from sendfile", speed("agent_to_agent") / plain, OF_SENDFILE),
    ];
    table::print(&["target", "figure", "at least", ""], &targets);
}

fn report_hanging(hanging: &Value) {
    let rows = hanging.as_array().cloned().unwrap_or_default();
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap_or(f64::NAN);
    let usual = rows.iter().find(|row| row["hanging"] == 0).map_or(f64::NAN, |row| number(row, "median_ms"));
    println!("\nfrom a change of the catalogue to the file on a node, milliseconds");
    let line = |row: &Value| {
        let cost = number(row, "median_ms") - usual;
        vec![
            row["nodes"].to_string(),
            row["hanging"].to_string(),
            format!("{:.0}", number(row, "median_ms")),
            format!("{:.0}", number(row, "worst_ms")),
            format!("{cost:.0}"),
            verdict(cost <= HANGING_MAY_COST),
        ]
    };
    let headings = ["nodes", "of them hang", "median", "worst", "they cost", "at most 500"];
    table::print(&headings, &rows.iter().map(line).collect::<Vec<_>>());
}

fn cpu(figures: &Value, name: &str) -> f64 {
    figures[name]["cpu_ms"].as_f64().unwrap_or(f64::NAN)
}

fn report(deciding: &[(String, Value)]) {
    let columns = [
        ("read catalogue", "read_catalogue"),
        ("read log", "read_event_log"),
        ("first", "first_decisions"),
        ("again", "decisions"),
        ("a listing", "after_one_listing"),
        ("log lines", "after_log_lines"),
        ("a heartbeat", "after_heartbeat"),
        ("a catalogue", "after_whole_catalogue"),
    ];
    let mut headings = vec!["files x nodes"];
    headings.extend(columns.map(|(heading, _)| heading));
    headings.extend(["world MB", "peak MB"]);
    let row = |(size, figures): &(String, Value)| {
        let mut row = vec![size.clone()];
        row.extend(columns.map(|(_, name)| format!("{:.1}", cpu(figures, name))));
        row.extend(["world_mb", "peak_mb_with_inputs"].map(|name| figures[name].to_string()));
        row
    };
    println!("\ndeciding, milliseconds of processor time (of one thread)");
    table::print(&headings, &deciding.iter().map(row).collect::<Vec<_>>());
    let mut targets = Vec::new();
    let mut add = |what: String, figure: f64, at_most: f64| {
        targets.push(vec![what, format!("{figure:.1}"), format!("{at_most:.1}"), verdict(figure <= at_most)]);
    };
    for (size, figures) in deciding {
        let Some((_, original, at_most, memory)) = WHOLE_RUN.iter().find(|(known, ..)| known == size) else { continue };
        let files = figures["files"].as_u64().unwrap_or_default();
        if files <= 1_000_000 {
            // As the original does in a run: the catalogue read and everything decided anew.
            let whole = cpu(figures, "after_whole_catalogue");
            println!("{size}: whole run {:.3} CPU s, the original {original} CPU s", whole / 1e3);
            add(format!("{size}: whole run, CPU ms"), whole, at_most * 1e3);
            for name in ["after_one_listing", "after_log_lines", "after_heartbeat"] {
                add(format!("{size}: {}, CPU ms", name.replace('_', " ")), cpu(figures, name), AFTER_ONE_INPUT);
            }
        }
        if files == 1_000_000 {
            add(format!("{size}: read catalogue, CPU ms"), cpu(figures, "read_catalogue"), READ_A_MILLION);
        }
        if let Some(memory) = memory {
            add(
                format!("{size}: peak MB, inputs and all"),
                figures["peak_mb_with_inputs"].as_f64().unwrap_or(f64::NAN),
                *memory,
            );
        }
    }
    println!();
    table::print(&["target", "figure", "at most", ""], &targets);
}
