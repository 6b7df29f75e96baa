//! Deciding where files belong, at the sizes of the original's own figures.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{keep, table};
use crate::run;

/// The example program of windlass-distribute that decides.
const EXAMPLE: &str = "bench_plan";

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

pub(super) fn run(sizes: &[String]) -> Result<()> {
    let mut build = run::cargo();
    build.args(["build", "--locked", "--release", "--package", "windlass-distribute", "--example", EXAMPLE]);
    run::check(&mut build)?;
    let program = run::target_dir().join("release/examples").join(EXAMPLE);
    let mut deciding = Vec::new();
    for size in sizes {
        eprintln!("     {size}");
        // A process each, so that the peak of memory is its own.
        let text = run::output(run::program(&program).arg(size))?;
        let figures: Value = serde_json::from_str(text.trim()).with_context(|| format!("understand {text}"))?;
        deciding.push((size.clone(), figures));
    }
    report(&deciding);
    keep("distribute", json!({ "deciding": deciding.iter().map(|(_, figures)| figures).collect::<Vec<_>>() }))
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
        let verdict = if figure <= at_most { "met" } else { "MISSED" };
        targets.push(vec![what, format!("{figure:.1}"), format!("{at_most:.1}"), verdict.to_owned()]);
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
