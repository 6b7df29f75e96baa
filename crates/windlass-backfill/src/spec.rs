//! What a `backfill` job is told.

use std::path::PathBuf;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use windlass_engine::kind::SpecFault;
use windlass_engine::shape;
use windlass_model::Failure;
use windlass_model::quantity::{Size, Span};

/// What a job does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Merges late rows into the days they belong to.
    #[default]
    Backfill,
    /// Archives what is older than the table's delay, and merges late rows on the way.
    Archive,
}

/// The spec of a job of kind `backfill`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillSpec {
    /// The home of the table: its folder on this machine, as `windlass table ls` shows it.
    pub table: String,
    /// What to do. Default: `backfill`.
    #[serde(default)]
    pub action: Action,
    /// The shard. Default: 0.
    #[serde(default)]
    pub shard: u32,
    /// `archive`: what happened longer ago is archived. Default: the table's own delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// `archive`: up to this second since 1970, instead of a delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutoff: Option<i64>,
    /// Bytes of the ingest log that one commit takes; what is beyond comes in the next. Bounds memory. Default: 64 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_run: Option<Size>,
}

static SCHEMA: LazyLock<Value> = LazyLock::new(shape::schema_of::<BackfillSpec>);

/// The JSON Schema.
pub(crate) fn schema() -> Value {
    SCHEMA.clone()
}

/// Every fault that can be seen without looking at the world.
pub(crate) fn check(spec: &Value) -> Vec<SpecFault> {
    shape::check(&SCHEMA, spec, BackfillSpec::faults)
}

impl BackfillSpec {
    /// Reads a checked spec.
    pub(crate) fn parse(spec: &Value) -> Result<Self, Failure> {
        shape::read("backfill", spec)
    }

    /// The home of the table.
    pub(crate) fn home(&self) -> PathBuf {
        PathBuf::from(&self.table)
    }

    /// Bytes of the log that one run takes.
    pub(crate) fn most_bytes(&self) -> u64 {
        self.max_run.map_or(64 << 20, |size| size.0)
    }

    fn faults(&self, faults: &mut Vec<SpecFault>) {
        if self.table.is_empty() {
            faults.push(SpecFault::new(
                "/table",
                "name the folder of the table; `windlass table ls` shows which there are",
            ));
        }
        let unused = [("delay", self.delay.is_some()), ("cutoff", self.cutoff.is_some())];
        for (name, _) in unused.iter().filter(|(_, given)| *given && self.action == Action::Backfill) {
            faults.push(SpecFault::new(format!("/{name}"), format!("the action `backfill` has no use for `{name}`")));
        }
        if self.delay.is_some() && self.cutoff.is_some() {
            faults.push(SpecFault::new("/cutoff", "either `delay` or `cutoff` says up to when to archive"));
        }
        if self.max_run.is_some_and(|size| size.0 < 1 << 10) {
            faults.push(SpecFault::new("/max_run", "at least 1 KiB"));
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
    fn faults_are_found_with_their_place() {
        assert_eq!(pointers(&json!({"table": "/t"})), Vec::<String>::new());
        assert_eq!(pointers(&json!({"table": "/t", "action": "archive", "delay": "1d"})), Vec::<String>::new());
        assert_eq!(pointers(&json!({"table": ""})), ["/table"]);
        assert_eq!(pointers(&json!({"table": "/t", "delay": "1d"})), ["/delay"]);
        assert_eq!(pointers(&json!({"table": "/t", "action": "archive", "delay": "1d", "cutoff": 5})), ["/cutoff"]);
        assert_eq!(pointers(&json!({"table": "/t", "max_run": 1})), ["/max_run"]);
        assert!(!pointers(&json!({"tabel": "/t"})).is_empty());
    }
}
