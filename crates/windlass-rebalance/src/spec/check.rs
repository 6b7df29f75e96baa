//! Finds every fault of a spec at once, each with its place.
//!
//! The first half goes by the JSON Schema, so that a field has one description for editors, documentation and this
//! check. The second half looks at fields that bear on each other. Both read the raw value: one fault never hides
//! another.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::Value;
use windlass_blob::BlobUrl;
use windlass_engine::kind::SpecFault;
use windlass_engine::shape::{Unmarked, nearest, walk};

use super::schema;

static SCHEMA: LazyLock<Value> = LazyLock::new(schema);

/// Every fault of `spec` that can be seen without looking at the world.
#[must_use]
pub fn check(spec: &Value) -> Vec<SpecFault> {
    let mut faults = Vec::new();
    walk(&SCHEMA, spec, "", &mut Unmarked, &mut faults);
    together(spec, &mut faults);
    faults
}

// ---- fields that bear on each other ----

fn text<'v>(spec: &'v Value, pointer: &str) -> Option<&'v str> {
    spec.pointer(pointer).and_then(Value::as_str)
}

fn together(spec: &Value, faults: &mut Vec<SpecFault>) {
    cluster(spec, faults);
    purpose(spec, faults);
    places(spec, faults);
}

/// The names of listed agents that can hold copies.
fn agents_of(spec: &Value) -> Vec<&str> {
    let agents = spec.pointer("/cluster/agents").and_then(Value::as_array).into_iter().flatten();
    let primary = agents.filter(|agent| agent.get("read_replica").and_then(Value::as_bool) != Some(true));
    primary.filter_map(|agent| agent.get("name").and_then(Value::as_str)).collect()
}

fn cluster(spec: &Value, faults: &mut Vec<SpecFault>) {
    let Some(cluster) = spec.get("cluster").filter(|cluster| cluster.is_object()) else { return };
    let agents = cluster.get("agents").and_then(Value::as_array);
    let discoverer = text(spec, "/cluster/discoverer").is_some_and(|address| !address.is_empty());
    if !discoverer && agents.is_none_or(Vec::is_empty) && cluster.get("agents").is_none_or(Value::is_array) {
        let message =
            "name the agents: one of \"discoverer\" (an address) and \"agents\" (a list of name and address) is needed";
        faults.push(SpecFault::new("/cluster", message));
    }
    for field in ["name", "address"] {
        let mut seen = BTreeSet::new();
        for (n, agent) in agents.into_iter().flatten().enumerate() {
            let Some(text) = agent.get(field).and_then(Value::as_str) else { continue };
            if !seen.insert(text) {
                let message = format!("two agents have the {field} {text:?}");
                faults.push(SpecFault::new(format!("/cluster/agents/{n}/{field}"), message));
            }
        }
    }
    if text(spec, "/measure") == Some("memory") && !discoverer {
        let message = "memory is known only through the Discoverer: give cluster.discoverer, or measure copies";
        faults.push(SpecFault::new("/measure", message));
    }
}

fn purpose(spec: &Value, faults: &mut Vec<SpecFault>) {
    let mode = text(spec, "/mode").unwrap_or("deviation");
    let plan_for = text(spec, "/plan_for");
    if plan_for.is_some() && mode != "plan" {
        faults.push(SpecFault::new("/plan_for", format!("means something only in mode plan, but the mode is {mode}")));
    }
    if plan_for == Some("plan") {
        faults.push(SpecFault::new("/plan_for", "a plan is for deviation, drain, recovery or manual"));
    }
    let purpose = if mode == "plan" { plan_for.unwrap_or("deviation") } else { mode };
    let named: Vec<&str> =
        spec.get("agents").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let listed = agents_of(spec);

    match purpose {
        "drain" if named.is_empty() => {
            faults.push(SpecFault::new("/agents", "mode drain needs the names of the agents to empty"));
        }
        "recovery" if named.is_empty() && listed.is_empty() && spec.pointer("/cluster/size").is_none() => {
            let message = "mode recovery needs the names of the lost agents, or cluster.size to know which are missing";
            faults.push(SpecFault::new("/agents", message));
        }
        "deviation" if !named.is_empty() => {
            let message = "mode deviation evens out all agents; use mode manual to take from these only";
            faults.push(SpecFault::new("/agents", message));
        }
        _ => {}
    }
    if matches!(purpose, "drain" | "recovery") && spec.get("rate").is_some_and(|rate| !rate.is_null()) {
        let message = format!("means nothing in mode {purpose}, which always works to the end; leave it out");
        faults.push(SpecFault::new("/rate", message));
    }
    let mut seen = BTreeSet::new();
    for (n, name) in named.iter().enumerate() {
        if !seen.insert(name) {
            faults.push(SpecFault::new(format!("/agents/{n}"), format!("{name:?} is named twice")));
        }
        // A lost agent may have been taken off the list already.
        if purpose != "recovery" && !listed.is_empty() && !listed.contains(name) {
            let hint = nearest(name, listed.iter().copied()).map(|name| format!("; did you mean {name:?}?"));
            let message = format!("{name:?} is not among cluster.agents{}", hint.unwrap_or_default());
            faults.push(SpecFault::new(format!("/agents/{n}"), message));
        }
    }
    replicas(spec, purpose, &named, &listed, faults);
}

fn replicas(spec: &Value, purpose: &str, named: &[&str], listed: &[&str], faults: &mut Vec<SpecFault>) {
    let Some(replicas) = spec.get("index_replica").and_then(Value::as_u64) else {
        if spec.get("index_replica").is_none_or(Value::is_null) && text(spec, "/cluster/gateway").is_none() {
            let message = "the field \"index_replica\" is missing, and there is no cluster.gateway to ask for it";
            faults.push(SpecFault::new("", message));
        }
        return;
    };
    let stay = match purpose {
        "drain" => listed.iter().filter(|name| !named.contains(name)).count(),
        _ => listed.len(),
    };
    // A recovery places what fits and reports the rest.
    if !listed.is_empty() && purpose != "recovery" && replicas > stay as u64 {
        let what = if purpose == "drain" { "agents stay" } else { "agents are listed" };
        let message = format!("{replicas} copies of an id cannot be on different agents: only {stay} {what}");
        faults.push(SpecFault::new("/index_replica", message));
    }
    let off = text(spec, "/journal") == Some("off");
    if replicas == 1 && off && spec.get("allow_without_journal").and_then(Value::as_bool) != Some(true) {
        let message = "with one copy of each id a journal is needed: another job that removes the copy under way \
                       would lose it; leave journal out, or set allow_without_journal to true";
        faults.push(SpecFault::new("/journal", message));
    }
}

fn places(spec: &Value, faults: &mut Vec<SpecFault>) {
    let (pointer, url) = match spec.get("backups") {
        Some(Value::String(url)) => ("/backups", Some(url.as_str())),
        _ => ("/backups/url", text(spec, "/backups/url")),
    };
    if let Some(url) = url
        && let Err(error) = url.parse::<BlobUrl>()
    {
        faults.push(SpecFault::new(pointer, error.to_string()));
    }
    if let Some(template) = text(spec, "/backup_key") {
        if !template.contains("{agent}") {
            faults.push(SpecFault::new("/backup_key", "must contain {agent}, else all agents share one object"));
        }
        let rest = template.replace("{agent}", "").replace("{suffix}", "");
        if rest.contains(['{', '}']) {
            faults.push(SpecFault::new("/backup_key", "only {agent} and {suffix} can be filled in"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spec::{Durability, RebalanceSpec, RunMode, Size, Span};

    fn good() -> Value {
        json!({
            "index_replica": 2,
            "cluster": {"agents": [
                {"name": "vald-agent-0", "address": "10.0.0.1:8081"},
                {"name": "vald-agent-1", "address": "10.0.0.2:8081"},
                {"name": "vald-agent-2", "address": "10.0.0.3:8081"},
            ]},
            "backups": "s3://backups/prod?region=eu-west-1",
        })
    }

    /// `good` with members replaced, as `pointer: message` lines.
    #[expect(clippy::needless_pass_by_value, reason = "reads better where it is called")]
    fn faults_with(members: Value) -> Vec<String> {
        let mut spec = good();
        for (name, value) in members.as_object().unwrap() {
            spec[name.as_str()] = value.clone();
        }
        check(&spec).iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect()
    }

    #[track_caller]
    fn one_fault(members: Value, start: &str) {
        let found = faults_with(members);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with(start), "{found:#?}");
    }

    #[test]
    fn the_shortest_spec_has_the_documented_defaults() {
        assert_eq!(check(&good()), []);
        let spec = RebalanceSpec::parse(&good()).unwrap();
        assert_eq!((spec.mode, spec.purpose()), (RunMode::Deviation, RunMode::Deviation));
        assert_eq!((spec.tolerance, spec.rate_threshold, spec.max_fill), (0.1, 0.05, 0.85));
        assert_eq!((spec.parallelism, spec.per_agent_parallelism, spec.chunk), (30, 8, 5_000));
        assert_eq!((spec.call_timeout, spec.commit_timeout), (Span::seconds(30), Span::seconds(1_800)));
        assert_eq!((spec.memory_limit, spec.max_plain_bytes), (Size(256 << 20), Size(1 << 40)));
        assert_eq!((spec.cool_down, spec.hold_off), (Span::seconds(1_800), Span::seconds(86_400)));
        assert_eq!((spec.max_backup_age, spec.durability()), (Span::seconds(172_800), Durability::Saved));
        assert_eq!((spec.journals(1), spec.journals(2)), (true, false));
        assert_eq!(spec.backup_key("vald-agent-0"), "vald-agent-0.tar.gz");
        assert_eq!(spec.cluster_name(), "s3://backups/prod");
        let volatile = RebalanceSpec { agents_persistent: false, ..spec };
        assert_eq!(volatile.durability(), Durability::BackedUp);
    }

    #[test]
    fn all_faults_are_told_at_once_with_their_places() {
        let spec = json!({
            "mode": "dran", "rate": 2, "chunk": 0, "tolerance": 0, "tolerence": 0.2, "parallelism": "many",
            "max_backup_age": "soon", "memory_limit": "1 MiB", "index_replica": 0, "journal": 1,
            "cluster": {"agents": [{"name": "a", "adress": "x"}, {"name": "a", "address": "y", "weight": 0}]},
        });
        let found: Vec<String> = check(&spec).iter().map(|f| format!("{}: {}", f.pointer, f.message)).collect();
        for line in [
            "/mode: \"dran\" is not one of deviation, drain, recovery, manual, plan; did you mean \"drain\"?",
            "/rate: must be above 0 and at most 1, but is 2",
            "/chunk: must be at least 1",
            "/tolerance: must be above 0, but is 0",
            "/tolerence: unknown field \"tolerence\"; did you mean \"tolerance\"?",
            "/parallelism: expected a whole number, found a text",
            "/max_backup_age: \"soon\" is not a duration",
            "/memory_limit: must be at least 16 MiB, but is \"1 MiB\"",
            "/index_replica: must be at least 1",
            "/journal: a whole number is not one of auto, on, off",
            "/cluster/agents/0/adress: unknown field \"adress\"; did you mean \"address\"?",
            "/cluster/agents/0: the field \"address\" is missing",
            "/cluster/agents/1/weight: must be above 0, but is 0",
            "/cluster/agents/1/name: two agents have the name \"a\"",
            ": the field \"backups\" is missing",
        ] {
            assert!(found.iter().any(|fault| fault.starts_with(line)), "{line} is not in\n{}", found.join("\n"));
        }
        assert_eq!(found.len(), 15, "{found:#?}");
    }

    #[test]
    fn fields_that_do_not_fit_together_are_found() {
        one_fault(json!({"mode": "drain"}), "/agents: mode drain needs the names");
        one_fault(json!({"agents": ["vald-agent-0"]}), "/agents: mode deviation evens out all agents");
        one_fault(json!({"mode": "manual", "agents": ["vald-agnt-1"]}), "/agents/0: \"vald-agnt-1\" is not among");
        one_fault(json!({"mode": "manual", "agents": ["vald-agent-1", "vald-agent-1"]}), "/agents/1: ");
        one_fault(json!({"index_replica": 4}), "/index_replica: 4 copies of an id cannot be on different agents");
        one_fault(json!({"mode": "drain", "agents": ["vald-agent-0", "vald-agent-1"]}), "/index_replica: 2 copies");
        one_fault(json!({"mode": "recovery", "agents": ["vald-agent-9"], "rate": 0.5}), "/rate: means nothing");
        one_fault(json!({"measure": "memory"}), "/measure: memory is known only through the Discoverer");
        one_fault(json!({"plan_for": "drain"}), "/plan_for: means something only in mode plan");
        one_fault(json!({"backup_key": "all.tar"}), "/backup_key: must contain {agent}");
        one_fault(json!({"backup_key": "{agent}-{date}"}), "/backup_key: only {agent} and {suffix}");
        one_fault(json!({"index_replica": 1, "journal": "off"}), "/journal: with one copy");
        one_fault(json!({"index_replica": null}), ": the field \"index_replica\" is missing");
        one_fault(json!({"backups": "ftp://x"}), "/backups: unknown scheme");
        one_fault(json!({"backups": {"url": "ftp://x"}}), "/backups/url: unknown scheme");
        one_fault(json!({"backups": {"uri": "s3://x", "url": "s3://x"}}), "/backups/uri: unknown field");
        one_fault(json!({"backups": 5}), "/backups: expected a text or an object, found a whole number");
        one_fault(json!({"cluster": {}}), "/cluster: name the agents");
        assert_eq!(faults_with(json!({"index_replica": 1, "journal": "off", "allow_without_journal": true})), [""; 0]);
        assert_eq!(faults_with(json!({"mode": "recovery", "agents": ["vald-agent-9"]})), [""; 0]);
        assert_eq!(faults_with(json!({"mode": "plan", "plan_for": "drain", "agents": ["vald-agent-2"]})), [""; 0]);
    }

    #[test]
    fn something_else_than_an_object_is_one_fault_and_no_panic() {
        for value in [json!(null), json!(5), json!([]), json!("x")] {
            assert!(!check(&value).is_empty());
            assert!(RebalanceSpec::parse(&value).is_err());
        }
    }

    #[test]
    fn secrets_are_named_and_never_written() {
        let place =
            |secret: Value| json!({"backups": {"url": "s3://x", "credentials": {"AWS_SECRET_ACCESS_KEY": secret}}});
        assert_eq!(faults_with(place(json!({"env": "KEY"}))), [""; 0]);
        assert_eq!(faults_with(place(json!({"file": "/run/key"}))), [""; 0]);
        assert_eq!(faults_with(place(json!("hunter2"))).len(), 1);
    }

    #[test]
    fn every_field_of_the_schema_has_a_description() {
        let schema = schema();
        let mut bare = Vec::new();
        for part in ["", "/properties/cluster"] {
            for (name, property) in schema.pointer(&format!("{part}/properties")).unwrap().as_object().unwrap() {
                if property.get("description").is_none() {
                    bare.push(name.clone());
                }
            }
        }
        assert_eq!(bare, [""; 0]);
        assert!(schema.to_string().find("$ref").is_none());
    }

    #[test]
    fn a_spec_reads_back_what_it_writes() {
        let spec = RebalanceSpec::parse(&good()).unwrap();
        let written = serde_json::to_value(&spec).unwrap();
        assert_eq!(check(&written), []);
        assert_eq!(RebalanceSpec::parse(&written).unwrap(), spec);
    }
}
