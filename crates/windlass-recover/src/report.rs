//! What a recovery has come to: tables, goals and what was reached of them, times, and the earlier ones beside it.

mod history;
mod times;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use windlass_engine::TaskEnd;
use windlass_model::quantity::Span;
use windlass_model::task::{Outcome, SharedUse};

pub(crate) use self::history::beside;
use self::times::{ms, span};
use crate::spec::RecoverSpec;
use crate::survey::SURVEY;
use crate::task::neutron::Sort;
use crate::task::{diagnose, instance, router, volume};

fn outcome(end: Option<&&TaskEnd>) -> &'static str {
    match end.and_then(|end| end.outcome.as_ref()) {
        Some(outcome) => outcome.name(),
        None => "not_ended",
    }
}

/// The id in a resource, which is its name and its id.
fn source(end: &TaskEnd) -> &str {
    end.task.resource.rsplit(' ').next().unwrap_or(&end.task.resource)
}

fn name(end: &TaskEnd) -> &str {
    end.task.resource.rsplit_once(' ').map_or(&end.task.resource, |(name, _)| name)
}

fn in_ms(span: Option<Span>) -> Option<u64> {
    span.map(|span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX))
}

/// The moment that a volume's data is from. Block services leave the time zone out.
fn moment(text: &str) -> Option<Timestamp> {
    text.parse().or_else(|_| format!("{text}Z").parse()).ok()
}

/// The ends of a job by what they are about.
struct Ends<'a> {
    all: &'a [TaskEnd],
    began: Option<Timestamp>,
}

type BySource<'a> = BTreeMap<&'a str, &'a TaskEnd>;

impl<'a> Ends<'a> {
    fn of(&self, task_type: &str) -> BySource<'a> {
        let fits = times::built(self.all).filter(|end| end.task.task_type == task_type);
        fits.map(|end| (source(end), end)).collect()
    }

    fn spans(&self, parts: &[(&str, Option<&&TaskEnd>)]) -> Vec<Value> {
        let Some(began) = self.began else { return Vec::new() };
        parts.iter().filter_map(|(phase, end)| span(phase, (*end)?, began)).collect()
    }

    fn since_began(&self, end: Option<&&TaskEnd>) -> Option<u64> {
        Some(ms(self.began?, end?.ended?))
    }

    fn instances(&self, rto: Option<u64>) -> Vec<Value> {
        let (creates, boots) = (self.of(instance::CREATE), self.of(instance::BOOT));
        let (diagnoses, stops) = (self.of(diagnose::DIAGNOSE), self.of(instance::STOP));
        let row = |(id, create): (&&str, &&TaskEnd)| {
            let (boot, diagnose) = (boots.get(id), diagnoses.get(id));
            let state = match (outcome(Some(create)), outcome(boot), outcome(diagnose)) {
                (_, _, "succeeded") => "success",
                ("not_ended", ..) => "preparing",
                ("succeeded", "not_ended", _) => "booting",
                ("succeeded", "succeeded", "not_ended") => "diagnosing",
                ("ignored", ..) => "ignored",
                _ => "failed",
            };
            let made = create.output.as_ref().map(|output| output["made"]["id"].clone());
            let checks = diagnose.and_then(|end| end.output.as_ref()).map(|output| output["checks"].clone());
            let failure = [Some(create), boot, diagnose].into_iter().flatten().find_map(|end| match &end.outcome {
                Some(Outcome::Failed { failure }) => Some(failure.to_string()),
                _ => None,
            });
            let took = (state == "success").then(|| self.since_began(diagnose)).flatten();
            json!({
                "instance": create.task.input["instance"]["name"], "source": id, "target": made, "state": state,
                "checks": checks, "failure": failure, "took_ms": took,
                "in_time": took.zip(rto).map(|(took, rto)| took <= rto),
                "spans": self.spans(&[
                    ("create", Some(create)), ("boot", boot), ("diagnose", diagnose), ("stop", stops.get(id)),
                ]),
            })
        };
        creates.iter().map(row).collect()
    }

    fn volumes(&self, rpo: Option<u64>) -> Vec<Value> {
        let (copies, imports) = (self.of(volume::COPY), self.of(volume::IMPORT));
        let row = |(id, copy): (&&str, &&TaskEnd)| {
            let import = imports.get(id);
            let output = import.and_then(|end| end.output.as_ref());
            let handle = copy.output.as_ref().map(|output| &output["handle"]);
            let point = output.and_then(|output| output["pair"]["point"].as_str());
            let point = point.or_else(|| handle.and_then(|handle| handle["point"].as_str()));
            let age = point.and_then(moment).zip(self.began).map(|(point, began)| ms(point, began));
            json!({
                "volume": copy.task.input["volume"]["name"], "source": id, "size_gib": copy.task.input["volume"]["size_gib"],
                "state": outcome(import), "target": output.map(|output| output["made"]["id"].clone()),
                "point": point, "age_ms": age, "in_time": age.zip(rpo).map(|(age, rpo)| age <= rpo),
                "took_ms": self.since_began(import),
                "spans": self.spans(&[("copy", Some(copy)), ("import", import)]),
            })
        };
        copies.iter().map(row).collect()
    }

    fn networks(&self) -> Vec<Value> {
        let sorts =
            [(Sort::Network.task_type(), "network"), (Sort::Subnet.task_type(), "subnet"), (router::CREATE, "router")];
        let mut rows = Vec::new();
        for (task_type, sort) in sorts {
            rows.extend(self.of(task_type).iter().map(|(id, end)| {
                json!({
                    "network": name(end), "sort": sort, "source": id, "state": outcome(Some(end)),
                    "target": end.output.as_ref().map(|output| output["made"]["id"].clone()),
                    "took_ms": self.since_began(Some(end)), "spans": self.spans(&[(sort, Some(end))]),
                })
            }));
        }
        rows
    }

    /// Everything that was made, by sort: name and id there, id here.
    fn resources(&self) -> Value {
        let mut made: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for end in times::built(self.all).filter(|end| end.task.task_type.starts_with("recover.create.")) {
            let kind = end.task.task_type.trim_start_matches("recover.create.");
            let output = end.output.as_ref();
            let target =
                output.and_then(|output| output.pointer("/made/id").or_else(|| output.pointer("/tenant/id"))).cloned();
            made.entry(kind).or_default().push(json!({
                "source": end.task.resource, "target": target, "state": outcome(Some(&end)),
                "reused": end.shared == Some(SharedUse::Reused),
            }));
        }
        json!(made)
    }

    fn undone(&self) -> Option<Value> {
        let undo: Vec<&TaskEnd> = self.all.iter().filter(|end| end.task.undoes.is_some()).collect();
        let began = undo.iter().filter_map(|end| end.started).min()?;
        let ended = undo.iter().filter_map(|end| end.ended).max();
        let left = undo.iter().filter(|end| !matches!(end.outcome, Some(Outcome::Succeeded { .. }))).count();
        Some(json!({
            "tasks": undo.len(), "not_done": left, "began": began, "ended": ended,
            "took_ms": ended.map(|ended| ms(began, ended)),
        }))
    }
}

fn count(list: &[Value], fits: impl Fn(&Value) -> bool) -> usize {
    list.iter().filter(|one| fits(one)).count()
}

/// The tables of the report.
pub(crate) fn summarize(spec: &Value, all: &[TaskEnd]) -> Value {
    let spec = RecoverSpec::parse(spec).ok();
    let ends = Ends { all, began: times::began(all) };
    let (rto, rpo) = (in_ms(spec.as_ref().and_then(|spec| spec.rto)), in_ms(spec.as_ref().and_then(|spec| spec.rpo)));
    let (instances, volumes, networks) = (ends.instances(rto), ends.volumes(rpo), ends.networks());
    let recovered = count(&instances, |one| one["state"] == "success");
    let longest = |list: &[Value], member: &str| list.iter().filter_map(|one| one[member].as_u64()).max();
    // What is not there is not there in time.
    let reached = longest(&instances, "took_ms").filter(|_| recovered == instances.len());
    let (age, unknown) = (longest(&volumes, "age_ms"), count(&volumes, |one| one["age_ms"].is_null()));
    let met = |goal: Option<u64>, reached: Option<u64>| goal.map(|goal| reached.is_some_and(|reached| reached <= goal));
    let mut summary = Map::new();
    if let Some(spec) = spec {
        summary.insert("group".into(), spec.group.into());
        summary.insert("mode".into(), serde_json::to_value(spec.mode).unwrap_or_default());
        summary.insert("target".into(), spec.target.name().into());
    }
    let survey = all.iter().find(|end| end.task.task_type == SURVEY).and_then(|end| end.output.clone());
    let ended = times::built(all).filter_map(|end| end.ended).max();
    let members = [
        ("rto_ms", rto.into()),
        ("rpo_ms", rpo.into()),
        ("recovered", recovered.into()),
        ("planned", instances.len().into()),
        ("began", json!(ends.began)),
        ("ended", json!(ended)),
        ("took_ms", ends.began.zip(ended).map(|(began, ended)| ms(began, ended)).into()),
        ("rto", json!({ "goal_ms": rto, "reached_ms": reached, "met": met(rto, reached) })),
        (
            "rpo",
            json!({
                // Data of which nobody says how old it is counts as too old.
                "goal_ms": rpo, "reached_ms": age, "met": met(rpo, age.filter(|_| unknown == 0)), "unknown": unknown,
            }),
        ),
        ("retries", times::built(all).map(|end| u64::from(end.failures)).sum::<u64>().into()),
        ("takeovers", times::built(all).map(|end| u64::from(end.deaths)).sum::<u64>().into()),
        ("reused", all.iter().filter(|end| end.shared == Some(SharedUse::Reused)).count().into()),
        ("at_least_ms", times::bound(all).into()),
        ("critical_path", ends.began.map(|began| times::critical_path(all, began)).into()),
        ("phases", ends.began.map(|began| times::phases(all, began)).into()),
        ("instances", instances.into()),
        ("volumes", volumes.into()),
        ("networks", networks.into()),
        ("resources", ends.resources()),
        ("undone", ends.undone().into()),
        ("survey", survey.unwrap_or_default()),
    ];
    summary.extend(members.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Value::Object(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_with_and_without_a_zone() {
        assert_eq!(moment("2026-01-01T00:00:00.000000"), moment("2026-01-01T00:00:00Z"));
        assert_eq!(moment("2026-01-01T01:00:00+01:00"), moment("2026-01-01T00:00:00Z"));
        assert_eq!(moment("yesterday"), None);
    }
}
