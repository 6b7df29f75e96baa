//! `windlass run FILE`

use std::path::PathBuf;

use serde_json::json;
use windlass_api::whole::mirror;
use windlass_api::{ExpectedPlan, WholeReport};
use windlass_engine::{Command, CommandReply, Engine, report, view};
use windlass_model::JobId;
use windlass_model::job::JobState;
use windlass_store::StoreError;

use crate::app::App;
use crate::exit::Exit;
use crate::foreground::{Ending, Foreground};
use crate::interrupt::Interrupt;
use crate::job_file::JobFile;
use crate::problem::Problem;
use crate::state::{Held, Part};
use crate::{expectation, verdict};

/// Said at the first signal.
pub(super) const STOPPING: &str =
    "stopping at the next safe point; the same command goes on from there (again: stop at once)";

/// Which job.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job file, YAML or JSON; `-` is standard input
    file: PathBuf,
    /// Run it only if planning it now gives this plan: the digest that `plan` prints, or the file of `plan --out`
    #[arg(long, value_name = "DIGEST|FILE")]
    expect_plan: Option<String>,
}

pub(super) async fn run(app: &App, args: &Args) -> anyhow::Result<Exit> {
    let file = JobFile::read(&args.file, &app.setting.kinds)?;
    if file.submission.schedule.is_some() {
        return Err(Problem::usage("the job has a schedule, and a run in the foreground has an end")
            .hint("`windlass submit` hands it to whoever works on the state; or remove `schedule` to run it once")
            .into());
    }
    let expected = args.expect_plan.as_deref().map(expectation::read).transpose()?;
    run_planned(app, file, expected.as_ref()).await
}

/// Runs a job in the foreground, or goes on with the unfinished one of its name.
pub(super) async fn run_job(app: &App, file: JobFile) -> anyhow::Result<Exit> {
    run_planned(app, file, None).await
}

async fn run_planned(app: &App, file: JobFile, expected: Option<&ExpectedPlan>) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::listen(&app.output, STOPPING)?;
    let held = open(app, file.places).await?;
    let job = match submit_or_resume(app, &held.engine, file, expected).await {
        Ok(job) => job,
        Err(error) => {
            held.close().await?;
            return Err(error);
        }
    };
    finish(app, held, interrupt, job).await
}

/// Takes hold of the state, saying whom to ask when somebody else has it.
async fn open(app: &App, places: Option<usize>) -> anyhow::Result<Held> {
    let state = app.own_state()?;
    state.open(&app.setting, Part::worker(places)).await.map_err(|error| match error.downcast_ref::<StoreError>() {
        Some(StoreError::Held(_)) => error.context(
            Problem::unreachable("the state folder is in use by another process")
                .hint("wait for it, stop it, or run this job in a state folder of its own with --state"),
        ),
        _ => error,
    })
}

/// The unfinished job of this name and spec, or a new one.
async fn submit_or_resume(
    app: &App,
    engine: &Engine,
    file: JobFile,
    expected: Option<&ExpectedPlan>,
) -> anyhow::Result<JobId> {
    let JobFile { request, places, .. } = file;
    let mut differs = None;
    for summary in engine.unfinished(&request.kind, &request.name).await? {
        let record = view::record(&**engine.store(), summary.id).await?;
        if record.spec != request.spec {
            differs = Some(summary.id);
            continue;
        }
        let state = summary.status.state;
        app.output.note(format!("going on with job {}, which was {}", summary.id, state.as_str()));
        if matches!(state, JobState::Paused | JobState::Pausing) {
            match engine.command(summary.id, Command::Resume, Some(app.setting.request_id())).await? {
                CommandReply::Done(_) | CommandReply::Deleted { .. } => {}
                // Its pause has just ended by itself.
                CommandReply::Refused(why) => tracing::debug!(%why, "the job needs no resuming"),
            }
        }
        note_others(app, engine, summary.id).await?;
        return Ok(summary.id);
    }
    if let Some(other) = differs {
        let (kind, name) = (&request.kind, &request.name);
        return Err(Problem::usage(format!("job {other}, {kind} {name}, is not finished and has another spec"))
            .hint(format!(
                "`windlass cancel {other}` gives it up; or undo the change of the file; or choose another name"
            ))
            .into());
    }
    // A job that is gone on with has its plan already.
    if let Some(expected) = expected {
        expectation::check(app, &request, places, expected).await?;
    }
    let (kind, name) = (request.kind.clone(), request.name.clone());
    let job = engine.submit(request).await?;
    app.output.note(format!("job {job}: {kind} {name}"));
    note_others(app, engine, job).await?;
    Ok(job)
}

/// Says which other unfinished jobs this process carries on with.
async fn note_others(app: &App, engine: &Engine, job: JobId) -> anyhow::Result<()> {
    for other in view::jobs(&**engine.store()).await? {
        let state = other.status.state;
        if other.id != job && state.is_active() && state != JobState::Paused {
            app.output.note(format!("unfinished job {} ({} {}) goes on as well", other.id, other.kind, other.name));
        }
    }
    Ok(())
}

/// Follows a job in the foreground and reports on it.
pub(super) async fn finish(app: &App, held: Held, interrupt: Interrupt, job: JobId) -> anyhow::Result<Exit> {
    let mut foreground = Foreground::begin(app, held, interrupt)?;
    let ending = foreground.follow(job).await;
    let store = foreground.held.engine.store().clone();
    let report = match &ending {
        Ok(Ending::Rested(_)) => {
            let made = report::make(&*store, &app.setting.kinds, job, app.setting.clock.wall()).await?;
            Some(mirror::<WholeReport>(&made)?)
        }
        _ => None,
    };
    drop(store);
    foreground.close().await?;
    match ending? {
        Ending::Interrupted => {
            app.output.note(format!("job {job} is interrupted; the same command, or `windlass resume {job}`, goes on"));
            if app.output.is_json() {
                app.output.json(&json!({ "job": job, "interrupted": true }))?;
            }
            Ok(Exit::Interrupted)
        }
        Ending::NeedsAttention(failure) => {
            let hint = format!("when that is mended, the same command, or `windlass resume {job}`, goes on");
            let hint = match &failure.hint {
                Some(first) => format!("{first}; {hint}"),
                None => hint,
            };
            let problem = Problem::failed(format!("job {job} is paused and needs a person")).hint(hint);
            Err(anyhow::Error::new(*failure).context(problem))
        }
        Ending::Rested(_) => {
            let Some(report) = report else { return Ok(Exit::Failed) };
            app.output.result(&report, || verdict::report(&report, app.output.palette, true))?;
            Ok(verdict::exit(&report.status))
        }
    }
}
