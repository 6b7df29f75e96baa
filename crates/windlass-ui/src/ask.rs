//! Asks back before a command, saying what will happen. A page of its own; the script shows it as a dialog.

use maud::{Markup, html};
use windlass_api::page::AskView;
use windlass_api::{JobState, Role};

use crate::figures::{counted, name};
use crate::mark::job_chip;
use crate::shell::{Live, Section, may, page};

struct Question {
    title: &'static str,
    happens: Vec<String>,
    button: &'static str,
    grave: bool,
}

fn question(view: &AskView) -> Option<Question> {
    let job = &view.job;
    let counts = &job.counts;
    let running = counted(counts.running, "running task");
    let said =
        |title, button, grave, happens: &[String]| Some(Question { title, happens: happens.to_vec(), button, grave });
    match view.command.as_str() {
        "pause" => said(
            "Pause this job?",
            "Pause",
            false,
            &[
                format!("No further task starts. The {running} finish or stop at the next safe point."),
                "Nothing is lost: resuming goes on where it was.".to_owned(),
            ],
        ),
        "resume" => said(
            "Resume this job?",
            "Resume",
            false,
            &[format!("Its {} go on.", counted(counts.waiting + counts.running, "open task"))],
        ),
        "cancel" => said(
            "Cancel this job?",
            "Cancel the job",
            true,
            &[
                format!(
                    "The {} never start. The {running} stop at the next safe point.",
                    counted(counts.waiting, "waiting task")
                ),
                "What was done stays, unless you also undo it.".to_owned(),
            ],
        ),
        "undo" => said(
            "Undo what this job did?",
            "Undo",
            true,
            &[
                "Every effect in its ledger is taken back, the last one first.".to_owned(),
                "The job is over when all are gone. What cannot be undone is listed.".to_owned(),
            ],
        ),
        "confirm" => said(
            "Make the outcome permanent?",
            "Confirm",
            false,
            &["It can no longer be undone or retried. What was kept for an undo may be removed.".to_owned()],
        ),
        "ignore_leftovers" => said(
            "Leave what could not be undone?",
            "Leave it",
            true,
            &["The remaining effects stay outside, and nothing here looks after them any more.".to_owned()],
        ),
        "retry" => said(
            "Try again?",
            "Retry",
            false,
            &[format!(
                "{} and {} run again. What succeeded is not repeated.",
                counted(counts.failed, "failed task"),
                counted(counts.ignored + counts.cancelled, "untried task")
            )],
        ),
        "approve" => said(
            "Approve?",
            "Approve",
            false,
            &["The task that asks starts as soon as there is a place for it.".to_owned()],
        ),
        "extend" => said(
            "Give this job more time?",
            "Extend",
            false,
            &["It is undone or given up by itself only after this time, counted from now.".to_owned()],
        ),
        "delete" => said(
            "Delete this job?",
            "Delete",
            true,
            &[
                "Its record, tasks, log and report are removed from the state store for good.".to_owned(),
                "Nothing outside is changed by that.".to_owned(),
            ],
        ),
        _ => None,
    }
}

pub(crate) fn draw(view: &AskView) -> String {
    let job = &view.job;
    let path = format!("/jobs/{}", job.id);
    let content = html! {
        section #ask {
            @match question(view) {
                Some(question) => {
                    h1 { (question.title) }
                    p { (name(&job.name)) " " (job_chip(job.state, job.result, false)) }
                    ul .happens { @for happens in &question.happens { li { (happens) } } }
                    @if may(&view.frame, Role::Operator) {
                        form method="post" action=(format!("{path}/command")) {
                            input type="hidden" name="command" value=(view.command);
                            input type="hidden" name="key" value=(view.frame.key);
                            (members(view))
                            div .answers {
                                a .button href=(path) data-close { "No, go back" }
                                button .first .grave[question.grave] type="submit" { (question.button) }
                            }
                        }
                    } @else { p { "This needs the role operator." } p { a .button href=(path) data-close { "Back" } } }
                }
                None => { h1 { "No such command" } p { a href=(path) { "Back to the job" } } }
            }
        }
    };
    page(
        &view.frame,
        Section::Jobs,
        &format!("{} {}", view.command.replace('_', " "), job.name),
        &Live::still(),
        &content,
    )
}

/// What a command needs to know besides.
fn members(view: &AskView) -> Markup {
    let job = &view.job;
    html! {
        @match view.command.as_str() {
            "pause" => div .field {
                label for="pause-for" { "Resume by itself after" }
                input #pause-for name="for" placeholder="not by itself; 30m, 2h" autocomplete="off" maxlength="20" aria-describedby="pause-for-note";
                p .fine #pause-for-note { "Leave it empty to resume it yourself." }
            },
            "cancel" => div .field { label { input type="checkbox" name="undo" value="true"; " also undo what was done" } },
            "retry" => div .field { label { input type="checkbox" name="all" value="true" checked; " also those that were not tried because of them" } },
            "extend" => div .field {
                label for="extend-by" { "More time" }
                input #extend-by name="by" value="2h" required autocomplete="off" maxlength="20";
            },
            "approve" => {
                @match &view.task {
                    Some(task) => input type="hidden" name="task" value=(task);,
                    None => div .field {
                        label for="approve-task" { "Task" }
                        input #approve-task name="task" required placeholder="name or id" autocomplete="off" maxlength="400";
                    },
                }
                div .field {
                    label for="approve-note" { "Note" }
                    input #approve-note name="note" placeholder="what there is to say about it" autocomplete="off" maxlength="1000" aria-describedby="approve-note-note";
                    p .fine #approve-note-note { "It is kept with your name, in the job and in the audit list." }
                }
            }
            "delete" if job.state != JobState::Finished && may(&view.frame, Role::Admin) => div .field {
                label { input type="checkbox" name="force" value="true"; " even if effects of it are left outside" }
            },
            _ => {}
        }
    }
}
