//! `windlass pause JOB`

use std::time::Duration;

use super::steer::{Stay, steer};
use crate::app::App;
use crate::control::Order;
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
    let for_ms = args.length.map(|length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
    steer(app, &args.job, Order::Pause { for_ms }, Stay::Briefly).await
}
