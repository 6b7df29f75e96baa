//! The crash matrix: a recovery killed before or after any commit and any change outside ends as if it had not been.

use std::sync::Arc;

use windlass_engine::Command;
use windlass_sim::matrix::{self, Case};
use windlass_store::Store;
use windlass_store::memory::MemoryStore;

use crate::rig::Rig;

async fn case(then: Option<Command>) -> Case {
    let rig = Rig::new().await;
    let request = rig.request();
    let work_dir = rig.folder.path().join("jobs");
    let clock = rig.clock.clone();
    let rig = Arc::new(rig);
    Case {
        clock,
        kinds: Rig::kinds(),
        request,
        others: Vec::new(),
        reversed: false,
        then,
        work_dir,
        fingerprint: Box::new(move || {
            let rig = rig.clone();
            Box::pin(async move {
                // By content: ids go by who came first.
                let mut images: Vec<String> = rig.b.images().into_values().collect();
                images.sort();
                let twice: Vec<String> =
                    rig.b.marks().into_iter().filter(|(_, count)| *count != 1).map(|(mark, _)| mark).collect();
                format!("{} | twice {twice:?} | {:?}", rig.b.objects().join(", "), images)
            })
        }),
    }
}

/// Which points are tried: each label on each side, and of the others one in so many. `WINDLASS_MATRIX_EVERY=1`: all.
fn every() -> usize {
    std::env::var("WINDLASS_MATRIX_EVERY").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

async fn check(name: &str, then: Option<Command>, clean: &str) {
    let memory = |clock| async { Arc::new(MemoryStore::new(clock)) as Arc<dyn Store> };
    let matrix = matrix::make_on(memory, || case(then.clone()), every(), matrix::Cast::Alone, 6).await;
    println!("{name}: {} points\n{}", matrix.rows.len(), matrix.to_table());
    assert!(matrix.clean.contains(clean), "{clean:?} is not in {}", matrix.clean);
    assert!(matrix.clean.contains("twice []"), "{}", matrix.clean);
    assert!(matrix.different().is_empty(), "{name}: {:#?}", matrix.different());
}

#[tokio::test]
async fn a_recovery_killed_anywhere_ends_as_if_it_had_not_been() {
    check("recover", None, "completed succeeded").await;
}

#[tokio::test]
async fn its_undo_likewise() {
    check("recover, undone", Some(Command::Undo), "finished").await;
}
