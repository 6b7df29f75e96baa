//! `windlass watch JOB`

use std::time::Duration;

use windlass_engine::{JobSnapshot, report, view};
use windlass_model::JobId;
use windlass_store::keys;

use crate::app::App;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::progress::Display;
use crate::verdict;

/// A job that changes all the time is looked at this often at most.
const BETWEEN: Duration = Duration::from_millis(250);
/// New log entries that are looked at in one go.
const ENTRIES: usize = 10_000;

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job: its name, its id, or the beginning or end of its id
    job: String,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let store = app.state()?.read_for(&app.setting.clock, &args.job).await?;
    let job = view::find(&*store, &args.job).await?;
    until_rest(app, job).await
}

/// Shows how far a job is that runs elsewhere, until it rests; then its report.
pub(super) async fn until_rest(app: &App, job: JobId) -> anyhow::Result<Exit> {
    let store = app.state()?.read_for(&app.setting.clock, &job.to_string()).await?;
    let interrupt = Interrupt::listen(&app.output, "")?;
    let mut display = Display::new(&app.output, app.setting.clock.clone(), 0);
    loop {
        // The revision first: what changes while the job is read is seen by the watch.
        let revision = store.revision().await?;
        let snapshot = JobSnapshot::read(&*store, job).await?;
        if display.show(&snapshot) {
            let entries = view::log(&*store, job, display.seen_log, ENTRIES).await?;
            display.tell(&entries);
        }
        if !snapshot.status.state.is_active() {
            break;
        }
        let changed = async {
            // However the watch ends, looking again is right. A folder that another process holds is only looked at.
            if let Ok(mut watch) = store.watch(&keys::job_prefix(job), revision).await {
                drop(watch.next().await);
            }
            app.setting.clock.sleep(BETWEEN).await;
        };
        tokio::select! {
            () = interrupt.came() => {
                display.clear();
                app.output.note(format!("job {job} goes on; `windlass watch {job}` shows it again"));
                return Ok(Exit::Interrupted);
            }
            () = changed => {}
            // A job whose worker is gone changes nothing until another takes it up.
            () = app.setting.clock.sleep(Duration::from_secs(5)) => {}
        }
    }
    display.clear();
    let report = report::make(&*store, &app.setting.kinds, job, app.setting.clock.wall()).await?;
    app.output.result(&report, || verdict::report(&report, app.output.palette, true))?;
    Ok(verdict::exit(&report.status))
}
