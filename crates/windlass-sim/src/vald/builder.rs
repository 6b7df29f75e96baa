//! Describes a cluster and starts it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use windlass_clock::{SharedClock, SystemClock};

use super::archive::ArchiveOptions;
use super::cluster::Cluster;
use super::ids::{self, DAY, Id, IdSource, IdStyle, Vector, mix};
use super::node::{Surroundings, Uploader};
use super::options::{AgentOptions, Release};
use super::state::AgentState;
use super::world::{Slot, World};

/// How often a common port is looked for before giving up.
const PORT_ATTEMPTS: usize = 32;

/// An id that is not as it should be, and the copies it has: agent and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oddity {
    /// The id.
    pub id: Id,
    /// Agents and times.
    pub copies: Vec<(usize, i64)>,
}

/// The deliberate irregularities of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Irregularities {
    /// Ids that lack a copy.
    pub missing: Vec<Oddity>,
    /// Ids with one copy too many.
    pub extra: Vec<Oddity>,
    /// Ids whose last copy is a second older than the others.
    pub stale: Vec<Oddity>,
    /// Ids in the backups that the agents no longer hold; the copies are those in the backups.
    pub deleted: Vec<Oddity>,
    /// Ids the agents hold that are not in the backups.
    pub added: Vec<Oddity>,
}

type Adjust = Box<dyn Fn(usize, &mut AgentOptions) + Send + Sync>;

/// Describes a cluster. Every number has a small default; [`ClusterBuilder::start`] begins to serve.
pub struct ClusterBuilder {
    agents: usize,
    replica: usize,
    dimension: usize,
    ids: u64,
    skew: f64,
    seed: u64,
    style: IdStyle,
    missing: u64,
    extra: u64,
    stale: u64,
    stale_vectors_differ: bool,
    deleted: u64,
    added: u64,
    name: String,
    clock: Option<SharedClock>,
    build_time: Duration,
    archive: ArchiveOptions,
    uploader: Option<Uploader>,
    upload_on_save: bool,
    one_port: bool,
    record_limit: usize,
    adjust: Vec<Adjust>,
}

impl std::fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterBuilder")
            .field("agents", &self.agents)
            .field("replica", &self.replica)
            .field("ids", &self.ids)
            .finish_non_exhaustive()
    }
}

impl Default for ClusterBuilder {
    fn default() -> Self {
        Self {
            agents: 3,
            replica: 2,
            dimension: 8,
            ids: 0,
            skew: 1.0,
            seed: 0,
            style: IdStyle::default(),
            missing: 0,
            extra: 0,
            stale: 0,
            stale_vectors_differ: false,
            deleted: 0,
            added: 0,
            name: "vald-agent".into(),
            clock: None,
            build_time: Duration::ZERO,
            archive: ArchiveOptions::default(),
            uploader: None,
            upload_on_save: true,
            one_port: false,
            record_limit: 100_000,
            adjust: Vec::new(),
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = $name;
            self
        })*
    };
}

impl ClusterBuilder {
    setters! {
        /// Number of agents; default 3.
        agents: usize,
        /// Copies of each id; default 2, at most the number of agents.
        replica: usize,
        /// Elements of a vector; default 8.
        dimension: usize,
        /// Distinct ids; default none.
        ids: u64,
        /// How unevenly agents are filled: agent `a` has weight `1 + skew·a`. Default 1; 0 is even.
        skew: f64,
        /// Other ids, the same for the same seed. With 0 they are those of the fixture clusters.
        seed: u64,
        /// What ids look like.
        style: IdStyle,
        /// Ids that lack one copy.
        missing: u64,
        /// Ids with one copy too many.
        extra: u64,
        /// Ids with one copy that is a second older.
        stale: u64,
        /// Whether such an older copy is another vector as well; by default it is the same one.
        stale_vectors_differ: bool,
        /// Ids that are in the backups and that clients have deleted since.
        deleted: u64,
        /// Ids that clients have added since the backups.
        added: u64,
        /// How long a build and a save take by the clock; default nothing.
        build_time: Duration,
        /// How backups are written.
        archive: ArchiveOptions,
        /// Whether every save is backed up before it is answered (default), or only when [`Cluster::upload`] is called.
        upload_on_save: bool,
        /// Gives all agents the same port on addresses of their own (127.0.0.1, 127.0.0.2, …), as pods have, so that what
        /// the discoverer says is enough to find them. Needs a system on which all of 127.0.0.0/8 is local, such as Linux.
        one_port: bool,
        /// How many changes are kept on record; default 100 000, older ones are forgotten.
        record_limit: usize,
    }

    /// Agents are called `<name>-0`, `<name>-1`, …; default `vald-agent`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Where the agents take the time from; by default the machine's clock.
    #[must_use]
    pub fn clock(mut self, clock: SharedClock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Where backups go. Without one a backup is only noted, which decides what an agent without a volume restarts from.
    #[must_use]
    pub fn uploader(mut self, uploader: Uploader) -> Self {
        self.uploader = Some(uploader);
        self
    }

    /// Changes how agents behave; called with the number of each agent, in the order given.
    #[must_use]
    pub fn agent_options(mut self, adjust: impl Fn(usize, &mut AgentOptions) + Send + Sync + 'static) -> Self {
        self.adjust.push(Box::new(adjust));
        self
    }

    /// All agents are of this release.
    #[must_use]
    pub fn release(self, release: Release) -> Self {
        self.agent_options(move |_, options| options.release = release)
    }

    /// Whether agents have a volume that survives a restart; default true.
    #[must_use]
    pub fn persistent(self, persistent: bool) -> Self {
        self.agent_options(move |_, options| options.persistent = persistent)
    }

    /// The cluster of the fixture `cluster3`: 3 agents, 300 ids in 2 copies, 5 irregularities of each kind.
    #[must_use]
    pub fn cluster3() -> Self {
        Self::default().ids(300).skew(1.5).missing(5).extra(5).stale(5).deleted(5).added(5)
    }

    /// Fills the agents, listens on loopback and serves. Backups hold what the agents hold, but for ids deleted or
    /// added since.
    ///
    /// # Errors
    ///
    /// More copies than agents, no agent at all, or no port to listen on.
    pub async fn start(self) -> io::Result<Cluster> {
        if self.agents == 0 || self.replica == 0 || self.replica > self.agents {
            let text = format!("{} copies on {} agents are not possible", self.replica, self.agents);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let clock = self.clock.clone().unwrap_or_else(SystemClock::real);
        let now = i64::try_from(clock.wall().as_nanosecond()).unwrap_or(i64::MAX);
        let (states, irregularities) = self.fill(now);
        let slots = states
            .into_iter()
            .enumerate()
            .map(|(agent, state)| Slot::new(format!("{}-{agent}", self.name), state))
            .collect();
        let around = Surroundings {
            world: Arc::new(Mutex::new(World::new(slots, self.replica, self.record_limit))),
            clock,
            build_time: self.build_time,
            archive: self.archive.clone(),
            uploader: self.uploader.clone(),
            upload_on_save: self.upload_on_save,
        };
        let listeners = self.listen().await?;
        let (gateway, discoverer) = (bind_any().await?, bind_any().await?);
        Cluster::serve(around, &self.name, irregularities, listeners, gateway, discoverer)
    }

    async fn listen(&self) -> io::Result<Vec<TcpListener>> {
        if !self.one_port {
            let mut listeners = Vec::new();
            for _ in 0..self.agents {
                listeners.push(bind_any().await?);
            }
            return Ok(listeners);
        }
        let mut last = io::Error::other("no port was tried");
        for _ in 0..PORT_ATTEMPTS {
            match self.listen_on_one_port().await {
                Ok(listeners) => return Ok(listeners),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn listen_on_one_port(&self) -> io::Result<Vec<TcpListener>> {
        let first = bind_any().await?;
        let port = first.local_addr()?.port();
        let mut listeners = vec![first];
        for agent in 1..self.agents {
            let number = u32::from(Ipv4Addr::LOCALHOST) + u32::try_from(agent).unwrap_or(u32::MAX >> 8);
            listeners.push(TcpListener::bind(SocketAddr::from((Ipv4Addr::from(number), port))).await?);
        }
        Ok(listeners)
    }

    /// Where ids come from.
    fn source(&self) -> IdSource {
        // Far apart, so that clusters of different seeds share no id.
        let base = if self.seed == 0 { 0 } else { mix(self.seed) >> 8 };
        IdSource { style: self.style, base }
    }

    fn fill(&self, now: i64) -> (Vec<AgentState>, Irregularities) {
        let source = self.source();
        let weights: Vec<f64> = (0..self.agents).map(|agent| 1.0 + self.skew * agent as f64).collect();
        let mut held: Vec<Vec<(Id, Vector, i64)>> = vec![Vec::new(); self.agents];
        let mut odd = Irregularities::default();
        let extra_end = self.missing + self.extra;
        let stale_end = extra_end + self.stale;
        let deleted_end = stale_end + self.deleted;
        for index in 0..self.ids {
            let (id, time) = (source.id(index), source.stamp(index));
            let order = ids::ranked(&id, &weights);
            let mut copies: Vec<(usize, i64)> = order[..self.replica].iter().map(|agent| (*agent, time)).collect();
            let mut older = None;
            let kind = if index < self.missing {
                copies.pop();
                Some(&mut odd.missing)
            } else if index < extra_end && self.replica < self.agents {
                copies.push((order[self.replica], time));
                Some(&mut odd.extra)
            } else if (extra_end..stale_end).contains(&index) && copies.len() > 1 {
                older = copies.last_mut().map(|last| {
                    last.1 = time - 1_000_000_000;
                    last.0
                });
                Some(&mut odd.stale)
            } else if (stale_end..deleted_end).contains(&index) {
                Some(&mut odd.deleted)
            } else {
                None
            };
            let vector = ids::vector(&id, self.dimension);
            for (agent, time) in &copies {
                let vector = match older {
                    Some(older) if older == *agent && self.stale_vectors_differ => {
                        ids::vector(&format!("{id}, older"), self.dimension)
                    }
                    _ => Arc::clone(&vector),
                };
                held[*agent].push((Arc::clone(&id), vector, *time));
            }
            if let Some(kind) = kind {
                kind.push(Oddity { id, copies });
            }
        }
        let mut states: Vec<AgentState> = held
            .into_iter()
            .enumerate()
            .map(|(agent, entries)| {
                let mut options = AgentOptions::new(self.dimension);
                for adjust in &self.adjust {
                    adjust(agent, &mut options);
                }
                let mut state = AgentState::new(options);
                state.fill(entries);
                let saved = Arc::clone(state.saved());
                state.back_up(saved);
                state
            })
            .collect();
        for index in self.ids..self.ids + self.added {
            let (id, time) = (source.id(index), source.stamp(index) + DAY);
            let vector = ids::vector(&id, self.dimension);
            let copies: Vec<(usize, i64)> =
                ids::ranked(&id, &weights)[..self.replica].iter().map(|agent| (*agent, time)).collect();
            for (agent, time) in &copies {
                states[*agent].fill([(Arc::clone(&id), Arc::clone(&vector), *time)]);
            }
            odd.added.push(Oddity { id, copies });
        }
        delete(&mut states, &odd.deleted, now);
        (states, odd)
    }
}

/// Deletes what clients have deleted since the backup. A read replica cannot commit that and keeps hiding it.
fn delete(states: &mut [AgentState], deleted: &[Oddity], now: i64) {
    for oddity in deleted {
        for (agent, time) in &oddity.copies {
            // The agent was just given the id, so there is nothing it could refuse.
            let _ = states[*agent].remove(Arc::clone(&oddity.id), time + 1, now);
        }
    }
    for state in states {
        let _ = state.build_and_save(now);
    }
}

async fn bind_any() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await
}
