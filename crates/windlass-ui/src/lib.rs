//! The pages of Windlass: pure functions from views to HTML, and the three files that the pages refer to.
//!
//! * [`Ui`] draws every page of [`windlass_api::page`]; nothing here reads a store, a clock or a file.
//! * Pages work without a script. With it they follow the server's events: whatever changed is fetched as the same
//!   page and put in place of what is there, so that what is drawn is always drawn by one piece of code.
//! * Pages refer to nothing outside, and hold no script, style or event attribute in their text, so that the strictest
//!   content security policy ([`CONTENT_SECURITY_POLICY`]) fits.
//! * Everything that somebody else chose (names, messages, values) is escaped, isolated in its direction, and cut to
//!   a bounded length.
//!
//! The plan of a job is drawn as SVG by the module `graph`: tasks are put together by type and state where there are too
//! many to look at.

mod ask;
mod assets;
mod audit;
mod failure;
mod figures;
mod graph;
mod job;
mod jobs;
mod login;
mod mark;
mod picture;
mod progress;
mod schedules;
mod schema;
mod shared;
mod shell;
mod submit;
mod task;
mod value;
mod workers;

pub use assets::{Served, asset, assets};

use jiff::Timestamp;
use windlass_api::Report;
use windlass_api::page::{
    AskView, Asset, AuditView, JobView, JobsView, LoginView, Pages, ProblemView, ScheduleAskView, SchedulesView,
    SharedView, SubmitView, TaskView, WorkersView,
};

/// The policy that all pages fit: scripts, styles, images and connections of their own server only.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Draws the pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ui;

impl Pages for Ui {
    fn jobs(&self, view: &JobsView) -> String {
        jobs::draw(view)
    }

    fn job(&self, view: &JobView) -> String {
        job::draw(view)
    }

    fn task(&self, view: &TaskView) -> String {
        task::draw(view)
    }

    fn ask(&self, view: &AskView) -> String {
        ask::draw(view)
    }

    fn submit(&self, view: &SubmitView) -> String {
        submit::draw(view)
    }

    fn workers(&self, view: &WorkersView) -> String {
        workers::draw(view)
    }

    fn shared(&self, view: &SharedView) -> String {
        shared::draw(view)
    }

    fn schedules(&self, view: &SchedulesView) -> String {
        schedules::draw(view)
    }

    fn ask_schedule(&self, view: &ScheduleAskView) -> String {
        schedules::ask(view)
    }

    fn report_file(&self, report: &Report, version: &str, now: Timestamp) -> String {
        job::report_file(report, version, now)
    }

    fn audit(&self, view: &AuditView) -> String {
        audit::draw(view)
    }

    fn login(&self, view: &LoginView) -> String {
        login::draw(view)
    }

    fn problem(&self, view: &ProblemView) -> String {
        let content = maud::html! {
            h1 .unseen { "This page cannot be shown" }
            p { a href="/" { "To the list of jobs" } }
        };
        shell::page(&view.frame, shell::Section::Nowhere, "A problem", &shell::Live::still(), &content)
    }

    fn asset(&self, name: &str) -> Option<Asset> {
        asset(name)
    }
}
