//! Where jobs live: a state folder, read or held, an etcd that many share, or behind a server.

mod cluster;
mod folder;
mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use windlass_clock::{SharedClock, SharedEntropy, SystemClock, SystemEntropy};
use windlass_engine::probe::SharedProbe;
use windlass_engine::{Engine, EngineConfig, Kinds};
use windlass_server::{Measured, Metrics};
use windlass_store::dump::RESTORING;
use windlass_store::memory::MemoryStore;
use windlass_store::{Store, StoreError};
use windlass_store_embedded::EmbeddedStore;
use windlass_store_etcd::EtcdStore;

pub(crate) use self::cluster::StateCluster;
pub(crate) use self::folder::StateFolder;
pub(crate) use self::server::{ServerOptions, StateServer};
use crate::problem::Problem;

/// What every command works with.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Time.
    pub(crate) clock: SharedClock,
    /// Randomness.
    pub(crate) entropy: SharedEntropy,
    /// The kinds there are.
    pub(crate) kinds: Kinds,
    /// Where tests stop the world.
    pub(crate) probe: SharedProbeDebug,
}

/// A probe that can be part of something with `Debug`.
#[derive(Clone)]
pub(crate) struct SharedProbeDebug(pub(crate) SharedProbe);

impl std::fmt::Debug for SharedProbeDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Probe")
    }
}

impl Setting {
    /// The real ones.
    pub(crate) fn real(kinds: Kinds, probe: SharedProbe) -> Self {
        Self { clock: SystemClock::real(), entropy: SystemEntropy::real(), kinds, probe: SharedProbeDebug(probe) }
    }

    /// The engine's configuration on `store`.
    pub(crate) fn engine_config(&self, store: Arc<dyn Store>, work_dir: PathBuf, part: Part) -> EngineConfig {
        let config = EngineConfig::new(store, self.clock.clone(), self.entropy.clone(), self.kinds.clone(), work_dir);
        EngineConfig {
            places: part.places.unwrap_or(config.places),
            probe: self.probe.0.clone(),
            take_up: part.take_up,
            worker_name: part.name.unwrap_or_else(|| config.worker_name.clone()),
            labels: part.labels,
            lease_ttl: part.lease.unwrap_or(config.lease_ttl),
            ..config
        }
    }

    /// The configuration of engines that make previews under `folder`.
    pub(crate) fn preview_config(&self, folder: PathBuf, places: Option<usize>) -> EngineConfig {
        let unused = Arc::new(MemoryStore::new(self.clock.clone()));
        self.engine_config(unused, folder, Part::worker(places))
    }

    /// An id for one request, so that asking twice has the effect of once.
    pub(crate) fn request_id(&self) -> String {
        format!("{:032x}", self.entropy.next_u128())
    }
}

/// The part that this process takes in running jobs.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Tasks that run at a time; `None`: the usual number.
    pub(crate) places: Option<usize>,
    /// Whether it takes up jobs that need a worker.
    pub(crate) take_up: bool,
    /// What the worker is called.
    pub(crate) name: Option<String>,
    /// What the worker can do that not every worker can.
    pub(crate) labels: BTreeMap<String, String>,
    /// How long others wait for it when it is silent; `None`: the usual time.
    pub(crate) lease: Option<Duration>,
}

impl Part {
    /// A worker with the usual settings.
    pub(crate) fn worker(places: Option<usize>) -> Self {
        Self { places, take_up: true, name: None, labels: BTreeMap::new(), lease: None }
    }

    /// Submits and commands, runs nothing.
    pub(crate) fn client() -> Self {
        Self { take_up: false, ..Self::worker(None) }
    }
}

/// Where jobs live. Nothing is made, opened or asked before it is needed.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// A folder of this machine.
    Folder(StateFolder),
    /// An etcd.
    Cluster(StateCluster),
    /// Whatever a server works on.
    Server(StateServer),
}

impl State {
    /// What `--server` or `--state` names, or the default folder.
    pub(crate) fn find(given: Option<&str>, server: &ServerOptions) -> anyhow::Result<Self> {
        if let Some(named) = &server.server {
            return Ok(Self::Server(StateServer::new(named, server)));
        }
        match given {
            Some(text) if StateCluster::is_meant(text) => StateCluster::parse(text).map(Self::Cluster),
            Some(text) if text.contains("://") => {
                Err(Problem::usage(format!("--state {text}: a folder or etcd://HOST:PORT is expected")).into())
            }
            given => StateFolder::find(given).map(Self::Folder),
        }
    }

    /// The folder, for what only works on one.
    pub(crate) fn folder(&self) -> Option<&StateFolder> {
        match self {
            Self::Folder(folder) => Some(folder),
            Self::Cluster(_) | Self::Server(_) => None,
        }
    }

    /// What a command says that needs the state itself.
    pub(crate) fn needs_store(&self) -> anyhow::Error {
        Problem::usage(format!("this command works on the state itself, and {self} lets nobody do that"))
            .hint("leave --server and WINDLASS_SERVER out; --state names a folder or an etcd")
            .into()
    }

    /// Opens it for reading, also while others work on it; `None` when nothing was ever stored in it.
    pub(crate) async fn read(&self, clock: &SharedClock) -> anyhow::Result<Option<Arc<dyn Store>>> {
        match self {
            Self::Folder(folder) => folder.read(),
            Self::Cluster(cluster) => Ok(Some(cluster.connect(clock).await?)),
            Self::Server(_) => Err(self.needs_store()),
        }
    }

    /// Opens an engine on it. A folder is held from then on.
    ///
    /// # Errors
    ///
    /// Among others [`StoreError::Held`], when another process holds the folder.
    pub(crate) async fn open(&self, setting: &Setting, part: Part) -> anyhow::Result<Held> {
        let (store, work_dir) = self.hold(setting).await?;
        Self::begin(setting, store.clone(), store.shared(), work_dir, part).await
    }

    /// As [`State::open`], and what the engine does to the store is counted in `metrics`.
    pub(crate) async fn open_measured(
        &self,
        setting: &Setting,
        part: Part,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Held> {
        let (store, work_dir) = self.hold(setting).await?;
        let measured = Arc::new(Measured::new(store.shared(), metrics.clone(), setting.clock.clone()));
        Self::begin(setting, store, measured, work_dir, part).await
    }

    async fn begin(
        setting: &Setting,
        store: HeldStore,
        shared: Arc<dyn Store>,
        work_dir: PathBuf,
        part: Part,
    ) -> anyhow::Result<Held> {
        if shared.get(RESTORING).await?.is_some() {
            return Err(Problem::failed("a restore of this state broke off, so it is not whole")
                .hint("empty it (remove the folder, or delete the keys under the prefix) and restore again")
                .into());
        }
        let engine = Engine::open(setting.engine_config(shared, work_dir, part)).await.context("open the engine")?;
        Ok(Held { store, engine: Arc::new(engine) })
    }

    /// Opens it for writing without an engine.
    ///
    /// # Errors
    ///
    /// As [`State::open`].
    pub(crate) async fn hold_alone(&self, setting: &Setting) -> anyhow::Result<HeldStore> {
        Ok(self.hold(setting).await?.0)
    }

    async fn hold(&self, setting: &Setting) -> anyhow::Result<(HeldStore, PathBuf)> {
        Ok(match self {
            Self::Folder(folder) => (HeldStore::Folder(folder.hold(setting.clock.clone())?), folder.work_dir()),
            Self::Cluster(cluster) => (HeldStore::Cluster(cluster.connect(&setting.clock).await?), cluster.work_dir()?),
            Self::Server(_) => return Err(self.needs_store()),
        })
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => folder.dir().display().fmt(f),
            Self::Cluster(cluster) => cluster.fmt(f),
            Self::Server(server) => server.fmt(f),
        }
    }
}

/// A store that this process works on.
#[derive(Clone)]
pub(crate) enum HeldStore {
    /// The embedded one, which nobody else can hold meanwhile.
    Folder(Arc<EmbeddedStore>),
    /// One that is shared with others.
    Cluster(Arc<EtcdStore>),
}

impl HeldStore {
    /// The store, whichever it is.
    pub(crate) fn shared(&self) -> Arc<dyn Store> {
        match self {
            Self::Folder(store) => store.clone(),
            Self::Cluster(store) => store.clone(),
        }
    }

    /// Finishes queued commits.
    pub(crate) async fn close(self) {
        if let Self::Folder(store) = self
            && let Some(store) = Arc::into_inner(store)
        {
            store.close().await;
        }
    }

    /// Bytes that it takes, and the most that it may take, as far as the store tells.
    pub(crate) async fn size(&self) -> Option<(u64, Option<u64>)> {
        match self {
            Self::Folder(store) => Some((store.bytes(), None)),
            Self::Cluster(store) => {
                let status = store.status().await.ok()?;
                Some((status.healthy().map(|member| member.db_bytes).max()?, Some(status.quota_bytes)))
            }
        }
    }
}

/// A state with an engine on it.
pub(crate) struct Held {
    /// The store.
    pub(crate) store: HeldStore,
    /// The engine.
    pub(crate) engine: Arc<Engine>,
}

impl Held {
    /// Tells others how to reach this process, as far as they need that to give orders.
    pub(crate) fn set_address(&self, address: String) -> Result<(), StoreError> {
        match &self.store {
            HeldStore::Folder(store) => store.set_address(Some(address)),
            // Orders go through the store itself.
            HeldStore::Cluster(_) => Ok(()),
        }
    }

    /// Lets running tasks reach a safe point and gives everything back.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        let Self { store, engine } = self;
        // Whoever else uses the engine has ended by now; if not, dropping it stops it as a crash would.
        if let Some(engine) = Arc::into_inner(engine) {
            engine.shutdown().await.context("shut the engine down")?;
        }
        // The engine's tasks have ended, so this is the last hold.
        store.close().await;
        Ok(())
    }
}
