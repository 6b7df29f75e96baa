//! Stops asking a remote that fails, and finds out with single requests when it works again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::cause::Cause;

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// How long it stays open at first; doubles with each probe that fails.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_for: Duration,
    /// Set while it is open: when the next probe may go.
    until: Option<Duration>,
}

#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

impl Breaker {
    /// Whether a request may go at `now`. While it is open, one may go each time a pause is over.
    pub(crate) fn allows(&self, now: Duration) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.until {
            None => true,
            Some(until) if now >= until => {
                // The next probe, should nothing be heard of this one.
                state.until = Some(now + state.open_for);
                true
            }
            Some(_) => false,
        }
    }

    /// Whether it is closed: nothing is known to be wrong.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).until.is_none()
    }

    pub(crate) fn success(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    pub(crate) fn failure(&self, cause: Cause, now: Duration) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures += 1;
        if state.failures >= FAILURES || cause.is_lasting() {
            state.open_for = match state.open_for {
                Duration::ZERO if cause.is_lasting() => LONGEST,
                Duration::ZERO => FIRST,
                before => (before * 2).min(LONGEST),
            };
            state.until = Some(now + state.open_for);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_after_a_probe() {
        let breaker = Breaker::default();
        for _ in 0..2 {
            breaker.failure(Cause::Down, at(0));
        }
        breaker.success();
        for _ in 0..2 {
            breaker.failure(Cause::Down, at(0));
        }
        assert!(breaker.allows(at(0)), "a success between starts the count afresh");
        breaker.failure(Cause::Down, at(0));
        assert!(!breaker.allows(at(1)));
        assert!(breaker.allows(at(2)), "the probe");
        assert!(!breaker.allows(at(2)), "one only");
        breaker.failure(Cause::Down, at(2));
        assert!(!breaker.allows(at(5)), "the pause doubles");
        assert!(breaker.allows(at(6)));
        breaker.success();
        assert!(breaker.allows(at(6)) && breaker.is_closed());
    }

    #[test]
    fn what_lasts_opens_it_at_once() {
        let breaker = Breaker::default();
        breaker.failure(Cause::Denied, at(0));
        assert!(!breaker.allows(at(59)));
        assert!(breaker.allows(at(60)));
    }
}
