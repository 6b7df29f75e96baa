//! Uploads in parts, downloads into files, limits of bandwidth.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use windlass_blob::{
    Bandwidth, BlobStore, BlobUrl, Digests, DownloadOptions, Environment, ErrorKind, Operation, PutMode, ReadAhead,
    ReadOptions, UploadOptions,
};
use windlass_clock::SystemClock;
use windlass_sim::s3::{Fault, Script, Seen};

use crate::place::{Site, context, pattern, read_all};

const MIB: usize = 1 << 20;

fn chunks(data: &Bytes, size: usize) -> impl futures::Stream<Item = Result<Bytes, io::Error>> + Unpin + use<> {
    let data = data.clone();
    futures::stream::iter((0..data.len()).step_by(size).map(move |at| Ok(data.slice(at..data.len().min(at + size)))))
}

fn is_part(seen: &Seen) -> bool {
    seen.method == "PUT" && seen.query.contains("partNumber")
}

fn folder(dir: &TempDir) -> BlobStore {
    let url = BlobUrl::from_folder(dir.path(), false).unwrap();
    BlobStore::open(&url, &context(SystemClock::real(), Environment::empty())).unwrap()
}

/// The unfinished uploads the test server knows.
fn unfinished(site: &Site) -> usize {
    let names = std::fs::read_dir(site.dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".upload-")).count()
}

/// Waits until the proxy saw one abort and the server has forgotten the upload; it may happen behind the error.
async fn aborted(site: &Site) {
    let seen = || site.proxy.seen().iter().filter(|seen| seen.method == "DELETE").count();
    let wait = async {
        while seen() != 1 || unfinished(site) != 0 {
            tokio::task::yield_now().await;
        }
    };
    let in_time = windlass_clock::deadline(&*SystemClock::real(), Duration::from_secs(10), wait).await;
    assert!(in_time.is_ok(), "{} aborts, {} uploads unfinished", seen(), unfinished(site));
}

#[tokio::test]
async fn a_large_stream_is_uploaded_in_parts_and_verified_on_every_kind_of_store() {
    let data = pattern(17 * MIB + 12_345, 3);
    let dir = TempDir::new().unwrap();
    let site = Site::start();
    let memory = BlobStore::open_text("memory:///parts", &context(SystemClock::real(), Environment::empty())).unwrap();
    for store in [&site.store, &folder(&dir), &memory] {
        let options = UploadOptions { size: Some(data.len() as u64), ..UploadOptions::default() };
        let written = store.put_stream("big", chunks(&data, 100_000), options).await.unwrap();
        assert_eq!(written.digests, Digests::of(&data), "{store:?}");
        assert_eq!(store.digests_of("big").await.unwrap(), written.digests);
        assert_eq!(store.head("big").await.unwrap().etag, written.etag);
        assert_eq!(store.counts().of(Operation::PutPart), 3);
        let options = ReadOptions { read_ahead: Some(ReadAhead::default()), ..ReadOptions::default() };
        assert_eq!(read_all(store.get_stream("big", options).await.unwrap()).await.unwrap(), data);
    }
    assert_eq!(site.proxy.seen().iter().filter(|seen| is_part(seen)).count(), 3);
    assert_eq!(unfinished(&site), 0);
}

#[tokio::test]
async fn a_stream_that_fits_one_part_is_one_request() {
    let site = Site::start();
    for length in [0, 1, 8 * MIB] {
        site.proxy.run(Script::pass());
        let data = pattern(length, 1);
        site.store.put_stream("k", chunks(&data, 65_536), UploadOptions::default()).await.unwrap();
        assert_eq!(site.proxy.seen().len(), 1, "{length}");
        assert_eq!(site.direct().digests_of("k").await.unwrap(), Digests::of(&data));
    }
}

#[tokio::test]
async fn a_part_that_fails_is_sent_again_alone() {
    let site = Site::start();
    let data = pattern(17 * MIB, 3);
    site.proxy.run(Script::by(
        |seen| {
            if is_part(seen) && seen.number < 4 { Fault::slow_down(None) } else { Fault::Pass }
        },
    ));
    let written = site.store.put_stream("big", chunks(&data, MIB), UploadOptions::default()).await.unwrap();
    assert_eq!(site.direct().digests_of("big").await.unwrap(), written.digests);
    let seen = site.proxy.seen();
    assert!(seen.iter().filter(|seen| is_part(seen)).count() > 3);
    assert_eq!(seen.iter().filter(|seen| seen.method == "POST" && seen.query.contains("uploads")).count(), 1);
}

#[tokio::test]
async fn a_failed_upload_is_aborted_and_leaves_nothing() {
    let site = Site::start();
    let data = pattern(20 * MIB, 3);

    // The store refuses a part.
    site.proxy.run(Script::by(|seen| {
        if is_part(seen) && seen.query.contains("partNumber=2") { Fault::status(403) } else { Fault::Pass }
    }));
    let error = site.store.put_stream("big", chunks(&data, MIB), UploadOptions::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::AccessDenied, Operation::PutPart), "{error}");
    aborted(&site).await;

    // The source breaks.
    site.proxy.run(Script::pass());
    let broken = chunks(&data, MIB).take(18).chain(futures::stream::iter([Err(io::Error::other("tape torn"))]));
    let error = site.store.put_stream("big", broken, UploadOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("tape torn"), "{error}");
    aborted(&site).await;

    // Less comes than was announced.
    site.proxy.run(Script::pass());
    let options = UploadOptions { size: Some(21 * MIB as u64), ..UploadOptions::default() };
    let error = site.store.put_stream("big", chunks(&data, MIB), options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    aborted(&site).await;

    // Cancelled while the source hangs.
    site.proxy.run(Script::pass());
    let cancel = CancellationToken::new();
    let store = site.store.with_cancel(cancel.clone());
    let endless = chunks(&data, MIB).chain(futures::stream::pending());
    let work = tokio::spawn(async move { store.put_stream("big", endless, UploadOptions::default()).await });
    site.proxy.wait_for(2).await;
    cancel.cancel();
    assert_eq!(work.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    aborted(&site).await;

    // Dropped.
    site.proxy.run(Script::pass());
    let store = site.store.clone();
    let endless = chunks(&data, MIB).chain(futures::stream::pending());
    let work = tokio::spawn(async move { store.put_stream("big", endless, UploadOptions::default()).await });
    site.proxy.wait_for(3).await;
    work.abort();
    assert!(work.await.unwrap_err().is_cancelled());
    aborted(&site).await;

    assert_eq!(site.direct().try_head("big").await.unwrap(), None);
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_known_as_done() {
    let site = Site::start();
    let data = pattern(17 * MIB, 3);
    site.proxy.run(Script::by(|seen| {
        let completes = seen.method == "POST" && seen.query.contains("uploadId");
        let first = !ALREADY.load(std::sync::atomic::Ordering::SeqCst);
        if completes && first {
            ALREADY.store(true, std::sync::atomic::Ordering::SeqCst);
            return Fault::LoseAnswer;
        }
        Fault::Pass
    }));
    static ALREADY: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let written = site.store.put_stream("big", chunks(&data, MIB), UploadOptions::default()).await.unwrap();
    assert_eq!(site.direct().digests_of("big").await.unwrap(), written.digests);
}

#[tokio::test]
async fn a_file_goes_up_and_comes_down_the_same() {
    let site = Site::start();
    let dir = TempDir::new().unwrap();
    let data = pattern(10 * MIB + 7, 5);
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    std::fs::write(&source, &data).unwrap();
    let written = site.store.upload_file(&source, "file", UploadOptions::default()).await.unwrap();
    assert_eq!(written.digests, Digests::of(&data));
    let options = DownloadOptions { sha256: Some(written.digests.sha256), ..DownloadOptions::default() };
    let got = site.store.download_file("file", &target, options).await.unwrap();
    assert_eq!((got.digests, got.resumed_at), (written.digests, 0));
    assert_eq!(std::fs::read(&target).unwrap(), data);
    let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["source", "target"], "nothing else is left");

    let missing = site.store.upload_file(&dir.path().join("missing"), "x", UploadOptions::default()).await.unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
    assert_ne!(missing.kind(), ErrorKind::NotFound, "it is not the object that is missing");
}

#[tokio::test]
async fn a_file_that_is_handed_over_is_the_object_and_gone_where_it_was() {
    let site = Site::start();
    let (dir, home) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let local = folder(&home);
    let data = pattern(3 * MIB, 9);
    for store in [&local, &site.store] {
        let source = dir.path().join("source");
        for key in ["file", "new/folders/file", "file"] {
            std::fs::write(&source, &data).unwrap();
            assert_eq!(store.move_file(&source, key, UploadOptions::default()).await.unwrap(), data.len() as u64);
            assert!(!source.exists());
            assert_eq!(store.digests_of(key).await.unwrap(), Digests::of(&data));
        }
        let missing = store.move_file(&source, "x", UploadOptions::default()).await.unwrap_err();
        assert!(missing.to_string().contains("source"), "{missing}");
        assert_ne!(missing.kind(), ErrorKind::NotFound, "it is not the object that is missing");
        assert_eq!(
            store.move_file(&source, "../x", UploadOptions::default()).await.unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
    assert_eq!(std::fs::metadata(home.path().join("new/folders/file")).unwrap().len(), data.len() as u64);
}

#[tokio::test]
async fn a_broken_download_is_resumed_where_it_was_and_verified_from_the_first_byte() {
    let site = Site::start();
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("target");
    let data = pattern(3 * MIB, 5);
    site.direct().put_bytes("file", data.clone(), PutMode::Overwrite).await.unwrap();
    site.proxy.run(Script::each([Fault::Pass, Fault::CutAfter(2 * MIB as u64), Fault::status(403)]));
    let error = site.store.download_file("file", &target, DownloadOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied);
    assert!(!target.exists());

    site.proxy.run(Script::pass());
    let got = site.store.download_file("file", &target, DownloadOptions::default()).await.unwrap();
    assert!(got.resumed_at > MIB as u64 && got.resumed_at <= 2 * MIB as u64, "{}", got.resumed_at);
    assert_eq!(got.digests, Digests::of(&data));
    assert_eq!(std::fs::read(&target).unwrap(), data);
    assert_eq!(site.proxy.seen()[1].range, Some(format!("bytes={}-{}", got.resumed_at, 3 * MIB - 1)));
}

#[tokio::test]
async fn a_partial_file_of_another_state_is_not_resumed() {
    let site = Site::start();
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("target");
    let direct = site.direct();
    direct.put_bytes("file", pattern(3 * MIB, 5), PutMode::Overwrite).await.unwrap();
    site.proxy.run(Script::each([Fault::Pass, Fault::CutAfter(2 * MIB as u64), Fault::status(403)]));
    site.store.download_file("file", &target, DownloadOptions::default()).await.unwrap_err();
    direct.put_bytes("file", pattern(3 * MIB, 6), PutMode::Overwrite).await.unwrap();
    let got = site.store.download_file("file", &target, DownloadOptions::default()).await.unwrap();
    assert_eq!(got.resumed_at, 0);
    assert_eq!(std::fs::read(&target).unwrap(), pattern(3 * MIB, 6));

    // Nonsense in the state file is no reason to trust the bytes.
    std::fs::write(dir.path().join("target.part"), b"nonsense").unwrap();
    std::fs::write(dir.path().join("target.part.state"), b"windlass-partial 1\ngood 99999999999\n").unwrap();
    assert_eq!(site.store.download_file("file", &target, DownloadOptions::default()).await.unwrap().resumed_at, 0);
}

#[tokio::test]
async fn a_download_with_a_flipped_byte_is_corrupt_and_leaves_no_file() {
    let site = Site::start();
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("target");
    let data = pattern(MIB, 5);
    site.direct().put_bytes("file", data.clone(), PutMode::Overwrite).await.unwrap();
    site.proxy.run(Script::each([Fault::Pass, Fault::FlipByte(777_777)]));
    let options = DownloadOptions { sha256: Some(Digests::of(&data).sha256), ..DownloadOptions::default() };
    let error = site.store.download_file("file", &target, options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    site.store.download_file("file", &target, options).await.unwrap();
}

#[tokio::test]
async fn a_download_of_an_object_replaced_under_way_begins_afresh() {
    let site = Site::start();
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("target");
    let direct = site.direct();
    direct.put_bytes("file", pattern(2 * MIB, 1), PutMode::Overwrite).await.unwrap();
    let runtime = tokio::runtime::Handle::current();
    let replace = Fault::Call(Arc::new(move || {
        let direct = direct.clone();
        runtime.block_on(async { direct.put_bytes("file", pattern(2 * MIB, 2), PutMode::Overwrite).await }).unwrap();
    }));
    site.proxy.run(Script::each([Fault::Pass, Fault::CutAfter(MIB as u64), replace]));
    let got = site.store.download_file("file", &target, DownloadOptions::default()).await.unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), pattern(2 * MIB, 2));
    assert_eq!(got.digests, Digests::of(&pattern(2 * MIB, 2)));
}

#[tokio::test(start_paused = true)]
async fn transfers_together_keep_to_the_bandwidth() {
    let clock = SystemClock::real();
    let store = BlobStore::open_text("memory:///bandwidth", &context(clock.clone(), Environment::empty())).unwrap();
    store.put_bytes("k", pattern(4 * MIB, 1), PutMode::Overwrite).await.unwrap();
    let bandwidth = Arc::new(Bandwidth::new(clock.clone(), Some(MIB as u64)));
    let limited = store.with_bandwidth(bandwidth.clone());
    let start = clock.monotonic();
    let read = async |name: &str| read_all(limited.get_stream(name, ReadOptions::default()).await.unwrap()).await;
    let write = limited.put_bytes("other", pattern(2 * MIB, 2), PutMode::Overwrite);
    let (one, two, written) = tokio::join!(read("k"), read("k"), write);
    assert_eq!((one.unwrap().len(), two.unwrap().len()), (4 * MIB, 4 * MIB));
    written.unwrap();
    let seconds = (clock.monotonic() - start).as_secs_f64();
    assert!((9.5..=10.1).contains(&seconds), "10 MiB at 1 MiB/s took {seconds} s");

    bandwidth.set(None);
    let start = clock.monotonic();
    read("k").await.unwrap();
    assert_eq!(clock.monotonic(), start, "no limit, no wait");
}

#[tokio::test]
async fn from_object_to_object_an_error_of_the_source_keeps_its_kind() {
    let site = Site::start();
    site.direct().put_bytes("source", pattern(MIB, 1), PutMode::Overwrite).await.unwrap();
    site.proxy.run(Script::each([Fault::CutAfter(1000), Fault::status(412)]));
    let source = site.store.get_stream("source", ReadOptions::default()).await.unwrap().into_stream();
    let error = site.store.put_stream("copy", source, UploadOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Changed);
}
