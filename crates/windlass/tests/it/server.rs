//! The same commands on a folder and through a real server, with tokens and TLS, and over a restart of the server.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json as object};
use windlass_clock::SystemClock;

use crate::documents::{json, windlass};

/// Longest that anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// `windlass up`, killed when dropped.
pub(crate) struct Up {
    child: Child,
    pub(crate) url: String,
}

impl Up {
    /// Starts a server with `options` and waits until it serves.
    pub(crate) fn start(state: &str, options: &[&str]) -> Self {
        Self::start_in(&std::env::temp_dir().join("windlass-tests-name-their-state"), state, options)
    }

    /// As [`Up::start`], with a folder for its files where the state is no folder.
    pub(crate) fn start_in(home: &Path, state: &str, options: &[&str]) -> Self {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("windlass"));
        command.args(["up", "--output", "json", "--state", state]).args(options).env("XDG_STATE_HOME", home);
        for name in ["WINDLASS_SERVER", "WINDLASS_TOKEN", "WINDLASS_LOG", "WINDLASS_LISTEN"] {
            command.env_remove(name);
        }
        let said = tempfile::tempfile().unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said).spawn().unwrap();
        let mut text = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let url = loop {
            assert!(stdout.read_line(&mut text).unwrap() > 0, "the server ended: {text}");
            if let Ok(document) = serde_json::from_str::<Value>(&text) {
                break document["url"].as_str().unwrap_or_else(|| panic!("{document}")).to_owned();
            }
        };
        Self { child, url }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free at the moment.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn file(folder: &Path, name: &str, tasks: &Value) -> PathBuf {
    let path = folder.join(format!("{name}.json"));
    let document = object!({ "kind": "dag", "name": name, "labels": { "team": "search" }, "spec": { "tasks": tasks } });
    std::fs::write(&path, document.to_string()).unwrap();
    path
}

/// A question between two tasks that do nothing.
pub(crate) fn asking() -> Value {
    object!([
        { "name": "before", "type": "noop" },
        { "name": "ask", "type": "approve", "with": { "question": "go on?" }, "needs": ["before"] },
        { "name": "after", "type": "noop", "needs": ["ask"] },
    ])
}

struct Both {
    folder: tempfile::TempDir,
    up: Up,
}

impl Both {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let up = Up::start(folder.path().join("state").to_str().unwrap(), &["--listen", "127.0.0.1:0"]);
        Self { folder, up }
    }

    fn server(&self, words: &[&str]) -> assert_cmd::Command {
        let mut command = windlass();
        command.args(words).args(["--server", &self.up.url]);
        command
    }

    fn state(&self, words: &[&str]) -> assert_cmd::Command {
        let mut command = windlass();
        command.args(words).arg("--state").arg(self.folder.path().join("state"));
        command
    }

    fn submit(&self, name: &str, tasks: &Value) -> String {
        let file = file(self.folder.path(), name, tasks);
        let (document, code) = json(&mut self.server(&["submit", file.to_str().unwrap()]));
        assert_eq!((code, &document["name"]), (0, &object!(name)), "{document}");
        document["job"].as_str().unwrap().to_owned()
    }

    /// Both say the same, as text and as JSON, and end alike. How long a job has run by now is told with the moment.
    #[track_caller]
    fn same(&self, words: &[&str]) -> Value {
        let document = |mut command: assert_cmd::Command| {
            let (mut document, code) = json(&mut command);
            if let Some(members) = document.as_object_mut() {
                members.remove("elapsed_ms");
            }
            (document, code)
        };
        let (server, state) = (document(self.server(words)), document(self.state(words)));
        assert_eq!(server, state, "{words:?}");
        if !server.0.to_string().contains("\"state\":\"running\"") {
            let text = |mut command: assert_cmd::Command| {
                let output = command.output().unwrap();
                (String::from_utf8(output.stdout).unwrap(), output.status.code())
            };
            assert_eq!(text(self.server(words)), text(self.state(words)), "{words:?}");
        }
        server.0
    }

    fn shown(&self, job: &str) -> Value {
        json(&mut self.server(&["show", job])).0
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        until(what, &mut is_so).await;
    }
}

pub(crate) async fn until(what: &str, is_so: &mut dyn FnMut() -> bool) {
    let clock = SystemClock::real();
    let begun = clock.monotonic();
    while !is_so() {
        assert!(clock.monotonic() - begun < PATIENCE, "waited in vain for {what}");
        clock.sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_server_and_its_folder_tell_the_same_of_a_job_from_its_submission_to_its_end() {
    let both = Both::new();
    let job = both.submit("question", &asking());
    let asked = || both.shown("question")["tasks"].to_string().contains("go on?");
    both.until("the question", asked).await;

    let listed = both.same(&["jobs"]);
    assert_eq!(listed["jobs"][0]["id"], job.as_str());
    assert_eq!(both.same(&["jobs", "--unfinished", "--label", "team=search"])["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(both.same(&["jobs", "--kind", "rebalance"]), object!({ "jobs": [] }));
    both.same(&["why", "question"]);
    both.same(&["why", "question", "ask"]);
    both.same(&["log", &job]);
    both.same(&["log", &job, "--after", "2", "--limit", "1"]);
    both.same(&["jobs", "--label", "team=other"]);

    both.same(&["show", "question"]);
    for words in [["pause", "question", "--for", "1h"].as_slice(), &["extend", "question", "2h"]] {
        let (document, code) = json(&mut both.server(words));
        assert_eq!((code, &document["job"], &document["asked_holder"]), (0, &object!(job), &object!(true)));
    }
    let paused = both.same(&["show", "question"]);
    assert_eq!(paused["status"]["state"], "paused");
    assert!(paused["status"]["resume_at"].is_string(), "{paused:#}");
    let (document, code) = json(&mut both.server(&["resume", &job[..8]]));
    assert_eq!((code, &document["status"]["state"]), (0, &object!("running")));

    // A task that is not there, an undo while it runs: the refusals of both are alike.
    for words in [["approve", "question", "nobody"].as_slice(), &["undo", "question"], &["show", "nothing"]] {
        let (of_server, code) = json(&mut both.server(words));
        assert_eq!(code, 2, "{words:?}: {of_server}");
        assert_eq!(json(&mut both.state(words)).1, 2, "{words:?}");
    }
    let (missing, _) = json(&mut both.server(&["show", "nothing"]));
    let (missing_here, _) = json(&mut both.state(&["show", "nothing"]));
    assert_eq!(missing, missing_here);

    both.server(&["approve", "question", "ask", "--note", "looked at it"]).assert().code(0);
    let (mut report, code) = json(&mut both.server(&["watch", "question"]));
    assert_eq!((code, &report["status"]["result"]), (0, &object!("succeeded")), "{report:#}");
    report.as_object_mut().unwrap().remove("elapsed_ms");
    assert_eq!(both.same(&["report", "question"]), report);
    let shown = both.same(&["show", "question"]);
    assert_eq!(shown["tasks"][1]["status"]["approval"]["note"], "looked at it", "{shown:#}");

    both.server(&["retry", "question", "--all"]).assert().code(0);
    both.server(&["cancel", "question"]).assert().code(0);
    both.until("the end", || both.shown("question")["status"]["state"] == "completed").await;
    // It was cancelled, and so says the exit code of whoever watches.
    both.server(&["watch", "question"]).assert().code(1);
    both.server(&["confirm", "question"]).assert().code(0);
    let (deleted, code) = json(&mut both.server(&["delete", "question"]));
    assert_eq!((code, &deleted["deleted"]), (0, &object!([])), "{deleted}");
    assert_eq!(both.same(&["jobs"]), object!({ "jobs": [] }));
}

#[tokio::test]
async fn whoever_watches_sees_a_job_through_the_death_of_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let listen = format!("127.0.0.1:{}", free_port());
    let up = || Up::start(state.to_str().unwrap(), &["--listen", &listen]);
    let first = up();
    let job_file = file(folder.path(), "long", &asking());
    windlass().args(["submit", job_file.to_str().unwrap(), "--server", &listen]).assert().code(0);
    let follow = |words: &[&str], name: &str| {
        let out = File::create(folder.path().join(name)).unwrap();
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("windlass"));
        command.args(words).args(["long", "--server", &listen]).env_remove("WINDLASS_STATE");
        command.stdin(Stdio::null()).stdout(out).stderr(Stdio::inherit()).spawn().unwrap()
    };
    let mut log = follow(&["log", "--follow"], "log");
    let mut watch = follow(&["watch", "--output", "json"], "watch");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let asked = || json(windlass().args(["show", "long", "--server", &listen])).0.to_string().contains("go on?");
    until("the question", &mut || asked()).await;
    until("a line", &mut || !read("log").is_empty()).await;
    first.kill();
    assert!(watch.try_wait().unwrap().is_none() && log.try_wait().unwrap().is_none(), "they go on");
    let (gone, code) = json(windlass().args(["jobs", "--server", &listen]));
    assert_eq!((code, &gone["error"]["code"]), (3, &object!("server_unreachable")), "{gone}");
    assert!(gone["error"]["hint"].as_str().unwrap().contains("windlass up"), "{gone}");

    let _second = up();
    windlass().args(["approve", "long", "ask", "--server", &listen]).assert().code(0);
    assert_eq!(watch.wait().unwrap().code(), Some(0));
    assert_eq!(log.wait().unwrap().code(), Some(0));
    let report: Value = serde_json::from_str(&read("watch")).unwrap();
    assert_eq!(report["status"]["result"], "succeeded");
    let numbers: Vec<u64> =
        read("log").lines().map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "without gap and without repeat");
    let (whole, _) = json(windlass().args(["log", "long", "--server", &listen]));
    assert_eq!(whole["entries"].as_array().unwrap().len(), numbers.len());
}

#[test]
fn tokens_and_certificates_are_asked_for_and_explained() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(path("other.pem"), other.cert.pem()).unwrap();
    let token = |name: &str, role: &str| {
        let (made, _) = json(windlass().args(["token", "new", "--name", name, "--role", role]));
        let text = |member: &str| made[member].as_str().unwrap().to_owned();
        (text("token"), text("access_line"))
    };
    let ((anna, anna_line), (bert, bert_line)) = (token("anna", "operator"), token("bert", "viewer"));
    std::fs::write(path("access"), format!("{anna_line}\n{bert_line}\n")).unwrap();
    std::fs::write(path("token"), format!("{anna}\n")).unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let (access, cert, key) = (path("access"), path("cert.pem"), path("key.pem"));
    let options =
        ["--listen", &listen, "--access", &access, "--tls-cert", &cert, "--tls-key", &key, "--host", "localhost"];
    let _up = Up::start(&path("state"), &options);
    let server = format!("https://localhost:{}", listen.rsplit(':').next().unwrap());
    let ask = |words: &[&str], token: Option<&str>| {
        let mut command = windlass();
        command.args(words).args(["--server", &server, "--server-ca", &cert]);
        if let Some(token) = token {
            command.env("WINDLASS_TOKEN", token);
        }
        let (document, code) = json(&mut command);
        let text = document.to_string();
        assert!(!text.contains(&anna) && !text.contains(&bert), "{text}");
        (document, code)
    };
    let job_file = file(folder.path(), "secured", &asking());
    let submit = ["submit", job_file.to_str().unwrap()];

    let (refused, code) = ask(&["jobs"], None);
    assert_eq!(code, 3, "{refused}");
    assert!(refused["error"]["hint"].as_str().unwrap().contains("WINDLASS_TOKEN"), "{refused}");
    assert_eq!(ask(&["jobs"], Some("wlt_nobodys")).1, 3);
    let (refused, code) = ask(&submit, Some(&bert));
    assert_eq!(code, 3, "{refused}");
    assert!(refused["error"]["hint"].as_str().unwrap().contains("role"), "{refused}");
    assert_eq!(ask(&["jobs"], Some(&bert)), (object!({ "jobs": [] }), 0));
    // What is named on the command line counts before the environment.
    let token_file = path("token");
    assert_eq!(ask(&[&submit[..], &["--token-file", &token_file]].concat(), Some(&bert)).1, 0);

    // A certificate that the given roots do not vouch for, and a token that would travel in the clear.
    let (other, address) = (path("other.pem"), listen.clone());
    for (server, roots) in [(server.as_str(), other.as_str()), (address.as_str(), cert.as_str())] {
        let (document, code) =
            json(windlass().args(["jobs", "--server", server, "--server-ca", roots]).env("WINDLASS_TOKEN", &anna));
        assert_eq!(code, 3, "{server}: {document}");
    }
    let (document, code) =
        json(windlass().args(["jobs", "--server", "http://10.1.2.3:1"]).env("WINDLASS_TOKEN", &anna));
    assert_eq!(code, 2, "{document}");
    assert!(document["error"]["message"].as_str().unwrap().contains("in the clear"), "{document}");
}

#[test]
fn what_works_on_a_state_itself_does_not_take_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    for words in [["run", "x.json"].as_slice(), &["worker"], &["up"], &["export"]] {
        let path = file(folder.path(), "x", &asking());
        let words: Vec<&str> =
            words.iter().map(|word| if *word == "x.json" { path.to_str().unwrap() } else { word }).collect();
        let (document, code) = json(windlass().args(words).args(["--server", "127.0.0.1:1"]));
        assert_eq!(code, 2, "{document}");
        assert!(document["error"]["hint"].as_str().unwrap().contains("--state"), "{document}");
    }
    windlass().args(["jobs", "--server", "127.0.0.1:1", "--state"]).arg(&state).assert().code(2);
    // What is typed is meant, whatever the environment says.
    let mut command = windlass();
    command.args(["jobs", "--state"]).arg(&state).env("WINDLASS_SERVER", "127.0.0.1:1");
    assert_eq!(json(&mut command), (object!({ "jobs": [] }), 0));
}

#[tokio::test]
async fn schedules_are_listed_steered_and_removed_on_a_folder_and_through_a_server() {
    let both = Both::new();
    let path = both.folder.path().join("nightly.json");
    let document = object!({ "kind": "dag", "name": "nightly", "spec": { "tasks": asking() },
        "schedule": { "cron": "30 2 * * *", "time_zone": "Europe/Berlin", "overlap": "skip" } });
    std::fs::write(&path, document.to_string()).unwrap();
    both.server(&["submit", path.to_str().unwrap()]).assert().code(0);

    let listed = both.same(&["schedule", "list"]);
    let next = listed["schedules"][0]["next"].as_str().unwrap();
    assert!(next.contains(":30:00"), "{listed:#}");
    assert_eq!(both.same(&["schedule", "show", "nightly"])["runs"], 0);
    let (begun, code) = json(&mut both.server(&["schedule", "trigger", "nightly"]));
    assert_eq!((code, &begun["triggered"]), (0, &object!("began")), "{begun}");
    let asked = || both.shown("nightly")["tasks"].to_string().contains("go on?");
    both.until("the run", asked).await;
    // Through the folder, whose holder is asked: the run before it has not ended.
    let (left_out, code) = json(&mut both.state(&["schedule", "trigger", "nightly"]));
    assert_eq!((code, &left_out["triggered"]), (0, &object!("left-out")), "{left_out}");
    assert_eq!(left_out["job"], begun["job"]);
    let shown = both.same(&["schedule", "show", "nightly"]);
    assert!(shown["history"][0]["note"].is_string(), "{shown:#}");
    assert_eq!(shown["history"][1]["job"], begun["job"]);
    let text = String::from_utf8(both.state(&["schedule", "show", "nightly"]).output().unwrap().stdout).unwrap();
    assert!(text.contains("left out: ") && text.contains("a person asked"), "{text}");

    assert_eq!(json(&mut both.state(&["schedule", "pause", "nightly"])).0["paused"], true);
    let text = String::from_utf8(both.server(&["schedule", "list"]).output().unwrap().stdout).unwrap();
    assert!(text.contains("paused"), "{text}");
    assert_eq!(json(&mut both.server(&["schedule", "resume", "nightly"])).0["next"], next);
    for command in ["show", "pause", "delete"] {
        let words = ["schedule", command, "nobody"];
        let (of_server, of_state) = (json(&mut both.server(&words)), json(&mut both.state(&words)));
        assert_eq!((of_server.1, &of_server.0["error"]["code"]), (2, &object!("no_such_schedule")), "{command}");
        assert_eq!(of_state, of_server, "{command}");
    }
    both.server(&["schedule", "delete", "nightly"]).assert().code(0);
    assert_eq!(both.same(&["schedule", "list"]), object!({ "schedules": [] }));
    // What it had begun stays.
    assert_eq!(both.same(&["jobs"])["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_plan_that_was_looked_at_is_what_runs_or_nothing_does() {
    let both = Both::new();
    let path = |name: &str| both.folder.path().join(name).to_str().unwrap().to_owned();
    let (plan, tasks) = (path("plan"), asking());
    let job = file(both.folder.path(), "planned", &tasks).to_str().unwrap().to_owned();
    let (planned, code) = json(windlass().args(["plan", &job, "--out", &plan]));
    assert_eq!(code, 0, "{planned}");
    let digest = planned["digest"].as_str().unwrap();
    // The same, whoever plans and whenever; also on the server.
    assert_eq!(json(windlass().args(["plan", &job])).0["digest"], digest);
    let (of_server, _) = json(&mut both.server(&["plan", &job]));
    assert_eq!(of_server["digest"], digest);
    assert_eq!(of_server["would_run_by_type"], planned["would_run_by_type"]);

    let mut changed = tasks.clone();
    changed[1]["with"]["question"] = object!("go on, really?");
    changed.as_array_mut().unwrap().push(object!({ "name": "more", "type": "noop", "needs": ["after"] }));
    file(both.folder.path(), "planned", &changed);
    let other_state = path("other");
    for (words, named) in [
        (vec!["submit", &job, "--expect-plan", &plan, "--server", &both.up.url], true),
        (vec!["submit", &job, "--expect-plan", digest, "--server", &both.up.url], false),
        (vec!["run", &job, "--expect-plan", &plan, "--state", &other_state], true),
        (vec!["run", &job, "--expect-plan", digest, "--state", &other_state], false),
    ] {
        let output = windlass().args(&words).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert_eq!(said.contains("dag.noop[more] is new"), named, "{words:?}: {said}");
        assert_eq!(said.contains("dag.approve[ask] is not the same"), named, "{words:?}: {said}");
    }
    assert_eq!(both.same(&["jobs"]), object!({ "jobs": [] }), "nothing was started");
    assert_eq!(json(windlass().args(["jobs", "--state", &other_state])).0, object!({ "jobs": [] }));

    file(both.folder.path(), "planned", &tasks);
    both.server(&["submit", &job, "--expect-plan", &plan]).assert().code(0);
    both.state(&["submit", &job, "--expect-plan", digest]).assert().code(0);
    both.server(&["submit", &job, "--expect-plan", "sha256:12"]).assert().code(2);
}

#[tokio::test]
async fn a_report_is_one_file_that_needs_nothing_else() {
    let both = Both::new();
    let tasks = object!([{ "name": "a", "type": "noop" }, { "name": "<b>&", "type": "noop" }]);
    let refused = file(both.folder.path(), "odd", &tasks);
    both.server(&["submit", refused.to_str().unwrap()]).assert().code(2);
    both.submit("fine", &object!([{ "name": "a", "type": "noop" }]));
    both.server(&["watch", "fine"]).assert().code(0);
    let of = |command: &mut assert_cmd::Command, name: &str| {
        let path = both.folder.path().join(name);
        command.arg("--html").arg(&path).assert().code(0);
        let page = std::fs::read_to_string(path).unwrap();
        // The moment at which it was written is in its foot.
        page.split_once("<footer").unwrap().0.to_owned()
    };
    let (there, here) =
        (of(&mut both.server(&["report", "fine"]), "a.html"), of(&mut both.state(&["report", "fine"]), "b.html"));
    assert_eq!(there, here);
    assert!(here.contains("<style>") && here.contains("succeeded") && here.contains("@media print"));
    for outside in ["http://", "https://", "src=", "<link", "<script", "url(", "@import"] {
        let at = here.find(outside).map(|at| &here[at..(at + 60).min(here.len())]);
        assert!(at.is_none_or(|found| found.starts_with("http://www.w3.org/")), "{outside}: {at:?}");
    }
}
