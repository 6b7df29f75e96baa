//! `windlass schedule …`: jobs that run again by themselves.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;
use windlass_api::{RunCause, Schedule, ScheduleAnswer, ScheduleCommand, ScheduleRun, ScheduleView, Triggered};

use super::steer;
use crate::app::App;
use crate::control::{Answer, Order};
use crate::exit::Exit;
use crate::output::Palette;
use crate::{figures, source};

/// Runs that `show` lists for people; JSON output has all that are remembered.
const LISTED: usize = 15;

/// What to do with schedules.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the schedules, when each is due next and how its last run ended
    List,
    /// Show a schedule, its last runs, and why one was left out
    Show(One),
    /// Let nothing of it begin by itself; what runs goes on
    Pause(One),
    /// Let it go on; what was due meanwhile is left out
    Resume(One),
    /// Begin a run now, also of one that is paused
    Trigger(One),
    /// Remove it; the jobs that it began stay
    Delete(One),
}

/// Which schedule.
#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The schedule: its name, its id, or the beginning or end of its id
    schedule: String,
}

pub(super) async fn run(app: &App, command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::List => list(app).await,
        Command::Show(one) => show(app, &one.schedule).await,
        Command::Pause(one) => give(app, &one.schedule, ScheduleCommand::Pause {}).await,
        Command::Resume(one) => give(app, &one.schedule, ScheduleCommand::Resume {}).await,
        Command::Trigger(one) => give(app, &one.schedule, ScheduleCommand::Trigger {}).await,
        Command::Delete(one) => give(app, &one.schedule, ScheduleCommand::Delete {}).await,
    }
}

async fn list(app: &App) -> anyhow::Result<Exit> {
    let schedules = match source::open(app).await? {
        Some(source) => source.schedules().await?,
        None => Vec::new(),
    };
    app.output.result(&json!({ "schedules": schedules }), || {
        if schedules.is_empty() {
            return "no schedules\n".to_owned();
        }
        figures::table(
            ["schedule", "kind", "name", "runs at", "next", "begun", "last run"],
            schedules.iter().map(|one| {
                let last = one.history.first().map(outcome).unwrap_or_default();
                let (runs_at, next) = (timing(&one.schedule), next(one));
                [one.id.clone(), one.kind.clone(), one.name.clone(), runs_at, next, figures::count(one.runs), last]
            }),
        )
    })?;
    Ok(Exit::Done)
}

async fn show(app: &App, given: &str) -> anyhow::Result<Exit> {
    let schedule = source::open_for_schedule(app, given).await?.schedule(given).await?;
    app.output.result(&schedule, || text(&schedule, app.output.palette))?;
    Ok(Exit::Done)
}

fn text(view: &ScheduleView, palette: Palette) -> String {
    let schedule = &view.schedule;
    let mut text = String::new();
    let _ = writeln!(text, "{} {}", view.kind, palette.strong(&view.name));
    let _ = writeln!(text, "schedule   {}", view.id);
    let _ = writeln!(text, "runs       {}", timing(schedule));
    let _ = writeln!(text, "next       {}", next(view));
    if let Some(created) = view.created {
        let _ = writeln!(text, "created    {}", figures::moment(created));
    }
    let _ = writeln!(text, "begun      {} runs", figures::count(view.runs));
    let _ = writeln!(text, "overlap    {}", schedule.overlap.as_str());
    let _ = writeln!(text, "misfire    {}", schedule.misfire.as_str());
    if schedule.jitter_ms > 0 {
        let _ = writeln!(text, "jitter     up to {}", figures::span(Duration::from_millis(schedule.jitter_ms)));
    }
    if view.history.is_empty() {
        text += "\nno run yet\n";
        return text;
    }
    text.push('\n');
    text += &figures::table(
        ["due", "because", "job", "outcome"],
        view.history.iter().take(LISTED).map(|run| {
            let because = match run.by {
                RunCause::Schedule => "it was due",
                RunCause::MadeUp => "it was missed",
                RunCause::Person => "a person asked",
            };
            let job = run.job.map(|job| job.to_string()).unwrap_or_default();
            [figures::moment(run.due), because.to_owned(), job, outcome(run)]
        }),
    );
    if view.history.len() > LISTED {
        let more = view.history.len() - LISTED;
        let _ = writeln!(text, "… and {more} more; `--output json` has them");
    }
    text
}

/// How a run ended, or why there was none.
fn outcome(run: &ScheduleRun) -> String {
    match (run.job, run.state) {
        (None, _) => match &run.note {
            Some(note) => format!("left out: {note}"),
            None => "left out".to_owned(),
        },
        (Some(_), None) => "runs".to_owned(),
        (Some(_), Some(state)) => {
            let state = state.as_str().replace('_', " ");
            match run.result {
                Some(result) => format!("{state} ({})", result.as_str().replace('_', " ")),
                None => state,
            }
        }
    }
}

fn next(view: &ScheduleView) -> String {
    match view.next {
        _ if view.paused => "paused".to_owned(),
        Some(next) => figures::moment(next),
        None => "never again".to_owned(),
    }
}

/// `every 15m`, or the cron expression with its time zone.
fn timing(schedule: &Schedule) -> String {
    match (&schedule.every_ms, &schedule.cron) {
        (Some(ms), _) => format!("every {}", figures::span(Duration::from_millis(*ms))),
        (None, Some(cron)) => match &schedule.time_zone {
            Some(zone) => format!("{cron} {zone}"),
            None => format!("{cron} UTC"),
        },
        (None, None) => String::new(),
    }
}

async fn give(app: &App, given: &str, command: ScheduleCommand) -> anyhow::Result<Exit> {
    let answer = match app.state()? {
        crate::state::State::Server(server) => {
            let client = server.client(&app.setting)?;
            client.schedule_command(given, command, &client.key()).await?
        }
        _ => {
            let id = source::open_for_schedule(app, given).await?.schedule(given).await?.id;
            match steer::order(app, Order::Schedule { schedule: id.clone(), command }, id).await? {
                Answer::Schedule(answer) => *answer,
                other => {
                    other.into_done()?;
                    return Ok(Exit::Done);
                }
            }
        }
    };
    app.output.result(&answer, || told(given, &answer))?;
    Ok(Exit::Done)
}

fn told(given: &str, answer: &ScheduleAnswer) -> String {
    let id = &answer.schedule;
    let job = answer.job.map(|job| job.to_string()).unwrap_or_default();
    match (answer.triggered, answer.paused) {
        (Some(Triggered::Began), _) => format!("schedule {id} has begun job {job}\n"),
        (Some(Triggered::Waits), _) => format!("schedule {id}: the run begins when the one before it has ended\n"),
        (Some(Triggered::LeftOut), _) => {
            format!("schedule {id}: left out, because job {job} has not ended and runs do not overlap\n")
        }
        (None, Some(true)) => format!("schedule {id} is paused\n"),
        (None, Some(false)) => match answer.next {
            Some(next) => format!("schedule {id} goes on; it is due next at {}\n", figures::moment(next)),
            None => format!("schedule {id} goes on; it is never due again\n"),
        },
        (None, None) => format!("schedule {given} is removed; the jobs that it began stay\n"),
    }
}
