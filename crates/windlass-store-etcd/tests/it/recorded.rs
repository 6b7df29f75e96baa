//! What really goes over the wire.

use windlass_sim::etcd::TxnRecorder;
use windlass_store::{Committed, Compare, Store, StoreError, Txn, budget};
use windlass_store_etcd::EtcdConfig;

use crate::pool::{Borrowed, connect};
use crate::writer::{create, created, key};

#[tokio::test]
async fn no_transaction_is_larger_than_the_budget_and_none_is_hidden() {
    let server = Borrowed::new().await;
    let recorder = TxnRecorder::start(&server.config.endpoints[0]).expect("a recorder");
    let store = connect(EtcdConfig { endpoints: vec![recorder.endpoint()], ..server.config.clone() }).await;
    let mut watch = store.watch("k/", store.revision().await.expect("a revision")).await.expect("a watch");
    create(&*store, &key(0)).await;
    let full = (0..budget::OPS).fold(Txn::new(), |txn, n| txn.put(format!("full/{n}"), vec![1; 5000]));
    let full = (0..budget::COMPARES).fold(full, |txn, n| txn.when(Compare::Absent(format!("full/{n}"))));
    assert!(matches!(store.commit(full.clone()).await, Ok(Committed::At(_))));
    assert!(matches!(store.commit(full.clone()).await, Ok(Committed::Conflict(_))));
    let refused = store.commit(full.put("one more", "")).await;
    assert!(matches!(refused, Err(StoreError::Budget(_))), "{refused:?}");
    assert_eq!(created(&mut *watch, 1).await, [key(0)]);
    let lease = store.grant(std::time::Duration::from_secs(10)).await.expect("a lease");
    store.keep_alive(lease).await.expect("a kept lease");
    let seen = recorder.transactions();
    let counts: Vec<_> = seen.iter().map(|txn| (txn.compares, txn.ops)).collect();
    assert_eq!(counts, [(1, 1), (96, 96), (96, 96)], "and nothing of the one that was refused");
    assert!(seen.iter().all(|txn| txn.bytes <= budget::TXN_BYTES), "{seen:?}");
}
