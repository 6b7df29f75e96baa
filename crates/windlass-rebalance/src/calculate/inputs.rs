//! What a plan is made from: the agents, the wishes of the caller, and lists of copies that can be read again.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::error::{BoxError, CalculateError};

/// Position of an agent in [`PlanRequest::agents`], in the order the caller gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentIndex(pub usize);

/// One copy of an id on one agent, as its list gives it. Reused from entry to entry, so that nothing is allocated
/// per copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyEntry {
    /// The id: any bytes, may be empty, may be 100 000 bytes long.
    pub id: Vec<u8>,
    /// Unix time in nanoseconds; the newest wins. 0 for an id without a time.
    pub time: i64,
    /// Object number inside that agent's index engine.
    pub number: u32,
    /// The agent found this copy to be broken; its id is counted and never touched.
    pub invalid: bool,
}

/// The copies on one agent in strictly ascending bytewise order of ids.
pub trait SortedCopies {
    /// Puts the next copy into `into` and returns true, or returns false at the end, and then for ever.
    ///
    /// # Errors
    /// Whatever kept the list from being read; the planner adds the agent's name and gives up.
    fn next(&mut self, into: &mut CopyEntry) -> Result<bool, BoxError>;
}

/// Ids in ascending bytewise order; the same id twice is harmless.
pub trait SortedIds {
    /// Puts the next id into `into`, replacing what was there, and returns true; or returns false at the end.
    ///
    /// # Errors
    /// Whatever kept the list from being read.
    fn next(&mut self, into: &mut Vec<u8>) -> Result<bool, BoxError>;
}

/// Why an id is treated apart from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Moved less than the hold-off time ago: repaired when needed, but not moved.
    HeldOff,
    /// Found to have different vectors under the same time. The lists show no vectors, so this is known only from an
    /// earlier comparison of the live agents; such an id is reported and left alone.
    Conflicting,
}

impl Mark {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::HeldOff => "held-off",
            Self::Conflicting => "conflicting",
        }
    }
}

/// Gives the lists. Each may be opened several times (the planner reads all of them at least once and at most a
/// handful of times) and MUST give the same entries each time; a difference is found and refused.
pub trait CopyLists {
    /// Opens the list of one agent at its beginning.
    ///
    /// # Errors
    /// Whatever kept the list from being opened.
    fn open(&self, agent: AgentIndex) -> Result<Box<dyn SortedCopies + '_>, BoxError>;

    /// Opens the list of the ids that bear a mark, or `None` when there are none.
    ///
    /// # Errors
    /// Whatever kept the list from being opened.
    fn open_marked(&self, mark: Mark) -> Result<Option<Box<dyn SortedIds + '_>>, BoxError> {
        let _ = mark;
        Ok(None)
    }
}

/// What an agent may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Source and destination.
    Member,
    /// Filled above `max_fill`: a source, but not a destination.
    Full,
    /// To be emptied: its target is 0 and it is not a destination.
    Drained,
    /// Gone: its list is that of its last backup and its copies do not count.
    Lost,
    /// Does not answer. Its copies count; a plan that would touch it is refused, except that a recovery simply puts
    /// nothing on it.
    Unreachable,
}

impl AgentState {
    /// The word used for it in texts and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Full => "full",
            Self::Drained => "drained",
            Self::Lost => "lost",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Where the list of an agent's copies came from. Not used for planning, only written into the plan document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListOrigin {
    /// Object key of the backup, or a description of the listing of the live agent.
    pub key: String,
    /// Entity tag of the object, as the store gave it.
    pub etag: Option<String>,
    /// Age of the backup in seconds when the plan was made.
    pub age_seconds: Option<u64>,
    /// `fast`, `full` or `live`.
    pub read_mode: String,
}

/// One agent as the planner sees it.
#[derive(Clone, Debug)]
pub struct AgentInput {
    /// Name, such as `vald-agent-0`; unique.
    pub name: String,
    /// Its share compared with the others', above 0. 1 for equal shares, or the agent's memory limit.
    pub weight: f64,
    /// What it may be used for; [`Mode::Drain`] and [`Mode::Recovery`] override it for the agents they name.
    pub state: AgentState,
    /// Failure zone. Agents without one are in no zone in common with any other.
    pub zone: Option<String>,
    /// False when the times of this agent's list are unknown (a backup of an old agent): its copies are then taken
    /// to be as new as any.
    pub times_known: bool,
    /// Where the list came from.
    pub origin: Option<ListOrigin>,
}

impl AgentInput {
    /// A member of weight 1 without a zone.
    #[must_use]
    pub fn member(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            weight: 1.0,
            state: AgentState::Member,
            zone: None,
            times_known: true,
            origin: None,
        }
    }
}

/// What the plan is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Mode {
    /// Evens out all agents.
    Deviation,
    /// Moves every copy off the named agents, and moves nothing else.
    Drain {
        /// Names of the agents to empty.
        // Beside the agents of a plan document, in which the mode is embedded.
        #[serde(rename = "drained")]
        agents: Vec<String>,
    },
    /// Brings the copies that were on the lost agents back to R, and touches no other id.
    Recovery {
        /// Names of the lost agents.
        lost: Vec<String>,
    },
    /// Like deviation, but takes copies only from the named agents; all of them when the list is empty.
    Manual {
        /// Names of the agents that may give copies away.
        #[serde(rename = "from")]
        agents: Vec<String>,
    },
}

impl Mode {
    /// The word used for it in texts and in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Deviation => "deviation",
            Self::Drain { .. } => "drain",
            Self::Recovery { .. } => "recovery",
            Self::Manual { .. } => "manual",
        }
    }

    fn named(&self) -> &[String] {
        match self {
            Self::Deviation => &[],
            Self::Drain { agents } | Self::Manual { agents } => agents,
            Self::Recovery { lost } => lost,
        }
    }
}

/// Whether an id of a lost agent that no living agent holds is put back from the backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreUnseen {
    /// When R is 1, or when R lost agents held it: else it was most likely deleted after the backup.
    #[default]
    Auto,
    /// Always, at the risk of bringing deleted ids back.
    Always,
    /// Never; such ids are only listed.
    Never,
}

/// Everything a plan depends on apart from the lists.
#[derive(Clone, Debug)]
pub struct PlanRequest {
    /// The agents, in any order; the plan does not depend on it.
    pub agents: Vec<AgentInput>,
    /// What for.
    pub mode: Mode,
    /// R, the wanted number of copies of an id, at least 1.
    pub index_replica: u32,
    /// Width of the band around a target, as a share of it; at least 0. 0.1 allows 10 % more or less.
    pub tolerance: f64,
    /// Moves exactly `floor(rate × copies)` copies off the named agents (of a manual plan) or the fullest one, in
    /// (0, 1]; the band is then not looked at. Modes deviation and manual only.
    pub rate: Option<f64>,
    /// The most transfers (refreshes, restores, fills and moves together) of this plan.
    pub max_moves: Option<u64>,
    /// The most vector bytes transferred by this plan.
    pub max_bytes: Option<u64>,
    /// Estimated bytes of one vector: dimension × bytes of an element.
    pub vector_bytes: u64,
    /// The most ids of one chunk, at least 1.
    pub chunk: u32,
    /// Seed of the hash that says which ids move.
    pub seed: u64,
    /// What to do with unseen ids in a recovery.
    pub restore_unseen: RestoreUnseen,
    /// The most ids of each kind given to [`super::ChunkSink::reported`]; all are counted.
    pub max_listed: u64,
    /// Bytes the planner's own structures may hold, at least 1 MiB.
    pub memory: usize,
}

/// Enough for thousands of holder sets and for buffers that make few, long writes.
pub const DEFAULT_MEMORY: usize = 128 << 20;

impl PlanRequest {
    /// A request with the defaults of the configuration: tolerance 0.1, chunks of 5 000 ids, no limits.
    #[must_use]
    pub fn new(agents: Vec<AgentInput>, mode: Mode, index_replica: u32) -> Self {
        Self {
            agents,
            mode,
            index_replica,
            tolerance: 0.1,
            rate: None,
            max_moves: None,
            max_bytes: None,
            vector_bytes: 0,
            chunk: 5000,
            seed: 0,
            restore_unseen: RestoreUnseen::Auto,
            max_listed: 10_000,
            memory: DEFAULT_MEMORY,
        }
    }
}

/// An agent under the number the planner uses: its position in the natural order of names.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) input: AgentInput,
    pub(crate) given: AgentIndex,
    pub(crate) state: AgentState,
    /// Number of its zone; agents without a zone have `None`.
    pub(crate) zone: Option<u16>,
    /// It was named by the mode.
    pub(crate) named: bool,
}

impl Agent {
    /// Its copies count towards R.
    pub(crate) fn lives(&self) -> bool {
        self.state != AgentState::Lost
    }

    /// It is to keep copies after the plan.
    pub(crate) fn stays(&self) -> bool {
        !matches!(self.state, AgentState::Lost | AgentState::Drained)
    }
}

/// The agents in the order all of the planner uses, which does not depend on the order they were given in.
pub(crate) fn arrange(request: &PlanRequest) -> Result<Vec<Agent>, CalculateError> {
    let mut faults = faults_of(request);
    let named: BTreeSet<&str> = request.mode.named().iter().map(String::as_str).collect();
    let mut zones: BTreeSet<&str> = BTreeSet::new();
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for agent in &request.agents {
        if !names.insert(&agent.name) {
            faults.push(format!("agent {} is named twice", agent.name));
        }
        if !(agent.weight.is_finite() && agent.weight > 0.0) {
            faults.push(format!("the weight of agent {} is {}, it must be above 0", agent.name, agent.weight));
        }
        zones.extend(agent.zone.as_deref());
    }
    for name in named.difference(&names) {
        faults.push(format!("mode {} names agent {name}, which is not among the agents", request.mode.name()));
    }
    if !faults.is_empty() {
        return Err(CalculateError::Request { faults });
    }

    let zones: Vec<&str> = zones.into_iter().collect();
    let mut agents: Vec<Agent> = request
        .agents
        .iter()
        .enumerate()
        .map(|(given, input)| {
            let named = named.contains(input.name.as_str());
            let zone = input.zone.as_deref().and_then(|zone| zones.binary_search(&zone).ok());
            let state = match (&request.mode, named) {
                (Mode::Drain { .. }, true) if input.state != AgentState::Unreachable => AgentState::Drained,
                (Mode::Recovery { .. }, true) => AgentState::Lost,
                _ => input.state,
            };
            // At most 65 535 agents were let in, and so no more zones.
            let zone = zone.map(|at| u16::try_from(at).unwrap_or(u16::MAX));
            Agent { input: input.clone(), given: AgentIndex(given), state, zone, named }
        })
        .collect();
    agents.sort_by(|a, b| natural(&a.input.name, &b.input.name));

    if let (Mode::Drain { .. }, Some(agent)) =
        (&request.mode, agents.iter().find(|agent| agent.named && agent.state == AgentState::Unreachable))
    {
        return Err(CalculateError::NeedsUnreachable { agent: agent.input.name.clone(), copies: 0 });
    }
    let stay = agents.iter().filter(|agent| agent.stays()).count();
    let recovery = matches!(request.mode, Mode::Recovery { .. });
    if !recovery && (request.index_replica as usize) > stay {
        return Err(CalculateError::TooFewAgents { replicas: request.index_replica, agents: stay });
    }
    Ok(agents)
}

fn faults_of(request: &PlanRequest) -> Vec<String> {
    let mut faults = Vec::new();
    if request.agents.is_empty() {
        faults.push("there is no agent".to_owned());
    }
    if request.agents.len() > usize::from(u16::MAX) {
        faults.push(format!("{} agents are more than 65535", request.agents.len()));
    }
    if request.index_replica == 0 {
        faults.push("index_replica is 0, it must be at least 1".to_owned());
    }
    if !(request.tolerance.is_finite() && request.tolerance >= 0.0) {
        faults.push(format!("tolerance is {}, it must be 0 or more", request.tolerance));
    }
    if request.chunk == 0 {
        faults.push("chunk is 0, it must be at least 1".to_owned());
    }
    if request.memory < 1 << 20 {
        faults.push(format!("the memory for planning is {} bytes, it must be at least 1 MiB", request.memory));
    }
    if let Some(rate) = request.rate {
        if !(rate > 0.0 && rate <= 1.0) {
            faults.push(format!("rate is {rate}, it must be above 0 and at most 1"));
        }
        if !matches!(request.mode, Mode::Deviation | Mode::Manual { .. }) {
            faults.push(format!("rate means nothing in mode {}; leave it out", request.mode.name()));
        }
    }
    if matches!(&request.mode, Mode::Drain { agents } if agents.is_empty()) {
        faults.push("mode drain names no agent".to_owned());
    }
    let lost_by_state = request.agents.iter().any(|agent| agent.state == AgentState::Lost);
    if matches!(&request.mode, Mode::Recovery { lost } if lost.is_empty()) && !lost_by_state {
        faults.push("mode recovery names no lost agent".to_owned());
    }
    faults
}

/// Orders names the way people count: `agent-2` before `agent-10`. Only the trailing number is special.
pub(crate) fn natural(a: &str, b: &str) -> Ordering {
    let split = |name: &str| {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let digits = name[stem..].trim_start_matches('0').to_owned();
        (name[..stem].to_owned(), digits)
    };
    let ((stem_a, digits_a), (stem_b, digits_b)) = (split(a), split(b));
    // Numbers without leading zeros compare by length, then by digits, whatever their size.
    stem_a
        .cmp(&stem_b)
        .then_with(|| digits_a.len().cmp(&digits_b.len()))
        .then_with(|| digits_a.cmp(&digits_b))
        .then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ordered_by_their_ordinal() {
        let mut names =
            ["a-10", "a-2", "b-1", "a-1", "a", "a-02", "a-99999999999999999999999", "a-100000000000000000000000"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(
            names,
            ["a", "a-1", "a-02", "a-2", "a-10", "a-99999999999999999999999", "a-100000000000000000000000", "b-1"]
        );
    }

    #[test]
    fn all_faults_of_a_request_are_told_at_once() {
        let mut bad = AgentInput::member("a-0");
        bad.weight = 0.0;
        let mut request =
            PlanRequest::new(vec![bad, AgentInput::member("a-0")], Mode::Drain { agents: vec!["x".into()] }, 0);
        request.chunk = 0;
        request.rate = Some(1.5);
        request.tolerance = f64::NAN;
        let text = arrange(&request).unwrap_err().to_string();
        for part in ["index_replica", "tolerance", "chunk", "rate is 1.5", "named twice", "weight", "names agent x"] {
            assert!(text.contains(part), "{part} is missing in: {text}");
        }
    }

    #[test]
    fn a_drain_that_leaves_too_few_agents_is_refused() {
        let agents = vec![AgentInput::member("a-0"), AgentInput::member("a-1")];
        let request = PlanRequest::new(agents, Mode::Drain { agents: vec!["a-1".into()] }, 2);
        assert!(matches!(arrange(&request), Err(CalculateError::TooFewAgents { replicas: 2, agents: 1 })));
    }

    #[test]
    fn an_agent_that_does_not_answer_cannot_be_drained() {
        let mut silent = AgentInput::member("a-1");
        silent.state = AgentState::Unreachable;
        let request =
            PlanRequest::new(vec![AgentInput::member("a-0"), silent], Mode::Drain { agents: vec!["a-1".into()] }, 1);
        assert!(matches!(arrange(&request), Err(CalculateError::NeedsUnreachable { .. })));
    }
}
