//! The contract that every state store of Windlass keeps, its key layout, and the suite that checks both.
//!
//! A state store is a small ordered map with transactions: the part of etcd that the engine needs, no more.
//! The embedded store (SQLite) and the etcd store behave alike, and [`conformance`] is what "alike" means.
//!
//! # The contract
//!
//! * Keys are UTF-8 text, ordered bytewise. Values are bytes.
//! * Every commit that changes something gets the next [`Revision`]. An entry carries the revision that last
//!   changed it (`version`) and the one that created it (`created`).
//! * [`Store::commit`] applies all of a transaction or nothing. It MUST NOT answer before the change is durable.
//!   When a [`Compare`] does not hold, nothing changes and the answer carries the entries as they are now.
//! * A [`StoreError::Unknown`] answer to a commit means that it may have been applied or not; the caller finds
//!   out by reading. No other error leaves that open.
//! * [`Store::scan`] sees one revision from its first page to its last.
//! * [`Store::watch`] delivers every change after a revision, in order, without gaps; when the store no longer
//!   has them it MUST say [`StoreError::Compacted`], upon which the watcher lists afresh.
//! * A key bound to a lease vanishes when the lease expires or is revoked, as one change.
//! * The store enforces the budget of [`budget`] before it does anything: equal limits for all back ends, so
//!   that what works embedded works on etcd.

pub mod budget;
pub mod changes;
pub mod conformance;
pub mod dump;
pub mod keys;
pub mod leases;
pub mod memory;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// Orders all changes of one store. Starts at 1 with the first commit; 0 means "before everything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// One key with its value and its place in history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value, at most [`budget::VALUE_BYTES`] long.
    pub value: Bytes,
    /// The revision of the last change.
    pub version: Revision,
    /// The revision that created the key (anew, if it had been deleted before).
    pub created: Revision,
    /// The lease that the key vanishes with.
    pub lease: Option<LeaseId>,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists and was last changed by this revision.
    Version(String, Revision),
    /// The key exists and was created by this revision; later changes do not matter.
    Created(String, Revision),
    /// No key begins with this prefix.
    NoneUnder(String),
}

impl Compare {
    /// The key or prefix that the condition is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Version(key, _) | Self::Created(key, _) | Self::NoneUnder(key) => key,
        }
    }
}

/// A change of a transaction. A key appears at most once in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key. A put replaces the lease binding too.
    Put {
        /// The key.
        key: String,
        /// The new value.
        value: Bytes,
        /// The lease that the key shall vanish with.
        lease: Option<LeaseId>,
    },
    /// Deletes a key; not an error when it does not exist.
    Delete(String),
}

impl Op {
    /// The key that the change is about.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// A transaction: conditions, and the changes to make when all of them hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// The changes.
    pub ops: Vec<Op>,
}

impl Txn {
    /// An empty transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Demands that `compare` holds.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Sets `key`.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Sets `key`, bound to `lease`.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    /// Deletes `key`.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete(key.into()));
        self
    }

    /// Bytes of all keys and values, as the budget counts them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let ops: usize = self
            .ops
            .iter()
            .map(|op| match op {
                Op::Put { key, value, .. } => key.len() + value.len(),
                Op::Delete(key) => key.len(),
            })
            .sum();
        ops + self.compares.iter().map(|compare| compare.key().len()).sum::<usize>()
    }
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Applied and durable. All its changes carry this revision.
    At(Revision),
    /// A condition did not hold; nothing changed. Holds the entry under each compared key as it is now
    /// (`None`: absent), in the order of the conditions; for [`Compare::NoneUnder`] one entry under the prefix.
    Conflict(Vec<Option<Entry>>),
}

/// A page of a [`Scan`].
pub type Page = Vec<Entry>;

/// Reads all keys under a prefix at one revision, in key order.
#[async_trait]
pub trait Scan: Send {
    /// The revision that the scan sees.
    fn revision(&self) -> Revision;

    /// At most `limit` further entries; empty at the end. Cancel safe: a dropped call loses no entry.
    async fn next_page(&mut self, limit: usize) -> Result<Page, StoreError>;
}

/// One change, as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision that made the change.
    pub revision: Revision,
    /// The key.
    pub key: String,
    /// The entry after the change; `None` when it was deleted.
    pub entry: Option<Entry>,
}

/// Follows the changes under a prefix.
#[async_trait]
pub trait Watch: Send {
    /// The next changes, at least one, in order; waits for them. Changes of one revision come together.
    /// Cancel safe.
    async fn next(&mut self) -> Result<Vec<Change>, StoreError>;
}

/// A state store.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Applies `txn` if its conditions hold. Durable before it answers.
    ///
    /// Not cancel safe in the sense of undo: a dropped call may or may not have been applied.
    ///
    /// # Errors
    ///
    /// [`StoreError::Budget`] before anything is tried; [`StoreError::Unknown`] when the outcome is open.
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError>;

    /// The entry under `key`.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Begins to read everything under `prefix` at the present revision.
    async fn scan(&self, prefix: &str) -> Result<Box<dyn Scan>, StoreError>;

    /// The last keys under `prefix` before the key `before`, or the last of all, in descending order: at most `limit`,
    /// and at least one where there is one. What lies before the last of them is asked for next.
    async fn last_before(&self, prefix: &str, before: Option<&str>, limit: usize) -> Result<Page, StoreError> {
        // A store that can read backwards does better than this.
        let mut scan = self.scan(prefix).await?;
        let mut last = std::collections::VecDeque::new();
        loop {
            let page = scan.next_page(budget::PAGE_ENTRIES).await?;
            let ended = page.is_empty();
            for entry in page {
                if before.is_some_and(|before| entry.key.as_str() >= before) {
                    return Ok(last.into_iter().rev().collect());
                }
                if last.len() >= limit.max(1) {
                    last.pop_front();
                }
                last.push_back(entry);
            }
            if ended {
                return Ok(last.into_iter().rev().collect());
            }
        }
    }

    /// Follows changes under `prefix` that come after revision `after`.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError>;

    /// The revision of the last commit.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Grants a lease for `ttl`. The store may grant longer, never shorter.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Starts the lease's time to live anew. [`StoreError::LeaseGone`] when it has expired.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease and deletes its keys. No error when it is gone already.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;
}

/// Reads all entries under `prefix` into memory. For prefixes whose size is bounded by design.
///
/// # Errors
///
/// Whatever the store answers.
pub async fn read_all(store: &dyn Store, prefix: &str) -> Result<Vec<Entry>, StoreError> {
    let mut scan = store.scan(prefix).await?;
    let mut all = Vec::new();
    loop {
        let page = scan.next_page(budget::PAGE_ENTRIES).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The transaction exceeds the budget of [`budget`]: a mistake of the caller, nothing was tried.
    #[error("the transaction exceeds the store's budget: {0}")]
    Budget(String),
    /// The store cannot be reached or refuses work at the moment; nothing was changed; try again.
    #[error("the state store is unavailable: {0}")]
    Unavailable(String),
    /// The commit may have been applied or not; read before trying again.
    #[error("the state store did not confirm the commit: {0}")]
    Unknown(String),
    /// The lease has expired or was revoked.
    #[error("the lease is gone")]
    LeaseGone,
    /// The changes asked for are no longer kept; list afresh and watch from there.
    #[error("changes after revision {asked} are no longer kept (oldest kept: {oldest})")]
    Compacted {
        /// The revision the watcher asked to continue after.
        asked: Revision,
        /// The oldest revision that can still be continued after.
        oldest: Revision,
    },
    /// Another process holds the store.
    #[error("{0}")]
    Held(String),
    /// The stored data cannot be used: damage, or a schema newer than this program.
    #[error("the state store cannot be used: {0}")]
    Unusable(String),
    /// The store was closed.
    #[error("the state store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call may succeed later without anybody doing anything, and surely changed nothing.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}
