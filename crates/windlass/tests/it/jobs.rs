//! Jobs from the first command to the last, on a stand-in cluster in another process.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json as object};

use crate::documents::{json, windlass};
use crate::stand_in::StandIn;

/// A cluster, a state folder that does not exist yet, and a job file.
struct Scene {
    folder: tempfile::TempDir,
    cluster: StandIn,
    file: PathBuf,
    before: Vec<u64>,
}

impl Scene {
    fn new(options: &[&str], replica: u64, more: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let number = replica.to_string();
        let mut all = vec!["--replica", &number];
        all.extend(options);
        let mut cluster = StandIn::start(folder.path(), &all);
        let before = cluster.copies();
        let file = cluster.job_file(folder.path(), "even", replica, more);
        Self { folder, cluster, file, before }
    }

    /// 600 ids in one copy, moved slowly enough to get in between.
    fn slow() -> Self {
        Self::new(&["--ids", "600"], 1, &object!({ "rate_limit": { "moves": 60 }, "chunk": 40 }))
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn windlass(&self, words: &[&str]) -> assert_cmd::Command {
        let mut command = windlass();
        command.args(words).arg("--state").arg(self.state());
        command
    }

    fn run(&self) -> assert_cmd::Command {
        let mut command = self.windlass(&["run"]);
        command.arg(&self.file);
        command
    }

    /// Starts `run` and waits until its job moves things.
    fn start(&self) -> Running {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("windlass"));
        command.arg("run").arg(&self.file).arg("--state").arg(self.state()).args(["--output", "json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut running = Running { child: Some(child), stderr, told: String::new() };
        running.until("running");
        let log = || json(&mut self.windlass(&["log", "even"])).0.to_string();
        // The job says in its log when the first chunk is done.
        while !log().contains("rebalance.move") {
            assert!(running.child.as_mut().unwrap().try_wait().unwrap().is_none(), "it ended early: {}", running.told);
            std::thread::yield_now();
        }
        running
    }

    fn show(&self) -> Value {
        json(&mut self.windlass(&["show", "even"])).0
    }

    /// Every id is there once and the agents are even.
    #[track_caller]
    fn assert_even(&mut self) {
        let ids: u64 = self.before.iter().sum();
        let placement = self.cluster.ask("placement");
        assert_eq!(placement.as_object().unwrap().len() as u64, ids);
        assert!(placement.as_object().unwrap().values().all(|holders| holders.as_array().unwrap().len() == 1));
        let after = self.cluster.copies();
        let mean = ids as f64 / after.len() as f64;
        assert!(after.iter().all(|copies| (*copies as f64 - mean).abs() <= mean * 0.05 + 1.0), "{after:?}");
    }
}

/// A `run` that goes on.
struct Running {
    child: Option<Child>,
    stderr: BufReader<std::process::ChildStderr>,
    told: String,
}

impl Running {
    /// Reads standard error until it has a line with `part`.
    fn until(&mut self, part: &str) {
        while !self.told.contains(part) {
            let read = self.stderr.read_line(&mut self.told).unwrap();
            assert!(read > 0, "it ended without saying {part:?}: {}", self.told);
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
    }

    fn end(mut self) -> (Output, String) {
        while self.stderr.read_line(&mut self.told).unwrap() > 0 {}
        (self.child.take().unwrap().wait_with_output().unwrap(), std::mem::take(&mut self.told))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn a_job_is_planned_run_shown_undone_and_cannot_be_undone_twice() {
    let mut scene = Scene::new(&["--ids", "600"], 1, &object!({}));
    let (plan, code) = json(&mut {
        let mut command = scene.windlass(&["plan"]);
        command.arg(&scene.file);
        command
    });
    assert_eq!(code, 0, "{plan}");
    assert!(plan["would_run"].as_array().is_some_and(|tasks| !tasks.is_empty()), "{plan}");
    assert!(plan["description"].as_str().is_some_and(|text| text.contains("vald-agent-0")));
    assert_eq!(scene.cluster.copies(), scene.before, "a plan moves nothing");
    assert!(!scene.state().exists(), "a plan stores nothing");

    let (report, code) = json(&mut scene.run());
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["status"]["state"], "completed");
    scene.assert_even();

    let id = report["job"].as_str().unwrap();
    let (jobs, _) = json(&mut scene.windlass(&["jobs"]));
    assert_eq!(jobs["jobs"][0]["id"], id);
    for name in ["even", id, &id[..20], &id[20..]] {
        let (job, code) = json(&mut scene.windlass(&["show", name]));
        assert_eq!((job["record"]["id"].as_str(), code), (Some(id), 0), "{name}");
    }
    let (same, code) = json(&mut scene.windlass(&["report", "even"]));
    assert_eq!((&same["effects"], code), (&report["effects"], 0));
    let (log, _) = json(&mut scene.windlass(&["log", "even"]));
    let numbers: Vec<u64> =
        log["entries"].as_array().unwrap().iter().map(|entry| entry["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "the log has no gap");
    let (why, code) = json(&mut scene.windlass(&["why", "even"]));
    assert_eq!((why["tasks"].as_array().map(Vec::len), code), (Some(0), 0), "{why}");
    for command in ["jobs", "show", "why", "log", "report"] {
        let words: &[&str] = if command == "jobs" { &["jobs"] } else { &[command, "even"] };
        let output = scene.windlass(words).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{command}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{command} is silent on standard error");
    }

    let (undone, code) = json(&mut scene.windlass(&["undo", "even"]));
    assert_eq!(code, 0, "{undone}");
    assert_eq!(undone["status"]["state"], "finished");
    assert_eq!(scene.cluster.copies(), scene.before, "undo brings every copy back");
    let (refused, code) = json(&mut scene.windlass(&["undo", "even"]));
    assert_eq!(code, 2, "{refused}");
    assert!(!scene.state().join("control.sock").exists(), "the control socket is cleaned up");
}

#[test]
fn a_confirmed_job_is_over_for_good_and_the_same_file_starts_another() {
    let scene = Scene::new(&["--ids", "300"], 1, &object!({}));
    let (first, code) = json(&mut scene.run());
    assert_eq!(code, 0);
    let (confirmed, code) = json(&mut scene.windlass(&["confirm", "even"]));
    assert_eq!((confirmed["status"]["state"].as_str(), code), (Some("finished"), 0));
    let (second, code) = json(&mut scene.run());
    assert_eq!(code, 0, "{second}");
    assert_ne!(first["job"], second["job"]);
}

#[test]
fn an_interrupted_job_goes_on_with_the_same_command_and_no_other_spec() {
    let mut scene = Scene::slow();
    let running = scene.start();
    running.signal(Signal::INT);
    let (output, told) = running.end();
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert_eq!(document(&output)["interrupted"], true);
    assert!(told.contains("the same command"), "{told}");
    let unfinished = scene.show();
    assert_eq!(unfinished["status"]["state"], "running");
    assert!(unfinished["waiting_on"][0].as_str().unwrap().contains("no process runs"), "{}", unfinished["waiting_on"]);

    let other = scene.cluster.job_file(&scene.folder.path().join("state"), "even", 1, &object!({}));
    let (error, code) = json(scene.windlass(&["run"]).arg(other));
    assert_eq!(code, 2, "{error}");
    assert!(error["error"]["hint"].as_str().unwrap().contains("windlass cancel"), "{error}");

    let output = scene.run().args(["--output", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("going on with job"));
    assert_eq!(document(&output)["job"], unfinished["record"]["id"]);
    scene.assert_even();
}

#[test]
fn sigterm_is_heard_as_well_and_resume_goes_on() {
    let mut scene = Scene::slow();
    let running = scene.start();
    running.signal(Signal::TERM);
    assert_eq!(running.end().0.status.code(), Some(130));
    let (report, code) = json(&mut scene.windlass(&["resume", "even"]));
    assert_eq!(code, 0, "{report}");
    scene.assert_even();
}

#[test]
fn a_failed_job_says_why_and_can_be_retried() {
    let mut scene = Scene::new(&["--ids", "300"], 1, &object!({}));
    let (backup, away) = (scene.cluster.backups.join("vald-agent-1.tar.gz"), scene.folder.path().join("away"));
    std::fs::rename(&backup, &away).unwrap();
    let (report, code) = json(&mut scene.run());
    assert_eq!(code, 1, "{report}");
    let (why, code) = json(&mut scene.windlass(&["why", "even"]));
    assert_eq!(code, 0);
    let failed = why["tasks"].as_array().unwrap().iter().find(|task| task["state"] == "failed").unwrap();
    assert!(failed["failure"]["message"].as_str().unwrap().contains("vald-agent-1"), "{failed}");
    let (one, code) = json(&mut scene.windlass(&["why", "even", failed["task"].as_str().unwrap()]));
    assert_eq!((&one["tasks"][0], code), (failed, 0));
    assert_eq!(json(&mut scene.windlass(&["why", "even", "no-such-task"])).1, 2);
    assert_eq!(scene.cluster.copies(), scene.before, "nothing moves when a backup is missing");
    std::fs::rename(&away, &backup).unwrap();
    let (report, code) = json(&mut scene.windlass(&["retry", "even"]));
    assert_eq!(code, 0, "{report}");
    scene.assert_even();
}

#[test]
fn a_job_in_the_hands_of_another_process_is_steered_through_it() {
    let mut scene = Scene::slow();
    let running = scene.start();
    // Looking needs no permission; running something else in the same state does.
    assert_eq!(scene.show()["status"]["state"], "running");
    let (error, code) = json(&mut scene.run());
    assert_eq!(code, 3, "{error}");

    let paused = scene.windlass(&["pause", "even", "--output", "json"]).output().unwrap();
    assert_eq!(paused.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&paused.stderr).contains("is asked"), "who was asked is said");
    assert_eq!(document(&paused)["asked_holder"], true);
    while scene.show()["status"]["state"] != "paused" {
        std::thread::yield_now();
    }
    let at = scene.cluster.copies();
    let (why, _) = json(&mut scene.windlass(&["why", "even"]));
    assert!(why["waiting_on"][0].as_str().unwrap().contains("resume"), "{why}");
    let (refused, code) = json(&mut scene.windlass(&["undo", "even"]));
    assert_eq!(code, 2, "{refused}");
    assert_eq!(scene.cluster.copies(), at, "a paused job moves nothing");

    let (resumed, code) = json(&mut scene.windlass(&["resume", "even"]));
    assert_eq!(code, 0, "{resumed}");
    let (output, told) = running.end();
    assert_eq!(output.status.code(), Some(0), "{told}");
    scene.assert_even();
}

#[test]
fn a_cancelled_job_fails_its_run_and_can_be_undone_by_the_cancel() {
    let mut scene = Scene::slow();
    let running = scene.start();
    let (answer, code) = json(&mut scene.windlass(&["cancel", "--undo", "even"]));
    assert_eq!(code, 0, "{answer}");
    let (output, told) = running.end();
    // Undone as asked: the job is over and nothing of it is left.
    assert_eq!(document(&output)["status"]["result"], "cancelled", "{told}");
    assert_eq!(document(&output)["status"]["state"], "finished", "{told}");
    assert_eq!(scene.cluster.copies(), scene.before);
}

#[test]
fn a_pause_is_kept_by_a_state_that_nobody_holds_until_run_resumes_it() {
    let mut scene = Scene::slow();
    let running = scene.start();
    running.signal(Signal::INT);
    running.end();
    let (paused, code) = json(&mut scene.windlass(&["pause", "even"]));
    assert_eq!((paused["status"]["state"].as_str(), code), (Some("paused"), 0), "{paused}");
    assert_eq!(scene.show()["status"]["state"], "paused");
    let (report, code) = json(&mut scene.run());
    assert_eq!(code, 0, "{report}");
    scene.assert_even();
}

#[test]
fn a_killed_run_is_finished_by_the_next() {
    let mut scene = Scene::new(&["--ids", "300"], 1, &object!({}));
    let points = scene.folder.path().join("points");
    let killed = scene.run().env("WINDLASS_CRASH_AT", "insert:after:1").env("WINDLASS_COUNT_POINTS", &points).output();
    let status = killed.unwrap().status;
    assert_eq!(status.signal(), Some(9), "{status}");
    let listed = std::fs::read_to_string(&points).unwrap();
    assert!(listed.lines().last().unwrap().ends_with("effect insert after"), "{listed}");
    assert!(listed.starts_with("1 commit "), "{listed}");
    let (report, code) = json(&mut scene.run());
    assert_eq!(code, 0, "{report}");
    scene.assert_even();
    let (error, code) = json(scene.run().env("WINDLASS_CRASH_AT", "nonsense"));
    assert_eq!(code, 2, "{error}");
}

#[test]
fn a_plan_that_cannot_look_fails_and_says_at_what() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("job.yaml");
    let text = format!(
        "kind: rebalance\nname: lost\nspec:\n  mode: manual\n  index_replica: 1\n  backups: file://{}\n  cluster:\n    agents:\n      - {{name: a, address: '127.0.0.1:1'}}\n      - {{name: b, address: '127.0.0.1:2'}}\n",
        folder.path().display()
    );
    std::fs::write(&file, text).unwrap();
    let (plan, code) = json(windlass().arg("plan").arg(&file));
    assert_eq!(code, 1, "{plan}");
    let failed = plan["looked"].as_array().unwrap().iter().find(|task| !task["failure"].is_null());
    assert!(failed.is_some(), "{plan}");
}

/// `PATH` with the tool chain that the tests were given, if they were, before any other.
fn path_with_go() -> OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let given = std::env::var_os("WINDLASS_GO_1_26").map(|root| Path::new(&root).join("bin"));
    std::env::join_paths(given.into_iter().chain(std::env::split_paths(&rest))).unwrap()
}

#[test]
fn the_demo_proves_its_outcome_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (document, code) = json(windlass().arg("demo").env("TMPDIR", folder.path()).env("PATH", path_with_go()));
    assert_eq!(code, 0, "{document}");
    assert_eq!(document["right"], true);
    let agents = document["agents"].as_array().unwrap();
    let spread = |when: &str| {
        let copies = agents.iter().map(|agent| agent[when].as_u64().unwrap());
        copies.clone().max().unwrap() - copies.min().unwrap()
    };
    assert!(spread("after") * 4 < spread("before"), "{agents:?}");
    // Where the tests run, go is there: the second machine compiles next to nothing.
    let builds = document["builds"]["builds"].as_array().unwrap_or_else(|| panic!("{}", document["builds"]));
    let misses = |machine: usize| builds[machine]["misses"].as_u64().unwrap();
    assert!(misses(0) > 50 && misses(1) * 4 < misses(0), "{builds:?}");
    assert_eq!(std::fs::read_dir(folder.path() as &Path).unwrap().count(), 0, "the demo cleans up");
}
