//! The lease of a worker process, and how long it is safe to act on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use windlass_clock::{Clock, SharedClock};
use windlass_model::WorkerId;
use windlass_store::{LeaseId, Store, StoreError, Txn, keys};

use crate::presence::Presence;
use crate::records::encode;

/// The moment, on this process's monotonic clock, until which the lease is surely still ours.
///
/// It is the moment at which the last successful keep-alive was *sent*, plus the time to live, less a fifth:
/// the store cannot have given the lease away before, whatever either clock shows.
#[derive(Clone, Debug)]
pub(crate) struct SafeUntil(Arc<AtomicU64>);

impl SafeUntil {
    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(0)))
    }

    fn extend(&self, sent: Duration, ttl: Duration) {
        let until = sent + ttl.mul_f64(0.8);
        self.0.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// How long it is still safe.
    pub(crate) fn left(&self, clock: &dyn Clock) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst)).saturating_sub(clock.monotonic())
    }

    pub(crate) fn is_safe(&self, clock: &dyn Clock) -> bool {
        !self.left(clock).is_zero()
    }
}

/// One life of a worker: a lease and everything that depends on it. When the lease is lost the session is over
/// and the process starts another one, under another id.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) worker: WorkerId,
    pub(crate) lease: LeaseId,
    pub(crate) safe_until: SafeUntil,
    /// Fires when the session is over.
    pub(crate) over: CancellationToken,
}

impl Session {
    /// Takes a lease and announces the worker.
    pub(crate) async fn begin(
        store: &dyn Store,
        clock: &SharedClock,
        presence: &Presence,
        ttl: Duration,
    ) -> Result<Self, StoreError> {
        let sent = clock.monotonic();
        let worker = presence.id;
        let lease = store.grant(ttl).await?;
        store.commit(Txn::new().put_leased(keys::worker(worker), encode(presence), lease)).await?;
        let safe_until = SafeUntil::new();
        safe_until.extend(sent, ttl);
        Ok(Self { worker, lease, safe_until, over: CancellationToken::new() })
    }

    /// Keeps the lease alive until the session is over. Ends the session when the lease is lost, or when
    /// nobody has confirmed it for so long that it may be.
    pub(crate) async fn keep(&self, store: &dyn Store, clock: &SharedClock, ttl: Duration) {
        loop {
            tokio::select! {
                biased;
                () = self.over.cancelled() => return,
                () = clock.sleep((ttl / 3).min(self.safe_until.left(&**clock))) => {}
            }
            let sent = clock.monotonic();
            // Neither a wait nor a store that does not answer may keep us past the safe moment: calls to the
            // outside that are under way must have been dropped before another worker can take over.
            let limit = (ttl / 3).min(self.safe_until.left(&**clock));
            let answer = windlass_clock::deadline(&**clock, limit, store.keep_alive(self.lease)).await;
            match answer {
                Ok(Ok(())) => self.safe_until.extend(sent, ttl),
                Ok(Err(StoreError::LeaseGone)) => {
                    tracing::warn!(worker = %self.worker, "the lease is gone: another worker may take over");
                    break;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the lease could not be renewed, trying again"),
                Err(_) => tracing::warn!("the lease could not be renewed in time, trying again"),
            }
            if !self.safe_until.is_safe(&**clock) {
                tracing::warn!(worker = %self.worker, "the lease is no longer safe: all work stops");
                break;
            }
        }
        self.over.cancel();
    }
}
