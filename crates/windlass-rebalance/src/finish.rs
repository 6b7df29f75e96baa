//! What comes after the moves: sweeps of drained agents, the backups of recovered agents put aside, final counts.
//!
//! | task type | when | does |
//! | --- | --- | --- |
//! | `rebalance.sweep` | drain | lists what is still on the drained agents and adds moves for it, round by round |
//! | `rebalance.tally` | recovery | adds up the outcomes of some chunks, all of which must have succeeded |
//! | `rebalance.retire` | recovery | renames the backup of a lost agent once every id of it is accounted for |
//! | `rebalance.finish` | always | counts again, notes the end for cool-down and hold-off, clears the work directory |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use windlass_engine::context::TaskContext;
use windlass_engine::kind::{Finished, TaskType};
use windlass_index_backup::Copy;
use windlass_model::plan::TaskSpec;
use windlass_model::policy::Policy;
use windlass_model::{Failure, TaskId};

use crate::backups::backup_failure;
use crate::calculate::{ChunkKind, PlanDocument};
use crate::configure::{Configured, look, spread};
use crate::copies::CopySorter;
use crate::history::History;
use crate::moves::{IdListRef, read_id_list};
use crate::patience::patient;
use crate::plan_task::{Execution, Tasks, clear};
use crate::retire::retirement;
use crate::spec::{RebalanceSpec, RunMode};
use crate::sweep::Sweep;

/// The name of the task type that ends a job.
pub const FINISH: &str = "rebalance.finish";

/// Outcomes of ids by name.
pub type OutcomeCounts = BTreeMap<String, u64>;

pub(crate) fn bad_input(what: &str, error: &serde_json::Error) -> Failure {
    Failure::permanent("bad_input", format!("the input of the {what} cannot be read")).caused_by(error)
}

pub(crate) fn output(what: &str, value: &impl Serialize) -> Result<Finished, Failure> {
    let value = serde_json::to_value(value).map_err(|error| {
        Failure::permanent("output", format!("the outcome of the {what} cannot be stored")).caused_by(&error)
    })?;
    Ok(Finished::with(value))
}

pub(crate) fn work_failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::transient("work_failed", format!("{what} in the work directory failed")).caused_by(error)
}

/// Where the lists of moved ids are named, for the hold-off.
fn moved_path(work_dir: &Path) -> PathBuf {
    work_dir.join("plan").join("moved.json")
}

/// Adds the lists of the plan's moves to those that the end of the job notes for the hold-off.
pub(crate) fn remember_moves(
    cx: &TaskContext,
    plan: &PlanDocument,
    lists: &BTreeMap<String, IdListRef>,
) -> Result<(), Failure> {
    let path = moved_path(cx.work_dir());
    let mut all: Vec<IdListRef> =
        std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let moves = plan.chunks.iter().filter(|chunk| chunk.kind == ChunkKind::Move);
    for list in moves.filter_map(|chunk| lists.get(chunk.list.as_ref()?)) {
        if !all.contains(list) {
            all.push(list.clone());
        }
    }
    let text = serde_json::to_vec(&all).unwrap_or_default();
    std::fs::write(&path, text).map_err(|error| work_failed("noting the moved ids", &error))
}

/// The tasks of a plan with everything that comes after them.
pub(crate) fn with_ending(cx: &TaskContext, execution: &Execution<'_>) -> Result<Vec<TaskSpec>, Failure> {
    remember_moves(cx, execution.plan, execution.lists)?;
    let Tasks { mut tasks, chunks, last } = execution.tasks(cx)?;
    let after = |task: TaskSpec, id: TaskId| if id == cx.spec().id { task.requires(id) } else { task.after(id) };
    let ending = |last: TaskId| after(finish(cx, execution.configure, execution.plan.spread_predicted), last);
    match execution.configured.purpose {
        RunMode::Drain => tasks.push(after(Sweep::first(execution).task(cx), last)),
        RunMode::Recovery => {
            let (more, retires) = retirement(cx, execution, &chunks);
            tasks.extend(more);
            tasks.push(retires.into_iter().fold(ending(last), TaskSpec::after));
        }
        RunMode::Deviation | RunMode::Manual | RunMode::Plan => tasks.push(ending(last)),
    }
    Ok(tasks)
}

/// The sum of some outcomes.
pub(crate) fn sum<'c>(counts: impl IntoIterator<Item = &'c OutcomeCounts>) -> OutcomeCounts {
    let mut total = OutcomeCounts::new();
    for (name, count) in counts.into_iter().flatten() {
        *total.entry(name.clone()).or_default() += count;
    }
    total
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FinishInput {
    configured: Configured,
    predicted: f64,
}

/// One agent before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// The agent.
    pub agent: String,
    /// Copies before; `None`: it did not answer.
    pub before: Option<u64>,
    /// Copies after.
    pub after: Option<u64>,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The agents.
    pub agents: Vec<Counted>,
    /// Largest ÷ mean copies per weight before, by the agents' own counts.
    pub spread_before: Option<f64>,
    /// What the plan predicted.
    pub spread_predicted: f64,
    /// The same after.
    pub spread_after: Option<f64>,
    /// Agents whose set is not the one the job began with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed_agents: Vec<String>,
}

/// `task`, with what the task `configure` put out in its input.
pub(crate) fn configured_by(task: TaskSpec, configure: TaskId) -> TaskSpec {
    task.requires(configure).reference("/configured", configure, "")
}

/// The last task of a job.
pub(crate) fn finish(cx: &TaskContext, configure: TaskId, predicted: f64) -> TaskSpec {
    configured_by(cx.new_task(FINISH, "job").input(serde_json::json!({ "predicted": predicted })), configure)
}

/// The task type `rebalance.finish`.
#[derive(Debug, Default)]
pub struct FinishTask;

/// Sorts the ids of all moves of the job into the history.
fn note_moves(work_dir: &Path, out: &Path, finished: i64) -> Result<(), Failure> {
    let lists: Vec<IdListRef> = std::fs::read(moved_path(work_dir))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    if lists.is_empty() {
        return Ok(());
    }
    let failed = |error: &windlass_index_backup::BackupError| backup_failure(error, "history", "moved ids");
    let folder = work_dir.join("copies").join("moved");
    std::fs::create_dir_all(&folder).map_err(|error| work_failed("making a folder", &error))?;
    let mut sorter = CopySorter::new(&folder, 16 << 20);
    for list in lists {
        // A list that is gone makes the hold-off shorter and nothing else.
        for id in read_id_list(work_dir, &list).unwrap_or_default() {
            let copy = Copy { id: id.id.into(), time: finished, number: 0, invalid: false };
            sorter.push(copy).map_err(|error| failed(&error))?;
        }
    }
    sorter.finish(out).map_err(|error| failed(&error))?;
    Ok(())
}

#[async_trait]
impl TaskType for FinishTask {
    fn name(&self) -> &'static str {
        FINISH
    }

    fn policy(&self) -> Policy {
        patient()
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = RebalanceSpec::parse(cx.job_spec())?;
        let input: FinishInput =
            serde_json::from_value(cx.input().clone()).map_err(|error| bad_input("end", &error))?;
        let seen = look(cx, &spec).await?;
        let before = &input.configured.agents;
        let mut after = before.clone();
        for agent in &mut after {
            agent.seen.index = seen.iter().find(|now| now.name == agent.seen.name).and_then(|now| now.index);
        }
        let named = |name: &str| before.iter().any(|agent| agent.seen.name == name);
        let mut changed_agents: Vec<String> =
            seen.iter().filter(|agent| !named(&agent.name)).map(|agent| agent.name.clone()).collect();
        changed_agents.extend(
            before
                .iter()
                .zip(&after)
                .filter(|(before, after)| before.seen.is_reachable() != after.seen.is_reachable())
                .map(|(before, _)| before.seen.name.clone()),
        );
        let ended = Ended {
            agents: before
                .iter()
                .zip(&after)
                .map(|(before, after)| Counted {
                    agent: before.seen.name.clone(),
                    before: before.copies(),
                    after: after.copies(),
                })
                .collect(),
            spread_before: spread(before),
            spread_predicted: input.predicted,
            spread_after: spread(&after),
            changed_agents,
        };
        if !ended.changed_agents.is_empty() {
            cx.warn("agents_changed", format!("came or went during the job: {}", ended.changed_agents.join(", ")))
                .await;
        }
        let now = cx.clock().wall();
        let history = History::of(cx.work_dir(), &spec.cluster_name());
        let (work_dir, out) = (cx.work_dir().clone(), history.moved_file(now)?);
        let at = i64::try_from(now.as_nanosecond()).unwrap_or(i64::MAX);
        let noted = tokio::task::spawn_blocking(move || {
            note_moves(&work_dir, &out, at)?;
            clear(&work_dir);
            Ok::<(), Failure>(())
        });
        noted.await.map_err(|_| Failure::interrupted())??;
        history.note(cx.job(), now)?;
        output("job", &ended)
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Ok(Finished::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_added_by_name() {
        let one = OutcomeCounts::from([("done".to_owned(), 3), ("gone".to_owned(), 1)]);
        let other = OutcomeCounts::from([("done".to_owned(), 2), ("failed".to_owned(), 4)]);
        let total = sum([&one, &other]);
        assert_eq!(
            total,
            OutcomeCounts::from([("done".to_owned(), 5), ("gone".to_owned(), 1), ("failed".to_owned(), 4)])
        );
    }
}
