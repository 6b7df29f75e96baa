use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;
use tempfile::TempDir;
use windlass_store::conformance::{ManualClock, Step, Subject, agrees_with_the_model};
use windlass_store::{Store, store_conformance};
use windlass_store_embedded::{EmbeddedStore, Options};

struct Embedded {
    clock: ManualClock,
    store: Arc<EmbeddedStore>,
    // Last: the folder goes after the store has been closed.
    _dir: TempDir,
}

impl Embedded {
    fn new() -> Self {
        let clock = ManualClock::new();
        let dir = tempfile::tempdir().expect("a folder");
        let store = EmbeddedStore::open(dir.path(), Options::new(Arc::new(clock.clone()))).expect("a store");
        Self { clock, store: Arc::new(store), _dir: dir }
    }
}

#[async_trait]
impl Subject for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    async fn forget_history(&self) {
        self.store.compact();
    }
}

store_conformance!(embedded, Embedded::new());

proptest! {
    // Each case is a database with some hundred syncs.
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_history_agrees_with_the_model(steps in prop::collection::vec(any::<Step>(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(agrees_with_the_model(&Embedded::new(), &steps));
    }
}
