//! Servers for cases that need one for themselves but do not harm it.
//!
//! The contract's cases compare revisions, which all users of an etcd move. Starting a server for each case would take
//! longer than most cases; so a case borrows one, works under a prefix of its own, and gives it back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use windlass_clock::SystemClock;
use windlass_sim::etcd::EtcdServer;
use windlass_store::{Store, Txn, budget, read_all};
use windlass_store_etcd::{EtcdConfig, EtcdStore};

/// Servers with the configuration of who had them last.
static IDLE: Mutex<Vec<(EtcdServer, EtcdConfig)>> = Mutex::new(Vec::new());
static PREFIXES: AtomicU64 = AtomicU64::new(0);

/// A server that nobody else uses at the moment.
pub(crate) struct Borrowed {
    server: Option<EtcdServer>,
    pub(crate) config: EtcdConfig,
}

impl Borrowed {
    pub(crate) async fn new() -> Self {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let server = match idle {
            Some((server, config)) => {
                clear(config).await;
                server
            }
            None => EtcdServer::start(1).await.expect("an etcd"),
        };
        let config = config(server.endpoints());
        Self { server: Some(server), config }
    }

    pub(crate) async fn store(&self) -> Arc<EtcdStore> {
        connect(self.config.clone()).await
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push((server, self.config.clone()));
        }
    }
}

/// Deletes what a case has left behind: keys bound to leases would vanish while the next case compares revisions.
async fn clear(config: EtcdConfig) {
    let store = connect(config).await;
    let left = read_all(&*store, "").await.expect("the store can be read");
    for entries in left.chunks(budget::OPS) {
        let txn = entries.iter().fold(Txn::new(), |txn, entry| txn.delete(&entry.key));
        store.commit(txn).await.expect("what is left can be deleted");
    }
}

/// A configuration with a prefix that no other case uses. History is ended by the cases themselves.
pub(crate) fn config(endpoints: Vec<String>) -> EtcdConfig {
    let number = PREFIXES.fetch_add(1, Ordering::Relaxed);
    EtcdConfig { prefix: format!("case-{number}/"), keep: None, ..EtcdConfig::new(endpoints) }
}

pub(crate) async fn connect(config: EtcdConfig) -> Arc<EtcdStore> {
    Arc::new(EtcdStore::connect(config, SystemClock::real()).await.expect("a connection"))
}
