//! What `cargo xtask bench backfill` runs, each step in a process of its own:
//!
//! * `generate FOLDER ROWS DAYS`: the archive;
//! * `late FOLDER ROWS DAYS PERCENT LATE_DAYS`: late rows as files, for others;
//! * `table FOLDER HOME ROWS DAYS PERCENT LATE_DAYS LAYOUT`: a table of the archive, with the late rows in its log;
//! * `floor FOLDER OUT LATE_DAYS`: reads and writes again the files of the days that late rows touch;
//! * `merge HOME MEMORY`: merges with so many MiB for what is held, and prints what it came to;
//! * `count HOME`: counts the rows of the table;
//! * `ingest HOME ROWS DAYS`: takes rows into a new log as fast as they are durable;
//! * `tables HOME COUNT SHARDS ROWS`: tables of an empty archive, with late rows in each of their logs;
//! * `stand HOME ROWS MEMORY SECONDS`: a standing job looks after them, merges what waits, and then rests.

mod data;
mod standing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use windlass_blob::Context;
use windlass_clock::{SystemClock, SystemEntropy};
use windlass_table::log::{Limits, Lsn, Writer};
use windlass_table::run::{self, Around, Order};
use windlass_table::scan::{Selection, scan};
use windlass_table::{Batch, Creation, Definition, Table};

use crate::data::{DAY, DAY0, Data, Fallible, batch, write};

/// Rows of a late batch.
const BATCH: u64 = 10_000;
/// Days that are merged, or read and written, at a time.
const THREADS: usize = 2;

fn definition(layout: &str) -> Value {
    let column = |name: &str, of: &str| json!({ "name": name, "type": of });
    json!({
        "name": "bench", "event_time": "event_time", "primary_key": ["trip_id", "leg"],
        "sort_columns": ["city_id", "status"], "layout": layout,
        "columns": [
            {"name": "event_time", "type": "timestamp", "nullable": false},
            {"name": "trip_id", "type": "int64", "nullable": false},
            {"name": "leg", "type": "int16", "nullable": false},
            column("city_id", "int32"),
            {"name": "status", "type": "string", "default": "unknown"},
            column("fare", "float64"),
            column("driver_id", "int64"),
            {"name": "surge", "type": "bool", "default": false},
            column("note", "string"),
        ],
    })
}

fn data(rows: &str, days: &str) -> Fallible<Data> {
    let days: i64 = days.parse()?;
    let rows: u64 = rows.parse()?;
    Ok(Data { seed: 7, days, per_day: rows / u64::try_from(days)? })
}

fn late_batches(data: Data, percent: &str, late_days: &str) -> Fallible<impl Iterator<Item = (u64, Vec<data::Row>)>> {
    let all = data.per_day * u64::try_from(data.days)?;
    let (late, late_days): (f64, u64) = (percent.parse::<f64>()? / 100.0, late_days.parse()?);
    let count = (all as f64 * late) as u64;
    Ok((0..count)
        .step_by(usize::try_from(BATCH)?)
        .map(move |from| (from, (from..count.min(from + BATCH)).map(|j| data.late(j, late_days)).collect())))
}

async fn table(folder: &Path, home: &Path, data: Data, late: (&str, &str), layout: &str) -> Fallible<()> {
    let definition = Definition::from_value(definition(layout))?;
    let end = (DAY0 + data.days) * DAY;
    let creation = Creation { import: Some(folder.join("archive")), cutoff: Some(end), ..Creation::default() };
    let table = Table::create(home, &definition, creation, &Context::real()).await?;
    let writer = Writer::open(table.log_folder(0)?, table.identity(0)?, Limits::default(), Lsn::default())?;
    for (_, rows) in late_batches(data, late.0, late.1)? {
        let rows = batch(&rows, None)?;
        writer.append(&Batch::new(&definition, &rows, Default::default(), end * 1_000_000, None, None)?).await?;
    }
    Ok(())
}

fn around(home: &Path) -> Around {
    Around::new(SystemClock::real(), SystemEntropy::real(), home.join("work"))
}

async fn merge(home: &Path, memory: u64) -> Fallible<Value> {
    let table = Arc::new(Table::open(home, &Context::real())?);
    let mut around = around(home);
    around.memory = memory;
    let order = Order { run: "bench".into(), shard: 0, archive_to: None, most_bytes: u64::MAX };
    let plan = Arc::new(run::plan(&table, &order, &around).await?.ok_or("nothing is to be merged")?);
    around.memory /= THREADS.min(plan.days.len()).max(1) as u64;
    let mut merging = tokio::task::JoinSet::new();
    let mut days = plan.days.iter().map(|day| day.day);
    loop {
        while merging.len() < THREADS
            && let Some(day) = days.next()
        {
            let (table, plan, around) = (table.clone(), plan.clone(), around.clone());
            merging.spawn(async move { run::merge_day(&table, &plan, day, &around, |_| async { Ok(()) }).await });
        }
        match merging.join_next().await {
            Some(done) => drop(done??),
            None => break,
        }
    }
    let done = run::commit(&table, &plan, &around).await?;
    if done.committed_version.is_none() {
        return Err(format!("not committed: {:?}", done.replan).into());
    }
    let small = |name: &str| done.metrics[name].clone();
    Ok(json!({ "rows": small("rows"), "keys": small("keys"), "bytes_written": small("bytes_written") }))
}

async fn floor(folder: &Path, out: &Path, late_days: usize) -> Fallible<Value> {
    let mut days: Vec<PathBuf> = std::fs::read_dir(folder.join("archive"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    days.sort();
    let days = days.split_off(days.len().saturating_sub(late_days));
    std::fs::create_dir_all(out)?;
    let mut working = tokio::task::JoinSet::new();
    let (mut days, mut bytes) = (days.into_iter().enumerate(), 0);
    loop {
        while working.len() < THREADS
            && let Some((n, day)) = days.next()
        {
            let out = out.join(format!("{n}.parquet"));
            working.spawn_blocking(move || -> Fallible<u64> {
                let file = std::fs::File::open(day.join("part-00000.parquet"))?;
                let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)?;
                let reader = reader.with_batch_size(8192).build()?;
                write(&out, reader.map(|rows| rows.map_err(Into::into)))
            });
        }
        match working.join_next().await {
            Some(done) => bytes += done??,
            None => break,
        }
    }
    Ok(json!({ "bytes_written": bytes }))
}

async fn count(home: &Path) -> Fallible<Value> {
    let table = Table::open(home, &Context::real())?;
    let rows = Arc::new(AtomicU64::new(0));
    let shared = rows.clone();
    let (selection, around) = (Selection::default(), around(home));
    let scanned = scan(&table, &selection, &around, move |_, found, _| {
        shared.fetch_add(found.num_rows() as u64, Ordering::Relaxed);
        Ok(())
    });
    drop(scanned.await?);
    Ok(json!({ "rows": rows.load(Ordering::Relaxed) }))
}

/// Several senders at once, each waiting until its batch is durable.
async fn ingest(home: &Path, data: Data) -> Fallible<Value> {
    const SENDERS: u64 = 8;
    const ROWS: u64 = 65_536;
    let definition = Definition::from_value(definition("copy_on_write"))?;
    let table = Table::create(home, &definition, Creation::default(), &Context::real()).await?;
    let limits = Limits { hard_bytes: u64::MAX, ..Limits::default() };
    let writer = Arc::new(Writer::open(table.log_folder(0)?, table.identity(0)?, limits, Lsn::default())?);
    let arrival = (DAY0 + data.days) * DAY * 1_000_000;
    // Made before the clock runs: the rate is that of the log.
    let all = data.per_day * u64::try_from(data.days)?;
    let mut given = Vec::new();
    for from in (0..all).step_by(usize::try_from(ROWS)?) {
        let rows: Vec<_> = (from..all.min(from + ROWS)).map(|j| data.late(j, 7)).collect();
        given.push(Batch::new(&definition, &batch(&rows, None)?, Default::default(), arrival, None, None)?);
    }
    let clock = SystemClock::real();
    let begun = clock.monotonic();
    let given = Arc::new(given);
    let next = Arc::new(AtomicU64::new(0));
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..SENDERS {
        let (writer, given, next) = (writer.clone(), given.clone(), next.clone());
        senders.spawn(async move {
            while let Some(batch) =
                given.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX))
            {
                writer.append(batch).await?;
            }
            Ok::<_, windlass_table::TableError>(())
        });
    }
    while let Some(done) = senders.join_next().await {
        done??;
    }
    let seconds = (clock.monotonic() - begun).as_secs_f64();
    let bytes = writer.pending();
    // The same bytes, written one after the other with a sync for each batch.
    let path = home.join("raw");
    let piece = vec![7_u8; usize::try_from(bytes / given.len().max(1) as u64)?];
    let begun = clock.monotonic();
    let mut file = std::fs::File::create(&path)?;
    for _ in 0..given.len() {
        std::io::Write::write_all(&mut file, &piece)?;
        file.sync_data()?;
    }
    let raw = (clock.monotonic() - begun).as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(json!({
        "rows": all, "bytes": bytes, "seconds": seconds, "rows_per_second": all as f64 / seconds,
        "bytes_per_second": bytes as f64 / seconds, "raw_bytes_per_second": bytes as f64 / raw,
    }))
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let path = Path::new;
    let figures = match words.as_slice() {
        ["generate", folder, rows, days] => {
            data(rows, days)?.write(&path(folder).join("archive"))?;
            json!({})
        }
        ["late", folder, rows, days, percent, late_days] => {
            let place = path(folder).join(format!("late_{percent}_{late_days}"));
            std::fs::create_dir_all(&place)?;
            for (from, rows) in late_batches(data(rows, days)?, percent, late_days)? {
                let file = place.join(format!("batch_{:05}.parquet", from / BATCH));
                write(&file, std::iter::once(batch(&rows, Some(from))))?;
            }
            json!({})
        }
        ["table", folder, home, rows, days, percent, late_days, layout] => {
            table(path(folder), path(home), data(rows, days)?, (percent, late_days), layout).await?;
            json!({})
        }
        ["floor", folder, out, late_days] => floor(path(folder), path(out), late_days.parse()?).await?,
        ["merge", home, memory] => merge(path(home), memory.parse::<u64>()? << 20).await?,
        ["count", home] => count(path(home)).await?,
        ["ingest", home, rows, days] => ingest(path(home), data(rows, days)?).await?,
        ["tables", home, count, shards, rows] => {
            standing::tables(path(home), count.parse()?, shards.parse()?, rows.parse()?).await?;
            json!({})
        }
        ["stand", home, rows, memory, seconds] => {
            standing::stand(path(home), rows.parse()?, memory, seconds.parse()?).await?
        }
        _ => return Err("which step? see the first lines of this program".into()),
    };
    // Its one line of output is what it is for.
    #[expect(clippy::print_stdout, reason = "the figures")]
    {
        println!("{figures}");
    }
    Ok(())
}
