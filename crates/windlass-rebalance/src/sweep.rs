//! The task `rebalance.sweep`: what is still on the drained agents, among it what clients wrote there since the backup.
//!
//! Each sweep lists the live agents and adds moves for what it finds, and the next sweep after them, until nothing is
//! left or three sweeps in a row made no progress.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use windlass_engine::context::TaskContext;
use windlass_engine::kind::{Finished, TaskType};
use windlass_index_backup::{CopiesReader, Copy, is_movable};
use windlass_model::plan::TaskSpec;
use windlass_model::policy::Policy;
use windlass_model::progress::Progress;
use windlass_model::{Failure, TaskId};

use crate::agent::AgentClient;
use crate::backups::backup_failure;
use crate::calculate::{AgentInput, AgentState, Mode, PlanDocument, PlanRequest};
use crate::configure::{Configured, client_settings};
use crate::copies::{CopySorter, ScannedCopies};
use crate::finish::{bad_input, configured_by, finish, output, remember_moves, work_failed};
use crate::moves::IdListRef;
use crate::patience::patient;
use crate::plan_task::{Execution, Tasks, run_planner};
use crate::scan::list_agent;
use crate::spec::{Commit, RebalanceSpec};

/// The name of the task type that sweeps drained agents.
pub const SWEEP: &str = "rebalance.sweep";

/// Sweeps without progress after which the rest is left to a later recovery.
const STALLED: u32 = 3;

/// Ids left on a drained agent up to which every other agent is asked whether it holds them.
const MOST_ASKED: u64 = 100_000;

/// The input of a sweep, but for what stage 1 found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sweep {
    /// The task of stage 1.
    configure: TaskId,
    /// Counts from 1.
    round: u32,
    /// Copies that the sweep before found.
    remaining: Option<u64>,
    /// Sweeps in a row without progress.
    stalled: u32,
    /// What the plan predicted.
    predicted: f64,
}

impl Sweep {
    /// The sweep after a plan.
    pub(crate) fn first(execution: &Execution<'_>) -> Self {
        let predicted = execution.plan.spread_predicted;
        Self { configure: execution.configure, round: 1, remaining: None, stalled: 0, predicted }
    }

    /// The task that does it.
    pub(crate) fn task(&self, cx: &TaskContext) -> TaskSpec {
        let input = serde_json::json!({ "sweep": self });
        configured_by(cx.new_task(SWEEP, self.round.to_string()).input(input), self.configure)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SweepInput {
    configured: Configured,
    sweep: Sweep,
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

    fn policy(&self) -> Policy {
        patient()
    }

    async fn run(&self, cx: &TaskContext) -> Result<Finished, Failure> {
        let spec = RebalanceSpec::parse(cx.job_spec())?;
        let SweepInput { configured: began_with, sweep } =
            serde_json::from_value(cx.input().clone()).map_err(|error| bad_input("sweep", &error))?;
        let folder = cx.work_dir().join("copies").join(format!("sweep-{}", sweep.round));
        std::fs::create_dir_all(&folder).map_err(|error| work_failed("making a folder", &error))?;
        let mut configured = began_with.clone();
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
        let stalled = if sweep.remaining.is_some_and(|before| left >= before) { sweep.stalled + 1 } else { 0 };
        let last = left == 0 || stalled >= STALLED;
        let swept = Swept { round: sweep.round, remaining, last };
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
            finished.add.push(finish(cx, sweep.configure, sweep.predicted).requires(cx.spec().id));
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
        let plan = sweep_plan(cx, &spec, &configured, sweep.round, ask, files).await?;
        let (plan, lists) = (plan.0, plan.1);
        remember_moves(cx, &plan, &lists)?;
        let prefix = format!("sweep{}-", sweep.round);
        let configure = sweep.configure;
        let execution =
            Execution { spec: &spec, configure, configured: &began_with, plan: &plan, lists: &lists, prefix };
        let Tasks { tasks, last, .. } = execution.tasks(cx)?;
        let round = sweep.round + 1;
        let next = Sweep { round, remaining: Some(left), stalled, ..sweep }.task(cx);
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
