//! The contract's suite.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;
use windlass_clock::SystemClock;
use windlass_store::conformance::{Step, Subject, agrees_with_the_model};
use windlass_store::{Store, read_all, store_conformance};
use windlass_store_etcd::EtcdStore;

use crate::pool::Borrowed;

struct Etcd {
    // Before the server: it goes first.
    store: Arc<EtcdStore>,
    _server: Borrowed,
}

impl Etcd {
    async fn new() -> Self {
        let server = Borrowed::new().await;
        Self { store: server.store().await, _server: server }
    }
}

#[async_trait]
impl Subject for Etcd {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn pass(&self, time: Duration) {
        SystemClock::real().sleep(time).await;
    }

    async fn forget_history(&self) {
        let all = read_all(&*self.store, "").await.expect("the store can be read");
        let newest = all.iter().map(|entry| entry.version).max().expect("there is an entry");
        self.store.compact_before(newest).await.expect("the history ends");
    }

    fn shortest_ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn has_exact_time(&self) -> bool {
        false
    }
}

store_conformance!(etcd, Etcd::new().await);

proptest! {
    // Each case is some hundred round trips with a sync.
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_history_agrees_with_the_model(steps in prop::collection::vec(any::<Step>(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { agrees_with_the_model(&Etcd::new().await, &steps).await });
    }
}
