//! The store in memory keeps the contract.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;
use windlass_store::conformance::{ManualClock, Step, Subject, agrees_with_the_model};
use windlass_store::memory::MemoryStore;
use windlass_store::{Store, store_conformance};

struct Memory {
    clock: ManualClock,
    store: MemoryStore,
}

impl Memory {
    fn new() -> Self {
        let clock = ManualClock::new();
        Self { store: MemoryStore::new(Arc::new(clock.clone())), clock }
    }
}

#[async_trait]
impl Subject for Memory {
    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }

    async fn forget_history(&self) {
        self.store.compact();
    }
}

store_conformance!(memory, Memory::new());

#[tokio::test]
async fn the_whole_suite_runs_in_one_go() {
    windlass_store::conformance::run_all(async || Memory::new()).await;
}

proptest! {
    #[test]
    fn any_history_agrees_with_the_model(steps in prop::collection::vec(any::<Step>(), 0..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(agrees_with_the_model(&Memory::new(), &steps));
    }
}
