//! `windlass confirm JOB`

use windlass_engine::Command;

use super::steer::{Stay, steer};
use crate::app::App;
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
    let command = if args.leave_leftovers { Command::IgnoreLeftovers } else { Command::Confirm };
    steer(app, &args.job, command, Stay::Briefly).await
}
