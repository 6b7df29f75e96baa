//! Recorded exchanges between the old programs, replayed.

use std::fs;
use std::path::Path;

use serde_json::Value;
use windlass_distribute::wire::Answer;
use windlass_distribute::wire::node::Node;
use windlass_distribute::wire::tasks::{Change, Status, Task, Tasks};

fn cases(file: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fixtures/api");
    serde_json::from_slice(&fs::read(folder.join(file)).unwrap()).unwrap()
}

/// Whether a status is the expected one: a number, or `A, B or C`.
fn code_fits(case: &Value, status: u16) -> bool {
    let expected = case["product"].get("code").unwrap_or(&case["code"]);
    match expected.as_str() {
        None => *expected == status,
        Some(words) => words.split([' ', ',']).any(|word| word == status.to_string()),
    }
}

fn compare(case: &Value, answer: &Answer) {
    assert!(code_fits(case, answer.status), "{case}: {answer:?}");
    // Where we answer otherwise on purpose, the recorded rest does not apply.
    if case["code"] != answer.status {
        return;
    }
    if let Some(expected) = case["content_type"].as_str() {
        assert_eq!(answer.content_type, Some(expected), "{case}");
    }
    if let Some(expected) = case["body"].as_str() {
        assert_eq!(String::from_utf8_lossy(&answer.body), expected, "{case}");
    }
    if let Some(expected) = case["location"].as_str() {
        assert_eq!(answer.location.as_deref(), Some(expected), "{case}");
    }
}

#[test]
fn a_node_answers_as_the_old_agent() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("pid");
    fs::write(&outside, "1").unwrap();
    let base = folder.path().join("base");
    fs::create_dir_all(base.join("temp.downloaded")).unwrap();
    for file in ["F03.mpg", "F06.mpg"] {
        fs::write(base.join(file), "x").unwrap();
    }
    let node = Node::new(base.clone());
    let document = cases("agent_cases.json");
    let cases = document["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 18);
    for case in cases {
        if case["setup"].is_string() {
            fs::write(base.join("a b#1.mpg"), "x").unwrap();
        }
        let before = node.files().unwrap();
        let answer = node.answer(case["method"].as_str().unwrap(), case["path"].as_str().unwrap());
        compare(case, &answer);
        let after = node.files().unwrap();
        let gone: Vec<&Vec<u8>> = before.iter().filter(|name| !after.contains(name)).collect();
        match case["effect"].as_str() {
            Some("F03.mpg is gone") => assert_eq!(gone, [b"F03.mpg"]),
            Some("that file is gone") => assert_eq!(gone, [b"a b#1.mpg"]),
            _ => assert!(gone.is_empty(), "{case}: {gone:?}"),
        }
        if let Some(expected) = case["body_json"].as_object() {
            assert!(answer.body.ends_with(b"}\n"));
            let found: Value = serde_json::from_slice(&answer.body).unwrap();
            for (key, what) in expected {
                let good = match what.as_str().unwrap() {
                    "<integer>" => found[key].is_u64(),
                    _ => found[key].as_str().is_some_and(|text| text.parse::<u64>().is_ok()),
                };
                assert!(good, "{key} of {found}");
            }
            assert_eq!(found.as_object().unwrap().len(), expected.len());
        }
    }
    assert!(outside.exists() && base.join("temp.downloaded").is_dir());
}

#[test]
fn deletes_reach_exactly_the_file_that_they_name() {
    let folder = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("kept");
    fs::write(&target, "x").unwrap();
    let names = ["A.mpg", "A.mpg#1", "B", "B?x.mpg", "CA.mpg", "C%41.mpg", "sp ace.mpg", "\u{d55c}.mpg", "plus+1.mpg"];
    for name in names {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    std::os::unix::fs::symlink(&target, folder.path().join("link")).unwrap();
    let node = Node::new(folder.path().to_owned());
    for name in ["A.mpg#1", "B?x.mpg", "C%41.mpg", "sp ace.mpg", "\u{d55c}.mpg", "plus+1.mpg", "link"] {
        let path = format!("/files/{}", windlass_distribute::wire::encode_name(name.as_bytes()));
        assert_eq!(node.answer("DELETE", &path).status, 200, "{path}");
        assert_eq!(node.answer("DELETE", &path).status, 404, "{path}");
    }
    assert_eq!(node.files().unwrap(), [b"A.mpg".to_vec(), b"B".to_vec(), b"CA.mpg".to_vec()]);
    assert!(target.exists(), "a link is deleted, not what it leads to");
    fs::remove_dir_all(folder.path()).unwrap();
    assert_eq!(node.answer("GET", "/files").status, 500, "a folder that is gone is no empty one");
}

#[test]
fn tasks_answer_as_the_old_controller() {
    let document = cases("controller_cases.json");
    let mut tasks = Tasks::default();
    let mut replayed = 0;
    for case in document["cases"].as_array().unwrap() {
        let path = case["path"].as_str().unwrap();
        // The pages belong to the server that draws them.
        if path.starts_with("/dashboard") {
            continue;
        }
        let body = case["request"].as_str().unwrap_or_default();
        let (answer, change) = tasks.answer(case["method"].as_str().unwrap(), path, body.as_bytes(), 0);
        compare(case, &answer);
        assert_eq!(change, Change::None);
        replayed += 1;
    }
    assert_eq!(replayed, 12);
    let expected = &document["task_document"];
    let ends = ("127.16.0.9:28888", "127.16.0.2:28888");
    let id = 1_767_193_200_000_000_017;
    let task = Task::new(id, 1_767_193_200, ("/origin/MV01.mpg", "MV01.mpg"), 1, "10000000", ends);
    assert_eq!(serde_json::to_value(&task).unwrap(), *expected);
    tasks.0.insert(id, task.clone());
    let (answer, _) = tasks.answer("GET", "/tasks", b"", 0);
    let keys = r#"[{"id":"1767193200000000017","ctime":1767193200,"mtime":1767193200,"status":"ready","src_ip":"#;
    assert!(answer.body.starts_with(keys.as_bytes()) && answer.body.ends_with(b"}]\n"), "the keys keep their order");
    let (answer, change) = tasks.answer("DELETE", "/tasks/1767193200000000017", b"", 0);
    assert_eq!((answer.status, change), (200, Change::Deleted(id)));
}

#[test]
fn the_status_of_a_task_changes_as_recorded() {
    let document = cases("task_status_cases.json");
    let cases = document["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 44);
    for case in cases {
        let status = |value: &Value| serde_json::from_value::<Status>(value.clone()).unwrap();
        let mut task = Task::new(7, 100, ("/o/A", "A"), 1, "1", ("10.0.0.1:1", "10.0.0.2:1"));
        task.status = status(&case["from"]);
        let mut tasks = Tasks([(7, task)].into());
        let (answer, change) = tasks.answer("PATCH", "/tasks/7", case["body"].as_str().unwrap().as_bytes(), 200);
        let expected = if case["product"].is_object() { &case["product"] } else { case };
        assert_eq!(answer.status, expected["code"], "{case}");
        assert!(answer.body.is_empty());
        let task = &tasks.0[&7];
        assert_eq!(task.status, status(&expected["after"]), "{case}");
        let changed = expected["mtime_changed"].as_bool().unwrap();
        assert_eq!((task.mtime == 200, change != Change::None), (changed, changed), "{case}");
    }
}
