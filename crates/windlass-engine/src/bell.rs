//! Wakes everybody who waits for something to have happened, in the order in which they came.
//!
//! A watch channel would do, but it wakes in an order of its own choosing, and a simulated run must replay.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts how often it was rung.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: AtomicU64,
    waiting: Notify,
}

impl Bell {
    /// Wakes all who wait.
    pub(crate) fn ring(&self) {
        self.rung.fetch_add(1, Ordering::SeqCst);
        self.waiting.notify_waiters();
    }

    /// How often it was rung.
    pub(crate) fn count(&self) -> u64 {
        self.rung.load(Ordering::SeqCst)
    }

    /// Waits until it has been rung more than `seen` times. Cancel safe.
    pub(crate) async fn after(&self, seen: u64) {
        loop {
            let mut rung = std::pin::pin!(self.waiting.notified());
            // From here on no ring is missed.
            rung.as_mut().enable();
            if self.count() != seen {
                return;
            }
            rung.await;
        }
    }
}
