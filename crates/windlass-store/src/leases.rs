//! Lease expiry for stores that keep leases in this process.
//!
//! Time is [`Clock::monotonic`](windlass_clock::Clock::monotonic), handed in by the caller. Which keys hang
//! on a lease is the store's own business.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::LeaseId;

/// The live leases of one store and when each of them ends.
#[derive(Clone, Debug, Default)]
pub struct LeaseTable {
    last: u64,
    leases: BTreeMap<LeaseId, Lease>,
    by_expiry: BTreeSet<(Duration, LeaseId)>,
}

/// One lease, as [`LeaseTable::restore`] takes it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    ttl: Duration,
    expires: Duration,
}

impl LeaseTable {
    /// An empty table whose first lease gets the id `first`.
    #[must_use]
    pub fn starting_at(first: u64) -> Self {
        Self { last: first.saturating_sub(1), ..Self::default() }
    }

    /// Grants a lease that ends `ttl` after `now` unless it is kept alive.
    pub fn grant(&mut self, ttl: Duration, now: Duration) -> LeaseId {
        self.last += 1;
        let id = LeaseId(self.last);
        self.restore(id, Lease { ttl, expires: now.saturating_add(ttl) });
        id
    }

    /// Starts the time to live anew. False when the lease has ended, or would have if anybody had looked.
    pub fn keep_alive(&mut self, id: LeaseId, now: Duration) -> bool {
        if !self.is_live(id, now) {
            return false;
        }
        let Some(lease) = self.end(id) else { return false };
        self.restore(id, Lease { expires: now.saturating_add(lease.ttl), ..lease });
        true
    }

    /// Whether the lease is granted and has not run out at `now`.
    #[must_use]
    pub fn is_live(&self, id: LeaseId, now: Duration) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.expires > now)
    }

    /// When the next lease ends.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Duration> {
        self.by_expiry.first().map(|(expires, _)| *expires)
    }

    /// Whether a lease has run out at `now` and waits to be taken.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        self.next_expiry().is_some_and(|expires| expires <= now)
    }

    /// Removes the leases that have run out at `now`, in the order in which they did.
    pub fn take_due(&mut self, now: Duration) -> Vec<(LeaseId, Lease)> {
        let mut due = Vec::new();
        while let Some((expires, id)) = self.by_expiry.first().copied()
            && expires <= now
        {
            due.extend(self.end(id).map(|lease| (id, lease)));
        }
        due
    }

    /// Removes a lease. `None` when there is no such lease.
    pub fn end(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        self.by_expiry.remove(&(lease.expires, id));
        Some(lease)
    }

    /// Puts back a lease whose end could not be recorded.
    pub fn restore(&mut self, id: LeaseId, lease: Lease) {
        self.leases.insert(id, lease);
        self.by_expiry.insert((lease.expires, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_ends_at_its_time_to_live_after_the_last_keep_alive() {
        let mut table = LeaseTable::starting_at(5);
        let id = table.grant(s(10), s(100));
        assert_eq!(id, LeaseId(5));
        assert!(table.is_live(id, s(109)) && !table.is_live(id, s(110)));
        assert!(table.keep_alive(id, s(105)));
        assert_eq!(table.next_expiry(), Some(s(115)));
        assert!(!table.is_due(s(114)) && table.is_due(s(115)));
        assert!(!table.keep_alive(id, s(115)), "too late, though nobody has taken it yet");
        assert_eq!(table.take_due(s(115)).len(), 1);
        assert_eq!(table.next_expiry(), None);
    }

    #[test]
    fn due_leases_come_in_the_order_of_their_end_and_can_be_put_back() {
        let mut table = LeaseTable::default();
        let late = table.grant(s(9), s(0));
        let early = table.grant(s(3), s(0));
        let never = table.grant(Duration::MAX, s(1));
        let due = table.take_due(s(60));
        assert_eq!(due.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [early, late]);
        for (id, lease) in due {
            table.restore(id, lease);
        }
        assert!(table.is_due(s(60)) && table.is_live(never, s(60)));
        assert!(table.end(never).is_some() && table.end(never).is_none());
    }
}
