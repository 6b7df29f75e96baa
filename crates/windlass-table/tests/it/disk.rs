//! A disk that is full. A process that may not make files larger than a bound is refused as by one, without a file system
//! of its own.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use windlass_blob::Context;
use windlass_clock::{SystemClock, SystemEntropy};
use windlass_table::log::{Limits, Reader, Writer};
use windlass_table::run::{self, Around, Order};
use windlass_table::scan::{Selection, digest};
use windlass_table::source::{Meaning, json_batches};
use windlass_table::{Batch, Creation, Definition, Result, Table, TableError};

/// Midnight of 2025-11-20, in seconds.
const CUTOFF: i64 = 1_763_596_800;
/// Where the child finds the table.
const FOLDER: &str = "WINDLASS_TEST_FULL_DISK";
/// Blocks of 512 bytes that a file of the child may have.
const BLOCKS: u64 = 400;
/// The child begins a segment of its own, and cannot end it.
const SEGMENT: u64 = BLOCKS * 512 + 100;

fn definition() -> Definition {
    let text = json!({
        "name": "trips", "event_time": "at", "primary_key": ["id"],
        "columns": [
            {"name": "at", "type": "timestamp", "nullable": false},
            {"name": "id", "type": "int64", "nullable": false},
            {"name": "note", "type": "string"},
        ],
    });
    Definition::parse(&text.to_string()).unwrap()
}

/// Rows that nothing makes small.
fn batch(ids: std::ops::Range<u64>) -> Batch {
    let mut state = ids.start.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        format!("{state:016x}")
    };
    let mut text = String::new();
    for id in ids {
        let note: String = (0..12).map(|_| word()).collect();
        text += &(json!({"at": CUTOFF - 60, "id": id, "note": note}).to_string() + "\n");
    }
    let mut found = None;
    let meaning = Meaning { arrival: CUTOFF * 1_000_000, batch_rows: 100_000, ..Meaning::default() };
    json_batches(&mut text.as_bytes(), &definition(), &meaning, |batch| {
        found = Some(batch);
        Ok(())
    })
    .unwrap();
    found.unwrap()
}

async fn writer(table: &Table) -> Result<Writer> {
    let snapshot = table.snapshot().await?;
    let limits = Limits { segment_bytes: SEGMENT, ..Limits::default() };
    Writer::open(table.log_folder(0)?, table.identity(0)?, limits, table.progress(&snapshot, 0).0)
}

fn around(folder: &Path, name: &str) -> Around {
    Around::new(SystemClock::real(), SystemEntropy::real(), folder.join("work").join(name))
}

async fn whole(table: &Table, run: &str, around: &Around) -> Result<()> {
    let order = Order { run: run.to_owned(), shard: 0, archive_to: None, most_bytes: u64::MAX };
    let Some(plan) = run::plan(table, &order, around).await? else { return Ok(()) };
    for day in &plan.days {
        run::merge_day(table, &plan, day.day, around, |_| async { Ok(()) }).await?;
    }
    run::commit(table, &plan, around).await?;
    run::clean(table, run, 0, around).await.map(drop)
}

async fn rows(table: &Table, folder: &Path) -> u64 {
    digest(table, &Selection::default(), &around(folder, "look")).await.unwrap().finish().1
}

/// What the child does, which may make no large files.
#[expect(clippy::print_stdout, reason = "that is how it tells its parent")]
async fn child(folder: &Path) {
    let table = Table::open(&folder.join("trips"), &Context::real()).unwrap();
    // The day's new file would be too large: the run fails with that, and what it had begun is not part of the table.
    let error = whole(&table, "full", &around(folder, "full")).await.unwrap_err();
    assert!(error.code() == "disk" && error.may_pass(), "{} {error}", error.code());
    assert!(error.to_string().contains("large"), "{error}");
    // Rows are taken in until the log cannot grow, and none that was answered is lost.
    let log = writer(&table).await.unwrap();
    let mut taken = 0_u64;
    let error = loop {
        match log.append(&batch(1_000_000 + taken * 50..1_000_050 + taken * 50)).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("large"), "{error}");
    let next = log.append(&batch(0..1)).await.unwrap_err();
    assert!(next.to_string().contains("opened again"), "{next}");
    drop(log);
    let log = writer(&table).await.unwrap();
    assert!(log.cut() > 0, "the end is torn");
    assert!(matches!(log.append(&batch(2_000_000..2_000_050)).await, Err(TableError::Changed(_))));
    println!("taken {taken}");
}

#[tokio::test]
async fn a_full_disk_stops_a_run_and_the_log_and_loses_no_row_that_was_answered() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return child(Path::new(&folder)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("trips");
    let creation = Creation { cutoff: Some(CUTOFF), ..Creation::default() };
    let table = Table::create(&home, &definition(), creation, &Context::real()).await.unwrap();
    // A day whose file may not be much larger, and some rows more.
    writer(&table).await.unwrap().append(&batch(0..1500)).await.unwrap();
    whole(&table, "first", &around(folder.path(), "first")).await.unwrap();
    writer(&table).await.unwrap().append(&batch(1500..2200)).await.unwrap();
    let script = format!("ulimit -f {BLOCKS} && trap '' XFSZ && exec \"$0\" \"$@\"");
    let child = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "disk::a_full_disk_stops_a_run_and_the_log_and_loses_no_row_that_was_answered",
            "--nocapture",
        ])
        .env(FOLDER, folder.path())
        .env_remove("RUST_BACKTRACE")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
    let taken = said.lines().find_map(|line| line.strip_prefix("taken ")).unwrap().parse::<u64>().unwrap();
    assert!(taken > 0, "{said}");
    assert_eq!((table.snapshot().await.unwrap().version, rows(&table, folder.path()).await), (1, 1500));
    // There is room again.
    assert!(writer(&table).await.unwrap().cut() > 0);
    let mut batches = 0;
    let log = Reader::open(table.log_folder(0).unwrap(), table.identity(0).unwrap()).unwrap();
    log.read(Default::default(), |_, _, _| {
        batches += 1;
        Ok(true)
    })
    .unwrap();
    assert_eq!(batches, taken + 2, "what was answered, and nothing else");
    whole(&table, "full", &around(folder.path(), "full")).await.unwrap();
    assert_eq!(rows(&table, folder.path()).await, 2200 + taken * 50);
    let known = table.snapshot().await.unwrap().known_objects();
    let keys = table.store().list("").await.unwrap().entries.into_iter().map(|entry| entry.key);
    let strangers: Vec<String> = keys.filter(|key| !key.starts_with("_delta_log/") && !known.contains(key)).collect();
    assert_eq!(strangers, Vec::<String>::new());
}
