//! Measures a backfill step by step on generated data, next to reading and writing the same files without merging.
//!
//! `merge_speed ARCHIVE LATE cow|mor [HOME [URL]]`: ARCHIVE holds `day=YYYY-MM-DD/….parquet`, LATE the late rows in files that
//! are taken in the order of their names, with a column `seq` that is left out.

#![expect(clippy::print_stdout, reason = "figures are for whoever runs it")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::json;
use windlass_blob::Context;
use windlass_clock::{SystemClock, SystemEntropy};
use windlass_table::log::{Limits, Lsn, Writer};
use windlass_table::run::{self, Around, Order};
use windlass_table::{Batch, Creation, Day, Definition, Table};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// CPU seconds of this process, and the most memory that it had, in megabytes.
fn used() -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields.get(11).unwrap_or(&"0").parse::<f64>()? + fields.get(12).unwrap_or(&"0").parse::<f64>()?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    let peak: f64 = peak.trim().trim_end_matches(" kB").parse()?;
    Ok((ticks / 100.0, peak / 1024.0))
}

/// Forgets the most memory so far.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn definition(layout: &str) -> Result<Definition> {
    let column = |name: &str, kind: &str, nullable: bool| json!({ "name": name, "type": kind, "nullable": nullable });
    let mut columns = vec![
        column("event_time", "timestamp", false),
        column("trip_id", "int64", false),
        column("leg", "int16", false),
        column("city_id", "int32", true),
        column("status", "string", true),
        column("fare", "float64", true),
        column("driver_id", "int64", true),
        column("surge", "bool", true),
        column("note", "string", true),
    ];
    columns[4]["default"] = json!("unknown");
    columns[7]["default"] = json!(false);
    let layout = if layout == "mor" { "merge_on_read" } else { "copy_on_write" };
    Ok(Definition::from_value(json!({
        "name": "trips", "event_time": "event_time", "primary_key": ["trip_id", "leg"],
        "sort_columns": ["city_id", "status"], "layout": layout, "columns": columns,
    }))?)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?;
    found.sort();
    Ok(found)
}

/// Reads and writes files, as a merge does and without merging.
fn floor(archive: &Path, days: &BTreeSet<Day>, scratch: &Path) -> Result<(f64, u64)> {
    let (before, _) = used()?;
    let mut written = 0;
    for day in days {
        for path in files(&archive.join(format!("day={day}")))? {
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path)?)?.with_batch_size(8192);
            let properties = WriterProperties::builder()
                .set_compression(Compression::ZSTD(ZstdLevel::default()))
                .set_max_row_group_row_count(Some(122_880))
                .build();
            let to = scratch.join("floor.parquet");
            let mut writer = ArrowWriter::try_new(File::create(&to)?, reader.schema().clone(), Some(properties))?;
            for batch in reader.build()? {
                writer.write(&batch?)?;
            }
            writer.close()?;
            written += std::fs::metadata(&to)?.len();
        }
    }
    Ok((used()?.0 - before, written))
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(archive), Some(late), Some(layout)) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("merge_speed ARCHIVE LATE cow|mor [HOME [URL]]".into());
    };
    let home = PathBuf::from(arguments.next().unwrap_or_else(|| format!("{late}.{layout}.table")));
    let url = arguments.next();
    let _ = std::fs::remove_dir_all(&home);
    let (archive, late) = (PathBuf::from(archive), PathBuf::from(late));
    let definition = definition(&layout)?;
    let cutoff = 20_460 * 86_400;
    let creation = Creation { url, import: Some(archive.clone()), cutoff: Some(cutoff), ..Creation::default() };
    let table = Table::create(&home, &definition, creation, &Context::real()).await?;
    let clock = SystemClock::real();
    let step = |name: &str, before: (f64, f64)| -> Result<(f64, f64)> {
        let now = used()?;
        println!("{name:<10} {:6.2} CPU s, peak {:6.1} MB", now.0 - before.0, now.1);
        Ok(now)
    };
    forget_peak();
    let mut before = used()?;
    let writer = Writer::open(table.log_folder(0)?, table.identity(0)?, Limits::default(), Lsn::default())?;
    let mut rows = 0;
    for path in files(&late)? {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(&path)?)?;
        let wanted = (0..builder.schema().fields().len()).filter(|at| builder.schema().field(*at).name() != "seq");
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.collect::<Vec<_>>());
        for batch in builder.with_projection(mask).with_batch_size(16_384).build()? {
            let batch = Batch::new(&definition, &batch?, BTreeMap::new(), (cutoff + 60) * 1_000_000, None, None)?;
            rows += batch.len();
            writer.append(&batch).await?;
        }
    }
    drop(writer);
    before = step("ingest", before)?;
    forget_peak();
    let started = clock.monotonic();
    let begin = before;
    let around = Around::new(clock.clone(), SystemEntropy::real(), home.join("work"));
    let (mut days, mut bytes, mut round) = (BTreeSet::new(), 0, 0);
    loop {
        let order = Order { run: format!("r{round}"), shard: 0, archive_to: None, most_bytes: 256 << 20 };
        let Some(plan) = run::plan(&table, &order, &around).await? else { break };
        before = step("plan", before)?;
        for day in &plan.days {
            run::merge_day(&table, &plan, day.day, &around, |_| async { Ok(()) }).await?;
        }
        before = step("merge", before)?;
        let done = run::commit(&table, &plan, &around).await?;
        run::clean(&table, &order.run, 0, &around).await?;
        before = step("commit", before)?;
        bytes += done.metrics["bytes_written"].as_u64().unwrap_or(0);
        days.extend(plan.days.iter().map(|day| day.day));
        println!("{}", done.metrics["keys"]);
        round += 1;
    }
    let live: u64 = table.snapshot().await?.files.values().map(|add| add.rows().unwrap_or(0) - add.hidden()).sum();
    let (cpu, peak) = used()?;
    let wall = clock.monotonic().saturating_sub(started).as_secs_f64();
    println!(
        "{layout} {rows} late rows, {live} in the table: {:.2} CPU s, {wall:.2} s, peak {peak:.1} MB, {bytes} bytes",
        cpu - begin.0
    );
    let (cpu, bytes) = floor(&archive, &days, &home)?;
    println!("floor of {} days: {cpu:.2} CPU s, {bytes} bytes", days.len());
    Ok(())
}
