//! This recovery beside the earlier ones of its group: what is different, and how ready the group was at each time.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use windlass_engine::Earlier;
use windlass_model::Digest;

/// Earlier recoveries that are listed.
const LISTED: usize = 30;
/// Below this share, and below a second, a difference of times is chance.
const NOTABLE: f64 = 0.25;

/// How ready a group is, from 0 to 100, by what a recovery of it came to: 60 for the instances that were seen to work, 20
/// for the time it took, 20 for the age of the data. Where there is no goal, its part counts as reached.
pub(super) fn score(summary: &Value) -> u64 {
    let number = |place: &str| summary.pointer(place).and_then(Value::as_f64);
    let planned = number("/planned").unwrap_or(0.0);
    if planned == 0.0 {
        return 0;
    }
    let recovered = number("/recovered").unwrap_or(0.0) / planned;
    // Late is better than never, and twice too late is worth half.
    let within = |goal: Option<f64>, reached: Option<f64>| match (goal, reached) {
        (None, _) => 1.0,
        (Some(_), None) => 0.0,
        (Some(goal), Some(reached)) if reached <= goal => 1.0,
        (Some(goal), Some(reached)) => goal / reached.max(1.0),
    };
    let rto = within(number("/rto/goal_ms"), number("/rto/reached_ms"));
    let rpo = within(number("/rpo/goal_ms"), number("/rpo/reached_ms"));
    let all = 60.0 * recovered + 20.0 * rto * recovered + 20.0 * rpo;
    // From 0 to 100 by its parts.
    all.round() as u64
}

fn line(job: &Value, at: &Value, summary: &Value) -> Value {
    json!({
        "job": job, "at": at, "mode": summary["mode"], "recovered": summary["recovered"], "planned": summary["planned"],
        "rto_ms": summary.pointer("/rto/reached_ms"), "rpo_ms": summary.pointer("/rpo/reached_ms"), "score": score(summary),
    })
}

fn by_source<'v>(summary: &'v Value, list: &str) -> BTreeMap<&'v str, &'v Value> {
    let all = summary[list].as_array().into_iter().flatten();
    all.filter_map(|one| Some((one["source"].as_str()?, one))).collect()
}

/// What is different, in words.
pub(super) fn differences(before: &Value, after: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (list, noun, name) in
        [("instances", "instance", "instance"), ("volumes", "volume", "volume"), ("networks", "network", "network")]
    {
        let (old, new) = (by_source(before, list), by_source(after, list));
        let all: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
        for id in all {
            let (was, is) = (old.get(id), new.get(id));
            let called = is.or(was).and_then(|one| one[name].as_str()).unwrap_or(id);
            match (was, is) {
                (None, Some(_)) => found.push(format!("the {noun} {called} is new")),
                (Some(_), None) => found.push(format!("the {noun} {called} is not there any more")),
                (Some(was), Some(is)) => {
                    if was["state"] != is["state"] {
                        let word = |value: &Value| value.as_str().unwrap_or("unknown").replace('_', " ");
                        found.push(format!(
                            "the {noun} {called}: {}, before: {}",
                            word(&is["state"]),
                            word(&was["state"])
                        ));
                    }
                    if let Some(text) = slower(&was["took_ms"], &is["took_ms"]) {
                        found.push(format!("the {noun} {called} took {text}"));
                    }
                    if was["size_gib"] != is["size_gib"] {
                        found.push(format!(
                            "the {noun} {called} has {} GiB, before: {}",
                            is["size_gib"], was["size_gib"]
                        ));
                    }
                }
                (None, None) => {}
            }
        }
    }
    if let Some(text) = slower(&before["rto"]["reached_ms"], &after["rto"]["reached_ms"]) {
        found.push(format!("the recovery took {text}"));
    }
    let (old, new) = (score(before), score(after));
    if old != new {
        found.push(format!("the readiness is {new}, before: {old}"));
    }
    found
}

fn slower(was: &Value, is: &Value) -> Option<String> {
    let (was, is) = (was.as_f64()?, is.as_f64()?);
    let notable = (is - was).abs() >= 1_000.0 && (is - was).abs() > was * NOTABLE;
    notable.then(|| format!("{:.1} s, before: {:.1} s", is / 1_000.0, was / 1_000.0))
}

/// The summary with the earlier ones beside it.
pub(crate) fn beside(mut summary: Value, earlier: &[Earlier]) -> Value {
    let own = score(&summary);
    let differences = earlier.first().map(|last| {
        json!({
            "job": last.job, "at": last.created, "score": score(&last.summary),
            "differences": differences(&last.summary, &summary),
        })
    });
    let mut history: Vec<Value> =
        earlier.iter().take(LISTED).map(|one| line(&json!(one.job), &json!(one.created), &one.summary)).collect();
    history.reverse();
    history.push(line(&Value::Null, &summary["began"], &summary));
    if let Some(members) = summary.as_object_mut() {
        members.insert("score".into(), own.into());
        members.insert("since_last".into(), differences.unwrap_or_default());
        members.insert("history".into(), history.into());
        members.remove("digest");
    }
    let digest = Digest::of(canonical(&summary).to_string().as_bytes());
    if let Some(members) = summary.as_object_mut() {
        members.insert("digest".into(), digest.to_string().into());
    }
    summary
}

/// The same document with the members of every object in the order of their names: whoever has it gets the same digest.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let sorted: BTreeMap<&String, &Value> = members.iter().collect();
            Value::Object(sorted.into_iter().map(|(name, value)| (name.clone(), canonical(value))).collect())
        }
        Value::Array(items) => items.iter().map(canonical).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(recovered: u64, took: u64, states: [&str; 2]) -> Value {
        json!({
            "planned": 2, "recovered": recovered, "rto": { "goal_ms": 10_000, "reached_ms": took },
            "rpo": { "goal_ms": null, "reached_ms": null },
            "instances": [
                { "instance": "db", "source": "i-db", "state": states[0], "took_ms": took / 2 },
                { "instance": "app", "source": "i-app", "state": states[1], "took_ms": took },
            ],
            "volumes": [{ "volume": "data", "source": "v1", "size_gib": 5, "state": "succeeded" }],
        })
    }

    #[test]
    fn scores_fall_with_what_is_missed() {
        assert_eq!(score(&summary(2, 9_000, ["success"; 2])), 100);
        assert_eq!(score(&summary(2, 20_000, ["success"; 2])), 90);
        assert_eq!(score(&summary(1, 9_000, ["success", "failed"])), 60);
        assert_eq!(score(&json!({})), 0);
        assert_eq!(
            score(&json!({ "planned": 1, "recovered": 1, "rto": { "goal_ms": 5 } })),
            80,
            "never is not in time"
        );
    }

    #[test]
    fn what_is_different_is_said_and_chance_is_not() {
        let (good, bad) = (summary(2, 9_000, ["success"; 2]), summary(1, 20_000, ["success", "failed"]));
        let found = differences(&good, &bad);
        for part in [
            "the instance app: failed, before: success",
            "took 20.0 s, before: 9.0 s",
            "the readiness is 55, before: 100",
        ] {
            assert!(found.iter().any(|line| line.contains(part)), "{part} is not in {found:?}");
        }
        assert_eq!(differences(&good, &summary(2, 9_400, ["success"; 2])), Vec::<String>::new());
        let mut other = good.clone();
        other["volumes"][0]["source"] = "v2".into();
        assert_eq!(differences(&good, &other).len(), 2);
        assert_eq!(beside(good.clone(), &[])["history"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_report_has_a_digest_that_anybody_can_make_again() {
        let mut made = beside(summary(2, 9_000, ["success"; 2]), &[]);
        let digest = made.as_object_mut().unwrap().remove("digest").unwrap();
        assert_eq!(digest, Digest::of(canonical(&made).to_string().as_bytes()).to_string());
        assert_eq!(beside(made.clone(), &[])["digest"], digest, "made twice it is the same");
        made["recovered"] = 1.into();
        assert_ne!(beside(made, &[])["digest"], digest);
    }
}
