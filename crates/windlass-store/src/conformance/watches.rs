//! What watchers see.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Subject, applied, poll_once, put, take};
use crate::{Entry, Revision, StoreError, Txn};

/// Puts, updates and deletes, with the entry after the change; none of another prefix.
pub async fn a_watch_delivers_every_change_of_its_prefix_once_in_order(subject: &dyn Subject) {
    let store = subject.store();
    let start = put(&*store, "k/0", "0").await;
    let mut watch = store.watch("k/", start).await.expect("the store can be watched");
    let created = put(&*store, "k/1", "1").await;
    put(&*store, "k", "outside").await;
    put(&*store, "k0", "outside").await;
    let updated = put(&*store, "k/1", "2").await;
    let both = applied(store.commit(Txn::new().put("j", "outside").delete("k/1").put("k/2", "3")).await);
    applied(store.commit(Txn::new().delete("k/none")).await);
    let last = put(&*store, "k/", "4").await;
    let changes = take(&mut *watch, 5).await;
    let shown: Vec<_> = changes
        .iter()
        .map(|change| (change.revision, change.key.as_str(), change.entry.as_ref().map(|entry| &entry.value[..])))
        .collect();
    let expected: [(Revision, &str, Option<&[u8]>); 5] = [
        (created, "k/1", Some(b"1")),
        (updated, "k/1", Some(b"2")),
        (both, "k/1", None),
        (both, "k/2", Some(b"3")),
        (last, "k/", Some(b"4")),
    ];
    assert_eq!(shown, expected);
    let entry = changes[1].entry.as_ref().expect("an update");
    assert_eq!((entry.key.as_str(), entry.created, entry.version), ("k/1", created, updated));
}

/// A watcher that comes back gets what it has not seen, and no more.
pub async fn a_watch_continues_after_the_revision_it_is_given(subject: &dyn Subject) {
    let store = subject.store();
    let mut revisions = Vec::new();
    for n in 0..20 {
        revisions.push(put(&*store, &format!("k/{n:02}"), "").await);
    }
    for (index, after) in revisions.iter().enumerate().take(19) {
        let mut watch = store.watch("k/", *after).await.expect("the store can be watched");
        let changes = take(&mut *watch, 19 - index).await;
        assert!(changes.iter().map(|change| change.revision).eq(revisions[index + 1..].iter().copied()));
    }
}

/// A watcher never acts on half a transaction.
pub async fn changes_of_one_revision_come_together(subject: &dyn Subject) {
    let store = subject.store();
    let start = put(&*store, "k/00", "").await;
    let mut watch = store.watch("k/", start).await.expect("the store can be watched");
    for _ in 0..30 {
        applied(store.commit((0..90).fold(Txn::new(), |txn, n| txn.put(format!("k/{n:02}"), ""))).await);
    }
    let mut seen = 0;
    while seen < 30 * 90 {
        let changes = watch.next().await.expect("the watch goes on");
        assert_eq!(changes.len() % 90, 0, "whole transactions");
        assert!(changes.chunks(90).all(|txn| txn.iter().all(|change| change.revision == txn[0].revision)));
        seen += changes.len();
    }
    assert_eq!(seen, 30 * 90);
}

/// A watcher that has seen everything sleeps until there is more.
pub async fn a_watch_waits_for_the_next_change(subject: &dyn Subject) {
    let store = subject.store();
    let start = put(&*store, "k/0", "").await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut watch = store.watch("k/", start).await.expect("the store can be watched");
        assert!(poll_once(watch.next()).await.is_none(), "nothing has changed yet");
        waiting.push(tokio::spawn(async move { watch.next().await }));
    }
    tokio::task::yield_now().await;
    put(&*store, "elsewhere", "").await;
    let at = put(&*store, "k/1", "").await;
    for task in waiting {
        let changes = task.await.expect("no panic").expect("the watch goes on");
        assert_eq!(changes.iter().map(|change| change.revision).collect::<Vec<_>>(), [at]);
    }
}

/// A caller may give up waiting and ask again.
pub async fn a_dropped_wait_loses_no_change(subject: &dyn Subject) {
    let store = subject.store();
    let start = put(&*store, "k", "").await;
    let mut watch = store.watch("k", start).await.expect("the store can be watched");
    let (mut made, mut seen) = (Vec::new(), Vec::new());
    for n in 0..50 {
        seen.extend(poll_once(watch.next()).await.transpose().expect("the watch goes on").into_iter().flatten());
        made.push(put(&*store, "k", &n.to_string()).await);
    }
    while seen.len() < made.len() {
        seen.extend(watch.next().await.expect("the watch goes on"));
    }
    assert!(seen.iter().map(|change| change.revision).eq(made));
}

/// The store says that it cannot continue, rather than leave something out.
pub async fn a_watch_behind_the_kept_history_is_told(subject: &dyn Subject) {
    let store = subject.store();
    let early = put(&*store, "k", "1").await;
    put(&*store, "k", "2").await;
    let kept = put(&*store, "k", "3").await;
    subject.forget_history().await;
    let told = match store.watch("k", early).await {
        Ok(mut watch) => watch.next().await,
        Err(error) => Err(error),
    };
    match told {
        Err(StoreError::Compacted { asked, oldest }) => assert!(asked == early && oldest > early && oldest <= kept),
        other => panic!("the changes are gone, yet the watch answers {other:?}"),
    }
    let mut watch = store.watch("k", kept).await.expect("the present can be watched");
    let next = put(&*store, "k", "4").await;
    assert_eq!(take(&mut *watch, 1).await[0].revision, next);
}

/// The way in which every cache of the store is built.
pub async fn a_list_and_a_watch_from_its_revision_leave_no_gap(subject: &dyn Subject) {
    let store = subject.store();
    put(&*store, "k/start", "").await;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..25 {
                    let txn = Txn::new().put(format!("k/{writer}/{n}"), "").delete(format!("k/{writer}/{}", n / 2));
                    let txn = if n == n / 2 { Txn::new().put(format!("k/{writer}/{n}"), "") } else { txn };
                    applied(store.commit(txn).await);
                }
            })
        })
        .collect();
    let mut scan = store.scan("k/").await.expect("the store can be read");
    let mut mirror: BTreeMap<String, Entry> = BTreeMap::new();
    loop {
        let page = scan.next_page(3).await.expect("the scan goes on");
        if page.is_empty() {
            break;
        }
        mirror.extend(page.into_iter().map(|entry| (entry.key.clone(), entry)));
    }
    let mut seen = scan.revision();
    let mut watch = store.watch("k/", seen).await.expect("the store can be watched");
    for writer in writers {
        writer.await.expect("no panic");
    }
    let last = put(&*store, "k/end", "").await;
    while seen < last {
        for change in watch.next().await.expect("the watch goes on") {
            assert!(change.revision >= seen, "changes come in order");
            seen = change.revision;
            match change.entry {
                Some(entry) => mirror.insert(change.key, entry),
                None => mirror.remove(&change.key),
            };
        }
    }
    let truth = crate::read_all(&*store, "k/").await.expect("the store can be read");
    assert!(mirror.into_values().eq(truth));
}
