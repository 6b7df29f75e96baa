//! What an engine is made of.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use windlass_clock::{SharedClock, SharedEntropy};
use windlass_store::Store;

use crate::kind::Kinds;
use crate::probe::{NoProbe, SharedProbe};
use crate::retention::Retention;

/// What an engine is made of.
#[derive(Clone)]
pub struct EngineConfig {
    /// Where jobs live.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: SharedClock,
    /// Randomness.
    pub entropy: SharedEntropy,
    /// The kinds it runs.
    pub kinds: Kinds,
    /// The folder under which each job gets one for its files.
    pub work_dir: PathBuf,
    /// Tasks that run at a time in this process. At least 1.
    pub places: usize,
    /// Time to live of the worker's lease.
    pub lease_ttl: Duration,
    /// How long jobs that are over are kept.
    pub retention: Retention,
    /// Where tests stop the world.
    pub probe: SharedProbe,
    /// What people call this worker. Empty: its machine and process.
    pub worker_name: String,
    /// What tasks can ask of a worker: `site` = `b`.
    pub labels: BTreeMap<String, String>,
    /// Whether it takes up jobs and runs tasks. Else it submits and gives commands, which workers carry out.
    pub take_up: bool,
}

impl std::fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineConfig").field("store", &self.store).field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

impl EngineConfig {
    /// The usual settings: 16 places, a lease of 15 s.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: SharedClock,
        entropy: SharedEntropy,
        kinds: Kinds,
        work_dir: PathBuf,
    ) -> Self {
        Self {
            store,
            clock,
            entropy,
            kinds,
            work_dir,
            places: 16,
            lease_ttl: Duration::from_secs(15),
            retention: Retention::default(),
            probe: Arc::new(NoProbe),
            worker_name: String::new(),
            labels: BTreeMap::new(),
            take_up: true,
        }
    }
}
