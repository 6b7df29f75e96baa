//! `windlass extend JOB TIME`

use std::time::Duration;

use windlass_engine::Command;

use super::steer::{Stay, steer};
use crate::app::App;
use crate::exit::Exit;
use crate::figures;

/// Which job, and by how much.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
    /// How much later, such as 30m or 2h
    #[arg(value_name = "TIME", value_parser = figures::parse_span)]
    by: Duration,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let by_ms = u64::try_from(args.by.as_millis()).unwrap_or(u64::MAX);
    steer(app, &args.job, Command::Extend { by_ms }, Stay::Briefly).await
}
