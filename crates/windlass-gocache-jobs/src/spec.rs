//! What a `gocache` job is told.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_blob::BlobUrl;
use windlass_engine::kind::SpecFault;
use windlass_engine::shape;
use windlass_model::Failure;
use windlass_model::quantity::Span;

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Deletes from `remote` what no build of the last `keep` used.
    Collect,
    /// Fetches into `folder` what the last builds of `namespaces` used, from `remote`.
    Warm,
    /// Copies to `to` what it lacks of `remote`.
    Copy,
    /// Reads how builds fared that used `folders`, and what builds would find in `remote`.
    Report,
}

/// The spec of a job of kind `gocache`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GocacheSpec {
    /// What to do.
    pub action: Action,
    /// Where builds read and write: `s3://`, `gs://`, `az://` or `file:///`, with its prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// `collect`: what builds of the last days used stays. Default: 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Span>,
    /// `collect`: how long what is to be deleted waits, and how old it must be. Default, and at least, a day and twelve hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Span>,
    /// `warm`: whose last builds, the first counts most. Default: `default`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// `warm`: the local folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// `copy`: the other remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// `report`: local folders on the machine that runs the job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<String>,
}

static SCHEMA: LazyLock<Value> = LazyLock::new(shape::schema_of::<GocacheSpec>);

/// The JSON Schema.
pub(crate) fn schema() -> Value {
    SCHEMA.clone()
}

/// Every fault that can be seen without looking at the world.
pub(crate) fn check(spec: &Value) -> Vec<SpecFault> {
    shape::check(&SCHEMA, spec, GocacheSpec::faults)
}

impl GocacheSpec {
    /// Reads a checked spec.
    pub(crate) fn parse(spec: &Value) -> Result<Self, Failure> {
        shape::read("gocache", spec)
    }

    fn faults(&self, faults: &mut Vec<SpecFault>) {
        let action = serde_json::to_value(self.action).unwrap_or_default();
        let action = action.as_str().unwrap_or_default();
        let mut fault = |name: &str, message: String| faults.push(SpecFault::new(format!("/{name}"), message));
        let needed: &[(&str, bool)] = match self.action {
            Action::Collect => &[("remote", self.remote.is_some())],
            Action::Warm => &[("remote", self.remote.is_some()), ("folder", self.folder.is_some())],
            Action::Copy => &[("remote", self.remote.is_some()), ("to", self.to.is_some())],
            Action::Report => &[],
        };
        for (name, _) in needed.iter().filter(|(_, there)| !there) {
            fault(name, format!("the action `{action}` needs `{name}`"));
        }
        if self.action == Action::Report && self.folders.is_empty() && self.remote.is_none() {
            fault("folders", "the action `report` needs `folders`, `remote`, or both".to_owned());
        }
        let unused = [
            ("keep", self.keep.is_some(), &[Action::Collect][..]),
            ("grace", self.grace.is_some(), &[Action::Collect]),
            ("namespaces", !self.namespaces.is_empty(), &[Action::Warm]),
            ("folder", self.folder.is_some(), &[Action::Warm]),
            ("to", self.to.is_some(), &[Action::Copy]),
            ("folders", !self.folders.is_empty(), &[Action::Report]),
        ];
        for (name, given, of) in unused {
            if given && !of.contains(&self.action) {
                fault(name, format!("the action `{action}` has no use for `{name}`"));
            }
        }
        for (name, url) in [("remote", &self.remote), ("to", &self.to)] {
            if let Some(Err(error)) = url.as_ref().map(|url| url.parse::<BlobUrl>()) {
                fault(name, error.to_string());
            }
        }
        if self.to.is_some() && self.to == self.remote {
            fault("to", "a remote is not copied to itself".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pointers(spec: &Value) -> Vec<String> {
        check(spec).into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn each_action_says_what_it_needs_and_what_it_has_no_use_for() {
        assert_eq!(pointers(&json!({"action": "collect", "remote": "s3://b/p", "keep": "14d"})), Vec::<String>::new());
        assert_eq!(pointers(&json!({"action": "collect"})), ["/remote"]);
        assert_eq!(pointers(&json!({"action": "warm", "remote": "s3://b"})), ["/folder"]);
        assert_eq!(pointers(&json!({"action": "copy", "remote": "s3://b", "to": "s3://b"})), ["/to"]);
        assert_eq!(pointers(&json!({"action": "report"})), ["/folders"]);
        assert_eq!(pointers(&json!({"action": "collect", "remote": "s3://b", "folder": "/x"})), ["/folder"]);
        assert_eq!(pointers(&json!({"action": "collect", "remote": "ftp://b"})), ["/remote"]);
        assert!(!pointers(&json!({"action": "colect", "remote": "s3://b"})).is_empty());
        assert!(!pointers(&json!({"action": "collect", "remote": "s3://b", "kep": "3d"})).is_empty());
    }
}
