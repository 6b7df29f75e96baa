//! One agent: the connection to it, how much may be asked at once, and what has been learnt about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use windlass_vald::RECEIVE_LIMIT;
use windlass_vald::agent_client::AgentClient as CoreStub;
use windlass_vald::index_client::IndexClient;
use windlass_vald::insert_client::InsertClient;
use windlass_vald::object_client::ObjectClient;
use windlass_vald::remove_client::RemoveClient;
use windlass_vald::update_client::UpdateClient;

use super::attempt::Attempt;
use super::calls::AgentCalls;

/// Failed requests to one agent with no success between them, after which a person is asked.
pub const FAILURES_IN_A_ROW: u32 = 50;

/// Long enough for a slow network, short enough to notice an address that nobody answers at.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How an agent is talked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// Requests under way at once.
    pub parallelism: usize,
    /// The longest a request may take.
    pub call_timeout: Duration,
    /// The longest a commit or save may take.
    pub commit_timeout: Duration,
    /// The first wait before a request is repeated; doubles each time.
    pub backoff: Duration,
    /// Certificates (PEM) that sign the agent's, for `https`; `None`: the machine's own.
    pub ca_pem: Option<Vec<u8>>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            parallelism: 8,
            call_timeout: Duration::from_secs(30),
            commit_timeout: Duration::from_secs(30 * 60),
            backoff: Duration::from_millis(500),
            ca_pem: None,
        }
    }
}

/// The address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("agent {agent} cannot be reached at {address:?}: {source}; an address is host:port, http://… or https://…")]
pub struct ConnectError {
    agent: String,
    address: String,
    source: tonic::transport::Error,
}

/// One agent. Connects with the first request and again after a break; shared by everybody in the process who talks
/// to this agent, so that its limits hold for all of them together.
#[derive(Debug)]
pub struct AgentClient {
    name: String,
    channel: Channel,
    pub(super) settings: ClientSettings,
    pub(super) permits: Arc<Semaphore>,
    /// `IndexInfo` is a method of the core service (before 1.7.13).
    pub(super) old_index_info: AtomicBool,
    /// There is no `GetTimestamp` (before 1.7.9).
    pub(super) no_get_timestamp: AtomicBool,
    pub(super) failures: AtomicU32,
    pub(super) retries: AtomicU64,
    /// Monotonic milliseconds until which the agent is left alone.
    pub(super) resting_until: AtomicU64,
}

/// The endpoint of `host:port`, with or without a scheme.
pub(crate) fn endpoint(address: &str, ca_pem: Option<&[u8]>) -> Result<Endpoint, tonic::transport::Error> {
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let secure = uri.starts_with("https://");
    let mut endpoint = Endpoint::from_shared(uri)?
        .connect_timeout(CONNECT_TIMEOUT)
        // Notices an agent whose machine went away without a word.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .tcp_nodelay(true);
    if secure {
        let tls = match ca_pem {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        endpoint = endpoint.tls_config(tls)?;
    }
    Ok(endpoint)
}

impl AgentClient {
    /// The agent `name` at `address` (`host:port`, `http://…`, `https://…`). Does not connect yet; needs a tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// The address or the certificates cannot be understood.
    pub fn new(name: &str, address: &str, settings: ClientSettings) -> Result<Self, ConnectError> {
        let endpoint = endpoint(address, settings.ca_pem.as_deref()).map_err(|source| ConnectError {
            agent: name.to_owned(),
            address: address.to_owned(),
            source,
        })?;
        Ok(Self {
            name: name.to_owned(),
            channel: endpoint.connect_lazy(),
            permits: Arc::new(Semaphore::new(settings.parallelism.max(1))),
            settings,
            old_index_info: AtomicBool::new(false),
            no_get_timestamp: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            retries: AtomicU64::new(0),
            resting_until: AtomicU64::new(0),
        })
    }

    /// The agent's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Requests that were repeated so far.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// The requests, made by `attempt`.
    pub fn within<'a, A: Attempt>(&'a self, attempt: &'a A) -> AgentCalls<'a, A> {
        AgentCalls::new(self, attempt)
    }

    pub(super) fn objects(&self) -> ObjectClient<Channel> {
        ObjectClient::new(self.channel.clone()).max_decoding_message_size(RECEIVE_LIMIT)
    }

    pub(super) fn inserts(&self) -> InsertClient<Channel> {
        InsertClient::new(self.channel.clone())
    }

    pub(super) fn updates(&self) -> UpdateClient<Channel> {
        UpdateClient::new(self.channel.clone())
    }

    pub(super) fn removes(&self) -> RemoveClient<Channel> {
        RemoveClient::new(self.channel.clone())
    }

    pub(super) fn index(&self) -> IndexClient<Channel> {
        IndexClient::new(self.channel.clone())
    }

    pub(super) fn core(&self) -> CoreStub<Channel> {
        CoreStub::new(self.channel.clone())
    }
}
