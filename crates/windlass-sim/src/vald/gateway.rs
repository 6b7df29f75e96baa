//! The discoverer, and a gateway as far as tests need one: counts, and writes as clients do them.

use std::net::SocketAddr;
use std::sync::Arc;

use futures::stream::BoxStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use windlass_vald::{
    Empty, discoverer, discoverer_server, index_server, info, insert, insert_server, object, remove, remove_server,
    update, update_server,
};

use super::ids::{Id, Vector};
use super::node::Surroundings;
use super::world::lock;

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// Discoverer and gateway of one cluster.
#[derive(Clone, Debug)]
pub(super) struct ClusterService {
    pub(super) around: Surroundings,
    pub(super) app_name: Arc<str>,
    pub(super) addresses: Arc<[SocketAddr]>,
}

impl ClusterService {
    pub(super) fn discoverer_routes(self) -> Routes {
        Routes::new(discoverer_server::DiscovererServer::new(self))
    }

    pub(super) fn gateway_routes(self) -> Routes {
        Routes::new(index_server::IndexServer::new(self.clone()))
            .add_service(insert_server::InsertServer::new(self.clone()))
            .add_service(update_server::UpdateServer::new(self.clone()))
            .add_service(remove_server::RemoveServer::new(self))
    }

    /// The agents that are up as pods, those with the lowest memory use first.
    fn pods(&self, request: &discoverer::Request) -> Result<Vec<info::Pod>, Status> {
        if request.name.is_empty() {
            return Err(Status::invalid_argument("the name is empty"));
        }
        if request.name != *self.app_name {
            return Err(Status::not_found(format!("no pods of {}", request.name.escape_debug())));
        }
        let world = lock(&self.around.world);
        let mut pods: Vec<info::Pod> = world
            .slots
            .iter()
            .zip(&*self.addresses)
            .filter(|(slot, _)| slot.up)
            .map(|(slot, address)| {
                let (options, counts) = (slot.state.options(), slot.state.counts());
                // A fixed part, and for each vector its elements and about as much again for the graph and the id.
                let vectors = f64::from(counts.stored) + f64::from(counts.uncommitted);
                let usage = 1_048_576.0 + vectors * (options.dimension as f64 * 8.0 + 200.0);
                info::Pod {
                    app_name: self.app_name.to_string(),
                    name: slot.name.clone(),
                    namespace: "default".into(),
                    ip: address.ip().to_string(),
                    cpu: Some(info::Cpu { limit: 2.0, request: 1.0, usage: 0.5 }),
                    memory: Some(info::Memory { limit: options.memory_limit as f64, request: 0.0, usage }),
                    node: None,
                }
            })
            .collect();
        let usage = |pod: &info::Pod| pod.memory.map_or(0.0, |memory| memory.usage);
        pods.sort_by(|a, b| usage(a).total_cmp(&usage(b)));
        Ok(pods)
    }
}

#[tonic::async_trait]
impl discoverer_server::Discoverer for ClusterService {
    async fn pods(&self, request: Request<discoverer::Request>) -> Answer<info::Pods> {
        Ok(Response::new(info::Pods { pods: self.pods(request.get_ref())? }))
    }

    async fn nodes(&self, request: Request<discoverer::Request>) -> Answer<info::Nodes> {
        // All pods are on one node.
        let pods = Some(info::Pods { pods: self.pods(request.get_ref())? });
        let node = info::Node { name: "node-0".into(), internal_addr: "127.0.0.1".into(), pods, ..Default::default() };
        Ok(Response::new(info::Nodes { nodes: vec![node] }))
    }

    async fn services(&self, _: Request<discoverer::Request>) -> Answer<info::Services> {
        Ok(Response::new(info::Services {}))
    }
}

#[tonic::async_trait]
impl index_server::Index for ClusterService {
    async fn index_info(&self, _: Request<Empty>) -> Answer<info::index::Count> {
        let world = lock(&self.around.world);
        let mut sum = info::index::Count::default();
        for slot in world.slots.iter().filter(|slot| slot.up) {
            let counts = slot.state.counts();
            sum.stored += counts.stored;
            sum.uncommitted += counts.uncommitted;
            sum.indexing |= counts.indexing;
            sum.saving |= counts.saving;
        }
        Ok(Response::new(sum))
    }

    async fn index_detail(&self, _: Request<Empty>) -> Answer<info::index::Detail> {
        let world = lock(&self.around.world);
        let up = world.slots.iter().zip(&*self.addresses).filter(|(slot, _)| slot.up);
        let counts: std::collections::BTreeMap<String, info::index::Count> =
            up.map(|(slot, address)| (address.to_string(), slot.state.counts().into())).collect();
        let live_agents = counts.len() as u32;
        Ok(Response::new(info::index::Detail { counts, replica: world.replica as u32, live_agents }))
    }
}

const NO_STREAMS: &str = "this gateway answers unary calls only";

fn location(id: &str) -> Response<object::Location> {
    Response::new(object::Location { uuid: id.to_owned(), ..Default::default() })
}

fn parts(vector: Option<object::Vector>) -> (Id, Vector, i64) {
    let vector = vector.unwrap_or_default();
    (vector.id.into(), vector.vector.into(), vector.timestamp)
}

impl ClusterService {
    fn time(&self, given: i64) -> i64 {
        if given > 0 { given } else { self.around.now() }
    }
}

#[tonic::async_trait]
impl insert_server::Insert for ClusterService {
    type StreamInsertStream = Answers<object::StreamLocation>;

    async fn insert(&self, request: Request<insert::Request>) -> Answer<object::Location> {
        let request = request.into_inner();
        let (id, vector, time) = parts(request.vector);
        let config = request.config.map_or(0, |config| config.timestamp);
        let time = self.time(if time > 0 { time } else { config });
        lock(&self.around.world).client_insert(&id, &vector, time)?;
        Ok(location(&id))
    }

    async fn stream_insert(&self, _: Request<Streaming<insert::Request>>) -> Answer<Self::StreamInsertStream> {
        Err(Status::unimplemented(NO_STREAMS))
    }

    async fn multi_insert(&self, _: Request<insert::MultiRequest>) -> Answer<object::Locations> {
        Err(Status::unimplemented(NO_STREAMS))
    }
}

#[tonic::async_trait]
impl update_server::Update for ClusterService {
    type StreamUpdateStream = Answers<object::StreamLocation>;

    async fn update(&self, request: Request<update::Request>) -> Answer<object::Location> {
        let request = request.into_inner();
        let (id, vector, _) = parts(request.vector);
        let config = request.config.unwrap_or_default();
        let (time, balanced) = (self.time(config.timestamp), !config.disable_balanced_update);
        lock(&self.around.world).client_update(&id, &vector, time, balanced)?;
        Ok(location(&id))
    }

    async fn stream_update(&self, _: Request<Streaming<update::Request>>) -> Answer<Self::StreamUpdateStream> {
        Err(Status::unimplemented(NO_STREAMS))
    }

    async fn multi_update(&self, _: Request<update::MultiRequest>) -> Answer<object::Locations> {
        Err(Status::unimplemented(NO_STREAMS))
    }

    async fn update_timestamp(&self, _: Request<update::TimestampRequest>) -> Answer<object::Location> {
        Err(Status::unimplemented("times are set at the agents"))
    }
}

#[tonic::async_trait]
impl remove_server::Remove for ClusterService {
    type StreamRemoveStream = Answers<object::StreamLocation>;

    async fn remove(&self, request: Request<remove::Request>) -> Answer<object::Location> {
        let request = request.into_inner();
        let id: Id = request.id.unwrap_or_default().id.into();
        let time = self.time(request.config.map_or(0, |config| config.timestamp));
        lock(&self.around.world).client_delete(&id, time)?;
        Ok(location(&id))
    }

    async fn stream_remove(&self, _: Request<Streaming<remove::Request>>) -> Answer<Self::StreamRemoveStream> {
        Err(Status::unimplemented(NO_STREAMS))
    }

    async fn multi_remove(&self, _: Request<remove::MultiRequest>) -> Answer<object::Locations> {
        Err(Status::unimplemented(NO_STREAMS))
    }

    async fn remove_by_timestamp(&self, _: Request<remove::TimestampRequest>) -> Answer<object::Locations> {
        Err(Status::unimplemented("removal by time is done at the agents"))
    }
}
