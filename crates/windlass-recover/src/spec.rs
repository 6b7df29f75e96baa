//! What a `recover` job is told.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_engine::shape;
use windlass_model::Failure;
use windlass_model::quantity::{Size, Span};
use windlass_openstack::Site;

use crate::inventory::{Instance, Inventory};

/// A drill or the real thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Build, look, remove.
    #[default]
    Drill,
    /// Build, and keep when confirmed.
    Migrate,
}

/// A site: by the name under which this process knows it, or in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SiteRef {
    /// A name of the process's own configuration.
    Named(String),
    /// A description.
    Inline(Box<Site>),
}

impl SiteRef {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::Inline(site) => &site.name,
        }
    }
}

/// The spec of a job of kind `recover`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoverSpec {
    /// The protection group, as people call it.
    pub group: String,
    /// A drill or the real thing.
    #[serde(default)]
    pub mode: Mode,
    /// The site that is protected. Needed when there is no inventory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SiteRef>,
    /// The site to recover at.
    pub target: SiteRef,
    /// What there is at the protected site. Without it, it is read from `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// Names or ids of the instances to read from `source`. Empty: with an inventory all of its instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// What stands for what at the other site.
    #[serde(default)]
    pub map: Mapping,
    /// How instances are started and looked at. What is not named starts as soon as it can.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstancePlan>,
    /// What several instances have in common: how they are started and looked at, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub templates: BTreeMap<String, Template>,
    /// Groups of instances of which each waits for the one before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<Wave>,
    /// The moment at which the inventory was read that this plan was written for. A later inventory is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub for_inventory: Option<Timestamp>,
    /// How old the inventory may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_inventory_age: Option<Span>,
    /// How volumes get there.
    #[serde(default)]
    pub volumes: VolumePlan,
    /// How old data may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<Span>,
    /// How long it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto: Option<Span>,
    /// Whether floating addresses come along. Drills next to a living site leave them out.
    #[serde(default = "yes")]
    pub floating_ips: bool,
    /// How often states are looked at.
    #[serde(default)]
    pub pace: Pace,
}

fn yes() -> bool {
    true
}

/// What stands for what at the other site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Mapping {
    /// External networks: name or id here, name or id there. An empty name: none.
    pub external_networks: BTreeMap<String, String>,
    /// Availability zones. What is not named is left to the site.
    pub zones: BTreeMap<String, String>,
    /// Names of projects. What is not named gets a name of its own.
    pub tenants: BTreeMap<String, String>,
    /// Whether a migration asks for the same floating addresses; the external network there must have them.
    pub keep_addresses: bool,
}

/// How an instance is started and looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InstancePlan {
    /// The instance, by name or id.
    pub name: String,
    /// What comes before it.
    #[serde(default)]
    pub after: Vec<After>,
    /// What shows that it works.
    #[serde(default)]
    pub diagnose: Vec<Check>,
    /// Whether it stays running. Default: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_start: Option<bool>,
    /// The zone there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The hypervisor there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<String>,
    /// The question to which a person says yes before it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<String>,
    /// What is done right before it is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Hook>,
    /// What is done once it was seen to work; what comes after it waits for that, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<Hook>,
    /// A template. What is given here counts instead of what the template says; lists are joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

/// What several instances have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Template {
    /// What comes before them.
    pub after: Vec<After>,
    /// What shows that they work.
    pub diagnose: Vec<Check>,
    /// Whether they stay running.
    pub auto_start: Option<bool>,
    /// The zone there.
    pub zone: Option<String>,
    /// The hypervisor there.
    pub hypervisor: Option<String>,
    /// The question to which a person says yes before each.
    pub ask: Option<String>,
    /// What is done right before each is made.
    pub before: Vec<Hook>,
    /// What is done once each was seen to work.
    pub done: Vec<Hook>,
}

/// Instances that are started together, after those of the wave before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// What people call it. Default: its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The instances, by name or id.
    pub instances: Vec<String>,
    /// How far they must be before the next wave begins.
    #[serde(default)]
    pub condition: Condition,
    /// How long to wait before it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// The question to which a person says yes before it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<String>,
    /// What is done before it begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Hook>,
    /// What is done when it is through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<Hook>,
}

/// Something that is done besides: exactly one of `command` and `post`. It may be done more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// A command on the machine that runs the task. Its words, the first is the program. `WINDLASS_GROUP`,
    /// `WINDLASS_MODE`, `WINDLASS_WHAT` and, where there is one, `WINDLASS_ADDRESS` tell it what it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// An address that a JSON document with the same is sent to; a status from 200 to 399 is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post: Option<String>,
    /// How long it may take. Default: 5 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Whether a failure is only a warning.
    #[serde(default)]
    pub warn_only: bool,
}

impl Hook {
    /// Whether it is exactly one thing.
    #[must_use]
    pub fn is_one_thing(&self) -> bool {
        self.command.is_empty() == self.post.is_some()
    }
}

/// How far another instance must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It exists.
    Created,
    /// It runs.
    Active,
    /// It was seen to work.
    #[default]
    Diagnosed,
}

/// An instance that comes before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// The instance, by name or id.
    pub instance: String,
    /// How far it must be.
    #[serde(default)]
    pub condition: Condition,
    /// How long to wait then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
}

/// One look at an instance: exactly one of `port`, `http_get`, `command` and `console`. In all of them `{address}` stands
/// for the first floating address, else the first fixed one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Somebody listens: `{address}:22`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// It answers a GET with a status from 200 to 399: `http://{address}/health`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<String>,
    /// A command on the machine that runs the task succeeds. Its words, the first is the program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The console shows this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<String>,
    /// Between two looks. Default: 5 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Span>,
    /// How long it may take. Default: 5 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Whether a failure is only a warning.
    #[serde(default)]
    pub warn_only: bool,
}

impl Check {
    /// What is looked at, if it is exactly one thing.
    #[must_use]
    pub fn method(&self) -> Option<CheckMethod<'_>> {
        let given = [
            self.port.as_deref().map(CheckMethod::Port),
            self.http_get.as_deref().map(CheckMethod::HttpGet),
            (!self.command.is_empty()).then_some(CheckMethod::Command(&self.command)),
            self.console.as_deref().map(CheckMethod::Console),
        ];
        let mut given = given.into_iter().flatten();
        given.next().filter(|_| given.next().is_none())
    }
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckMethod<'a> {
    /// Somebody listens.
    Port(&'a str),
    /// It answers a GET.
    HttpGet(&'a str),
    /// A command succeeds.
    Command(&'a [String]),
    /// The console shows a text.
    Console(&'a str),
}

/// How volumes get there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VolumePlan {
    /// Replicas are volumes of the target site; snapshots of them become the volumes.
    CinderNative {
        /// The replica of each volume: id here, id there. What is not named is found by its metadata
        /// `windlass_replica_of`.
        #[serde(default)]
        replicas: BTreeMap<String, String>,
        /// Replicas that the storage of the target site has, and its block service does not know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        manage: Option<Box<ManagePlan>>,
    },
    /// Points in object storage become files of a folder that the target site's storage takes over.
    Blob(BlobPlan),
}

/// Replicas that another storage has copied: each is managed until a copy of it is there, and let go again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManagePlan {
    /// The host of the storage, as the block service calls it: `HOST@BACKEND#POOL`.
    pub host: String,
    /// What replicas are called on the storage, with `{id}` in the place of the protected volume's id. Default:
    /// `volume-{id}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What single replicas are called: id of the protected volume, name on the storage.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, String>,
    /// The type that they are managed as, and that the copies have. Default: the site's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
    /// How they get their names back. Needed for drills, unless the storage keeps names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_back: Option<GiveBack>,
    /// Whether the storage leaves what it manages the name that it had.
    #[serde(default)]
    pub keeps_names: bool,
    /// The moment that their data is from, if somebody knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub point: Option<Timestamp>,
}

impl ManagePlan {
    /// What the replica of a volume is called.
    #[must_use]
    pub fn name_of(&self, volume: &str) -> String {
        let usual = || self.name.as_deref().unwrap_or("volume-{id}").replace("{id}", volume);
        self.names.get(volume).cloned().unwrap_or_else(usual)
    }
}

/// How a replica that was managed gets its name back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GiveBack {
    /// Replicas are files of this folder, which the machine that runs the job sees.
    Folder(String),
    /// A command on the machine that runs the job, its words; `{now}` and `{was}` stand for the names. It may be run twice.
    Command(Vec<String>),
}

/// Volumes by way of object storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlobPlan {
    /// Where points are kept: `s3://bucket/folder`, `file:///folder`.
    pub store: String,
    /// The file of each volume of the protected site, with `{id}` in the place of the volume's id; a snapshot, that nobody
    /// writes to. If it is to be seen when the job runs, a new point is kept of it first, of which only what has changed is
    /// sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The folder of the target site's storage, as the machine that runs the job sees it.
    pub to: String,
    /// The host of that storage, as the block service calls it: `HOST@BACKEND#POOL`.
    pub host: String,
    /// The type of the volumes. Default: the site's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<String>,
    /// Recover from the newest point that is not after this moment. Default: the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub point: Option<Timestamp>,
    /// The size of the chunks that a new point is kept with. Default: 4 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<Size>,
}

impl Default for VolumePlan {
    fn default() -> Self {
        Self::CinderNative { replicas: BTreeMap::new(), manage: None }
    }
}

/// How often states are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pace {
    /// Between the first two looks; later ones are further apart. Default: 1 s.
    pub poll: Option<Span>,
    /// How long something may take to be seen that was made. Default: 5 s.
    pub settle: Option<Span>,
}

impl Pace {
    pub(crate) fn poll(&self) -> Duration {
        self.poll.map_or(Duration::from_secs(1), |span| span.0)
    }

    pub(crate) fn settle(&self) -> Duration {
        self.settle.map_or(Duration::from_secs(5), |span| span.0)
    }
}

static SCHEMA: LazyLock<Value> = LazyLock::new(shape::schema_of::<RecoverSpec>);

/// The JSON Schema.
pub(crate) fn schema() -> &'static Value {
    &SCHEMA
}

impl RecoverSpec {
    /// Reads a checked spec.
    pub(crate) fn parse(spec: &Value) -> Result<Self, Failure> {
        shape::read("recover", spec)
    }

    /// The plan of an instance, with what its template says.
    #[must_use]
    pub fn plan_of(&self, instance: &Instance) -> InstancePlan {
        let found = self.instances.iter().find(|plan| plan.name == instance.name || plan.name == instance.id);
        let mut plan = found.cloned().unwrap_or_default();
        let Some(template) = plan.template.as_ref().and_then(|name| self.templates.get(name)).cloned() else {
            return plan;
        };
        plan.after.splice(0..0, template.after);
        plan.diagnose.splice(0..0, template.diagnose);
        plan.before.splice(0..0, template.before);
        plan.done.splice(0..0, template.done);
        plan.auto_start = plan.auto_start.or(template.auto_start);
        plan.zone = plan.zone.or(template.zone);
        plan.hypervisor = plan.hypervisor.or(template.hypervisor);
        plan.ask = plan.ask.or(template.ask);
        plan
    }
}
