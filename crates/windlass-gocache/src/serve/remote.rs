//! What the loop asks of a remote.

use std::time::Duration;

use windlass_gocache_remote::{ActionId, Closed, Counters, Entry, Lookup};

/// A remote of the cache, as the loop sees it. May be asked by many threads at once.
pub trait RemoteCache: Send + Sync {
    /// Asks for an action, and waits for the answer, but not beyond its deadline.
    fn lookup(&self, action: &ActionId) -> Lookup;

    /// Says that an action was stored here. Never waits for the network.
    fn offer(&self, action: ActionId, entry: Entry);

    /// Says that an action that is here was used.
    fn used(&self, action: ActionId);

    /// Uploads what can be uploaded within `limit`, and remembers the rest. Lookups come back at once from then on.
    fn close(&self, limit: Duration) -> Closed;

    /// What it did so far.
    fn counters(&self) -> Counters;
}
