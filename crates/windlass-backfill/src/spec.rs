//! What a `backfill` job is told.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

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
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub table: String,
    /// With `keep`, instead of `table`: a folder with homes, all of whose tables are looked after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<String>,
    /// Makes the job a standing one: it does not end, and merges whenever it is time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
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
    /// Memory that the merges of this job share on each worker; those that want more wait for others. Default: 1 GiB, of
    /// which all jobs take that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
}

/// When a standing job merges.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// How often it looks. Default: 15s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// A log is merged when so many bytes wait in it. Default: each table's `soft_limit_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft: Option<Size>,
    /// A log is merged when a late row has waited so long. Default: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
    /// Where only live rows come, the checkpoint is moved so often. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<Span>,
    /// So often what is older than the table's delay is archived. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_every: Option<Span>,
    /// Logs that are merged at a time. Default: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_a_time: Option<u32>,
}

impl Keep {
    pub(crate) fn every(&self) -> Duration {
        self.every.map_or(Duration::from_secs(15), |span| span.0)
    }

    pub(crate) fn max_age(&self) -> Duration {
        self.max_age.map_or(Duration::from_secs(300), |span| span.0)
    }

    pub(crate) fn checkpoint_every(&self) -> Duration {
        self.checkpoint_every.map_or(Duration::from_secs(3600), |span| span.0)
    }

    pub(crate) fn at_a_time(&self) -> usize {
        self.at_a_time.map_or(4, |n| n as usize)
    }

    fn faults(&self, faults: &mut Vec<SpecFault>) {
        let spans = [
            ("every", self.every),
            ("max_age", self.max_age),
            ("checkpoint_every", self.checkpoint_every),
            ("archive_every", self.archive_every),
        ];
        for (name, _) in spans.iter().filter(|(_, span)| span.is_some_and(|span| span.0 < Duration::from_secs(1))) {
            faults.push(SpecFault::new(format!("/keep/{name}"), "at least 1s"));
        }
        if self.at_a_time == Some(0) {
            faults.push(SpecFault::new("/keep/at_a_time", "at least 1"));
        }
    }
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
        if self.table.is_empty() && self.tables.is_none() {
            faults.push(SpecFault::new(
                "/table",
                "name the folder of the table; `windlass table ls` shows which there are",
            ));
        }
        match (&self.tables, &self.keep) {
            (Some(_), _) if !self.table.is_empty() => {
                faults.push(SpecFault::new("/tables", "either `table` or `tables` says what is looked after"));
            }
            (Some(_), None) => faults.push(SpecFault::new("/tables", "`tables` goes with `keep`")),
            (Some(folder), Some(_)) if folder.is_empty() => {
                faults.push(SpecFault::new("/tables", "name the folder with the homes of the tables"));
            }
            _ => {}
        }
        if let Some(keep) = &self.keep {
            keep.faults(faults);
            let unused = [
                ("action", self.action != Action::Backfill),
                ("shard", self.shard > 0),
                ("cutoff", self.cutoff.is_some()),
            ];
            for (name, _) in unused.iter().filter(|(_, given)| *given) {
                let why = format!("a job with `keep` has no use for `{name}`: it looks after all logs");
                faults.push(SpecFault::new(format!("/{name}"), why));
            }
        }
        if self.memory.is_some_and(|size| size.0 < 64 << 20) {
            faults.push(SpecFault::new("/memory", "at least 64 MiB"));
        }
        let unused = [("delay", self.delay.is_some()), ("cutoff", self.cutoff.is_some())];
        let merges_only = self.action == Action::Backfill && self.keep.is_none();
        for (name, _) in unused.iter().filter(|(_, given)| *given && merges_only) {
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
        assert_eq!(pointers(&json!({"tables": "/t", "keep": {"max_age": "5m"}})), Vec::<String>::new());
        assert_eq!(pointers(&json!({"tables": "/t"})), ["/tables"]);
        assert_eq!(pointers(&json!({"table": "/a", "tables": "/t", "keep": {}})), ["/tables"]);
        let odd = json!({"table": "/t", "shard": 1, "keep": {"every": "1ms", "at_a_time": 0}});
        assert_eq!(pointers(&odd), ["/keep/every", "/keep/at_a_time", "/shard"]);
        assert_eq!(pointers(&json!({"table": "/t", "memory": "1 MiB"})), ["/memory"]);
        assert_eq!(pointers(&json!({"table": ""})), ["/table"]);
        assert_eq!(pointers(&json!({"table": "/t", "delay": "1d"})), ["/delay"]);
        assert_eq!(pointers(&json!({"table": "/t", "action": "archive", "delay": "1d", "cutoff": 5})), ["/cutoff"]);
        assert_eq!(pointers(&json!({"table": "/t", "max_run": 1})), ["/max_run"]);
        assert!(!pointers(&json!({"tabel": "/t"})).is_empty());
    }
}
