//! A store that is slow, away, or silent about what it did: a wrapper around the one in memory.
//!
//! Each simulated process has its own [`HostileStore`] on shared data, so that one can be cut off while the
//! others go on. Commits that are under way together take different times and so arrive in another order than
//! they were sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Notify;
use windlass_clock::{Clock, SharedClock, SharedEntropy, Sleep};
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

/// Lets one process stand still, as `SIGSTOP` does: what it waits for happens, but it does not get to see it.
#[derive(Clone, Debug, Default)]
pub struct Freezer(Arc<Frozen>);

#[derive(Debug, Default)]
struct Frozen {
    frozen: AtomicBool,
    thawed: Notify,
}

impl Freezer {
    /// Freezes the process, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        self.0.frozen.store(frozen, Ordering::SeqCst);
        if !frozen {
            self.0.thawed.notify_waiters();
        }
    }

    /// Whether the process stands still.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.0.frozen.load(Ordering::SeqCst)
    }

    /// Waits until the process goes on.
    async fn pass(&self) {
        loop {
            let mut thawed = std::pin::pin!(self.0.thawed.notified());
            thawed.as_mut().enable();
            if !self.is_frozen() {
                return;
            }
            thawed.await;
        }
    }
}

/// The clock of a process that can be frozen: time goes on, but nothing in the process notices before it thaws.
#[derive(Debug)]
pub struct FreezableClock {
    inner: SharedClock,
    freezer: Freezer,
}

impl FreezableClock {
    /// The clock of the process that `freezer` freezes.
    #[must_use]
    pub fn shared(inner: SharedClock, freezer: Freezer) -> SharedClock {
        Arc::new(Self { inner, freezer })
    }
}

impl Clock for FreezableClock {
    fn wall(&self) -> Timestamp {
        self.inner.wall()
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let (sleep, freezer) = (self.inner.sleep(duration), self.freezer.clone());
        Box::pin(async move {
            sleep.await;
            freezer.pass().await;
        })
    }
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
    freezer: Freezer,
    calls: Arc<AtomicU64>,
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
        let (cut_off, freezer, calls) = (Arc::default(), Freezer::default(), Arc::default());
        Self { inner, clock, entropy, hostility, sabotage, cut_off, freezer, calls }
    }

    /// A way on which nothing goes wrong unless it is told to.
    #[must_use]
    pub fn kind(inner: MemoryStore, clock: SharedClock) -> Self {
        Self::new(inner, clock, windlass_clock::Seeded::shared(1), Hostility::default(), Sabotage::None)
    }

    /// What freezes the process together with its [`FreezableClock`].
    #[must_use]
    pub fn freezer(&self) -> &Freezer {
        &self.freezer
    }

    /// Calls to the store so far; what a watch delivers counts once for each delivery.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Cuts this process off from the store, or lets it back.
    pub fn cut_off(&self, cut_off: bool) {
        self.cut_off.store(cut_off, Ordering::SeqCst);
    }

    /// The way of a call: there, and back.
    async fn way(&self) -> Result<(), StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.leg().await
    }

    async fn leg(&self) -> Result<(), StoreError> {
        self.freezer.pass().await;
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
        // A process that was frozen meanwhile sends nothing before it goes on.
        self.freezer.pass().await;
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
                let fences = |compare: &Compare| match compare {
                    Compare::Created(key, _) => key.starts_with(keys::CLAIMS),
                    Compare::Version(key, _) => key.starts_with("job/"),
                    Compare::Absent(_) | Compare::NoneUnder(_) => false,
                };
                txn.compares.retain(|compare| !fences(compare));
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
        self.leg().await.map_err(|_| StoreError::Unknown("the answer was lost".into()))?;
        Ok(committed)
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.way().await?;
        let entry = self.inner.get(key).await;
        self.freezer.pass().await;
        entry
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
