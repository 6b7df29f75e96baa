//! What a transaction does, and when it does nothing.

use std::sync::Arc;

use bytes::Bytes;

use super::{Subject, applied, conflict, entry, keys, put};
use crate::{Compare, Revision, Store, StoreError, Txn, budget};

/// All changes are there, and carry the revision that the commit answered.
pub async fn a_transaction_applies_all_of_its_changes_at_one_revision(subject: &dyn Subject) {
    let store = subject.store();
    let before = put(&*store, "old", "1").await;
    let at = applied(store.commit(Txn::new().put("a", "1").put("b", "2").delete("old")).await);
    assert!(at > before);
    assert_eq!(store.revision().await, Ok(at));
    for (key, value) in [("a", "1"), ("b", "2")] {
        let entry = entry(&*store, key).await.expect("the key was put");
        assert_eq!((entry.key.as_str(), &entry.value[..], entry.lease), (key, value.as_bytes(), None));
        assert_eq!((entry.version, entry.created), (at, at));
    }
    assert_eq!(keys(&*store, "").await, ["a", "b"]);
}

/// Neither the puts nor the deletes happen, wherever the false condition stands.
pub async fn a_transaction_with_one_false_condition_changes_nothing(subject: &dyn Subject) {
    let store = subject.store();
    let at = put(&*store, "a", "1").await;
    let change = || Txn::new().put("b", "1").put("a", "2").delete("a");
    assert!(matches!(store.commit(change()).await, Err(StoreError::Budget(_))), "two changes of one key");
    let change = || Txn::new().put("b", "1").delete("a");
    let (holds, fails) = (Compare::Version("a".into(), at), Compare::Absent("a".into()));
    conflict(store.commit(change().when(holds.clone()).when(fails.clone())).await);
    conflict(store.commit(change().when(fails).when(holds.clone())).await);
    assert_eq!(keys(&*store, "").await, ["a"]);
    assert_eq!(store.revision().await, Ok(at));
    applied(store.commit(change().when(holds)).await);
    assert_eq!(keys(&*store, "").await, ["b"]);
}

/// Every kind of condition, on a key that is absent, created, changed, and deleted.
pub async fn each_condition_holds_exactly_when_it_says(subject: &dyn Subject) {
    let store = subject.store();
    let other = put(&*store, "other", "1").await;
    let created = put(&*store, "k", "1").await;
    let changed = put(&*store, "k", "2").await;
    let key = || "k".to_owned();
    let none = || "none".to_owned();
    let never = Revision(0);
    let table = [
        (Compare::Absent(none()), true),
        (Compare::Absent(key()), false),
        (Compare::Version(key(), changed), true),
        (Compare::Version(key(), created), false),
        (Compare::Version(key(), other), false),
        (Compare::Version(key(), never), false),
        (Compare::Version(key(), Revision(changed.0 + 1)), false),
        (Compare::Version(none(), changed), false),
        (Compare::Version(none(), never), false),
        (Compare::Created(key(), created), true),
        (Compare::Created(key(), changed), false),
        (Compare::Created(none(), created), false),
        (Compare::Created(none(), never), false),
        (Compare::NoneUnder(none()), true),
        (Compare::NoneUnder(key()), false),
        (Compare::NoneUnder("o".to_owned()), false),
        (Compare::NoneUnder(String::new()), false),
    ];
    for (compare, holds) in table {
        let before = store.revision().await.expect("the store can be read");
        let outcome = store.commit(Txn::new().when(compare.clone()).put("probe", "x")).await;
        if holds {
            assert!(applied(outcome) > before, "{compare:?}");
            applied(store.commit(Txn::new().delete("probe")).await);
        } else {
            assert_eq!(conflict(outcome).len(), 1, "{compare:?}");
            assert_eq!(store.revision().await, Ok(before), "{compare:?}");
        }
    }
}

/// Keys that only look as if they were under the prefix do not count, and the key itself does.
pub async fn a_prefix_condition_ends_at_the_prefix(subject: &dyn Subject) {
    let store = subject.store();
    for key in ["a.", "a0", "b", "a", "A/x", "é", "\u{10ffff}x"] {
        put(&*store, key, "1").await;
    }
    let none_under = |prefix: &str| Txn::new().when(Compare::NoneUnder(prefix.to_owned()));
    for free in ["a/", "a/x", "aa", "c", "é/", "\u{10ffff}\u{10ffff}", "\u{10fffe}"] {
        applied(store.commit(none_under(free)).await);
    }
    put(&*store, "a/2", "two").await;
    put(&*store, "a/3", "three").await;
    for (taken, by) in [("a/", "a/2"), ("a", "a"), ("a0", "a0"), ("\u{10ffff}", "\u{10ffff}x"), ("", "A/x")] {
        let present = conflict(store.commit(none_under(taken)).await);
        let shown = present[0].as_ref().map(|entry| entry.key.as_str()).expect("an entry under the prefix");
        assert!(shown.starts_with(taken), "{taken:?} is taken by {by:?}, not by {shown:?}");
    }
}

/// The caller learns what is there, for conditions that held too, in the order in which it asked.
pub async fn a_conflict_shows_the_compared_entries_in_order(subject: &dyn Subject) {
    let store = subject.store();
    let b = put(&*store, "b", "2").await;
    let a = put(&*store, "a", "1").await;
    let txn = Txn::new()
        .when(Compare::Version("b".into(), b))
        .when(Compare::Absent("none".into()))
        .when(Compare::Version("a".into(), b))
        .when(Compare::NoneUnder("a".into()))
        .when(Compare::NoneUnder("x/".into()))
        .put("a", "never");
    let present = conflict(store.commit(txn).await);
    assert_eq!(present.len(), 5);
    let shown = |index: usize| present[index].as_ref().map(|entry| (entry.key.as_str(), &entry.value[..]));
    assert_eq!(shown(0), Some(("b", &b"2"[..])));
    assert_eq!(shown(1), None);
    assert_eq!(shown(2), Some(("a", &b"1"[..])));
    assert_eq!(shown(3), Some(("a", &b"1"[..])));
    assert_eq!(shown(4), None);
    assert_eq!(present[2].as_ref().map(|entry| (entry.version, entry.created)), Some((a, a)));
}

/// `created` tells one life of a key from the next.
pub async fn created_survives_updates_and_starts_anew_after_a_delete(subject: &dyn Subject) {
    let store = subject.store();
    let first = put(&*store, "k", "1").await;
    let second = put(&*store, "k", "2").await;
    let seen = entry(&*store, "k").await.expect("the key was put");
    assert_eq!((seen.created, seen.version), (first, second));
    let deleted = applied(store.commit(Txn::new().when(Compare::Created("k".into(), first)).delete("k")).await);
    assert_eq!(entry(&*store, "k").await, None);
    let third = put(&*store, "k", "1").await;
    assert!(first < second && second < deleted && deleted < third);
    let seen = entry(&*store, "k").await.expect("the key was put again");
    assert_eq!((seen.created, seen.version), (third, third));
    conflict(store.commit(Txn::new().when(Compare::Created("k".into(), first)).put("k", "2")).await);
}

/// Deleting what is not there and committing no changes leave the store at its revision.
pub async fn a_commit_that_changes_nothing_takes_no_revision(subject: &dyn Subject) {
    let store = subject.store();
    let at = put(&*store, "k", "1").await;
    assert_eq!(applied(store.commit(Txn::new().delete("none")).await), at);
    assert_eq!(applied(store.commit(Txn::new()).await), at);
    assert_eq!(applied(store.commit(Txn::new().when(Compare::Absent("none".into()))).await), at);
    assert!(put(&*store, "k", "1").await > at, "a put of the same value is a change");
}

/// The limits of [`budget`] are the same for every store.
pub async fn a_transaction_over_the_budget_changes_nothing(subject: &dyn Subject) {
    let store = subject.store();
    let at = put(&*store, "k", "1").await;
    let many = (0..=budget::OPS).fold(Txn::new(), |txn, n| txn.put(format!("k{n}"), "v"));
    let wide = (0..=budget::COMPARES).fold(Txn::new(), |txn, n| txn.when(Compare::Absent(format!("k{n}"))));
    let refused = [
        many,
        wide.put("a", "1"),
        Txn::new().put("a", vec![0; budget::VALUE_BYTES + 1]),
        Txn::new().put("a", "1").put("a", "2"),
        Txn::new().put("a".repeat(budget::KEY_BYTES + 1), "1"),
        Txn::new().put("", "1"),
        (0..5).fold(Txn::new(), |txn, n| txn.put(format!("k{n}"), vec![0; budget::VALUE_BYTES])),
    ];
    for txn in refused {
        let outcome = store.commit(txn).await;
        assert!(matches!(outcome, Err(StoreError::Budget(_))), "{outcome:?}");
    }
    assert_eq!(store.revision().await, Ok(at));
    assert_eq!(keys(&*store, "").await, ["k"]);
}

/// What the budget allows, the store takes.
pub async fn the_largest_transactions_are_accepted(subject: &dyn Subject) {
    let store = subject.store();
    let most = (0..budget::OPS).fold(Txn::new(), |txn, n| txn.put(format!("n/{n:03}"), "v"));
    let most = (0..budget::COMPARES).fold(most, |txn, n| txn.when(Compare::Absent(format!("m/{n:03}"))));
    applied(store.commit(most).await);
    assert_eq!(keys(&*store, "n/").await.len(), budget::OPS);
    let size = budget::VALUE_BYTES - 16;
    let largest = (0..4u8).fold(Txn::new(), |txn, n| txn.put(format!("big/{n}"), vec![n; size]));
    applied(store.commit(largest).await);
    for n in 0..4u8 {
        let entry = entry(&*store, &format!("big/{n}")).await.expect("the key was put");
        assert!(entry.value.len() == size && entry.value.iter().all(|byte| *byte == n));
    }
    let key = "k".repeat(budget::KEY_BYTES);
    put(&*store, &key, "1").await;
    assert!(entry(&*store, &key).await.is_some());
}

/// No value is special: not the empty one, not one of zeros, not one that is no text.
pub async fn empty_and_large_values_come_back_as_they_went_in(subject: &dyn Subject) {
    let store = subject.store();
    let values = [
        Bytes::new(),
        Bytes::from_static(&[0]),
        Bytes::from_static(&[0xff, 0xfe, 0, 0x80]),
        Bytes::from(vec![0; 5000]),
        (0..=255).cycle().take(budget::VALUE_BYTES).collect(),
    ];
    for value in values {
        applied(store.commit(Txn::new().put("v", value.clone())).await);
        assert_eq!(entry(&*store, "v").await.map(|entry| entry.value), Some(value));
    }
}

const ROUNDS: usize = 100;

/// Both saw the same version; one commit is applied, the other one is told.
pub async fn of_two_concurrent_writers_exactly_one_wins_each_round(subject: &dyn Subject) {
    let store = subject.store();
    let mut version = put(&*store, "k", "0").await;
    for round in 0..ROUNDS {
        let bid = |who: &'static str| {
            let store = Arc::clone(&store);
            let txn = Txn::new()
                .when(Compare::Version("k".into(), version))
                .put("k", who)
                .put(format!("won/{round:03}/{who}"), "");
            tokio::spawn(async move { store.commit(txn).await.expect("the store works") })
        };
        let (left, right) = (bid("left"), bid("right"));
        let (left, right) = (left.await.expect("no panic"), right.await.expect("no panic"));
        let (winner, at) = match (&left, &right) {
            (crate::Committed::At(at), crate::Committed::Conflict(seen)) => ("left", assert_shows(seen, "left", *at)),
            (crate::Committed::Conflict(seen), crate::Committed::At(at)) => ("right", assert_shows(seen, "right", *at)),
            both => panic!("round {round}: {both:?}"),
        };
        assert_eq!(keys(&*store, &format!("won/{round:03}/")).await, [format!("won/{round:03}/{winner}")]);
        version = at;
    }
}

fn assert_shows(seen: &[Option<crate::Entry>], winner: &'static str, at: Revision) -> Revision {
    let seen = seen[0].as_ref().expect("the loser sees the entry");
    assert_eq!((&seen.value[..], seen.version), (winner.as_bytes(), at));
    at
}

/// Guarded read-modify-write from many tasks adds up.
pub async fn concurrent_counters_lose_no_increment(subject: &dyn Subject) {
    const TASKS: usize = 8;
    const EACH: usize = 10;
    let store = subject.store();
    put(&*store, "n", "0").await;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..EACH {
                    increment(&*store).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let total = entry(&*store, "n").await.expect("the counter").value;
    assert_eq!(&total[..], (TASKS * EACH).to_string().as_bytes());
}

async fn increment(store: &dyn Store) {
    loop {
        let seen = entry(store, "n").await.expect("the counter");
        let number: usize = std::str::from_utf8(&seen.value).ok().and_then(|n| n.parse().ok()).expect("a number");
        let txn = Txn::new().when(Compare::Version("n".into(), seen.version)).put("n", (number + 1).to_string());
        if let crate::Committed::At(_) = store.commit(txn).await.expect("the store works") {
            return;
        }
    }
}
