//! `windlass undo JOB`

use windlass_engine::Command;

use super::steer::{Stay, steer};
use crate::app::App;
use crate::exit::Exit;

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
}

pub(super) async fn run(app: &App, args: Args) -> anyhow::Result<Exit> {
    steer(app, &args.job, Command::Undo, Stay::UntilRest).await
}
