//! When what happened: spans of instances, volumes and networks, the path that decided how long it took, and how long it
//! had to take at least.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde_json::{Value, json};
use windlass_engine::TaskEnd;
use windlass_model::TaskId;

use crate::task::diagnose;

/// Steps of the critical path that are listed.
const LISTED: usize = 200;

/// Milliseconds from one moment to another; 0 when it is the other way round.
pub(super) fn ms(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_millisecond().saturating_sub(from.as_millisecond())).unwrap_or(0)
}

/// How long a task took, with all its attempts.
fn took(end: &TaskEnd) -> u64 {
    end.started.zip(end.ended).map_or(0, |(from, to)| ms(from, to))
}

/// The tasks that build, of a job's tasks.
pub(super) fn built(ends: &[TaskEnd]) -> impl Iterator<Item = &TaskEnd> {
    ends.iter().filter(|end| end.task.undoes.is_none())
}

/// When the job began to look.
pub(super) fn began(ends: &[TaskEnd]) -> Option<Timestamp> {
    built(ends).filter_map(|end| end.started).min()
}

/// A span of a row, in milliseconds since the beginning.
pub(super) fn span(phase: &str, end: &TaskEnd, began: Timestamp) -> Option<Value> {
    let from = end.started?;
    Some(json!({ "phase": phase, "from_ms": ms(began, from), "to_ms": end.ended.map(|to| ms(began, to)) }))
}

/// The tasks each of which kept the next waiting, up to the instance that was recovered last.
pub(super) fn critical_path(ends: &[TaskEnd], began: Timestamp) -> Vec<Value> {
    let by_id: HashMap<TaskId, &TaskEnd> = built(ends).map(|end| (end.task.id, end)).collect();
    let last = |all: &mut dyn Iterator<Item = &'_ TaskEnd>| -> Option<TaskId> {
        all.filter(|end| end.ended.is_some()).max_by_key(|end| (end.ended, end.task.id)).map(|end| end.task.id)
    };
    let mut at = last(&mut built(ends).filter(|end| end.task.task_type == diagnose::DIAGNOSE));
    let mut path = Vec::new();
    while let Some(end) = at.and_then(|id| by_id.get(&id)).filter(|_| path.len() < LISTED) {
        let before = last(&mut end.task.dependencies.iter().filter_map(|edge| by_id.get(&edge.task).copied()));
        let ready = before.and_then(|id| by_id[&id].ended).unwrap_or(began);
        path.push(json!({
            "task": end.task.name(), "waited_ms": end.started.map_or(0, |from| ms(ready, from)), "took_ms": took(end),
        }));
        at = before;
    }
    path.reverse();
    path
}

/// How long it had to take at least: the longest chain of tasks that wait for each other, and what goes through each pool,
/// shared out over its places.
pub(super) fn bound(ends: &[TaskEnd]) -> u64 {
    let mut longest: HashMap<TaskId, u64> = HashMap::new();
    let mut pools: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut most = 0;
    // They come in an order in which they could have run.
    for end in built(ends) {
        let before = end.task.dependencies.iter().filter_map(|edge| longest.get(&edge.task)).max().copied();
        let chain = before.unwrap_or(0) + took(end);
        most = most.max(chain);
        longest.insert(end.task.id, chain);
        for pool in &end.task.pools {
            let entry = pools.entry(&pool.pool).or_insert((0, u64::from(pool.size.max(1))));
            entry.0 += took(end);
        }
    }
    pools.values().map(|(sum, size)| sum / size).max().unwrap_or(0).max(most)
}

/// For each sort of task: how many, how long together, from when to when.
pub(super) fn phases(ends: &[TaskEnd], began: Timestamp) -> Value {
    let mut phases: BTreeMap<&str, (u64, u64, u64, u64)> = BTreeMap::new();
    for end in built(ends) {
        let (Some(from), Some(to)) = (end.started, end.ended) else { continue };
        let entry = phases.entry(end.task.task_type.trim_start_matches("recover.")).or_insert((0, 0, u64::MAX, 0));
        entry.0 += 1;
        entry.1 += ms(from, to);
        entry.2 = entry.2.min(ms(began, from));
        entry.3 = entry.3.max(ms(began, to));
    }
    let phases = phases.into_iter().map(|(name, (tasks, took, from, to))| {
        (name.to_owned(), json!({ "tasks": tasks, "took_ms": took, "from_ms": from, "to_ms": to }))
    });
    Value::Object(phases.collect())
}
