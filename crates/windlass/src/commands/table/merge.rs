//! Jobs of kind `backfill`, in short.

use serde_json::{Map, Value, json};

use super::make::moment;
use super::place::{Place, text};
use crate::app::App;
use crate::commands::run::run_job;
use crate::exit::Exit;
use crate::job_file::JobFile;

/// Which table.
#[derive(Debug, clap::Args)]
pub(crate) struct BackfillArgs {
    #[command(flatten)]
    place: Place,
    /// The table
    table: String,
    /// Which of the table's logs
    #[arg(long, default_value_t = 0, value_name = "N")]
    shard: u32,
    /// Bytes of the log that one commit takes, such as 64MiB
    #[arg(long, value_name = "SIZE")]
    max_run: Option<String>,
}

/// Which table, and up to when.
#[derive(Debug, clap::Args)]
pub(crate) struct ArchiveArgs {
    #[command(flatten)]
    table: BackfillArgs,
    /// Archive what happened longer ago, such as 1d [default: the table's own delay]
    #[arg(long, value_name = "SPAN", conflicts_with = "cutoff")]
    delay: Option<String>,
    /// Archive what happened before: seconds since 1970, or 2025-11-20T00:00:00Z
    #[arg(long, value_name = "TIME")]
    cutoff: Option<String>,
}

pub(super) async fn backfill(app: &App, args: &BackfillArgs) -> anyhow::Result<Exit> {
    run(app, args, "backfill", Map::new()).await
}

pub(super) async fn archive(app: &App, args: &ArchiveArgs) -> anyhow::Result<Exit> {
    let mut more = Map::new();
    if let Some(delay) = &args.delay {
        more.insert("delay".to_owned(), delay.as_str().into());
    }
    if let Some(cutoff) = &args.cutoff {
        more.insert("cutoff".to_owned(), moment(cutoff)?.into());
    }
    run(app, &args.table, "archive", more).await
}

async fn run(app: &App, args: &BackfillArgs, action: &str, more: Map<String, Value>) -> anyhow::Result<Exit> {
    // Opened first, so that a name that is wrong is told of here and not by a failed job.
    let table = args.place.open(app, &args.table)?;
    let mut spec = more;
    spec.insert("table".to_owned(), text(table.home())?.into());
    spec.insert("action".to_owned(), action.into());
    if args.shard > 0 {
        spec.insert("shard".to_owned(), args.shard.into());
    }
    if let Some(size) = &args.max_run {
        spec.insert("max_run".to_owned(), size.as_str().into());
    }
    let name = format!("{action}-{}-{}", table.descriptor().name, args.shard);
    let file = json!({ "kind": "backfill", "name": name, "spec": spec });
    let file = JobFile::parse("the command line", &file.to_string(), &app.setting.kinds)?;
    run_job(app, file).await
}
