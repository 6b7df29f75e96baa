//! The spec of a rebalance job: what people write under `spec:` in a job file.
//!
//! [`RebalanceSpec::parse`] reads one that [`check`] found no fault in; [`schema`] is its JSON Schema. Fields keep
//! the defaults of the documentation; those that depend on another field are `None` until they are asked for through
//! a method.

mod check;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_engine::kind::SpecFault;
use windlass_model::Failure;

pub use self::check::check;
pub use windlass_model::quantity::{NotAQuantity, Size, Span};

/// What the job is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunMode {
    /// Evens out all agents if one is too full: the periodic check. Does nothing otherwise.
    #[default]
    Deviation,
    /// Moves every copy off the named agents, before they are removed.
    Drain,
    /// Brings the copies that were on lost agents back to the wanted number.
    Recovery,
    /// Evens out on a person's word, with given agents, rate or limits.
    Manual,
    /// Makes and keeps the plan for `plan_for`, and moves nothing.
    Plan,
}

impl RunMode {
    /// The name in job files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deviation => "deviation",
            Self::Drain => "drain",
            Self::Recovery => "recovery",
            Self::Manual => "manual",
            Self::Plan => "plan",
        }
    }
}

/// Where a secret is. The secret itself is never written into a job file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretPlace {
    /// The environment variable that holds it.
    Env(String),
    /// The file that holds it; white space at its end is dropped.
    File(String),
}

/// Where the backups are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Backups {
    /// Blob URL: `s3://bucket/prefix?endpoint=…&region=…&style=virtual-host`, `gs://`, `az://`, `file:///folder`.
    Url(String),
    /// The same with settings.
    Place(Box<BackupPlace>),
}

impl Default for Backups {
    fn default() -> Self {
        Self::Url(String::new())
    }
}

impl Backups {
    /// The blob URL.
    #[must_use]
    pub fn url(&self) -> &str {
        match self {
            Self::Url(url) => url,
            Self::Place(place) => &place.url,
        }
    }

    /// The settings, defaults where none were written.
    #[must_use]
    pub fn place(&self) -> BackupPlace {
        match self {
            Self::Url(url) => BackupPlace { url: url.clone(), ..BackupPlace::default() },
            Self::Place(place) => (**place).clone(),
        }
    }
}

/// Object storage with its time-outs, retries and credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["url"]))]
pub struct BackupPlace {
    /// Blob URL of the bucket or folder, with an optional prefix.
    pub url: String,
    /// Time allowed for a connection to stand.
    pub connect_timeout: Span,
    /// Time allowed without a byte arriving.
    pub idle_timeout: Span,
    /// Requests in a row that may fail before the read does. Every byte that arrives starts the count afresh.
    #[schemars(range(min = 1))]
    pub attempts: u32,
    /// Longest wait between two tries.
    pub backoff_cap: Span,
    /// Credentials that are not in the usual environment variables: the variable's usual name, and where its value
    /// is instead.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, SecretPlace>,
}

impl Default for BackupPlace {
    fn default() -> Self {
        Self {
            url: String::new(),
            connect_timeout: Span::seconds(10),
            idle_timeout: Span::seconds(30),
            attempts: 6,
            backoff_cap: Span::seconds(30),
            credentials: BTreeMap::new(),
        }
    }
}

/// One agent of a listed cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentSpec {
    /// Name of the pod, which is also what its backup is named after: `vald-agent-0`.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Where it answers: `host:port`.
    #[schemars(length(min = 1))]
    pub address: String,
    /// Its share of all copies compared with the others'.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub weight: f64,
    /// Zone that fails as a whole. Copies of one id are kept in different zones where that can be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Read-only replica of another agent: neither source nor destination. Nothing in its answers gives it away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_replica: bool,
}

fn one() -> f64 {
    1.0
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSpec {
    /// Name under which at most one rebalance job runs at a time. Without it, the place of the backups stands in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Address of the load-balancing gateway, asked for the replica number and for counts, nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Address of the Discoverer, asked for the agents and their memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discoverer: Option<String>,
    /// Name of the agents' set, for the Discoverer.
    pub agent_set: String,
    /// Namespace of the agents' set, for the Discoverer; empty for all.
    pub namespace: String,
    /// Port that agents found through the Discoverer answer at.
    #[schemars(range(min = 1))]
    pub agent_port: u16,
    /// The agents, where there is no Discoverer or other weights, zones or addresses are wanted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentSpec>,
    /// Agents there should be. A periodic check does nothing while another number runs; a recovery takes the
    /// missing ones for lost. Without it: the number of listed agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub size: Option<u32>,
    /// File with the certificates (PEM) that sign the agents', for `https://` addresses. Without it: the machine's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            name: None,
            gateway: None,
            discoverer: None,
            agent_set: "vald-agent".into(),
            namespace: String::new(),
            agent_port: 8081,
            agents: Vec::new(),
            size: None,
            ca_file: None,
        }
    }
}

/// How backups are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Decided by the first bytes.
    #[default]
    Auto,
    /// A plain tar.
    None,
    /// Gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// LZ4 frames.
    Lz4,
    /// A gob stream of byte slices.
    Gob,
}

impl Packing {
    /// The name in job files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Gob => "gob",
        }
    }
}

/// How much of a backup is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadMode {
    /// Until the id map and the times are decoded. Checksums at the end are not seen.
    Fast,
    /// To the end of the object, every checksum included.
    Full,
}

impl ReadMode {
    /// The name in job files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Full => "full",
        }
    }
}

/// When an agent's ids are listed from the live agent instead of read from its backup. Listing transfers all vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ListLive {
    /// Never: an agent without a usable backup fails the job before anything moves.
    #[default]
    Never,
    /// When its backup is missing or cannot be used.
    Fallback,
    /// Always: backups are not read at all.
    Always,
}

/// What fullness is measured in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Copies per unit of weight.
    #[default]
    Copies,
    /// Memory usage, divided by the limit where every agent has one. Needs the Discoverer.
    Memory,
}

/// What the destination must have reached before the source copy is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Verified in the destination's queue: lost if it crashes.
    Queued,
    /// In its index.
    Committed,
    /// On its disk.
    Saved,
    /// In its backup.
    BackedUp,
}

/// What counts as the same vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// All elements equal, bit for bit.
    Exact,
    /// Same dimension, relative error of each element at most 1e-5.
    #[default]
    Close,
    /// Only the times are compared.
    Timestamp,
}

/// Whether vectors under way are kept on local disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JournalUse {
    /// On when there is one copy of each id, else off.
    #[default]
    Auto,
    /// On.
    On,
    /// Off. With one copy of each id this needs `allow_without_journal`.
    Off,
}

/// Who commits on destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Commit {
    /// The job asks for it.
    #[default]
    Call,
    /// The cluster does it on its own schedule; the job waits.
    Wait,
}

/// Whether ids of a lost agent that no living agent holds are put back from the backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Restore {
    /// When there is one copy of each id, or every agent that could hold another is lost too. Otherwise the likelier
    /// reason is that the id was deleted, and restoring would bring it back.
    #[default]
    Auto,
    /// Always, at the risk of bringing deleted ids back.
    Always,
    /// Never; such ids are counted and listed.
    Never,
}

/// Limits on the speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RateLimit {
    /// Moves a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub moves: Option<f64>,
    /// Vector bytes a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1))]
    pub bytes: Option<Size>,
}

/// A rebalance job: which cluster, where its backups are, what to even out, and how carefully.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "rebalance", extend("required" = ["cluster", "backups"]))]
pub struct RebalanceSpec {
    /// What the job is for.
    pub mode: RunMode,
    /// In mode `plan`: what the plan is for. Default: `deviation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_for: Option<RunMode>,
    /// Names of agents: those to empty (`drain`), those that are lost (`recovery`), or those that may give copies
    /// away (`manual`; none means all).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<String>,
    /// Share of its copies that the fullest agent, or each named one, gives away. Computed when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub rate: Option<f64>,
    /// Copies that each id should have, on different agents. Read from the gateway when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub index_replica: Option<u32>,
    /// The cluster.
    pub cluster: ClusterSpec,
    /// Where the agents' index backups are: a blob URL, or an object with `url` and settings.
    pub backups: Backups,
    /// Object key of an agent's backup. `{agent}` and `{suffix}` are filled in.
    pub backup_key: String,
    /// End of the keys of backups. Says nothing about the compression.
    pub suffix: String,
    /// End of the keys of small objects that hold only the id map, tried before the backups. Empty: there are none.
    pub kvsdb_suffix: String,
    /// How backups are packed.
    pub compression: Packing,
    /// How much of a backup is read. Default: `full` for recovery, else `fast`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_mode: Option<ReadMode>,
    /// Age from which a backup is refused.
    pub max_backup_age: Span,
    /// Uses backups that are too old or that their agent marked as invalid, with a warning.
    pub force: bool,
    /// When ids are listed from the live agent instead.
    pub list_live: ListLive,
    /// Width of the band around an agent's target within which it is left alone, as a share of it.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub tolerance: f64,
    /// Smallest computed rate that a periodic check acts on.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub rate_threshold: f64,
    /// What fullness is measured in.
    pub measure: Measure,
    /// Time after a finished job in which periodic checks do nothing.
    pub cool_down: Span,
    /// Time after its move in which an id is not moved again.
    pub hold_off: Span,
    /// Most transfers of one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_moves: Option<u64>,
    /// Most vector bytes transferred in one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1))]
    pub max_bytes: Option<Size>,
    /// Ids that may fail before the job pauses. Default: 1 % of the plan or 1 000, whichever is larger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<u64>,
    /// Moves under way at once, all agents together.
    #[schemars(range(min = 1, max = 10_000))]
    pub parallelism: u32,
    /// Requests under way at once to one agent.
    #[schemars(range(min = 1, max = 10_000))]
    pub per_agent_parallelism: u32,
    /// Limits on the speed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Ids of one chunk, the unit of checkpoint and of commit.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub chunk: u32,
    /// What the destination must have reached before a source copy is removed. Default: `saved`, or `backed_up` for
    /// agents that are not persistent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// Whether agents keep their index on a volume that survives a restart.
    pub agents_persistent: bool,
    /// Memory use above which an agent is not a destination, as a share of its limit, where both are known.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))]
    pub max_fill: f64,
    /// What counts as the same vector.
    pub verify: Verify,
    /// Whether vectors of an unfinished chunk are kept on local disk.
    pub journal: JournalUse,
    /// Allows one copy of each id and no journal together: a copy that something else removes is then lost.
    pub allow_without_journal: bool,
    /// Who commits on destinations.
    pub commit: Commit,
    /// Recovery of ids that no living agent holds.
    pub restore_unseen: Restore,
    /// Time allowed for one call to an agent.
    pub call_timeout: Span,
    /// Time allowed for a commit or save on an agent.
    pub commit_timeout: Span,
    /// Memory for reading backups and for planning, together.
    #[schemars(extend("minimum" = 16_777_216))]
    pub memory_limit: Size,
    /// Limit on the decompressed bytes of one backup.
    #[schemars(extend("minimum" = 1))]
    pub max_plain_bytes: Size,
    /// Seed of the choice of ids. The same seed picks the same ids again.
    pub seed: u64,
}

impl Default for RebalanceSpec {
    fn default() -> Self {
        Self {
            mode: RunMode::default(),
            plan_for: None,
            agents: Vec::new(),
            rate: None,
            index_replica: None,
            cluster: ClusterSpec::default(),
            backups: Backups::default(),
            backup_key: "{agent}{suffix}".into(),
            suffix: ".tar.gz".into(),
            kvsdb_suffix: String::new(),
            compression: Packing::default(),
            read_mode: None,
            max_backup_age: Span::seconds(48 * 3600),
            force: false,
            list_live: ListLive::default(),
            tolerance: 0.1,
            rate_threshold: 0.05,
            measure: Measure::default(),
            cool_down: Span::seconds(30 * 60),
            hold_off: Span::seconds(24 * 3600),
            max_moves: None,
            max_bytes: None,
            max_failures: None,
            parallelism: 30,
            per_agent_parallelism: 8,
            rate_limit: None,
            chunk: 5_000,
            durability: None,
            agents_persistent: true,
            max_fill: 0.85,
            verify: Verify::default(),
            journal: JournalUse::default(),
            allow_without_journal: false,
            commit: Commit::default(),
            restore_unseen: Restore::default(),
            call_timeout: Span::seconds(30),
            commit_timeout: Span::seconds(30 * 60),
            memory_limit: Size(256 << 20),
            max_plain_bytes: Size(1 << 40),
            seed: 0,
        }
    }
}

impl RebalanceSpec {
    /// Reads a spec. `value` is one that [`check`] was asked about; faults it found are not looked for again.
    ///
    /// # Errors
    ///
    /// `spec_invalid` with every fault, when there is one.
    pub fn parse(value: &Value) -> Result<Self, Failure> {
        let faults = check(value);
        if faults.is_empty() {
            return serde_json::from_value(value.clone())
                .map_err(|error| spec_invalid(&[SpecFault::new("", error.to_string())]));
        }
        Err(spec_invalid(&faults))
    }

    /// What is planned: `mode`, or in mode `plan` what the plan is for.
    #[must_use]
    pub fn purpose(&self) -> RunMode {
        match self.mode {
            RunMode::Plan => self.plan_for.unwrap_or_default(),
            mode => mode,
        }
    }

    /// Whether the job ends with the plan.
    #[must_use]
    pub fn only_plans(&self) -> bool {
        self.mode == RunMode::Plan
    }

    /// How much of a backup is read.
    #[must_use]
    pub fn read_mode(&self) -> ReadMode {
        let recovery = self.purpose() == RunMode::Recovery;
        self.read_mode.unwrap_or(if recovery { ReadMode::Full } else { ReadMode::Fast })
    }

    /// What the destination must have reached before a source copy is removed.
    #[must_use]
    pub fn durability(&self) -> Durability {
        let default = if self.agents_persistent { Durability::Saved } else { Durability::BackedUp };
        self.durability.unwrap_or(default)
    }

    /// Whether vectors of an unfinished chunk are kept on disk, with `replicas` copies of each id.
    #[must_use]
    pub fn journals(&self, replicas: u32) -> bool {
        match self.journal {
            JournalUse::Auto => replicas == 1,
            JournalUse::On => true,
            JournalUse::Off => false,
        }
    }

    /// The name under which at most one job runs at a time.
    #[must_use]
    pub fn cluster_name(&self) -> String {
        let place = || self.backups.url().split('?').next().unwrap_or_default().trim_end_matches('/').to_owned();
        self.cluster.name.clone().unwrap_or_else(place)
    }

    /// The object key of the backup of `agent`.
    #[must_use]
    pub fn backup_key(&self, agent: &str) -> String {
        self.backup_key.replace("{suffix}", &self.suffix).replace("{agent}", agent)
    }

    /// The object key of the small object with the id map of `agent`, if there are such objects.
    #[must_use]
    pub fn kvsdb_key(&self, agent: &str) -> Option<String> {
        (!self.kvsdb_suffix.is_empty()).then(|| format!("{agent}{}", self.kvsdb_suffix))
    }
}

fn spec_invalid(faults: &[SpecFault]) -> Failure {
    let lines: Vec<String> = faults
        .iter()
        .map(|fault| {
            if fault.pointer.is_empty() {
                fault.message.clone()
            } else {
                format!("{}: {}", fault.pointer, fault.message)
            }
        })
        .collect();
    Failure::permanent("spec_invalid", format!("the spec cannot be used: {}", lines.join("; ")))
}

/// The JSON Schema of a spec (draft 2020-12), without references, so that editors and the checker read it alike.
#[must_use]
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<RebalanceSpec>().to_value();
    // Defaults of what has to be written mislead.
    for member in ["backups", "cluster"] {
        if let Some(property) = schema.pointer_mut(&format!("/properties/{member}")).and_then(Value::as_object_mut) {
            property.remove("default");
        }
    }
    schema
}
