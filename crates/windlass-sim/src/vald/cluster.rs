//! A whole cluster in this process, serving gRPC on loopback, and everything a test can do to it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::transport::Server;

use super::archive::{self, Source};
use super::builder::{ClusterBuilder, Irregularities};
use super::connections::{Switch, connections};
use super::faults::Fault;
use super::gateway::ClusterService;
use super::ids::{Id, Vector};
use super::method::Method;
use super::node::{Node, Surroundings};
use super::service::AgentService;
use super::state::{Counts, Refusal};
use super::watch::Violation;
use super::world::{Mutation, Placement, lock};

/// Where one agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentAddress {
    /// Its name, which is that of its backup too.
    pub name: String,
    /// `ip:port`.
    pub address: String,
}

/// Where everything of a cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The agents, in the order of their numbers.
    pub agents: Vec<AgentAddress>,
    /// The gateway, `ip:port`.
    pub gateway: String,
    /// The discoverer, `ip:port`.
    pub discoverer: String,
}

/// A cluster. Agents are known by their number, from 0. Dropping it ends it and cuts all connections.
#[derive(Debug)]
pub struct Cluster {
    around: Surroundings,
    nodes: Vec<Arc<Node>>,
    addresses: Arc<[SocketAddr]>,
    gateway: SocketAddr,
    discoverer: SocketAddr,
    irregularities: Irregularities,
    /// Gateway and discoverer.
    front: Arc<Switch>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.front.cut(false);
        for node in &self.nodes {
            node.switch.cut(false);
        }
    }
}

fn serve(listener: TcpListener, switch: Arc<Switch>, routes: Routes) -> JoinHandle<()> {
    let incoming = connections(listener, switch);
    tokio::spawn(async move {
        if let Err(error) = Server::builder().add_routes(routes).serve_with_incoming(incoming).await {
            tracing::error!(%error, "stand-in server ended");
        }
    })
}

impl Cluster {
    /// Describes a cluster to start.
    #[must_use]
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::default()
    }

    pub(super) fn serve(
        around: Surroundings,
        name: &str,
        irregularities: Irregularities,
        agents: Vec<TcpListener>,
        gateway: TcpListener,
        discoverer: TcpListener,
    ) -> io::Result<Self> {
        let addresses: Arc<[SocketAddr]> = agents.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let service =
            ClusterService { around: around.clone(), app_name: name.into(), addresses: Arc::clone(&addresses) };
        let (front, mut nodes, mut tasks) = (Arc::<Switch>::default(), Vec::new(), Vec::new());
        let (gateway_at, discoverer_at) = (gateway.local_addr()?, discoverer.local_addr()?);
        tasks.push(serve(gateway, Arc::clone(&front), service.clone().gateway_routes()));
        tasks.push(serve(discoverer, Arc::clone(&front), service.discoverer_routes()));
        for (agent, listener) in agents.into_iter().enumerate() {
            let node = Arc::new(Node::new(agent, around.clone()));
            let routes = AgentService::new(Arc::clone(&node)).routes();
            tasks.push(serve(listener, Arc::clone(&node.switch), routes));
            nodes.push(node);
        }
        Ok(Self {
            around,
            nodes,
            addresses,
            gateway: gateway_at,
            discoverer: discoverer_at,
            irregularities,
            front,
            tasks,
        })
    }

    // ---- what there is ----

    /// Number of agents, down ones included.
    #[must_use]
    pub fn agents(&self) -> usize {
        self.nodes.len()
    }

    /// The name of an agent.
    #[must_use]
    pub fn name(&self, agent: usize) -> String {
        lock(&self.around.world).slots[agent].name.clone()
    }

    /// Where an agent listens; stays the same for as long as the cluster lives.
    #[must_use]
    pub fn address(&self, agent: usize) -> SocketAddr {
        self.addresses[agent]
    }

    /// Where everything is.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        let agents = (0..self.agents())
            .map(|agent| AgentAddress { name: self.name(agent), address: self.address(agent).to_string() })
            .collect();
        Addresses { agents, gateway: self.gateway.to_string(), discoverer: self.discoverer.to_string() }
    }

    /// The deliberate irregularities.
    #[must_use]
    pub fn irregularities(&self) -> &Irregularities {
        &self.irregularities
    }

    /// Elements of a vector, as the first agent has it.
    #[must_use]
    pub fn dimension(&self) -> usize {
        lock(&self.around.world).slots[0].state.options().dimension
    }

    /// The time of the cluster, Unix nanoseconds.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.around.now()
    }

    /// What `IndexInfo` of an agent tells.
    #[must_use]
    pub fn counts(&self, agent: usize) -> Counts {
        lock(&self.around.world).slots[agent].state.counts()
    }

    /// What a reader sees of `id` on an agent.
    #[must_use]
    pub fn copy(&self, agent: usize, id: &str) -> Option<(Vector, i64)> {
        let world = lock(&self.around.world);
        world.slots[agent].state.visible(id).map(|(vector, time)| (Arc::clone(vector), time))
    }

    /// All readable copies. An agent that is down counts with what it will have when it is back.
    #[must_use]
    pub fn placement(&self) -> Placement {
        lock(&self.around.world).placement()
    }

    /// The copies that would be left if all agents crashed now.
    #[must_use]
    pub fn durable_placement(&self) -> Placement {
        lock(&self.around.world).durable_placement()
    }

    /// How often `method` of an agent was called, refused calls and elements of streams included.
    #[must_use]
    pub fn calls(&self, agent: usize, method: Method) -> u64 {
        self.nodes[agent].calls(method)
    }

    /// How often each method was called, all agents together.
    #[must_use]
    pub fn all_calls(&self) -> BTreeMap<Method, u64> {
        let mut sum = BTreeMap::new();
        for node in &self.nodes {
            for (method, calls) in node.all_calls() {
                *sum.entry(method).or_default() += calls;
            }
        }
        sum
    }

    /// The last changes that were asked for through the agents' services, oldest first.
    #[must_use]
    pub fn mutations(&self) -> Vec<Mutation> {
        lock(&self.around.world).record()
    }

    // ---- an agent's life ----

    /// Crashes an agent: it loses what is not durable and stays down. The port stays taken; connections break.
    pub fn crash(&self, agent: usize) {
        self.nodes[agent].crash(false);
    }

    /// Crashes an agent that is back at once.
    pub fn restart(&self, agent: usize) {
        self.nodes[agent].crash(true);
    }

    /// Starts an agent that is down; connections of an agent that is up break.
    pub fn start(&self, agent: usize) {
        self.nodes[agent].start();
    }

    /// Stops an agent as one that is told to: it builds, saves and uploads first. Not cancel safe: dropped halfway, the
    /// agent stays up.
    pub async fn stop(&self, agent: usize) {
        self.nodes[agent].stop().await;
    }

    /// While an agent hangs it takes calls and does nothing, and nobody gets an answer.
    pub fn hang(&self, agent: usize, hung: bool) {
        self.nodes[agent].hang(hung);
    }

    /// Breaks all connections of an agent that stays up: answers under way are lost.
    pub fn cut(&self, agent: usize) {
        self.nodes[agent].switch.cut(true);
    }

    /// While builds are held, a build or save that has begun does not end.
    pub fn hold_builds(&self, agent: usize, hold: bool) {
        self.nodes[agent].hold_builds(hold);
    }

    /// Opens or closes the window in which an agent answers ABORTED because somebody flushes it. In the end nothing
    /// is deleted: the flush gave up.
    ///
    /// # Errors
    ///
    /// The agent is a read replica, or the window is open already.
    pub fn flush_window(&self, agent: usize, open: bool) -> Result<(), Refusal> {
        let mut world = lock(&self.around.world);
        let state = &mut world.slots[agent].state;
        if open {
            return state.begin_flush();
        }
        state.abandon_flush();
        Ok(())
    }

    /// Plants a fault in the calls of an agent.
    pub fn inject(&self, agent: usize, fault: Fault) {
        self.nodes[agent].plant(fault);
    }

    /// Takes back all faults of an agent.
    pub fn clear_faults(&self, agent: usize) {
        self.nodes[agent].clear_faults();
    }

    // ---- backups ----

    /// Builds and saves an agent, as the cluster's own schedule does.
    ///
    /// # Errors
    ///
    /// The agent's refusal; nothing to build is none.
    pub async fn build_and_save(&self, agent: usize) -> Result<(), Refusal> {
        let generation = lock(&self.around.world).slots[agent].generation;
        self.nodes[agent].build_and_save(generation).await
    }

    /// Backs up what an agent has saved.
    ///
    /// # Errors
    ///
    /// Those of the uploader, and an archive that cannot be written.
    pub async fn upload(&self, agent: usize) -> io::Result<()> {
        self.nodes[agent].upload().await
    }

    /// Gives the last backup of every agent to `put`, as object key and content. That is what was there at the start,
    /// or what was backed up since. Blocks for as long as compressing takes.
    ///
    /// # Errors
    ///
    /// Those of `put`, and an archive that cannot be written.
    pub fn write_backups(&self, mut put: impl FnMut(&str, Vec<u8>) -> io::Result<()>) -> io::Result<()> {
        for agent in 0..self.agents() {
            let (name, source) = {
                let world = lock(&self.around.world);
                let slot = &world.slots[agent];
                (slot.name.clone(), Source::backed_up(&slot.state))
            };
            put(&self.around.archive.key(&name), archive::write(&source, &self.around.archive)?)?;
        }
        Ok(())
    }

    /// Writes the last backup of every agent as a file in `directory`.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn write_backups_to(&self, directory: &Path) -> io::Result<()> {
        self.write_backups(|key, content| std::fs::write(directory.join(key), content))
    }

    // ---- the observer ----

    /// Begins to watch: from now on no id may have fewer readable copies than it has now (or than the replica number, if
    /// that is less), unless a client deletes it. With `limit_extra`, none may have more than one above
    /// that either. Forgets what was watched before.
    pub fn watch_copies(&self, limit_extra: bool) {
        lock(&self.around.world).watch_copies(limit_extra);
    }

    /// What was wrong at any moment since watching began; the first 1 000 of them.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        lock(&self.around.world).violations().0
    }

    /// How many violations there were, those not kept included.
    #[must_use]
    pub fn violation_count(&self) -> u64 {
        lock(&self.around.world).violations().1
    }

    /// Ids that a client deleted since watching began and that can be read. In the middle of a move that may be; at its
    /// end it may not. A crash can bring back what a client deleted just before.
    #[must_use]
    pub fn resurrected(&self) -> Vec<Id> {
        lock(&self.around.world).resurrected()
    }

    // ---- clients ----

    /// Adds a vector as a client does through the gateway: on the emptiest agents. `time` in Unix nanoseconds.
    ///
    /// # Errors
    ///
    /// Already there, or an agent refuses it.
    pub fn client_insert(&self, id: &str, vector: &[f32], time: i64) -> Result<(), Refusal> {
        lock(&self.around.world).client_insert(&id.into(), &vector.into(), time)
    }

    /// Replaces a vector where it is. Its new time is `time + 1`, as agents have it.
    ///
    /// # Errors
    ///
    /// Not found, the same vector already, or an agent refuses it.
    pub fn client_update(&self, id: &str, vector: &[f32], time: i64) -> Result<(), Refusal> {
        lock(&self.around.world).client_update(&id.into(), &vector.into(), time, false)
    }

    /// Replaces a vector as the gateway does by default: removes it everywhere at `time` and inserts it at `time + 1` on
    /// the emptiest agents.
    ///
    /// # Errors
    ///
    /// Not found, or an agent refuses it.
    pub fn client_update_balanced(&self, id: &str, vector: &[f32], time: i64) -> Result<(), Refusal> {
        lock(&self.around.world).client_update(&id.into(), &vector.into(), time, true)
    }

    /// Removes a vector from all agents that are up. One that is down keeps its copy, as it does in life.
    ///
    /// # Errors
    ///
    /// Not found anywhere.
    pub fn client_delete(&self, id: &str, time: i64) -> Result<(), Refusal> {
        lock(&self.around.world).client_delete(&id.into(), time)
    }
}
