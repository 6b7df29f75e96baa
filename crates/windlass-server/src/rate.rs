//! How often a client may ask: a bucket of tokens for each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Clients that are remembered; beyond that, those with a full bucket are forgotten first.
const REMEMBERED: usize = 10_000;

struct Bucket {
    left: f64,
    at: Duration,
}

/// Buckets that fill with time.
pub(crate) struct Rate {
    per_second: f64,
    burst: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl std::fmt::Debug for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rate").field("per_second", &self.per_second).field("burst", &self.burst).finish_non_exhaustive()
    }
}

impl Rate {
    pub(crate) fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second: per_second.max(0.001), burst: burst.max(1.0), buckets: Mutex::default() }
    }

    /// Takes one request of `client` at monotonic time `now`, or says after how long there is room for one.
    pub(crate) fn take(&self, client: &str, now: Duration) -> Result<(), Duration> {
        // A panic while it was held left the map whole: each use is one look-up and two assignments.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= REMEMBERED && !buckets.contains_key(client) {
            let (per_second, burst) = (self.per_second, self.burst);
            buckets.retain(|_, bucket| bucket.left + now.saturating_sub(bucket.at).as_secs_f64() * per_second < burst);
            if buckets.len() >= REMEMBERED {
                // Ten thousand clients ask too much at once: whoever is new waits.
                return Err(Duration::from_secs(1));
            }
        }
        if !buckets.contains_key(client) {
            buckets.insert(client.to_owned(), Bucket { left: self.burst, at: now });
        }
        let Some(bucket) = buckets.get_mut(client) else { return Ok(()) };
        let filled = now.saturating_sub(bucket.at).as_secs_f64() * self.per_second;
        bucket.left = (bucket.left + filled).min(self.burst);
        bucket.at = now;
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.left) / self.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_bucket_and_it_fills_with_time() {
        let rate = Rate::new(2.0, 3.0);
        let at = Duration::from_millis;
        for _ in 0..3 {
            assert_eq!(rate.take("a", at(0)), Ok(()));
        }
        assert_eq!(rate.take("a", at(0)), Err(at(500)));
        assert_eq!(rate.take("b", at(0)), Ok(()));
        assert_eq!(rate.take("a", at(500)), Ok(()));
        assert!(rate.take("a", at(500)).is_err());
        for n in 0..2 * REMEMBERED {
            let _ = rate.take(&n.to_string(), at(600_000));
        }
        assert!(rate.buckets.lock().unwrap().len() <= REMEMBERED);
    }
}
