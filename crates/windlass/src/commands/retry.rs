//! `windlass retry JOB`

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use windlass_engine::Command;

use super::steer::{Stay, steer};
use crate::app::App;
use crate::exit::Exit;
use crate::job_file;
use crate::problem::Problem;

/// Which job, and which of its tasks.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
    /// Run this task again and everything after it, however they had ended
    #[arg(long, value_name = "TASK", conflicts_with = "all")]
    from: Option<String>,
    /// Run every task again, also those that had succeeded
    #[arg(long)]
    all: bool,
    /// Other input for tasks that run again: a YAML or JSON file, a mapping from task names to inputs
    #[arg(long, value_name = "FILE")]
    with_input: Option<PathBuf>,
}

pub(super) async fn run(app: &App, args: Args) -> anyhow::Result<Exit> {
    let inputs = args.with_input.as_deref().map(read).transpose()?.unwrap_or_default();
    let command = Command::Retry { failed_only: !args.all && args.from.is_none(), from: args.from, inputs };
    steer(app, &args.job, command, Stay::UntilRest).await
}

fn read(path: &std::path::Path) -> anyhow::Result<BTreeMap<String, serde_json::Value>> {
    let wrong = || Problem::usage(format!("the inputs {} cannot be used", path.display()));
    let text = std::fs::read_to_string(path).with_context(wrong)?;
    let value = job_file::read_plain(&text).map_err(|why| anyhow::anyhow!(why)).with_context(wrong)?;
    serde_json::from_value(value).with_context(wrong)
}
