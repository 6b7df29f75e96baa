//! The suite that every store passes: what the contract of this crate means, case by case.
//!
//! A store crate writes a [`Subject`] (how to get an empty store, how to let its time pass) and says
//! `store_conformance!(name, subject)` in its integration tests, which makes one test of each case. Each case
//! gets a store of its own that nobody else uses.
//!
//! The cases assume nothing about revisions but their order, and wait for what they expect; none of them
//! sleeps. Time is the subject's: [`ManualClock`] for stores that take a clock, real time for those that don't.

mod clock;
mod leases;
mod model;
mod reads;
mod transactions;
mod watches;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use windlass_clock::{SystemClock, deadline};

use crate::{Change, Committed, Entry, Revision, Store, Txn, Watch};

pub use clock::ManualClock;
pub use leases::*;
pub use model::*;
pub use reads::*;
pub use transactions::*;
pub use watches::*;

/// A store under test. It is empty at first and used by one case only.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// Lets `time` pass for the store's leases.
    async fn pass(&self, time: Duration);

    /// Makes the store forget the changes up to now, so that a watch from before is told so.
    async fn forget_history(&self);

    /// The shortest time to live that the store grants as asked.
    fn shortest_ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Whether leases end exactly at their time, so that random histories may contain that.
    fn has_exact_time(&self) -> bool {
        true
    }
}

/// A case that takes longer than this hangs.
const CASE_LIMIT: Duration = Duration::from_secs(120);

/// Runs one case, which fails when it hangs.
///
/// # Panics
///
/// When the case fails or takes longer than two minutes.
pub async fn run_case(name: &str, case: impl Future<Output = ()>) {
    let clock = SystemClock::real();
    assert!(deadline(&*clock, CASE_LIMIT, case).await.is_ok(), "{name} hangs: no end after {CASE_LIMIT:?}");
}

macro_rules! cases {
    ($d:tt $($case:ident,)*) => {
        /// Runs all cases one after another, each on a store of its own.
        ///
        /// # Panics
        ///
        /// When a case fails.
        pub async fn run_all<S: Subject>(new: impl AsyncFn() -> S) {
            $(
                let subject = new().await;
                run_case(stringify!($case), $case(&subject)).await;
            )*
        }

        /// Makes one test of each case of the suite, in a module `$name`. `$subject` is an expression for a
        /// new `conformance::Subject` and may await.
        #[macro_export]
        macro_rules! store_conformance {
            ($d name:ident, $d subject:expr) => {
                mod $d name {
                    #[allow(unused_imports)]
                    use super::*;
                    $(
                        #[tokio::test]
                        async fn $case() {
                            let subject = $d subject;
                            let case = $d crate::conformance::$case(&subject);
                            $d crate::conformance::run_case(stringify!($case), case).await;
                        }
                    )*
                }
            };
        }
    };
}

cases! { $
    a_transaction_applies_all_of_its_changes_at_one_revision,
    a_transaction_with_one_false_condition_changes_nothing,
    each_condition_holds_exactly_when_it_says,
    a_prefix_condition_ends_at_the_prefix,
    a_conflict_shows_the_compared_entries_in_order,
    created_survives_updates_and_starts_anew_after_a_delete,
    a_commit_that_changes_nothing_takes_no_revision,
    a_transaction_over_the_budget_changes_nothing,
    the_largest_transactions_are_accepted,
    empty_and_large_values_come_back_as_they_went_in,
    of_two_concurrent_writers_exactly_one_wins_each_round,
    concurrent_counters_lose_no_increment,
    a_scan_pages_through_its_prefix_in_byte_order,
    a_prefix_is_read_backwards_from_any_key,
    a_scan_sees_one_revision_while_writers_go_on,
    a_dropped_page_request_loses_no_entry,
    a_read_after_a_commit_sees_it,
    a_watch_delivers_every_change_of_its_prefix_once_in_order,
    a_watch_continues_after_the_revision_it_is_given,
    changes_of_one_revision_come_together,
    a_watch_waits_for_the_next_change,
    a_dropped_wait_loses_no_change,
    a_watch_behind_the_kept_history_is_told,
    a_list_and_a_watch_from_its_revision_leave_no_gap,
    a_key_vanishes_when_its_lease_runs_out,
    a_lease_that_is_kept_alive_keeps_its_keys,
    a_revoked_lease_takes_its_keys_as_one_change,
    a_lease_that_is_gone_cannot_be_kept_alive,
    a_put_replaces_the_lease_of_a_key,
    a_put_under_a_lease_that_is_gone_changes_nothing,
    a_waiting_watch_sees_a_lease_run_out,
    random_histories_agree_with_a_simple_model,
}

/// Commits and expects that the conditions hold.
#[track_caller]
fn applied(committed: Result<Committed, crate::StoreError>) -> Revision {
    match committed {
        Ok(Committed::At(revision)) => revision,
        other => panic!("the transaction should have been applied: {other:?}"),
    }
}

#[track_caller]
fn conflict(committed: Result<Committed, crate::StoreError>) -> Vec<Option<Entry>> {
    match committed {
        Ok(Committed::Conflict(present)) => present,
        other => panic!("the transaction should have met a conflict: {other:?}"),
    }
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    applied(store.commit(Txn::new().put(key, value.to_owned())).await)
}

async fn entry(store: &dyn Store, key: &str) -> Option<Entry> {
    store.get(key).await.expect("the store can be read")
}

async fn keys(store: &dyn Store, prefix: &str) -> Vec<String> {
    let all = crate::read_all(store, prefix).await.expect("the store can be read");
    all.into_iter().map(|entry| entry.key).collect()
}

/// The next `count` changes of a watch.
async fn take(watch: &mut dyn Watch, count: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.len() < count {
        let next = watch.next().await.expect("the watch goes on");
        assert!(!next.is_empty(), "a watch answers at least one change");
        changes.extend(next);
    }
    assert_eq!(changes.len(), count, "no more changes than were made: {changes:?}");
    changes
}

/// Polls a future once and drops it, as a caller does that loses patience. Answers what it gave, if it was ready.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}
