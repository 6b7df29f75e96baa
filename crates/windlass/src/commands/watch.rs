//! `windlass watch JOB`

use windlass_model::JobId;

use crate::app::App;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::progress::Display;
use crate::source::{self, Detail, Seen, Source};
use crate::verdict;

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let source = source::open_for(app, &args.job).await?;
    let job = source.find(&args.job).await?;
    until_rest(app, &*source, job).await
}

/// Shows how far a job is that runs elsewhere, until it rests; then its report.
pub(super) async fn until_rest(app: &App, source: &dyn Source, job: JobId) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::listen(&app.output, "")?;
    let mut display = Display::new(&app.output, app.setting.clock.clone(), 0);
    let detail = Detail { every_entry: false, running: app.output.has_terminal() };
    let mut follow = source.follow(job, 0, detail).await?;
    loop {
        let seen = tokio::select! {
            () = interrupt.came() => {
                display.clear();
                app.output.note(format!("job {job} goes on; `windlass watch {job}` shows it again"));
                return Ok(Exit::Interrupted);
            }
            seen = follow.next() => seen?,
        };
        match seen {
            Seen::Entry(entry) => display.tell(&[*entry]),
            Seen::Job(snapshot) => {
                display.show(&snapshot);
                if !snapshot.status.state.is_active() {
                    break;
                }
            }
        }
    }
    display.clear();
    let report = source.report(job).await?;
    app.output.result(&report, || verdict::report(&report, app.output.palette, true))?;
    Ok(verdict::exit(&report.status))
}
