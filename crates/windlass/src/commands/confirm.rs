//! `windlass confirm JOB`

use super::steer::{Stay, steer};
use crate::app::App;
use crate::control::Order;
use crate::exit::Exit;

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
    /// For a job whose undo failed: leave what could not be undone as it is
    #[arg(long)]
    leave_leftovers: bool,
}

pub(super) async fn run(app: &App, args: Args) -> anyhow::Result<Exit> {
    steer(app, &args.job, Order::Confirm { leave: args.leave_leftovers }, Stay::Briefly).await
}
