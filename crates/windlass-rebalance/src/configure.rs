//! Stage 1, the task `rebalance.configure`: who the agents are, what they say, and whether there is anything to do.
//!
//! It decides the triggers and guards of a periodic check, marks the agents by what they can be used for, and adds
//! one `rebalance.scan` per agent and the `rebalance.calculate` that joins them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use windlass_engine::context::TaskContext;
use windlass_engine::kind::{Finished, TaskType};
use windlass_model::plan::TaskSpec;
use windlass_model::policy::Policy;
use windlass_model::{ErrorClass, Failure};

use crate::agent::ClientSettings;
use crate::calculate::{AgentState, Fullness, trigger};
use crate::discover::{AgentSource, SeenAgent, ask_gateway, discover};
use crate::history::History;
use crate::moves::AgentAddress;
use crate::patience::patient;
use crate::spec::{JournalUse, Measure, RebalanceSpec, RunMode};

/// The name of the task type.
pub const CONFIGURE: &str = "rebalance.configure";

/// One agent and what it is used for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfiguredAgent {
    /// What it said.
    #[serde(flatten)]
    pub seen: SeenAgent,
    /// Its share compared with the others'.
    pub weight: f64,
    /// Its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What it is used for.
    pub state: AgentState,
}

impl ConfiguredAgent {
    /// Copies on it, those in its queue included; `None` while it does not answer.
    #[must_use]
    pub fn copies(&self) -> Option<u64> {
        self.seen.index.map(|index| u64::from(index.stored) + u64::from(index.uncommitted))
    }

    /// Its name and address.
    #[must_use]
    pub fn address(&self) -> AgentAddress {
        AgentAddress { name: self.seen.name.clone(), address: self.seen.address.clone() }
    }
}

/// Whether the job goes on, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it goes on.
    pub act: bool,
    /// Why, or why not.
    pub reason: String,
    /// The agent that set the check off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fullest: Option<String>,
    /// The computed share to move off it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
}

impl Decision {
    fn act(reason: impl Into<String>) -> Self {
        Self { act: true, reason: reason.into(), fullest: None, rate: None }
    }

    fn rest(reason: impl Into<String>) -> Self {
        Self { act: false, ..Self::act(reason) }
    }
}

/// What stage 1 found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configured {
    /// The name under which one job runs at a time.
    pub cluster: String,
    /// What is planned for.
    pub purpose: RunMode,
    /// R.
    pub index_replica: u32,
    /// The agents, by name; lost ones that nobody lists any more at the end.
    pub agents: Vec<ConfiguredAgent>,
    /// Names of the lost agents that are recovered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Whether the job goes on.
    pub decision: Decision,
    /// Largest ÷ mean copies per weight by the agents' own counts; `None` without copies.
    pub spread: Option<f64>,
    /// What people should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Configured {
    /// The agents that answer and are no replicas.
    #[must_use]
    pub fn living(&self) -> Vec<AgentAddress> {
        let living = self.agents.iter().filter(|agent| agent.seen.is_reachable() && agent.state != AgentState::Lost);
        living.map(ConfiguredAgent::address).collect()
    }
}

/// How agents of `spec` are talked to.
pub(crate) fn client_settings(spec: &RebalanceSpec) -> Result<ClientSettings, Failure> {
    let ca_pem = match &spec.cluster.ca_file {
        Some(path) => Some(std::fs::read(path).map_err(|error| {
            Failure::permanent(
                "ca_file_unreadable",
                format!("the certificates in cluster.ca_file {path} cannot be read"),
            )
            .caused_by(&error)
        })?),
        None => None,
    };
    Ok(ClientSettings {
        parallelism: spec.per_agent_parallelism as usize,
        call_timeout: spec.call_timeout.0,
        commit_timeout: spec.commit_timeout.0,
        ca_pem,
        ..ClientSettings::default()
    })
}

fn listed(spec: &RebalanceSpec) -> AgentSource {
    let primary = spec.cluster.agents.iter().filter(|agent| !agent.read_replica);
    AgentSource::Listed(
        primary.map(|agent| AgentAddress { name: agent.name.clone(), address: agent.address.clone() }).collect(),
    )
}

fn from_discoverer(spec: &RebalanceSpec) -> Option<AgentSource> {
    Some(AgentSource::Discoverer {
        address: spec.cluster.discoverer.clone()?,
        name: spec.cluster.agent_set.clone(),
        namespace: spec.cluster.namespace.clone(),
        port: Some(spec.cluster.agent_port),
    })
}

/// Asks the list, or the Discoverer, and then every agent.
pub(crate) async fn look(cx: &TaskContext, spec: &RebalanceSpec) -> Result<Vec<SeenAgent>, Failure> {
    let settings = client_settings(spec)?;
    let discoverer = from_discoverer(spec);
    if spec.cluster.agents.is_empty() {
        let source = discoverer.ok_or_else(|| Failure::permanent("no_agents", "the spec names no agents"))?;
        return discover(cx, &source, &settings).await;
    }
    let mut agents = discover(cx, &listed(spec), &settings).await?;
    if let Some(source) = discoverer {
        // Only for what it knows about their memory.
        let known = discover(cx, &source, &settings).await?;
        let memory: BTreeMap<&str, &SeenAgent> = known.iter().map(|agent| (agent.name.as_str(), agent)).collect();
        for agent in &mut agents {
            if let Some(known) = memory.get(agent.name.as_str()) {
                agent.memory_usage = known.memory_usage;
                agent.memory_limit = known.memory_limit;
            }
        }
    }
    Ok(agents)
}

/// R, from the spec and the gateway, which must agree.
async fn replicas(cx: &TaskContext, spec: &RebalanceSpec) -> Result<u32, Failure> {
    let Some(gateway) = &spec.cluster.gateway else {
        return spec
            .index_replica
            .ok_or_else(|| Failure::permanent("index_replica_unknown", "index_replica is missing"));
    };
    let told = match ask_gateway(cx, gateway, &client_settings(spec)?).await {
        Ok(view) => view.index_replica,
        Err(failure) if failure.class == ErrorClass::Interrupted => return Err(failure),
        Err(failure) => {
            // The number is all that is asked for; a spec that has it does not need the gateway.
            let Some(replicas) = spec.index_replica else { return Err(failure) };
            cx.warn("gateway_silent", format!("{failure}; index_replica {replicas} of the spec is taken")).await;
            return Ok(replicas);
        }
    };
    match spec.index_replica {
        Some(replicas) if replicas != told => Err(Failure::permanent(
            "index_replica_mismatch",
            format!("index_replica is {replicas} in the spec, but the gateway {gateway} says {told}"),
        )
        .hint("leave index_replica out, or correct it: with a wrong number copies would be added or removed everywhere")
        .detail("stage", "configure")),
        _ => Ok(told),
    }
}

/// Names of the lost agents: the named ones, or those that are missing or silent.
fn lost(spec: &RebalanceSpec, seen: &[SeenAgent]) -> Vec<String> {
    if !spec.agents.is_empty() {
        return spec.agents.clone();
    }
    let mut lost: Vec<String> =
        seen.iter().filter(|agent| !agent.is_reachable()).map(|agent| agent.name.clone()).collect();
    if let Some(size) = spec.cluster.size
        && let Some(first) = seen.first()
    {
        let set = first.name.trim_end_matches(|c: char| c.is_ascii_digit());
        let missing = (0..size).map(|ordinal| format!("{set}{ordinal}"));
        lost.extend(missing.filter(|name| !seen.iter().any(|agent| agent.name == *name)));
    }
    lost
}

/// Largest ÷ mean copies per weight of the agents that answer and keep copies.
pub(crate) fn spread(agents: &[ConfiguredAgent]) -> Option<f64> {
    let kept = || agents.iter().filter(|agent| !matches!(agent.state, AgentState::Lost | AgentState::Drained));
    let levels: Vec<f64> = kept().filter_map(|agent| Some(agent.copies()? as f64 / agent.weight)).collect();
    let copies: f64 = kept().filter_map(ConfiguredAgent::copies).map(|copies| copies as f64).sum();
    let weights: f64 = kept().filter(|agent| agent.seen.is_reachable()).map(|agent| agent.weight).sum();
    (copies > 0.0).then(|| levels.iter().copied().fold(0.0, f64::max) / (copies / weights))
}

/// Marks each agent by what it can be used for.
fn mark(spec: &RebalanceSpec, seen: Vec<SeenAgent>, lost: &[String]) -> Vec<ConfiguredAgent> {
    let by_memory = spec.cluster.agents.is_empty() && seen.iter().all(|agent| agent.memory_limit.is_some());
    seen.into_iter()
        .map(|seen| {
            let listed = spec.cluster.agents.iter().find(|agent| agent.name == seen.name);
            let named = spec.agents.contains(&seen.name);
            let state = if lost.contains(&seen.name) {
                AgentState::Lost
            } else if !seen.is_reachable() {
                AgentState::Unreachable
            } else if spec.purpose() == RunMode::Drain && named {
                AgentState::Drained
            } else if seen.fill().is_some_and(|fill| fill > spec.max_fill) {
                AgentState::Full
            } else {
                AgentState::Member
            };
            let limit = if by_memory { seen.memory_limit } else { None };
            ConfiguredAgent {
                weight: listed.map(|agent| agent.weight).or(limit).unwrap_or(1.0),
                zone: listed.and_then(|agent| agent.zone.clone()),
                state,
                seen,
            }
        })
        .collect()
}

/// The periodic check: whether one agent is too full, and nothing speaks against doing something about it.
fn deviation(spec: &RebalanceSpec, agents: &[ConfiguredAgent], cooling: Option<String>) -> Decision {
    let answering = agents.iter().filter(|agent| agent.seen.is_reachable()).count();
    let listed = spec.cluster.agents.iter().filter(|agent| !agent.read_replica).count();
    let wanted = spec.cluster.size.map_or(if listed > 0 { listed } else { agents.len() }, |size| size as usize);
    if answering != wanted {
        let silent: Vec<&str> =
            agents.iter().filter(|agent| !agent.seen.is_reachable()).map(|agent| agent.seen.name.as_str()).collect();
        let who = if silent.is_empty() { String::new() } else { format!(" (no answer from {})", silent.join(", ")) };
        return Decision::rest(format!("{answering} agents run where {wanted} are wanted{who}"));
    }
    if let Some(reason) = cooling {
        return Decision::rest(reason);
    }
    let limits = agents.iter().all(|agent| agent.seen.memory_limit.is_some_and(|limit| limit > 0.0));
    let (fullness, kind): (Vec<f64>, Fullness) = match spec.measure {
        Measure::Copies => {
            (agents.iter().map(|agent| agent.copies().unwrap_or(0) as f64 / agent.weight).collect(), Fullness::Absolute)
        }
        Measure::Memory if limits => {
            (agents.iter().map(|agent| agent.seen.fill().unwrap_or(0.0)).collect(), Fullness::Ratio)
        }
        Measure::Memory => {
            (agents.iter().map(|agent| agent.seen.memory_usage.unwrap_or(0.0)).collect(), Fullness::Absolute)
        }
    };
    let Some(fired) = trigger(&fullness, kind, spec.tolerance, spec.rate_threshold) else {
        let largest = fullness.iter().copied().fold(0.0, f64::max);
        let mean = fullness.iter().sum::<f64>() / fullness.len().max(1) as f64;
        let above = if mean > 0.0 { (largest / mean - 1.0) * 100.0 } else { 0.0 };
        return Decision::rest(format!(
            "the fullest agent is {above:.1} % above the mean, within the tolerance of {:.1} %",
            spec.tolerance * 100.0
        ));
    };
    let fullest = &agents[fired.fullest];
    let name = fullest.seen.name.clone();
    if fullest.seen.index.is_some_and(|index| index.indexing || index.saving) {
        return Decision::rest(format!("the fullest agent, {name}, is building or saving its index"));
    }
    Decision {
        act: true,
        reason: format!("{name} is the fullest agent; {:.1} % of it is above the mean", fired.rate * 100.0),
        fullest: Some(name),
        rate: Some(fired.rate),
    }
}

/// Named agents must be there.
fn unknown_agents(spec: &RebalanceSpec, agents: &[ConfiguredAgent]) -> Option<Failure> {
    let unknown: Vec<&str> = spec
        .agents
        .iter()
        .filter(|name| !agents.iter().any(|agent| agent.seen.name == **name))
        .map(String::as_str)
        .collect();
    if unknown.is_empty() {
        return None;
    }
    let known: Vec<&str> = agents.iter().map(|agent| agent.seen.name.as_str()).collect();
    let message = format!("the spec names {}, but the cluster has {}", unknown.join(", "), known.join(", "));
    Some(Failure::permanent("agent_unknown", message).detail("stage", "configure"))
}

/// Looks at the cluster and decides.
async fn configure(cx: &TaskContext, spec: &RebalanceSpec) -> Result<Configured, Failure> {
    let replicas = replicas(cx, spec).await?;
    if replicas == 1 && spec.journal == JournalUse::Off && !spec.allow_without_journal && !spec.only_plans() {
        let message = "the cluster has one copy of each id, and the journal is off";
        return Err(Failure::permanent("journal_needed", message)
            .hint("leave journal out, or set allow_without_journal: a copy that something else removes is then lost"));
    }
    let seen = look(cx, spec).await?;
    let purpose = spec.purpose();
    let mut warnings = Vec::new();
    let mut lost = if purpose == RunMode::Recovery { lost(spec, &seen) } else { Vec::new() };
    lost.retain(|name| {
        let back = seen.iter().any(|agent| agent.name == *name && agent.is_reachable());
        if back {
            warnings.push(format!("{name} answers again and is not recovered"));
        }
        !back
    });
    let mut agents = mark(spec, seen, &lost);
    for name in &lost {
        if !agents.iter().any(|agent| agent.seen.name == *name) {
            agents.push(ConfiguredAgent {
                seen: SeenAgent {
                    name: name.clone(),
                    address: String::new(),
                    index: None,
                    trouble: Some("nobody lists it any more".into()),
                    memory_usage: None,
                    memory_limit: None,
                },
                weight: 1.0,
                zone: None,
                state: AgentState::Lost,
            });
        }
    }
    if let Some(failure) = unknown_agents(spec, &agents).filter(|_| purpose != RunMode::Recovery) {
        return Err(failure);
    }
    for agent in agents.iter().filter(|agent| agent.state == AgentState::Unreachable) {
        let why = agent.seen.trouble.as_deref().unwrap_or("it does not answer");
        warnings.push(format!("{} is neither source nor destination: {why}", agent.seen.name));
    }
    let decision = match purpose {
        RunMode::Deviation => {
            let history = History::of(cx.work_dir(), &spec.cluster_name());
            let cooling = history.cooling(cx.clock().wall(), spec.cool_down.0).filter(|_| !spec.only_plans());
            let cooling = cooling.map(|(last, left)| {
                format!("job {} ended less than {} ago; {} s are left", last.job, spec.cool_down, left.as_secs())
            });
            deviation(spec, &agents, cooling)
        }
        RunMode::Recovery if lost.is_empty() => Decision::rest("no agent is lost"),
        RunMode::Recovery => Decision::act(format!("{} is lost", lost.join(", "))),
        RunMode::Drain => Decision::act(format!("{} is to be emptied", spec.agents.join(", "))),
        RunMode::Manual | RunMode::Plan => Decision::act("a person asked for it"),
    };
    Ok(Configured {
        cluster: spec.cluster_name(),
        purpose,
        index_replica: replicas,
        spread: spread(&agents),
        agents,
        lost,
        decision,
        warnings,
    })
}

/// The tasks that follow: one scan per agent, and the calculation that needs them all.
fn following(cx: &TaskContext, configured: &Configured) -> Vec<TaskSpec> {
    let me = cx.spec().id;
    // Of several lost agents each is judged by itself: one unusable backup does not keep the others from recovery.
    let apart = configured.lost.len() > 1;
    let mut calculate = cx
        .new_task(crate::plan_task::CALCULATE, "plan")
        .requires(me)
        .reference("/configured", me, "")
        .input(serde_json::json!({ "configure": me, "scans": {} }));
    let mut tasks = Vec::new();
    for (n, agent) in configured.agents.iter().enumerate() {
        let input = crate::scan::ScanInput { index: n, agent: agent.clone() };
        let scan = cx
            .new_task(crate::scan::SCAN, agent.seen.name.clone())
            .requires(me)
            .input(serde_json::to_value(input).unwrap_or_default());
        calculate = if apart && agent.state == AgentState::Lost {
            calculate.after(scan.id)
        } else {
            calculate.requires(scan.id).reference(format!("/scans/{n}"), scan.id, "")
        };
        tasks.push(scan);
    }
    tasks.push(calculate);
    tasks
}

/// The task type `rebalance.configure`.
#[derive(Debug, Default)]
pub struct ConfigureTask;

impl ConfigureTask {
    /// The type, as the engine wants it.
    #[must_use]
    pub fn shared() -> Arc<dyn TaskType> {
        Arc::new(Self)
    }
}

#[async_trait]
impl TaskType for ConfigureTask {
    fn name(&self) -> &'static str {
        CONFIGURE
    }

    fn policy(&self) -> Policy {
        patient()
    }

    fn changes_outside(&self) -> bool {
        false
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = RebalanceSpec::parse(cx.job_spec())?;
        let configured = configure(cx, &spec).await?;
        for warning in &configured.warnings {
            cx.warn("agents", warning.clone()).await;
        }
        let add = if configured.decision.act { following(cx, &configured) } else { Vec::new() };
        let output = serde_json::to_value(&configured).map_err(|error| {
            Failure::permanent("output", "the state of the cluster cannot be stored").caused_by(&error)
        })?;
        Ok(Finished { output, add })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover::IndexCount;

    #[expect(clippy::needless_pass_by_value, reason = "reads better where it is called")]
    fn spec(members: serde_json::Value) -> RebalanceSpec {
        let mut value = serde_json::json!({
            "index_replica": 1,
            "cluster": {"agents": [
                {"name": "a-0", "address": "x:1"}, {"name": "a-1", "address": "x:2"}, {"name": "a-2", "address": "x:3"},
            ]},
            "backups": "memory:///x",
        });
        for (name, member) in members.as_object().unwrap() {
            value[name.as_str()] = member.clone();
        }
        RebalanceSpec::parse(&value).unwrap()
    }

    fn seen(name: &str, stored: Option<u32>) -> SeenAgent {
        SeenAgent {
            name: name.into(),
            address: "x:1".into(),
            index: stored.map(|stored| IndexCount { stored, uncommitted: 0, indexing: false, saving: false }),
            trouble: None,
            memory_usage: None,
            memory_limit: None,
        }
    }

    fn cluster(spec: &RebalanceSpec, counts: [Option<u32>; 3]) -> Vec<ConfiguredAgent> {
        let seen = counts.iter().enumerate().map(|(n, count)| seen(&format!("a-{n}"), *count)).collect();
        mark(spec, seen, &[])
    }

    #[test]
    fn the_check_fires_only_when_one_agent_is_beyond_the_tolerance() {
        let spec = spec(serde_json::json!({}));
        let calm = deviation(&spec, &cluster(&spec, [Some(105), Some(100), Some(100)]), None);
        assert!(!calm.act && calm.reason.contains("within the tolerance of 10.0 %"), "{calm:?}");
        let fired = deviation(&spec, &cluster(&spec, [Some(800), Some(500), Some(500)]), None);
        assert!(fired.act);
        assert_eq!(fired.fullest.as_deref(), Some("a-0"));
        assert!((fired.rate.unwrap() - 0.25).abs() < 1e-9);
        assert!(!deviation(&spec, &cluster(&spec, [Some(0), Some(0), Some(0)]), None).act);
    }

    #[test]
    fn the_check_rests_while_an_agent_is_missing_busy_or_the_cool_down_lasts() {
        let spec = spec(serde_json::json!({}));
        let missing = deviation(&spec, &cluster(&spec, [Some(800), None, Some(500)]), None);
        assert!(!missing.act && missing.reason.contains("no answer from a-1"), "{missing:?}");
        let full = cluster(&spec, [Some(800), Some(500), Some(500)]);
        assert!(!deviation(&spec, &full, Some("cooling".into())).act);
        let mut busy = full;
        busy[0].seen.index.as_mut().unwrap().saving = true;
        assert!(!deviation(&spec, &busy, None).act);
    }

    #[test]
    fn memory_is_a_ratio_only_when_every_agent_has_a_limit() {
        let spec = spec(serde_json::json!({"measure": "memory", "cluster": {"discoverer": "d:1", "size": 3}}));
        let mut agents = cluster(&spec, [Some(1), Some(1), Some(1)]);
        for (agent, usage) in agents.iter_mut().zip([0.8, 0.5, 0.5]) {
            agent.seen.memory_usage = Some(usage * 1e9);
            agent.seen.memory_limit = Some(1e9);
        }
        assert!((deviation(&spec, &agents, None).rate.unwrap() - 0.25).abs() < 1e-9);
        // 0.56 against a mean of 0.5: above 0.5 × 1.1 but not above 0.5 + 0.1.
        for (agent, usage) in agents.iter_mut().zip([0.56, 0.47, 0.47]) {
            agent.seen.memory_usage = Some(usage * 1e9);
        }
        assert!(!deviation(&spec, &agents, None).act);
        agents[1].seen.memory_limit = None;
        assert!(deviation(&spec, &agents, None).act);
    }

    #[test]
    fn lost_agents_are_those_named_silent_or_missing() {
        let all = [seen("a-0", Some(1)), seen("a-1", None)];
        let named = spec(serde_json::json!({"mode": "recovery", "agents": ["a-9"]}));
        assert_eq!(lost(&named, &all), ["a-9"]);
        let sized = spec(serde_json::json!({"mode": "recovery", "cluster": {"discoverer": "d:1", "size": 4}}));
        assert_eq!(lost(&sized, &all), ["a-1", "a-2", "a-3"]);
    }

    #[test]
    fn agents_are_marked_by_what_they_can_be_used_for() {
        let spec = spec(serde_json::json!({"mode": "drain", "agents": ["a-1"]}));
        let mut all = vec![seen("a-0", Some(1)), seen("a-1", Some(1)), seen("a-2", None)];
        all[0].memory_usage = Some(9.0);
        all[0].memory_limit = Some(10.0);
        let states: Vec<AgentState> = mark(&spec, all, &[]).iter().map(|agent| agent.state).collect();
        assert_eq!(states, [AgentState::Full, AgentState::Drained, AgentState::Unreachable]);
    }

    #[test]
    fn the_spread_is_by_weight() {
        let spec = spec(serde_json::json!({}));
        let mut agents = cluster(&spec, [Some(900), Some(450), Some(450)]);
        assert!((spread(&agents).unwrap() - 1.5).abs() < 1e-9);
        agents[0].weight = 2.0;
        assert!((spread(&agents).unwrap() - 1.0).abs() < 1e-9);
        assert_eq!(spread(&cluster(&spec, [Some(0), Some(0), None])), None);
    }
}
