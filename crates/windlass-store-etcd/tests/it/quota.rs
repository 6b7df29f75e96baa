//! An etcd whose database is full.

use windlass_sim::etcd::{EtcdOptions, EtcdServer};
use windlass_store::{Committed, Compare, Store, StoreError, Txn, read_all};

use crate::pool::{config, connect};
use crate::writer::{create, key};

const QUOTA: u64 = 16 * 1024 * 1024;

#[tokio::test]
async fn a_full_database_refuses_clearly_lets_delete_and_goes_on_by_itself() {
    let options = EtcdOptions::members(1).with(&format!("--quota-backend-bytes={QUOTA}"));
    let server = EtcdServer::with(options).await.expect("a member");
    let mut config = config(server.endpoints());
    config.quota_bytes = QUOTA;
    let store = connect(config).await;
    let large = |n: usize| Txn::new().when(Compare::Absent(key(n))).put(key(n), vec![n as u8; 100 * 1024]);
    let (mut stored, mut refused, mut open) = (Vec::new(), Vec::new(), Vec::new());
    let mut number = 0;
    while refused.len() < 5 {
        match store.commit(large(number)).await {
            Ok(Committed::At(_)) => stored.push(key(number)),
            Err(StoreError::Unavailable(why)) => {
                for advice in ["quota", "compact", "defragment", "disarm"] {
                    assert!(why.contains(advice), "{why}");
                }
                refused.push(key(number));
            }
            Err(StoreError::Unknown(_)) => open.push(key(number)),
            other => panic!("{number}: {other:?}"),
        }
        number += 1;
        assert!(number < 500, "the quota is never reached");
    }
    assert!(open.len() <= 1, "only the one that reaches the quota is in doubt: {open:?}");
    // Nothing that was refused is there, everything that was acknowledged is.
    let present: Vec<String> =
        read_all(&*store, "k/").await.expect("reads go on").into_iter().map(|entry| entry.key).collect();
    assert!(stored.iter().all(|key| present.contains(key)) && !refused.iter().any(|key| present.contains(key)));
    let status = store.status().await.expect("a status");
    assert!(status.is_nearly_full() && status.alarms.contains(&"NOSPACE".to_owned()), "{status:?}");
    assert_eq!(status.quota_bytes, QUOTA);
    // Leases and watches go on; so does deleting, which makes room.
    let mut watch = store.watch("k/", store.revision().await.expect("a revision")).await.expect("a watch");
    for keys in present.chunks(10) {
        let guard = Txn::new().when(Compare::Absent("nobody".to_owned()));
        let txn = keys.iter().fold(guard, Txn::delete);
        let answer = store.commit(txn).await;
        assert!(matches!(answer, Ok(Committed::At(_))), "{answer:?}");
    }
    assert!(watch.next().await.expect("the watch goes on")[0].entry.is_none());
    store.compact_before(store.revision().await.expect("a revision")).await.expect("the history ends");
    store.defragment().await.expect("the space comes back");
    assert!(matches!(store.commit(large(number)).await, Err(StoreError::Unavailable(_))), "the alarm is still raised");
    store.disarm().await.expect("the alarm is taken back");
    create(&*store, &key(number)).await;
    assert!(matches!(store.commit(large(number + 1)).await, Ok(Committed::At(_))));
    let status = store.status().await.expect("a status");
    assert!(!status.is_nearly_full() && status.alarms.is_empty(), "{status:?}");
}
