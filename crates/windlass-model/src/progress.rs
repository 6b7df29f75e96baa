//! Progress of tasks and jobs, and an estimate of the time left that says how sure it is.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How far something has got. Totals are `None` while they are unknown; unknown is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Items finished.
    #[serde(default)]
    pub done_items: u64,
    /// Items in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_items: Option<u64>,
    /// Bytes finished.
    #[serde(default)]
    pub done_bytes: u64,
    /// Bytes in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
}

impl Progress {
    /// Items only.
    #[must_use]
    pub fn items(done: u64, total: Option<u64>) -> Self {
        Self { done_items: done, total_items: total, ..Self::default() }
    }

    /// Bytes only.
    #[must_use]
    pub fn bytes(done: u64, total: Option<u64>) -> Self {
        Self { done_bytes: done, total_bytes: total, ..Self::default() }
    }

    /// The finished part in `[0, 1]`: of bytes where they are known, else of items.
    #[must_use]
    pub fn fraction(&self) -> Option<f64> {
        let part = |done: u64, total: u64| if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
        match (self.total_bytes, self.total_items) {
            (Some(total), _) if total > 0 => Some(part(self.done_bytes, total)),
            (_, Some(total)) => Some(part(self.done_items, total)),
            _ => None,
        }
    }

    /// The sum of two parts. A total that one part does not know is unknown for both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let both = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
        Self {
            done_items: self.done_items.saturating_add(other.done_items),
            total_items: both(self.total_items, other.total_items),
            done_bytes: self.done_bytes.saturating_add(other.done_bytes),
            total_bytes: both(self.total_bytes, other.total_bytes),
        }
    }
}

impl Progress {
    /// What is left of a sum without one of its parts.
    #[must_use]
    pub fn minus(&self, part: &Self) -> Self {
        let both = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_sub(b?));
        Self {
            done_items: self.done_items.saturating_sub(part.done_items),
            total_items: both(self.total_items, part.total_items),
            done_bytes: self.done_bytes.saturating_sub(part.done_bytes),
            total_bytes: both(self.total_bytes, part.total_bytes),
        }
    }
}

/// Seconds left, as a range: what the recent rate and the rate since the start say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Eta {
    /// The sooner of the two.
    pub soonest_s: f64,
    /// The later of the two.
    pub latest_s: f64,
}

/// Measures a rate over a sliding window.
#[derive(Clone, Debug)]
pub struct Meter {
    window: Duration,
    samples: VecDeque<(Duration, u64)>,
    first: Option<(Duration, u64)>,
}

impl Meter {
    /// A meter that looks back over `window`.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, samples: VecDeque::new(), first: None }
    }

    /// Notes that `done` units are finished at monotonic time `now`. A step back (a repeated attempt) starts anew.
    pub fn note(&mut self, now: Duration, done: u64) {
        if self.samples.back().is_some_and(|(_, last)| done < *last) {
            self.samples.clear();
            self.first = None;
        }
        self.first.get_or_insert((now, done));
        self.samples.push_back((now, done));
        // 512 samples bound the memory however often somebody calls.
        while self.samples.len() > 512
            || self
                .samples
                .front()
                .is_some_and(|(at, _)| now.saturating_sub(*at) > self.window && self.samples.len() > 2)
        {
            self.samples.pop_front();
        }
    }

    /// Units per second over the window; `None` before there are two samples some time apart.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        Self::slope(*self.samples.front()?, *self.samples.back()?)
    }

    /// The time left for `left` further units.
    #[must_use]
    pub fn eta(&self, left: u64) -> Option<Eta> {
        let last = *self.samples.back()?;
        let recent = self.rate()?;
        let overall = Self::slope(self.first?, last)?;
        let (fast, slow) = if recent > overall { (recent, overall) } else { (overall, recent) };
        // Nothing moved for a whole window: there is no honest number.
        (slow > 0.0).then(|| Eta { soonest_s: left as f64 / fast, latest_s: left as f64 / slow })
    }

    fn slope(from: (Duration, u64), to: (Duration, u64)) -> Option<f64> {
        let seconds = to.0.saturating_sub(from.0).as_secs_f64();
        (seconds > 0.0).then(|| to.1.saturating_sub(from.1) as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_totals_stay_unknown_in_sums() {
        let known = Progress::items(1, Some(10));
        let sum = known.plus(&Progress::items(2, None));
        assert_eq!((sum.done_items, sum.total_items), (3, None));
        assert_eq!(sum.fraction(), None);
        assert_eq!(Progress::items(0, Some(0)).fraction(), Some(1.0));
        assert_eq!(Progress::bytes(50, Some(200)).fraction(), Some(0.25));
    }

    #[test]
    fn the_estimate_is_a_range_and_absent_when_nothing_moves() {
        let mut meter = Meter::new(Duration::from_secs(10));
        assert_eq!(meter.rate(), None);
        for second in 0..=10u64 {
            meter.note(Duration::from_secs(second), second * 100);
        }
        assert_eq!(meter.rate(), Some(100.0));
        assert_eq!(meter.eta(1000), Some(Eta { soonest_s: 10.0, latest_s: 10.0 }));
        for second in 11..=40u64 {
            meter.note(Duration::from_secs(second), 1000);
        }
        assert_eq!(meter.eta(1000), None);
    }

    #[test]
    fn a_repeated_attempt_does_not_make_the_rate_negative() {
        let mut meter = Meter::new(Duration::from_secs(10));
        meter.note(Duration::from_secs(0), 0);
        meter.note(Duration::from_secs(1), 500);
        meter.note(Duration::from_secs(2), 100);
        meter.note(Duration::from_secs(3), 200);
        assert_eq!(meter.rate(), Some(100.0));
    }
}
