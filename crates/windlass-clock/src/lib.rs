//! The one place where Windlass takes time and randomness from.
//!
//! Everything else receives a [`Clock`] and an [`Entropy`] and is therefore replayable: a simulated run
//! hands in a clock that it moves and a generator that it seeds. The workspace's `clippy.toml` bans the
//! usual sources everywhere but here.
//!
//! Three kinds of time, never mixed:
//!
//! * [`Clock::wall`] is for people and for durable deadlines. It may jump.
//! * [`Clock::monotonic`] is for leases, rates and timeouts within one process. It never goes back.
//! * A store revision orders changes. It is the only order that correctness may rest on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

/// A boxed future, the return type of [`Clock::sleep`].
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where time comes from.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The wall-clock time, UTC. For people and durable deadlines only; may jump in either direction.
    fn wall(&self) -> Timestamp;

    /// Time since an arbitrary fixed moment of this process. Never goes back.
    fn monotonic(&self) -> Duration;

    /// Waits for `duration` of monotonic time. Cancel safe: dropping the future forgets the wait.
    fn sleep(&self, duration: Duration) -> Sleep;
}

/// A shared clock, the form in which everything holds one.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's own clock, on tokio's timers.
///
/// On a tokio runtime whose time is paused it follows the paused time, which is how simulated runs use it:
/// [`SystemClock::starting_at`] pins the wall time and [`SystemClock::jump_wall`] makes it jump.
#[derive(Debug)]
pub struct SystemClock {
    started: tokio::time::Instant,
    /// `Some` pins the wall clock to `start + monotonic + jumped`; `None` asks the operating system.
    pinned: Option<Timestamp>,
    jumped_ms: AtomicI64,
}

impl SystemClock {
    /// The clock of a real process.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn real() -> SharedClock {
        Arc::new(Self { started: tokio::time::Instant::now(), pinned: None, jumped_ms: AtomicI64::new(0) })
    }

    /// A clock whose wall time starts at `start` and advances with tokio's (possibly paused) time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn starting_at(start: Timestamp) -> Arc<Self> {
        Arc::new(Self { started: tokio::time::Instant::now(), pinned: Some(start), jumped_ms: AtomicI64::new(0) })
    }

    /// Moves the pinned wall clock by `milliseconds` without touching monotonic time, as an operator or NTP does.
    pub fn jump_wall(&self, milliseconds: i64) {
        self.jumped_ms.fetch_add(milliseconds, Ordering::SeqCst);
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    fn wall(&self) -> Timestamp {
        match self.pinned {
            None => Timestamp::now(),
            Some(start) => {
                let passed = i64::try_from(self.monotonic().as_nanos()).unwrap_or(i64::MAX);
                let jumped = self.jumped_ms.load(Ordering::SeqCst).saturating_mul(1_000_000);
                let nanos = start.as_nanosecond() + i128::from(passed) + i128::from(jumped);
                Timestamp::from_nanosecond(nanos).unwrap_or(start)
            }
        }
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    fn sleep(&self, duration: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A wait did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlinePassed;

impl fmt::Display for DeadlinePassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline passed")
    }
}

impl std::error::Error for DeadlinePassed {}

/// Runs `work` for at most `limit`.
///
/// # Errors
///
/// [`DeadlinePassed`] when the time is over first; `work` is then dropped where it stood.
pub async fn deadline<F: Future>(clock: &dyn Clock, limit: Duration, work: F) -> Result<F::Output, DeadlinePassed> {
    let mut work = std::pin::pin!(work);
    let mut over = clock.sleep(limit);
    std::future::poll_fn(|cx| {
        if let std::task::Poll::Ready(value) = work.as_mut().poll(cx) {
            return std::task::Poll::Ready(Ok(value));
        }
        over.as_mut().poll(cx).map(|()| Err(DeadlinePassed))
    })
    .await
}

/// Where randomness comes from: ids, jitter. Never secrets.
pub trait Entropy: Send + Sync + fmt::Debug + 'static {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;

    /// The next 128 random bits.
    fn next_u128(&self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }

    /// A number in `[0, 1)`.
    fn fraction(&self) -> f64 {
        // 53 bits: every value is exact in an f64.
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A shared source of randomness, the form in which everything holds one.
pub type SharedEntropy = Arc<dyn Entropy>;

/// The operating system's randomness.
#[derive(Debug)]
pub struct SystemEntropy(Seeded);

impl SystemEntropy {
    /// A generator seeded once from the operating system.
    ///
    /// # Panics
    ///
    /// If the operating system has no randomness to give, which leaves nothing sensible to do.
    #[must_use]
    pub fn real() -> SharedEntropy {
        let mut seed = [0u8; 8];
        getrandom::fill(&mut seed).expect("the operating system gives random bytes");
        Arc::new(Self(Seeded::new(u64::from_le_bytes(seed))))
    }
}

impl Entropy for SystemEntropy {
    fn next_u64(&self) -> u64 {
        self.0.next_u64()
    }
}

/// A reproducible generator (SplitMix64), for simulated runs and tests.
#[derive(Debug)]
pub struct Seeded(AtomicU64);

impl Seeded {
    /// The generator for `seed`. Equal seeds give equal sequences.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The same, shared.
    #[must_use]
    pub fn shared(seed: u64) -> SharedEntropy {
        Arc::new(Self::new(seed))
    }
}

impl Entropy for Seeded {
    fn next_u64(&self) -> u64 {
        // SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014).
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_numbers() {
        let (a, b) = (Seeded::new(7), Seeded::new(7));
        assert!((0..100).all(|_| a.next_u64() == b.next_u64()));
        assert_ne!(Seeded::new(8).next_u64(), Seeded::new(7).next_u64());
        assert!((0..1000).all(|_| (0.0..1.0).contains(&a.fraction())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pinned_clock_follows_paused_time_and_jumps_only_on_the_wall() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let clock = SystemClock::starting_at(start);
        clock.sleep(Duration::from_secs(5)).await;
        assert_eq!(clock.wall().as_second(), start.as_second() + 5);
        clock.jump_wall(-60_000);
        assert_eq!(clock.wall().as_second(), start.as_second() - 55);
        assert_eq!(clock.monotonic().as_secs(), 5);
        assert_eq!(deadline(&*clock, Duration::from_secs(1), std::future::pending::<()>()).await, Err(DeadlinePassed));
        assert_eq!(deadline(&*clock, Duration::from_secs(1), async { 3 }).await, Ok(3));
    }
}
