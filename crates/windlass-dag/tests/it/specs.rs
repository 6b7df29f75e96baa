//! What is refused at submit, with names and places, and what passes through untouched.

use serde_json::{Value, json};
use windlass_dag::{Allow, DagConfig, DagSpec, check, export, import, sample, schema};

fn faults(tasks: &Value) -> Vec<String> {
    let found = check(&json!({ "tasks": tasks }), &DagConfig::foreground());
    found.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect()
}

#[track_caller]
fn has(found: &[String], wanted: &[&str]) {
    for part in wanted {
        assert!(found.iter().any(|fault| fault.contains(part)), "{part:?} is not in {found:#?}");
    }
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
}

#[test]
fn every_fault_is_found_at_once_and_told_where_it_is() {
    let found = faults(&json!([
        { "name": "a", "type": "exec", "with": { "argv": ["echo"], "timeuot": "5s" } },
        { "name": "a", "type": "noop" },
        { "name": "b", "type": "exce" },
        { "name": "c", "type": "exec", "with": {}, "nedes": ["a"] },
        { "name": "d d", "type": "noop", "needs": ["aa", "d d"], "retry": { "attempts": 0 } },
        { "name": "e", "type": "wait", "with": {} },
        { "name": "f", "type": "wait", "with": { "for": "5 parsecs" } },
        { "name": "g", "type": "http", "with": { "url": "ftp://x/", "headers": { "a b": "c" } } },
        { "name": "h", "type": "copy", "with": { "from": "s3://bucket", "to": "file:///tmp/x" } },
        { "name": "i", "type": "exec", "with": { "argv": [{ "env": "SECRET" }] } },
        { "name": "j", "type": "noop", "undo": { "type": "approve", "with": { "question": "?" } } },
    ]));
    has(
        &found,
        &[
            "/tasks/0/with/timeuot: unknown field \"timeuot\"; did you mean \"timeout\"?",
            "/tasks/1/name: task 1 is named \"a\" already",
            "/tasks/2/type: \"exce\" is not one of",
            "/tasks/3/nedes: unknown field \"nedes\"; did you mean \"needs\"?",
            "/tasks/3/with: the field \"argv\" is missing",
            "/tasks/4/name: a name has",
            "/tasks/4/needs/0: there is no task \"aa\"; did you mean \"a\"?",
            "/tasks/4/needs/1: \"d d\" cannot come before itself",
            "/tasks/4/retry/attempts: must be at least 1",
            "/tasks/5/with: one of \"for\"",
            "/tasks/6/with/for: ",
            "/tasks/7/with/url: \"ftp\" is not called",
            "/tasks/7/with/headers/a b: ",
            "/tasks/8/with/from: s3://bucket names no object",
            "/tasks/9/with/argv/0: a secret cannot stand here",
            "/tasks/9/with/argv/0: the command itself must be written here",
            "/tasks/10/undo/type: undoing cannot approve",
        ],
    );
}

#[test]
fn a_circle_is_told_as_a_path_of_names() {
    let found = faults(&json!([
        { "name": "behind", "type": "noop", "needs": ["a"] },
        { "name": "a", "type": "noop", "needs": ["c"] },
        { "name": "b", "type": "noop", "after": ["a"] },
        { "name": "c", "type": "noop", "needs": ["b"] },
    ]));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].ends_with("the tasks go round in a circle: b -> c -> a -> b"), "{found:#?}");
}

#[test]
fn references_are_checked_against_what_is_needed_directly_and_put_out() {
    let found = faults(&json!([
        { "name": "dump", "type": "exec", "with": { "argv": ["x"] } },
        { "name": "mid", "type": "noop", "needs": ["dump"] },
        { "name": "use", "type": "exec", "needs": ["mid"], "with": { "argv": ["echo",
            { "ref": "dump#/stdout" }, { "ref": "dmup#/stdout" }, { "ref": "mid" }, { "ref": "mid#x" } ] } },
        { "name": "member", "type": "noop", "needs": ["dump"], "with": { "output": { "ref": "dump#/stdoot" } } },
        { "name": "refs", "type": "http", "needs": ["dump"], "with": { "url": "http://x/" }, "refs": [
            { "at": "/json/a/b", "from": "dump#/stdout" }, { "at": "/timeout", "from": "dump#" },
            { "at": "json", "from": "dump#/exit_code" } ] },
        { "name": "own", "type": "exec", "with": { "argv": ["x", { "ref": "own#/stdout" }] },
          "undo": { "type": "exec", "with": { "argv": ["rm", { "ref": "own#/stdout" }] } } },
    ]));
    has(
        &found,
        &[
            "/tasks/2/with/argv/1: refers to \"dump\", which it does not need directly",
            "/tasks/2/with/argv/2: refers to \"dmup\", and there is no such task; did you mean \"dump\"?",
            "/tasks/2/with/argv/3: \"mid\" refers to nothing",
            "/tasks/2/with/argv/4: \"x\" is not a JSON pointer",
            "/tasks/3/with/output: the output of \"dump\" has no \"stdoot\"",
            "/tasks/4/refs/1/at: \"/timeout\" is neither a text nor data",
            "/tasks/4/refs/2/at: \"json\" is not a JSON pointer",
            "/tasks/5/with/argv/1: refers to \"own\", which it does not need directly",
        ],
    );
}

#[test]
fn what_a_process_does_not_allow_is_refused_with_how_to_allow_it() {
    let spec = json!({ "tasks": [
        { "name": "a", "type": "exec", "with": { "argv": ["rm", "-rf"], "env": { "T": { "env": "TOKEN" } }, "pass_env": ["KEY"] } },
        { "name": "b", "type": "http", "with": { "url": "http://10.0.0.1/x" } },
        { "name": "c", "type": "copy", "with": { "from": "file:///etc/passwd", "to": "s3://bucket/x" } },
        { "name": "d", "type": "noop", "undo": { "type": "exec", "with": { "argv": ["rm"] } } },
    ] });
    let found: Vec<String> = check(&spec, &DagConfig::default())
        .iter()
        .map(|fault| format!("{}: {}", fault.pointer, fault.message))
        .collect();
    has(
        &found,
        &[
            "/tasks/0/with/argv/0: starting \"rm\" is not allowed in this process; add \"rm\" to allow_exec",
            "/tasks/0/with/env/T: looking up the secret TOKEN is not allowed",
            "/tasks/0/with/pass_env/0: looking up the secret KEY",
            "/tasks/1/with/url: calling 10.0.0.1 is not allowed",
            "/tasks/2/with/from: using the local file /etc/passwd is not allowed",
            "/tasks/3/undo/with/argv/0: starting \"rm\"",
        ],
    );
    let some = DagConfig { allow_http: Allow::Only(vec!["10.0.0.1".into()]), ..DagConfig::default() };
    assert_eq!(check(&spec, &some).len(), 5);
}

#[test]
fn a_task_or_job_beyond_what_is_stored_is_refused() {
    let found = faults(&json!([{ "name": "a", "type": "noop", "with": { "output": "x".repeat(100_000) } }]));
    has(&found, &["/tasks/0/with: it has 100013 bytes, at most 98304 are stored"]);
}

#[test]
fn the_sample_and_the_schema_are_right() {
    for count in [1, 2, 3, 50, 51, 2_000] {
        let spec = sample(count).to_json();
        assert_eq!(check(&spec, &DagConfig::default()), [], "{count}");
    }
    let schema = schema::schema();
    assert!(schema.pointer("/properties/tasks/items/allOf/0/then/properties/with/properties/argv").is_some());
}

#[test]
fn the_other_form_keeps_data_and_carries_references_there_and_back() {
    let spec: DagSpec = serde_json::from_value(json!({ "description": "d", "tasks": [
        { "name": "dump", "type": "exec", "description": "see {\"$ref\": \"x#/y\"}",
          "with": { "argv": ["x"], "env": { "TEXT": "{\"$ref\": \"dump#/stdout\"}" } },
          "retry": { "attempts": 3 }, "shared": { "key": "a/b" },
          "undo": { "type": "exec", "with": { "argv": ["rm", { "ref": "dump#/stdout" }] } } },
        { "name": "post", "type": "http", "needs": ["dump"], "after": [],
          "with": { "url": { "join": ["http://x/", { "ref": "dump#/json/id" }] },
                    "json": { "$ref": "dump#/stdout", "ref": "dump#/stdout" } },
          "refs": [{ "at": "/json/size", "from": "dump#/stdout" }] },
        { "name": "all", "type": "noop", "needs": ["dump"], "with": { "output": {
            "a": { "ref": "dump#/stdout" }, "b": { "$ref": "dump#/stdout" }, "c": { "literal": { "ref": "dump#/x" } },
            "d": { "$literal": 5 }, "e": { "ref": 7 } } } },
    ] }))
    .unwrap();
    let seed = export(&spec);
    assert_eq!(seed.pointer("/tasks/1/input/argv/1"), Some(&json!({ "$ref": "dump#/stdout" })));
    assert_eq!(seed.pointer("/tasks/1/reverse_task_id"), Some(&json!("dump")));
    assert_eq!(seed.pointer("/tasks/2/input/url/join/1"), Some(&json!({ "$ref": "dump#/json/id" })));
    assert_eq!(seed.pointer("/tasks/2/input/json"), Some(&json!({ "$ref": "dump#/stdout", "ref": "dump#/stdout" })));
    assert_eq!(
        seed.pointer("/tasks/3/input/output"),
        Some(&json!({
            "a": { "$ref": "dump#/stdout" }, "b": { "$literal": { "$ref": "dump#/stdout" } }, "c": { "ref": "dump#/x" },
            "d": { "$literal": { "$literal": 5 } }, "e": { "ref": 7 },
        }))
    );
    assert_eq!(import(&seed).unwrap(), spec);

    let faults = import(&json!({ "tasks": [
        { "recovery_job_task_id": "a", "type_code": "dr.migration.task.create.network" },
        { "recovery_job_task_id": "b", "type_code": "dag.noop" },
        { "recovery_job_task_id": "b", "type_code": "noop" },
        { "recovery_job_task_id": "u", "type_code": "noop", "reverse_task_id": "gone" },
    ] }))
    .unwrap_err();
    let faults: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect();
    has(&faults, &["/tasks/0/type_code: there is no type", "two tasks have the id \"b\"", "there is no task \"gone\""]);
}
