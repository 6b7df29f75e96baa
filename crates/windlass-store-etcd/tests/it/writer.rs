//! A writer that behaves as the engine does: it tries again what surely did nothing, and looks first where that is open.

use std::time::Duration;

use windlass_clock::SystemClock;
use windlass_store::{Committed, Compare, Store, StoreError, Txn};

/// How long anything may take to get over what happened to it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `work`, which fails when it takes too long.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = windlass_clock::deadline(&*SystemClock::real(), PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Creates `key`, exactly once, however long it takes.
pub(crate) async fn create(store: &dyn Store, key: &str) {
    let clock = SystemClock::real();
    let until = clock.monotonic() + PATIENCE;
    loop {
        let txn = Txn::new().when(Compare::Absent(key.to_owned())).put(key, "1");
        match store.commit(txn).await {
            Ok(Committed::At(_)) => return,
            // One of ours whose outcome was open: nobody else writes this key.
            Ok(Committed::Conflict(_)) => return,
            Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) if clock.monotonic() < until => {
                clock.sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("create {key}: {error}"),
        }
    }
}

pub(crate) fn key(n: usize) -> String {
    format!("k/{n:05}")
}

/// The next `count` keys that a watch shows as created.
pub(crate) async fn created(watch: &mut dyn windlass_store::Watch, count: usize) -> Vec<String> {
    let mut keys = Vec::new();
    while keys.len() < count {
        let changes = within("the next change", watch.next()).await.expect("the watch goes on");
        for change in changes {
            let entry = change.entry.expect("nothing is deleted");
            assert_eq!(entry.version, entry.created, "{} was created once", entry.key);
            keys.push(change.key);
        }
    }
    keys
}
