//! A clock that moves when the test says so.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use jiff::Timestamp;
use windlass_clock::{Clock, Sleep};

/// A clock that stands still until [`ManualClock::advance`].
///
/// Unlike the paused time of a tokio runtime it is the same on all threads and never runs ahead while the
/// test waits for a thread.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    sleeps: u64,
    sleepers: BTreeMap<(Duration, u64), Waker>,
}

impl ManualClock {
    /// A clock at zero; its wall time is the start of 1970.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the clock and wakes who slept until then, in the order of their times.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.now = state.now.saturating_add(by);
        let now = state.now;
        let later = state.sleepers.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut state.sleepers, later);
        drop(state);
        due.into_values().for_each(Waker::wake);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        let seconds = i64::try_from(self.monotonic().as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.state().now
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        let mut state = self.state();
        state.sleeps += 1;
        let place = (state.now.saturating_add(duration), state.sleeps);
        drop(state);
        Box::pin(Sleeper { clock: self.clone(), place })
    }
}

struct Sleeper {
    clock: ManualClock,
    place: (Duration, u64),
}

impl Future for Sleeper {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state();
        if state.now >= self.place.0 {
            return Poll::Ready(());
        }
        state.sleepers.insert(self.place, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.clock.state().sleepers.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::poll_once;

    #[tokio::test]
    async fn a_sleeper_wakes_at_its_time_and_not_before() {
        let clock = ManualClock::new();
        let mut sleep = clock.sleep(Duration::from_secs(5));
        assert_eq!(poll_once(&mut sleep).await, None);
        clock.advance(Duration::from_millis(4999));
        assert_eq!(poll_once(&mut sleep).await, None);
        let woken = tokio::spawn(sleep);
        tokio::task::yield_now().await;
        clock.advance(Duration::from_millis(1));
        woken.await.unwrap();
        drop(clock.sleep(Duration::from_secs(1)));
        assert!(clock.state().sleepers.is_empty());
        assert_eq!(clock.wall().as_second(), 5);
    }
}
