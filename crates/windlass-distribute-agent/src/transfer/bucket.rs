//! How fast bytes may flow.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A token bucket whose rate may change at any moment.
///
/// Whoever finds it not empty takes what it needs, and leaves a debt that the next one waits for. So one buffer's worth
/// always goes at once, and a changed rate is felt within [`LONGEST_WAIT`].
#[derive(Debug)]
pub(crate) struct Bucket(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Bits per second; `None` for no limit.
    rate: Option<u64>,
    /// The limit of the hour, besides.
    cap: Option<u64>,
    /// In bytes; below zero is a debt.
    level: f64,
    filled: Duration,
}

impl State {
    fn limit(&self) -> Option<u64> {
        self.rate.into_iter().chain(self.cap).min()
    }
}

/// Nobody waits longer before looking again.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// What may be saved up, in seconds of the rate.
const SAVED: f64 = 0.1;

impl Bucket {
    /// A bucket of this many bits per second, `None` for no limit.
    #[must_use]
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Self(Mutex::new(State { rate, cap: None, level: 0.0, filled: Duration::ZERO }))
    }

    /// The rate.
    #[must_use]
    pub(crate) fn rate(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).rate
    }

    /// The limit that counts at this moment.
    #[must_use]
    pub(crate) fn limit(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).limit()
    }

    /// Sets the limit of the hour; gives it if it is another one.
    pub(crate) fn cap(&self, cap: Option<u64>) -> Option<Option<u64>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.cap == cap {
            return None;
        }
        state.cap = cap;
        state.level = state.level.max(0.0);
        Some(cap)
    }

    /// Changes the rate.
    pub(crate) fn set(&self, rate: Option<u64>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.rate = rate;
        // What was owed at another rate would be waited for at this one.
        state.level = state.level.max(0.0);
    }

    /// Takes `bytes` at the moment `now`, or says how long to wait before asking again.
    ///
    /// # Errors
    /// The wait.
    pub(crate) fn take(&self, bytes: usize, now: Duration) -> Result<(), Duration> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rate) = state.limit() else { return Ok(()) };
        let per_second = (rate.max(1)) as f64 / 8.0;
        let passed = now.saturating_sub(state.filled).as_secs_f64();
        state.filled = now;
        state.level = (state.level + passed * per_second).min(per_second * SAVED);
        if state.level < 0.0 {
            let wait = Duration::try_from_secs_f64(-state.level / per_second).unwrap_or(LONGEST_WAIT);
            return Err(wait.clamp(Duration::from_millis(1), LONGEST_WAIT));
        }
        state.level -= bytes as f64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes flow in a span of time.
    fn flow(bucket: &Bucket, from: Duration, span: Duration) -> usize {
        let (mut now, mut bytes) = (from, 0);
        while now < from + span {
            match bucket.take(10_000, now) {
                Ok(()) => bytes += 10_000,
                Err(wait) => now += wait,
            }
        }
        bytes
    }

    #[test]
    fn the_rate_is_kept_and_may_change() {
        let second = Duration::from_secs(1);
        let bucket = Bucket::new(Some(8_000_000));
        let bytes = flow(&bucket, second, 10 * second);
        assert!((9_900_000..=10_200_000).contains(&bytes), "{bytes}");
        bucket.set(Some(800_000));
        let bytes = flow(&bucket, 11 * second, 10 * second);
        assert!((950_000..=1_150_000).contains(&bytes), "{bytes}");
        assert_eq!(bucket.cap(Some(400_000)), Some(Some(400_000)));
        assert_eq!((bucket.cap(Some(400_000)), bucket.limit(), bucket.rate()), (None, Some(400_000), Some(800_000)));
        let bytes = flow(&bucket, 21 * second, 10 * second);
        assert!((450_000..=600_000).contains(&bytes), "the limit of the hour: {bytes}");
        bucket.cap(None);
        bucket.set(None);
        assert!((0..1_000_000).all(|_| bucket.take(1 << 20, 32 * second).is_ok()));
    }
}
