//! `windlass pause JOB`

use std::time::Duration;

use windlass_engine::Command;

use super::steer::{Stay, steer};
use crate::app::App;
use crate::exit::Exit;
use crate::figures;

/// Which job, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
    /// Go on by itself after this time, such as 90s, 15m, 1h30m
    #[arg(long = "for", value_name = "TIME", value_parser = figures::parse_span)]
    length: Option<Duration>,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    // A pause beyond the end of time has no end.
    let until = args.length.and_then(|length| app.setting.clock.wall().checked_add(length).ok());
    steer(app, &args.job, Command::Pause { until }, Stay::Briefly).await
}
