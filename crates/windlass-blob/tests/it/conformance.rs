//! One contract, three kinds of store.

use bytes::Bytes;
use tempfile::TempDir;
use windlass_blob::{
    BlobStore, BlobUrl, ConditionalPut, Digests, Environment, ErrorKind, Honoured, Operation, PutMode, ReadOptions,
};
use windlass_clock::SystemClock;
use windlass_sim::s3::{Fault, Options, Script};

use crate::place::{Site, context, pattern, read_all};

fn memory(name: &str) -> BlobStore {
    BlobStore::open_text(&format!("memory:///{name}/p"), &context(SystemClock::real(), Environment::empty())).unwrap()
}

fn folder(dir: &TempDir) -> BlobStore {
    let url = BlobUrl::from_folder(dir.path(), false).unwrap();
    BlobStore::open(&url, &context(SystemClock::real(), Environment::empty())).unwrap()
}

async fn contract(store: &BlobStore) {
    // Nothing there.
    assert_eq!(store.list("").await.unwrap().entries, []);
    for error in [store.head("a").await.unwrap_err(), store.get_bytes("a", 9).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(&store.url().of_key("a")), "{error}");
    }
    assert_eq!(store.try_head("a").await.unwrap(), None);
    store.delete("a").await.unwrap();

    // Written, looked up, read, listed.
    let names = ["a", "dir/a+b=c", "dir/deep/er", "dir/with space", "dirt", "empty", "ünï/©ode", "vald-agent-0.tar.gz"];
    for (index, key) in names.iter().enumerate() {
        let data = pattern(if *key == "empty" { 0 } else { 1000 + index }, index as u64);
        let written = store.put_bytes(key, data.clone(), PutMode::Overwrite).await.unwrap();
        assert_eq!(written.digests, Digests::of(&data));
        let meta = store.head(key).await.unwrap();
        assert_eq!(meta.size, data.len() as u64);
        assert_eq!(meta.etag, written.etag, "{key}");
        let (read, at) = store.get_bytes(key, 1 << 20).await.unwrap();
        assert_eq!(read, data, "{key}");
        assert_eq!(at.etag, meta.etag);
    }
    let all = store.list("").await.unwrap();
    assert!(all.complete);
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    assert_eq!(all.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), sorted);
    assert_eq!(all.entries[0].meta.size, 1000);
    let keys = |listing: windlass_blob::Listing| listing.entries.into_iter().map(|e| e.key).collect::<Vec<_>>();
    assert_eq!(keys(store.list("dir").await.unwrap()), ["dir/a+b=c", "dir/deep/er", "dir/with space", "dirt"]);
    assert_eq!(keys(store.list("dir/d").await.unwrap()), ["dir/deep/er"]);
    assert_eq!(keys(store.list("nothing").await.unwrap()), [""; 0]);
    let mut pages = store.list_pages("dir/");
    pages.page_size(2);
    let mut paged = Vec::new();
    while let Some(page) = pages.next_page().await.unwrap() {
        assert!(page.len() <= 2);
        paged.extend(page.into_iter().map(|entry| entry.key));
    }
    paged.sort_unstable();
    assert_eq!(paged, ["dir/a+b=c", "dir/deep/er", "dir/with space"]);

    // Parts of an object.
    let whole = pattern(1000, 0);
    for (offset, limit) in
        [(0, None), (1, None), (999, None), (1000, None), (0, Some(0)), (10, Some(20)), (990, Some(99))]
    {
        let options = ReadOptions { offset, limit, ..ReadOptions::default() };
        let read = read_all(store.get_stream("a", options).await.unwrap()).await.unwrap();
        let end = limit.map_or(1000, |limit| (offset + limit).min(1000));
        assert_eq!(read, whole[offset as usize..end as usize], "{offset} {limit:?}");
    }
    let beyond = store.get_stream("a", ReadOptions { offset: 1001, ..ReadOptions::default() }).await.unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::Invalid);
    assert_eq!(store.get_bytes("a", 999).await.unwrap_err().kind(), ErrorKind::Invalid);

    // Create only if nothing is there.
    let taken = store.put_bytes("a", Bytes::from_static(b"x"), PutMode::Create).await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Precondition, "{taken}");
    assert_eq!(store.head("a").await.unwrap().size, 1000);
    store.put_bytes("fresh", Bytes::from_static(b"x"), PutMode::Create).await.unwrap();

    // Copy and rename.
    assert_eq!(store.copy("a", "copy/of/a").await.unwrap().size, 1000);
    assert_eq!(store.rename("a", "moved").await.unwrap().size, 1000);
    assert_eq!(store.head("a").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.get_bytes("moved", 1000).await.unwrap().0, whole);
    assert_eq!(store.get_bytes("copy/of/a", 1000).await.unwrap().0, whole);
    assert_eq!(store.rename("a", "b").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.copy("moved", "moved").await.unwrap_err().kind(), ErrorKind::Invalid);

    // Delete.
    store.delete("moved").await.unwrap();
    assert_eq!(store.head("moved").await.unwrap_err().kind(), ErrorKind::NotFound);

    // Keys that cannot be.
    for key in ["", "/a", "a/", "a//b", "../a", "a/./b", "a\nb"] {
        assert_eq!(store.head(key).await.unwrap_err().kind(), ErrorKind::Invalid, "{key:?}");
    }
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract(&memory("contract")).await;
}

#[tokio::test]
async fn a_local_folder_keeps_the_contract() {
    let dir = TempDir::new().unwrap();
    contract(&folder(&dir)).await;
}

#[tokio::test]
async fn a_real_s3_server_keeps_the_contract() {
    let site = Site::start();
    contract(&site.store).await;
    let seen = site.proxy.seen();
    assert!(seen.iter().all(|request| request.path.starts_with("/bucket")), "path style");
    assert_eq!(seen.len() as u64, site.store.counts().total(), "every request is counted, and only those");
}

#[tokio::test]
async fn a_whole_read_takes_one_request_and_a_listing_one_page() {
    let site = Site::start();
    site.direct().put_bytes("k", pattern(100, 1), PutMode::Overwrite).await.unwrap();
    site.store.get_bytes("k", 100).await.unwrap();
    site.store.list("").await.unwrap();
    let counts = site.store.counts();
    assert_eq!((counts.of(Operation::Get), counts.of(Operation::List), counts.total()), (1, 1, 2));
    assert_eq!(site.proxy.seen().iter().filter(|request| request.is_listing()).count(), 1);
}

#[tokio::test]
async fn memory_stores_of_one_name_are_one_store() {
    memory("shared").put_bytes("k", Bytes::from_static(b"v"), PutMode::Overwrite).await.unwrap();
    assert_eq!(memory("shared").get_bytes("k", 9).await.unwrap().0, "v");
    assert!(memory("other").head("k").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_missing_folder_or_bucket_is_an_error_and_never_an_empty_listing() {
    let dir = TempDir::new().unwrap();
    let missing = dir.path().join("missing");
    let surroundings = context(SystemClock::real(), Environment::empty());
    let error = BlobStore::open(&BlobUrl::from_folder(&missing, false).unwrap(), &surroundings).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("create=true"), "{error}");
    let store = BlobStore::open(&BlobUrl::from_folder(&missing, true).unwrap(), &surroundings).unwrap();
    assert_eq!(store.list("").await.unwrap().entries, []);
    std::fs::remove_dir(&missing).unwrap();
    assert_eq!(store.list("").await.unwrap_err().kind(), ErrorKind::NotFound);

    let site = Site::start();
    std::fs::remove_dir(site.dir.path().join("bucket")).unwrap();
    let error = site.store.list("").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("bucket does not exist"), "{error}");
}

#[tokio::test]
async fn what_a_store_does_with_conditions_is_found_out_by_trying() {
    let probe = async |store: &BlobStore| {
        let found = store.probe_conditional_put("probes").await.unwrap();
        assert_eq!(store.list("").await.unwrap().entries, [], "nothing is left");
        found
    };
    let dir = TempDir::new().unwrap();
    assert_eq!(probe(&memory("probe")).await, ConditionalPut { create: Honoured::Yes, update: Honoured::Yes });
    assert_eq!(probe(&folder(&dir)).await, ConditionalPut { create: Honoured::Yes, update: Honoured::Unsupported });
    let site = Site::start();
    assert_eq!(probe(&site.store).await, ConditionalPut { create: Honoured::Yes, update: Honoured::Yes });
    // Some servers do not know the header and call the signature wrong.
    site.proxy.run(Script::by(|seen| match seen.if_match {
        Some(_) => Fault::Status { status: 403, code: "SignatureDoesNotMatch", retry_after: None },
        None => Fault::Pass,
    }));
    assert_eq!(probe(&site.store).await, ConditionalPut { create: Honoured::Yes, update: Honoured::Unsupported });
    let careless = Options { ignore_conditions: true, ..Options::default() };
    let site = Site::with(std::time::Duration::from_secs(30), careless);
    assert_eq!(probe(&site.store).await, ConditionalPut { create: Honoured::Ignored, update: Honoured::Ignored });
}

#[tokio::test]
async fn an_update_over_another_state_is_refused() {
    let store = memory("update");
    let first = store.put_bytes("k", Bytes::from_static(b"1"), PutMode::Create).await.unwrap();
    let second = store.put_bytes("k", Bytes::from_static(b"2"), PutMode::Update(first.revision())).await.unwrap();
    let error = store.put_bytes("k", Bytes::from_static(b"3"), PutMode::Update(first.revision())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert_eq!(store.head("k").await.unwrap().revision(), second.revision());
}
