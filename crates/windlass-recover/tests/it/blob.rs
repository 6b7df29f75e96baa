//! Volumes by way of object storage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;
use windlass_engine::Command;
use windlass_engine::kind::{Kind, SpecFault};
use windlass_recover::{RecoverConfig, RecoverKind};
use windlass_sim_cloud::{Backend, Rule, What};

use crate::rig::{Rig, troubles};

/// Two folders of volumes, and one of points.
pub(crate) struct Places {
    _folder: tempfile::TempDir,
    pub(crate) a: PathBuf,
    pub(crate) b: PathBuf,
    pub(crate) store: PathBuf,
}

impl Places {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [a, b, store] = ["a", "b", "store"].map(|name| folder.path().join(name));
        [&a, &b, &store].iter().for_each(|path| std::fs::create_dir(path).unwrap());
        Self { _folder: folder, a, b, store }
    }

    /// A target site whose storage is a folder, and a job that recovers one instance of one volume.
    pub(crate) async fn rig(&self) -> Rig {
        let backend = Backend::Folder(self.b.clone());
        let mut rig = Rig::with(|options| options.backend = backend).await;
        rig.spec["only"] = json!(["web"]);
        rig.spec["instances"] = json!([]);
        rig.spec["volumes"] = json!({ "blob": {
            "store": format!("file://{}", self.store.display()), "from": format!("{}/{{id}}", self.a.display()),
            "to": self.b, "host": "storage-b@lab#lab", "chunk": "64KiB",
        } });
        rig
    }

    /// What is in the file of the protected volume: text, a hole, text, and a last chunk that is short.
    fn write(&self, text: &str) -> Vec<u8> {
        let mut bytes = text.repeat(10_000).into_bytes();
        bytes.resize(3 << 20, 0);
        bytes.extend(text.repeat(5_001).into_bytes());
        std::fs::write(self.a.join("vol-web-root"), &bytes).unwrap();
        bytes
    }

    fn chunks(&self) -> usize {
        files(&self.store).keys().filter(|name| name.contains("chunks/")).count()
    }
}

/// Lengths of all files below a folder.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, path.metadata().unwrap().len());
            }
        }
    }
    found
}

fn volume_of(rig: &Rig) -> String {
    let server = rig.b.all("server").remove(0);
    server["os-extended-volumes:volumes_attached"][0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn volumes_come_from_points_and_only_what_has_changed_is_sent() {
    let places = Places::new();
    let mut bytes = places.write("first ");
    let mut sent = Vec::new();
    for change in [None, Some(200_000)] {
        if let Some(at) = change {
            bytes[at] ^= 0xff;
            std::fs::write(places.a.join("vol-web-root"), &bytes).unwrap();
        }
        let rig = places.rig().await;
        let (before, there) = (rig.b.objects(), files(&places.b));
        let earlier = places.chunks();
        let (engine, job, view) = rig.run().await;
        assert_eq!(troubles(&view), Vec::<String>::new());
        sent.push(places.chunks() - earlier);
        let file = places.b.join(format!("volume-{}", volume_of(&rig)));
        assert!(std::fs::read(&file).unwrap() == bytes, "the volume has the bytes of the protected one");
        let undone = rig.command(&engine, job, Command::Undo).await;
        assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
        assert_eq!(rig.b.objects(), before);
        assert_eq!(files(&places.b), there, "every file that was there is there, and no other");
    }
    // Of the 49 chunks that 3 MiB and a little have, the hole in the middle is in none that is sent.
    assert!(sent[0] <= 3 && sent[0] >= 2, "{sent:?}");
    assert_eq!(sent[1], 1, "one chunk has changed");
    // The protected site is lost: the newest point will do, and a moment before it gives the one before.
    std::fs::remove_file(places.a.join("vol-web-root")).unwrap();
    let rig = places.rig().await;
    let (_, _, view) = rig.run().await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    assert!(std::fs::read(places.b.join(format!("volume-{}", volume_of(&rig)))).unwrap() == bytes);
}

#[tokio::test]
async fn an_answer_swallowed_while_a_file_is_managed_or_let_go_changes_nothing_in_the_end() {
    for (method, path) in [("POST", "/manageable_volumes"), ("POST", "/action")] {
        let places = Places::new();
        let bytes = places.write("other ");
        let rig = places.rig().await;
        let (before, there) = (rig.b.objects(), files(&places.b));
        rig.b.fail(Rule::once(method, path, What::LostAfter));
        let (engine, job, view) = rig.run().await;
        assert_eq!(troubles(&view), Vec::<String>::new(), "{path}");
        assert!(rig.b.marks().values().all(|count| *count == 1), "{path}: {:?}", rig.b.marks());
        assert!(std::fs::read(places.b.join(format!("volume-{}", volume_of(&rig)))).unwrap() == bytes, "{path}");
        rig.b.fail(Rule::once(method, path, What::LostAfter));
        let undone = rig.command(&engine, job, Command::Undo).await;
        assert_eq!(undone.status.state.as_str(), "finished", "{path}: {:?}", troubles(&undone));
        assert_eq!(rig.b.objects(), before, "{path}");
        assert_eq!(files(&places.b), there, "{path}");
    }
}

#[tokio::test]
async fn a_damaged_chunk_is_found_and_nothing_is_left() {
    let places = Places::new();
    places.write("third ");
    let rig = places.rig().await;
    let (engine, job, _) = rig.run().await;
    rig.command(&engine, job, Command::Undo).await;
    std::fs::remove_file(places.a.join("vol-web-root")).unwrap();
    let chunk = files(&places.store).into_keys().find(|name| name.contains("chunks/")).unwrap();
    let path = places.store.join(chunk);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[7] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let rig = places.rig().await;
    let (before, there) = (rig.b.objects(), files(&places.b));
    let (engine, job, view) = rig.run().await;
    assert!(troubles(&view).iter().any(|text| text.contains("point_damaged")), "{:?}", troubles(&view));
    rig.command(&engine, job, Command::Undo).await;
    assert_eq!(rig.b.objects(), before);
    assert_eq!(files(&places.b), there);
}

#[tokio::test]
async fn what_is_missing_is_said_before_anything_is_made() {
    let places = Places::new();
    let mut rig = places.rig().await;
    rig.spec["volumes"]["blob"]["host"] = "nobody@none#none".into();
    rig.spec["volumes"]["blob"]["to"] = places.b.join("none").display().to_string().into();
    let before = rig.b.objects();
    let (_, _, view) = rig.run().await;
    let said = troubles(&view).join("\n");
    for code in ["no_storage", "no_folder", "no_point"] {
        assert!(said.contains(code), "{code} is not in {said}");
    }
    assert_eq!(rig.b.objects(), before);
}

#[tokio::test]
async fn a_server_does_not_move_volumes_through_folders_that_a_job_names() {
    let rig = Places::new().rig().await;
    let said = |config: RecoverConfig| RecoverKind::new(config).check(&rig.spec);
    let told = |faults: Vec<SpecFault>| faults.iter().any(|fault| fault.pointer == "/volumes/blob");
    let foreground = RecoverConfig::foreground(BTreeMap::new());
    assert!(told(said(RecoverConfig { commands: false, ..foreground.clone() })));
    assert!(!told(said(foreground)));
}
