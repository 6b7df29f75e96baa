//! What each page of the web interface shows, and what draws it.
//!
//! The server gathers a view and hands it to [`Pages`], which makes HTML from it: a pure function. The server sends a
//! content security policy that allows scripts, styles and images from itself only, as files under `/assets/`:
//! neither `<script>` with text, nor `style` attributes or elements, nor event attributes work.
//!
//! | path | view | |
//! |---|---|---|
//! | `GET /` | [`JobsView`] | with the members of [`JobQuery`] as its query |
//! | `GET /jobs/{job}` | [`JobView`] | `?tab=` as the page likes; it comes back in [`JobView::tab`] |
//! | `GET /jobs/{job}/tasks/{task}` | [`TaskView`] | |
//! | `GET /jobs/{job}/ask/{command}` | [`AskView`] | asks back before a command; works without a script |
//! | `POST /jobs/{job}/command` | | form: `command` and its members, `key`; goes back to the job |
//! | `GET /submit` | [`SubmitView`] | `?kind=` chooses |
//! | `POST /submit` | [`SubmitView`] | form: `text`, `do` = `preview` or `submit`, `key`; a submitted job is shown |
//! | `GET /workers`, `/shared`, `/schedules`, `/audit` | [`WorkersView`], … | |
//! | `GET /schedules/{schedule}/ask/{command}` | [`ScheduleAskView`] | asks back before a command |
//! | `POST /schedules/{schedule}/command` | | form: `command`, `key`; goes back to the schedules |
//! | `GET /login`, `POST /login` | [`LoginView`] | form: `token`; `POST /logout` forgets it |
//! | `GET /assets/{name}` | | [`Pages::asset`] |
//!
//! Scripts use the API with the header [`crate::REQUEST_MARK`] (any value) in each change.

use crate::audit::{AuditList, AuditQuery};
use crate::graph::Graph;
use crate::job::{JobDetail, JobList, JobQuery};
use crate::kind::KindInfo;
use crate::log::LogList;
use crate::plan::PlanPreview;
use crate::problem::Problem;
use crate::report::Report;
use crate::role::Whoami;
use crate::schedule::{ScheduleCommand, ScheduleList, ScheduleView};
use crate::shared::SharedList;
use crate::task::{TaskDetail, TaskList, TaskQuery};
use crate::worker::WorkerList;

/// What every page has.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Who looks; `None` on the page that asks for a token.
    pub who: Option<Whoami>,
    /// Whether somebody can log out: they came with a cookie.
    pub may_log_out: bool,
    /// The program's version.
    pub version: String,
    /// The time on the server, for ages.
    pub now: jiff::Timestamp,
    /// A key for the change that a form on this page makes: sending the form twice changes once.
    pub key: String,
    /// What went wrong with what was asked last, to be shown at the top.
    pub problem: Option<Problem>,
}

/// The list of jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct JobsView {
    /// What every page has.
    pub frame: Frame,
    /// What was asked for.
    pub query: JobQuery,
    /// The jobs.
    pub list: JobList,
    /// The kinds, to filter by.
    pub kinds: Vec<KindInfo>,
}

/// One job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobView {
    /// What every page has.
    pub frame: Frame,
    /// The part of the page that was asked for.
    pub tab: Option<String>,
    /// The job.
    pub job: JobDetail,
    /// Its plan as a picture, every task a node: the page collapses what is too much to look at, and opens a group
    /// when asked to.
    pub graph: Graph,
    /// Which tasks were asked for.
    pub query: TaskQuery,
    /// These tasks.
    pub tasks: TaskList,
    /// Tasks that wait, failed or were not tried, with reasons: why it is not done. The first 50.
    pub stuck: TaskList,
    /// The end of its log.
    pub log: LogList,
    /// What it did so far; its `summary` is the kind's own.
    pub report: Report,
}

/// One task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskView {
    /// What every page has.
    pub frame: Frame,
    /// The job.
    pub job: JobDetail,
    /// The task.
    pub task: TaskDetail,
    /// Tasks that it depends on and that depend on it, for their names.
    pub near: TaskList,
    /// The end of what the log says about it.
    pub log: LogList,
}

/// Asks back before a command.
#[derive(Clone, Debug, PartialEq)]
pub struct AskView {
    /// What every page has.
    pub frame: Frame,
    /// The job.
    pub job: JobDetail,
    /// The command: `cancel`.
    pub command: String,
    /// The task, for commands to one.
    pub task: Option<String>,
}

/// Submitting a job.
#[derive(Clone, Debug, PartialEq)]
pub struct SubmitView {
    /// What every page has; its problem has the faults with line and column.
    pub frame: Frame,
    /// The kinds, with schemas.
    pub kinds: Vec<KindInfo>,
    /// The kind that was chosen.
    pub kind: Option<String>,
    /// The job file as typed so far, or an example.
    pub text: String,
    /// What it would do.
    pub preview: Option<PlanPreview>,
}

/// Workers and claims.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkersView {
    /// What every page has.
    pub frame: Frame,
    /// The workers.
    pub list: WorkerList,
}

/// Shared resources and holders.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedView {
    /// What every page has.
    pub frame: Frame,
    /// The resources.
    pub list: SharedList,
}

/// Schedules.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulesView {
    /// What every page has.
    pub frame: Frame,
    /// The schedules.
    pub list: ScheduleList,
}

/// Asks back before a command to a schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleAskView {
    /// What every page has.
    pub frame: Frame,
    /// The schedule.
    pub schedule: ScheduleView,
    /// The command.
    pub command: ScheduleCommand,
}

/// Who changed what.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditView {
    /// What every page has.
    pub frame: Frame,
    /// What was asked for.
    pub query: AuditQuery,
    /// The entries.
    pub list: AuditList,
}

/// Asks for a token.
#[derive(Clone, Debug, PartialEq)]
pub struct LoginView {
    /// What every page has.
    pub frame: Frame,
    /// Where to go afterwards: a path on this server.
    pub next: String,
}

/// A page that could not be shown; the problem is in the frame.
#[derive(Clone, Debug, PartialEq)]
pub struct ProblemView {
    /// What every page has.
    pub frame: Frame,
}

/// A file that pages refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Its media type.
    pub media_type: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
}

/// Draws pages: whole HTML documents from views, and nothing else.
pub trait Pages: Send + Sync + 'static {
    /// The list of jobs.
    fn jobs(&self, view: &JobsView) -> String;
    /// One job.
    fn job(&self, view: &JobView) -> String;
    /// One task.
    fn task(&self, view: &TaskView) -> String;
    /// Asks back before a command.
    fn ask(&self, view: &AskView) -> String;
    /// Submitting a job.
    fn submit(&self, view: &SubmitView) -> String;
    /// Workers and claims.
    fn workers(&self, view: &WorkersView) -> String;
    /// Shared resources and holders.
    fn shared(&self, view: &SharedView) -> String;
    /// Schedules.
    fn schedules(&self, view: &SchedulesView) -> String;
    /// Asks back before a command to a schedule.
    fn ask_schedule(&self, view: &ScheduleAskView) -> String;
    /// A report as one file that needs nothing else, made at `now` by `version` of the program.
    fn report_file(&self, report: &Report, version: &str, now: jiff::Timestamp) -> String;
    /// Who changed what.
    fn audit(&self, view: &AuditView) -> String;
    /// Asks for a token.
    fn login(&self, view: &LoginView) -> String;
    /// A page that could not be shown.
    fn problem(&self, view: &ProblemView) -> String;
    /// The file `/assets/{name}`.
    fn asset(&self, name: &str) -> Option<Asset>;
}
