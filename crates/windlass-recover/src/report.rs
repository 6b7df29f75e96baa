//! What a recovery has come to.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use windlass_engine::TaskEnd;
use windlass_model::task::Outcome;

use crate::spec::RecoverSpec;
use crate::survey::SURVEY;
use crate::task::{diagnose, instance, volume};

fn outcome(end: Option<&&TaskEnd>) -> &'static str {
    match end.and_then(|end| end.outcome.as_ref()) {
        Some(outcome) => outcome.name(),
        None => "not_ended",
    }
}

/// The name and id in a resource.
fn source(end: &TaskEnd) -> &str {
    end.task.resource.rsplit(' ').next().unwrap_or(&end.task.resource)
}

/// The tables of the report.
pub(crate) fn summarize(spec: &Value, ends: &[TaskEnd]) -> Value {
    let spec = RecoverSpec::parse(spec).ok();
    let of = |task_type: &str| -> BTreeMap<&str, &TaskEnd> {
        ends.iter()
            .filter(|end| end.task.task_type == task_type && end.task.undoes.is_none())
            .map(|end| (source(end), end))
            .collect()
    };
    let (creates, boots, diagnoses) = (of(instance::CREATE), of(instance::BOOT), of(diagnose::DIAGNOSE));
    let (copies, imports) = (of(volume::COPY), of(volume::IMPORT));
    let mut recovered = 0;
    let instances: Vec<Value> = creates
        .iter()
        .map(|(id, create)| {
            let diagnose = diagnoses.get(id);
            let ok = matches!(diagnose.and_then(|end| end.outcome.as_ref()), Some(Outcome::Succeeded { .. }));
            recovered += usize::from(ok);
            let state = match (outcome(Some(create)), outcome(boots.get(id)), outcome(diagnose)) {
                (_, _, "succeeded") => "success",
                ("not_ended", ..) => "preparing",
                ("succeeded", "not_ended", _) => "booting",
                ("succeeded", "succeeded", "not_ended") => "diagnosing",
                ("ignored", ..) => "ignored",
                _ => "failed",
            };
            let made = create.output.as_ref().map(|output| output["made"]["id"].clone());
            let checks = diagnose.and_then(|end| end.output.as_ref()).map(|output| output["checks"].clone());
            let failure = [Some(create), boots.get(id), diagnose].into_iter().flatten().find_map(|end| match &end.outcome {
                Some(Outcome::Failed { failure }) => Some(failure.to_string()),
                _ => None,
            });
            json!({ "instance": create.task.input["instance"]["name"], "source": id, "target": made, "state": state, "checks": checks, "failure": failure })
        })
        .collect();
    let volumes: Vec<Value> = copies
        .iter()
        .map(|(id, copy)| {
            let import = imports.get(id);
            let output = import.and_then(|end| end.output.as_ref());
            json!({
                "volume": copy.task.input["volume"]["name"], "source": id, "size_gib": copy.task.input["volume"]["size_gib"],
                "state": outcome(import), "target": output.map(|output| output["made"]["id"].clone()),
                "point": output.map(|output| output["pair"]["point"].clone()),
            })
        })
        .collect();
    let mut made: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for end in ends.iter().filter(|end| end.task.task_type.starts_with("recover.create.")) {
        let kind = end.task.task_type.trim_start_matches("recover.create.");
        let output = end.output.as_ref();
        let target =
            output.and_then(|output| output.pointer("/made/id").or_else(|| output.pointer("/tenant/id"))).cloned();
        made.entry(kind)
            .or_default()
            .push(json!({ "source": end.task.resource, "target": target, "state": outcome(Some(&end)) }));
    }
    let survey = ends.iter().find(|end| end.task.task_type == SURVEY).and_then(|end| end.output.clone());
    let mut summary = Map::new();
    if let Some(spec) = spec {
        summary.insert("group".into(), spec.group.into());
        summary.insert("mode".into(), serde_json::to_value(spec.mode).unwrap_or_default());
        summary.insert("target".into(), spec.target.name().into());
        summary
            .insert("rto_ms".into(), spec.rto.map(|span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX)).into());
        summary
            .insert("rpo_ms".into(), spec.rpo.map(|span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX)).into());
    }
    summary.insert("recovered".into(), recovered.into());
    summary.insert("planned".into(), instances.len().into());
    summary.insert("instances".into(), instances.into());
    summary.insert("volumes".into(), volumes.into());
    summary.insert("resources".into(), json!(made));
    summary.insert("survey".into(), survey.unwrap_or_default());
    Value::Object(summary)
}
