//! Every operation of the API, in one table: the server mounts it, the OpenAPI document is made from it.

use schemars::{Schema, SchemaGenerator};

use crate::role::Role;
use crate::{
    AuditList, AuditQuery, CommandAnswer, CommandRequest, Event, JobDetail, JobList, JobQuery, KindInfo, KindList,
    LeftoverList, LogList, LogQuery, PlanPreview, ROW_MEDIA_TYPES, Report, RowsQuery, RowsTaken, ScheduleAnswer,
    ScheduleCommand, ScheduleList, ScheduleView, SharedList, SubmitRequest, Submitted, TaskDetail, TaskList, TaskQuery,
    WaitFor, Whoami, WholeJob, WholeList, WholeReport, WorkerList, graph::Graph,
};

/// The HTTP method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Reads.
    Get,
    /// Changes.
    Post,
}

impl Method {
    /// As in the OpenAPI document.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
        }
    }
}

/// Makes the schema of a type.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What an operation answers with when it succeeds.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// A JSON document.
    Json(SchemaOf),
    /// A stream of events with this data.
    Events(SchemaOf),
    /// A JSON document of no fixed form.
    Any,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Reads or changes.
    pub method: Method,
    /// The path after [`crate::BASE`], with parameters in braces.
    pub path: &'static str,
    /// Names it for programs that generate clients.
    pub id: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// Who may; `None`: everybody.
    pub role: Option<Role>,
    /// The query parameters: members of this type.
    pub query: Option<SchemaOf>,
    /// A second set of query parameters.
    pub wait: Option<SchemaOf>,
    /// What is sent.
    pub body: Option<SchemaOf>,
    /// The media types of what is sent, when it is no JSON document.
    pub media: &'static [&'static str],
    /// What comes back.
    pub answer: Answer,
    /// The status of success.
    pub status: u16,
}

const fn get(path: &'static str, id: &'static str, summary: &'static str, answer: Answer) -> Route {
    let role = Some(Role::Viewer);
    Route {
        method: Method::Get,
        path,
        id,
        summary,
        role,
        query: None,
        wait: None,
        body: None,
        media: &[],
        answer,
        status: 200,
    }
}

const fn post(path: &'static str, id: &'static str, summary: &'static str, body: SchemaOf, answer: Answer) -> Route {
    let role = Some(Role::Operator);
    let body = Some(body);
    Route {
        method: Method::Post,
        path,
        id,
        summary,
        role,
        query: None,
        wait: None,
        body,
        media: &[],
        answer,
        status: 200,
    }
}

impl Route {
    const fn query(mut self, query: SchemaOf) -> Self {
        self.query = Some(query);
        self
    }

    const fn wait(mut self, wait: SchemaOf) -> Self {
        self.wait = Some(wait);
        self
    }

    const fn role(mut self, role: Option<Role>) -> Self {
        self.role = role;
        self
    }

    const fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The parameters in the path.
    pub fn parameters(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

macro_rules! schema {
    ($type:ty) => {
        SchemaGenerator::subschema_for::<$type>
    };
}

/// Every operation under [`crate::BASE`].
pub const ROUTES: &[Route] = &[
    get("/openapi.json", "openapi", "This document", Answer::Any).role(None),
    get("/whoami", "whoami", "Who is asking, and what they may do", Answer::Json(schema!(Whoami))),
    get("/kinds", "list_kinds", "The kinds of jobs there are", Answer::Json(schema!(KindList))),
    get("/kinds/{kind}", "get_kind", "One kind, with the JSON Schema of its spec", Answer::Json(schema!(KindInfo))),
    post(
        "/plan",
        "preview_plan",
        "What a job would do; nothing is stored or changed",
        schema!(SubmitRequest),
        Answer::Json(schema!(PlanPreview)),
    ),
    get("/jobs", "list_jobs", "Jobs, newest first", Answer::Json(schema!(JobList))).query(schema!(JobQuery)),
    post(
        "/jobs",
        "submit_job",
        "Submits a job, or with `schedule` a schedule; it is durable when the answer comes",
        schema!(SubmitRequest),
        Answer::Json(schema!(Submitted)),
    )
    .status(201),
    get(
        "/jobs/{job}",
        "get_job",
        "One job, by id, by name (the newest of it) or by the beginning or end of its id",
        Answer::Json(schema!(JobDetail)),
    )
    .wait(schema!(WaitFor)),
    post(
        "/jobs/{job}/commands",
        "command_job",
        "Gives a command to a job; `delete` with `force` needs the role admin",
        schema!(CommandRequest),
        Answer::Json(schema!(CommandAnswer)),
    ),
    get(
        "/jobs/{job}/tasks",
        "list_tasks",
        "Tasks of a job, in an order in which they could run",
        Answer::Json(schema!(TaskList)),
    )
    .query(schema!(TaskQuery)),
    get(
        "/jobs/{job}/tasks/{task}",
        "get_task",
        "One task, by id, by name or by a part of its name",
        Answer::Json(schema!(TaskDetail)),
    ),
    get("/jobs/{job}/tasks/{task}/output", "get_task_output", "The output of a task, also a large one", Answer::Any),
    get("/jobs/{job}/graph", "get_graph", "The plan as nodes and edges", Answer::Json(schema!(Graph))),
    get(
        "/jobs/{job}/why",
        "why_job",
        "Why a job is not done: tasks that wait, failed or were not tried, with reasons",
        Answer::Json(schema!(TaskList)),
    )
    .query(schema!(TaskQuery)),
    get("/jobs/{job}/log", "get_log", "The log of a job", Answer::Json(schema!(LogList))).query(schema!(LogQuery)),
    get(
        "/whole/jobs",
        "list_whole_jobs",
        "Jobs, newest first, with their statuses as they are stored",
        Answer::Json(schema!(WholeList)),
    )
    .query(schema!(JobQuery)),
    get(
        "/jobs/{job}/whole",
        "get_whole_job",
        "One job with all its tasks, as they are stored",
        Answer::Json(schema!(WholeJob)),
    ),
    get(
        "/jobs/{job}/whole/report",
        "get_whole_report",
        "What a job did, with its status as it is stored",
        Answer::Json(schema!(WholeReport)),
    ),
    get("/jobs/{job}/report", "get_report", "What a job did", Answer::Json(schema!(Report))),
    get(
        "/jobs/{job}/leftovers",
        "get_leftovers",
        "What a job has left outside, and a script that removes it",
        Answer::Json(schema!(LeftoverList)),
    ),
    get(
        "/jobs/{job}/events",
        "job_events",
        "Follows a job; goes on after `Last-Event-ID`",
        Answer::Events(schema!(Event)),
    ),
    get("/events", "events", "Follows all jobs; goes on after `Last-Event-ID`", Answer::Events(schema!(Event))),
    get("/workers", "list_workers", "Workers that are present, and what they hold", Answer::Json(schema!(WorkerList))),
    get(
        "/shared",
        "list_shared",
        "Names and resources that jobs hold, and who holds them",
        Answer::Json(schema!(SharedList)),
    ),
    Route {
        method: Method::Post,
        path: "/tables/{table}/rows",
        id: "send_rows",
        summary: "Takes rows into a table's log as one batch; they are durable when the answer comes",
        role: Some(Role::Operator),
        query: Some(schema!(RowsQuery)),
        wait: None,
        body: None,
        media: &ROW_MEDIA_TYPES,
        answer: Answer::Json(schema!(RowsTaken)),
        status: 200,
    },
    get("/schedules", "list_schedules", "Jobs that run again by themselves", Answer::Json(schema!(ScheduleList))),
    get(
        "/schedules/{schedule}",
        "get_schedule",
        "One schedule, by name, by id or by the beginning or end of its id",
        Answer::Json(schema!(ScheduleView)),
    ),
    post(
        "/schedules/{schedule}/commands",
        "command_schedule",
        "Gives a command to a schedule; `delete` needs the role admin",
        schema!(ScheduleCommand),
        Answer::Json(schema!(ScheduleAnswer)),
    ),
    get("/audit", "list_audit", "Who changed what, newest first", Answer::Json(schema!(AuditList)))
        .query(schema!(AuditQuery))
        .role(Some(Role::Admin)),
];
