//! The memory that all runs of a process share.
//!
//! Whoever is about to plan or merge sets aside what it may need, and waits while others have it. Those who wait are
//! served in the order in which they came, so a large one is not passed for ever by small ones, and one that wants more
//! than there is gets all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::figures::Figures;

/// What is shared when nothing else is said.
pub(crate) const DEFAULT: u64 = 1 << 30;
/// Bytes of one unit.
const UNIT: u64 = 1 << 20;

/// The memory that all runs of a process share.
#[derive(Clone, Debug)]
pub struct Memory {
    places: Arc<Semaphore>,
    units: u64,
    held: Arc<Held>,
    /// Of those who have come by the same way as this.
    account: Arc<Held>,
    figures: Arc<Figures>,
}

#[derive(Debug, Default)]
struct Held {
    now: AtomicU64,
    most: AtomicU64,
}

impl Held {
    /// Returns how much it is now.
    fn take(&self, bytes: u64) -> u64 {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most.fetch_max(now, Ordering::Relaxed);
        now
    }

    fn give_back(&self, bytes: u64) -> u64 {
        self.now.fetch_sub(bytes, Ordering::Relaxed).saturating_sub(bytes)
    }
}

/// Memory that is set aside until this is dropped.
#[derive(Debug)]
pub struct Share {
    bytes: u64,
    held: Arc<Held>,
    account: Arc<Held>,
    figures: Arc<Figures>,
    _places: OwnedSemaphorePermit,
}

impl Share {
    /// How much it is: less than was asked for when that was more than there is.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
        self.figures.memory(self.held.give_back(self.bytes));
    }
}

impl Memory {
    /// `bytes` to share, at least one MiB.
    #[must_use]
    pub fn new(bytes: u64, figures: Arc<Figures>) -> Self {
        let most = u64::try_from(Semaphore::MAX_PERMITS).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
        let units = (bytes / UNIT).clamp(1, most);
        let places = Arc::new(Semaphore::new(usize::try_from(units).unwrap_or(1)));
        Self { places, units, held: Arc::default(), account: Arc::default(), figures }
    }

    /// The same memory. What is set aside by way of it is counted by itself, too.
    #[must_use]
    pub fn with_account(&self) -> Self {
        Self { account: Arc::default(), ..self.clone() }
    }

    /// Sets memory aside, and waits until there is as much.
    pub async fn share(&self, bytes: u64) -> Share {
        let units = bytes.div_ceil(UNIT).clamp(1, self.units);
        let count = u32::try_from(units).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let places = loop {
            if let Ok(places) = self.places.clone().acquire_many_owned(count).await {
                break places;
            }
        };
        let bytes = units * UNIT;
        self.account.take(bytes);
        self.figures.memory(self.held.take(bytes));
        let (held, account) = (self.held.clone(), self.account.clone());
        Share { bytes, held, account, figures: self.figures.clone(), _places: places }
    }

    /// Whether anybody holds any by way of this.
    pub(crate) fn is_held(&self) -> bool {
        self.account.now.load(Ordering::Relaxed) > 0
    }

    /// The most that was ever set aside at a time by way of this.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.account.most.load(Ordering::Relaxed)
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.units * UNIT
    }

    /// The most that was ever set aside at a time.
    #[must_use]
    pub fn most_held(&self) -> u64 {
        self.held.most.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_many_hold_stays_within_the_limit_and_everybody_gets_a_turn() {
        let memory = Memory::new(10 << 20, Arc::default());
        let mut all = tokio::task::JoinSet::new();
        for n in 0..100_u64 {
            let memory = memory.clone();
            all.spawn(async move {
                // Some want more than there is.
                let share = memory.share((n % 13) << 20).await;
                tokio::task::yield_now().await;
                share.bytes()
            });
        }
        let mut largest = 0;
        while let Some(bytes) = all.join_next().await {
            largest = largest.max(bytes.unwrap());
        }
        assert_eq!(largest, 10 << 20);
        assert!(memory.most_held() <= memory.bytes(), "{}", memory.most_held());
        assert_eq!(memory.held.now.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_each_way_had_at_most_is_known() {
        let memory = Memory::new(10 << 20, Arc::default());
        let (one, other) = (memory.with_account(), memory.with_account());
        let first = one.share(3 << 20).await;
        let second = other.share(2 << 20).await;
        drop(one.share(4 << 20).await);
        drop(first);
        assert!(!one.is_held() && other.is_held());
        drop(second);
        assert_eq!((one.peak(), other.peak(), memory.most_held()), (7 << 20, 2 << 20, 9 << 20));
    }
}
