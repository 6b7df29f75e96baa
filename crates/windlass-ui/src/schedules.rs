//! Jobs that run again by themselves.

use maud::{Markup, html};
use windlass_api::page::{Frame, ScheduleAskView, SchedulesView};
use windlass_api::{Overlap, Role, RunCause, Schedule, ScheduleCommand, ScheduleRun, ScheduleView};

use crate::figures::{ago, counted, moment, name, span_ms};
use crate::mark::{Mark, job_chip};
use crate::shell::{Live, Section, command, empty, may, page};

/// Runs that a row shows.
const RUNS: usize = 8;

pub(crate) fn draw(view: &SchedulesView) -> String {
    let content = html! {
        h1 { "Schedules" }
        @if view.list.schedules.is_empty() {
            (empty("Nothing runs by itself.", &html! {
                p { "Put a schedule into a job file and submit it:" }
                pre .example { "schedule: { cron: \"0 3 * * *\", time_zone: Europe/Berlin }" }
                p { (command("windlass submit job.yaml")) }
            }))
        } @else {
            table .cards {
                caption .unseen { "Schedules by name" }
                thead { tr {
                    th scope="col" { "Name" } th scope="col" { "Kind" } th scope="col" { "When" } th scope="col" { "Next" }
                    th scope="col" { "Last runs" }
                    @if may(&view.frame, Role::Operator) { th scope="col" { "Commands" } }
                } }
                tbody { @for schedule in &view.list.schedules { (row(schedule, &view.frame)) } }
            }
        }
    };
    page(&view.frame, Section::Schedules, "Schedules", &Live::follow("/api/v1/events"), &content)
}

fn row(schedule: &ScheduleView, frame: &Frame) -> Markup {
    html! {
        tr id=(format!("schedule-{}", schedule.id)) {
            th scope="row" data-label="Name" { (name(&schedule.name)) }
            td data-label="Kind" { (schedule.kind) }
            td data-label="When" { (name(&words(&schedule.schedule))) br; span .fine { (rules(&schedule.schedule)) } }
            td data-label="Next" {
                @if schedule.paused { (Mark::Paused.chip("paused")) }
                @else { @match schedule.next { Some(next) => { (ago(next, frame.now)) br; span .fine { (moment(next)) } } None => span .none { "never" } } }
            }
            td data-label="Last runs" {
                @if schedule.history.is_empty() { span .none { "none yet" } }
                @else {
                    ul .claims { @for one in schedule.history.iter().take(RUNS) { li { (run(one, frame)) } } }
                    @if schedule.runs > RUNS as u64 { span .fine { (counted(schedule.runs, "run")) " in all" } }
                }
            }
            @if may(frame, Role::Operator) {
                td data-label="Commands" {
                    ul .actions aria-label="Commands" {
                        @for (command, word) in commands(schedule, frame) {
                            li { a .button.(command.name()) href=(format!("/schedules/{}/ask/{}", schedule.id, command.name())) data-ask { (word) } }
                        }
                    }
                }
            }
        }
    }
}

fn commands(schedule: &ScheduleView, frame: &Frame) -> Vec<(ScheduleCommand, &'static str)> {
    let hold = match schedule.paused {
        true => (ScheduleCommand::Resume {}, "Resume"),
        false => (ScheduleCommand::Pause {}, "Pause"),
    };
    let mut fitting = vec![hold, (ScheduleCommand::Trigger {}, "Run now")];
    if may(frame, Role::Admin) {
        fitting.push((ScheduleCommand::Delete {}, "Delete"));
    }
    fitting
}

fn run(run: &ScheduleRun, frame: &Frame) -> Markup {
    let cause = match run.by {
        RunCause::Schedule => None,
        RunCause::MadeUp => Some("made up for"),
        RunCause::Person => Some("asked for"),
    };
    html! {
        @match run.job {
            Some(job) => {
                a href=(format!("/jobs/{job}")) { (ago(run.began.unwrap_or(run.due), frame.now)) } " "
                @match run.state {
                    Some(state) => (job_chip(state, run.result, false)),
                    None => (Mark::Running.chip("not over")),
                }
            }
            None => {
                (ago(run.due, frame.now)) " " (Mark::Ignored.chip("left out"))
                @if let Some(note) = &run.note { " " span .fine { (name(note)) } }
            }
        }
        @if let Some(cause) = cause { " " span .fine { (cause) } }
    }
}

fn words(schedule: &Schedule) -> String {
    let zone = schedule.time_zone.as_deref().unwrap_or("UTC");
    match (schedule.every_ms, &schedule.cron) {
        (Some(every), _) => format!("every {}", span_ms(every)),
        (None, Some(cron)) => format!("{cron} ({zone})"),
        (None, None) => "without a time".to_owned(),
    }
}

fn rules(schedule: &Schedule) -> String {
    let mut rules =
        vec![format!("overlap: {}", schedule.overlap.as_str()), format!("missed: {}", schedule.misfire.as_str())];
    if schedule.jitter_ms > 0 {
        rules.push(format!("up to {} late", span_ms(schedule.jitter_ms)));
    }
    rules.join(", ")
}

struct Question {
    title: &'static str,
    happens: [String; 2],
    button: &'static str,
    grave: bool,
    role: Role,
}

fn question(schedule: &ScheduleView, asked: ScheduleCommand) -> Question {
    let question = |title, button, happens: [&str; 2]| Question {
        title,
        happens: happens.map(str::to_owned),
        button,
        grave: false,
        role: Role::Operator,
    };
    match asked {
        ScheduleCommand::Pause {} => question(
            "Pause this schedule?",
            "Pause",
            ["Nothing of it begins by itself until it is resumed.", "A run that has begun goes on."],
        ),
        ScheduleCommand::Resume {} => question(
            "Resume this schedule?",
            "Resume",
            ["It begins its next run when that is due.", "What was due meanwhile is left out."],
        ),
        ScheduleCommand::Trigger {} => {
            let overlap = match schedule.schedule.overlap {
                Overlap::Skip => "If the run before it has not ended, this one is left out.",
                Overlap::Queue => "If the run before it has not ended, this one waits for its end.",
                Overlap::CancelRunning => "If the run before it has not ended, it is cancelled first.",
                Overlap::Allow => "If the run before it has not ended, both run.",
            };
            question("Begin a run now?", "Run now", [overlap, "The next one by the schedule stays as it is."])
        }
        ScheduleCommand::Delete {} => Question {
            grave: true,
            role: Role::Admin,
            ..question(
                "Delete this schedule?",
                "Delete",
                [
                    "Nothing of it begins any more, and its history is removed for good.",
                    "The jobs that it began stay as they are.",
                ],
            )
        },
    }
}

pub(crate) fn ask(view: &ScheduleAskView) -> String {
    let schedule = &view.schedule;
    let Question { title, happens, button, grave, role } = question(schedule, view.command);
    let content = html! {
        section #ask {
            h1 { (title) }
            p { (name(&schedule.name)) " " span .fine { (name(&words(&schedule.schedule))) } }
            ul .happens { @for happens in &happens { li { (happens) } } }
            @if may(&view.frame, role) {
                form method="post" action=(format!("/schedules/{}/command", schedule.id)) {
                    input type="hidden" name="command" value=(view.command.name());
                    input type="hidden" name="key" value=(view.frame.key);
                    div .answers {
                        a .button href="/schedules" data-close { "No, go back" }
                        button .first .grave[grave] type="submit" { (button) }
                    }
                }
            } @else { p { "This needs the role " (role.as_str()) "." } p { a .button href="/schedules" data-close { "Back" } } }
        }
    };
    let title = format!("{} {}", view.command.name(), schedule.name);
    page(&view.frame, Section::Schedules, &title, &Live::still(), &content)
}
