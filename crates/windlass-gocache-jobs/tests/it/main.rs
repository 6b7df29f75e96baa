//! The kind `gocache`, killed anywhere, ends as if it had not been.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests say where they break, and print their tables")]

mod rig;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use windlass_clock::{SharedClock, SystemClock};
use windlass_engine::{Command, JobRequest, Kinds};
use windlass_gocache_jobs::GocacheKind;
use windlass_gocache_remote::OutputId;
use windlass_sim::matrix::{self, Case};

use crate::rig::{Rig, name};

/// Everything in a folder, without the random parts of names of lists: each is what it holds.
fn content(folder: &Path) -> String {
    let mut all = BTreeSet::new();
    let mut condemned = BTreeSet::new();
    for path in rig::files(folder) {
        let key = path.strip_prefix(folder).unwrap().display().to_string();
        if key.starts_with("v1/condemned/") {
            let packs: Vec<String> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            condemned.extend(packs);
        } else {
            all.insert(format!("{key} {}", fs::metadata(&path).unwrap().len()));
        }
    }
    format!("{all:?} condemned {condemned:?}")
}

fn case(fill: fn(&Path), spec: fn(&str) -> Value, then: Option<Command>) -> Case {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    fill(folder.path());
    let request = JobRequest {
        kind: "gocache".into(),
        name: "test".into(),
        spec: spec(&folder.path().display().to_string()),
        ..JobRequest::default()
    };
    Case {
        clock: later(),
        kinds: Kinds::new().with(GocacheKind),
        request,
        others: Vec::new(),
        reversed: false,
        then,
        work_dir: folder.path().join("jobs"),
        fingerprint: Box::new(move || {
            let folder = folder.clone();
            Box::pin(async move {
                let warm = folder.path().join("warm");
                let warmed = if warm.exists() { format!(" | warm {:?}", rig::answers(&warm)) } else { String::new() };
                format!("a {} | b {}{warmed}", content(&folder.path().join("a")), content(&folder.path().join("b")))
            })
        }),
    }
}

/// Two days on, so that what is written now is old enough to be judged.
fn later() -> SharedClock {
    let now = SystemClock::real().wall();
    SystemClock::starting_at(now.checked_add(Duration::from_secs(2 * 86_400)).unwrap())
}

async fn check(name: &str, fill: fn(&Path), spec: fn(&str) -> Value, then: Option<Command>, clean: &[&str]) {
    let matrix = matrix::make(|| async { case(fill, spec, then.clone()) }, 1).await;
    println!("{name}: {}\n{}", matrix.clean, matrix.to_table());
    for part in clean {
        assert!(matrix.clean.contains(part), "{part:?} is not in {}", matrix.clean);
    }
    assert!(matrix.different().is_empty(), "{name}: {:#?}", matrix.different());
}

/// Pack 1 was condemned long ago, pack 2 is old and nobody's.
fn garbage(folder: &Path) {
    let rig = Rig::at(&folder.join("a"));
    rig.pack(1, 100);
    rig.pack(2, 200);
    rig.condemn(&[1], -86_400);
    fs::create_dir_all(folder.join("b")).unwrap();
}

fn collect(folder: &str) -> Value {
    json!({ "action": "collect", "remote": format!("file://{folder}/a"), "keep": "1d" })
}

fn filled(folder: &Path) {
    let rig = Rig::at(&folder.join("a"));
    for n in 1..6 {
        rig.pack(n, 100 * u64::from(n));
    }
    let other = Rig::at(&folder.join("b"));
    other.pack(1, 100);
}

fn copy(folder: &str) -> Value {
    json!({ "action": "copy", "remote": format!("file://{folder}/a"), "to": format!("file://{folder}/b") })
}

#[tokio::test]
async fn a_collection_that_is_killed_anywhere_deletes_what_was_condemned_and_condemns_the_rest() {
    // The list that condemned pack 1 goes with the next collection, which finds nothing left to do in it.
    let left = format!("a {{\"v1/packs/{}.pack 200\"}} condemned {{\"{}\", \"{}\"}}", name(2), name(1), name(2));
    check("collect", garbage, collect, None, &["completed succeeded", &left]).await;
}

#[tokio::test]
async fn a_copy_that_is_killed_anywhere_is_whole() {
    let last = format!("v1/packs/{}.pack 500", name(5));
    check("copy", filled, copy, None, &["completed succeeded", &last]).await;
}

#[tokio::test]
async fn the_undo_of_a_copy_leaves_what_was_there_before() {
    let left = format!("| b {{\"v1/packs/{}.pack 100\"}}", name(1));
    check("copy, undone", filled, copy, Some(Command::Undo), &["finished", &left]).await;
}

#[tokio::test]
async fn a_warming_that_is_killed_anywhere_has_everything_in_the_folder() {
    let warm = |folder: &str| json!({ "action": "warm", "remote": format!("file://{folder}/a"), "folder": format!("{folder}/warm") });
    let whole: Vec<String> =
        (0..rig::ACTIONS).map(|n| format!("{n}: {}", OutputId::of(&vec![n; 500 * usize::from(n)]).hex())).collect();
    let whole = format!("| warm {whole:?}");
    check("warm", rig::built, warm, None, &["completed succeeded", &whole]).await;
}

#[tokio::test]
async fn a_report_that_is_killed_anywhere_changes_nothing() {
    let report = |folder: &str| json!({ "action": "report", "remote": format!("file://{folder}/a"), "folders": [format!("{folder}/machine")] });
    check("report", rig::built, report, None, &["completed succeeded", "v1/packs/"]).await;
}

#[tokio::test]
async fn nothing_is_deleted_when_something_in_the_remote_cannot_be_read() {
    let matrix = matrix::make(
        || async {
            let fill = |folder: &Path| {
                garbage(folder);
                let segment = folder.join("a/v1/index").join(format!("{}.idx", name(9)));
                fs::create_dir_all(segment.parent().unwrap()).unwrap();
                fs::write(segment, "no segment").unwrap();
            };
            case(fill, collect, None)
        },
        1000,
    )
    .await;
    println!("{}", matrix.clean);
    assert!(matrix.clean.contains(&format!("{}.pack 100", name(1))), "{}", matrix.clean);
    assert!(!matrix.clean.contains("completed succeeded"), "{}", matrix.clean);
}
