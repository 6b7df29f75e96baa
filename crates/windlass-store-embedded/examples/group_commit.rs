//! Measures the store against bare SQLite and against the disk, in turns, and prints one JSON document.
//!
//! `cargo run --release -p windlass-store-embedded --example group_commit [rounds] [milliseconds of a turn] [folder]`

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use windlass_store_embedded::probe::{Latency, RawStore, StoreProbe, fdatasync_latency};

const LOADS: [u32; 4] = [1, 16, 128, 512];

#[tokio::main(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the document is the program's output")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(8), |rounds| rounds.parse())?;
    let turn = Duration::from_millis(arguments.next().map_or(Ok(700), |turn| turn.parse())?);
    let folder = arguments.next().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = tempfile::tempdir_in(folder)?;
    println!("{:#}", measure(dir.path(), rounds, turn).await?);
    Ok(())
}

async fn measure(dir: &Path, rounds: usize, turn: Duration) -> Result<serde_json::Value, Box<dyn Error>> {
    let mut raw = RawStore::create(dir)?;
    let store = StoreProbe::create(&dir.join("state")).await?;
    let mut rates = vec![(Vec::new(), Vec::new()); LOADS.len()];
    let (mut commits, mut syncs) = (vec![Vec::new(); LOADS.len()], Vec::new());
    for _ in 0..rounds {
        syncs.push(fdatasync_latency(dir, 200)?.p50_us);
        for (index, load) in LOADS.into_iter().enumerate() {
            rates[index].0.push(raw.run(load, turn)?.per_second);
            let measured = store.run(load, turn).await?;
            rates[index].1.push(measured.per_second);
            commits[index].push(measured.commit);
        }
    }
    let floor = median(&rates[2].0);
    let loads = LOADS.iter().zip(&rates).zip(&commits).map(|((load, (raw, store)), commits)| {
        json!({
            "load": load,
            "raw_per_second": median(raw),
            "store_per_second": median(store),
            "store_commit_p50_us": median(&commits.iter().map(|commit: &Latency| commit.p50_us).collect::<Vec<_>>()),
            "store_commit_p99_us": median(&commits.iter().map(|commit| commit.p99_us).collect::<Vec<_>>()),
            "store_commit_max_us": commits.iter().map(|commit| commit.max_us).fold(0.0, f64::max),
        })
    });
    let get = store.get_latency(2000).await?;
    Ok(json!({
        "rounds": rounds,
        "turn_ms": turn.as_millis() as u64,
        "fdatasync_p50_us": median(&syncs),
        "loads": loads.collect::<Vec<_>>(),
        "get": get,
        "store_at_512_to_raw_at_128": median(&rates[3].1) / floor,
        "log_bytes": std::fs::metadata(dir.join("state/state.db-wal"))?.len(),
    }))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
