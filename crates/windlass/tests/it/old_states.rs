//! States that earlier versions wrote are read, and their jobs go on. What is in them: `tests/data/README.md`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::documents::{json, windlass};

/// Attempts to say yes before the test gives up; each is a process, so this is tens of seconds.
const PATIENCE: usize = 500;

fn sample(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/state-v1").join(file)
}

/// A state folder around the old database.
fn old_database() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(sample("state.db"), folder.path().join("state.db")).unwrap();
    folder
}

/// A state folder filled from the old backup.
fn old_backup() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    on(folder.path(), &["restore", sample("state.dump").to_str().unwrap()]).assert().code(0);
    folder
}

fn on(state: &Path, words: &[&str]) -> assert_cmd::Command {
    let mut command = windlass();
    command.args(words).arg("--state").arg(state);
    command
}

/// The jobs that people submitted.
fn states(state: &Path) -> Vec<(String, String)> {
    let (document, code) = json(&mut on(state, &["jobs"]));
    assert_eq!(code, 0, "{document}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut jobs: Vec<_> = document["jobs"]
        .as_array()
        .unwrap_or_else(|| panic!("no jobs in {document}"))
        .iter()
        .map(|job| (text(&job["name"]), text(&job["status"]["state"])))
        // What the schedule is due to start depends on the hour at which this runs.
        .filter(|(name, _)| name != "nightly")
        .collect();
    jobs.sort();
    jobs
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
}

/// A foreground process that is killed when the test ends early.
struct Foreground(Child);

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn every_job_goes_on(state: &Path) {
    assert_eq!(states(state), pairs(&[("asks", "paused"), ("over", "completed")]));

    let (report, code) = json(&mut on(state, &["report", "over"]));
    assert_eq!(code, 0, "{report}");
    on(state, &["undo", "over"]).assert().code(0);

    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("windlass"));
    command.args(["resume", "asks", "--state"]).arg(state).stdout(Stdio::null()).stderr(Stdio::null());
    let mut resumed = Foreground(command.spawn().unwrap());
    // Nobody to ask before the other process holds the state, nothing to approve before the task waits.
    let yes = (0..PATIENCE).any(|_| on(state, &["approve", "asks", "ready"]).output().unwrap().status.success());
    assert!(yes, "the task never asked");
    assert!(resumed.0.wait().unwrap().success());
    assert_eq!(states(state), pairs(&[("asks", "completed"), ("over", "finished")]));
}

#[test]
fn jobs_in_a_database_of_version_1_go_on() {
    every_job_goes_on(old_database().path());
}

#[test]
fn jobs_in_a_backup_of_version_1_go_on() {
    every_job_goes_on(old_backup().path());
}

#[test]
fn a_schedule_of_version_1_is_still_one() {
    for folder in [old_database(), old_backup()] {
        let output = on(folder.path(), &["export"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.contains("\"standing/")).unwrap_or_else(|| panic!("{text}"));
        let entry: Value = serde_json::from_str(line).unwrap();
        assert_eq!(entry["value"]["schedule"]["time_zone"], "Europe/Berlin", "{line}");
    }
}
