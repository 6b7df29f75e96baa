//! Inspects one backup and prints what it holds as JSON, with the CPU time and peak memory of the process.
//!
//! `inspect [full] [no-times] [copies] FILE`. This is what the comparison with `bench/rebalance-go` runs.
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::error::Error;
use std::fs::File;

use windlass_index_backup::{ReadMode, ReadOptions, collect_copies, inspect};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|given| given == word);
    let file = words.last().ok_or("name a backup")?;
    let options = ReadOptions {
        read_mode: if has("full") { ReadMode::Full } else { ReadMode::Fast },
        times: !has("no-times"),
        ..ReadOptions::default()
    };
    let input = File::open(file)?;
    if has("copies") {
        let out = tempfile::NamedTempFile::new()?;
        println!("{}", serde_json::to_string_pretty(&collect_copies(input, &options, out.path())?)?);
    } else {
        println!("{}", serde_json::to_string_pretty(&inspect(input, &options)?)?);
    }
    // `/proc` has what the standard library does not; elsewhere these lines are left out.
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    }
    Ok(())
}
