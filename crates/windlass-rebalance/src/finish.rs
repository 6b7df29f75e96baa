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
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use windlass_engine::context::{Intent, TaskContext};
use windlass_engine::kind::{Finished, TaskType};
use windlass_index_backup::{CopiesReader, Copy, is_movable};
use windlass_model::effect::EffectEvent;
use windlass_model::plan::TaskSpec;
use windlass_model::progress::Progress;
use windlass_model::{Failure, TaskId};

use crate::agent::AgentClient;
use crate::backups::{Backups, backup_failure, blob_failure};
use crate::calculate::{AgentInput, AgentState, ChunkKind, Mode, PlanDocument, PlanRequest};
use crate::configure::{Configured, client_settings, look, spread};
use crate::copies::{CopySorter, ScannedCopies};
use crate::history::History;
use crate::moves::{IdListRef, read_id_list};
use crate::plan_task::{Execution, Tasks, clear, run_planner};
use crate::scan::list_agent;
use crate::spec::{Commit, RebalanceSpec, RunMode};

/// The name of the task type that sweeps drained agents.
pub const SWEEP: &str = "rebalance.sweep";
/// The name of the task type that adds up outcomes.
pub const TALLY: &str = "rebalance.tally";
/// The name of the task type that puts a lost agent's backup aside.
pub const RETIRE: &str = "rebalance.retire";
/// The name of the task type that ends a job.
pub const FINISH: &str = "rebalance.finish";

/// Chunks whose outcomes one task adds up: their references fit into one record.
const TALLIED: usize = 100;

/// Sweeps without progress after which the rest is left to a later recovery.
const STALLED: u32 = 3;

/// Ids left on a drained agent up to which every other agent is asked whether it holds them.
const MOST_ASKED: u64 = 100_000;

/// Outcomes after which an id is accounted for: it is where it should be, or clients took it in hand.
const ACCOUNTED: [&str; 5] = ["done", "already_there", "gone", "changed", "deleted_meanwhile"];

/// Outcomes of ids by name.
pub type OutcomeCounts = BTreeMap<String, u64>;

fn bad_input(what: &str, error: &serde_json::Error) -> Failure {
    Failure::permanent("bad_input", format!("the input of the {what} cannot be read")).caused_by(error)
}

fn output(what: &str, value: &impl Serialize) -> Result<Finished, Failure> {
    let value = serde_json::to_value(value).map_err(|error| {
        Failure::permanent("output", format!("the outcome of the {what} cannot be stored")).caused_by(&error)
    })?;
    Ok(Finished::with(value))
}

fn work_failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::transient("work_failed", format!("{what} in the work directory failed")).caused_by(error)
}

/// Where the lists of moved ids are named, for the hold-off.
fn moved_path(work_dir: &Path) -> PathBuf {
    work_dir.join("plan").join("moved.json")
}

/// Adds the lists of the plan's moves to those that the end of the job notes for the hold-off.
fn remember_moves(cx: &TaskContext, plan: &PlanDocument, lists: &BTreeMap<String, IdListRef>) -> Result<(), Failure> {
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
    match execution.configured.purpose {
        RunMode::Drain => {
            let input = SweepInput {
                configured: execution.configured.clone(),
                round: 1,
                remaining: None,
                stalled: 0,
                predicted: execution.plan.spread_predicted,
            };
            tasks.push(after(cx.new_task(SWEEP, "1"), last).input(serde_json::to_value(input).unwrap_or_default()));
        }
        RunMode::Recovery => {
            let mut finish = after(finish(cx, execution.configured, execution.plan.spread_predicted), last);
            let mut tallies = Vec::new();
            for (n, group) in chunks.chunks(TALLIED).enumerate() {
                let mut tally = cx.new_task(TALLY, n.to_string()).input(json!({ "chunks": {} }));
                for (at, chunk) in group.iter().enumerate() {
                    tally = tally.requires(*chunk).reference(format!("/chunks/{at}"), *chunk, OUTCOMES);
                }
                tallies.push(tally.id);
                tasks.push(tally);
            }
            for agent in retired(execution) {
                let mut retire = cx
                    .new_task(RETIRE, agent.agent.clone())
                    .requires(cx.spec().id)
                    .input(serde_json::to_value(&agent).unwrap_or_default());
                for (at, tally) in tallies.iter().enumerate() {
                    retire = retire.requires(*tally).reference(format!("/tallies/{at}"), *tally, "");
                }
                finish = finish.after(retire.id);
                tasks.push(retire);
            }
            tasks.push(finish);
        }
        RunMode::Deviation | RunMode::Manual | RunMode::Plan => {
            tasks.push(after(finish(cx, execution.configured, execution.plan.spread_predicted), last));
        }
    }
    Ok(tasks)
}

/// Where the output of a chunk has its outcomes.
const OUTCOMES: &str = "/outcomes";

/// The lost agents whose backups are put aside in the end.
fn retired(execution: &Execution<'_>) -> Vec<RetireInput> {
    let plan = execution.plan;
    // An id that is seen nowhere may have been on a lost agent whose list is not known: then it was not deleted, and
    // the backup at hand is all that is left of it.
    let lost = &execution.configured.lost;
    let unknown = execution
        .configured
        .agents
        .iter()
        .any(|agent| agent.state == AgentState::Lost && !lost.contains(&agent.seen.name));
    let unseen = if unknown { plan.reported.unseen } else { 0 };
    plan.agents
        .iter()
        .filter(|agent| agent.state == AgentState::Lost && lost.contains(&agent.name))
        .filter_map(|agent| {
            let origin = agent.origin.as_ref()?;
            Some(RetireInput {
                agent: agent.name.clone(),
                key: origin.key.clone(),
                etag: origin.etag.clone(),
                unaccounted: plan.reported.unplaceable + plan.ids.scattered + unseen,
                tallies: BTreeMap::new(),
            })
        })
        .collect()
}

// ---- sweep ----

/// The input of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SweepInput {
    configured: Configured,
    /// Counts from 1.
    round: u32,
    /// Copies that the sweep before found.
    remaining: Option<u64>,
    /// Sweeps in a row without progress.
    stalled: u32,
    /// What the plan predicted.
    predicted: f64,
}

/// What a sweep found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// Counts from 1.
    pub round: u32,
    /// Copies found on the drained agents, by name.
    pub remaining: BTreeMap<String, u64>,
    /// Whether this was the last sweep.
    pub last: bool,
}

/// The task type `rebalance.sweep`.
#[derive(Debug, Default)]
pub struct SweepTask;

/// The copies on the other agents of the ids in `listing`, as a sorted file for each. Asked one by one: what is left
/// on a drained agent is little.
async fn holders(
    cx: &TaskContext,
    spec: &RebalanceSpec,
    configured: &Configured,
    listings: &[PathBuf],
    folder: &Path,
) -> Result<Vec<Option<PathBuf>>, Failure> {
    let settings = client_settings(spec)?;
    let mut sorters = Vec::new();
    for (n, agent) in configured.agents.iter().enumerate() {
        if spec.agents.contains(&agent.seen.name) || !agent.seen.is_reachable() {
            sorters.push(None);
            continue;
        }
        let client = AgentClient::new(&agent.seen.name, &agent.seen.address, settings.clone())
            .map_err(|error| Failure::permanent("bad_address", error.to_string()))?;
        let runs = folder.join(format!("holders-{n}"));
        std::fs::create_dir_all(&runs).map_err(|error| work_failed("making a folder", &error))?;
        sorters.push(Some((client, CopySorter::new(&runs, 8 << 20), folder.join(format!("holders-{n}.copies")))));
    }
    let failed = |error: &windlass_index_backup::BackupError| backup_failure(error, "sweep", "listing");
    for listing in listings {
        let mut reader = CopiesReader::open(listing).map_err(|error| failed(&error))?;
        let mut copy = Copy::default();
        loop {
            let mut batch = Vec::new();
            while batch.len() < 256 && reader.next(&mut copy).map_err(|error| failed(&error))? {
                if let (true, Ok(id)) = (is_movable(&copy.id), String::from_utf8(copy.id.clone())) {
                    batch.push(id);
                }
            }
            if batch.is_empty() {
                break;
            }
            for (client, sorter, _) in sorters.iter_mut().flatten() {
                let calls = &client.within(cx);
                let asked = futures::stream::iter(batch.clone())
                    .map(|id| async move {
                        let answer = calls.get_timestamp(&id).await;
                        (id, answer)
                    })
                    .buffer_unordered(spec.per_agent_parallelism as usize);
                let answers: Vec<_> = asked.collect().await;
                for (id, answer) in answers {
                    if let Some(time) = answer? {
                        let copy = Copy { id: id.into_bytes(), time, number: 0, invalid: false };
                        sorter.push(copy).map_err(|error| failed(&error))?;
                    }
                }
            }
        }
    }
    let mut files = Vec::new();
    for sorter in sorters {
        files.push(match sorter {
            Some((_, sorter, out)) => {
                sorter.finish(&out).map_err(|error| failed(&error))?;
                Some(out)
            }
            None => None,
        });
    }
    Ok(files)
}

#[async_trait]
impl TaskType for SweepTask {
    fn name(&self) -> &'static str {
        SWEEP
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = RebalanceSpec::parse(cx.job_spec())?;
        let input: SweepInput =
            serde_json::from_value(cx.input().clone()).map_err(|error| bad_input("sweep", &error))?;
        let folder = cx.work_dir().join("copies").join(format!("sweep-{}", input.round));
        std::fs::create_dir_all(&folder).map_err(|error| work_failed("making a folder", &error))?;
        let mut configured = input.configured.clone();
        let mut remaining = BTreeMap::new();
        let mut listings = vec![None; configured.agents.len()];
        for (n, agent) in
            configured.agents.iter().enumerate().filter(|(_, agent)| spec.agents.contains(&agent.seen.name))
        {
            let path = folder.join(format!("{n}.copies"));
            let listed = list_agent(cx, &spec, agent, &path).await?;
            if listed.copies == 0 && spec.commit == Commit::Call {
                settle_removals(cx, &spec, agent).await?;
            }
            remaining.insert(agent.seen.name.clone(), listed.copies);
            listings[n] = Some(path);
        }
        let left: u64 = remaining.values().sum();
        cx.progress(Progress::items(left, Some(left)));
        let stalled = if input.remaining.is_some_and(|before| left >= before) { input.stalled + 1 } else { 0 };
        let last = left == 0 || stalled >= STALLED;
        let swept = Swept { round: input.round, remaining, last };
        let mut finished = output("sweep", &swept)?;
        if last {
            if left > 0 {
                let message = format!(
                    "{left} copies are still on the drained agents after {STALLED} sweeps without progress; clients \
                     keep writing there or the ids cannot be moved. Recover the rest from the backup that the agent \
                     writes when it stops"
                );
                cx.warn("drain_incomplete", message).await;
            }
            finished.add.push(finish(cx, &configured, input.predicted).requires(cx.spec().id));
            return Ok(finished);
        }
        for agent in &mut configured.agents {
            if agent.state == AgentState::Drained {
                agent.state = AgentState::Member;
            }
        }
        let found: Vec<PathBuf> = listings.iter().flatten().cloned().collect();
        let ask = left <= MOST_ASKED;
        let others =
            if ask { holders(cx, &spec, &configured, &found, &folder).await? } else { vec![None; listings.len()] };
        let files = listings.into_iter().zip(others).map(|(own, other)| own.or(other)).collect();
        let plan = sweep_plan(cx, &spec, &configured, input.round, ask, files).await?;
        let (plan, lists) = (plan.0, plan.1);
        remember_moves(cx, &plan, &lists)?;
        let prefix = format!("sweep{}-", input.round);
        let execution = Execution { spec: &spec, configured: &input.configured, plan: &plan, lists: &lists, prefix };
        let Tasks { tasks, last, .. } = execution.tasks(cx)?;
        let round = input.round + 1;
        let next = SweepInput { round, remaining: Some(left), stalled, ..input.clone() };
        let next = cx.new_task(SWEEP, round.to_string()).input(serde_json::to_value(next).unwrap_or_default());
        let next = if last == cx.spec().id { next.requires(last) } else { next.after(last) };
        finished.add = tasks;
        finished.add.push(next);
        Ok(finished)
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Ok(Finished::default())
    }
}

/// An agent that shows nothing any more may have removals in its queue: they are to last before it is taken away.
async fn settle_removals(
    cx: &TaskContext,
    spec: &RebalanceSpec,
    agent: &crate::configure::ConfiguredAgent,
) -> Result<(), Failure> {
    let client = AgentClient::new(&agent.seen.name, &agent.seen.address, client_settings(spec)?)
        .map_err(|error| Failure::permanent("bad_address", error.to_string()))?;
    let calls = client.within(cx);
    if calls.index_info().await?.uncommitted > 0 {
        calls.create_and_save_index().await?;
    }
    Ok(())
}

/// A plan for what is left on the drained agents.
async fn sweep_plan(
    cx: &TaskContext,
    spec: &RebalanceSpec,
    configured: &Configured,
    round: u32,
    asked: bool,
    files: Vec<Option<PathBuf>>,
) -> Result<(PlanDocument, BTreeMap<String, IdListRef>), Failure> {
    let agents = configured
        .agents
        .iter()
        .map(|agent| AgentInput {
            weight: agent.weight,
            state: agent.state,
            zone: agent.zone.clone(),
            ..AgentInput::member(&agent.seen.name)
        })
        .collect();
    // Where nobody was asked who else holds the ids, each counts as the only copy, and the moves look for others.
    let replicas = if asked { configured.index_replica } else { 1 };
    let request = PlanRequest {
        tolerance: spec.tolerance,
        chunk: spec.chunk,
        // Another choice of destinations than in the round before, in case those did not work out.
        seed: spec.seed.wrapping_add(u64::from(round)),
        memory: (spec.memory_limit.in_memory() / 2).max(1 << 20),
        ..PlanRequest::new(agents, Mode::Drain { agents: spec.agents.clone() }, replicas)
    };
    let (plan, lists, _) = run_planner(cx, request, ScannedCopies { files, moved: Vec::new(), moved_since: 0 }).await?;
    Ok((plan, lists))
}

// ---- tally ----

#[derive(Clone, Debug, Deserialize)]
struct TallyInput {
    chunks: BTreeMap<String, OutcomeCounts>,
}

/// The sum of some outcomes.
pub(crate) fn sum<'c>(counts: impl IntoIterator<Item = &'c OutcomeCounts>) -> OutcomeCounts {
    let mut total = OutcomeCounts::new();
    for (name, count) in counts.into_iter().flatten() {
        *total.entry(name.clone()).or_default() += count;
    }
    total
}

/// The task type `rebalance.tally`.
#[derive(Debug, Default)]
pub struct TallyTask;

#[async_trait]
impl TaskType for TallyTask {
    fn name(&self) -> &'static str {
        TALLY
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let input: TallyInput =
            serde_json::from_value(cx.input().clone()).map_err(|error| bad_input("tally", &error))?;
        output("tally", &sum(input.chunks.values()))
    }

    async fn undo(&self, _: &TaskContext) -> Result<Finished, Failure> {
        Ok(Finished::default())
    }
}

// ---- retire ----

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetireInput {
    agent: String,
    key: String,
    etag: Option<String>,
    /// Ids that the plan had no answer for.
    unaccounted: u64,
    #[serde(default)]
    tallies: BTreeMap<String, OutcomeCounts>,
}

/// What became of the backup of a recovered agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// The agent.
    pub agent: String,
    /// The key that the backup had.
    pub key: String,
    /// The key that it has now; `None`: it stays where it was.
    pub renamed_to: Option<String>,
    /// Why it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_because: Option<String>,
}

/// The name under which a backup cannot be restored by accident: `vald-agent-2_1700000000000000000.tar.gz`.
fn retired_key(key: &str, suffix: &str, unix_nanoseconds: i128) -> String {
    let (name, end) = match key.strip_suffix(suffix) {
        Some(name) => (name, suffix),
        None => (key, ""),
    };
    format!("{name}_{unix_nanoseconds}{end}")
}

/// The task type `rebalance.retire`.
#[derive(Debug, Default)]
pub struct RetireTask;

impl RetireTask {
    async fn rename(cx: &TaskContext, spec: &RebalanceSpec, input: &RetireInput) -> Result<Retired, Failure> {
        let kept = |why: String| Retired {
            agent: input.agent.clone(),
            key: input.key.clone(),
            renamed_to: None,
            kept_because: Some(why),
        };
        let outcomes = sum(input.tallies.values());
        let open: u64 =
            outcomes.iter().filter(|(name, _)| !ACCOUNTED.contains(&name.as_str())).map(|(_, count)| count).sum();
        if open + input.unaccounted > 0 {
            return Ok(kept(format!("{} ids are not accounted for", open + input.unaccounted)));
        }
        let backups = Backups::open(spec, cx.clock(), cx.entropy(), cx.cancelled())?;
        let store = backups.store();
        let failed = |error: &windlass_blob::BlobError| blob_failure(error, Some((&input.agent, &input.key)));
        // The name must be the same in every attempt, so it is noted before it is used.
        let to = match cx.last_checkpoint().and_then(|checkpoint| checkpoint.get("to")?.as_str()) {
            Some(to) => to.to_owned(),
            None => {
                let to = retired_key(&input.key, &spec.suffix, cx.clock().wall().as_nanosecond());
                cx.checkpoint(json!({ "to": to })).await?;
                to
            }
        };
        let before = store.try_head(&input.key).await.map_err(|error| failed(&error))?;
        let after = store.try_head(&to).await.map_err(|error| failed(&error))?;
        match (&before, &after) {
            (None, None) => return Ok(kept("somebody removed it meanwhile".into())),
            (Some(meta), _) if input.etag.is_some() && meta.etag != input.etag => {
                return Ok(kept("a newer backup has been written meanwhile: the agent is back".into()));
            }
            _ => {}
        }
        let receipt = json!({ "from": input.key, "to": to });
        cx.intend(vec![Intent {
            n: 0,
            action: "rename".into(),
            key: to.clone(),
            target: store.url().of_key(&input.key),
            parameters: receipt.clone(),
        }])
        .await?;
        if before.is_some() {
            cx.outside("rename", store.rename(&input.key, &to)).await?.map_err(|error| failed(&error))?;
        }
        cx.settle(0, EffectEvent::Made { external_id: Some(to.clone()), receipt: Some(receipt) }).await?;
        Ok(Retired { agent: input.agent.clone(), key: input.key.clone(), renamed_to: Some(to), kept_because: None })
    }
}

#[async_trait]
impl TaskType for RetireTask {
    fn name(&self) -> &'static str {
        RETIRE
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = RebalanceSpec::parse(cx.job_spec())?;
        let input: RetireInput =
            serde_json::from_value(cx.input().clone()).map_err(|error| bad_input("renaming", &error))?;
        let retired = Self::rename(cx, &spec, &input).await?;
        if let Some(why) = &retired.kept_because {
            cx.warn("backup_kept", format!("the backup {} of {} stays: {why}", retired.key, retired.agent)).await;
        }
        output("renaming", &retired)
    }

    async fn undo(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = RebalanceSpec::parse(cx.job_spec())?;
        let backups = Backups::open(&spec, cx.clock(), cx.entropy(), cx.cancelled())?;
        let store = backups.store();
        let Some(undo) = cx.undo() else { return Ok(Finished::default()) };
        let input: RetireInput =
            serde_json::from_value(undo.task.input.clone()).map_err(|error| bad_input("renaming", &error))?;
        let failed = |error: &windlass_blob::BlobError| blob_failure(error, Some((&input.agent, &input.key)));
        for effect in &undo.effects {
            // The effect's key is the new name; the old one is in the task's input.
            let (from, to) = (&effect.key, &input.key);
            let moved = store.try_head(from).await.map_err(|error| failed(&error))?;
            let there = store.try_head(to).await.map_err(|error| failed(&error))?;
            match (moved, there) {
                (Some(_), None) => {
                    cx.outside("rename back", store.rename(from, to)).await?.map_err(|error| failed(&error))?;
                }
                (Some(ours), Some(other)) if ours.size == other.size && ours.etag == other.etag => {
                    // A copy whose original was not removed yet.
                    cx.outside("remove copy", store.delete(from)).await?.map_err(|error| failed(&error))?;
                }
                (Some(_), Some(_)) => {
                    cx.warn("backup_left", format!("{from} keeps its name: there is another {to} by now")).await;
                }
                (None, _) => {}
            }
            cx.settle_undone(effect.n).await?;
        }
        Ok(Finished::default())
    }
}

// ---- finish ----

#[derive(Clone, Debug, Serialize, Deserialize)]
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

/// The last task of a job.
fn finish(cx: &TaskContext, configured: &Configured, predicted: f64) -> TaskSpec {
    let input = FinishInput { configured: configured.clone(), predicted };
    cx.new_task(FINISH, "job").input(serde_json::to_value(input).unwrap_or_default())
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
    fn a_retired_backup_keeps_its_suffix() {
        let ns = 1_700_000_000_000_000_000;
        assert_eq!(retired_key("vald-agent-2.tar.gz", ".tar.gz", ns), "vald-agent-2_1700000000000000000.tar.gz");
        assert_eq!(retired_key("a/vald-agent-2.bin", ".tar.gz", ns), "a/vald-agent-2.bin_1700000000000000000");
        assert_eq!(retired_key("vald-agent-2", "", ns), "vald-agent-2_1700000000000000000");
    }

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
