//! The state store of Windlass on an etcd cluster: what lets many workers on many machines share jobs.
//!
//! # How to use it
//!
//! [`EtcdConfig::parse`] reads a URL, [`EtcdStore::connect`] connects. The store lives in the tokio runtime that
//! connected it and ends when it is dropped.
//!
//! # How it works
//!
//! ```text
//!  callers ──commit, get, scan, leases──▶ Connections ──one HTTP/2 connection──▶ the member in use ─┐
//!                                            │  another one when it fails                           ├ etcd
//!  watchers ◀──Feed (bounded)── one task ◀───┴───────one watch stream for all─────────── same ──────┘
//! ```
//!
//! # Consistency
//!
//! Reads are linearizable. A revision of the contract is a revision of etcd, which other users of the same etcd
//! move too. A commit whose outcome is not known is answered with [`StoreError::Unknown`]; only what etcd refuses
//! before it proposes a transaction to its members is answered otherwise. A commit that did not reach any member
//! is tried on the others; one that may have reached one is not.
//!
//! # Watches
//!
//! A watch goes on over broken connections, other leaders, restarted members and expired logins. It ends with
//! [`StoreError::Compacted`] when etcd no longer has what comes next. A watcher that does not take its changes
//! holds up nobody: its watch pauses when 16 MiB or some thousand changes wait for it.
//!
//! # Leases
//!
//! Leases are etcd's, with whole seconds, rounded up; etcd grants no less than a little more than its election
//! timeout (2 s with its defaults). A keep-alive counts from when etcd answers, so that whoever reckons from the
//! moment of sending is on the safe side.

mod commit;
mod config;
mod connections;
mod fault;
mod feed;
mod follower;
mod keyspace;
mod maintain;
mod method;
mod scan;
mod token;
mod watches;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use windlass_clock::SharedClock;
use windlass_store::{Committed, Entry, LeaseId, Op, Page, Revision, Scan, Store, StoreError, Txn, Watch, budget};

pub use crate::config::{DEFAULT_PREFIX, EtcdConfig, Identity, InvalidConfig, KeepHistory, Login, Password, Tls};
pub use crate::maintain::{EtcdStatus, MemberHealth, MemberStatus, QUOTA_ALARM_PERCENT};

use crate::connections::Connections;
use crate::fault::{Fault, Kind};
use crate::keyspace::{Keyspace, revision};
use crate::scan::Pages;
use crate::watches::Watches;
use crate::wire::{
    Answer, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, RangeRequest, RangeResponse, TxnResponse,
};

/// The oldest etcd that knows what is asked of it: names and fragments of watches came with it.
const OLDEST: (u64, u64) = (3, 4);

/// A state store on an etcd cluster.
pub struct EtcdStore {
    connections: Arc<Connections>,
    space: Keyspace,
    watches: Watches,
    /// Ends old history; ends with the store.
    keeper: Option<JoinHandle<()>>,
    address: String,
    quota_bytes: u64,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("address", &self.address).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Connects to the first member that answers, and makes sure that this etcd can be used.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] when no member can be reached or the login is refused; [`StoreError::Unusable`]
    /// when the configuration is wrong, a file of it cannot be read, or etcd is older than 3.4.
    pub async fn connect(config: EtcdConfig, clock: SharedClock) -> Result<Self, StoreError> {
        config.check().map_err(|error| StoreError::Unusable(error.to_string()))?;
        let connections = Arc::new(Connections::new(&config, clock).await?);
        let space = Keyspace::new(&config.prefix);
        let keeper = config
            .keep
            .map(|keep| tokio::spawn(maintain::keep_history(Arc::clone(&connections), keep, config.quota_bytes)));
        let store = Self {
            watches: Watches::start(Arc::clone(&connections), space.clone()),
            connections,
            space,
            keeper,
            address: config.to_string(),
            quota_bytes: config.quota_bytes,
        };
        store.revision().await.map_err(|error| store.at_start(error))?;
        let status = store.status().await?;
        if let Some(old) = status.healthy().find(|health| !is_new_enough(&health.version)) {
            let (major, minor) = OLDEST;
            return Err(StoreError::Unusable(format!(
                "etcd at {} has version {}; {major}.{minor} or newer is needed",
                store.address, old.version
            )));
        }
        Ok(store)
    }

    fn at_start(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Unavailable(why) => StoreError::Unavailable(format!(
                "cannot use {}: {why}; is etcd running there, and is the network open?",
                self.address
            )),
            other => other,
        }
    }

    /// What the members say about themselves.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`] when none of them says anything.
    pub async fn status(&self) -> Result<EtcdStatus, StoreError> {
        maintain::status(&self.connections, self.quota_bytes).await
    }

    /// Drops the history before `revision` for all users of this etcd: watchers from before it have to list afresh.
    /// A store with [`EtcdConfig::keep`] does so by itself.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`].
    pub async fn compact_before(&self, revision: Revision) -> Result<(), StoreError> {
        maintain::compact(&self.connections, i64::try_from(revision.0).unwrap_or(i64::MAX)).await
    }

    /// Gives the space of compacted history back to the file system, on one endpoint after another. A member stands
    /// still while it does so.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`]; members before the one that failed are done.
    pub async fn defragment(&self) -> Result<(), StoreError> {
        maintain::defragment(&self.connections).await
    }

    /// Takes back the alarm that etcd raises when its quota is reached; until then it refuses data. There has to be
    /// space again first ([`EtcdStore::defragment`]), or the alarm comes back.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`].
    pub async fn disarm(&self) -> Result<(), StoreError> {
        maintain::disarm(&self.connections).await
    }

    /// After etcd said that it is full: whether the transaction that put `key` was surely not applied, when the
    /// newest revision before it was at least `before`.
    ///
    /// etcd applies the transaction that reaches the quota and refuses it nevertheless.
    async fn was_not_applied(&self, key: &str, before: i64) -> bool {
        let request = RangeRequest { key: self.space.stored(key), keys_only: true, ..RangeRequest::default() };
        let Ok(answer) = self.connections.ask::<_, RangeResponse>(method::RANGE, &request).await else { return false };
        let is_older = answer.kvs.first().is_some_and(|kv| kv.mod_revision <= before);
        answer.revision() <= before || is_older
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        budget::check(&txn)?;
        let before = self.connections.seen();
        let first_put = txn.ops.iter().find(|op| matches!(op, Op::Put { .. })).map(|op| op.key().to_owned());
        let request = commit::request(&self.space, txn);
        match self.connections.ask::<_, TxnResponse>(method::TXN, &request).await {
            Ok(answer) => commit::answer(&self.space, answer),
            Err(fault) if fault.kind == Kind::NoSpace => match first_put {
                Some(key) if self.was_not_applied(&key, before).await => Err(fault.into_error()),
                _ => Err(fault.into_commit_error()),
            },
            Err(fault) => Err(fault.into_commit_error()),
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let request = RangeRequest { key: self.space.stored(key), ..RangeRequest::default() };
        let answer: RangeResponse = self.connections.ask(method::RANGE, &request).await.map_err(Fault::into_error)?;
        answer.kvs.into_iter().next().map(|kv| self.space.entry(kv)).transpose()
    }

    async fn scan(&self, prefix: &str) -> Result<Box<dyn Scan>, StoreError> {
        Ok(Box::new(Pages::begin(Arc::clone(&self.connections), self.space.clone(), prefix).await?))
    }

    async fn last_before(&self, prefix: &str, before: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        scan::last_before(&self.connections, &self.space, prefix, before, limit).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        Ok(Box::new(self.watches.follow(prefix, after).await?))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        // Any key: the revision is in the header of the answer.
        let (key, range_end) = self.space.range("");
        let request = RangeRequest { key, range_end, limit: 1, keys_only: true, ..RangeRequest::default() };
        let answer: RangeResponse = self.connections.ask(method::RANGE, &request).await.map_err(Fault::into_error)?;
        Ok(revision(answer.revision()))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = LeaseGrantRequest { ttl: i64::try_from(seconds.max(1)).unwrap_or(i64::MAX), id: 0 };
        let answer: LeaseGrantResponse =
            self.connections.ask(method::GRANT, &request).await.map_err(Fault::into_error)?;
        u64::try_from(answer.id)
            .map(LeaseId)
            .map_err(|_| StoreError::Unavailable(format!("etcd granted a lease with the number {}", answer.id)))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let Ok(id) = i64::try_from(lease.0) else { return Err(StoreError::LeaseGone) };
        let answer: LeaseKeepAliveResponse =
            self.connections.ask(method::KEEP_ALIVE, &LeaseKeepAliveRequest { id }).await.map_err(Fault::into_error)?;
        if answer.ttl > 0 { Ok(()) } else { Err(StoreError::LeaseGone) }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let Ok(id) = i64::try_from(lease.0) else { return Ok(()) };
        let answer: Result<LeaseRevokeResponse, Fault> =
            self.connections.ask(method::REVOKE, &LeaseRevokeRequest { id }).await;
        match answer {
            Ok(_) => Ok(()),
            Err(fault) if fault.kind == Kind::LeaseGone => Ok(()),
            Err(fault) => Err(fault.into_error()),
        }
    }
}

fn is_new_enough(version: &str) -> bool {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u64>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= OLDEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for (version, new_enough) in
            [("3.4.23", true), ("3.10.0", true), ("4.0.0-rc.1", true), ("3.3.27", false), ("", false)]
        {
            assert_eq!(is_new_enough(version), new_enough, "{version}");
        }
    }
}
