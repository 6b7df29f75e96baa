//! `windlass resume JOB`

use super::steer::{Stay, steer};
use crate::app::App;
use crate::control::Order;
use crate::exit::Exit;

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
}

pub(super) async fn run(app: &App, args: Args) -> anyhow::Result<Exit> {
    steer(app, &args.job, Order::Resume, Stay::UntilRest).await
}
