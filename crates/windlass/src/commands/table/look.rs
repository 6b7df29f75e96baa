//! Looking at tables.

use std::fmt::Write as _;

use serde_json::{Value, json};
use windlass_table::late::{LATENESS, waiting};
use windlass_table::log::Lsn;
use windlass_table::{Day, Table};

use super::place::{Place, around, context};
use super::problem;
use crate::app::App;
use crate::exit::Exit;

/// Where to look.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    place: Place,
}

/// Which table.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
}

/// Which table.
#[derive(Debug, clap::Args)]
pub(crate) struct LateArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
}

pub(super) fn ls(app: &App, args: &LsArgs) -> anyhow::Result<Exit> {
    let folder = args.place.folder()?;
    let mut names: Vec<String> = match std::fs::read_dir(&folder) {
        Ok(entries) => entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| folder.join(name).join("table.json").exists())
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(anyhow::Error::new(error).context(format!("list {}", folder.display()))),
    };
    names.sort();
    let mut tables = Vec::new();
    for name in &names {
        let table = Table::open(&folder.join(name), &context(app)).map_err(problem)?;
        tables.push(json!({ "name": name, "home": table.home(), "url": table.descriptor().url, "shards": table.descriptor().shards }));
    }
    app.output.result(&tables, || {
        tables.iter().fold(String::new(), |mut text, table| {
            let word = |name: &str| table[name].as_str().unwrap_or_default().to_owned();
            let _ = writeln!(text, "{}\t{}\t{}", word("name"), word("home"), word("url"));
            text
        })
    })?;
    Ok(Exit::Done)
}

pub(super) async fn show(app: &App, args: &ShowArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    let snapshot = table.snapshot().await.map_err(problem)?;
    let definition = snapshot.definition().map_err(problem)?;
    let mut days = serde_json::Map::new();
    for (day, adds) in snapshot.by_day().map_err(problem)? {
        let rows: u64 = adds
            .iter()
            .filter_map(|add| serde_json::from_str::<Value>(add.stats.as_deref()?).ok()?["numRecords"].as_u64())
            .sum();
        let bytes: i64 = adds.iter().map(|add| add.size).sum();
        days.insert(day.to_string(), json!({ "rows": rows, "files": adds.len(), "bytes": bytes }));
    }
    let shards: Vec<Value> = (0..table.descriptor().shards)
        .map(|shard| {
            let (checkpoint, cutoff) = table.progress(&snapshot, shard);
            let cutoff = (cutoff != i64::MIN).then(|| cutoff.div_euclid(1_000_000));
            json!({ "shard": shard, "checkpoint": checkpoint, "cutoff": cutoff })
        })
        .collect();
    let document = json!({
        "name": table.descriptor().name,
        "home": table.home(),
        "url": table.descriptor().url,
        "version": snapshot.version,
        "definition": definition,
        "shards": shards,
        "days": days,
    });
    app.output.result(&document, || {
        let mut text =
            format!("{} at {}, version {}\n", table.descriptor().name, table.descriptor().url, snapshot.version);
        for column in &definition.columns {
            let key = if definition.primary_key.contains(&column.name) { ", key" } else { "" };
            let null = if column.nullable { "" } else { ", never null" };
            let _ = writeln!(text, "  {} {}{key}{null}", column.name, column.column_type);
        }
        for shard in &shards {
            let cutoff = shard["cutoff"].as_i64().and_then(|at| jiff::Timestamp::from_second(at).ok());
            let cutoff = cutoff.map_or_else(|| "nothing".to_owned(), |at| format!("all before {at}"));
            let checkpoint = Lsn(shard["checkpoint"].as_u64().unwrap_or(0));
            let _ = writeln!(text, "shard {}: merged up to {checkpoint}, archived: {cutoff}", shard["shard"]);
        }
        for (day, of) in &days {
            let _ = writeln!(text, "{day}  {} row(s), {} file(s), {} bytes", of["rows"], of["files"], of["bytes"]);
        }
        text
    })?;
    Ok(Exit::Done)
}

pub(super) async fn late(app: &App, args: &LateArgs) -> anyhow::Result<Exit> {
    let table = args.place.open(app, &args.table)?;
    let (_folder, around) = around(app)?;
    let mut shards = Vec::new();
    for shard in 0..table.descriptor().shards {
        shards.push(waiting(&table, shard, &around).await.map_err(problem)?);
    }
    app.output.result(&shards, || {
        let mut text = String::new();
        for shard in &shards {
            let rows = &shard.rows;
            let _ = writeln!(
                text,
                "shard {}: {} row(s) in {} batch(es) behind {}, {} bytes of at most {}",
                shard.shard, rows.rows_in, shard.batches, shard.checkpoint, shard.bytes, shard.hard_limit_bytes
            );
            let kinds = [
                (rows.rows_late, "late: a backfill merges them"),
                (rows.rows_live, "live: they wait to be archived"),
                (rows.out_of_retention, "out of retention: they will be dropped"),
                (rows.from_future, "from the future: they will be dropped"),
                (rows.rejected_no_event_time, "without an event time: they will be dropped"),
                (rows.rejected_no_key, "without a key: they will be dropped"),
                (rows.rejected_event_time, "of a moment that cannot be written: they will be dropped"),
            ];
            for (count, what) in kinds.into_iter().filter(|(count, _)| *count > 0) {
                let _ = writeln!(text, "  {count} {what}");
            }
            for (day, rows) in &shard.days {
                let _ = writeln!(text, "  {day}  {rows}");
            }
            lateness(&mut text, &shard.lateness);
        }
        text
    })?;
    Ok(Exit::Done)
}

fn lateness(text: &mut String, classes: &[u64]) {
    for (bound, rows) in LATENESS.iter().zip(classes).filter(|(_, rows)| **rows > 0) {
        let name = match bound / 3_600 {
            hours if *bound == i64::MAX => format!("more than {} days late", LATENESS[hours.min(6) as usize] / 86_400),
            hours if hours < 24 => format!("less than {hours} h late"),
            hours => format!("less than {} day(s) late", hours / 24),
        };
        let _ = writeln!(text, "  {rows} {name}");
    }
}

/// A day of an option.
pub(super) fn day(text: &str) -> Result<Day, String> {
    text.parse().map_err(|error: windlass_table::TableError| error.to_string())
}
