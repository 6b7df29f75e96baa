//! The kind's part of a report and of a plan preview, made from what the tasks put out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use windlass_engine::kind::TaskEnd;
use windlass_model::task::Outcome;

use crate::calculate::AgentState;
use crate::configure::{CONFIGURE, Configured};
use crate::finish::{Ended, FINISH, OutcomeCounts, sum};
use crate::moves::{MOVE_TASK, MoveOutput};
use crate::plan_task::{CALCULATE, Calculated};
use crate::retire::{RETIRE, Retired};
use crate::scan::{SCAN, Scanned};
use crate::sweep::{SWEEP, Swept};

/// Ids named per outcome in the report; the chunks' files have all.
const NAMED: usize = 100;

/// What the tasks of a job put out, read back.
struct Parts {
    configured: Option<Configured>,
    calculated: Option<Calculated>,
    ended: Option<Ended>,
    scans: Vec<Scanned>,
    sweeps: Vec<Swept>,
    retired: Vec<Retired>,
}

fn read<T: serde::de::DeserializeOwned>(end: &TaskEnd) -> Option<T> {
    serde_json::from_value(end.output.clone()?).ok()
}

fn of_type<'e>(ends: &'e [TaskEnd], task_type: &'static str) -> impl Iterator<Item = &'e TaskEnd> {
    ends.iter().filter(move |end| end.task.task_type == task_type)
}

impl Parts {
    fn of(ends: &[TaskEnd]) -> Self {
        let mut sweeps: Vec<Swept> = of_type(ends, SWEEP).filter_map(read).collect();
        sweeps.sort_by_key(|sweep| sweep.round);
        Self {
            configured: of_type(ends, CONFIGURE).find_map(read),
            calculated: of_type(ends, CALCULATE).find_map(read),
            ended: of_type(ends, FINISH).find_map(read),
            scans: of_type(ends, SCAN).filter_map(read).collect(),
            sweeps,
            retired: of_type(ends, RETIRE).filter_map(read).collect(),
        }
    }
}

/// The chunks added up: what was planned is what was done, what came out otherwise, and what is still to do.
fn chunks(ends: &[TaskEnd]) -> Value {
    let mut planned = 0_u64;
    let mut by_kind: BTreeMap<&str, OutcomeCounts> = BTreeMap::new();
    let (mut trimmed, mut bytes, mut inserts, mut seconds, mut repeated) = (0, 0, 0, 0.0, 0);
    let mut listed: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut files = Vec::new();
    for end in of_type(ends, MOVE_TASK) {
        planned += end.task.input.pointer("/list/count").and_then(Value::as_u64).unwrap_or(0);
        let Some(output) = read::<MoveOutput>(end) else { continue };
        let counts = by_kind.entry(output.kind.name()).or_default();
        for (name, count) in &output.outcomes {
            *counts.entry(name.clone()).or_default() += count;
        }
        trimmed += output.trimmed;
        bytes += output.bytes;
        inserts += output.inserts;
        seconds += output.seconds;
        // Chunks run side by side and each counts the repetitions of the whole job meanwhile.
        repeated = repeated.max(output.retries);
        for (name, ids) in output.listed {
            let list = listed.entry(name).or_default();
            let room = NAMED.saturating_sub(list.len());
            list.extend(ids.into_iter().take(room).map(|id| json!(id)));
        }
        files.push(output.outcomes_file);
    }
    let outcomes = sum(by_kind.values());
    let accounted: u64 = outcomes.values().sum();
    json!({
        "planned": planned,
        "outcomes": outcomes,
        "still_to_do": planned.saturating_sub(accounted),
        "by_kind": by_kind,
        "surplus_trimmed": trimmed,
        "bytes": bytes,
        "inserts": inserts,
        "repeated_requests": repeated,
        "busy_seconds": seconds,
        "listed": listed,
        "outcome_files": files,
    })
}

/// How it came out, in one word.
fn verdict(parts: &Parts, ends: &[TaskEnd]) -> &'static str {
    let failed = ends.iter().any(|end| matches!(end.outcome, Some(Outcome::Failed { .. } | Outcome::Ignored { .. })));
    let Some(configured) = &parts.configured else { return if failed { "failed" } else { "looking" } };
    if failed {
        return "failed";
    }
    if !configured.decision.act {
        return "nothing_to_do";
    }
    let Some(calculated) = &parts.calculated else { return "planning" };
    let moves = of_type(ends, MOVE_TASK).count();
    let ending = of_type(ends, FINISH).count() + of_type(ends, SWEEP).count();
    match (moves, ending) {
        (0, 0) if calculated.plan.is_empty() => "nothing_to_do",
        (0, 0) => "planned",
        _ if parts.ended.is_some() => "done",
        _ => "moving",
    }
}

/// The agents with what each had, should have and has.
fn agents(parts: &Parts) -> Vec<Value> {
    let Some(configured) = &parts.configured else { return Vec::new() };
    configured
        .agents
        .iter()
        .map(|agent| {
            let name = &agent.seen.name;
            let plan =
                parts.calculated.as_ref().and_then(|made| made.plan.agents.iter().find(|plan| plan.name == *name));
            let after = parts.ended.as_ref().and_then(|ended| ended.agents.iter().find(|one| one.agent == *name));
            json!({
                "name": name,
                "state": agent.state,
                "weight": agent.weight,
                "zone": agent.zone,
                "before": agent.copies(),
                "in_backup": plan.map(|plan| plan.copies),
                "target": plan.map(|plan| plan.target),
                "predicted": plan.map(|plan| plan.predicted),
                "after": after.and_then(|after| after.after),
                "trouble": agent.seen.trouble,
            })
        })
        .collect()
}

/// One line per backup that was read.
fn backups(parts: &Parts) -> Vec<Value> {
    let scans = match &parts.calculated {
        Some(calculated) => &calculated.scans,
        None => &parts.scans,
    };
    scans
        .iter()
        .map(|scan| {
            json!({
                "agent": scan.agent,
                "key": scan.origin.key,
                "etag": scan.origin.etag,
                "age_seconds": scan.origin.age_seconds,
                "read_mode": scan.origin.read_mode,
                "compression": scan.compression,
                "size": scan.size,
                "bytes_read": scan.bytes_read,
                "copies": scan.copies,
                "without_time": scan.without_time,
                "invalid": scan.invalid,
                "not_movable": scan.not_movable,
                "warnings": scan.warnings,
            })
        })
        .collect()
}

/// Every failure with the agent and object it names, not only the first.
fn failures(ends: &[TaskEnd]) -> Vec<Value> {
    ends.iter()
        .filter_map(|end| match &end.outcome {
            Some(Outcome::Failed { failure }) => {
                Some(json!({ "task": end.task.name(), "code": failure.code, "message": failure.to_string(),
                             "hint": failure.hint, "details": failure.details }))
            }
            _ => None,
        })
        .collect()
}

/// The report of a job.
pub(crate) fn summarize(ends: &[TaskEnd]) -> Value {
    let parts = Parts::of(ends);
    let configured = parts.configured.as_ref();
    let plan = parts.calculated.as_ref().map(|calculated| &calculated.plan);
    let mut warnings: Vec<String> = configured.map(|found| found.warnings.clone()).unwrap_or_default();
    warnings.extend(parts.calculated.iter().flat_map(|made| made.warnings.clone()));
    json!({
        "verdict": verdict(&parts, ends),
        "cluster": configured.map(|found| &found.cluster),
        "purpose": configured.map(|found| found.purpose),
        "index_replica": configured.map(|found| found.index_replica),
        "decision": configured.map(|found| &found.decision),
        "lost": configured.map(|found| &found.lost),
        "given_up": parts.calculated.as_ref().map(|made| &made.given_up),
        "agents": agents(&parts),
        "spread": {
            "before": plan.map(|plan| plan.spread_before).or(configured.and_then(|found| found.spread)),
            "predicted": plan.map(|plan| plan.spread_predicted),
            "after": parts.ended.as_ref().and_then(|ended| ended.spread_after),
        },
        "plan": plan.map(|plan| json!({
            "seed": plan.seed,
            "tolerance": plan.tolerance,
            "rate": plan.rate,
            "ids": plan.ids,
            "totals": plan.totals,
            "flows": plan.flows,
            "chunks": plan.chunks.len(),
            "reported": plan.reported,
            "shortfalls": plan.shortfalls,
        })),
        "left_alone": parts.calculated.as_ref().map(|made| &made.reported),
        "moves": chunks(ends),
        "sweeps": parts.sweeps,
        "renamed_backups": parts.retired,
        "backups": backups(&parts),
        "warnings": warnings,
        "failures": failures(ends),
    })
}

/// The preview in words; `None` before anything is known.
pub(crate) fn describe(ends: &[TaskEnd]) -> Option<String> {
    let parts = Parts::of(ends);
    let configured = parts.configured.as_ref()?;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "cluster {}, {} agents, {} of each id",
        configured.cluster,
        configured.agents.len(),
        copies(configured.index_replica)
    );
    let verb = if configured.decision.act { "because" } else { "nothing to do:" };
    let _ = writeln!(text, "{verb} {}", configured.decision.reason);
    for warning in &configured.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    for failure in failures(ends) {
        let field = |name: &str| failure.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let _ = writeln!(text, "failed: {} ({})", field("message"), field("code"));
    }
    let Some(calculated) = &parts.calculated else {
        if !configured.decision.act {
            for agent in &configured.agents {
                let count = agent.copies().map_or_else(|| "no answer".to_owned(), |count| count.to_string());
                let _ = writeln!(text, "  {}  {count}", agent.seen.name);
            }
        }
        return Some(text);
    };
    for scan in &calculated.scans {
        let age = scan.origin.age_seconds.map(|age| format!(", {:.1} h old", age as f64 / 3600.0)).unwrap_or_default();
        let _ = writeln!(
            text,
            "{}: {} copies from {} ({}{age})",
            scan.agent, scan.copies, scan.origin.key, scan.origin.read_mode
        );
        for warning in &scan.warnings {
            let _ = writeln!(text, "  warning: {}", warning.message);
        }
    }
    for (agent, why) in &calculated.given_up {
        let _ = writeln!(text, "{agent} is given up: {why}");
    }
    let _ = write!(text, "\n{}", calculated.plan);
    let lost = calculated.plan.agents.iter().filter(|agent| agent.state == AgentState::Lost).count();
    if lost > 0 {
        let _ = writeln!(text, "the backups of {lost} lost agents are put aside once every id is accounted for");
    }
    for warning in &calculated.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    Some(text)
}

fn copies(replicas: u32) -> String {
    if replicas == 1 { "1 copy".to_owned() } else { format!("{replicas} copies") }
}
