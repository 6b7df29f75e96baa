//! `windlass report JOB`

use windlass_engine::{report, view};

use crate::app::App;
use crate::exit::Exit;
use crate::verdict;

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let store = app.state()?.read_for(&app.setting.clock, &args.job).await?;
    let id = view::find(&*store, &args.job).await?;
    let report = report::make(&*store, &app.setting.kinds, id, app.setting.clock.wall()).await?;
    app.output.result(&report, || verdict::report(&report, app.output.palette, false))?;
    Ok(Exit::Done)
}
