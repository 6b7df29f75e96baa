//! The agent's gRPC services.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use windlass_vald::{
    Empty, agent_server, control, element_status, flush, flush_server, index_server, info, insert, insert_server,
    object, object_server, remove, remove_server, rpc, update, update_server, upsert, upsert_server,
};

use super::ids::{Id, Vector};
use super::method::Method;
use super::node::Node;
use super::options::Release;
use super::state::{AgentState, Comparison, Counts, Refusal};
use super::world::{Touched, lock};

/// All services of one agent.
#[derive(Clone, Debug)]
pub(super) struct AgentService {
    node: Arc<Node>,
    release: Release,
    name: Arc<str>,
}

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = BoxStream<'static, Result<T, Status>>;

impl AgentService {
    pub(super) fn new(node: Arc<Node>) -> Self {
        let world = lock(&node.around.world);
        let slot = &world.slots[node.agent];
        let (release, name) = (slot.state.options().release, slot.name.as_str().into());
        drop(world);
        Self { node, release, name }
    }

    pub(super) fn routes(self) -> Routes {
        Routes::new(object_server::ObjectServer::new(self.clone()))
            .add_service(insert_server::InsertServer::new(self.clone()))
            .add_service(update_server::UpdateServer::new(self.clone()))
            .add_service(upsert_server::UpsertServer::new(self.clone()))
            .add_service(remove_server::RemoveServer::new(self.clone()))
            .add_service(flush_server::FlushServer::new(self.clone()))
            .add_service(index_server::IndexServer::new(self.clone()))
            .add_service(agent_server::AgentServer::new(self))
    }

    fn needs(&self, known: bool, method: Method) -> Result<(), Status> {
        if known {
            return Ok(());
        }
        let Release(major, minor, patch) = self.release;
        Err(Status::unimplemented(format!("release {major}.{minor}.{patch} has no {method}")))
    }

    fn at(&self, id: &str) -> object::Location {
        object::Location { name: self.name.to_string(), uuid: id.to_owned(), ips: vec!["127.0.0.1".into()] }
    }

    fn vector(&self, id: &str, vector: &[f32], time: i64) -> object::Vector {
        let timestamp = if self.release.has_time_in_vector() { time } else { 0 };
        object::Vector { id: id.to_owned(), vector: vector.to_vec(), timestamp }
    }

    // ---- one element ----

    async fn get(&self, request: object::VectorRequest) -> Result<object::Vector, Status> {
        let id = request.id.unwrap_or_default().id;
        let (vector, time) = self.node.read(Method::GetObject, |state| state.get(&id)).await?;
        Ok(self.vector(&id, &vector, time))
    }

    async fn insert_one(&self, request: insert::Request) -> Result<object::Location, Status> {
        let Wanted { id, vector, time, config } = Wanted::of(request.vector, request.config.map(|c| c.timestamp));
        let given = if time > 0 { time } else { config };
        self.node
            .write(Method::Insert, (&id, given), Touched::One(&id), |state, now| {
                state.insert(Arc::clone(&id), vector, time, config, now)
            })
            .await?;
        Ok(self.at(&id))
    }

    async fn update_one(&self, request: update::Request) -> Result<object::Location, Status> {
        let Wanted { id, vector, config, .. } = Wanted::of(request.vector, request.config.map(|c| c.timestamp));
        self.node
            .write(Method::Update, (&id, config), Touched::One(&id), |state, now| {
                state.update(Arc::clone(&id), vector, config, now)
            })
            .await?;
        Ok(self.at(&id))
    }

    async fn upsert_one(&self, request: upsert::Request) -> Result<object::Location, Status> {
        let Wanted { id, vector, time, config } = Wanted::of(request.vector, request.config.map(|c| c.timestamp));
        self.node
            .write(Method::Upsert, (&id, config), Touched::One(&id), |state, now| {
                state.upsert(Arc::clone(&id), vector, time, config, now)
            })
            .await?;
        Ok(self.at(&id))
    }

    async fn remove_one(&self, request: remove::Request) -> Result<object::Location, Status> {
        let id: Id = request.id.unwrap_or_default().id.into();
        let time = request.config.map_or(0, |config| config.timestamp);
        self.node
            .write(Method::Remove, (&id, time), Touched::One(&id), |state, now| {
                state.remove(Arc::clone(&id), time, now)
            })
            .await?;
        Ok(self.at(&id))
    }

    /// Answers a stream of writes one by one, each with a location or with what went wrong and the id it was about.
    fn stream<R, F>(
        &self,
        requests: Streaming<R>,
        id_of: impl Fn(&R) -> String + Send + 'static,
        one: impl Fn(Self, R) -> F + Send + 'static,
    ) -> Answers<object::StreamLocation>
    where
        R: Send + 'static,
        F: Future<Output = Result<object::Location, Status>> + Send + 'static,
    {
        use object::stream_location::Payload;
        let service = self.clone();
        let answers = requests.then(move |request| {
            let work = request.map(|request| (id_of(&request), one(service.clone(), request)));
            async move {
                let (id, work) = work?;
                let payload = match work.await {
                    Ok(location) => Payload::Location(location),
                    Err(status) => Payload::Status(failed(&status, id)),
                };
                Ok(object::StreamLocation { payload: Some(payload) })
            }
        });
        answers.boxed()
    }

    async fn counts(&self) -> Answer<info::index::Count> {
        let counts = self.node.read(Method::IndexInfo, |state| Ok(state.counts())).await?;
        Ok(Response::new(counts.into()))
    }

    /// Runs a build or save to its end even if the caller goes away, as an agent does.
    async fn command(&self, method: Method) -> Answer<Empty> {
        let admitted = self.node.admit(method).await?;
        let (node, generation) = (Arc::clone(&self.node), admitted.generation);
        let work = tokio::spawn(async move {
            match method {
                Method::CreateIndex => node.build(generation).await,
                Method::SaveIndex => node.save(generation).await,
                _ => node.build_and_save(generation).await,
            }
        });
        let outcome =
            work.await.unwrap_or_else(|error| Err(Refusal::Internal(format!("the work did not end: {error}"))));
        self.node.answer(admitted, outcome).await?;
        Ok(Response::new(Empty {}))
    }
}

/// What a request with a vector wants. Missing parts are empty, as they are on the wire.
struct Wanted {
    id: Id,
    vector: Vector,
    time: i64,
    config: i64,
}

impl Wanted {
    fn of(vector: Option<object::Vector>, config: Option<i64>) -> Self {
        let vector = vector.unwrap_or_default();
        Self {
            id: vector.id.into(),
            vector: vector.vector.into(),
            time: vector.timestamp,
            config: config.unwrap_or_default(),
        }
    }
}

fn failed(status: &Status, id: String) -> rpc::Status {
    element_status(status.code(), status.message(), id)
}

fn vector_id(vector: Option<&object::Vector>) -> String {
    vector.map(|vector| vector.id.clone()).unwrap_or_default()
}

impl From<Counts> for info::index::Count {
    fn from(counts: Counts) -> Self {
        let Counts { stored, uncommitted, indexing, saving } = counts;
        Self { stored, uncommitted, indexing, saving }
    }
}

#[tonic::async_trait]
impl object_server::Object for AgentService {
    type StreamGetObjectStream = Answers<object::StreamVector>;
    type StreamListObjectStream = Answers<object::list::Response>;

    async fn exists(&self, request: Request<object::Id>) -> Answer<object::Id> {
        let id = request.into_inner();
        self.node.read(Method::Exists, |state| state.exists(&id.id)).await?;
        Ok(Response::new(id))
    }

    async fn get_object(&self, request: Request<object::VectorRequest>) -> Answer<object::Vector> {
        Ok(Response::new(self.get(request.into_inner()).await?))
    }

    async fn stream_get_object(
        &self,
        requests: Request<Streaming<object::VectorRequest>>,
    ) -> Answer<Self::StreamGetObjectStream> {
        use object::stream_vector::Payload;
        let service = self.clone();
        let answers = requests.into_inner().then(move |request| {
            let service = service.clone();
            async move {
                let request = request?;
                let id = request.id.clone().unwrap_or_default().id;
                let payload = match service.get(request).await {
                    Ok(vector) => Payload::Vector(vector),
                    Err(status) => Payload::Status(failed(&status, id)),
                };
                Ok(object::StreamVector { payload: Some(payload) })
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn stream_list_object(&self, _: Request<object::list::Request>) -> Answer<Self::StreamListObjectStream> {
        use object::list::response::Payload;
        self.needs(self.release.has_time_in_vector(), Method::StreamListObject)?;
        let service = self.clone();
        let listing = futures::stream::iter(self.node.list().await?).map(move |(id, vector, time)| {
            let payload = Payload::Vector(service.vector(&id, &vector, time));
            Ok(object::list::Response { payload: Some(payload) })
        });
        Ok(Response::new(listing.boxed()))
    }

    async fn get_timestamp(&self, request: Request<object::TimestampRequest>) -> Answer<object::Timestamp> {
        self.needs(self.release.has_get_timestamp(), Method::GetTimestamp)?;
        let id = request.into_inner().id.unwrap_or_default().id;
        let timestamp = self.node.read(Method::GetTimestamp, |state| state.timestamp(&id)).await?;
        Ok(Response::new(object::Timestamp { id, timestamp }))
    }
}

#[tonic::async_trait]
impl insert_server::Insert for AgentService {
    type StreamInsertStream = Answers<object::StreamLocation>;

    async fn insert(&self, request: Request<insert::Request>) -> Answer<object::Location> {
        Ok(Response::new(self.insert_one(request.into_inner()).await?))
    }

    async fn stream_insert(&self, requests: Request<Streaming<insert::Request>>) -> Answer<Self::StreamInsertStream> {
        let id = |request: &insert::Request| vector_id(request.vector.as_ref());
        let one = |service: Self, request| async move { service.insert_one(request).await };
        Ok(Response::new(self.stream(requests.into_inner(), id, one)))
    }

    async fn multi_insert(&self, request: Request<insert::MultiRequest>) -> Answer<object::Locations> {
        let wanted: Vec<(Id, Vector, i64, i64)> = request
            .into_inner()
            .requests
            .into_iter()
            .map(|request| Wanted::of(request.vector, request.config.map(|config| config.timestamp)))
            .map(|wanted| (wanted.id, wanted.vector, wanted.time, wanted.config))
            .collect();
        let ids: Vec<Id> = wanted.iter().map(|(id, ..)| Arc::clone(id)).collect();
        let touched = Touched::Many(ids.clone());
        self.node.write(Method::MultiInsert, ("", 0), touched, |state, now| state.insert_many(wanted, now)).await?;
        Ok(Response::new(object::Locations { locations: ids.iter().map(|id| self.at(id)).collect() }))
    }
}

#[tonic::async_trait]
impl update_server::Update for AgentService {
    type StreamUpdateStream = Answers<object::StreamLocation>;

    async fn update(&self, request: Request<update::Request>) -> Answer<object::Location> {
        Ok(Response::new(self.update_one(request.into_inner()).await?))
    }

    async fn stream_update(&self, requests: Request<Streaming<update::Request>>) -> Answer<Self::StreamUpdateStream> {
        let id = |request: &update::Request| vector_id(request.vector.as_ref());
        let one = |service: Self, request| async move { service.update_one(request).await };
        Ok(Response::new(self.stream(requests.into_inner(), id, one)))
    }

    async fn multi_update(&self, request: Request<update::MultiRequest>) -> Answer<object::Locations> {
        let wanted: Vec<Wanted> = request
            .into_inner()
            .requests
            .into_iter()
            .map(|request| Wanted::of(request.vector, request.config.map(|config| config.timestamp)))
            .collect();
        let locations = wanted.iter().map(|wanted| self.at(&wanted.id)).collect();
        let touched = Touched::Many(wanted.iter().map(|wanted| Arc::clone(&wanted.id)).collect());
        self.node
            .write(Method::MultiUpdate, ("", 0), touched, |state, now| {
                each(wanted, |wanted| state.update(wanted.id, wanted.vector, wanted.config, now))
            })
            .await?;
        Ok(Response::new(object::Locations { locations }))
    }

    async fn update_timestamp(&self, request: Request<update::TimestampRequest>) -> Answer<object::Location> {
        self.needs(self.release.has_update_timestamp(), Method::UpdateTimestamp)?;
        let update::TimestampRequest { id, timestamp, force } = request.into_inner();
        self.node
            .write(Method::UpdateTimestamp, (&id, timestamp), Touched::One(&id), |state, _| {
                state.update_timestamp(&id, timestamp, force)
            })
            .await?;
        Ok(Response::new(self.at(&id)))
    }
}

#[tonic::async_trait]
impl upsert_server::Upsert for AgentService {
    type StreamUpsertStream = Answers<object::StreamLocation>;

    async fn upsert(&self, request: Request<upsert::Request>) -> Answer<object::Location> {
        Ok(Response::new(self.upsert_one(request.into_inner()).await?))
    }

    async fn stream_upsert(&self, requests: Request<Streaming<upsert::Request>>) -> Answer<Self::StreamUpsertStream> {
        let id = |request: &upsert::Request| vector_id(request.vector.as_ref());
        let one = |service: Self, request| async move { service.upsert_one(request).await };
        Ok(Response::new(self.stream(requests.into_inner(), id, one)))
    }

    async fn multi_upsert(&self, request: Request<upsert::MultiRequest>) -> Answer<object::Locations> {
        let wanted: Vec<Wanted> = request
            .into_inner()
            .requests
            .into_iter()
            .map(|request| Wanted::of(request.vector, request.config.map(|config| config.timestamp)))
            .collect();
        let locations = wanted.iter().map(|wanted| self.at(&wanted.id)).collect();
        let touched = Touched::Many(wanted.iter().map(|wanted| Arc::clone(&wanted.id)).collect());
        self.node
            .write(Method::MultiUpsert, ("", 0), touched, |state, now| {
                each(wanted, |wanted| state.upsert(wanted.id, wanted.vector, wanted.time, wanted.config, now))
            })
            .await?;
        Ok(Response::new(object::Locations { locations }))
    }
}

/// Does all of them; the first refusal is the answer.
fn each(all: Vec<Wanted>, one: impl FnMut(Wanted) -> Result<(), Refusal>) -> Result<(), Refusal> {
    all.into_iter().map(one).fold(Ok(()), Result::and)
}

#[tonic::async_trait]
impl remove_server::Remove for AgentService {
    type StreamRemoveStream = Answers<object::StreamLocation>;

    async fn remove(&self, request: Request<remove::Request>) -> Answer<object::Location> {
        Ok(Response::new(self.remove_one(request.into_inner()).await?))
    }

    async fn stream_remove(&self, requests: Request<Streaming<remove::Request>>) -> Answer<Self::StreamRemoveStream> {
        let id = |request: &remove::Request| request.id.clone().unwrap_or_default().id;
        let one = |service: Self, request| async move { service.remove_one(request).await };
        Ok(Response::new(self.stream(requests.into_inner(), id, one)))
    }

    async fn multi_remove(&self, request: Request<remove::MultiRequest>) -> Answer<object::Locations> {
        let requests = request.into_inner().requests;
        let ids: Vec<Id> = requests.into_iter().map(|request| request.id.unwrap_or_default().id.into()).collect();
        let touched = Touched::Many(ids.clone());
        let locations = ids.iter().map(|id| self.at(id)).collect();
        self.node.write(Method::MultiRemove, ("", 0), touched, |state, now| state.remove_many(ids, now)).await?;
        Ok(Response::new(object::Locations { locations }))
    }

    async fn remove_by_timestamp(&self, request: Request<remove::TimestampRequest>) -> Answer<object::Locations> {
        use remove::timestamp::Operator;
        let compare = |condition: &remove::Timestamp| {
            let comparison = match condition.operator() {
                Operator::Eq => Comparison::Equal,
                Operator::Ne => Comparison::NotEqual,
                Operator::Ge => Comparison::AtLeast,
                Operator::Gt => Comparison::Greater,
                Operator::Le => Comparison::AtMost,
                Operator::Lt => Comparison::Less,
            };
            (comparison, condition.timestamp)
        };
        let conditions: Vec<_> = request.into_inner().timestamps.iter().map(compare).collect();
        let removed = self
            .node
            .write(Method::RemoveByTimestamp, ("", 0), Touched::All, |state, now| {
                state.remove_by_timestamp(&conditions, now)
            })
            .await?;
        Ok(Response::new(object::Locations { locations: removed.iter().map(|id| self.at(id)).collect() }))
    }
}

#[tonic::async_trait]
impl flush_server::Flush for AgentService {
    async fn flush(&self, _: Request<flush::Request>) -> Answer<info::index::Count> {
        self.needs(self.release.has_index_service(), Method::Flush)?;
        let counts = self
            .node
            .write(Method::Flush, ("", 0), Touched::All, |state, _| {
                state.begin_flush()?;
                state.finish_flush();
                Ok(state.counts())
            })
            .await?;
        Ok(Response::new(counts.into()))
    }
}

#[tonic::async_trait]
impl index_server::Index for AgentService {
    async fn index_info(&self, _: Request<Empty>) -> Answer<info::index::Count> {
        self.needs(self.release.has_index_service(), Method::IndexInfo)?;
        self.counts().await
    }

    async fn index_detail(&self, _: Request<Empty>) -> Answer<info::index::Detail> {
        self.needs(self.release.has_index_service(), Method::IndexDetail)?;
        let counts = self.node.read(Method::IndexDetail, |state: &AgentState| Ok(state.counts())).await?;
        let counts = [(self.name.to_string(), counts.into())].into();
        Ok(Response::new(info::index::Detail { counts, replica: 1, live_agents: 1 }))
    }
}

#[tonic::async_trait]
impl agent_server::Agent for AgentService {
    async fn create_index(&self, _: Request<control::CreateIndexRequest>) -> Answer<Empty> {
        self.command(Method::CreateIndex).await
    }

    async fn save_index(&self, _: Request<Empty>) -> Answer<Empty> {
        self.command(Method::SaveIndex).await
    }

    async fn create_and_save_index(&self, _: Request<control::CreateIndexRequest>) -> Answer<Empty> {
        self.command(Method::CreateAndSaveIndex).await
    }

    async fn index_info(&self, _: Request<Empty>) -> Answer<info::index::Count> {
        self.needs(!self.release.has_index_service(), Method::IndexInfo)?;
        self.counts().await
    }
}
