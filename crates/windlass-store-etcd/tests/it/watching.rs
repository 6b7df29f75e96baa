//! Watchers that were away, or slow.

use windlass_store::{Store, StoreError, Txn};
use windlass_store_etcd::EtcdConfig;

use crate::pool::{Borrowed, connect};
use crate::relay::Relay;
use crate::writer::{create, created, key, within};

#[tokio::test]
async fn a_watcher_that_was_cut_off_gets_what_it_missed() {
    let server = Borrowed::new().await;
    let near = server.store().await;
    let relay = Relay::to(server.config.endpoints[0].clone()).await;
    let far = connect(EtcdConfig { endpoints: vec![relay.endpoint()], ..server.config.clone() }).await;
    let mut watch = far.watch("k/", near.revision().await.expect("a revision")).await.expect("a watch");
    create(&*near, &key(0)).await;
    assert_eq!(created(&mut *watch, 1).await, [key(0)]);
    relay.cut();
    for n in 1..50 {
        create(&*near, &key(n)).await;
    }
    relay.mend();
    assert_eq!(created(&mut *watch, 49).await, (1..50).map(key).collect::<Vec<_>>());
}

#[tokio::test]
async fn history_that_ended_while_a_watcher_was_away_is_told_and_not_skipped() {
    let server = Borrowed::new().await;
    let near = server.store().await;
    let relay = Relay::to(server.config.endpoints[0].clone()).await;
    let far = connect(EtcdConfig { endpoints: vec![relay.endpoint()], ..server.config.clone() }).await;
    let mut watch = far.watch("k/", near.revision().await.expect("a revision")).await.expect("a watch");
    create(&*near, &key(0)).await;
    assert_eq!(created(&mut *watch, 1).await, [key(0)]);
    let seen = near.get(&key(0)).await.expect("a read").expect("an entry").version;
    relay.cut();
    for n in 1..4 {
        create(&*near, &key(n)).await;
    }
    let last = near.revision().await.expect("a revision");
    near.compact_before(last).await.expect("the history ends");
    relay.mend();
    match within("an end", watch.next()).await {
        Err(StoreError::Compacted { asked, oldest }) => assert!(asked == seen && oldest > seen && oldest < last),
        other => panic!("changes are missing, yet the watch answers {other:?}"),
    }
    let mut scan = far.scan("k/").await.expect("a fresh list");
    assert_eq!(scan.next_page(10).await.expect("a page").len(), 4);
    let mut watch = far.watch("k/", scan.revision()).await.expect("a watch");
    create(&*near, &key(4)).await;
    assert_eq!(created(&mut *watch, 1).await, [key(4)]);
}

#[tokio::test]
async fn a_scan_across_the_end_of_history_is_told() {
    let server = Borrowed::new().await;
    let store = server.store().await;
    for batch in 0..4 {
        let txn = (0..90).fold(Txn::new(), |txn, n| txn.put(key(batch * 90 + n), "1"));
        store.commit(txn).await.expect("a commit");
    }
    let mut scan = store.scan("k/").await.expect("a scan");
    create(&*store, &key(999)).await;
    store.compact_before(store.revision().await.expect("a revision")).await.expect("the history ends");
    let mut read = 0;
    let end = loop {
        match scan.next_page(100).await {
            Ok(page) if page.is_empty() => panic!("{read} entries of 360 were read"),
            Ok(page) => read += page.len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(end, StoreError::Compacted { .. }), "{end}");
}

#[tokio::test]
async fn a_slow_watcher_gets_everything_later_and_holds_up_nobody() {
    const COMMITS: usize = 300;
    const EACH: usize = 90;
    let server = Borrowed::new().await;
    let store = server.store().await;
    let start = store.revision().await.expect("a revision");
    let mut slow = store.watch("k/", start).await.expect("a watch");
    let mut quick = store.watch("k/", start).await.expect("a watch");
    for commit in 0..COMMITS {
        let txn = (0..EACH).fold(Txn::new(), |txn, n| txn.put(key(n), commit.to_string()));
        store.commit(txn).await.expect("a commit");
        let mut seen = 0;
        while seen < EACH {
            seen += within("the quick one", quick.next()).await.expect("the watch goes on").len();
        }
        assert_eq!(seen, EACH);
    }
    let mut seen = Vec::new();
    while seen.len() < COMMITS * EACH {
        let changes = within("the slow one", slow.next()).await.expect("the watch goes on");
        assert_eq!(changes.len() % EACH, 0, "whole transactions");
        seen.extend(changes);
    }
    assert_eq!(seen.len(), COMMITS * EACH);
    for (commit, changes) in seen.chunks(EACH).enumerate() {
        let value = commit.to_string();
        assert!(changes.iter().all(|change| change.entry.as_ref().is_some_and(|entry| entry.value == value)));
    }
}

#[tokio::test]
async fn large_transactions_come_together_when_they_come_in_fragments() {
    const COMMITS: usize = 12;
    let server = Borrowed::new().await;
    let store = server.store().await;
    let start = store.revision().await.expect("a revision");
    let value = vec![7; 100 * 1024];
    for _ in 0..COMMITS {
        let txn = (0..5).fold(Txn::new(), |txn, n| txn.put(key(n), value.clone()));
        store.commit(txn).await.expect("a commit");
    }
    // All from history: six megabytes, which etcd sends in pieces of one and a half.
    let mut watch = store.watch("k/", start).await.expect("a watch");
    let mut seen = 0;
    while seen < COMMITS * 5 {
        let changes = within("the next changes", watch.next()).await.expect("the watch goes on");
        assert!(changes.chunks(5).all(|txn| txn.len() == 5 && txn.iter().all(|c| c.revision == txn[0].revision)));
        seen += changes.len();
    }
    assert_eq!(seen, COMMITS * 5);
}

#[tokio::test]
async fn watchers_of_a_store_that_is_gone_are_told() {
    let server = Borrowed::new().await;
    let store = server.store().await;
    let mut watch = store.watch("k/", store.revision().await.expect("a revision")).await.expect("a watch");
    let waiting = tokio::spawn(async move { watch.next().await });
    drop(store);
    assert_eq!(within("an end", waiting).await.expect("no panic"), Err(StoreError::Closed));
}
