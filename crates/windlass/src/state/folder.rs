//! The state folder: an embedded store that one process holds at a time and others read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use windlass_clock::SharedClock;
use windlass_store::{Committed, Entry, LeaseId, Revision, Scan, Store, StoreError, Txn, Watch};
use windlass_store_embedded::{EmbeddedStore, Holder, Options, ReadOnlyStore, holder};

use crate::problem::Problem;

/// The state folder. Nothing is made or opened before it is needed.
#[derive(Clone, Debug)]
pub(crate) struct StateFolder {
    dir: PathBuf,
}

impl StateFolder {
    /// The folder that `--state` names, or the default one.
    pub(super) fn find(given: Option<&str>) -> anyhow::Result<Self> {
        let dir = match given {
            Some("") => return Err(Problem::usage("--state is empty; name a folder or etcd://HOST:PORT").into()),
            Some(text) => PathBuf::from(text),
            None => default_dir()?,
        };
        let dir = std::path::absolute(&dir).with_context(|| Problem::usage(format!("find {}", dir.display())))?;
        Ok(Self { dir })
    }

    /// Its path.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where jobs keep their files.
    pub(crate) fn work_dir(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// The process that holds it now.
    pub(crate) fn holder(&self) -> anyhow::Result<Option<Holder>> {
        holder(&self.dir).with_context(|| format!("look who holds the state folder {}", self.dir.display()))
    }

    /// Opens it for reading, also while another process holds it; `None` when nothing was ever stored in it.
    pub(crate) fn read(&self) -> anyhow::Result<Option<Arc<dyn Store>>> {
        if !self.dir.join(windlass_store_embedded::DATABASE_FILE).exists() {
            return Ok(None);
        }
        let held = self.holder()?.is_some();
        let store = EmbeddedStore::read_only(&self.dir).context("open the state for reading")?;
        Ok(Some(if held { Arc::new(store) } else { Arc::new(Unattended(store)) }))
    }

    /// Takes hold of it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Held`] when another process does.
    pub(crate) fn hold(&self, clock: SharedClock) -> Result<Arc<EmbeddedStore>, StoreError> {
        EmbeddedStore::open(&self.dir, Options::new(clock)).map(Arc::new)
    }
}

pub(super) fn default_dir() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(base) = absolute("XDG_STATE_HOME") {
        return Ok(base.join("windlass"));
    }
    match absolute("HOME") {
        Some(home) => Ok(home.join(".local/state/windlass")),
        None => Err(Problem::usage("neither XDG_STATE_HOME nor HOME says where the state is")
            .hint("name a folder with --state or WINDLASS_STATE")
            .into()),
    }
}

/// A state folder that nobody holds, for reading. What was bound to leases of its last holder died with it, though
/// it is still in the file until somebody takes hold of the folder.
#[derive(Debug)]
struct Unattended(ReadOnlyStore);

struct WithoutLeased(Box<dyn Scan>);

#[async_trait]
impl Scan for WithoutLeased {
    fn revision(&self) -> Revision {
        self.0.revision()
    }

    async fn next_page(&mut self, limit: usize) -> Result<Vec<Entry>, StoreError> {
        loop {
            let page = self.0.next_page(limit).await?;
            let last = page.is_empty();
            let kept: Vec<Entry> = page.into_iter().filter(|entry| entry.lease.is_none()).collect();
            // An empty page means the end, so a page of nothing but dead claims is skipped.
            if last || !kept.is_empty() {
                return Ok(kept);
            }
        }
    }
}

#[async_trait]
impl Store for Unattended {
    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.0.commit(txn).await
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.0.get(key).await?.filter(|entry| entry.lease.is_none()))
    }

    async fn scan(&self, prefix: &str) -> Result<Box<dyn Scan>, StoreError> {
        Ok(Box::new(WithoutLeased(self.0.scan(prefix).await?)))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn Watch>, StoreError> {
        self.0.watch(prefix, after).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.0.revision().await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.0.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.0.revoke(lease).await
    }
}
