//! Replicas that the storage has and the block service does not know: managed, copied, let go, and called as they were.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};
use windlass_engine::Command;
use windlass_engine::kind::Kind;
use windlass_recover::{RecoverConfig, RecoverKind};
use windlass_sim::matrix::{self, Case};
use windlass_sim_cloud::{Backend, Rule, What};
use windlass_store::Store;
use windlass_store::memory::MemoryStore;

use crate::blob_matrix::contents;
use crate::rig::{Rig, troubles};

/// What replicates calls the replica so, and no other way.
const NAME: &str = "mirror-of-vol-web-root.img";

struct Storage {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Storage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volumes");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(NAME), "bytes that another storage has copied").unwrap();
        Self { _folder: folder, path }
    }

    async fn rig(&self) -> Rig {
        let backend = Backend::Folder(self.path.clone());
        let mut rig = Rig::with(|options| options.backend = backend).await;
        rig.spec["only"] = json!(["web"]);
        rig.spec["instances"] = json!([]);
        rig.spec["volumes"] = json!({ "cinder-native": { "manage": {
            "host": "storage-b@lab#lab", "name": "mirror-of-{id}.img", "give_back": { "folder": self.path },
            "point": "2026-01-01T00:00:00Z",
        } } });
        // Its volumes are not those that the rig has as replicas.
        for replica in rig.b.all("volume") {
            rig.b.lose("volume", replica["id"].as_str().unwrap());
        }
        for entry in std::fs::read_dir(&self.path).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() != NAME {
                std::fs::remove_file(path).unwrap();
            }
        }
        rig
    }
}

fn manage(rig: &mut Rig) -> &mut Value {
    &mut rig.spec["volumes"]["cinder-native"]["manage"]
}

#[tokio::test]
async fn a_replica_is_managed_while_it_is_copied_and_is_called_as_it_was() {
    let storage = Storage::new();
    let mut rig = storage.rig().await;
    rig.spec["rpo"] = "1h".into();
    let (before, objects) = (contents(&storage.path), rig.b.objects());
    assert_eq!(before.len(), 1);
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let there = contents(&storage.path);
    let digest = before[0].rsplit(' ').next().unwrap();
    assert!(there.contains(&before[0]), "the replica is as it was while the instance runs: {there:?}");
    assert_eq!(there.len(), 2, "{there:?}");
    assert!(there.iter().all(|one| one.ends_with(digest)), "the volume has its bytes: {there:?}");
    assert_eq!(rig.b.all("volume").len(), 1, "the replica is not managed any more");
    let calls = rig.b.calls();
    assert!(calls.iter().any(|call| call.starts_with("POST") && call.ends_with("/manageable_volumes")));
    let summary = rig.summary(&engine, job).await;
    assert_eq!(summary["volumes"][0]["point"], "2026-01-01T00:00:00Z");
    let undone = rig.command(&engine, job, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
    assert_eq!((contents(&storage.path), rig.b.objects()), (before, objects));
}

#[tokio::test]
async fn a_storage_that_needs_the_snapshot_keeps_the_replica_managed_until_the_undo() {
    let storage = Storage::new();
    let rig = storage.rig().await;
    let (before, objects) = (contents(&storage.path), rig.b.objects());
    rig.b.fail(Rule::once("DELETE", "/snapshots", What::Status(400, None)));
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    assert_eq!((rig.b.all("volume").len(), rig.b.all("snapshot").len()), (2, 1));
    let undone = rig.command(&engine, job, Command::Undo).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
    assert_eq!((contents(&storage.path), rig.b.objects()), (before, objects));
}

#[tokio::test]
async fn names_come_back_by_a_command_or_because_they_were_never_changed() {
    let storage = Storage::new();
    let mut rig = storage.rig().await;
    let before = contents(&storage.path);
    let file = |name: &str| format!("{}/{name}", storage.path.display());
    manage(&mut rig)["give_back"] = json!({ "command": ["mv", file("{now}"), file("{was}")] });
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    assert!(contents(&storage.path).contains(&before[0]));
    rig.command(&engine, job, Command::Undo).await;
    assert_eq!(contents(&storage.path), before);
    // A command that does nothing is found out.
    let mut rig = storage.rig().await;
    manage(&mut rig)["give_back"] = json!({ "command": ["true"] });
    let (engine, job, view) = rig.run().await;
    assert!(troubles(&view).iter().any(|text| text.contains("replica_name")), "{:?}", troubles(&view));
    drop((engine, job, rig));

    let mut rig = Rig::with(|options| options.renames = false).await;
    rig.b.plant_image("lun-7", 1, "bytes of lun 7");
    rig.spec["only"] = json!(["web"]);
    rig.spec["instances"] = json!([]);
    for replica in rig.b.all("volume") {
        rig.b.lose("volume", replica["id"].as_str().unwrap());
    }
    rig.spec["volumes"] = json!({ "cinder-native": { "manage": {
        "host": "storage-b@lab#lab", "names": { "vol-web-root": "lun-7" }, "keeps_names": true,
    } } });
    let before = rig.b.images();
    let (engine, job, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    let images = rig.b.images();
    assert_eq!(images.values().filter(|content| content.contains("lun 7")).count(), 2, "{images:?}");
    assert!(images.contains_key("lun-7"));
    rig.command(&engine, job, Command::Undo).await;
    assert_eq!(rig.b.images(), before);
}

#[tokio::test]
async fn what_is_known_of_replicas_is_said_before_anything_is_made() {
    let storage = Storage::new();
    let said = async |change: &dyn Fn(&mut Value), prepare: &dyn Fn(&Rig)| {
        let mut rig = storage.rig().await;
        change(manage(&mut rig));
        prepare(&rig);
        let before = rig.b.objects();
        let kind = RecoverKind::new(RecoverConfig::foreground(BTreeMap::new()));
        let survey = kind.survey(&rig.clock, &rig.spec).await.unwrap();
        assert_eq!(rig.b.objects(), before);
        let found =
            survey.findings.into_iter().filter(|one| one.code.starts_with("replica") || one.code.starts_with("no_"));
        found.map(|one| (one.code, one.blocks)).collect::<Vec<_>>()
    };
    let nothing = |_: &Rig| {};
    let code = |code: &str, blocks: bool| vec![(code.to_owned(), blocks)];
    assert_eq!(said(&|_| {}, &nothing).await, vec![]);
    assert_eq!(said(&|plan| plan["name"] = "other-{id}".into(), &nothing).await, code("no_replica", true));
    assert_eq!(said(&|plan| plan["host"] = "nobody@none#none".into(), &nothing).await, code("no_storage", true));
    assert_eq!(said(&|plan| plan["give_back"] = Value::Null, &nothing).await, code("replica_name", true));
    // Not every storage tells.
    let silent = |rig: &Rig| {
        rig.b.fail(Rule {
            method: "GET",
            path: "/manageable_volumes",
            after: 0,
            times: 9,
            what: What::Status(400, None),
        });
    };
    assert_eq!(said(&|_| {}, &silent).await, code("replica_unknown", false));
    // Somebody manages it: most storages call it by the volume's id then.
    let mut rig = storage.rig().await;
    let id = rig.b.plant_volume("taken", 1, "x", false, &json!({}));
    manage(&mut rig)["names"] = json!({ "vol-web-root": format!("volume-{id}") });
    let kind = RecoverKind::new(RecoverConfig::foreground(BTreeMap::new()));
    let survey = kind.survey(&rig.clock, &rig.spec).await.unwrap();
    assert!(survey.findings.iter().any(|one| one.code == "replica_in_use" && one.text.contains(&id)));
}

#[test]
fn a_server_does_not_rename_files_that_a_job_names() {
    let told = |give_back: Value, commands: bool| {
        let spec = json!({ "group": "g", "target": "b", "source": "a", "volumes": { "cinder-native": { "manage": {
            "host": "h", "give_back": give_back } } } });
        let config = RecoverConfig { commands, ..RecoverConfig::foreground(BTreeMap::new()) };
        RecoverKind::new(config).check(&spec).iter().any(|fault| fault.pointer.ends_with("/manage/give_back"))
    };
    assert!(told(json!({ "folder": "/srv" }), false) && told(json!({ "command": ["mv"] }), false));
    assert!(!told(json!({ "folder": "/srv" }), true) && !told(Value::Null, false));
}

async fn case(then: Option<Command>) -> Case {
    let storage = Storage::new();
    let rig = storage.rig().await;
    let (clock, request, work_dir) = (rig.clock.clone(), rig.request(), rig.folder.path().join("jobs"));
    let held = Arc::new((rig, storage));
    Case {
        clock,
        kinds: Rig::kinds(),
        request,
        others: Vec::new(),
        reversed: false,
        then,
        work_dir,
        fingerprint: Box::new(move || {
            let held = held.clone();
            Box::pin(async move {
                let (rig, storage) = &*held;
                let marks = rig.b.marks();
                let twice: Vec<&String> =
                    marks.iter().filter(|(_, count)| **count != 1).map(|(mark, _)| mark).collect();
                format!("{} | twice {twice:?} | {:?}", rig.b.objects().join(", "), contents(&storage.path))
            })
        }),
    }
}

async fn check(name: &str, then: Option<Command>, clean: &str) {
    let every = std::env::var("WINDLASS_MATRIX_EVERY").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let memory = |clock| async { Arc::new(MemoryStore::new(clock)) as Arc<dyn Store> };
    let matrix = matrix::make_on(memory, || case(then.clone()), every, matrix::Cast::Alone, 6).await;
    println!("{name}: {} points\n{}", matrix.rows.len(), matrix.to_table());
    for part in [clean, "twice []", NAME] {
        assert!(matrix.clean.contains(part), "{part:?} is not in {}", matrix.clean);
    }
    for label in ["manage replica", "create snapshot", "unmanage volume", "give name back"] {
        assert!(matrix.rows.iter().any(|row| row.label == label), "{label} is not there");
    }
    assert!(matrix.different().is_empty(), "{name}: {:#?}", matrix.different());
}

#[tokio::test]
async fn a_recovery_from_a_managed_replica_killed_anywhere_ends_as_if_it_had_not_been() {
    check("managed replica", None, "completed succeeded").await;
}

#[tokio::test]
async fn its_undo_likewise() {
    check("managed replica, undone", Some(Command::Undo), "finished").await;
}

#[tokio::test]
async fn an_answer_swallowed_at_any_change_leaves_the_replica_as_it_was() {
    let changes = {
        let storage = Storage::new();
        let rig = storage.rig().await;
        rig.run().await;
        rig.b.changes()
    };
    let runs = (0..changes).map(|n| async move {
        let storage = Storage::new();
        let rig = storage.rig().await;
        let before = (contents(&storage.path), rig.b.objects());
        rig.b.fail(Rule::nth_change(n, What::LostAfter));
        let (engine, job, view) = rig.run().await;
        assert_eq!(troubles(&view), Vec::<String>::new(), "answer {n}");
        assert!(rig.b.marks().values().all(|count| *count == 1), "answer {n}: {:?}", rig.b.marks());
        assert!(contents(&storage.path).contains(&before.0[0]), "answer {n}");
        rig.b.calm();
        rig.b.fail(Rule::nth_change(n % 12, What::LostAfter));
        let undone = rig.command(&engine, job, Command::Undo).await;
        assert_eq!(undone.status.state.as_str(), "finished", "answer {n}: {:?}", troubles(&undone));
        assert_eq!((contents(&storage.path), rig.b.objects()), before, "answer {n}");
    });
    let done = futures::stream::iter(runs).buffer_unordered(6).count().await;
    println!("{done} answers swallowed");
}
