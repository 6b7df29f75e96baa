//! What commands print that need no state: schemas, kinds, completions, help; and how wrong usage ends.

use assert_cmd::Command;
use serde_json::Value;

pub(crate) fn windlass() -> Command {
    let mut command = Command::cargo_bin("windlass").expect("cargo builds the program for its tests");
    for name in [
        "WINDLASS_SERVER",
        "WINDLASS_TOKEN",
        "WINDLASS_STATE",
        "WINDLASS_LOG",
        "WINDLASS_CRASH_AT",
        "WINDLASS_COUNT_POINTS",
        "NO_COLOR",
    ] {
        command.env_remove(name);
    }
    // A state that nobody named is never that of the person who runs the tests.
    command.env("XDG_STATE_HOME", std::env::temp_dir().join("windlass-tests-name-their-state"));
    command
}

/// Standard output as one JSON document, and the exit code.
#[track_caller]
pub(crate) fn json(command: &mut Command) -> (Value, i32) {
    let output = command.args(["--output", "json"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let first = documents.next().unwrap_or_else(|| {
        panic!("nothing on standard output; standard error: {}", String::from_utf8_lossy(&output.stderr))
    });
    assert!(documents.next().is_none(), "more than one document: {text}");
    (first.unwrap_or_else(|error| panic!("{error} in {text}")), output.status.code().unwrap())
}

#[test]
fn kinds_are_listed_for_people_and_programs() {
    let (document, code) = json(windlass().arg("kinds"));
    let kinds: Vec<&str> =
        document["kinds"].as_array().unwrap().iter().filter_map(|kind| kind["kind"].as_str()).collect();
    assert_eq!(
        (kinds.as_slice(), code),
        (["backfill", "dag", "distribute", "gocache", "rebalance", "recover"].as_slice(), 0)
    );
    windlass().arg("kinds").assert().code(0);
}

#[test]
fn the_schema_of_job_files_is_a_schema_and_accepts_what_the_program_accepts() {
    let (schema, code) = json(windlass().args(["schema", "rebalance"]));
    assert_eq!(code, 0);
    assert_eq!(schema["properties"]["kind"]["const"], "rebalance");
    assert_eq!(schema["additionalProperties"], false);
    let (spec, _) = json(windlass().args(["schema", "rebalance", "--spec"]));
    assert_eq!(schema["properties"]["spec"], spec);
    assert!(spec["properties"]["tolerance"].is_object());
    let (error, code) = json(windlass().args(["schema", "rebalence"]));
    assert_eq!(code, 2);
    assert!(error["error"]["message"].as_str().unwrap().contains("rebalance"), "{error}");
}

#[test]
fn every_shell_gets_a_completion_script() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = windlass().args(["completions", shell]).output().unwrap();
        assert!(output.status.success(), "{shell}");
        let script = String::from_utf8(output.stdout).unwrap();
        for word in ["inspect", "completions", "retry"] {
            assert!(script.contains(word), "{shell} knows nothing of {word}");
        }
    }
}

#[test]
fn the_command_line_is_what_it_was() {
    // A help text cannot change unseen; the hidden commands are not in it.
    let output = windlass().arg("--help").env("COLUMNS", "100").output().unwrap();
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
}

#[test]
fn wrong_usage_ends_with_2_also_as_json() {
    windlass().arg("frobnicate").assert().code(2);
    windlass().assert().code(2);
    let (error, code) = json(windlass().arg("frobnicate"));
    assert_eq!((code, error["error"]["exit_code"].as_u64()), (2, Some(2)));
    let (error, code) = json(windlass().args(["--state", "http://127.0.0.1:2379", "jobs"]));
    assert_eq!(code, 2);
    assert!(error["error"]["message"].as_str().unwrap().contains("etcd://"), "{error}");
    // Nobody listens on port 1: what is needed cannot be reached.
    let (error, code) = json(windlass().args(["--state", "etcd://127.0.0.1:1", "jobs"]));
    assert_eq!(code, 3, "{error}");
    let (error, code) = json(windlass().args(["--state", "", "jobs"]));
    assert_eq!(code, 2, "{error}");
}

#[test]
fn a_reader_that_has_gone_away_is_no_error() {
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("windlass"))
        .args(["schema", "rebalance"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
