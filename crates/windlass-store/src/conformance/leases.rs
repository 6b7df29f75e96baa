//! What becomes of leased keys.

use std::time::Duration;

use super::{Subject, applied, entry, keys, poll_once, put, take};
use crate::{LeaseId, StoreError, Txn};

/// Longer than any store takes to end a lease that has run out.
const LONGER: Duration = Duration::from_secs(3);

/// The keys of the lease go, others stay.
pub async fn a_key_vanishes_when_its_lease_runs_out(subject: &dyn Subject) {
    let store = subject.store();
    let ttl = subject.shortest_ttl();
    let lease = store.grant(ttl).await.expect("a lease");
    let long = store.grant(ttl * 1000).await.expect("a lease");
    let bound =
        Txn::new().put_leased("a", "1", lease).put_leased("b", "1", lease).put_leased("c", "1", long).put("d", "1");
    let at = applied(store.commit(bound).await);
    assert_eq!(entry(&*store, "a").await.and_then(|entry| entry.lease), Some(lease));
    subject.pass(ttl / 2).await;
    assert_eq!(keys(&*store, "").await, ["a", "b", "c", "d"], "never shorter than granted");
    subject.pass(ttl / 2 + LONGER).await;
    assert_eq!(keys(&*store, "").await, ["c", "d"]);
    assert_eq!(entry(&*store, "a").await, None);
    assert!(store.revision().await.expect("the store can be read") > at, "vanishing is a change");
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseGone));
}

/// Each keep-alive starts the time anew.
pub async fn a_lease_that_is_kept_alive_keeps_its_keys(subject: &dyn Subject) {
    let store = subject.store();
    let ttl = subject.shortest_ttl();
    let lease = store.grant(ttl).await.expect("a lease");
    applied(store.commit(Txn::new().put_leased("a", "1", lease)).await);
    for _ in 0..4 {
        subject.pass(ttl / 2).await;
        assert_eq!(store.keep_alive(lease).await, Ok(()));
    }
    assert!(entry(&*store, "a").await.is_some());
    subject.pass(ttl + LONGER).await;
    assert_eq!(entry(&*store, "a").await, None);
}

/// All keys of the lease go at one revision; a second revoke is no error.
pub async fn a_revoked_lease_takes_its_keys_as_one_change(subject: &dyn Subject) {
    let store = subject.store();
    let lease = store.grant(Duration::from_secs(600)).await.expect("a lease");
    let other = store.grant(Duration::from_secs(600)).await.expect("a lease");
    assert_ne!(lease, other);
    let at = applied(
        store
            .commit(Txn::new().put_leased("a", "1", lease).put_leased("b", "1", lease).put_leased("c", "1", other))
            .await,
    );
    let mut watch = store.watch("", at).await.expect("the store can be watched");
    assert_eq!(store.revoke(lease).await, Ok(()));
    assert_eq!(keys(&*store, "").await, ["c"]);
    let mut changes = take(&mut *watch, 2).await;
    changes.sort_by(|left, right| left.key.cmp(&right.key));
    assert_eq!(changes.iter().map(|change| change.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(changes.iter().all(|change| change.entry.is_none() && change.revision == changes[0].revision));
    let after = store.revision().await;
    assert_eq!(store.revoke(lease).await, Ok(()));
    assert_eq!(store.revision().await, after);
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseGone));
    assert_eq!(store.keep_alive(other).await, Ok(()));
    let unused = store.grant(Duration::from_secs(600)).await.expect("a lease");
    assert_eq!(store.revoke(unused).await, Ok(()));
    assert_eq!(store.revision().await, after, "a lease without keys leaves no trace");
}

/// Neither one that has ended nor one that never was.
pub async fn a_lease_that_is_gone_cannot_be_kept_alive(subject: &dyn Subject) {
    let store = subject.store();
    assert_eq!(store.keep_alive(LeaseId(0x7fff_ffff_ffff)).await, Err(StoreError::LeaseGone));
    assert_eq!(store.revoke(LeaseId(0x7fff_ffff_ffff)).await, Ok(()));
    let lease = store.grant(subject.shortest_ttl()).await.expect("a lease");
    assert_eq!(store.keep_alive(lease).await, Ok(()));
    subject.pass(subject.shortest_ttl() + LONGER).await;
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseGone));
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseGone), "gone for good");
}

/// To none, to another one, and to the same.
pub async fn a_put_replaces_the_lease_of_a_key(subject: &dyn Subject) {
    let store = subject.store();
    let first = store.grant(Duration::from_secs(600)).await.expect("a lease");
    let second = store.grant(Duration::from_secs(600)).await.expect("a lease");
    let all = ["freed", "kept", "moved", "taken"];
    let bound = all[..3].iter().fold(Txn::new(), |txn, key| txn.put_leased(*key, "1", first));
    applied(store.commit(bound.put("taken", "1")).await);
    put(&*store, "freed", "2").await;
    let moved =
        Txn::new().put_leased("moved", "2", second).put_leased("taken", "2", second).put_leased("kept", "2", first);
    applied(store.commit(moved).await);
    assert_eq!(entry(&*store, "freed").await.and_then(|entry| entry.lease), None);
    assert_eq!(entry(&*store, "moved").await.and_then(|entry| entry.lease), Some(second));
    assert_eq!(store.revoke(first).await, Ok(()));
    assert_eq!(keys(&*store, "").await, ["freed", "moved", "taken"]);
    assert_eq!(store.revoke(second).await, Ok(()));
    assert_eq!(keys(&*store, "").await, ["freed"]);
}

/// Also what else the transaction holds is left undone.
pub async fn a_put_under_a_lease_that_is_gone_changes_nothing(subject: &dyn Subject) {
    let store = subject.store();
    let at = put(&*store, "k", "1").await;
    let lease = store.grant(Duration::from_secs(600)).await.expect("a lease");
    assert_eq!(store.revoke(lease).await, Ok(()));
    let txn = || Txn::new().put("a", "1").delete("k").put_leased("z", "1", lease);
    assert_eq!(store.commit(txn()).await, Err(StoreError::LeaseGone));
    let expired = store.grant(subject.shortest_ttl()).await.expect("a lease");
    subject.pass(subject.shortest_ttl() + LONGER).await;
    assert_eq!(store.commit(Txn::new().put_leased("z", "1", expired)).await, Err(StoreError::LeaseGone));
    assert_eq!(keys(&*store, "").await, ["k"]);
    assert_eq!(store.revision().await, Ok(at));
}

/// Nobody has to call the store for a watcher to learn that a worker is gone.
pub async fn a_waiting_watch_sees_a_lease_run_out(subject: &dyn Subject) {
    let store = subject.store();
    let start = put(&*store, "other", "").await;
    let mut watch = store.watch("claim/", start).await.expect("the store can be watched");
    assert!(poll_once(watch.next()).await.is_none(), "nothing has changed yet");
    // Two leases, the shorter one granted while the watcher sleeps.
    let waiting = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.len() < 4 {
            seen.extend(watch.next().await.expect("the watch goes on"));
        }
        seen
    });
    tokio::task::yield_now().await;
    let ttl = subject.shortest_ttl();
    let late = store.grant(ttl * 3).await.expect("a lease");
    let early = store.grant(ttl).await.expect("a lease");
    applied(store.commit(Txn::new().put_leased("claim/1", "", late).put_leased("claim/2", "", early)).await);
    subject.pass(ttl + LONGER).await;
    subject.pass(ttl * 2 + LONGER).await;
    let seen = waiting.await.expect("no panic");
    let deleted: Vec<_> =
        seen.iter().filter(|change| change.entry.is_none()).map(|change| change.key.as_str()).collect();
    assert_eq!(deleted, ["claim/2", "claim/1"]);
}
