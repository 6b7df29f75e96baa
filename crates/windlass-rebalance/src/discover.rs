//! Finds the agents of a cluster and what they say about themselves.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonic::{Response, Status};
use windlass_clock::deadline;
use windlass_model::Failure;
use windlass_vald::discoverer_client::DiscovererClient;
use windlass_vald::index_client::IndexClient;
use windlass_vald::{AGENT_PORT, Empty, discoverer, info};

use crate::agent::{AgentClient, Attempt, ClientSettings};
use crate::moves::AgentAddress;

/// Requests without an answer after which an agent counts as unreachable.
const TRIES: u32 = 3;

/// Where the agents of a cluster are looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentSource {
    /// These.
    Listed(Vec<AgentAddress>),
    /// A Discoverer knows the primary agents' pods.
    Discoverer {
        /// `host:port`.
        address: String,
        /// The name of the agents' set, as the Discoverer files them: `vald-agent`.
        name: String,
        /// Their namespace; empty: any.
        namespace: String,
        /// The port agents listen on; `None`: 8081.
        port: Option<u16>,
    },
}

/// One agent, as it was when asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeenAgent {
    /// Its name.
    pub name: String,
    /// Where it answers.
    pub address: String,
    /// What its index says; `None`: it did not answer.
    pub index: Option<IndexCount>,
    /// Why it is unreachable, if it is.
    pub trouble: Option<String>,
    /// Memory in use, bytes, if the Discoverer tells.
    pub memory_usage: Option<f64>,
    /// Memory limit, bytes, if it has one and the Discoverer tells.
    pub memory_limit: Option<f64>,
}

impl SeenAgent {
    /// Whether it answered.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.index.is_some()
    }

    /// Memory in use as a part of the limit, if both are known.
    #[must_use]
    pub fn fill(&self) -> Option<f64> {
        Some(self.memory_usage? / self.memory_limit.filter(|limit| *limit > 0.0)?)
    }
}

/// `IndexInfo` of one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexCount {
    /// Committed vectors.
    pub stored: u32,
    /// Entries in both queues.
    pub uncommitted: u32,
    /// A build is running.
    pub indexing: bool,
    /// A save is running.
    pub saving: bool,
}

impl From<info::index::Count> for IndexCount {
    fn from(count: info::index::Count) -> Self {
        let info::index::Count { stored, uncommitted, indexing, saving } = count;
        Self { stored, uncommitted, indexing, saving }
    }
}

/// What the gateway says about the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayView {
    /// R.
    pub index_replica: u32,
    /// Agents it knows to be alive.
    pub live_agents: u32,
}

/// The agents from `source`, by name, each with its `IndexInfo`. Agents that do not answer are in the list and say
/// why.
///
/// # Errors
///
/// The Discoverer does not answer or knows no agents, two agents have one name, or the attempt shall stop.
pub async fn discover<A: Attempt>(
    attempt: &A,
    source: &AgentSource,
    settings: &ClientSettings,
) -> Result<Vec<SeenAgent>, Failure> {
    let mut agents = match source {
        AgentSource::Listed(agents) => agents
            .iter()
            .map(|agent| SeenAgent {
                name: agent.name.clone(),
                address: agent.address.clone(),
                index: None,
                trouble: None,
                memory_usage: None,
                memory_limit: None,
            })
            .collect(),
        AgentSource::Discoverer { address, name, namespace, port } => {
            let request = discoverer::Request { name: name.clone(), namespace: namespace.clone(), node: String::new() };
            let pods = pods(attempt, address, request, settings).await?;
            from_pods(pods, port.unwrap_or(AGENT_PORT))
        }
    };
    if agents.is_empty() {
        let message = "no agents were found".to_owned();
        return Err(Failure::permanent("no_agents", message)
            .hint("check the name and namespace that the Discoverer files the agents under"));
    }
    agents.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = agents.windows(2).find(|pair| pair[0].name == pair[1].name) {
        let [a, b] = [&pair[0], &pair[1]];
        let message = format!("two agents are named {}: {} and {}", a.name, a.address, b.address);
        return Err(Failure::permanent("agents_ambiguous", message));
    }
    let asked = futures::future::join_all(agents.into_iter().map(|agent| ask(attempt, agent, settings))).await;
    asked.into_iter().collect()
}

async fn ask<A: Attempt>(attempt: &A, mut agent: SeenAgent, settings: &ClientSettings) -> Result<SeenAgent, Failure> {
    let client = match AgentClient::new(&agent.name, &agent.address, settings.clone()) {
        Ok(client) => client,
        Err(error) => {
            agent.trouble = Some(error.to_string());
            return Ok(agent);
        }
    };
    match client.within(attempt).index_info_within(TRIES).await {
        Ok(count) => agent.index = Some(count.into()),
        Err(failure) if failure.class == windlass_model::ErrorClass::Interrupted => return Err(failure),
        Err(failure) => agent.trouble = Some(failure.to_string()),
    }
    Ok(agent)
}

fn from_pods(pods: info::Pods, port: u16) -> Vec<SeenAgent> {
    let agent = |pod: info::Pod| {
        // An address of version 6 needs its brackets in front of a port.
        let host = if pod.ip.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{}]", pod.ip) } else { pod.ip };
        // A Discoverer that tells ports as well (the stand-in on one machine does) knows better.
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let limit = pod.memory.as_ref().map(|memory| memory.limit).filter(|limit| *limit > 0.0);
        SeenAgent {
            address: if has_port { host } else { format!("{host}:{port}") },
            name: pod.name,
            index: None,
            trouble: None,
            memory_usage: pod.memory.map(|memory| memory.usage),
            memory_limit: limit,
        }
    };
    pods.pods.into_iter().map(agent).collect()
}

/// Asks something that is no agent, a few times.
async fn ask_front<A: Attempt, T, F: Future<Output = Result<Response<T>, Status>>>(
    attempt: &A,
    what: &str,
    settings: &ClientSettings,
    call: impl Fn() -> F,
) -> Result<T, Failure> {
    let mut wait = settings.backoff;
    for tries in 1.. {
        attempt.may_go_on()?;
        let answer = tokio::select! {
            biased;
            () = attempt.cancelled().cancelled() => return Err(Failure::interrupted()),
            answer = deadline(&**attempt.clock(), settings.call_timeout, call()) => answer,
        };
        let error = match answer {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => format!("{:?}: {}", status.code(), status.message()),
            Err(passed) => passed.to_string(),
        };
        if tries == TRIES {
            let failure = Failure::transient("unreachable", format!("{what} does not answer"));
            return Err(failure.caused_by(&crate::agent::Cause(error)));
        }
        attempt.sleep(wait).await?;
        wait = wait.saturating_mul(2).min(Duration::from_secs(10));
    }
    Err(Failure::interrupted())
}

fn channel(what: &str, address: &str, settings: &ClientSettings) -> Result<tonic::transport::Channel, Failure> {
    let endpoint = crate::agent::endpoint(address, settings.ca_pem.as_deref()).map_err(|error| {
        Failure::permanent("bad_address", format!("the {what}'s address {address:?} cannot be used")).caused_by(&error)
    })?;
    Ok(endpoint.connect_lazy())
}

async fn pods<A: Attempt>(
    attempt: &A,
    address: &str,
    request: discoverer::Request,
    settings: &ClientSettings,
) -> Result<info::Pods, Failure> {
    let channel = channel("discoverer", address, settings)?;
    let call = || {
        let (channel, request) = (channel.clone(), request.clone());
        async move { DiscovererClient::new(channel).pods(request).await }
    };
    ask_front(attempt, &format!("the discoverer at {address}"), settings, call).await
}

/// R and the number of living agents, from the gateway's `IndexDetail`.
///
/// # Errors
///
/// The gateway does not answer, or tells no R.
pub async fn ask_gateway<A: Attempt>(
    attempt: &A,
    address: &str,
    settings: &ClientSettings,
) -> Result<GatewayView, Failure> {
    let channel = channel("gateway", address, settings)?;
    let call = || {
        let channel = channel.clone();
        async move { IndexClient::new(channel).index_detail(Empty {}).await }
    };
    let detail = ask_front(attempt, &format!("the gateway at {address}"), settings, call).await?;
    if detail.replica == 0 {
        let message = format!("the gateway at {address} does not tell the number of replicas");
        return Err(Failure::permanent("index_replica_unknown", message).hint("set index_replica in the job file"));
    }
    Ok(GatewayView { index_replica: detail.replica, live_agents: detail.live_agents })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_become_agents_with_ports() {
        let pod = |name: &str, ip: &str, limit| info::Pod {
            name: name.into(),
            ip: ip.into(),
            memory: Some(info::Memory { limit, request: 0.0, usage: 2.0 }),
            ..Default::default()
        };
        let pods = info::Pods {
            pods: vec![pod("a", "10.0.0.7", 8.0), pod("b", "fd00::7", 0.0), pod("c", "127.0.0.1:99", 1.0)],
        };
        let agents = from_pods(pods, 8081);
        let addresses: Vec<&str> = agents.iter().map(|agent| agent.address.as_str()).collect();
        assert_eq!(addresses, ["10.0.0.7:8081", "[fd00::7]:8081", "127.0.0.1:99"]);
        assert_eq!(agents[0].fill(), Some(0.25));
        assert_eq!(agents[1].memory_limit, None);
        assert_eq!(agents[1].fill(), None);
    }
}
