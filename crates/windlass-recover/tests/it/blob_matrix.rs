//! The crash matrix over volumes that come by way of object storage: killed before or after any call, any chunk that is sent
//! or written, any commit; answers swallowed; and what protected file, points and the files of others are is never changed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use windlass_engine::Command;
use windlass_engine::probe::Moment;
use windlass_model::Digest;
use windlass_sim::matrix::{self, Case};
use windlass_sim_cloud::{Rule, What};
use windlass_store::Store;
use windlass_store::memory::MemoryStore;

use crate::blob::{Places, files};
use crate::rig::{Rig, troubles};
use crate::stop::Stop;

/// The size of a chunk.
const CHUNK: usize = 4096;

/// Chunks of the protected volume: `-` is a hole, the others have these bytes.
const CHUNKS: &[u8] = b"ab-c--de";

fn protect(places: &Places) -> Vec<u8> {
    let mut bytes: Vec<u8> = CHUNKS.iter().flat_map(|one| vec![if *one == b'-' { 0 } else { *one }; CHUNK]).collect();
    bytes.extend(b"the end");
    std::fs::write(places.a.join("vol-web-root"), &bytes).unwrap();
    bytes
}

async fn rig(places: &Places) -> Rig {
    let mut rig = places.rig().await;
    rig.spec["volumes"]["blob"]["chunk"] = "4KiB".into();
    rig
}

/// Contents below a folder by what files are called, without the ids that the job gave; of large ones, which are holes, only
/// the length.
pub(crate) fn contents(folder: &Path) -> Vec<String> {
    let content = |(name, length): (String, u64)| {
        let digest = match length {
            0..=1_000_000 => Digest::of(&std::fs::read(folder.join(&name)).unwrap()).to_string(),
            _ => String::new(),
        };
        let given = ["volume-", "snapshot-", "windlass-"].into_iter().find(|begin| name.starts_with(begin));
        format!("{} {length} {digest}", given.unwrap_or(&name))
    };
    let mut all: Vec<String> = files(folder).into_iter().map(content).collect();
    all.sort();
    all
}

/// What the points are: how many there are of each volume, and what each lists; and all chunks.
fn points(store: &Path) -> Vec<String> {
    let list = |name: String| match name.contains("/points/") {
        true => {
            let text = std::fs::read_to_string(store.join(&name)).unwrap();
            // The first line says when it was taken.
            let lines: Vec<&str> = text.lines().skip(1).collect();
            format!("{} {}", name.split("/points/").next().unwrap_or_default(), lines.join(" "))
        }
        false => name,
    };
    files(store).into_keys().map(list).collect()
}

async fn case(then: Option<Command>) -> Case {
    let places = Places::new();
    let bytes = protect(&places);
    let rig = rig(&places).await;
    let (clock, request, work_dir) = (rig.clock.clone(), rig.request(), rig.folder.path().join("jobs"));
    let held = Arc::new((rig, places, bytes));
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
                let (rig, places, bytes) = &*held;
                let same = std::fs::read(places.a.join("vol-web-root")).unwrap() == *bytes;
                let marks = rig.b.marks();
                let twice: Vec<&String> =
                    marks.iter().filter(|(_, count)| **count != 1).map(|(mark, _)| mark).collect();
                format!(
                    "{} | twice {twice:?} | protected {same} | {:?} | {:?}",
                    rig.b.objects().join(", "),
                    contents(&places.b),
                    points(&places.store)
                )
            })
        }),
    }
}

/// As in the matrix of volumes that are replicas; each chunk has a label of its own, so each is tried on both sides.
fn every() -> usize {
    std::env::var("WINDLASS_MATRIX_EVERY").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

async fn check(name: &str, then: Option<Command>, clean: &str) {
    let memory = |clock| async { Arc::new(MemoryStore::new(clock)) as Arc<dyn Store> };
    let matrix = matrix::make_on(memory, || case(then.clone()), every(), matrix::Cast::Alone, 6).await;
    println!("{name}: {} points\n{}", matrix.rows.len(), matrix.to_table());
    for part in [clean, "twice []", "protected true"] {
        assert!(matrix.clean.contains(part), "{part:?} is not in {}", matrix.clean);
    }
    for label in ["send chunk 0", "send point", "write chunk 0", "name volume", "manage volume"] {
        for moment in [Moment::BeforeEffect, Moment::AfterEffect] {
            assert!(matrix.rows.iter().any(|row| row.moment == moment && row.label == label), "{label} is not there");
        }
    }
    assert!(matrix.different().is_empty(), "{name}: {:#?}", matrix.different());
}

#[tokio::test]
async fn a_restore_killed_anywhere_ends_as_if_it_had_not_been() {
    check("blob", None, "completed succeeded").await;
}

#[tokio::test]
async fn its_undo_likewise() {
    check("blob, undone", Some(Command::Undo), "finished").await;
}

#[tokio::test]
async fn an_answer_swallowed_or_refused_at_any_change_changes_nothing_in_the_end() {
    let clean = {
        let places = Places::new();
        protect(&places);
        let rig = rig(&places).await;
        let (engine, job, _) = rig.run().await;
        let (up, there) = (rig.b.changes(), (rig.b.objects(), contents(&places.b), points(&places.store)));
        rig.command(&engine, job, Command::Undo).await;
        (up, rig.b.changes() - up, there)
    };
    let (up, down, there) = &clean;
    assert!(*up > 15 && *down > 10, "{up} {down}");
    let lost = (0..*up.max(down)).map(|n| (n, What::LostAfter));
    let refused = (0..*up.max(down)).step_by(3).map(|n| (n, What::Status(503, None)));
    let runs = lost.chain(refused).map(|(n, what)| async move {
        let places = Places::new();
        let bytes = protect(&places);
        let rig = rig(&places).await;
        let before = (rig.b.objects(), contents(&places.b));
        rig.b.fail(Rule::nth_change(n, what.clone()));
        let (engine, job, view) = rig.run().await;
        assert_eq!(troubles(&view), Vec::<String>::new(), "{what:?} at {n}");
        assert!(rig.b.marks().values().all(|count| *count == 1), "{what:?} at {n}: {:?}", rig.b.marks());
        let now = (rig.b.objects(), contents(&places.b), points(&places.store));
        assert_eq!(&now, there, "{what:?} at {n}");
        rig.b.calm();
        rig.b.fail(Rule::nth_change(n, what.clone()));
        let undone = rig.command(&engine, job, Command::Undo).await;
        assert_eq!(undone.status.state.as_str(), "finished", "{what:?} at {n}: {:?}", troubles(&undone));
        assert_eq!((rig.b.objects(), contents(&places.b)), before, "{what:?} at {n}");
        assert_eq!(points(&places.store), there.2, "{what:?} at {n}");
        assert!(std::fs::read(places.a.join("vol-web-root")).unwrap() == bytes);
    });
    let done = futures::stream::iter(runs).buffer_unordered(6).count().await;
    println!("{done} drills with a lost or refused call ended as the clean one");
}

#[tokio::test]
async fn a_restore_that_was_interrupted_goes_on_where_it_was() {
    let places = Places::new();
    // 200 chunks, none like another.
    let bytes: Vec<u8> = (0..200_u32).flat_map(|n| n.to_le_bytes().repeat(CHUNK / 4)).collect();
    std::fs::write(places.a.join("vol-web-root"), &bytes).unwrap();
    let rig = rig(&places).await;
    let stop = Stop::at(Moment::AfterEffect, "write chunk 150");
    let engine = rig.engine_seen_by(stop.clone()).await;
    let job = engine.submit(rig.request()).await.unwrap();
    stop.reached(&rig.clock).await;
    rig.kill(engine).await;
    let first = stop.begun("write chunk");
    assert!((100..200).contains(&first), "{first} chunks were written before the kill");
    let seen = Stop::never();
    let engine = rig.engine_seen_by(seen.clone()).await;
    let view = rig.rest(&engine, job).await;
    assert_eq!(troubles(&view), Vec::<String>::new());
    // It was written down after each 64 chunks how far it had come.
    assert_eq!((seen.begun("send"), seen.begun("write chunk")), (0, 200 - 128));
    let digest = |path: &Path| Digest::of(&std::fs::read(path).unwrap());
    let server = rig.b.all("server").remove(0);
    let volume = server["os-extended-volumes:volumes_attached"][0]["id"].as_str().unwrap();
    assert_eq!(digest(&places.b.join(format!("volume-{volume}"))), Digest::of(&bytes));
    assert_eq!(digest(&places.a.join("vol-web-root")), Digest::of(&bytes));
}

#[tokio::test]
async fn a_file_whose_managing_was_never_confirmed_goes_although_the_undo_is_killed() {
    let places = Places::new();
    protect(&places);
    let rig = rig(&places).await;
    let before: BTreeMap<String, u64> = files(&places.b);
    let objects = rig.b.objects();
    // It is managed, nobody is told, and nobody can find out.
    rig.b.fail(Rule::once("POST", "/manageable_volumes", What::LostAfter));
    let hidden =
        Rule { method: "GET", path: "/volumes/detail", after: 0, times: 10_000, what: What::Status(400, None) };
    rig.b.fail(hidden);
    let (engine, job, view) = rig.run().await;
    assert!(troubles(&view).iter().any(|text| text.contains("import.volume")), "{:?}", troubles(&view));
    rig.b.calm();
    rig.kill(engine).await;
    for label in ["unmanage volume", "give name back"] {
        let stop = Stop::at(Moment::AfterEffect, label);
        let engine = rig.engine_seen_by(stop.clone()).await;
        let _ = engine.command(job, Command::Undo, Some("once".into())).await.unwrap();
        stop.reached(&rig.clock).await;
        rig.kill(engine).await;
    }
    let engine = rig.engine().await;
    let undone = rig.rest(&engine, job).await;
    assert_eq!(undone.status.state.as_str(), "finished", "{:?}", troubles(&undone));
    assert_eq!((files(&places.b), rig.b.objects()), (before, objects));
}
