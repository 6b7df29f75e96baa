//! Reading through faults: the bytes are right, or it is an error.

use std::io::Read;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use windlass_blob::{
    BlobError, BlobStore, BlobUrl, BlockingReader, Environment, ErrorKind, Operation, PutMode, ReadAhead, ReadOptions,
};
use windlass_clock::SystemClock;
use windlass_sim::s3::{Fault, Options, Script};

use crate::place::{Site, context, pattern, read_all};

const SIZE: usize = 300_000;

fn ahead(ranges: usize, range_bytes: u64) -> ReadOptions {
    let (ranges, range_bytes) = (NonZeroUsize::new(ranges).unwrap(), NonZeroU64::new(range_bytes).unwrap());
    ReadOptions { read_ahead: Some(ReadAhead { ranges, range_bytes }), ..ReadOptions::default() }
}

async fn site_with_object() -> (Site, String) {
    let site = Site::start();
    let written = site.direct().put_bytes("k", pattern(SIZE, 1), PutMode::Overwrite).await.unwrap();
    (site, written.etag.unwrap())
}

#[tokio::test]
async fn a_cut_connection_goes_on_at_the_next_byte_with_if_match() {
    let (site, etag) = site_with_object().await;
    for cut in [0, 1, 511, 4096, 65_536, 100_001, SIZE as u64 - 1] {
        site.proxy.run(Script::each([Fault::CutAfter(cut)]));
        let reader = site.store.get_stream("k", ReadOptions::default()).await.unwrap();
        assert_eq!(read_all(reader).await.unwrap(), pattern(SIZE, 1), "cut after {cut}");
        let seen = site.proxy.seen();
        assert_eq!(seen.len(), 2, "cut after {cut}: {seen:?}");
        assert_eq!((seen[0].range.as_deref(), seen[0].if_match.as_deref()), (None, None));
        assert_eq!(seen[1].if_match.as_deref(), Some(etag.as_str()));
        // The client may have been handed less than was sent when the cut came, and never more.
        let range = seen[1].range.clone().unwrap();
        let (start, end) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        assert!(start.parse::<u64>().unwrap() <= cut, "{range} after {cut}");
        assert_eq!(end.parse::<usize>().unwrap(), SIZE - 1);
    }
}

#[tokio::test]
async fn a_connection_cut_again_and_again_starts_each_time_where_the_last_ended() {
    let (site, etag) = site_with_object().await;
    // More cuts than the policy allows in a row: progress starts the count afresh.
    site.proxy.run(Script::each(std::iter::repeat_n(Fault::CutAfter(20_000), 12)));
    let mut reader = site.store.get_stream("k", ReadOptions::default()).await.unwrap();
    let mut positions = vec![0];
    let mut all = Vec::new();
    while let Some(chunk) = reader.next_chunk().await.unwrap() {
        all.extend_from_slice(&chunk);
        positions.push(reader.position());
    }
    assert_eq!(all, pattern(SIZE, 1));
    let seen = site.proxy.seen();
    assert!(seen.len() > 12, "{}", seen.len());
    for request in &seen[1..] {
        assert_eq!(request.if_match.as_deref(), Some(etag.as_str()));
        let range = request.range.clone().unwrap();
        let start: u64 = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap().0.parse().unwrap();
        assert!(positions.contains(&start), "{range} is not where a chunk ended");
    }
}

#[tokio::test]
async fn without_progress_the_tries_are_bounded_and_the_error_says_how_many() {
    let (site, _) = site_with_object().await;
    site.proxy.run(Script::by(|_| Fault::CutAfter(0)));
    let mut reader = site.store.get_stream("k", ReadOptions::default()).await.unwrap();
    let error = reader.next_chunk().await.unwrap_err();
    assert_eq!((error.kind(), error.tries()), (ErrorKind::Unavailable, 6), "{error}");
    assert!(error.is_transient() && error.to_string().contains("after 6 tries"), "{error}");
    assert_eq!(site.proxy.seen().len(), 6);
    let waits = site.clock.waits();
    assert_eq!(waits.len(), 5);
    assert!(waits.iter().zip([1, 2, 4, 8, 16]).all(|(wait, most)| *wait <= Duration::from_secs(most)), "{waits:?}");
    assert_eq!(reader.next_chunk().await.unwrap_err().to_string(), error.to_string(), "the same error again");
}

#[tokio::test]
async fn an_object_replaced_under_way_is_changed_and_never_a_mixture() {
    for ignore_conditions in [false, true] {
        let options = Options { ignore_conditions, ..Options::default() };
        let site = Site::with(Duration::from_secs(30), options);
        let direct = site.direct();
        direct.put_bytes("k", pattern(SIZE, 1), PutMode::Overwrite).await.unwrap();
        let runtime = tokio::runtime::Handle::current();
        let replace = Fault::Call(Arc::new(move || {
            let direct = direct.clone();
            // The same length, so that only the tag tells.
            runtime.block_on(async { direct.put_bytes("k", pattern(SIZE, 2), PutMode::Overwrite).await }).unwrap();
        }));
        site.proxy.run(Script::each([Fault::CutAfter(100_000), replace]));
        let mut reader = site.store.get_stream("k", ReadOptions::default()).await.unwrap();
        let mut all = Vec::new();
        let error = loop {
            match reader.next_chunk().await {
                Ok(Some(chunk)) => all.extend_from_slice(&chunk),
                Ok(None) => panic!("the end, with {} bytes", all.len()),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
        assert_eq!(error.kind().name(), "object_changed");
        assert_eq!(all, pattern(SIZE, 1)[..all.len()]);
        assert_eq!(site.proxy.seen().len(), 2, "not tried again");
    }
}

#[tokio::test]
async fn an_object_removed_or_refused_under_way_is_changed() {
    let (site, _) = site_with_object().await;
    for fault in [Fault::status(404), Fault::status(412)] {
        site.proxy.run(Script::each([Fault::CutAfter(1000), fault]));
        let reader = site.store.get_stream("k", ReadOptions::default()).await.unwrap();
        assert_eq!(read_all(reader).await.unwrap_err().kind(), ErrorKind::Changed);
    }
}

#[tokio::test]
async fn a_state_looked_up_before_is_insisted_on() {
    let (site, _) = site_with_object().await;
    let pin = site.store.head("k").await.unwrap();
    site.direct().put_bytes("k", pattern(SIZE, 2), PutMode::Overwrite).await.unwrap();
    let options = ReadOptions { pin: Some(pin), ..ReadOptions::default() };
    let mut reader = site.store.get_stream("k", options).await.unwrap();
    assert_eq!(reader.next_chunk().await.unwrap_err().kind(), ErrorKind::Changed);
}

#[tokio::test]
async fn ranges_read_ahead_come_in_order_and_are_bounded_in_number() {
    let (site, etag) = site_with_object().await;
    for (ranges, bytes) in [(1, 1000_u64), (3, 10_000), (4, 100_000), (8, 1 << 30), (2, 299_999)] {
        site.proxy.run(Script::pass());
        let reader = site.store.get_stream("k", ahead(ranges, bytes)).await.unwrap();
        assert_eq!(read_all(reader).await.unwrap(), pattern(SIZE, 1), "{ranges} of {bytes}");
        let seen = site.proxy.seen();
        assert_eq!(seen[0].method, "HEAD");
        assert_eq!(seen.len() as u64, 1 + (SIZE as u64).div_ceil(bytes), "{ranges} of {bytes}");
        assert!(seen[1..].iter().all(|request| request.if_match.as_deref() == Some(etag.as_str())));
    }
    // Nobody takes the chunks: no more than the ranges allowed are asked for.
    site.proxy.run(Script::pass());
    let mut reader = site.store.get_stream("k", ahead(3, 10_000)).await.unwrap();
    reader.next_chunk().await.unwrap();
    site.proxy.wait_for(4).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    // A look-up and three ranges, and one more if the chunk taken was all of its range.
    assert!(site.proxy.seen().len() <= 5, "{}", site.proxy.seen().len());
}

#[tokio::test]
async fn ranges_read_ahead_survive_cuts_and_notice_change() {
    let (site, _) = site_with_object().await;
    site.proxy.run(Script::by(|seen| if seen.number % 3 == 1 { Fault::CutAfter(3000) } else { Fault::Pass }));
    let reader = site.store.get_stream("k", ahead(4, 20_000)).await.unwrap();
    assert_eq!(read_all(reader).await.unwrap(), pattern(SIZE, 1));

    site.proxy.run(Script::by(|seen| if seen.number == 9 { Fault::status(412) } else { Fault::Pass }));
    let reader = site.store.get_stream("k", ahead(4, 20_000)).await.unwrap();
    assert_eq!(read_all(reader).await.unwrap_err().kind(), ErrorKind::Changed);
}

#[tokio::test]
async fn a_silent_server_is_given_up_and_tried_again() {
    let site = Site::with(Duration::from_millis(200), Options::default());
    site.direct().put_bytes("k", pattern(SIZE, 1), PutMode::Overwrite).await.unwrap();
    site.proxy.run(Script::each([Fault::Hang, Fault::HangAfter(50_000), Fault::Hang]));
    let reader = site.store.get_stream("k", ReadOptions::default()).await.unwrap();
    assert_eq!(read_all(reader).await.unwrap(), pattern(SIZE, 1));
    assert_eq!(site.proxy.seen().len(), 4);
    site.proxy.run(Script::by(|_| Fault::Hang));
    let error = site.store.head("k").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no answer for"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_reader_gives_the_bytes_and_carries_the_first_cause() {
    let (site, _) = site_with_object().await;
    site.proxy.run(Script::each([Fault::CutAfter(99_999)]));
    let mut reader = BlockingReader::new(site.store.get_stream("k", ReadOptions::default()).await.unwrap());
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map(|_| all)
    });
    assert_eq!(read.await.unwrap().unwrap(), pattern(SIZE, 1));

    site.proxy.run(Script::each([Fault::CutAfter(99_999), Fault::status(403)]));
    let mut reader = BlockingReader::new(site.store.get_stream("k", ReadOptions::default()).await.unwrap());
    let (first, second, length) = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        let first = reader.read_to_end(&mut all).unwrap_err();
        (first, reader.read(&mut [0; 8]).unwrap_err(), all.len())
    })
    .await
    .unwrap();
    let inner = BlobError::in_io(&first).expect("the cause is inside");
    assert_eq!(inner.kind(), ErrorKind::AccessDenied, "{inner}");
    assert_eq!(BlobError::in_io(&second).unwrap().to_string(), inner.to_string());
    assert!(length > 0 && length <= 99_999, "what came before the cut was handed on: {length}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_ends_every_wait_at_once() {
    let (site, _) = site_with_object().await;
    let clock = SystemClock::real();
    // Silence before the answer, silence within it, a wait between tries, and a blocked reader.
    let scripts: [fn() -> Script; 3] = [
        || Script::by(|_| Fault::Hang),
        || Script::by(|_| Fault::HangAfter(1000)),
        || Script::by(|_| Fault::slow_down(Some("100000"))),
    ];
    for script in scripts {
        site.proxy.run(script());
        let cancel = tokio_util::sync::CancellationToken::new();
        let store = BlobStore::open_text(
            &format!("s3://bucket/some/prefix?endpoint={}", site.proxy.endpoint()),
            &context(clock.clone(), Environment::from_pairs(windlass_sim::s3::S3Server::credentials())),
        )
        .unwrap()
        .with_cancel(cancel.clone());
        let work = tokio::spawn(async move {
            let reader = store.get_stream("k", ReadOptions::default()).await?;
            read_all(reader).await
        });
        site.proxy.wait_for(1).await;
        let start = clock.monotonic();
        cancel.cancel();
        let error = work.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert!(clock.monotonic() - start < Duration::from_secs(1));
    }

    site.proxy.run(Script::by(|_| Fault::HangAfter(1000)));
    let cancel = tokio_util::sync::CancellationToken::new();
    let store = site.store.with_cancel(cancel.clone());
    let mut reader = BlockingReader::new(store.get_stream("k", ReadOptions::default()).await.unwrap());
    let work = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()).unwrap_err());
    site.proxy.wait_for(1).await;
    let start = clock.monotonic();
    cancel.cancel();
    assert_eq!(BlobError::in_io(&work.await.unwrap()).unwrap().kind(), ErrorKind::Cancelled);
    assert!(clock.monotonic() - start < Duration::from_secs(1));
}

#[tokio::test]
async fn a_local_file_changed_in_place_while_it_is_read_is_noticed() {
    let dir = tempfile::TempDir::new().unwrap();
    let url = BlobUrl::from_folder(dir.path(), false).unwrap();
    let store = BlobStore::open(&url, &context(SystemClock::real(), Environment::empty())).unwrap();
    let file = dir.path().join("k");
    std::fs::write(&file, pattern(2_000_000, 1)).unwrap();
    let mut reader = store.get_stream("k", ReadOptions::default()).await.unwrap();
    reader.next_chunk().await.unwrap();
    std::fs::write(&file, pattern(1_900_000, 2)).unwrap();
    assert_eq!(read_all(reader).await.unwrap_err().kind(), ErrorKind::Changed);
    // Replaced by renaming, the old file stays whole for whoever has it open.
    let mut reader = store.get_stream("k", ReadOptions::default()).await.unwrap();
    let first = reader.next_chunk().await.unwrap().unwrap();
    store.put_bytes("k", pattern(10, 3), PutMode::Overwrite).await.unwrap();
    let mut all = first.to_vec();
    all.extend(read_all(reader).await.unwrap());
    assert_eq!(all, pattern(1_900_000, 2));
    assert_eq!(store.counts().of(Operation::Get), 2);
}
