//! Many tables with many logs under one standing job: what they cost while nothing comes, and what merging all of them
//! takes when they share memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use serde_json::{Value, json};
use windlass_backfill::{BackfillKind, Figures};
use windlass_blob::Context;
use windlass_clock::{SystemClock, SystemEntropy};
use windlass_engine::{Command, Engine, EngineConfig, JobRequest, Kinds};
use windlass_store::Store;
use windlass_store::memory::MemoryStore;
use windlass_table::log::{Limits, Lsn, Writer};
use windlass_table::{Batch, Creation, Definition, Table};

use crate::data::{DAY, DAY0, Fallible};

/// Days that the rows of a log belong to.
const DAYS: i64 = 3;
/// Longer than it takes.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Every so often it is looked how far it is.
const LOOK: Duration = Duration::from_secs(1);

fn rows(shard: u32, count: i64) -> Fallible<RecordBatch> {
    let end = (DAY0 + DAYS) * DAY;
    let at = TimestampMicrosecondArray::from_iter_values((0..count).map(|n| (end - 1 - n % (DAYS * DAY)) * 1_000_000));
    let rides = Int64Array::from_iter_values((0..count).map(|n| i64::from(shard) * 1_000_000_000 + n));
    let cities = StringArray::from_iter_values((0..count).map(|n| ["Lima", "Oslo", "Pune"][(n % 3) as usize]));
    let fares = Float64Array::from_iter_values((0..count).map(|n| n as f64 / 4.0));
    Ok(RecordBatch::try_from_iter([
        ("at", Arc::new(at.with_timezone("UTC")) as ArrayRef),
        ("ride", Arc::new(rides)),
        ("city", Arc::new(cities)),
        ("fare", Arc::new(fares)),
    ])?)
}

pub(crate) async fn tables(home: &Path, count: u32, shards: u32, count_rows: i64) -> Fallible<()> {
    let end = (DAY0 + DAYS) * DAY;
    for n in 0..count {
        let name = format!("t{n:04}");
        let definition = Definition::from_value(json!({
            "name": name, "event_time": "at", "primary_key": ["ride"], "sort_columns": ["city"],
            "columns": [
                {"name": "at", "type": "timestamp", "nullable": false},
                {"name": "ride", "type": "int64", "nullable": false},
                {"name": "city", "type": "string"},
                {"name": "fare", "type": "float64"},
            ],
        }))?;
        let creation = Creation { shards, cutoff: Some(end), ..Creation::default() };
        let table = Table::create(&home.join("tables").join(&name), &definition, creation, &Context::real()).await?;
        for shard in 0..shards {
            let (folder, identity) = (table.log_folder(shard)?, table.identity(shard)?);
            let writer = Writer::open(folder, identity, Limits::default(), Lsn::default())?;
            if count_rows > 0 {
                let rows = rows(shard, count_rows)?;
                writer
                    .append(&Batch::new(&definition, &rows, Default::default(), end * 1_000_000, None, None)?)
                    .await?;
            }
        }
    }
    Ok(())
}

/// Seconds of processor time that this process has had, as far as its system says.
fn cpu() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may have spaces: the state is the first word, the times are the 12th and 13th.
    let mut words = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || words.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / 100.0)
}

fn mib(name: &str) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

/// Rows that were merged.
fn merged_rows() -> f64 {
    counted("windlass_backfill_rows_total", "rows_in")
}

/// What the process has counted under a name and a label.
fn counted(name: &str, label: &str) -> f64 {
    let mut text = String::new();
    if Figures::of_process().write(&mut text).is_err() {
        return f64::NAN;
    }
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Merges the rows of all logs, `count_rows` in each if there are any, then rests for so many seconds.
pub(crate) async fn stand(home: &Path, count_rows: u64, memory: &str, seconds: u64) -> Fallible<Value> {
    let clock = SystemClock::real();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let kinds = Kinds::new().with(BackfillKind::default());
    let config = EngineConfig::new(store, clock.clone(), SystemEntropy::real(), kinds, home.join("work"));
    let engine = Engine::open(config).await?;
    let mut logs = 0_u32;
    for entry in std::fs::read_dir(home.join("tables"))? {
        logs += Table::open(&entry?.path(), &Context::real())?.descriptor().shards;
    }
    let spec = json!({"tables": home.join("tables"), "memory": memory, "keep": {"at_a_time": 100}});
    let request = JobRequest { kind: "backfill".into(), name: "all".into(), spec, ..JobRequest::default() };
    let begun = clock.monotonic();
    let job = engine.submit(request).await?;
    let wanted = f64::from(logs) * count_rows as f64;
    while count_rows > 0 && merged_rows() < wanted {
        if clock.monotonic() - begun > PATIENCE {
            return Err(format!("{} of {wanted} rows were merged", merged_rows()).into());
        }
        clock.sleep(LOOK / 20).await;
    }
    let merged = (clock.monotonic() - begun).as_secs_f64();
    let merge_cpu = cpu();
    // Rested is it when a look at all logs that it has not seen yet is over.
    let mut before = cpu();
    loop {
        clock.sleep(LOOK * 3).await;
        let now = cpu();
        let (Some(was), Some(is)) = (before, now) else { break };
        if is - was < 0.3 || clock.monotonic() - begun > PATIENCE {
            break;
        }
        before = now;
    }
    let (before, rest) = (cpu(), clock.monotonic());
    clock.sleep(Duration::from_secs(seconds)).await;
    let minutes = (clock.monotonic() - rest).as_secs_f64() / 60.0;
    let used = before.zip(cpu()).map(|(before, now)| (now - before) / minutes);
    let figures = json!({
        "logs": logs, "merge_seconds": merged, "merge_cpu_seconds": merge_cpu,
        "rows_merged": merged_rows(),
        "memory_most_held_mib": counted("windlass_backfill_memory_most_held_bytes", "") / f64::from(1 << 20),
        "rest_cpu_seconds_a_minute": used,
        "resident_mib": mib("VmRSS:"), "peak_mib": mib("VmHWM:"),
        "descriptors": std::fs::read_dir("/proc/self/fd").map(Iterator::count).ok(),
    });
    engine.command(job, Command::Cancel { undo: false }, None).await?;
    engine.wait(job).await?;
    Ok(figures)
}
