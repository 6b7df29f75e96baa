//! What a job's report shows of its runs.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use windlass_engine::kind::TaskEnd;
use windlass_model::task::Outcome;

use crate::shard::SHARD;
use crate::tasks::{COMMIT, MERGE, PLAN, TRIM};

/// Days that a summary names.
const DAYS: usize = 400;

/// Counters that a summary has even if they are 0.
const ALWAYS: [&str; 4] = ["rows_in", "rows_late", "inserted", "updated"];

/// What the rounds of a job came to.
pub(crate) fn summarize(ends: &[TaskEnd]) -> Value {
    let mut summary = Map::new();
    let outputs = |task: &'static str| {
        ends.iter().filter(move |end| end.task.task_type == task).filter_map(|end| end.output.as_ref())
    };
    let nothing = outputs(PLAN).any(|output| output.get("nothing").is_some());
    let stage = if nothing || outputs(TRIM).next().is_some() {
        "complete"
    } else if outputs(COMMIT).next().is_some() {
        "trim"
    } else if outputs(PLAN).next().is_some() {
        "merge"
    } else {
        "plan"
    };
    summary.insert("stage".to_owned(), stage.into());
    summary.insert("current".to_owned(), outputs(MERGE).count().into());
    summary.insert("total".to_owned(), ends.iter().filter(|end| end.task.task_type == MERGE).count().into());
    summary
        .insert("conflicts".to_owned(), outputs(COMMIT).filter(|output| output["replan"].is_string()).count().into());
    let committed: Vec<&Value> = outputs(COMMIT).filter(|output| output["committed_version"].is_i64()).collect();
    summary.insert("commits".to_owned(), committed.len().into());
    if let Some(last) = committed.iter().max_by_key(|output| output["round"].as_u64()) {
        summary.insert("committed_version".to_owned(), last["committed_version"].clone());
        summary.insert("to_lsn".to_owned(), last["metrics"]["to_lsn"].clone());
    }
    if let Some(first) = committed.iter().min_by_key(|output| output["round"].as_u64()) {
        summary.insert("from_lsn".to_owned(), first["metrics"]["from_lsn"].clone());
    }
    // Side by side with the rest, because reports show what is flat.
    for group in ["rows", "keys"] {
        for counters in
            committed.iter().filter(|output| output["already"] == false).map(|output| &output["metrics"][group])
        {
            for (name, value) in counters.as_object().into_iter().flatten() {
                let sum = summary.get(name).and_then(Value::as_u64).unwrap_or(0) + value.as_u64().unwrap_or(0);
                // What hardly ever happens is not listed as often.
                if sum > 0 || ALWAYS.contains(&name.as_str()) {
                    summary.insert(name.clone(), sum.into());
                }
            }
        }
    }
    for name in ["days_affected", "bytes_read", "bytes_written", "files_added", "files_removed"] {
        let sum: u64 = committed.iter().filter_map(|output| output["metrics"][name].as_u64()).sum();
        summary.insert(name.to_owned(), sum.into());
    }
    let rewritten: usize =
        committed.iter().filter_map(|output| output["metrics"]["days_rewritten"].as_array().map(Vec::len)).sum();
    summary.insert("days_rewritten".to_owned(), rewritten.into());
    if let Some(plan) = outputs(PLAN).min_by_key(|output| output["round"].as_u64()) {
        let kept = ["base_version", "lateness"].into_iter().filter(|name| !plan[*name].is_null());
        summary.extend(kept.map(|name| (name.to_owned(), plan[name].clone())));
    }
    summary.insert("days".to_owned(), days(ends, &committed));
    let (mut stages, mut peak) = (BTreeMap::<&str, u64>::new(), 0);
    for (name, task) in [("plan", PLAN), ("merge", MERGE), ("commit", COMMIT), ("trim", TRIM)] {
        for output in outputs(task) {
            *stages.entry(name).or_default() += output["ms"].as_u64().unwrap_or(0);
            peak = peak.max(output["peak_reserved_bytes"].as_u64().unwrap_or(0));
        }
    }
    // Merges go on side by side: their time is the sum of what each took.
    summary.insert("duration_ms".to_owned(), json!(stages));
    summary.insert("peak_reserved_bytes".to_owned(), peak.into());
    let failed = ends.iter().rev().find_map(|end| match &end.outcome {
        Some(Outcome::Failed { failure }) => Some(failure.to_string()),
        _ => None,
    });
    if let Some(failure) = failed {
        summary.insert("last_error".to_owned(), failure.into());
    }
    Value::Object(summary)
}

/// What happened to each day, for a picture: rows that were to be merged, keys that changed, whether it was committed.
fn days(ends: &[TaskEnd], committed: &[&Value]) -> Value {
    #[derive(Default)]
    struct OfDay {
        rows: u64,
        changed: u64,
        done: bool,
    }
    let mut days: BTreeMap<String, OfDay> = BTreeMap::new();
    let plans = ends.iter().filter(|end| end.task.task_type == PLAN).filter_map(|end| end.output.as_ref());
    for day in plans.filter_map(|plan| plan["days"].as_array()).flatten() {
        let name = day["day"].as_str().unwrap_or_default().to_owned();
        days.entry(name).or_default().rows += day["rows"].as_u64().unwrap_or(0);
    }
    for output in committed.iter().filter(|output| output["already"] == false) {
        for (name, effects) in output["metrics"]["by_day"].as_object().into_iter().flatten() {
            let day = days.entry(name.clone()).or_default();
            let changed = effects.as_object().into_iter().flatten().filter(|(effect, _)| *effect != "no_effect");
            day.changed += changed.filter_map(|(_, keys)| keys.as_u64()).sum::<u64>();
            day.done = true;
        }
    }
    let shown = days.into_iter().take(DAYS);
    shown
        .map(|(name, day)| json!({ "day": name, "rows": day.rows, "changed": day.changed, "done": day.done }))
        .collect()
}

/// What a standing job's runs came to, as far as they are kept.
pub(crate) fn standing(ends: &[TaskEnd]) -> Value {
    let outputs = || ends.iter().filter(|end| end.task.task_type == SHARD).filter_map(|end| end.output.as_ref());
    let sum = |name: &str| outputs().filter_map(|output| output[name].as_u64()).sum::<u64>();
    let mut summary = Map::new();
    summary.insert("runs".to_owned(), outputs().count().into());
    summary.insert("commits".to_owned(), sum("commits").into());
    summary.insert("conflicts".to_owned(), sum("conflicts").into());
    let failed = ends.iter().filter(|end| matches!(end.outcome, Some(Outcome::Failed { .. }))).count();
    summary.insert("failed".to_owned(), failed.into());
    let mut counters = BTreeMap::<String, u64>::new();
    let mut stages = BTreeMap::<String, u64>::new();
    for output in outputs() {
        for (name, value) in output["counters"].as_object().into_iter().flatten() {
            *counters.entry(name.clone()).or_default() += value.as_u64().unwrap_or(0);
        }
        for (name, value) in output["stages_ms"].as_object().into_iter().flatten() {
            *stages.entry(name.clone()).or_default() += value.as_u64().unwrap_or(0);
        }
    }
    summary.extend(counters.into_iter().map(|(name, value)| (name, value.into())));
    summary.insert("duration_ms".to_owned(), json!(stages));
    let peak = outputs().filter_map(|output| output["peak_reserved_bytes"].as_u64()).max();
    summary.insert("peak_reserved_bytes".to_owned(), peak.unwrap_or(0).into());
    Value::Object(summary)
}
