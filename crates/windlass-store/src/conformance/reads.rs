//! What reads see.

use super::{Subject, applied, entry, keys, poll_once, put};
use crate::{Entry, Scan, Txn};

/// Keys whose order and prefixes are easy to get wrong.
const AWKWARD: [&str; 12] =
    ["a", "a ", "a.", "a/", "a/\u{1}", "a/b", "a/b/c", "a/\u{7f}", "a/é", "a/\u{ffff}", "a/\u{10ffff}", "a0"];

async fn all(scan: &mut dyn Scan, page: usize) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        let next = scan.next_page(page).await.expect("the scan goes on");
        assert!(next.len() <= page, "{} entries in a page of {page}", next.len());
        if next.is_empty() {
            assert!(scan.next_page(page).await.expect("the end stays the end").is_empty());
            return all;
        }
        all.extend(next);
    }
}

/// Every page size gives the same keys, in the order of their bytes, and nothing beside the prefix.
pub async fn a_scan_pages_through_its_prefix_in_byte_order(subject: &dyn Subject) {
    let store = subject.store();
    let mut sorted = AWKWARD.map(str::to_owned).to_vec();
    sorted.sort_unstable();
    assert_eq!(sorted, AWKWARD, "the table is in byte order");
    for key in AWKWARD.iter().rev().chain(&["A", "b"]) {
        put(&*store, key, key).await;
    }
    for prefix in ["a/", "a", "a/\u{10ffff}", "a/b", "none", "b"] {
        let expected: Vec<_> =
            ["A"].iter().chain(&AWKWARD).chain(&["b"]).filter(|key| key.starts_with(prefix)).collect();
        for page in [1, 2, 5, 1000] {
            let mut scan = store.scan(prefix).await.expect("the store can be read");
            let found = all(&mut *scan, page).await;
            assert!(found.iter().all(|entry| entry.value == entry.key));
            let found: Vec<_> = found.iter().map(|entry| entry.key.as_str()).collect();
            assert!(found.iter().eq(expected.iter().copied()), "{prefix:?} by {page}: {found:?}");
        }
    }
    assert_eq!(keys(&*store, "").await.len(), AWKWARD.len() + 2);
}

/// Backwards by any page size comes the same as forwards, from any key on, there or not.
pub async fn a_prefix_is_read_backwards_from_any_key(subject: &dyn Subject) {
    let store = subject.store();
    for key in AWKWARD.iter().chain(&["A", "b"]) {
        put(&*store, key, key).await;
    }
    for prefix in ["a/", "a", "none", "b", ""] {
        let forwards = keys(&*store, prefix).await;
        for (page, from) in [(1, None), (3, None), (1000, None), (2, Some("a/b")), (2, Some("a/b/")), (5, Some("A"))] {
            let mut expected: Vec<String> =
                forwards.iter().filter(|key| from.is_none_or(|from| key.as_str() < from)).cloned().collect();
            expected.reverse();
            let (mut found, mut before) = (Vec::new(), from.map(str::to_owned));
            loop {
                let next = store.last_before(prefix, before.as_deref(), page).await.expect("the store can be read");
                assert!(next.len() <= page, "{} entries in a page of {page}", next.len());
                let Some(last) = next.last() else { break };
                before = Some(last.key.clone());
                assert!(next.iter().all(|entry| entry.value == entry.key));
                found.extend(next.into_iter().map(|entry| entry.key));
            }
            assert_eq!(found, expected, "{prefix:?} before {from:?} by {page}");
        }
    }
}

/// Puts, updates and deletes between two pages are not seen.
pub async fn a_scan_sees_one_revision_while_writers_go_on(subject: &dyn Subject) {
    let store = subject.store();
    let first = (0..50).fold(Txn::new(), |txn, n| txn.put(format!("k/{n:02}"), "old"));
    let at = applied(store.commit(first).await);
    let mut scan = store.scan("k/").await.expect("the store can be read");
    assert_eq!(scan.revision(), at);
    let mut seen = scan.next_page(7).await.expect("the scan goes on");
    for n in (0..50).step_by(3) {
        put(&*store, &format!("k/{n:02}"), "new").await;
        applied(store.commit(Txn::new().delete(format!("k/{:02}", n + 1)).put(format!("k/{n:02}x"), "new")).await);
        seen.extend(scan.next_page(2).await.expect("the scan goes on"));
    }
    seen.extend(all(&mut *scan, 7).await);
    assert_eq!(seen.len(), 50);
    assert!(seen.iter().all(|entry| entry.value == "old" && entry.version == at));
    assert_eq!(scan.revision(), at);
    let mut again = store.scan("k/").await.expect("the store can be read");
    assert!(again.revision() > at);
    let changed = all(&mut *again, 1000).await.iter().filter(|entry| entry.value == "new").count();
    assert_eq!(changed, 2 * 17, "each round has left one key changed and one new");
}

/// A caller may give up a page and ask again.
pub async fn a_dropped_page_request_loses_no_entry(subject: &dyn Subject) {
    let store = subject.store();
    applied(store.commit((0..90).fold(Txn::new(), |txn, n| txn.put(format!("k/{n:02}"), ""))).await);
    let mut scan = store.scan("k/").await.expect("the store can be read");
    let mut seen = Vec::new();
    loop {
        if let Some(page) = poll_once(scan.next_page(4)).await {
            seen.extend(page.expect("the scan goes on"));
        }
        let page = scan.next_page(4).await.expect("the scan goes on");
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    let seen: Vec<_> = seen.into_iter().map(|entry| entry.key).collect();
    assert_eq!(seen, (0..90).map(|n| format!("k/{n:02}")).collect::<Vec<_>>());
}

/// Whoever has an answer to a commit finds it in every read.
pub async fn a_read_after_a_commit_sees_it(subject: &dyn Subject) {
    let store = subject.store();
    for n in 0..100 {
        let value = n.to_string();
        let at = put(&*store, "k", &value).await;
        let seen = entry(&*store, "k").await.expect("the key was put");
        assert_eq!((seen.value, seen.version), (value.into(), at));
        let scan = store.scan("k").await.expect("the store can be read");
        assert_eq!(scan.revision(), at);
        assert_eq!(store.revision().await, Ok(at));
    }
}
