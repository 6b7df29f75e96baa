//! Folders, locks, damage, backups: what surrounds the data.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use windlass_clock::SystemClock;
use windlass_store::conformance::ManualClock;
use windlass_store::{Committed, Compare, Revision, Store, StoreError, Txn, read_all};
use windlass_store_embedded::{DATABASE_FILE, EmbeddedStore, LOCK_FILE, Options, holder};

fn options() -> Options {
    Options::new(SystemClock::real())
}

async fn put(store: &EmbeddedStore, key: &str, value: &str) -> Revision {
    match store.commit(Txn::new().put(key, value.to_owned())).await.expect("writable") {
        Committed::At(revision) => revision,
        Committed::Conflict(_) => unreachable!("there is no condition"),
    }
}

fn unusable(dir: &Path) -> String {
    match EmbeddedStore::open(dir, options()) {
        Err(StoreError::Unusable(why)) => why,
        other => panic!("the folder should be unusable: {other:?}"),
    }
}

#[tokio::test]
async fn the_state_is_there_again_after_an_orderly_stop() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), options()).unwrap();
    let first = put(&store, "a", "1").await;
    let last = put(&store, "b", "2").await;
    store.close().await;
    assert!(!dir.path().join("state.db-wal").exists(), "the log was moved into the database");
    let store = EmbeddedStore::open(dir.path(), options()).unwrap();
    assert_eq!(store.revision().await, Ok(last));
    assert_eq!(store.get("a").await.unwrap().unwrap().version, first);
    assert!(put(&store, "c", "3").await > last, "revisions go on");
    let told = store.watch("", first).await.err();
    assert_eq!(
        told,
        Some(StoreError::Compacted { asked: first, oldest: last }),
        "history does not survive, and says so"
    );
}

#[tokio::test]
async fn leases_die_with_the_process_and_take_their_keys_as_one_change() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), options()).unwrap();
    let lease = store.grant(Duration::from_secs(3600)).await.unwrap();
    store.commit(Txn::new().put_leased("claim/1", "", lease).put_leased("claim/2", "", lease)).await.unwrap();
    let last = put(&store, "job", "1").await;
    store.close().await;
    let store = EmbeddedStore::open(dir.path(), options()).unwrap();
    let left: Vec<_> = read_all(&store, "").await.unwrap().into_iter().map(|entry| entry.key).collect();
    assert_eq!(left, ["job"]);
    assert_eq!(store.revision().await, Ok(Revision(last.0 + 1)));
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseGone));
    assert_ne!(store.grant(Duration::from_secs(1)).await.unwrap(), lease, "its id is not given out again");
}

#[tokio::test]
async fn a_second_opener_is_told_who_holds_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(holder(dir.path()), Ok(None));
    let options = || Options { command: Some("windlass up".to_owned()), ..options() };
    let first = EmbeddedStore::open(dir.path(), options()).unwrap();
    first.set_address(Some("127.0.0.1:7420".to_owned())).unwrap();
    let told = EmbeddedStore::open(dir.path(), options()).unwrap_err();
    let StoreError::Held(told) = told else { panic!("{told:?}") };
    let expected = format!("is held by process {} (windlass up) on host ", std::process::id());
    assert!(told.contains(&expected) && told.ends_with("; stop it, or talk to it at 127.0.0.1:7420"), "{told}");
    assert_eq!(holder(dir.path()).unwrap().unwrap().pid, std::process::id());
    drop(first);
    assert_eq!(holder(dir.path()), Ok(None));
    EmbeddedStore::open(dir.path(), options()).unwrap();
}

#[tokio::test]
async fn a_lock_file_that_a_crash_left_behind_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(LOCK_FILE), r#"{"pid":1,"host":"h","command":"c","since":"s"}"#).unwrap();
    assert_eq!(holder(dir.path()), Ok(None));
    EmbeddedStore::open(dir.path(), options()).unwrap();
    fs::write(dir.path().join(LOCK_FILE), "no JSON").unwrap();
    EmbeddedStore::open(dir.path(), options()).unwrap();
}

#[tokio::test]
async fn others_read_while_one_holds_the_folder_and_after_it_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let why = EmbeddedStore::read_only(dir.path()).unwrap_err().to_string();
    assert!(why.contains("there is no state in"), "{why}");
    let store = EmbeddedStore::open(dir.path(), options()).unwrap();
    let reader = EmbeddedStore::read_only(dir.path()).unwrap();
    let at = put(&store, "a", "1").await;
    assert_eq!(reader.get("a").await.unwrap().unwrap().value, "1");
    assert_eq!(reader.revision().await, Ok(at));
    assert!(matches!(reader.commit(Txn::new().put("a", "2")).await, Err(StoreError::Held(_))));
    assert!(matches!(reader.watch("", at).await, Err(StoreError::Held(_))));
    let mut scan = reader.scan("").await.unwrap();
    put(&store, "b", "1").await;
    assert_eq!(scan.next_page(10).await.unwrap().len(), 1, "a scan stays at its revision across processes");
    drop(scan);
    store.close().await;
    let outcome = reader.commit(Txn::new().put("a", "2")).await;
    assert!(matches!(&outcome, Err(StoreError::Unusable(why)) if why.contains("reading only")), "{outcome:?}");
    assert_eq!(read_all(&EmbeddedStore::read_only(dir.path()).unwrap(), "").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_watch_ends_when_the_store_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path(), options()).unwrap();
    let at = put(&store, "a", "1").await;
    let mut watch = store.watch("", at).await.unwrap();
    put(&store, "a", "2").await;
    let waiting = tokio::spawn(async move { (watch.next().await, watch.next().await) });
    store.close().await;
    let (change, end) = waiting.await.unwrap();
    assert_eq!(change.unwrap().len(), 1);
    assert_eq!(end, Err(StoreError::Closed));
}

#[tokio::test]
async fn a_backup_is_one_revision_and_opens_as_a_state_folder() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(&dir.path().join("live"), options()).unwrap());
    for n in 0..200 {
        store.commit(Txn::new().put(format!("left/{n}"), "").put(format!("right/{n}"), "")).await.unwrap();
    }
    let writing = Arc::clone(&store);
    let writer = tokio::spawn(async move {
        for n in 200..400 {
            writing.commit(Txn::new().put(format!("left/{n}"), "").put(format!("right/{n}"), "")).await.unwrap();
        }
    });
    let restored = dir.path().join("restored");
    fs::create_dir(&restored).unwrap();
    store.backup_to(&restored.join(DATABASE_FILE)).await.unwrap();
    writer.await.unwrap();
    let again = store.backup_to(&restored.join(DATABASE_FILE)).await;
    assert!(matches!(&again, Err(StoreError::Unavailable(why)) if why.contains("exists already")), "{again:?}");
    let copy = EmbeddedStore::open(&restored, options()).unwrap();
    let (left, right) = (read_all(&copy, "left/").await.unwrap(), read_all(&copy, "right/").await.unwrap());
    assert!(left.len() >= 200 && left.len() == right.len());
    assert_eq!(copy.revision().await, Ok(left.iter().map(|entry| entry.version).max().unwrap()));
    put(&copy, "new", "life").await;
}

#[tokio::test]
async fn a_file_of_another_program_or_of_a_newer_one_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(DATABASE_FILE);
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE photos (id)").unwrap();
    let before = fs::read(&file).unwrap();
    let why = unusable(dir.path());
    assert!(why.contains("of another program") && why.contains("state.db"), "{why}");
    assert_eq!(fs::read(&file).unwrap(), before);

    fs::remove_file(&file).unwrap();
    EmbeddedStore::open(dir.path(), options()).unwrap().close().await;
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 2).unwrap();
    let why = unusable(dir.path());
    assert!(why.contains("schema 2") && why.contains("knows schema 1") && why.contains("newer"), "{why}");

    fs::write(&file, "these are just some words that go on for a while").unwrap();
    let why = unusable(dir.path());
    assert!(why.contains("state.db is damaged") && why.contains("backup"), "{why}");
    assert_eq!(EmbeddedStore::read_only(dir.path()).unwrap_err(), StoreError::Unusable(why));
}

/// Ends without the orderly stop: what a killed process leaves.
fn copy_as_a_crash_leaves_it(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for name in ["state.db", "state.db-wal"] {
        fs::copy(from.join(name), to.join(name)).expect("the file is copied");
    }
}

#[tokio::test]
async fn damage_is_found_after_an_unclean_stop_and_nothing_is_wiped() {
    let dir = tempfile::tempdir().unwrap();
    let (live, crashed) = (dir.path().join("live"), dir.path().join("crashed"));
    let store = EmbeddedStore::open(&live, options()).unwrap();
    for n in 0..500 {
        store.commit(Txn::new().put(format!("k/{n:03}"), vec![7; 400])).await.unwrap();
    }
    store.close().await;
    let store = EmbeddedStore::open(&live, options()).unwrap();
    put(&store, "last", "1").await;
    copy_as_a_crash_leaves_it(&live, &crashed);
    let sound = EmbeddedStore::open(&crashed, options()).unwrap();
    assert!(sound.get("last").await.unwrap().is_some());
    drop(sound);

    fs::remove_dir_all(&crashed).unwrap();
    copy_as_a_crash_leaves_it(&live, &crashed);
    let mut file = fs::OpenOptions::new().read(true).write(true).open(crashed.join(DATABASE_FILE)).unwrap();
    // The header of a page in the middle.
    file.seek(SeekFrom::Start(30 * 4096)).unwrap();
    file.write_all(&[0x55; 64]).unwrap();
    drop(file);
    let why = unusable(&crashed);
    assert!(why.contains("state.db is damaged") && why.contains("backup"), "{why}");
    let mut bytes = Vec::new();
    fs::File::open(crashed.join(DATABASE_FILE)).unwrap().read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() >= 500 * 400, "nothing was wiped");
    assert_eq!(unusable(&crashed), why, "and it is found again");
}

#[tokio::test]
async fn a_full_store_refuses_what_needs_room_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new();
    let options = Options { max_bytes: Some(512 * 1024), ..Options::new(Arc::new(clock.clone())) };
    let store = EmbeddedStore::open(dir.path(), options).unwrap();
    let lease = store.grant(Duration::from_secs(10)).await.unwrap();
    store.commit(Txn::new().put_leased("claim", "", lease)).await.unwrap();
    let at = put(&store, "k", "1").await;
    let big = |n: u32| Txn::new().put("k", "2").put(format!("big/{n}"), vec![1; 100_000]);
    let mut n = 0;
    let refused = loop {
        match store.commit(big(n)).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert!(refused.is_retryable(), "{refused:?}");
    let full_at = store.revision().await.unwrap();
    assert_eq!(full_at, Revision(at.0 + u64::from(n)));
    assert_eq!(store.get(&format!("big/{n}")).await, Ok(None), "nothing of the refused commit is there");
    // A lease that ends in the batch that fails still ends.
    clock.advance(Duration::from_secs(10));
    assert!(store.commit(big(n)).await.unwrap_err().is_retryable());
    assert_eq!(store.get("claim").await, Ok(None));
    store.commit(Txn::new().delete("big/0").when(Compare::NoneUnder("claim".into()))).await.unwrap();
    store.commit(big(n)).await.unwrap();
}

#[tokio::test]
async fn the_log_starts_over_under_steady_load() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(dir.path(), options()).unwrap());
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..60u8 {
                    store.commit(Txn::new().put(format!("k/{writer}/{}", n % 8), vec![n; 120 * 1024])).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let log = fs::metadata(dir.path().join("state.db-wal")).unwrap().len();
    // 16 * 60 * 120 KiB = 112 MiB were written.
    assert!(log < 80 * 1024 * 1024, "the log has {log} bytes");
}
