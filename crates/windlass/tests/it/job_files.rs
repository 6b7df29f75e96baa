//! Faults in job files, as they are shown.

use std::path::Path;

use crate::documents::{json, windlass};

const FAULTY: &str = r#"kind: rebalance
nmae: x
priority: high
spec:
  cluster:
    agents:
      - {name: a, address: "127.0.0.1:1"}
      - {name: b, adress: "127.0.0.1:2"}
  index_replica: 1
  backups: file:///backups
  tolerence: 0.2
"#;

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_fault_is_told_with_its_line_and_the_nearest_name_and_nothing_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "job.yaml", FAULTY);
    let state = folder.path().join("state");
    for command in ["run", "plan"] {
        let (error, code) = json(windlass().args([command, &file]).arg("--state").arg(&state));
        assert_eq!(code, 2, "{error}");
        let faults = error["error"]["faults"].as_array().unwrap();
        let has = |line: u64, pointer: &str, part: &str| {
            assert!(
                faults.iter().any(|fault| fault["line"] == line
                    && fault["pointer"] == pointer
                    && fault["message"].as_str().unwrap().contains(part)),
                "line {line} {pointer} {part}: {faults:#?}"
            );
        };
        has(1, "", "`name` is missing");
        has(2, "/nmae", "did you mean `name`?");
        has(3, "/priority", "whole number");
        has(8, "/spec/cluster/agents/1/adress", "address");
        has(11, "/spec/tolerence", "tolerance");
    }
    assert!(!state.exists(), "a faulty file must leave no state behind");
    let output = windlass().args(["run", &file]).arg("--state").arg(&state).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(":11:3]") && text.contains("tolerence: 0.2"), "the line is shown: {text}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_file_that_is_not_there_or_not_text_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    windlass().args(["plan", "/does/not/exist.yaml"]).assert().code(2);
    let path = folder.path().join("binary.yaml");
    std::fs::write(&path, b"kind: \xff\xfe").unwrap();
    windlass().arg("plan").arg(&path).assert().code(2);
    std::fs::write(&path, vec![b'#'; (4 << 20) + 1]).unwrap();
    let (error, code) = json(windlass().arg("plan").arg(&path));
    assert_eq!(code, 2);
    assert!(error["error"]["message"].as_str().unwrap().contains("4 MiB"), "{error}");
}

#[test]
fn a_job_file_can_come_through_standard_input() {
    let output = windlass().args(["plan", "-"]).write_stdin("kind: x\nkind: y\n").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("standard input") && text.contains("second time"), "{text}");
}

#[test]
fn commands_about_jobs_that_do_not_exist_make_no_state() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    for command in ["show", "why", "log", "report", "pause", "resume", "cancel", "undo", "confirm", "retry"] {
        let (error, code) = json(windlass().args([command, "nightly"]).arg("--state").arg(&state));
        assert_eq!(code, 2, "{command}: {error}");
    }
    let (jobs, code) = json(windlass().arg("jobs").arg("--state").arg(&state));
    assert_eq!((jobs["jobs"].as_array().map(Vec::len), code), (Some(0), 0));
    assert!(!state.exists());
}
