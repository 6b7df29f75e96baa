//! Jobs that run again by themselves.

use maud::{Markup, html};
use windlass_api::page::{Frame, SchedulesView};
use windlass_api::{Schedule, ScheduleView};

use crate::figures::{ago, moment, name, short_id};
use crate::mark::Mark;
use crate::shell::{Live, Section, command, empty, page};

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
                thead { tr { th scope="col" { "Name" } th scope="col" { "Kind" } th scope="col" { "When" } th scope="col" { "Next" } th scope="col" { "Last runs" } } }
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
            td data-label="When" { (name(&words(&schedule.schedule))) @if let Some(rules) = rules(&schedule.schedule) { br; span .fine { (rules) } } }
            td data-label="Next" {
                @if schedule.paused { (Mark::Paused.chip("held")) }
                @else { @match schedule.next { Some(next) => { (ago(next, frame.now)) br; span .fine { (moment(next)) } } None => span .none { "never" } } }
            }
            td data-label="Last runs" {
                @if schedule.history.is_empty() { span .none { "none yet" } }
                @else { ul .claims { @for job in schedule.history.iter().take(8) { li { a href=(format!("/jobs/{job}")) { (short_id(&job.to_string())) } } } } }
            }
        }
    }
}

fn words(schedule: &Schedule) -> String {
    let zone = schedule.time_zone.as_deref().unwrap_or("UTC");
    match (&schedule.every, &schedule.cron) {
        (Some(every), _) => format!("every {every}"),
        (None, Some(cron)) => format!("{cron} ({zone})"),
        (None, None) => "without a time".to_owned(),
    }
}

fn rules(schedule: &Schedule) -> Option<String> {
    let rule = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name}: {value}"));
    let rules: Vec<String> =
        [rule("overlap", &schedule.overlap), rule("missed", &schedule.misfire)].into_iter().flatten().collect();
    (!rules.is_empty()).then(|| rules.join(", "))
}
