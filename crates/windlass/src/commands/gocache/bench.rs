//! `windlass gocache bench`: is it faster? The four builds that answer, and their table.
//!
//! Built with go's own cache, empty and filled; then **c** neither local nor remote has anything, **b** only the
//! remote, **a** both. Nothing of the user's is emptied: go's cache and the local folder are temporary, and in the
//! remote everything lies below a prefix of its own, which is removed afterwards.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use windlass_blob::{BlobStore, Context};
use windlass_clock::{SystemClock, SystemEntropy};
use windlass_gocache::network::from_environment;
use windlass_gocache::{Config, local::Layout};

use crate::app::App;
use crate::exit::Exit;
use crate::figures;
use crate::interrupt::Interrupt;
use crate::problem::Problem;

/// What to build.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The go command
    #[arg(long, default_value = "go", value_name = "PROGRAM")]
    go: PathBuf,
    /// What is built
    #[arg(default_value = "std", value_name = "PACKAGE")]
    packages: Vec<String>,
}

/// One build.
struct Row {
    scenario: &'static str,
    took: Duration,
    run: Option<Value>,
}

struct Bench<'a> {
    args: &'a Args,
    folder: &'a Path,
    /// Names the prefix in the remote, or the whole remote when the environment names none.
    remote: Vec<(&'static str, String)>,
    rows: Vec<Row>,
}

pub(super) async fn run(app: &App, args: Args) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::listen(&app.output, "stopping")?;
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let prefix = format!("bench-{:016x}", SystemEntropy::real().next_u64());
    let (config, _) = Config::from_environment(&|name| std::env::var(name).ok());
    let (named, _) = from_environment(&|name| std::env::var(name).ok(), config.layout);
    let remote = if let Some(write) = &named.write {
        let below = match std::env::var("WINDLASS_GOCACHE_WRITE_PREFIX") {
            Ok(old) if !old.is_empty() => format!("{old}/{prefix}"),
            _ => prefix.clone(),
        };
        app.output.note(format!("the remote is {}, below {prefix}", write.of_key("")));
        vec![("WINDLASS_GOCACHE_READ_PREFIXES", below.clone()), ("WINDLASS_GOCACHE_WRITE_PREFIX", below)]
    } else {
        let place = folder.path().join("remote");
        std::fs::create_dir_all(&place).context("make a folder for the remote")?;
        app.output.note("no remote is set that can be written to: a folder stands for it, which takes no time to ask");
        vec![("WINDLASS_GOCACHE_REMOTE", format!("file://{}", place.display()))]
    };
    let mut bench = Bench { args: &args, folder: folder.path(), remote, rows: Vec::new() };
    let done = tokio::select! {
        done = bench.all(app) => done,
        () = interrupt.came() => Ok(()),
    };
    let rows = std::mem::take(&mut bench.rows);
    if let Some(write) = &named.write {
        let context = Context::real().with_environment(named.environment.clone());
        tidy_up(&BlobStore::open(&write.join(&prefix), &context)?).await?;
    }
    done?;
    let document = json!({
        "built": args.packages,
        "builds": rows.iter().map(|row| json!({
            "scenario": row.scenario, "seconds": row.took.as_secs_f64(), "run": row.run,
        })).collect::<Vec<_>>(),
    });
    app.output.result(&document, || table(&rows))?;
    Ok(if interrupt.token().is_cancelled() { Exit::Interrupted } else { Exit::Done })
}

fn table(rows: &[Row]) -> String {
    let number = |row: &Row, pointer: &str| row.run.as_ref().and_then(|run| run.pointer(pointer)?.as_u64());
    let count = |row: &Row, pointer: &str| number(row, pointer).map(figures::count).unwrap_or_default();
    let bytes = |row: &Row, pointer: &str| number(row, pointer).map(figures::bytes).unwrap_or_default();
    let line = |row: &Row| {
        [
            row.scenario.to_owned(),
            format!("{:.2} s", row.took.as_secs_f64()),
            count(row, "/local_hits"),
            count(row, "/remote_hits"),
            count(row, "/misses"),
            count(row, "/remote/requests"),
            bytes(row, "/remote/bytes_written"),
            bytes(row, "/remote/bytes_read"),
        ]
    };
    figures::table(
        ["build", "took", "local hits", "remote hits", "misses", "requests", "up", "down"],
        rows.iter().map(line),
    )
}

impl Bench<'_> {
    async fn all(&mut self, app: &App) -> anyhow::Result<()> {
        self.build(app, "built-in, empty", false).await?;
        self.build(app, "built-in, filled", false).await?;
        self.build(app, "c: nothing local, nothing remote", true).await?;
        // What is on its way belongs to c; the next build must find it.
        self.flush().await?;
        self.forget().await?;
        self.build(app, "b: nothing local, remote filled", true).await?;
        self.build(app, "a: both filled", true).await
    }

    async fn forget(&self) -> anyhow::Result<()> {
        tokio::fs::remove_dir_all(self.folder.join("store")).await.context("empty the local folder of the measurement")
    }

    async fn flush(&self) -> anyhow::Result<()> {
        let mut command = tokio::process::Command::new(std::env::current_exe().context("find this program")?);
        command.args(["gocache", "flush"]).env("WINDLASS_GOCACHE_DIR", self.folder.join("store"));
        command.envs(self.remote.iter().map(|(name, value)| (*name, value)));
        command.env("WINDLASS_GOCACHE_LAYOUT", "sharded").kill_on_drop(true);
        let output = command.stdin(Stdio::null()).output().await.context("upload what is left")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Problem::unreachable(format!("what c left could not be uploaded: {}", said.trim())).into());
        }
        Ok(())
    }

    async fn build(&mut self, app: &App, scenario: &'static str, with_us: bool) -> anyhow::Result<()> {
        app.output.note(format!("go build {}: {scenario}", self.args.packages.join(" ")));
        let own = std::env::current_exe().context("find this program")?;
        let figures_file = self.folder.join("run.json");
        let mut command = tokio::process::Command::new(&self.args.go);
        command.arg("build").args(&self.args.packages);
        command.env("GOCACHE", self.folder.join(if with_us { "go-build" } else { "built-in" }));
        if with_us {
            command.env("GOCACHEPROG", format!("'{}' gocache", own.display()));
            command.env("WINDLASS_GOCACHE_DIR", self.folder.join("store"));
            command.env("WINDLASS_GOCACHE_STATS_FILE", &figures_file);
            command
                .env("WINDLASS_GOCACHE_LAYOUT", serde_json::to_value(Layout::Sharded)?.as_str().unwrap_or("sharded"));
            command.envs(self.remote.iter().map(|(name, value)| (*name, value)));
        } else {
            command.env("GOCACHEPROG", "");
        }
        let clock = SystemClock::real();
        let began = clock.monotonic();
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.with_context(|| {
            Problem::usage(format!("start {}", self.args.go.display())).hint("name the go command with --go")
        })?;
        let took = clock.monotonic().saturating_sub(began);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Problem::failed(format!("go build failed: {}", said.trim())).into());
        }
        let run = if with_us {
            let text = tokio::fs::read(&figures_file).await.context("read what the cache program counted")?;
            Some(serde_json::from_slice(&text).context("understand what the cache program counted")?)
        } else {
            None
        };
        self.rows.push(Row { scenario, took, run });
        Ok(())
    }
}

/// Removes what the measurement wrote.
async fn tidy_up(store: &BlobStore) -> anyhow::Result<()> {
    for entry in store.list("").await?.entries {
        store.delete(&entry.key).await?;
    }
    Ok(())
}
