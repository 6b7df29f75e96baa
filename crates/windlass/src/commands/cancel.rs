//! `windlass cancel JOB`

use windlass_engine::Command;

use super::steer::{Stay, steer};
use crate::app::App;
use crate::exit::Exit;

/// Which job, and what of its effects.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
    /// Undo what it did as soon as nothing of it runs any more
    #[arg(long)]
    undo: bool,
}

pub(super) async fn run(app: &App, args: Args) -> anyhow::Result<Exit> {
    steer(app, &args.job, Command::Cancel { undo: args.undo }, Stay::UntilRest).await
}
