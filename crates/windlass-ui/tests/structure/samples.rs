//! Views to draw: ordinary ones, empty ones, huge ones, and ones whose every name is hostile.
//!
//! Made from JSON, as the API sends them: what these tests draw is what a server can say.

use jiff::Timestamp;
use serde_json::{Value, json};
use windlass_api::page::{
    AskView, AuditView, Frame, JobView, JobsView, LoginView, Pages as _, ProblemView, ScheduleAskView, SchedulesView,
    SharedView, SubmitView, TaskView, WorkersView,
};
use windlass_api::{Graph, JobQuery, Problem, Role, TaskQuery, Whoami};
use windlass_ui::Ui;

pub(crate) const JOB: &str = "01kb5r3x8v7q2m4n6p8r0t2v4x";
const WORKER: &str = "01kb5r3x8v7q2m4n6p8r0t2w0k";

pub(crate) fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap_or_else(|error| panic!("a sample is not what the API sends: {error}"))
}

pub(crate) fn task_id(n: usize) -> String {
    const DIGITS: &[u8] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut text = b"01kb5r3x8v7q2m4n6p8r000000".to_vec();
    let (mut n, mut at) = (n, text.len());
    while n > 0 {
        at -= 1;
        text[at] = DIGITS[n % 32];
        n /= 32;
    }
    String::from_utf8(text).unwrap()
}

/// What somebody calls things who wishes us ill, or nothing in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    Ordinary,
    Markup,
    RightToLeft,
    Long,
}

impl Names {
    pub(crate) fn name(self, ordinary: &str) -> String {
        match self {
            Self::Ordinary => ordinary.to_owned(),
            Self::Markup => format!("\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;{ordinary}"),
            Self::RightToLeft => format!("\u{202e}\u{5d0}\u{5d1}{ordinary}\u{2066}\u{feff}\u{0}\u{7}"),
            Self::Long => ordinary.repeat(10_240 / ordinary.len()),
        }
    }
}

pub(crate) fn frame(role: Role) -> Frame {
    Frame {
        who: Some(Whoami { name: "anna".into(), role, by: "cookie".into() }),
        may_log_out: true,
        version: "0.1.0".into(),
        now: "2026-11-21T04:10:00Z".parse::<Timestamp>().unwrap(),
        key: "0123456789abcdef".into(),
        problem: None,
    }
}

fn failure(names: Names) -> Value {
    json!({
        "code": "backup_unreadable", "class": "transient",
        "message": names.name("read s3://vald-backups/prod/agent-3: connection refused"),
        "causes": [names.name("connect to 10.0.3.7:9000"), "connection refused (os error 111)"],
        "hint": names.name("look whether the object store is up; the next attempt follows by itself"),
    })
}

fn state_of(n: usize, of: usize) -> &'static str {
    match n * 100 / of.max(1) {
        0..55 => "succeeded",
        55..62 => "running",
        62..64 => "failed",
        64..66 => "ignored",
        _ => "waiting",
    }
}

fn task(n: usize, of: usize, names: Names) -> Value {
    let state = state_of(n, of);
    let mut task = json!({
        "id": task_id(n),
        "type": if n == 0 { "rebalance.configure" } else if n.is_multiple_of(3) { "rebalance.scan" } else { "rebalance.move" },
        "resource": names.name(&format!("vald-agent-{n}")),
        "state": state,
        "dependencies": if n == 0 { json!([]) } else { json!([{"task": task_id(n / 4), "required": !n.is_multiple_of(5)}]) },
        "progress": {"done_items": 300, "total_items": 1200, "done_bytes": 1_500_000, "total_bytes": 6_000_000},
        "epoch": 1 + n % 3, "failures": n % 3, "since": "2026-11-21T04:09:12Z", "started": "2026-11-21T04:00:00Z",
        "effects": n % 4,
    });
    if state == "waiting" {
        task["waiting_on"] =
            json!([names.name("a free place on the worker"), "rebalance.scan[vald-agent-2] (running)"]);
    }
    if state == "failed" || n % 7 == 3 {
        task["failure"] = failure(names);
    }
    if state == "ignored" {
        task["because_of"] = json!([names.name("rebalance.move[vald-agent-9]")]);
    }
    task
}

fn log(entries: usize, names: Names) -> Value {
    let entry = |n: usize| {
        json!({
            "n": n, "at": format!("2026-11-21T04:{:02}:{:02}.25Z", n / 60 % 60, n % 60),
            "level": (["info", "info", "warn", "info", "error"][n % 5]), "code": "task.done",
            "task": task_id(n % 7), "message": names.name("a chunk of 500 vectors was moved"),
            "fields": if n.is_multiple_of(4) { json!({"bytes": 123_456, names.name("agent"): names.name("vald-agent-1")}) } else { json!({}) },
        })
    };
    json!({"job": JOB, "entries": (1..=entries).map(entry).collect::<Vec<_>>(), "last": entries, "more": false})
}

pub(crate) fn graph(tasks: usize, names: Names) -> Graph {
    let mut layers = vec![0_u32; tasks];
    let mut edges = Vec::new();
    for n in 1..tasks {
        layers[n] = layers[n / 4] + 1;
        edges.push(json!({"from": task_id(n / 4), "to": task_id(n), "required": !n.is_multiple_of(5), "count": 1}));
    }
    let node = |n: usize| {
        let state = state_of(n, tasks);
        let mut node = task(n, tasks, names);
        node["count"] = json!(1);
        node["layer"] = json!(layers[n]);
        if state != "waiting" && state != "ignored" {
            node["started"] =
                json!(format!("2026-11-21T04:{:02}:{:02}Z", n * 9 / tasks.max(1), n * 540 / tasks.max(1) % 60));
        }
        if state == "succeeded" || state == "failed" {
            node["ended"] = json!(format!(
                "2026-11-21T04:{:02}:{:02}Z",
                n * 9 / tasks.max(1),
                (n * 540 / tasks.max(1) % 60 + 14).min(59)
            ));
        }
        node
    };
    read(json!({"nodes": (0..tasks).map(node).collect::<Vec<_>>(), "edges": edges, "collapsed": false, "tasks": tasks}))
}

pub(crate) fn counts(tasks: usize) -> Value {
    let mut counts = json!({"waiting": 0, "running": 0, "succeeded": 0, "failed": 0, "ignored": 0, "cancelled": 0});
    for n in 0..tasks {
        let state = state_of(n, tasks);
        counts[state] = json!(counts[state].as_u64().unwrap() + 1);
    }
    counts
}

pub(crate) fn summary() -> Value {
    json!({
        "verdict": "moving",
        "agents": [
            {"name": "vald-agent-0", "before": 912_000, "target": 512_000, "after": 513_120, "trouble": null},
            {"name": "vald-agent-1", "before": 433_000, "target": 512_000, "after": 511_800, "trouble": null},
            {"name": "vald-agent-2", "before": 190_500, "target": 512_000, "after": null, "trouble": "its backup is 3 h old"},
        ],
        "moves": {"planned": 400_000, "outcomes": {"moved": 253_500, "gone": 12}, "still_to_do": 146_488},
    })
}

pub(crate) fn job_view(tab: &str, tasks: usize, names: Names) -> JobView {
    let counts = counts(tasks);
    JobView {
        frame: frame(Role::Operator),
        tab: Some(tab.to_owned()),
        job: read(json!({
            "id": JOB, "kind": "rebalance", "name": names.name("nightly-rebalance"),
            "spec": {"mode": names.name("deviation"), "cluster": {"name": "prod"}},
            "labels": {"team": names.name("search"), "site": "fra"}, "priority": 5, "deadline_ms": 21_600_000,
            "state": "running", "created": "2026-11-21T04:00:00Z", "started": "2026-11-21T04:00:01Z",
            "since": "2026-11-21T04:00:01Z", "elapsed_ms": 598_000, "generation": 1, "counts": counts,
            "work": {"done_items": 253_500, "total_items": 400_000}, "rate": 1432.5,
            "eta": {"soonest_s": 95.0, "latest_s": 210.0}, "warnings": 3, "last_log": 40,
            "waiting_on": [names.name("a worker: no process runs this job at the moment")],
            "commands": ["pause", "cancel", "retry", "undo", "confirm", "extend", "delete"], "version": 99,
        })),
        graph: graph(tasks, names),
        query: TaskQuery::default(),
        tasks: read(json!({
            "tasks": (0..tasks.min(100)).map(|n| task(n, tasks, names)).collect::<Vec<_>>(),
            "types": [
                {"type": "rebalance.move", "counts": counts, "work": {"done_items": 3, "total_items": 9}},
                {"type": "rebalance.scan", "counts": counts, "work": {}},
            ],
            "matching": tasks, "next": if tasks > 100 { Some("c100") } else { None },
        })),
        stuck: read(json!({
            "tasks": (0..tasks).filter(|n| state_of(*n, tasks) != "succeeded").take(50).map(|n| task(n, tasks, names)).collect::<Vec<_>>(),
            "matching": tasks,
        })),
        log: read(log(40, names)),
        report: read(json!({
            "job": JOB, "kind": "rebalance", "name": names.name("nightly-rebalance"), "state": "running",
            "created": "2026-11-21T04:00:00Z", "elapsed_ms": 598_000, "tasks": counts, "repeated_attempts": 4,
            "effects": {names.name("insert"): {"intended": 2, "made": 253_500, "gone": 0}, "delete": {"intended": 0, "made": 9, "gone": 3}},
            "unsuccessful": [{"task": names.name("rebalance.move[vald-agent-9]"), "outcome": "failed", "failure": failure(names)}],
            "warnings": log(6, names)["entries"], "summary": summary(),
        })),
    }
}

pub(crate) fn task_view(names: Names) -> TaskView {
    let job = job_view("plan", 20, names);
    let mut detail = task(13, 20, names);
    for (name, value) in json!({
        "job": JOB, "input": {"agent": names.name("vald-agent-13"), "ids": [1, 2, 3]},
        "references": [{"at": "/plan", "task": task_id(1), "pointer": names.name("/plan")}],
        "attempts": [
            {"epoch": 1, "worker": WORKER, "since": "2026-11-21T04:00:00Z", "ended": "2026-11-21T04:00:09Z", "failure": failure(names)},
            {"epoch": 2, "worker": WORKER, "since": "2026-11-21T04:01:00Z", "ended": "2026-11-21T04:01:02.5Z"},
        ],
        "ledger": [
            {"n": 0, "action": names.name("insert"), "target": names.name("vald-agent-2"), "key": names.name("id-1"),
             "state": "made", "epoch": 2, "external_id": names.name("x-1"), "receipt": {"bytes": 12}, "at": "2026-11-21T04:01:01Z"},
            {"n": 1, "action": "delete", "target": "vald-agent-0", "key": "id-1", "state": "intended", "epoch": 2, "at": "2026-11-21T04:01:02Z"},
        ],
        "checkpoint": {"at": 4200}, "output": {"value": {"moved": 500, "note": names.name("done")}},
        "deaths": 1, "dependants": [task_id(17), task_id(999)],
    }).as_object().unwrap() {
        detail[name] = value.clone();
    }
    TaskView {
        frame: frame(Role::Operator),
        job: job.job,
        task: read(detail),
        near: read(json!({"tasks": [task(3, 20, names), task(17, 20, names)], "matching": 2})),
        log: read(log(5, names)),
    }
}

pub(crate) fn jobs_view(jobs: usize, names: Names) -> JobsView {
    let states =
        ["running", "paused", "completed", "finished", "pending", "undo_failed", "cancelling", "undoing", "completed"];
    let results = [
        None,
        None,
        Some("succeeded_with_warnings"),
        Some("succeeded"),
        None,
        Some("partial"),
        None,
        None,
        Some("failed"),
    ];
    let job = |n: usize| {
        json!({
            "id": JOB.replace("2v4x", &task_id(n)[22..]), "kind": "rebalance", "name": names.name(&format!("nightly-rebalance-{n}")),
            "labels": {"team": names.name("search")}, "state": (states[n % 9]), "result": (results[n % 9]),
            "created": "2026-11-21T04:00:00Z", "since": "2026-11-21T04:00:00Z", "elapsed_ms": 123_456 * (n + 1),
            "needs_attention": n % 9 == 1, "counts": counts(100 + n), "work": {"done_items": n, "total_items": jobs},
        })
    };
    JobsView {
        frame: frame(Role::Operator),
        query: JobQuery { text: Some(names.name("night")), ..JobQuery::default() },
        list: read(json!({
            "jobs": (0..jobs).map(job).collect::<Vec<_>>(), "next": if jobs > 0 { Some("c50") } else { None },
            "by_state": if jobs > 0 { json!({"running": 3, "paused": 1, "completed": 4000}) } else { json!({}) },
        })),
        kinds: kinds(names),
    }
}

fn kinds(names: Names) -> Vec<windlass_api::KindInfo> {
    read(json!([
        {"name": "dag", "about": "runs the tasks that the job file lists", "task_types": ["noop", "exec"], "schema": {
            "type": "object", "required": ["tasks"], "properties": {
                "tasks": {"type": "array", "description": names.name("The tasks."), "items": {"type": "object",
                    "required": ["name"], "properties": {"name": {"type": "string"}, "type": {"enum": ["noop", "exec"]}}}},
            }}},
        {"name": "rebalance", "about": "evens out a vector index cluster", "task_types": ["rebalance.move"]},
    ]))
}

pub(crate) fn submit_view(names: Names, faulty: bool) -> SubmitView {
    let mut frame = frame(Role::Operator);
    frame.problem = faulty.then(|| problem(names));
    SubmitView {
        frame,
        kinds: kinds(names),
        kind: Some("dag".into()),
        text: format!("kind: dag\nname: {}\nspec:\n  taks: []\n", names.name("example")),
        preview: (!faulty).then(|| {
            read(json!({
                "kind": "rebalance", "name": names.name("example"), "description": names.name("12 000 vectors would move"),
                "summary": summary(), "looked": [
                    {"id": task_id(1), "type": "rebalance.scan", "resource": names.name("vald-agent-0"), "outcome": "succeeded"},
                    {"id": task_id(2), "type": "rebalance.scan", "resource": "vald-agent-1", "outcome": "failed", "failure": failure(names)},
                ],
                "would_run": (0..90).map(|n| json!({"id": task_id(n), "type": "rebalance.move", "resource": names.name("c")})).collect::<Vec<_>>(),
                "by_type": [{"type": "rebalance.move", "tasks": 90, "size": {"total_items": 12_000}}],
                "warnings": [names.name("force is set")],
            }))
        }),
    }
}

pub(crate) fn problem(names: Names) -> Problem {
    read(json!({
        "type": "/problems/invalid_spec", "title": "The spec has faults", "status": 400, "code": "invalid_spec",
        "detail": names.name("the job file was not taken"), "hint": "mend what is named",
        "faults": [{"pointer": names.name("/spec/taks"), "message": names.name("there is no member taks; did you mean tasks?"), "line": 4, "column": 3}],
    }))
}

/// Every page by a name, drawn.
pub(crate) fn every_page(names: Names) -> Vec<(String, String)> {
    let mut pages: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, html: String| pages.push((name.to_owned(), html));
    add("jobs", Ui.jobs(&jobs_view(50, names)));
    add("jobs-empty", Ui.jobs(&JobsView { query: JobQuery::default(), ..jobs_view(0, names) }));
    for tab in ["plan", "tasks", "timeline", "log", "effects", "report", "spec", "nonsense"] {
        add(&format!("job-{tab}"), Ui.job(&job_view(tab, 60, names)));
        add(&format!("job-{tab}-huge"), Ui.job(&job_view(tab, 5000, names)));
        add(&format!("job-{tab}-none"), Ui.job(&job_view(tab, 0, names)));
    }
    add("task", Ui.task(&task_view(names)));
    for command in [
        "pause",
        "resume",
        "cancel",
        "undo",
        "confirm",
        "ignore_leftovers",
        "retry",
        "approve",
        "extend",
        "delete",
        "nonsense",
    ] {
        let job = job_view("plan", 60, names).job;
        let view = AskView { frame: frame(Role::Admin), job, command: command.into(), task: None };
        add(&format!("ask-{command}"), Ui.ask(&view));
    }
    add("submit", Ui.submit(&submit_view(names, false)));
    add("submit-faulty", Ui.submit(&submit_view(names, true)));
    add("submit-new", Ui.submit(&SubmitView { text: String::new(), preview: None, ..submit_view(names, false) }));
    let worker = |n: usize| {
        json!({
            "id": WORKER, "name": names.name(&format!("worker-{n}")), "host": names.name("rack-3"), "pid": 4711,
            "started": "2026-11-21T01:00:00Z", "labels": {"site": names.name("fra")}, "task_types": ["noop"], "places": 8,
            "version": "0.1.0", "claims": [{"job": JOB, "name": names.name("nightly"), "kind": "rebalance"}],
        })
    };
    add(
        "workers",
        Ui.workers(&WorkersView { frame: frame(Role::Viewer), list: read(json!({"workers": [worker(0)]})) }),
    );
    add("workers-empty", Ui.workers(&WorkersView { frame: frame(Role::Viewer), list: read(json!({"workers": []})) }));
    let holders = json!([{"job": JOB, "name": names.name("nightly"), "kind": "recover"}]);
    add("shared", Ui.shared(&SharedView {
        frame: frame(Role::Viewer),
        list: read(json!({"resources": [
            {"key": names.name("network/prod"), "sort": "shared", "state": "ready", "holders": holders, "owner": holders[0], "error": names.name("it is in use"), "since": "2026-11-21T01:00:00Z", "details": {"id": names.name("n-1")}},
            {"key": "rebalance/prod", "sort": "exclusive", "holders": holders},
            {"key": "uploads", "sort": "pool", "size": 4, "holders": holders, "waiting": holders},
        ]})),
    }));
    add("shared-empty", Ui.shared(&SharedView { frame: frame(Role::Viewer), list: read(json!({"resources": []})) }));
    add("schedules", Ui.schedules(&SchedulesView {
        frame: frame(Role::Admin),
        list: read(json!({"schedules": [
            {"id": "s1", "name": names.name("nightly"), "kind": "rebalance", "schedule": {"cron": "0 3 * * *", "time_zone": "Europe/Berlin", "overlap": "cancel-running"},
             "paused": false, "next": "2026-11-22T02:00:00Z", "runs": 40, "history": [
                {"due": "2026-11-21T02:00:00Z", "by": "schedule", "job": JOB, "began": "2026-11-21T02:00:01Z"},
                {"due": "2026-11-20T02:00:00Z", "by": "made_up", "job": JOB, "began": "2026-11-20T02:00:01Z", "state": "completed", "result": "succeeded"},
                {"due": "2026-11-19T02:00:00Z", "by": "person", "note": names.name("the one before it has not ended")},
             ]},
            {"id": "s2", "name": "hourly", "kind": "dag", "schedule": {"every_ms": 3_600_000, "jitter_ms": 5000}, "paused": true},
        ]})),
    }));
    for (command, role) in
        [("pause", Role::Operator), ("resume", Role::Operator), ("trigger", Role::Operator), ("delete", Role::Admin)]
    {
        let schedule = read(json!({
            "id": "s1", "name": names.name("nightly"), "kind": "dag", "schedule": {"cron": names.name("0 3 * * *")}, "paused": false,
        }));
        let command = windlass_api::ScheduleCommand::named(command).expect("a command");
        let view = ScheduleAskView { frame: frame(role), schedule, command };
        add(&format!("ask-schedule-{}", command.name()), Ui.ask_schedule(&view));
    }
    add(
        "schedules-empty",
        Ui.schedules(&SchedulesView { frame: frame(Role::Viewer), list: read(json!({"schedules": []})) }),
    );
    let audit = |entries: Value| AuditView {
        frame: frame(Role::Admin),
        query: read(json!({})),
        list: read(json!({"entries": entries, "next": "c"})),
    };
    add("audit", Ui.audit(&audit(json!([
        {"id": "a1", "at": "2026-11-21T04:00:00Z", "who": names.name("anna"), "role": "operator", "from": "127.0.0.1", "what": "job.cancel", "job": JOB,
         "request_id": "r1", "outcome": "done", "details": {"undo": true, "note": names.name("x")}},
        {"id": "a2", "at": "2026-11-21T04:00:00Z", "from": "10.0.0.9", "what": "access.denied", "request_id": "r2", "outcome": "refused", "code": "unknown_token"},
    ]))));
    add("audit-empty", Ui.audit(&audit(json!([]))));
    let nobody = Frame { who: None, may_log_out: false, ..frame(Role::Viewer) };
    add("login", Ui.login(&LoginView { frame: nobody, next: names.name("/jobs") }));
    add("problem", Ui.problem(&ProblemView { frame: Frame { problem: Some(problem(names)), ..frame(Role::Viewer) } }));
    pages
}
