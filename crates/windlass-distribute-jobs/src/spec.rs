//! What a `distribute` job is told.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_distribute::hours::Hours;
use windlass_distribute::settings::{Freeze, MOST_SPREADS, Traits, ip_of};
use windlass_distribute::{Fleet, Settings};
use windlass_engine::kind::SpecFault;
use windlass_engine::shape;
use windlass_model::Failure;
use windlass_model::quantity::Span;

use crate::door::ListenTls;
use crate::feeds::Inputs;
use crate::pace::Bandwidth;

/// Whose rules decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Ours.
    #[default]
    Product,
    /// Those of the program that this one replaces, mistakes included: for comparing.
    Legacy,
}

/// What a node's agent understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wire {
    /// `windlass agent`.
    #[default]
    V2,
    /// An old agent, which polls `listen` for its tasks.
    Legacy,
}

/// How the files of a source reach another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Serves {
    /// Its agent serves them over HTTP.
    #[default]
    Http,
    /// The other node reads the origin's folder itself.
    Mount,
    /// The other node starts the old copying program.
    Program,
}

/// Where a secret is; it is never written into the job file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SecretFrom {
    /// The environment variable that holds it.
    Env(String),
    /// The file that holds it; white space around it does not count.
    File(PathBuf),
}

impl SecretFrom {
    /// Looks the secret up.
    ///
    /// # Errors
    ///
    /// When it is not there; the failure names the reference, never the secret.
    pub(crate) fn read(&self) -> Result<String, Failure> {
        let missing = |what: String| {
            Failure::permanent("no_secret", what).hint("set it where the worker runs, or mend the reference in the job")
        };
        let text = match self {
            Self::Env(name) => std::env::var(name)
                .map_err(|_| missing(format!("the environment variable {name}, which holds a token, is not set")))?,
            Self::File(path) => std::fs::read_to_string(path)
                .map_err(|error| missing(format!("the token file {} cannot be read: {error}", path.display())))?,
        };
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(missing("a token is empty or holds characters that no header can carry".to_owned()));
        }
        Ok(text.to_owned())
    }
}

const fn yes() -> bool {
    true
}

const fn hundred() -> u32 {
    100
}

const fn is_hundred(value: &u32) -> bool {
    *value == 100
}

const fn is_true(value: &bool) -> bool {
    *value
}

const fn is_false(value: &bool) -> bool {
    !*value
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// `IP:PORT` of its agent, as the agent knows it.
    pub address: String,
    /// It can read the origin.
    #[serde(default, skip_serializing_if = "is_false")]
    pub source: bool,
    /// It has a disk to place files on.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub destination: bool,
    /// What its agent understands.
    #[serde(default)]
    pub wire: Wire,
    /// The token that its agent wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretFrom>,
    /// Of a source: how its files reach other nodes. The node itself reads its own folder.
    #[serde(default)]
    pub serves: Serves,
    /// Whether its agent speaks TLS. Default: beyond this machine `windlass agent` does; old agents have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<bool>,
    /// Where it stands, and other words about it: copies are placed apart by those that `rules.spread` names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How much it takes beside others of its size, in percent: 200 is twice as much.
    #[serde(default = "hundred", skip_serializing_if = "is_hundred")]
    pub weight: u32,
    /// Bits per second that it may send in all; each of its transfers gets its part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_second: Option<u64>,
    /// Hours in which nothing is changed on it, and it may be away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintenance: Vec<Hours>,
    /// It is emptied: it takes nothing, and its files are placed elsewhere.
    #[serde(default, skip_serializing_if = "is_false")]
    pub drain: bool,
    /// Nothing on it is changed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
}

impl Node {
    /// What the rules know of it.
    fn traits(&self) -> Traits {
        Traits {
            weight: self.weight,
            labels: self.labels.clone(),
            maintenance: self.maintenance.clone(),
            // Old agents serve nothing.
            serves_copies: self.wire == Wire::V2 && self.serves == Serves::Http,
        }
    }

    /// Whether its agent speaks TLS.
    pub(crate) fn speaks_tls(&self) -> bool {
        let far = !ip_of(&self.address).and_then(|ip| ip.parse().ok()).is_some_and(|ip: IpAddr| ip.is_loopback());
        self.tls.unwrap_or(self.wire == Wire::V2 && far)
    }

    /// Where its agent answers, with the scheme.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.speaks_tls() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

/// How agents are verified, and what is shown to them: files in PEM where the job runs. They are read again when they
/// change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The roots that the agents' certificates are verified with. Those of the system without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// A certificate for agents that want one of their clients (`--client-ca`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

impl Tls {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// How nodes are looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Watch {
    /// How often. Default: 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// How long the first byte of an answer, and each further piece, may take. Default: 5 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<Span>,
    /// How long a listing may take as a whole. Default: a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listing: Option<Span>,
    /// Nodes that are asked at the same time. Default: 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_a_time: Option<usize>,
}

/// The spec of a job of kind `distribute`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DistributeSpec {
    /// What agents know this controller by; two jobs that share nodes must not share it. Default: `distribute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// Terms that are over: this controller's come after it. For a job whose state is lost, once it is sure that the job
    /// before does not work any more; nodes say the number when they refuse.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub after_term: u64,
    /// Where what is to be decided comes from.
    pub inputs: Inputs,
    /// All servers.
    pub nodes: Vec<Node>,
    /// The numbers of the rules.
    #[serde(default)]
    pub rules: Settings,
    /// How nodes are looked at.
    #[serde(default)]
    pub watch: Watch,
    /// How agents are verified, and what is shown to them.
    #[serde(default, skip_serializing_if = "Tls::is_usual")]
    pub tls: Tls,
    /// How fast a transfer may go, in bits per second; without it as fast as it can. Old agents hand it to their
    /// copying program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_second: Option<u64>,
    /// The same by the hour: the first hours that cover the beginning of a transfer count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bandwidth: Vec<Bandwidth>,
    /// `IP:PORT` on which old agents ask for their tasks, and where the pages are. Old agents need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// The certificate that is shown there. Beyond this machine it is needed, unless old agents alone ask there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_tls: Option<ListenTls>,
    /// What old agents ask, the pages among it, is answered there in the clear: they have no TLS.
    #[serde(default, skip_serializing_if = "is_false")]
    pub old_wire_plain: bool,
    /// The token that paths below `/v2/` there want. Without it they are answered to this machine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_token: Option<SecretFrom>,
    /// After so long without a word from a node its transfer counts as lost. Default: a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke_grace: Option<Span>,
    /// Decides and shows what it would do, and does nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dry_run: bool,
    /// What is held back at once.
    #[serde(default, skip_serializing_if = "is_no")]
    pub freeze: Freeze,
    /// Whose rules decide.
    #[serde(default)]
    pub profile: Profile,
    /// The profile `legacy` may delete.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_legacy_deletes: bool,
}

const fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_no(freeze: &Freeze) -> bool {
    *freeze == Freeze::No
}

static SCHEMA: LazyLock<Value> = LazyLock::new(shape::schema_of::<DistributeSpec>);

/// The JSON Schema.
pub(crate) fn schema() -> Value {
    SCHEMA.clone()
}

/// Every fault that can be seen without looking at the world.
pub(crate) fn check(spec: &Value) -> Vec<SpecFault> {
    shape::check(&SCHEMA, spec, DistributeSpec::faults)
}

/// A span of time, or the usual one.
pub(crate) fn span(given: Option<Span>, otherwise: Duration) -> Duration {
    given.map_or(otherwise, |span| span.0)
}

impl DistributeSpec {
    /// Reads a checked spec.
    pub(crate) fn parse(spec: &Value) -> Result<Self, Failure> {
        shape::read("distribute", spec)
    }

    fn faults(&self, faults: &mut Vec<SpecFault>) {
        let mut fault = |at: String, what: String| faults.push(SpecFault::new(at, what));
        let mut seen = HashSet::new();
        for (n, node) in self.nodes.iter().enumerate() {
            let at = format!("/nodes/{n}");
            if ip_of(&node.address).is_none() {
                let text =
                    format!("`{}` is no address: write it as IP:PORT, for example 10.20.1.70:28888", node.address);
                fault(format!("{at}/address"), text);
            }
            if !seen.insert(&node.address) {
                let text = format!("the node {} is listed twice: remove one of the two entries", node.address);
                fault(format!("{at}/address"), text);
            }
            if !node.source && !node.destination {
                fault(at.clone(), "a node is a source, a destination, or both".to_owned());
            }
            if node.wire == Wire::Legacy && node.destination && self.listen.is_none() {
                let text = "an old agent asks for its tasks: say with `listen` where this job answers".to_owned();
                fault(format!("{at}/wire"), text);
            }
            if node.wire == Wire::Legacy && node.token.is_some() {
                fault(format!("{at}/token"), "old agents know no token".to_owned());
            }
            if node.wire == Wire::Legacy && node.tls == Some(true) {
                fault(format!("{at}/tls"), "old agents have no TLS".to_owned());
            }
            if node.weight == 0 || node.weight > 10_000 {
                fault(format!("{at}/weight"), "1 to 10000 percent; `drain: true` empties a node".to_owned());
            }
            if node.bits_per_second == Some(0) {
                fault(format!("{at}/bits_per_second"), "a source that may send nothing is none".to_owned());
            }
            let usual = Node { tls: None, ..node.clone() };
            if node.tls == Some(false) && usual.speaks_tls() {
                let text = "beyond this machine tokens and files go over TLS: give its agent a certificate".to_owned();
                fault(format!("{at}/tls"), text);
            }
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            fault("/tls".to_owned(), "a certificate and its key belong together".to_owned());
        }
        for (list, place) in [(&self.rules.drain, "drain"), (&self.rules.read_only, "read_only")] {
            if !list.is_empty() {
                fault(format!("/rules/{place}"), format!("say `{place}: true` at each node instead"));
            }
        }
        if !self.rules.servers.is_empty() {
            fault("/rules/servers".to_owned(), "say it at each node instead".to_owned());
        }
        for (n, label) in self.rules.spread.iter().enumerate() {
            if n >= MOST_SPREADS {
                fault("/rules/spread".to_owned(), format!("at most {MOST_SPREADS} labels can be told apart"));
                break;
            }
            if !self.nodes.iter().any(|node| node.labels.contains_key(label)) {
                fault(format!("/rules/spread/{n}"), format!("no node has the label `{label}`"));
            }
        }
        if self.rules.copies_from_catalogue.is_some_and(|wishes| wishes.min == 0 || wishes.min > wishes.max) {
            let text = "`min` is at least 1, and `max` not below it".to_owned();
            fault("/rules/copies_from_catalogue".to_owned(), text);
        }
        if let Some(n) = self.bandwidth.iter().position(|row| row.bits_per_second == Some(0)) {
            let text = "a transfer that may not move never ends: say `fill_hours` in `rules` instead".to_owned();
            fault(format!("/bandwidth/{n}/bits_per_second"), text);
        }
        if self.rules.freeze != Freeze::No {
            fault("/rules/freeze".to_owned(), "say `freeze` beside `rules` instead".to_owned());
        }
        if !self.nodes.iter().any(|node| node.source) || !self.nodes.iter().any(|node| node.destination) {
            fault("/nodes".to_owned(), "at least one source and one destination are needed".to_owned());
        }
        if self.rules.limit_percent > 100 {
            fault("/rules/limit_percent".to_owned(), "a node cannot use more than 100 % of its disk".to_owned());
        }
        if self.watch.at_a_time == Some(0) {
            fault("/watch/at_a_time".to_owned(), "at least one node has to be asked at a time".to_owned());
        }
        let id = self.controller();
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if id.is_empty() || id.len() > 64 || !id.bytes().all(letter) {
            let text = "1 to 64 of the letters, digits, `-`, `_` and `.` are needed".to_owned();
            fault("/controller".to_owned(), text);
        }
        self.listen_faults(faults);
        self.inputs.faults(faults);
    }

    /// What agents know this controller by.
    pub(crate) fn controller(&self) -> &str {
        self.controller.as_deref().unwrap_or("distribute")
    }

    /// The numbers of the rules, with what is said elsewhere in the spec.
    pub(crate) fn settings(&self) -> Settings {
        let those = |pick: fn(&Node) -> bool| {
            self.nodes.iter().filter(|node| pick(node)).map(|node| node.address.clone()).collect()
        };
        Settings {
            drain: those(|node| node.drain),
            read_only: those(|node| node.read_only),
            freeze: self.freeze,
            servers: self.nodes.iter().map(|node| (node.address.clone(), node.traits())).collect(),
            ..self.rules.clone()
        }
    }

    /// All servers.
    pub(crate) fn fleet(&self, settings: &Settings) -> Result<Fleet, Failure> {
        let those = |pick: fn(&Node) -> bool| -> Vec<String> {
            self.nodes.iter().filter(|node| pick(node)).map(|node| node.address.clone()).collect()
        };
        Fleet::new(&those(|node| node.source), &those(|node| node.destination), settings)
            .map_err(|error| Failure::permanent("invalid_spec", error.to_string()))
    }

    /// The node of an address.
    pub(crate) fn node(&self, address: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.address == address)
    }

    pub(crate) fn watch_every(&self) -> Duration {
        span(self.watch.every, Duration::from_secs(30)).max(Duration::from_millis(20))
    }

    pub(crate) fn patience(&self) -> Duration {
        span(self.watch.patience, Duration::from_secs(5)).max(Duration::from_millis(20))
    }

    pub(crate) fn listing_patience(&self) -> Duration {
        span(self.watch.listing, Duration::from_secs(60)).max(Duration::from_millis(20))
    }

    pub(crate) fn at_a_time(&self) -> usize {
        self.watch.at_a_time.unwrap_or(64).max(1)
    }

    pub(crate) fn revoke_grace(&self) -> Duration {
        span(self.revoke_grace, Duration::from_secs(60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Value {
        json!({
            "inputs": { "grades": "/in/.grade.info", "history": "/in/.hitcount.history",
                "origin": { "folders": ["/san"] } },
            "nodes": [
                { "address": "10.0.0.1:28888", "source": true, "token": { "env": "TOKEN" } },
                { "address": "10.0.0.2:28888" },
            ],
            "rules": { "limit_percent": 80 },
        })
    }

    fn faults(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut spec = good();
        change(&mut spec);
        check(&spec).into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn a_spec_is_read_and_comes_back_as_it_was() {
        assert_eq!(check(&good()), Vec::new());
        let spec = DistributeSpec::parse(&good()).unwrap();
        assert_eq!(spec.settings().limit_percent, 80);
        assert_eq!(spec.fleet(&spec.settings()).unwrap().len(), 2);
        let again = serde_json::to_value(&spec).unwrap();
        assert_eq!(DistributeSpec::parse(&again).unwrap(), spec);
    }

    #[test]
    fn what_cannot_be_meant_is_told_at_its_place() {
        assert_eq!(faults(|spec| spec["nodes"][1]["address"] = json!("10.0.0.1:28888")), ["/nodes/1/address"]);
        assert_eq!(faults(|spec| spec["nodes"][1]["address"] = json!("ten")), ["/nodes/1/address"]);
        assert_eq!(faults(|spec| spec["nodes"][1]["wire"] = json!("legacy")), ["/nodes/1/wire"]);
        assert_eq!(faults(|spec| spec["nodes"][0]["source"] = json!(false)), ["/nodes"]);
        assert_eq!(faults(|spec| spec["rules"]["drain"] = json!(["10.0.0.1:28888"])), ["/rules/drain"]);
        assert_eq!(faults(|spec| spec["rules"]["limit_percent"] = json!(101)), ["/rules/limit_percent"]);
        assert_eq!(faults(|spec| spec["listen"] = json!("nowhere")), ["/listen"]);
        assert_eq!(faults(|spec| spec["controller"] = json!("a b")), ["/controller"]);
        assert_eq!(faults(|spec| spec["inputs"]["origin"]["folders"] = json!([])), ["/inputs/origin/folders"]);
        assert_eq!(faults(|spec| spec["inputs"]["catalogue"] = json!("/c.jsonl")), ["/inputs"]);
        assert_eq!(faults(|spec| spec["nodes"][1]["weight"] = json!(0)), ["/nodes/1/weight"]);
        assert_eq!(faults(|spec| spec["rules"]["spread"] = json!(["rack"])), ["/rules/spread/0"]);
        assert_eq!(faults(|spec| spec["rules"]["servers"] = json!({ "10.0.0.1:28888": {} })), ["/rules/servers"]);
        let hours = json!({ "from": "01:00", "to": "06:00" });
        let never = json!([{ "hours": hours, "bits_per_second": 0 }]);
        assert_eq!(faults(|spec| spec["bandwidth"] = never), ["/bandwidth/0/bits_per_second"]);
        assert!(!faults(|spec| spec["rules"]["fill_hours"] = json!([{ "from": "1:00", "to": "06:00" }])).is_empty());
        assert_eq!(faults(|spec| spec["nodes"][0]["tls"] = json!(false)), ["/nodes/0/tls"]);
        assert_eq!(faults(|spec| spec["tls"] = json!({ "certificate": "/c.pem" })), ["/tls"]);
        assert!(!faults(|spec| spec["rules"]["limit_procent"] = json!(1)).is_empty());
        assert!(!faults(|spec| spec["nodes"][0]["token"] = json!("secret")).is_empty());
    }

    #[test]
    fn beyond_this_machine_agents_of_ours_speak_tls() {
        let node = |change: Value| {
            let mut node = json!({ "address": "10.0.0.1:28888" });
            node.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            serde_json::from_value::<Node>(node).unwrap().url()
        };
        assert_eq!(node(json!({})), "https://10.0.0.1:28888");
        assert_eq!(node(json!({ "wire": "legacy" })), "http://10.0.0.1:28888");
        assert_eq!(node(json!({ "address": "127.0.0.3:28888" })), "http://127.0.0.3:28888");
        assert_eq!(node(json!({ "address": "127.0.0.3:28888", "tls": true })), "https://127.0.0.3:28888");
    }

    #[test]
    fn a_token_is_looked_up_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, " abc\n").unwrap();
        assert_eq!(SecretFrom::File(path.clone()).read().unwrap(), "abc");
        std::fs::write(&path, "a b").unwrap();
        assert!(!SecretFrom::File(path).read().unwrap_err().to_string().contains("a b"));
        assert!(SecretFrom::Env("WINDLASS_NO_SUCH_TOKEN".into()).read().is_err());
    }
}
