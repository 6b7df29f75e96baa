//! The cluster over real connections on loopback.

mod crashes;
mod irregular;
mod observer;
mod wire;

use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use windlass_vald::{agent_client, control, insert, insert_client, object, object_client, remove, remove_client};

use super::*;

/// Later than all generated times and earlier than the machine's clock.
const T: i64 = ids::EPOCH + 10 * ids::DAY;

/// Talks to one agent.
struct Agent {
    channel: Channel,
}

impl Agent {
    fn new(cluster: &Cluster, agent: usize) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.address(agent))).unwrap();
        Self { channel: endpoint.connect_lazy() }
    }

    fn object(&self) -> object_client::ObjectClient<Channel> {
        object_client::ObjectClient::new(self.channel.clone())
    }

    fn core(&self) -> agent_client::AgentClient<Channel> {
        agent_client::AgentClient::new(self.channel.clone())
    }

    async fn insert(&self, id: &str, vector: &[f32], time: i64) -> Result<(), Status> {
        let vector = object::Vector { id: id.into(), vector: vector.into(), timestamp: time };
        let config = insert::Config { skip_strict_exist_check: true, filters: None, timestamp: time };
        let request = insert::Request { vector: Some(vector), config: Some(config) };
        insert_client::InsertClient::new(self.channel.clone()).insert(request).await.map(|_| ())
    }

    async fn remove(&self, id: &str, time: i64) -> Result<(), Status> {
        let config = remove::Config { skip_strict_exist_check: true, timestamp: time };
        let request = remove::Request { id: Some(object::Id { id: id.into() }), config: Some(config) };
        remove_client::RemoveClient::new(self.channel.clone()).remove(request).await.map(|_| ())
    }

    async fn get(&self, id: &str) -> Result<object::Vector, Status> {
        let request = object::VectorRequest { id: Some(object::Id { id: id.into() }), filters: None };
        Ok(self.object().get_object(request).await?.into_inner())
    }

    async fn commit_and_save(&self) -> Result<(), Status> {
        self.core().create_and_save_index(control::CreateIndexRequest { pool_size: 0 }).await.map(|_| ())
    }
}

/// A small full cluster.
async fn small() -> Cluster {
    Cluster::builder().ids(60).start().await.unwrap()
}

/// An id that is on `agent` and not on `other`.
fn only_on(cluster: &Cluster, agent: usize, other: usize) -> Id {
    let on = |copies: &[(usize, i64)], wanted| copies.iter().any(|(agent, _)| *agent == wanted);
    let placement = cluster.placement();
    let mut fitting = placement.iter().filter(|(_, copies)| on(copies, agent) && !on(copies, other));
    fitting.next().unwrap().0.clone()
}

#[track_caller]
fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}
