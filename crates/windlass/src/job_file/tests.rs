use super::*;
use crate::kinds;

fn faults(text: &str) -> Vec<(usize, String)> {
    let faults = JobFile::parse("job.yaml", text, &kinds::all(windlass_dag::DagConfig::foreground())).unwrap_err();
    faults.list.into_iter().map(|fault| (fault.line, fault.message)).collect()
}

const SPEC: &str = "spec:\n  cluster: {agents: [{name: a, address: '127.0.0.1:1'}, {name: b, address: '127.0.0.1:2'}]}\n  index_replica: 1\n  backups: file:///backups\n";

#[test]
fn a_whole_job_file_is_read() {
    let text = format!(
        "kind: rebalance\nname: nightly\npriority: -3\nlabels: {{team: search}}\ndeadline: 1h30m\nlimits: {{places: 4}}\n{SPEC}"
    );
    let file = JobFile::parse("job.yaml", &text, &kinds::all(windlass_dag::DagConfig::foreground())).unwrap();
    assert_eq!(file.places, Some(4));
    assert_eq!(file.request.priority, -3);
    assert_eq!(file.request.labels["team"], "search");
    assert_eq!(file.request.deadline, Some(Duration::from_secs(5400)));
    assert_eq!(file.request.spec["index_replica"], 1);
}

#[test]
fn secrets_stay_references() {
    let text = "kind: rebalance\nname: n\nspec:\n  cluster: {agents: [{name: a, address: '127.0.0.1:1'}, {name: b, address: '127.0.0.1:2'}]}\n  index_replica: 1\n  backups:\n    url: s3://bucket\n    credentials: {AWS_SECRET_ACCESS_KEY: {env: PATH}}\n";
    let file = JobFile::parse("job.yaml", text, &kinds::all(windlass_dag::DagConfig::foreground())).unwrap();
    assert_eq!(file.request.spec["backups"]["credentials"]["AWS_SECRET_ACCESS_KEY"], json!({"env": "PATH"}));
}

#[test]
fn all_faults_are_told_at_once_each_with_its_line() {
    let text = format!(
        "kind: rebalance\nnmae: x\npriority: high\nlabels: {{a: 1}}\ndeadline: soon\nlimits:\n  places: 0\n  cores: 2\nschedule: {{every: soon}}\n{SPEC}  tolerence: 0.2\n"
    );
    let found = faults(&text);
    let has = |line: usize, part: &str| {
        assert!(found.iter().any(|(at, message)| *at == line && message.contains(part)), "{line} {part}: {found:#?}");
    };
    has(2, "unknown field `nmae`; did you mean `name`?");
    has(1, "`name` is missing");
    has(3, "whole number");
    has(4, "label `a` must be text");
    has(5, "not a length of time");
    has(7, "from 1 to 1024");
    has(8, "unknown field `cores`");
    has(9, "not a length of time");
    has(14, "tolerance");
}

#[test]
fn an_unknown_kind_names_the_nearest() {
    let found = faults("kind: rebalence\nname: x\nspec: {}\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].1.contains("did you mean rebalance?"), "{found:?}");
}

#[test]
fn what_is_no_mapping_is_refused() {
    assert!(faults("- a\n")[0].1.contains("mapping"));
    assert!(faults("text\n")[0].1.contains("mapping"));
    assert!(faults("kind: rebalance\nname: x\nspec: [1]\n")[0].1.contains("`spec` must be a mapping"));
    assert!(faults("kind: 5\nname: ' x'\nspec: {}\n").iter().any(|(_, message)| message.contains("no space")));
}

#[test]
fn names_are_suggested_only_when_they_are_near() {
    assert_eq!(nearest("lables", &FIELDS), Some("labels"));
    assert_eq!(nearest("priorty", &FIELDS), Some("priority"));
    assert_eq!(nearest("colour", &FIELDS), None);
}

#[test]
fn characters_that_json_writes_as_two_escapes_are_read() {
    let text = r#"{"a": "\ud83d\ude00 \\ud83d\\ude00 \u00e9", "b": "\\\ud83d\ude00"}"#;
    let read = document::read(&join_surrogates(text)).map(|document| document.value);
    assert_eq!(read.unwrap(), serde_json::from_str::<Value>(text).unwrap());
    let yaml = "a: '\\ud83d\\ude00'\n";
    assert_eq!(join_surrogates(yaml), yaml);
}
