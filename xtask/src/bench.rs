//! `cargo xtask bench NAME`: figures beside their floor or a peer, taken in the same run.

mod backfill;
mod distribute;
mod engine;
pub(crate) mod gocache;
pub(crate) mod measure;
mod peers;
mod rebalance;
mod recover;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::run;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Late rows into day files, beside reading and writing the same files, DuckDB, Polars and delta-rs
    Backfill {
        /// Rows of the archive
        #[arg(long, default_value_t = 10_000_000)]
        rows: u64,
        /// Days of the archive
        #[arg(long, default_value_t = 30)]
        days: u64,
        /// Rows that the ingest log takes; 0 leaves it out
        #[arg(long, default_value_t = 4_000_000)]
        ingest: u64,
        /// Tables of four logs each that a standing job looks after while nothing comes; 0 leaves that out
        #[arg(long, default_value_t = 1000)]
        tables: u64,
        /// Times each is run; the best counts
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Leaves out the other programs
        #[arg(long)]
        no_peers: bool,
        /// Leaves out tables that are merged when they are read
        #[arg(long)]
        no_merge_on_read: bool,
        /// Without optimisation, to see that it works
        #[arg(long)]
        debug: bool,
        /// Where the data is written; the disk that is measured
        #[arg(long)]
        folder: Option<PathBuf>,
    },
    /// Deciding where files belong, beside the figures of the program that it replaces
    Distribute {
        /// Files and nodes, FILESxNODES
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "10000x10,10000x100,100000x10,100000x100,1000000x10,1000000x100"
        )]
        sizes: Vec<String>,
    },
    /// The durable engine on the embedded store, against bare SQLite and the disk
    Engine {
        /// Where the states are written; the disk that is measured
        #[arg(long)]
        folder: Option<PathBuf>,
        /// Fails when a figure misses its target
        #[arg(long)]
        check: bool,
        /// Leaves out the other engines
        #[arg(long)]
        no_peers: bool,
    },
    /// The Go build cache with `go build std`, against go's own and the plain strategy, over a delayed object store
    Gocache {
        /// Milliseconds that each request is held back
        #[arg(long, value_delimiter = ',', default_value = "0,20,50")]
        delays: Vec<u64>,
        /// Times each short build is run; the best counts
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Leaves out the plain strategy
        #[arg(long)]
        no_plain: bool,
        /// Fails when a figure misses its target
        #[arg(long)]
        check: bool,
    },
    /// Reading index backups and planning, against a plain Go program, gzip and pigz
    Rebalance {
        /// Ids in the backups, one row each
        #[arg(long, value_delimiter = ',', default_value = "1000000,10000000")]
        ids: Vec<u64>,
        /// Times each program is run; the best counts
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Leaves out planning over three agents
        #[arg(long)]
        no_plan: bool,
    },
    /// Many instances at a simulated site, on etcd, beside the least that it could have taken
    Recover {
        /// Instances, with three volumes and four rules each
        #[arg(long, default_value_t = 500)]
        instances: u64,
        /// Milliseconds until servers, volumes and snapshots are ready
        #[arg(long, default_value_t = 100)]
        ready_ms: u64,
        /// Where the states are kept
        #[arg(long, value_delimiter = ',', default_value = "etcd,embedded")]
        stores: Vec<String>,
        /// Fails when a figure misses its target
        #[arg(long)]
        check: bool,
    },
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.bench {
        Bench::Backfill { rows, days, ingest, tables, rounds, no_peers, no_merge_on_read, debug, folder } => {
            backfill::run(&backfill::Settings {
                rows: *rows,
                days: (*days).max(1),
                ingest: *ingest,
                tables: *tables,
                rounds: *rounds,
                peers: !no_peers,
                merge_on_read: !no_merge_on_read,
                debug: *debug,
                folder: folder.clone(),
            })
        }
        Bench::Distribute { sizes } => distribute::run(sizes),
        Bench::Engine { folder, check, no_peers } => engine::run(folder.as_deref(), *check, !no_peers),
        Bench::Gocache { delays, rounds, no_plain, check } => gocache::run(&gocache::Settings {
            delays: delays.clone(),
            rounds: (*rounds).max(1),
            plain: !no_plain,
            check: *check,
        }),
        Bench::Rebalance { ids, rounds, no_plan } => rebalance::run(ids, (*rounds).max(1), !no_plan),
        Bench::Recover { instances, ready_ms, stores, check } => recover::run(&recover::Settings {
            instances: *instances,
            ready_ms: *ready_ms,
            stores: stores.clone(),
            check: *check,
        }),
    }
}

/// Keeps the figures of a run under `target/bench/NAME.json`, with the machine they are of.
fn keep(name: &str, mut figures: Value) -> Result<()> {
    figures["machine"] = machine();
    let folder = run::target_dir().join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(&figures).context("write the figures as JSON")?;
    std::fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    println!("figures: {}", path.display());
    Ok(())
}

/// What a figure means nothing without.
fn machine() -> Value {
    let line = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    serde_json::json!({
        "processor": line("/proc/cpuinfo", "model name"),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": line("/proc/meminfo", "MemTotal"),
        "load_average": load.split_whitespace().next(),
        "commit": run::output(run::program("git").args(["rev-parse", "--short=12", "HEAD"])).ok().map(|text| text.trim().to_owned()),
    })
}
