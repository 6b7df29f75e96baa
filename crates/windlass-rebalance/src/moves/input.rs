//! What a task `rebalance.move` is given: one chunk of a plan and how to treat it.

use serde::{Deserialize, Serialize};

pub use crate::calculate::ChunkKind;

/// Whether the source loses its copy.
pub(crate) const fn removes(kind: ChunkKind) -> bool {
    matches!(kind, ChunkKind::Trim | ChunkKind::Move)
}

/// An agent and where it answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentAddress {
    /// Its name, `vald-agent-0`.
    pub name: String,
    /// `host:port`, `http://host:port` or `https://host:port`.
    pub address: String,
}

/// A file of ids, written by [`IdListWriter`](super::IdListWriter).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdListRef {
    /// Where it is; relative paths are below the job's work directory.
    pub path: String,
    /// SHA-256 of the whole file, 64 hexadecimal digits.
    pub sha256: String,
    /// Ids in it.
    pub count: u64,
}

/// The backup that restored vectors come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRef {
    /// The lost agent that wrote it.
    pub agent: String,
    /// Key of the object.
    pub key: String,
    /// The version that the plan was made from, as the object store names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// What the destination must reach before a source copy is removed, in rising order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The copy was read back. It is lost if the destination crashes.
    Queued,
    /// It is in the destination's index.
    Committed,
    /// The index has been written to the destination's disk since.
    #[default]
    Saved,
    /// The destination's backup object is newer than that and names every id.
    BackedUp,
}

/// How a copy is compared with its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// All elements equal bit for bit, compared before the commit.
    Exact,
    /// Same dimension and a relative error of at most 1e-5 in each element.
    #[default]
    Close,
    /// Only by time.
    Timestamp,
}

/// Who commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitMode {
    /// The job tells the agent to.
    #[default]
    Call,
    /// The cluster does on its own schedule; the job waits for it.
    Wait,
}

/// How chunks are executed; the same for all chunks of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoveSettings {
    /// Ids under way at once, all chunks of the job on this worker together.
    pub parallelism: usize,
    /// Requests under way at once to one agent.
    pub per_agent_parallelism: usize,
    /// The most copies made in a second; `None`: as many as go.
    pub moves_per_second: Option<f64>,
    /// The most vector bytes copied in a second; `None`: as many as go.
    pub bytes_per_second: Option<f64>,
    /// What the destination must reach.
    pub durability: Durability,
    /// Who commits.
    pub commit: CommitMode,
    /// Whether the source is committed too once the chunk is through, so that its removals last. Without it they
    /// are in the source's queue until its next commit.
    pub commit_source: bool,
    /// How copies are compared.
    pub verify: Verify,
    /// Whether the vectors of an unfinished chunk are kept on disk.
    pub journal: bool,
    /// Ids that may fail before the job pauses; `None`: 1 % of the plan or 1 000, whichever is larger.
    pub max_failures: Option<u64>,
    /// The longest a request may take, in milliseconds.
    pub call_timeout_ms: u64,
    /// The longest a commit or save may take, in milliseconds.
    pub commit_timeout_ms: u64,
    /// The first wait before a request is repeated, in milliseconds; doubles each time, up to 30 s.
    pub backoff_ms: u64,
    /// A file with the certificates that sign the agents' (PEM), for `https` addresses. `None`: the machine's own.
    pub ca_file: Option<String>,
}

impl Default for MoveSettings {
    fn default() -> Self {
        Self {
            parallelism: 30,
            per_agent_parallelism: 8,
            moves_per_second: None,
            bytes_per_second: None,
            durability: Durability::Saved,
            commit: CommitMode::Call,
            commit_source: true,
            verify: Verify::Close,
            journal: false,
            max_failures: None,
            call_timeout_ms: 30_000,
            commit_timeout_ms: 30 * 60_000,
            backoff_ms: 500,
            ca_file: None,
        }
    }
}

/// The input of a task `rebalance.move`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveInput {
    /// The cluster; at most one of its agents commits at a time.
    pub cluster: String,
    /// Position of the chunk in the plan, from 0.
    pub chunk: u64,
    /// What is done.
    pub kind: ChunkKind,
    /// The agent read from, or the one that loses its copy. Absent for a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<AgentAddress>,
    /// The agent written to. Absent for a trim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<AgentAddress>,
    /// All living primary agents, source and destination among them: who else may hold the ids.
    pub agents: Vec<AgentAddress>,
    /// R, the wanted number of copies of an id.
    pub index_replica: u32,
    /// The ids.
    pub list: IdListRef,
    /// Where vectors are restored from; for a restore only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupRef>,
    /// Ids of all chunks of the plan together.
    pub planned: u64,
    /// How to go about it.
    #[serde(default)]
    pub settings: MoveSettings,
}

impl MoveInput {
    /// Ids of the plan that may fail before the job pauses.
    #[must_use]
    pub fn max_failures(&self) -> u64 {
        self.settings.max_failures.unwrap_or_else(|| (self.planned / 100).max(1_000))
    }

    /// What is wrong with the input, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let needs_source = self.kind != ChunkKind::Restore;
        let needs_destination = self.kind != ChunkKind::Trim;
        if needs_source != self.source.is_some() {
            return Some(format!("a {} {} a source", self.kind.name(), need(needs_source)));
        }
        if needs_destination != self.destination.is_some() {
            return Some(format!("a {} {} a destination", self.kind.name(), need(needs_destination)));
        }
        if (self.kind == ChunkKind::Restore) != self.backup.is_some() {
            return Some(format!("a {} {} a backup", self.kind.name(), need(self.kind == ChunkKind::Restore)));
        }
        if self.source.is_some() && self.source == self.destination {
            return Some("source and destination are the same agent".into());
        }
        if self.index_replica == 0 {
            return Some("index_replica is 0; it is at least 1".into());
        }
        if self.settings.parallelism == 0 || self.settings.per_agent_parallelism == 0 {
            return Some("a parallelism is 0; it is at least 1".into());
        }
        let rates = [self.settings.moves_per_second, self.settings.bytes_per_second];
        if rates.into_iter().flatten().any(|rate| !rate.is_finite() || rate <= 0.0) {
            return Some("a rate limit is not above 0".into());
        }
        None
    }
}

const fn need(needed: bool) -> &'static str {
    if needed { "needs" } else { "has no use for" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> AgentAddress {
        AgentAddress { name: name.into(), address: format!("{name}:8081") }
    }

    fn input(kind: ChunkKind) -> MoveInput {
        MoveInput {
            cluster: "c".into(),
            chunk: 0,
            kind,
            source: Some(agent("a")),
            destination: Some(agent("b")),
            agents: vec![agent("a"), agent("b")],
            index_replica: 1,
            list: IdListRef { path: "list".into(), sha256: String::new(), count: 1 },
            backup: None,
            planned: 1,
            settings: MoveSettings::default(),
        }
    }

    #[test]
    fn settings_left_out_have_their_defaults_and_unknown_ones_are_errors() {
        let json = serde_json::json!({"durability": "committed"});
        let settings: MoveSettings = serde_json::from_value(json).unwrap();
        assert_eq!(settings, MoveSettings { durability: Durability::Committed, ..MoveSettings::default() });
        assert!(serde_json::from_value::<MoveSettings>(serde_json::json!({"durable": 1})).is_err());
    }

    #[test]
    fn an_input_survives_json() {
        let input = input(ChunkKind::Move);
        let back: MoveInput = serde_json::from_value(serde_json::to_value(&input).unwrap()).unwrap();
        assert_eq!(back, input);
    }

    #[test]
    fn each_kind_says_what_it_needs() {
        assert_eq!(input(ChunkKind::Move).fault(), None);
        assert!(input(ChunkKind::Trim).fault().unwrap().contains("no use for a destination"));
        assert!(input(ChunkKind::Restore).fault().unwrap().contains("no use for a source"));
        let restore = MoveInput { source: None, ..input(ChunkKind::Restore) };
        assert!(restore.fault().unwrap().contains("needs a backup"));
        let nowhere = MoveInput { destination: Some(agent("a")), ..input(ChunkKind::Move) };
        assert!(nowhere.fault().unwrap().contains("same agent"));
        let stuck = MoveSettings { moves_per_second: Some(0.0), ..MoveSettings::default() };
        assert!(MoveInput { settings: stuck, ..input(ChunkKind::Fill) }.fault().unwrap().contains("rate"));
    }

    #[test]
    fn failures_allowed_are_one_percent_or_a_thousand() {
        assert_eq!(input(ChunkKind::Move).max_failures(), 1_000);
        assert_eq!(MoveInput { planned: 1_000_000, ..input(ChunkKind::Move) }.max_failures(), 10_000);
    }
}
