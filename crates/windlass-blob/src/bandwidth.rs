//! One limit on bytes per second for many transfers.

use std::time::Duration;

use tokio::sync::{Mutex, watch};
use windlass_clock::SharedClock;

/// The bucket holds this much time's worth of bytes: enough to be smooth at high rates, and no visible burst.
const BURST: Duration = Duration::from_millis(250);

/// A token bucket that any number of transfers draw from, first come, first served.
///
/// The rate can be changed while transfers wait; they go on at the new rate at once.
#[derive(Debug)]
pub struct Bandwidth {
    clock: SharedClock,
    /// 0 means unlimited.
    rate: watch::Sender<u64>,
    // The lock is held while waiting for tokens, which is what makes it first come, first served.
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Duration,
}

impl Bandwidth {
    /// A limit of `bytes_per_second`; `None` or 0 is no limit.
    #[must_use]
    pub fn new(clock: SharedClock, bytes_per_second: Option<u64>) -> Self {
        let filled_at = clock.monotonic();
        Self {
            clock,
            rate: watch::Sender::new(bytes_per_second.unwrap_or(0)),
            bucket: Mutex::new(Bucket { tokens: 0.0, filled_at }),
        }
    }

    /// Changes the limit, also for those who wait now.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        self.rate.send_replace(bytes_per_second.unwrap_or(0));
    }

    /// The limit in bytes per second, if there is one.
    #[must_use]
    pub fn limit(&self) -> Option<u64> {
        Some(*self.rate.borrow()).filter(|rate| *rate > 0)
    }

    /// Waits until `bytes` may pass. Cancel safe: what was drawn before the cancellation stays drawn.
    pub async fn take(&self, bytes: u64) {
        if self.limit().is_none() {
            return;
        }
        let mut changes = self.rate.subscribe();
        let mut bucket = self.bucket.lock().await;
        let mut rest = bytes as f64;
        loop {
            let rate = *changes.borrow_and_update() as f64;
            if rate == 0.0 {
                return;
            }
            let size = rate * BURST.as_secs_f64();
            let now = self.clock.monotonic();
            let passed = now.saturating_sub(bucket.filled_at);
            bucket.filled_at = now;
            bucket.tokens = (bucket.tokens + passed.as_secs_f64() * rate).min(size);
            let paid = rest.min(bucket.tokens);
            bucket.tokens -= paid;
            rest -= paid;
            // Less than a byte is rounding, and could mean a wait of no time at all, for ever.
            if rest < 1.0 {
                return;
            }
            let wait = Duration::from_secs_f64(rest.min(size.max(1.0)) / rate) + Duration::from_nanos(1);
            tokio::select! {
                () = self.clock.sleep(wait) => {}
                // The sender is in `self`, so this is a change and not its end.
                _ = changes.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use windlass_clock::SystemClock;

    use super::*;

    async fn passed<F: Future>(clock: &SharedClock, work: F) -> f64 {
        let start = clock.monotonic();
        work.await;
        (clock.monotonic() - start).as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn many_transfers_together_keep_to_the_rate() {
        let clock = SystemClock::real();
        let bandwidth = Arc::new(Bandwidth::new(Arc::clone(&clock), Some(1_000_000)));
        let all = (0..8).map(|_| {
            let bandwidth = Arc::clone(&bandwidth);
            async move {
                for _ in 0..10 {
                    bandwidth.take(125_000).await;
                }
            }
        });
        let seconds = passed(&clock, futures::future::join_all(all)).await;
        assert!((9.7..=10.1).contains(&seconds), "10 MB at 1 MB/s took {seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_is_not_saved_up_beyond_the_burst() {
        let clock = SystemClock::real();
        let bandwidth = Bandwidth::new(Arc::clone(&clock), Some(1000));
        clock.sleep(Duration::from_secs(3600)).await;
        let seconds = passed(&clock, bandwidth.take(2000)).await;
        assert!((1.7..=1.8).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_reaches_those_who_wait() {
        let clock = SystemClock::real();
        let bandwidth = Arc::new(Bandwidth::new(Arc::clone(&clock), Some(1)));
        let change = async {
            clock.sleep(Duration::from_secs(1)).await;
            bandwidth.set(Some(1_000_000));
            clock.sleep(Duration::from_millis(500)).await;
            bandwidth.set(None);
        };
        let (seconds, ()) = tokio::join!(passed(&clock, bandwidth.take(1_000_000)), change);
        assert!((1.4..=1.6).contains(&seconds), "{seconds}");
        assert_eq!(bandwidth.limit(), None);
        assert_eq!(passed(&clock, bandwidth.take(u64::MAX)).await, 0.0, "no limit, no wait");
    }
}
