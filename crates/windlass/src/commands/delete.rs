//! `windlass delete JOB`

use windlass_engine::Command;

use super::steer::{Stay, steer};
use crate::app::App;
use crate::exit::Exit;

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
    /// Also a job that is not over: it loses its hold on shared resources, and what it has made stays outside
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    steer(app, &args.job, Command::Delete { force: args.force }, Stay::Briefly).await
}
