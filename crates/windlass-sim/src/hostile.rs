//! A store that is slow, away, or silent about what it did: a wrapper around the one in memory.
//!
//! Each simulated process has its own [`HostileStore`] on shared data, so that one can be cut off while the
//! others go on. Commits that are under way together take different times and so arrive in another order than
//! they were sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use windlass_clock::{SharedClock, SharedEntropy};
use windlass_store::memory::MemoryStore;
use windlass_store::{
    Change, Committed, Compare, Entry, LeaseId, Page, Revision, Scan, Store, StoreError, Txn, Watch, keys,
};

/// How often what goes wrong, as parts of all calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hostility {
    /// The longest delay of a call, in milliseconds.
    pub delay_ms: u64,
    /// Calls refused before anything happened.
    pub unavailable: f64,
    /// Commits that were applied but not confirmed.
    pub unconfirmed: f64,
    /// Commits that were lost and not confirmed either.
    pub lost: f64,
    /// Commits that arrive up to a minute late, even if whoever sent them is gone by then.
    pub late: f64,
}

/// A protection that is taken out of the system on purpose, to show that the simulation sees it missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    #[default]
    None,
    /// Commits are not fenced: the comparison with the coordinator's claim is dropped.
    NoFence,
    /// A lease that has expired is reported as alive: `safe_until` means nothing.
    LeaseNeverEnds,
    /// Records of shared resources are written without comparing that nobody else has changed them.
    NoSharedCompare,
    /// The record of a shared resource and what goes with it are written one after the other.
    SplitsShared,
    /// Commits are confirmed although a part of them never happened.
    ForgetsCommits,
}

/// One process's way to the store.
#[derive(Clone, Debug)]
pub struct HostileStore {
    inner: MemoryStore,
    clock: SharedClock,
    entropy: SharedEntropy,
    hostility: Hostility,
    sabotage: Sabotage,
    cut_off: Arc<AtomicBool>,
}

impl HostileStore {
    /// A way to `inner`.
    #[must_use]
    pub fn new(
        inner: MemoryStore,
        clock: SharedClock,
        entropy: SharedEntropy,
        hostility: Hostility,
        sabotage: Sabotage,
    ) -> Self {
        Self { inner, clock, entropy, hostility, sabotage, cut_off: Arc::default() }
    }

    /// Cuts this process off from the store, or lets it back.
    pub fn cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, Ordering::SeqCst);
    }

    async fn way(&self) -> Result<(), StoreError> {
        if self.hostility.delay_ms > 0 {
            let delay = self.entropy.next_u64() % (self.hostility.delay_ms + 1);
            self.clock.sleep(Duration::from_millis(delay)).await;
        }
        if self.cut_off.load(Ordering::SeqCst) {
            // As a connection that hangs and then breaks.
            self.clock.sleep(Duration::from_millis(500)).await;
            return Err(StoreError::Unavailable("cut off".into()));
        }
        if self.entropy.fraction() < self.hostility.unavailable {
            return Err(StoreError::Unavailable("hostile".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Store for HostileStore {
    async fn commit(&self, mut txn: Txn) -> Result<Committed, StoreError> {
        self.way().await?;
        if self.entropy.fraction() < self.hostility.lost {
            return Err(StoreError::Unknown("hostile".into()));
        }
        match self.sabotage {
            Sabotage::NoFence => {
                txn.compares
                    .retain(|compare| !matches!(compare, Compare::Created(key, _) if key.starts_with(keys::CLAIMS)));
            }
            Sabotage::ForgetsCommits if self.entropy.fraction() < 0.02 => {
                return Ok(Committed::At(self.inner.revision().await?));
            }
            Sabotage::NoSharedCompare => {
                txn.compares.retain(|compare| !compare.key().starts_with(keys::SHARED));
            }
            Sabotage::SplitsShared if txn.ops.iter().any(|op| op.key().starts_with(keys::SHARED)) => {
                let (shared, rest) = txn.ops.into_iter().partition(|op| op.key().starts_with(keys::SHARED));
                let first = Txn { compares: txn.compares.clone(), ops: shared };
                if let Committed::Conflict(found) = self.inner.commit(first).await? {
                    return Ok(Committed::Conflict(found));
                }
                // Time enough for a process to die between the two.
                self.clock.sleep(Duration::from_millis(self.entropy.next_u64() % 2_000)).await;
                txn.compares.retain(|compare| !compare.key().starts_with(keys::SHARED));
                txn.ops = rest;
            }
            Sabotage::None | Sabotage::LeaseNeverEnds | Sabotage::ForgetsCommits | Sabotage::SplitsShared => {}
        }
        let committed = if self.entropy.fraction() < self.hostility.late {
            let (inner, clock) = (self.inner.clone(), self.clock.clone());
            let delay = Duration::from_millis(self.entropy.next_u64() % 60_000);
            // A request on its way outlives the process that sent it.
            let sent = tokio::spawn(async move {
                clock.sleep(delay).await;
                inner.commit(txn).await
            });
            sent.await.map_err(|error| StoreError::Unknown(error.to_string()))??
        } else {
            self.inner.commit(txn).await?
        };
        if self.entropy.fraction() < self.hostility.unconfirmed {
            return Err(StoreError::Unknown("hostile".into()));
        }
        // The answer takes its time too.
        self.way().await.map_err(|_| StoreError::Unknown("the answer was lost".into()))?;
        Ok(committed)
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.way().await?;
        self.inner.get(key).await
    }

    async fn scan(&self, prefix: &str) -> Result<Box<dyn Scan>, StoreError> {
        self.way().await?;
        Ok(Box::new(HostileScan { inner: self.inner.scan(prefix).await?, store: self.clone() }))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.way().await?;
        Ok(Box::new(HostileWatch { inner: self.inner.watch(prefix, after).await?, store: self.clone() }))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.way().await?;
        self.inner.revision().await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.way().await?;
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        if self.sabotage == Sabotage::LeaseNeverEnds {
            if self.way().await.is_ok() {
                let _ = self.inner.keep_alive(lease).await;
            }
            return Ok(());
        }
        self.way().await?;
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.way().await?;
        self.inner.revoke(lease).await
    }
}

struct HostileScan {
    inner: Box<dyn Scan>,
    store: HostileStore,
}

#[async_trait]
impl Scan for HostileScan {
    fn revision(&self) -> Revision {
        self.inner.revision()
    }

    async fn next_page(&mut self, limit: usize) -> Result<Page, StoreError> {
        self.store.way().await?;
        self.inner.next_page(limit).await
    }
}

struct HostileWatch {
    inner: Box<dyn Watch>,
    store: HostileStore,
}

#[async_trait]
impl Watch for HostileWatch {
    async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        let changes = self.inner.next().await?;
        self.store.way().await?;
        Ok(changes)
    }
}
