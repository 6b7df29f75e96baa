//! An etcd as the state store: many processes work on it at once.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use windlass_clock::SharedClock;
use windlass_store_etcd::{EtcdConfig, EtcdStore};

use super::folder::default_dir;
use crate::problem::Problem;

/// How to reach an etcd.
#[derive(Clone, Debug)]
pub(crate) struct StateCluster {
    config: Box<EtcdConfig>,
    /// As it was given, without what follows a `?`.
    shown: String,
}

impl StateCluster {
    /// Whether `--state` names an etcd.
    pub(super) fn is_meant(text: &str) -> bool {
        text.starts_with("etcd://") || text.starts_with("etcds://")
    }

    /// Understands `etcd://host:port[,host:port…][/prefix]`.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let config = EtcdConfig::parse(text).context(Problem::usage("--state cannot be used"))?;
        let shown = text.split_once('?').map_or(text, |(before, _)| before).to_owned();
        Ok(Self { config: Box::new(config), shown })
    }

    /// Connects.
    pub(crate) async fn connect(&self, clock: &SharedClock) -> anyhow::Result<Arc<EtcdStore>> {
        let store = EtcdStore::connect((*self.config).clone(), clock.clone()).await;
        Ok(Arc::new(store.context(Problem::unreachable(format!("reach the state store {self}")))?))
    }

    /// Where jobs keep their files on this machine.
    pub(super) fn work_dir(&self) -> anyhow::Result<PathBuf> {
        Ok(default_dir()?.join("work"))
    }
}

impl fmt::Display for StateCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
